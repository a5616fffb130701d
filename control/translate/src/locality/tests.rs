use super::*;
use tidegate_model::Address;

fn endpoint(locality: &str, weight: u32, labels: &[(&str, &str)]) -> Endpoint {
    let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>();
    Endpoint {
        address: Address::Socket(([10, 0, 0, 1], 80).into()),
        weight,
        workload: "".into(),
        labels: labels.into(),
        locality: parse(locality, '/'),
        priority: 0,
        locality_weight: None,
    }
}

fn client(locality: &str) -> BTreeMap<String, String> {
    [(LOCALITY.to_owned(), locality.replace('/', ".")), ("tier".to_owned(), "gold".to_owned())].into()
}

fn failover(from: &str, to: &str) -> LocalityFailover {
    LocalityFailover { from: Some(from.into()), to: Some(to.into()) }
}

const PLACES: [&str; 6] = ["r1/z1/s1", "r1/z1/s2", "r1/z2/s1", "r2/z1/s1", "r3/z9/s9", ""];

#[test]
fn priorities_by_locality() {
    let with = |failover: &[LocalityFailover]| LocalityLoadBalancerSetting {
        failover: failover.to_vec(),
        ..LocalityLoadBalancerSetting::default()
    };
    let off = LocalityLoadBalancerSetting { enabled: Some(false), ..LocalityLoadBalancerSetting::default() };
    let to_r3 = with(&[failover("r1", "r3")]);
    let elsewhere = with(&[failover("r2", "r3")]);
    for (here, setting, on, expected) in [
        ("r1/z1/s1", None, true, [0, 1, 2, 3, 3, 3]),
        ("r1/z1/s1", None, false, [0; 6]),
        ("r1/z1/s1", Some(&off), true, [0; 6]),
        ("r1/z1/s1", Some(&to_r3), true, [0, 1, 2, 4, 3, 4]),
        ("r1/z1/s1", Some(&elsewhere), true, [0, 1, 2, 3, 3, 3]),
        // without gaps
        ("r4/z1/s1", None, true, [0; 6]),
        ("r2/z7/s1", None, true, [1, 1, 1, 0, 1, 1]),
        ("", None, true, [1, 1, 1, 1, 1, 0]),
    ] {
        let mut endpoints = PLACES.map(|place| endpoint(place, 1, &[]));
        apply(&mut endpoints, setting, &client(here), on);
        assert_eq!(endpoints.map(|e| e.priority), expected, "{here} {setting:?}");
    }
}

#[test]
fn priorities_by_labels() {
    let with = |labels: &[&str], failover: Vec<LocalityFailover>| LocalityLoadBalancerSetting {
        failover_priority: labels.iter().map(|l| (*l).to_owned()).collect(),
        failover,
        ..LocalityLoadBalancerSetting::default()
    };
    let region = "topology.kubernetes.io/region";
    for (setting, expected) in [
        (with(&["tier"], vec![]), [0, 1, 0, 1]),
        (with(&["tier=silver"], vec![]), [1, 0, 1, 1]),
        (with(&["tier", region], vec![]), [0, 2, 1, 2]),
        (with(&[region, "tier"], vec![]), [0, 1, 2, 2]),
        (with(&["missing", "tier"], vec![]), [0, 1, 0, 1]),
        // and by locality within
        (with(&["tier"], vec![failover("r1", "r2")]), [0, 2, 1, 3]),
    ] {
        let mut endpoints = [
            endpoint("r1/z1/s1", 1, &[("tier", "gold")]),
            endpoint("r1/z1/s1", 1, &[("tier", "silver")]),
            endpoint("r2/z1/s1", 1, &[("tier", "gold")]),
            endpoint("r2/z1/s1", 1, &[]),
        ];
        apply(&mut endpoints, Some(&setting), &client("r1/z1/s1"), true);
        assert_eq!(endpoints.map(|e| e.priority), expected, "{:?}", setting.failover_priority);
    }
}

#[test]
fn shares_of_localities() {
    let rule = |from: &str, to: &[(&str, u32)]| LocalityDistribute {
        from: Some(from.into()),
        to: to.iter().map(|(name, share)| ((*name).to_owned(), *share)).collect(),
    };
    let none = [None; 6];
    let some = |weights: [u32; 6]| weights.map(Some);
    for (distribute, expected) in [
        (vec![rule("r2/*", &[("r1/*", 100)])], none),
        (vec![rule("r1/z1/*", &[("r1/z1/*", 80), ("r2/*", 20)])], some([400_000, 400_000, 0, 200_000, 0, 0])),
        // the first rule that covers the client, and the most specific name in it
        (
            vec![rule("*", &[("r1/z1/s1", 70), ("r1/*", 20), ("*", 10)]), rule("r1", &[("r1", 100)])],
            some([700_000, 100_000, 100_000, 33_334, 33_334, 33_334]),
        ),
        (vec![rule("r1/z1/s1", &[("r9", 100)])], some([0; 6])),
    ] {
        let setting = LocalityLoadBalancerSetting { distribute, ..LocalityLoadBalancerSetting::default() };
        for failover in [true, false] {
            let mut endpoints = PLACES.map(|place| endpoint(place, 1, &[]));
            apply(&mut endpoints, Some(&setting), &client("r1/z1/s1"), failover);
            assert!(endpoints.iter().all(|e| e.priority == 0));
            assert_eq!(endpoints.map(|e| e.locality_weight), expected, "{:?}", setting.distribute);
        }
    }
    // several localities under one name share it by the weights of their endpoints
    let to = vec![rule("r1", &[("*", 100)])];
    let setting = LocalityLoadBalancerSetting { distribute: to, ..LocalityLoadBalancerSetting::default() };
    let mut endpoints = [endpoint("r1/a", 1, &[]), endpoint("r1/b", 2, &[]), endpoint("r1/b", 1, &[])];
    apply(&mut endpoints, Some(&setting), &client("r1"), false);
    assert_eq!(endpoints.map(|e| e.locality_weight), [Some(250_000), Some(750_000), Some(750_000)]);
}

#[test]
fn where_a_workload_runs() {
    for (labels, expected) in [
        (&[("istio-locality", "r.z.s")][..], "r/z/s"),
        (&[("istio-locality", "r.z"), ("topology.kubernetes.io/region", "x")], "r/z/"),
        (&[("topology.kubernetes.io/region", "r"), ("topology.istio.io/subzone", "s")], "r//s"),
        (&[], "//"),
    ] {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let Locality { region, zone, subzone } = of_labels(&labels);
        assert_eq!(format!("{region}/{zone}/{subzone}"), expected);
    }
}

#[test]
fn other_networks_come_last() {
    let labels = [NETWORK, "tier"].map(str::to_owned).to_vec();
    let setting = LocalityLoadBalancerSetting { failover_priority: labels, ..Default::default() };
    let mut here = client("r1");
    here.insert(NETWORK.to_owned(), "n1".to_owned());
    let mut endpoints = [
        endpoint("", 1, &[(NETWORK, "n2"), ("tier", "silver")]),
        endpoint("", 1, &[(NETWORK, "n2"), ("tier", "gold")]),
        endpoint("", 1, &[(NETWORK, "n1"), ("tier", "silver")]),
        endpoint("", 1, &[(NETWORK, "n1"), ("tier", "gold")]),
    ];
    apply(&mut endpoints, Some(&setting), &here, true);
    assert_eq!(endpoints.map(|e| e.priority), [3, 2, 1, 0]);
}
