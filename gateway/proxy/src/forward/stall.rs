//! Responses that wait for their clients. A few of a worker's may hold whole buffers meanwhile; where there are many, each
//! holds little.

use std::cell::Cell;

/// How many responses of a worker may wait for their clients and keep whole buffers.
const ROOMY: usize = 64;

thread_local! {
    static STALLS: Cell<usize> = const { Cell::new(0) };
}

/// A response that waits for its client, until it is dropped.
pub(crate) struct Stall(());

impl Stall {
    /// One more.
    pub(crate) fn begin() -> Self {
        STALLS.set(STALLS.get() + 1);
        Stall(())
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        STALLS.set(STALLS.get() - 1);
    }
}

/// Whether they are so many that no more of a response is to be held than must be.
pub(crate) fn are_many() -> bool {
    STALLS.get() > ROOMY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_stall_until_they_are_dropped() {
        let mut held: Vec<_> = (0..ROOMY).map(|_| Stall::begin()).collect();
        assert!(!are_many());
        held.push(Stall::begin());
        assert!(are_many());
        held.pop();
        assert!(!are_many());
    }
}
