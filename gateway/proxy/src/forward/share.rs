//! What requests of one worker take of something that has a bound, and give back when they end.

use std::cell::Cell;
use std::rc::Rc;

/// How much of it is taken.
pub(super) type Taken = Rc<Cell<usize>>;

/// What one of them has taken, until it is dropped.
pub(super) struct Share {
    of: Taken,
    own: usize,
}

impl Share {
    /// Nothing yet.
    pub(super) fn of(taken: &Taken) -> Share {
        Share { of: taken.clone(), own: 0 }
    }

    /// Takes more where then at most `most` is taken in all; whether it did.
    #[must_use]
    pub(super) fn grow(&mut self, more: usize, most: usize) -> bool {
        let fits = self.of.get() + more <= most;
        if fits {
            self.of.set(self.of.get() + more);
            self.own += more;
        }
        fits
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.set(self.of.get() - self.own);
    }
}
