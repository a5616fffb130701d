//! What a DestinationRule's policy makes of a cluster.

use super::clusters::routed;
use super::*;
use std::time::Duration;
use tidegate_model::{
    AffinityCookie, Cluster, ConnectionLimits, ConsistentHash, HashKey, HashTable, HeaderName,
    Http2Keepalive, LoadBalancer, OutlierDetection, TcpKeepalive, Warmup,
};

/// The cluster of `a` with this policy, and what is said.
fn with(policy: &str) -> (Cluster, Vec<String>) {
    let rule = format!("DestinationRule default/a: {{host: a, trafficPolicy: {{{policy}}}}}");
    let (_, cluster, _, said) = routed("host: a", &rule);
    (cluster.unwrap(), said)
}

#[test]
fn keys_of_consistent_hashes() {
    let ring = |minimum| HashTable::Ring { minimum };
    let cookie = |ttl: Option<u64>, attributes: &str| {
        let (name, ttl) = ("s".into(), ttl.map(Duration::from_secs));
        HashKey::Cookie(AffinityCookie { name, ttl, attributes: attributes.into() })
    };
    for (written, key, table) in [
        ("useSourceIp: true", HashKey::SourceIp, ring(1024)),
        ("useSourceIp: true, minimumRingSize: 7", HashKey::SourceIp, ring(7)),
        ("useSourceIp: true, minimumRingSize: 7, ringHash: {minimumRingSize: 9}", HashKey::SourceIp, ring(9)),
        ("useSourceIp: true, maglev: {}", HashKey::SourceIp, HashTable::Maglev { size: 65_537 }),
        ("useSourceIp: true, maglev: {tableSize: 101}", HashKey::SourceIp, HashTable::Maglev { size: 101 }),
        ("httpHeaderName: X-User", HashKey::Header(HeaderName::new("x-user")), ring(1024)),
        ("httpQueryParameterName: q", HashKey::QueryParameter("q".into()), ring(1024)),
        ("httpCookie: {name: s}", cookie(None, "; HttpOnly"), ring(1024)),
        ("httpCookie: {name: s, ttl: 0s}", cookie(Some(0), "; HttpOnly"), ring(1024)),
        (
            "httpCookie: {name: s, ttl: 1h, path: /a, attributes: [{name: SameSite, value: Lax}, {name: Secure}]}",
            cookie(Some(3600), "; Max-Age=3600; Path=/a; SameSite=Lax; Secure; HttpOnly"),
            ring(1024),
        ),
    ] {
        let (cluster, said) = with(&format!("loadBalancer: {{consistentHash: {{{written}}}}}"));
        let expected = LoadBalancer::ConsistentHash(ConsistentHash { key, table });
        assert_eq!(cluster.load_balancer, expected, "{written}");
        assert_eq!(said, [""; 0], "{written}");
    }
}

#[test]
fn outlier_detection_has_istios_defaults() {
    assert_eq!(with("").0.outlier_detection, None);
    let default = OutlierDetection {
        consecutive_5xx: 5,
        consecutive_gateway_errors: 0,
        consecutive_local_failures: None,
        error_statuses: vec![],
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_percent: 10,
        min_health_percent: 0,
    };
    for (written, expected) in [
        ("minHealthPercent: 0", default.clone()),
        (
            "maxEjectionPercent: 0, interval: 1s",
            OutlierDetection { interval: Duration::from_secs(1), ..default.clone() },
        ),
        (
            "consecutive5xxErrors: 0, consecutiveGatewayErrors: 3, baseEjectionTime: 3m, maxEjectionPercent: 100",
            OutlierDetection {
                consecutive_5xx: 0,
                consecutive_gateway_errors: 3,
                base_ejection_time: Duration::from_secs(180),
                max_ejection_percent: 100,
                ..default.clone()
            },
        ),
        // counted apart only where that is said
        ("consecutiveLocalOriginFailures: 2", default.clone()),
        (
            "splitExternalLocalOriginErrors: true",
            OutlierDetection { consecutive_local_failures: Some(5), ..default.clone() },
        ),
        (
            "splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, minHealthPercent: 50, outlierDetectionHttpErrorCodes: [429]",
            OutlierDetection {
                consecutive_local_failures: Some(2),
                min_health_percent: 50,
                error_statuses: vec![429],
                ..default
            },
        ),
    ] {
        let (cluster, said) = with(&format!("outlierDetection: {{{written}}}"));
        assert_eq!(cluster.outlier_detection, Some(expected), "{written}");
        assert_eq!(said, [""; 0], "{written}");
    }
}

