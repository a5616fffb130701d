//! How one of several endpoints is picked: what can be worked out before is, and a pick takes no
//! lock and allocates nothing.

mod hash;
mod least_request;
mod maglev;
mod ring;
mod round_robin;
mod weights;

#[cfg(test)]
mod tests;

pub(crate) use hash::hash;
use maglev::Maglev;
use ring::Ring;
use std::sync::atomic::{AtomicU64, Ordering};
use tidegate_model::{HashTable, LoadBalancer};
use weights::Weights;

/// 2^64 divided by the golden ratio, odd: its multiples fill the circle evenly at any length.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A policy, made ready for some endpoints.
pub(super) struct Balancer(Prepared);

enum Prepared {
    /// There is but one.
    Only,
    LeastRequest(Weights),
    RoundRobin(Weights),
    Random(Weights),
    Ring(Ring),
    Maglev(Maglev),
}

impl Balancer {
    /// For endpoints with these keys, by which hashing knows them, and weights; `None` when there are none.
    pub(super) fn new(policy: &LoadBalancer, endpoints: &[(&[u8], u64)]) -> Option<Self> {
        let weights = || Weights::new(&endpoints.iter().map(|(_, weight)| *weight).collect::<Vec<_>>());
        Some(Balancer(match (endpoints.len(), policy) {
            (0, _) => return None,
            (1, _) => Prepared::Only,
            (_, LoadBalancer::LeastRequest) => Prepared::LeastRequest(weights()),
            (_, LoadBalancer::RoundRobin) => Prepared::RoundRobin(weights()),
            (_, LoadBalancer::Random) => Prepared::Random(weights()),
            (_, LoadBalancer::ConsistentHash(hash)) => match hash.table {
                HashTable::Ring { minimum } => Prepared::Ring(Ring::new(endpoints, minimum)),
                HashTable::Maglev { size } => Prepared::Maglev(Maglev::new(endpoints, size)),
            },
        }))
    }

    /// Picks an endpoint's index. `dice` is uniformly random, or the hash of the key; `turn` counts the
    /// round robin's picks; `active` says how many requests an endpoint has.
    pub(super) fn pick(&self, turn: &AtomicU64, dice: u64, active: impl Fn(usize) -> u32) -> usize {
        match &self.0 {
            Prepared::Only => 0,
            Prepared::LeastRequest(weights) => least_request::pick(weights, dice, active),
            Prepared::RoundRobin(weights) => round_robin::pick(weights, turn.fetch_add(1, Ordering::Relaxed)),
            Prepared::Random(weights) => weights.draw(dice),
            Prepared::Ring(ring) => ring.pick(dice),
            Prepared::Maglev(table) => table.pick(dice),
        }
    }
}

/// Picks among groups of endpoints by their shares.
#[derive(Default)]
pub(super) struct Shares(Weights);

impl Shares {
    pub(super) fn new(shares: &[u64]) -> Self {
        Shares(Weights::new(shares))
    }

    pub(super) fn draw(&self, dice: u64) -> usize {
        // what is drawn with the same number afterwards must not depend on it
        self.0.draw(mix(!dice))
    }
}

/// `value / 2^64 * range`, rounded down.
fn scale(value: u64, range: u64) -> u64 {
    ((u128::from(value) * u128::from(range)) >> 64) as u64
}

/// A second random number from the first (the finalizer of SplitMix64).
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(GOLDEN);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
