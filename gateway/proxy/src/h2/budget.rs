//! How much memory the heads of one connection's requests may take in all: each stream may have a list as long as
//! the limit allows, but not every stream of a hundred.

use std::cell::Cell;

/// The most bytes of heads that are held at once.
const MOST: usize = 1 << 20;

/// What the heads of a connection's open streams take.
#[derive(Default)]
pub(super) struct Heads(Cell<usize>);

/// What one of them takes, until it is dropped.
pub(super) struct Head<'h> {
    heads: &'h Heads,
    bytes: usize,
}

impl Heads {
    /// Takes the memory for a head; `None` when that is too much.
    pub(super) fn take(&self, bytes: usize) -> Option<Head<'_>> {
        let all = self.0.get().saturating_add(bytes);
        (all <= MOST).then(|| {
            self.0.set(all);
            Head { heads: self, bytes }
        })
    }
}

impl Drop for Head<'_> {
    fn drop(&mut self) {
        self.heads.0.set(self.heads.0.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_share_one_budget_and_give_it_back() {
        let heads = Heads::default();
        let mut held: Vec<_> = (0..32).filter_map(|_| heads.take(MOST / 32)).collect();
        assert_eq!(held.len(), 32);
        assert!(heads.take(1).is_none() && heads.take(usize::MAX).is_none());
        held.pop();
        assert!(heads.take(MOST / 32).is_some());
        drop(held);
        assert_eq!(heads.0.get(), 0);
    }
}
