use super::hash::hash;
use super::ring::Ring;
use super::*;
use tidegate_model::{ConsistentHash, HashKey};

const RING: HashTable = HashTable::Ring { minimum: 1024 };
const MAGLEV: HashTable = HashTable::Maglev { size: 65_537 };

fn hashing(table: HashTable) -> LoadBalancer {
    LoadBalancer::ConsistentHash(ConsistentHash { key: HashKey::SourceIp, table })
}

fn keys(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("10.0.{}.{}:8080", i / 250, i % 250)).collect()
}

fn balancer(policy: &LoadBalancer, weights: &[u64]) -> Balancer {
    let keys = keys(weights.len());
    let endpoints: Vec<_> = keys.iter().map(String::as_bytes).zip(weights.iter().copied()).collect();
    Balancer::new(policy, &endpoints).unwrap()
}

/// How often each endpoint is picked, none of them ever busy.
fn counts(policy: &LoadBalancer, weights: &[u64], picks: usize) -> Vec<usize> {
    let (balancer, turn) = (balancer(policy, weights), AtomicU64::new(0));
    let mut random = fastrand::Rng::with_seed(7);
    let mut counts = vec![0; weights.len()];
    for _ in 0..picks {
        counts[balancer.pick(&turn, random.u64(..), |_| 0)] += 1;
    }
    counts
}

/// By how much of what each endpoint should get the picks are off at most.
fn worst(counts: &[usize], weights: &[u64]) -> f64 {
    let (picks, total) = (counts.iter().sum::<usize>() as f64, weights.iter().sum::<u64>() as f64);
    let off = |(got, weight): (&usize, &u64)| {
        let want = picks * *weight as f64 / total;
        (*got as f64 - want).abs() / want
    };
    counts.iter().zip(weights).map(off).fold(0.0, f64::max)
}

#[test]
fn idle_clusters_follow_the_weights() {
    // the bound: 5 % of what an endpoint should get, over 100,000 picks; for a ring of 1024 points, whose arcs
    // differ, 60 % over all keys, and 15 % for one of 64 times as many
    let large = HashTable::Ring { minimum: 65_536 };
    for (policy, bound) in [
        (LoadBalancer::LeastRequest, 0.05),
        (LoadBalancer::RoundRobin, 0.05),
        (LoadBalancer::Random, 0.05),
        (hashing(MAGLEV), 0.05),
        (hashing(RING), 0.6),
        (hashing(large), 0.15),
    ] {
        for weights in [&[1; 4][..], &[90, 10], &[1, 2, 7], &[3, 50, 3], &[1; 10]] {
            let counts = counts(&policy, weights, 100_000);
            let worst = worst(&counts, weights);
            assert!(worst < bound, "{policy:?} {weights:?}: {counts:?}, {worst}");
        }
    }
}

#[test]
fn one_is_always_picked_and_none_never() {
    for policy in [LoadBalancer::LeastRequest, LoadBalancer::RoundRobin, hashing(RING), hashing(MAGLEV)] {
        assert!(Balancer::new(&policy, &[]).is_none());
        assert_eq!(counts(&policy, &[5], 10), [10]);
    }
}

#[test]
fn round_robin_takes_turns() {
    assert_eq!(counts(&LoadBalancer::RoundRobin, &[1, 1, 1], 9), [3, 3, 3]);
    let light = counts(&LoadBalancer::RoundRobin, &[3, 1], 400)[1];
    assert!((98..=102).contains(&light), "{light}");
}

#[test]
fn least_request_shuns_the_loaded() {
    let turn = AtomicU64::new(0);
    let two = balancer(&LoadBalancer::LeastRequest, &[1, 1]);
    let busy = |i| if i == 0 { 2 } else { 0 };
    assert!((0..100).all(|i| two.pick(&turn, mix(i), busy) == 1));
    // of 100, one has ten times the load of the others: it is picked only against itself, which never is
    let many = balancer(&LoadBalancer::LeastRequest, &[1; 100]);
    assert!((0..10_000).all(|i| many.pick(&turn, mix(i), |e| if e == 42 { 10 } else { 1 }) != 42));
    // load counts per weight: 10 requests at weight 10 are less than 2 at weight 1
    let weighted = balancer(&LoadBalancer::LeastRequest, &[10, 1]);
    let light = (0..10_000).filter(|i| weighted.pick(&turn, mix(*i), |e| [10, 2][e]) == 1).count();
    // only where both draws fall on it: 1 of 121
    assert!((40..140).contains(&light), "{light}");
}

/// A tail that is far above the mean is what random choice alone has, and two choices have not.
#[test]
fn least_request_keeps_the_longest_queue_short() {
    let balanced = |policy: &LoadBalancer| {
        let (balancer, turn) = (balancer(policy, &[1; 100]), AtomicU64::new(0));
        let mut random = fastrand::Rng::with_seed(3);
        let mut load = vec![0u32; 100];
        for _ in 0..10_000 {
            let picked = balancer.pick(&turn, random.u64(..), |i| load[i]);
            load[picked] += 1;
        }
        load.into_iter().max().unwrap()
    };
    let (two, one) = (balanced(&LoadBalancer::LeastRequest), balanced(&LoadBalancer::Random));
    assert!(two <= 103 && one >= 115, "{two} of two choices, {one} of one, where 100 is the mean");
}

#[test]
fn a_key_stays_with_its_endpoint() {
    for (table, others) in [(RING, 0), (MAGLEV, 600)] {
        let policy = hashing(table);
        let (ten, nine) = (keys(10), keys(9));
        let made = |keys: &[String]| {
            let endpoints: Vec<_> = keys.iter().map(|k| (k.as_bytes(), 1)).collect();
            Balancer::new(&policy, &endpoints).unwrap()
        };
        let turn = AtomicU64::new(0);
        let at = |b: &Balancer, i: u32| b.pick(&turn, hash(&i.to_le_bytes()), |_| 0);
        let (before, same, after) = (made(&ten), made(&ten), made(&nine));
        let mut moved = 0;
        for i in 0..10_000 {
            assert_eq!(at(&before, i), at(&same, i));
            moved += usize::from(at(&before, i) != 9 && at(&before, i) != at(&after, i));
        }
        // of 10,000 keys, beside those of the endpoint that went
        assert!(moved <= others, "{table:?}: {moved}");
    }
}

#[test]
fn the_ring_is_as_large_as_it_must_be() {
    let keys = keys(3);
    let ring = |weights: [u64; 3], minimum| {
        let endpoints: Vec<_> = keys.iter().map(String::as_bytes).zip(weights).collect();
        Ring::bounded(&endpoints, minimum, 4096).len()
    };
    assert_eq!(ring([1, 1, 1], 1024), 512 * 3);
    assert_eq!(ring([1, 1, 1], 1), 3);
    assert_eq!(ring([1, 1, 2], 1024), 1024);
    let skewed = ring([1, 1, 1 << 30], 1024);
    assert!((4096 - 3..=4096 + 3).contains(&skewed), "{skewed}");
}

#[test]
fn hashes_are_the_same_everywhere() {
    assert_eq!(hash(b""), 0xC381_7C01_6BA4_FF30);
    assert_eq!(hash(b"bar"), hash(b"bar"));
    let spread: std::collections::BTreeSet<u64> =
        (0..4096u32).map(|i| hash(&i.to_le_bytes()) >> 52).collect();
    // 4096 keys into 4096 places: 63 % of them are taken when keys fall anywhere
    assert!((2450..2730).contains(&spread.len()), "{}", spread.len());
}