#[test]
fn new_endpoints_warm_up_where_they_are_weighed() {
    let warmup = |seconds, minimum, aggression| {
        Some(Warmup { duration: Duration::from_secs(seconds), minimum, aggression })
    };
    for (written, expected) in [
        ("simple: RANDOM", None),
        ("warmupDurationSecs: 10s", warmup(10, 100_000, 1000)),
        ("simple: ROUND_ROBIN, warmup: {duration: 1m}", warmup(60, 100_000, 1000)),
        ("warmup: {duration: 1m, minimumPercent: 0.5, aggression: 2.5}", warmup(60, 5_000, 2_500)),
        ("simple: RANDOM, warmup: {duration: 1m}", None),
    ] {
        assert_eq!(with(&format!("loadBalancer: {{{written}}}")).0.warmup, expected, "{written}");
    }
}

#[test]
fn localities_count_as_the_rule_or_the_mesh_says() {
    let services = "ServiceEntry default/s: {hosts: [s.com], location: MESH_EXTERNAL, resolution: STATIC, ports: [{number: 80, name: http}], endpoints: [{address: 10.0.0.1, locality: r1/z1}, {address: 10.0.0.2, locality: r2/z1}]}";
    let mesh = "ConfigMap istio-system/istio: {mesh: 'localityLbSetting: {distribute: [{from: r2, to: {r2: 100}}]}'}";
    let distribute = "loadBalancer: {localityLbSetting: {distribute: [{from: r2, to: {r1: 25, r2: 75}}]}}";
    let with_locality = |lines: &str| {
        let mut env = env();
        env.labels.insert("istio-locality".into(), "r2.z9".into());
        let route = "VirtualService default/v: {hosts: [x.com], gateways: [gateway], http: [{route: [{destination: {host: s.com}}]}]}";
        let t = translate(&objects(&format!("{GATEWAY}\n{route}\n{services}\n{lines}")), &env);
        let name = tidegate_model::ClusterName::outbound(80, "", "s.com");
        let of = |e: &tidegate_model::Endpoint| (e.priority, e.locality_weight);
        t.model.endpoints[&name].endpoints.iter().map(of).collect::<Vec<_>>()
    };
    let rule =
        |policy: &str| format!("DestinationRule default/s: {{host: s.com, trafficPolicy: {{{policy}}}}}");
    assert_eq!(with_locality(""), [(0, None), (0, None)], "nobody can fail");
    assert_eq!(with_locality(&rule("outlierDetection: {interval: 1s}")), [(1, None), (0, None)]);
    assert_eq!(
        with_locality(&rule(
            "outlierDetection: {interval: 1s}, loadBalancer: {localityLbSetting: {enabled: false}}"
        )),
        [(0, None), (0, None)]
    );
    assert_eq!(with_locality(&rule(distribute)), [(0, Some(250_000)), (0, Some(750_000))]);
    assert_eq!(with_locality(mesh), [(0, Some(0)), (0, Some(1_000_000))]);
    assert_eq!(
        with_locality(&format!("{mesh}\n{}", rule(distribute))),
        [(0, Some(250_000)), (0, Some(750_000))]
    );
}

