//! How many retries a cluster takes: counters that all workers share, looked at when there is
//! something to retry.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tidegate_model::RetryBudget;

/// The parts of an interval; one that is over is forgotten as a whole.
const SLOTS: usize = 10;

/// A cluster's retries.
#[derive(Default)]
pub(super) struct Retries {
    /// Requests whose try is not their first.
    under_way: AtomicU32,
    window: Window,
}

impl Retries {
    /// Counts a request, where the budget looks back in time.
    pub(super) fn count_request(&self, budget: RetryBudget, now: Instant) {
        if let RetryBudget::Share { interval, .. } = budget
            && !interval.is_zero()
        {
            self.window.slot(tick(now, interval)).requests.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Begins a retry if the budget allows it; `requests` are those under way, this one and those
    /// that are retried included.
    pub(super) fn begin(
        self: &Arc<Self>,
        budget: RetryBudget,
        now: Instant,
        requests: impl FnOnce() -> u32,
    ) -> Option<RetryPermit> {
        let permit = RetryPermit(self.clone());
        let others = self.under_way.fetch_add(1, Ordering::Relaxed);
        let allowed = match budget {
            RetryBudget::Unlimited => true,
            RetryBudget::Concurrent(most) => others < most,
            RetryBudget::Share { millionths, min_concurrency, interval } => {
                let (first, again) = if interval.is_zero() {
                    (requests().saturating_sub(others + 1), others + 1)
                } else {
                    let (requests, retries) = self.window.sums(tick(now, interval));
                    (requests, retries + 1)
                };
                // measured by first tries, so that what fails always has no more than this share on top
                let within = u64::from(again) * 1_000_000 <= u64::from(millionths) * u64::from(first);
                others < min_concurrency || within
            }
        };
        if let RetryBudget::Share { interval, .. } = budget
            && allowed
            && !interval.is_zero()
        {
            self.window.slot(tick(now, interval)).retries.fetch_add(1, Ordering::Relaxed);
        }
        allowed.then_some(permit)
    }
}

/// A retry that the budget allowed, counted until it is dropped.
pub(crate) struct RetryPermit(Arc<Retries>);

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Requests and retries by the time at which they began. Counts of the moment in which a slot is
/// taken over may be lost.
#[derive(Default)]
struct Window([Slot; SLOTS]);

#[derive(Default)]
struct Slot {
    /// Which part of time it counts.
    tick: AtomicU64,
    requests: AtomicU32,
    retries: AtomicU32,
}

impl Window {
    /// The slot of a tick, empty when it was another's.
    fn slot(&self, tick: u64) -> &Slot {
        let slot = &self.0[(tick % SLOTS as u64) as usize];
        let old = slot.tick.load(Ordering::Relaxed);
        if old != tick && slot.tick.compare_exchange(old, tick, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            slot.requests.store(0, Ordering::Relaxed);
            slot.retries.store(0, Ordering::Relaxed);
        }
        slot
    }

    /// Requests and retries of the interval that ends with a tick.
    fn sums(&self, tick: u64) -> (u32, u32) {
        let recent = |slot: &&Slot| {
            let of = slot.tick.load(Ordering::Relaxed);
            of <= tick && tick - of < SLOTS as u64
        };
        self.0.iter().filter(recent).fold((0, 0), |(requests, retries), slot| {
            (requests + slot.requests.load(Ordering::Relaxed), retries + slot.retries.load(Ordering::Relaxed))
        })
    }
}

/// The number of a moment's part of time, never 0.
fn tick(now: Instant, interval: Duration) -> u64 {
    static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
    let slot = (interval / SLOTS as u32).max(Duration::from_micros(1));
    let passed = now.saturating_duration_since(*BEGINNING);
    u64::try_from(passed.as_nanos() / slot.as_nanos()).unwrap_or(u64::MAX - 1) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(percent: u32, min_concurrency: u32, interval: u64) -> RetryBudget {
        RetryBudget::Share {
            millionths: percent * 10_000,
            min_concurrency,
            interval: Duration::from_millis(interval),
        }
    }

    /// How many retries begin when so many requests fail at the same time.
    fn begun(budget: RetryBudget, requests: u32) -> usize {
        let retries = Arc::new(Retries::default());
        let now = Instant::now();
        let permits: Vec<_> = (0..requests).filter_map(|_| retries.begin(budget, now, || requests)).collect();
        let begun = permits.len();
        drop(permits);
        assert_eq!(retries.under_way.load(Ordering::Relaxed), 0);
        begun
    }

    #[test]
    fn retries_at_the_same_time() {
        for (budget, requests, expected) in [
            (RetryBudget::Unlimited, 100, 100),
            (RetryBudget::Concurrent(7), 100, 7),
            (RetryBudget::Concurrent(7), 5, 5),
            (RetryBudget::default(), 1, 1),
            (RetryBudget::default(), 10, 3),
            (RetryBudget::default(), 18, 3),
            (RetryBudget::default(), 24, 4),
            // 16 on top of 84
            (RetryBudget::default(), 100, 16),
            (share(0, 0, 0), 100, 0),
            (share(0, 3, 0), 100, 3),
            (share(100, 0, 0), 100, 50),
        ] {
            assert_eq!(begun(budget, requests), expected, "{budget:?} {requests}");
        }
    }

    #[test]
    fn retries_of_an_interval() {
        let budget = share(10, 1, 1000);
        let retries = Arc::new(Retries::default());
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        for ms in 0..100 {
            retries.count_request(budget, at(ms));
        }
        // one after the other, so that never more than one is under way
        let begin = |ms, hold: &mut Vec<RetryPermit>| {
            let permit = retries.begin(budget, at(ms), || unreachable!("it looks back in time"));
            let begun = permit.is_some();
            hold.extend(permit);
            begun
        };
        let mut held = Vec::new();
        let all: usize = (0..50).map(|_| usize::from(begin(200, &mut held))).sum();
        assert_eq!(all, 10, "10 of 100");
        held.clear();
        assert!(begin(900, &mut held), "one is always allowed");
        assert!(!begin(900, &mut held));
        for ms in 1500..1600 {
            retries.count_request(budget, at(ms));
        }
        assert!(begin(1600, &mut held), "of the new ones");
        assert!(!begin(9000, &mut held), "all of it is long ago");
    }
}
