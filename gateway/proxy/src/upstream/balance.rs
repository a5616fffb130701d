use super::endpoint::EndpointTable;
use std::sync::atomic::{AtomicU64, Ordering};
use tidegate_model::LoadBalancer;

/// Picks an endpoint's index. `dice` is uniformly random, `turn` counts the round robin's picks.
///
/// Takes no lock and allocates nothing. With unequal weights:
/// - `LEAST_REQUEST` draws its two candidates by weight and takes the one with fewer active
///   requests per weight, so that an idle cluster follows the weights exactly;
/// - `ROUND_ROBIN` walks the weights by a golden-ratio sequence, which spreads each endpoint's
///   turns evenly without shared state beyond one counter.
pub(super) fn pick(
    policy: LoadBalancer,
    table: &EndpointTable,
    turn: &AtomicU64,
    dice: u64,
) -> Option<usize> {
    match table.len() {
        0 => None,
        1 => Some(0),
        n => Some(match policy {
            LoadBalancer::Random => draw(table, dice),
            LoadBalancer::LeastRequest => less_loaded(table, dice),
            LoadBalancer::RoundRobin => {
                let turn = turn.fetch_add(1, Ordering::Relaxed);
                match table.cumulative() {
                    None => (turn % n as u64) as usize,
                    Some(_) => draw(table, turn.wrapping_mul(GOLDEN)),
                }
            }
        }),
    }
}

/// 2^64 divided by the golden ratio, odd: its multiples fill the circle evenly at any length.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The index at `position` of the circle, each endpoint holding a share by its weight.
fn draw(table: &EndpointTable, position: u64) -> usize {
    match table.cumulative() {
        None => scale(position, table.len() as u64) as usize,
        Some(cumulative) => {
            let point = scale(position, cumulative.last().copied().unwrap_or(1));
            cumulative.partition_point(|&c| c <= point)
        }
    }
}

fn less_loaded(table: &EndpointTable, dice: u64) -> usize {
    let first = draw(table, dice);
    let again = mix(dice);
    let second = match table.cumulative() {
        Some(_) => draw(table, again),
        None => {
            let other = scale(again, table.len() as u64 - 1) as usize;
            if other >= first { other + 1 } else { other }
        }
    };
    let load = |a: usize, b: usize| u64::from(table.active(a)) * u64::from(table.weight(b));
    if load(second, first) < load(first, second) { second } else { first }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::endpoint::testing::table;

    const ALL: [LoadBalancer; 3] =
        [LoadBalancer::LeastRequest, LoadBalancer::RoundRobin, LoadBalancer::Random];

    fn counts(policy: LoadBalancer, weights: &[u32], picks: usize) -> Vec<usize> {
        let table = table(weights);
        let turn = AtomicU64::new(0);
        let mut random = fastrand::Rng::with_seed(7);
        let mut counts = vec![0; weights.len()];
        for _ in 0..picks {
            counts[pick(policy, &table, &turn, random.u64(..)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn no_endpoints_no_pick() {
        for policy in ALL {
            assert_eq!(pick(policy, &table(&[]), &AtomicU64::new(0), 1), None);
            assert_eq!(counts(policy, &[5], 10), [10]);
        }
    }

    #[test]
    fn idle_clusters_follow_the_weights() {
        for policy in ALL {
            for weights in [&[1, 1, 1, 1][..], &[90, 10], &[1, 2, 7], &[1, 1000, 1]] {
                let picks = 40_000;
                let total: u32 = weights.iter().sum();
                for (i, got) in counts(policy, weights, picks).into_iter().enumerate() {
                    let want = picks as f64 * f64::from(weights[i]) / f64::from(total);
                    let slack = picks as f64 * 0.01;
                    assert!((got as f64 - want).abs() < slack, "{policy:?} {weights:?}: {got} of {want}");
                }
            }
        }
    }

    #[test]
    fn round_robin_takes_turns() {
        assert_eq!(counts(LoadBalancer::RoundRobin, &[1, 1, 1], 9), [3, 3, 3]);
        let light = counts(LoadBalancer::RoundRobin, &[3, 1], 400)[1];
        assert!((98..=102).contains(&light), "{light}");
    }

    #[test]
    fn least_request_shuns_the_loaded() {
        let table = table(&[1, 1]);
        let _busy = [table.take(0), table.take(0)];
        for dice in 0..100u64 {
            let dice = dice.wrapping_mul(GOLDEN);
            assert_eq!(pick(LoadBalancer::LeastRequest, &table, &AtomicU64::new(0), dice), Some(1));
        }
    }

    #[test]
    fn least_request_weighs_the_load() {
        let table = table(&[9, 1]);
        let _busy = [0, 0, 0, 1].map(|i| table.take(i));
        let heavy = (0..1000u64)
            .filter(|d| pick(LoadBalancer::LeastRequest, &table, &AtomicU64::new(0), mix(*d)) == Some(0))
            .count();
        assert!(heavy > 970, "3 of weight 9 is less than 1 of weight 1: {heavy}");
    }
}