#[test]
fn limits_of_connections() {
    let seconds = Duration::from_secs;
    let keepalive = |time, interval, probes| {
        let (time, interval) = (seconds(time), seconds(interval));
        ConnectionLimits {
            tcp_keepalive: Some(TcpKeepalive { time, interval, probes }),
            ..ConnectionLimits::default()
        }
    };
    let pings = |interval, timeout| {
        let (interval, timeout) = (seconds(interval), seconds(timeout));
        let http2_keepalive = Some(Http2Keepalive { interval, timeout });
        ConnectionLimits { http2_keepalive, ..ConnectionLimits::default() }
    };
    let none = ConnectionLimits::default;
    for (written, expected) in [
        ("", none()),
        (
            "tcp: {maxConnections: 0}, http: {http1MaxPendingRequests: 0, http2MaxRequests: 0, maxRequestsPerConnection: 0, maxConcurrentStreams: 0}",
            none(),
        ),
        (
            "tcp: {maxConnections: 1, maxConnectionDuration: 1m}, http: {http1MaxPendingRequests: 2, http2MaxRequests: 3, maxRequestsPerConnection: 4, maxConcurrentStreams: 5}",
            ConnectionLimits {
                max_connections: Some(1),
                max_pending_requests: Some(2),
                max_requests: Some(3),
                max_requests_per_connection: Some(4),
                max_concurrent_streams: Some(5),
                max_connection_duration: Some(seconds(60)),
                tcp_keepalive: None,
                http2_keepalive: None,
            },
        ),
        ("http: {http2KeepAlive: {interval: 9s, timeout: 2s}}", pings(9, 2)),
        ("http: {http2KeepAlive: {interval: 9s}}", pings(9, 9)),
        ("tcp: {tcpKeepalive: {}}", keepalive(7200, 75, 9)),
        ("tcp: {tcpKeepalive: {probes: 3, time: 60s, interval: 5s}}", keepalive(60, 5, 3)),
    ] {
        let (cluster, said) = with(&format!("connectionPool: {{{written}}}"));
        assert_eq!(cluster.limits, expected, "{written}");
        assert_eq!(said, [""; 0], "{written}");
    }
    let mesh = "ConfigMap istio-system/istio: {mesh: 'tcpKeepalive: {time: 9s}'}";
    let (_, cluster, ..) = routed("host: a", mesh);
    assert_eq!(cluster.unwrap().limits, keepalive(9, 75, 9));
}

#[test]
fn policies_are_merged_block_by_block_and_ports_replace_them() {
    let rule = |policy: &str, subset: &str| {
        format!(
            "DestinationRule default/a: {{host: a, trafficPolicy: {{{policy}}}, subsets: [{{name: v1, trafficPolicy: {{{subset}}}}}]}}"
        )
    };
    let whole = "outlierDetection: {interval: 1s}, connectionPool: {tcp: {maxConnections: 1}}";
    let for_port =
        |port: u16, blocks: &str| format!("portLevelSettings: [{{port: {{number: {port}}}, {blocks}}}]");
    let two = for_port(80, "connectionPool: {tcp: {maxConnections: 2}}");
    use LoadBalancer::{LeastRequest, Random, RoundRobin};
    for (policy, subset, balancer, detects, connections) in [
        (whole.to_owned(), String::new(), LeastRequest, true, Some(1)),
        (whole.to_owned(), "loadBalancer: {simple: RANDOM}".to_owned(), Random, true, Some(1)),
        // a block is never merged within
        (whole.to_owned(), "connectionPool: {http: {maxRetries: 1}}".to_owned(), LeastRequest, true, None),
        (format!("{whole}, {two}"), String::new(), LeastRequest, false, Some(2)),
        (
            format!("{whole}, {two}"),
            "outlierDetection: {interval: 2s}".to_owned(),
            LeastRequest,
            true,
            Some(2),
        ),
        (
            whole.to_owned(),
            format!(
                "loadBalancer: {{simple: RANDOM}}, {}",
                for_port(80, "loadBalancer: {simple: ROUND_ROBIN}")
            ),
            RoundRobin,
            false,
            None,
        ),
        (
            whole.to_owned(),
            format!(
                "loadBalancer: {{simple: RANDOM}}, {}",
                for_port(81, "loadBalancer: {simple: ROUND_ROBIN}")
            ),
            Random,
            true,
            Some(1),
        ),
    ] {
        let (_, cluster, ..) = routed("host: a, subset: v1", &rule(&policy, &subset));
        let cluster = cluster.unwrap();
        let seen =
            (cluster.load_balancer, cluster.outlier_detection.is_some(), cluster.limits.max_connections);
        assert_eq!(seen, (balancer, detects, connections), "{policy} <- {subset}");
    }
}

#[test]
fn a_gateway_that_knows_not_where_it_is_is_told() {
    let (_, said) = with("loadBalancer: {localityLbSetting: {distribute: [{from: '*', to: {r1: 100}}]}}");
    assert_eq!(said, ["note spec.trafficPolicy.loadBalancer.localityLbSetting unknown-locality"]);
}
