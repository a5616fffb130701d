//! Histograms with Istio's buckets (Istio 2.18), counted by one thread and read by any.

use std::sync::atomic::{AtomicU64, Ordering};

const BUCKETS: usize = 19;
/// Upper bounds, in halves of what is measured.
const BOUNDS: [u64; BUCKETS] = [
    1, 2, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 60_000, 120_000, 600_000,
    1_200_000, 3_600_000, 7_200_000,
];

/// Counts of one thread. `UNIT` is how many of its values are one of what is measured.
#[derive(Default)]
pub(super) struct Histogram<const UNIT: u64> {
    /// By bucket, not cumulative; the last is beyond every bound.
    counts: [AtomicU64; BUCKETS + 1],
    sum: AtomicU64,
}

impl<const UNIT: u64> Histogram<UNIT> {
    /// Counts a value. To be called by one thread alone.
    pub(super) fn count(&self, value: u64) {
        let bucket = BOUNDS.partition_point(|bound| *bound * UNIT < value.saturating_mul(2));
        add(&self.counts[bucket], 1);
        add(&self.sum, value);
    }
}

/// Adds to what only this thread writes.
pub(super) fn add(cell: &AtomicU64, value: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
}

/// Histograms of several threads, added up.
#[derive(Default)]
pub(super) struct Total<const UNIT: u64> {
    counts: [u64; BUCKETS + 1],
    sum: u64,
}

impl<const UNIT: u64> Total<UNIT> {
    pub(super) fn add(&mut self, one: &Histogram<UNIT>) {
        for (sum, count) in self.counts.iter_mut().zip(&one.counts) {
            *sum += count.load(Ordering::Relaxed);
        }
        self.sum = self.sum.wrapping_add(one.sum.load(Ordering::Relaxed));
    }

    /// How many values there were.
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How many values were at most so large, by the bounds of the buckets.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut cumulative = 0;
        BOUNDS.iter().zip(&self.counts).map(move |(bound, count)| {
            cumulative += count;
            (*bound as f64 / 2.0, cumulative)
        })
    }

    /// All values together.
    pub(super) fn sum(&self) -> f64 {
        self.sum as f64 / UNIT as f64
    }
}
