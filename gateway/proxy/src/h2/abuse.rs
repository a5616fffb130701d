//! What a client may do that costs us more than it: resetting requests as soon as they are sent
//! (CVE-2023-44487, and CVE-2025-8671, where it has us reset them), and frames that ask for
//! nothing.

use super::budget::{Heads, Stalls};
use std::cell::Cell;
use std::time::{Duration, Instant};

/// A stream that the client gives up sooner than this was not waited for.
const SOON: Duration = Duration::from_secs(1);
/// How many such streams are too many where they are also most of them, as in Envoy.
const PREMATURE: u32 = 250;
/// How many frames that ask for nothing may come in [`WINDOW`].
const IDLE_FRAMES: u32 = 10_000;
const WINDOW: Duration = Duration::from_secs(2);

/// How the streams of one connection ended.
#[derive(Default)]
pub(super) struct Ends {
    all: Cell<u32>,
    premature: Cell<u32>,
    /// Memory of those that are open.
    pub(super) heads: Heads,
    /// Those whose answers the client does not take.
    pub(super) stalls: Stalls,
}

impl Ends {
    /// A stream has ended; after so long where that was the client's doing.
    pub(super) fn count(&self, given_up: Option<Duration>) {
        self.all.set(self.all.get().saturating_add(1));
        if given_up.is_some_and(|lived| lived < SOON) {
            self.premature.set(self.premature.get().saturating_add(1));
        }
    }

    /// Whether most streams were given up at once, and many.
    pub(super) fn are_abuse(&self) -> bool {
        self.premature.get() >= PREMATURE && self.premature.get() > self.all.get() / 2
    }
}

/// Counts frames that ask for nothing: no clock is looked at before there are many.
#[derive(Default)]
pub(super) struct IdleFrames {
    count: u32,
    since: Option<Instant>,
}

impl IdleFrames {
    /// One more; true when they are too many for their time.
    pub(super) fn flood(&mut self) -> bool {
        self.count += 1;
        if self.count < IDLE_FRAMES {
            return false;
        }
        self.count = 0;
        let now = Instant::now();
        let before = self.since.replace(now);
        before.is_some_and(|before| now.saturating_duration_since(before) < WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_given_up_at_once_are_abuse_when_they_are_many_and_most() {
        let (soon, late) = (Duration::from_millis(10), Duration::from_secs(2));
        for (given_up, kept, lived, abuse) in [
            (PREMATURE, 0, soon, true),
            (PREMATURE - 1, 0, soon, false),
            (PREMATURE, PREMATURE - 1, soon, true),
            (PREMATURE, PREMATURE + 1, soon, false),
            (10 * PREMATURE, 0, late, false),
        ] {
            let ends = Ends::default();
            (0..given_up).for_each(|_| ends.count(Some(lived)));
            (0..kept).for_each(|_| ends.count(None));
            assert_eq!(ends.are_abuse(), abuse, "{given_up} {kept} {lived:?}");
        }
    }

    #[test]
    fn frames_that_ask_for_nothing_may_not_come_too_fast() {
        let mut fast = IdleFrames::default();
        assert!((0..2 * IDLE_FRAMES).any(|_| fast.flood()));
        let mut slow = IdleFrames::default();
        for _ in 0..5 {
            assert!(!(0..IDLE_FRAMES).any(|_| slow.flood()));
            slow.since = slow.since.map(|s| s - WINDOW);
        }
    }
}
