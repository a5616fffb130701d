use super::super::outlier::testing::rule;
use super::super::testing::cluster;
use super::*;
use std::net::SocketAddr;
use tidegate_model::{ConsistentHash, HashKey, HashTable};

fn member(i: u16, priority: u32, created: Millis) -> Arc<Member> {
    let address = SocketAddr::from(([10, 0, 0, 1], 1000 + i));
    let (workload, locality) = (Arc::default(), None);
    let endpoint = Endpoint::created(address, created);
    Arc::new(Member {
        endpoint,
        name: None,
        weight: 1,
        priority,
        place: Locality::default(),
        locality,
        workload,
    })
}

/// The share of each port's last digit, in percent.
fn shares(table: &EndpointTable) -> Vec<u32> {
    let (turn, mut random) = (AtomicU64::new(0), fastrand::Rng::with_seed(11));
    let mut counts = vec![0u32; table.members().len()];
    for _ in 0..20_000 {
        if let Some(pick) = table.pick(&turn, random.u64(..)) {
            counts[usize::from(pick.address.port() - 1000)] += 1;
        }
    }
    counts.into_iter().map(|n| (n + 100) / 200).collect()
}

fn near(got: &[u32], want: &[u32]) -> bool {
    got.len() == want.len() && got.iter().zip(want).all(|(g, w)| g.abs_diff(*w) <= 2)
}

#[test]
fn who_is_left_out_gets_nothing_before_and_after_the_table_is_made_again() {
    let mut config = cluster("a");
    config.outlier_detection = Some(rule());
    let members: Arc<[_]> = (0..3).map(|i| member(i, 0, Millis(0))).collect();
    let table = EndpointTable::new(members.clone(), &config, Millis(0));
    assert!(near(&shares(&table), &[33, 33, 33]));
    members[1].endpoint.health.eject(Millis(0));
    assert_eq!(shares(&table)[1], 0, "at once");
    let again = EndpointTable::new(members.clone(), &config, Millis(0));
    assert!(near(&shares(&again), &[50, 0, 50]));
    members[0].endpoint.health.eject(Millis(0));
    members[2].endpoint.health.eject(Millis(0));
    for table in [&again, &EndpointTable::new(members.clone(), &config, Millis(0))] {
        assert!(table.pick(&AtomicU64::new(0), 7).is_none(), "all are left out");
        assert!(table.pick_other(&AtomicU64::new(0), 7, &[]).is_none());
    }
    // with a threshold for it, all of them are better than none
    config.outlier_detection = Some(OutlierDetection { min_health_percent: 34, ..rule() });
    let panicking = EndpointTable::new(members.clone(), &config, Millis(0));
    assert!(near(&shares(&panicking), &[33, 33, 33]));
    // who has no detection sees no health
    config.outlier_detection = None;
    members.iter().for_each(|m| m.endpoint.health.clear());
    assert!(near(&shares(&EndpointTable::new(members, &config, Millis(0))), &[33, 33, 33]));
}

#[test]
fn requests_go_to_the_next_priority_when_the_first_fails() {
    let mut config = cluster("a");
    config.outlier_detection = Some(rule());
    let members: Arc<[_]> = [0, 0, 1, 1].iter().zip(0..).map(|(p, i)| member(i, *p, Millis(0))).collect();
    let made = || EndpointTable::new(members.clone(), &config, Millis(0));
    assert!(near(&shares(&made()), &[50, 50, 0, 0]));
    members[0].endpoint.health.eject(Millis(0));
    assert!(near(&shares(&made()), &[0, 70, 15, 15]), "{:?}", shares(&made()));
    members[1].endpoint.health.eject(Millis(0));
    assert!(near(&shares(&made()), &[0, 0, 50, 50]));
}

#[test]
fn a_key_whose_endpoints_were_tried_has_another_one_and_always_the_same() {
    let members: Arc<[_]> = (0..9).map(|i| member(i, 0, Millis(0))).collect();
    for table in [HashTable::Ring { minimum: 1024 }, HashTable::Maglev { size: 251 }] {
        let mut config = cluster("a");
        let key = HashKey::SourceIp;
        config.load_balancer = LoadBalancer::ConsistentHash(ConsistentHash { key, table });
        let table = EndpointTable::new(members.clone(), &config, Millis(0));
        let (turn, mut random) = (AtomicU64::new(0), fastrand::Rng::with_seed(5));
        for hash in std::iter::repeat_with(|| random.u64(..)).take(200) {
            let first = table.pick(&turn, hash).unwrap().id();
            assert_eq!(table.pick_other(&turn, hash, &[]).unwrap().id(), first);
            let second = table.pick_other(&turn, hash, &[first]).unwrap().id();
            assert_ne!(second, first);
            assert_eq!(table.pick_other(&turn, hash, &[first]).unwrap().id(), second);
            let all: Vec<_> = members.iter().map(|m| m.endpoint.id).collect();
            let last = all.iter().find(|id| **id != first).unwrap();
            let others: Vec<_> = all.iter().filter(|id| *id != last).copied().collect();
            assert_eq!(table.pick_other(&turn, hash, &others).unwrap().id(), *last, "while there is another");
            assert!(table.pick_other(&turn, hash, &all).is_some());
        }
    }
}

#[test]
fn new_endpoints_warm_up() {
    let mut config = cluster("a");
    let warmup = Warmup { duration: Duration::from_secs(100), minimum: 100_000, aggression: 1000 };
    config.warmup = Some(warmup.clone());
    let members: Arc<[_]> =
        [0, 0, 200].iter().zip(0..).map(|(s, i)| member(i, 0, Millis(s * 1000))).collect();
    for policy in [LoadBalancer::LeastRequest, LoadBalancer::RoundRobin] {
        config.load_balancer = policy;
        for (second, new) in [(201, 10), (205, 10), (220, 20), (250, 50), (290, 90), (300, 100), (400, 100)] {
            let table = EndpointTable::new(members.clone(), &config, Millis(second * 1000));
            let want = [100, 100, new].map(|weight| (weight * 100 + new / 2) / (200 + new));
            assert!(near(&shares(&table), &want), "{second}: {:?} {want:?}", shares(&table));
            assert_eq!(table.is_warming(&warmup, Millis(second * 1000)), second < 300);
        }
    }
    let steep = Warmup { aggression: 2000, ..warmup };
    assert!((share(&steep, Duration::from_secs(25)) - 0.5).abs() < 0.001, "the square root of a quarter");
}
