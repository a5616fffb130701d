use super::rule::Accepted;
use ahash::AHashMap;
use aws_lc_rs::digest::{SHA256, digest};
use std::cell::RefCell;
use std::sync::Arc;

/// Half of the tokens that a worker remembers.
const HALF: usize = 512;
/// The longest token that is remembered, in bytes.
const LONGEST: usize = 4 << 10;

/// Tokens whose signatures a worker has verified, so that each costs that once. Two halves: when the newer one is full,
/// the older one is forgotten.
#[derive(Default)]
pub(crate) struct TokenCache(RefCell<Halves>);

#[derive(Default)]
struct Halves {
    newer: AHashMap<Key, Arc<Accepted>>,
    older: AHashMap<Key, Arc<Accepted>>,
}

/// The rule, its key set and the token, so that other keys make another key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    rule: u64,
    keys: u64,
    token: [u8; 32],
}

impl TokenCache {
    pub(super) fn key(rule: u64, keys: u64, token: &[u8]) -> Key {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token).as_ref());
        Key { rule, keys, token: hash }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Accepted>> {
        let mut halves = self.0.borrow_mut();
        if let Some(known) = halves.newer.get(key) {
            return Some(known.clone());
        }
        let known = halves.older.remove(key)?;
        halves.put(key.clone(), known.clone());
        Some(known)
    }

    pub(super) fn put(&self, key: Key, token: &Arc<Accepted>, length: usize) {
        if length <= LONGEST {
            self.0.borrow_mut().put(key, token.clone());
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let halves = self.0.borrow();
        halves.newer.len() + halves.older.len()
    }
}

impl Halves {
    fn put(&mut self, key: Key, token: Arc<Accepted>) {
        if self.newer.len() >= HALF {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key, token);
    }
}
