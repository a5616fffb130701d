//! How much memory the streams of one connection may take in all. Each may have a header list as long as the limit allows,
//! and a whole buffer for an answer that its client does not take, but not every stream of a hundred.

use crate::forward::stall;
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

/// How many streams of a connection may wait for their client and keep whole buffers.
const ROOMY: usize = 2;

/// The streams of a connection whose answers wait for the client to take them.
#[derive(Default)]
pub(super) struct Stalls(Cell<usize>);

/// One of them, until it is dropped.
pub(super) struct Stall<'s> {
    stalls: &'s Stalls,
    _of_worker: stall::Stall,
}

impl Stalls {
    /// One more.
    pub(super) fn begin(&self) -> Stall<'_> {
        self.0.set(self.0.get() + 1);
        Stall { stalls: self, _of_worker: stall::Stall::begin() }
    }

    /// Whether they, or those of the worker, are so many that no more of an answer is to be held than must be.
    pub(super) fn are_many(&self) -> bool {
        self.0.get() > ROOMY || stall::are_many()
    }
}

impl Drop for Stall<'_> {
    fn drop(&mut self) {
        self.stalls.0.set(self.stalls.0.get() - 1);
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

    #[test]
    fn streams_stall_until_they_are_dropped() {
        let stalls = Stalls::default();
        let mut held: Vec<_> = (0..ROOMY).map(|_| stalls.begin()).collect();
        assert!(!stalls.are_many());
        held.push(stalls.begin());
        assert!(stalls.are_many());
        held.pop();
        assert!(!stalls.are_many());
    }
}
