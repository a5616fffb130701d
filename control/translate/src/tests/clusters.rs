use super::*;
use std::time::Duration;
use tidegate_model::{Address, Cluster, ClusterName, Endpoint, LoadBalancer, UpstreamProtocol};

/// Routes to `destination` with `lines`, and gives the route's cluster and what the model has of it.
pub(super) fn routed(
    destination: &str,
    lines: &str,
) -> (String, Option<Cluster>, Vec<Endpoint>, Vec<String>) {
    let t = usual(&format!(
        "VirtualService default/v: {{hosts: [x.com], gateways: [gateway], http: [{{route: [{{destination: {{{destination}}}}}]}}]}}\n{lines}"
    ));
    let name = match &*host(&t, "http.80", "x.com").unwrap().routes[0].action {
        Action::Forward(f) => f.destinations[0].cluster.clone(),
        _ => panic!("forwards"),
    };
    let cluster = t.model.clusters.get(&name).map(|c| (**c).clone());
    let endpoints = t.model.endpoints.get(&name).map(|e| e.endpoints.clone()).unwrap_or_default();
    let said = said(&t);
    (name.to_string(), cluster, endpoints, said)
}

pub(super) fn addresses(endpoints: &[Endpoint]) -> Vec<String> {
    let shown = |e: &Endpoint| match &e.address {
        Address::DnsInTurns(..) => format!("one of {}", e.address),
        Address::RequestHost(..) => format!("asked for {}", e.address),
        address => address.to_string(),
    };
    endpoints.iter().map(shown).collect()
}

const MULTI: &str = "Service default/multi: {ports: [{name: http, port: 81}, {name: grpc, port: 82}]}";

#[test]
fn ports_and_what_is_missing() {
    for (destination, name, code) in [
        ("host: a", "outbound|80||a.default.svc.cluster.local", None),
        (
            "host: a.default.svc.cluster.local, port: {number: 80}",
            "outbound|80||a.default.svc.cluster.local",
            None,
        ),
        ("host: a, port: {number: 99}", "outbound|99||a.default.svc.cluster.local", Some("unknown-port")),
        ("host: multi", "outbound|80||multi.default.svc.cluster.local", Some("unknown-port")),
        ("host: multi, port: {number: 82}", "outbound|82||multi.default.svc.cluster.local", None),
        ("host: nosuch", "outbound|80||nosuch.default.svc.cluster.local", Some("unknown-host")),
        ("host: a.default", "outbound|80||a.default", Some("unknown-host")),
        ("host: a, subset: v9", "outbound|80|v9|a.default.svc.cluster.local", Some("unknown-subset")),
    ] {
        let (seen, cluster, _, said) = routed(destination, MULTI);
        assert_eq!(seen, name, "{destination}");
        assert_eq!(cluster.is_none(), code.is_some(), "{destination}");
        if let Some(code) = code {
            assert!(
                said.iter()
                    .any(|s| s.starts_with("warning spec.http[0].route[0].destination") && s.ends_with(code)),
                "{said:?}"
            );
        }
    }
    let (_, cluster, _, _) = routed("host: multi, port: {number: 82}", MULTI);
    assert_eq!(cluster.unwrap().protocol, UpstreamProtocol::Http2);
}

#[test]
fn a_port_that_a_listener_has_and_a_service_has_not() {
    let servers = "[{port: {number: 80, name: a, protocol: HTTP}, hosts: ['*']}, {port: {number: 81, name: b, protocol: HTTP}, hosts: ['*']}]";
    for (destination, field, expected) in [
        (
            "host: multi",
            "host",
            "for the listener on port 80: multi.default.svc.cluster.local has no port 80; requests are answered with 503 (NC)",
        ),
        (
            "host: multi, port: {number: 8}",
            "port",
            "multi.default.svc.cluster.local has no port 8; requests are answered with 503 (NC)",
        ),
    ] {
        let t = usual(&format!(
            "Gateway default/two: {{selector: {{istio: ingressgateway}}, servers: {servers}}}\n{MULTI}\n\
             VirtualService default/v: {{hosts: [x.com], gateways: [two], http: [{{route: [{{destination: {{{destination}}}}}]}}]}}"
        ));
        let said: Vec<_> = t.diagnostics.iter().filter(|d| d.code == "unknown-port").collect();
        let [said] = said.as_slice() else { panic!("{said:?}") };
        assert_eq!(said.text, expected);
        assert_eq!(said.field, format!("spec.http[0].route[0].destination.{field}"));
    }
}

#[test]
fn a_number_that_udp_has_too_is_tcps() {
    let lines = "Service default/dual: {selector: {app: dual}, ports: [{name: quic, port: 443, protocol: UDP, targetPort: 9443}, {name: web, port: 443, targetPort: web}]}\n\
        WorkloadEntry default/vm: {address: 10.0.0.1, labels: {app: dual}, ports: {web: 9090}}\n\
        WorkloadEntry default/other: {address: 10.0.0.2, labels: {app: dual}}";
    let (_, _, endpoints, _) = routed("host: dual, port: {number: 443}", lines);
    assert_eq!(addresses(&endpoints), ["10.0.0.1:9090"]);
}

#[test]
fn external_names() {
    let lines = "Service default/ext: {type: ExternalName, externalName: a.default.svc.cluster.local}\nService default/out: {type: ExternalName, externalName: Example.com}";
    let (name, cluster, _, _) = routed("host: ext, port: {number: 80}", lines);
    assert_eq!((name.as_str(), cluster.is_some()), ("outbound|80||a.default.svc.cluster.local", true));
    let (name, _, endpoints, _) = routed("host: out, port: {number: 8080}", lines);
    assert_eq!(name, "outbound|8080||out.default.svc.cluster.local");
    assert_eq!(addresses(&endpoints), ["example.com:8080"]);
}

#[test]
fn service_entries() {
    let entry = |rest: &str| {
        format!(
            "ServiceEntry default/e: {{hosts: [e.com], ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8080}}], {rest}}}"
        )
    };
    for (rest, expected) in [
        (
            "resolution: STATIC, endpoints: [{address: 10.0.0.1}, {address: 10.0.0.2, ports: {http: 90}, weight: 3}]",
            vec!["10.0.0.1:8080", "10.0.0.2:90"],
        ),
        ("resolution: DNS", vec!["e.com:8080"]),
        ("resolution: DNS, endpoints: [{address: b.e.com}]", vec!["b.e.com:8080"]),
        ("resolution: STATIC, workloadSelector: {labels: {app: vm}}", vec!["10.0.0.9:8080"]),
        // an external name of another kind of workload
        ("resolution: DNS, workloadSelector: {labels: {app: named}}", vec!["vm.example:8080"]),
        (
            "resolution: DNS, endpoints: [{address: b.e.com}, {address: 10.0.0.3}]",
            vec!["b.e.com:8080", "10.0.0.3:8080"],
        ),
        ("resolution: DNS_ROUND_ROBIN", vec!["one of e.com:8080"]),
        ("resolution: DNS_ROUND_ROBIN, endpoints: [{address: B.e.com}]", vec!["one of b.e.com:8080"]),
        ("resolution: DNS_ROUND_ROBIN, endpoints: [{address: 10.0.0.3}]", vec!["10.0.0.3:8080"]),
        ("resolution: DYNAMIC_DNS", vec!["asked for e.com:8080"]),
    ] {
        let lines = format!(
            "{}\nWorkloadEntry default/w: {{address: 10.0.0.9, labels: {{app: vm}}}}\nWorkloadEntry default/x: {{address: 10.0.0.8, labels: {{app: other}}}}\nWorkloadEntry default/named: {{address: vm.example, labels: {{app: named}}}}",
            entry(rest)
        );
        let (_, _, endpoints, _) = routed("host: e.com", &lines);
        assert_eq!(addresses(&endpoints), expected, "{rest}");
    }
    let (_, cluster, _, said) = routed("host: e.com", &entry("resolution: NONE"));
    assert!(cluster.is_none());
    assert!(said.iter().any(|s| s.ends_with("no-address")), "{said:?}");
}

#[test]
fn wildcard_hosts_are_destinations_by_their_own_name() {
    let entry = |rest: &str| {
        format!(
            "ServiceEntry default/e: {{hosts: ['*.e.com'], ports: [{{number: 443, name: tls, protocol: TLS}}], {rest}}}"
        )
    };
    let destination = "host: '*.e.com', port: {number: 443}";
    for (rest, expected) in [
        ("resolution: DYNAMIC_DNS", vec!["asked for *.e.com:443"]),
        ("resolution: DNS, endpoints: [{address: www.e.com}]", vec!["www.e.com:443"]),
        ("resolution: STATIC, endpoints: [{address: 10.0.0.1}]", vec!["10.0.0.1:443"]),
    ] {
        let (name, _, endpoints, said) = routed(destination, &entry(rest));
        assert_eq!(name, "outbound|443||*.e.com");
        assert_eq!(addresses(&endpoints), expected, "{said:?}");
    }
    let (_, cluster, _, said) =
        routed("host: a.e.com, port: {number: 443}", &entry("resolution: DYNAMIC_DNS"));
    assert!(cluster.is_none() && said.iter().any(|s| s.ends_with("unknown-host")), "as in Istio: {said:?}");
}

#[test]
fn who_exports_to_whom() {
    let env = env();
    for (export_to, visible) in [
        ("'*'", true),
        ("istio-system", true),
        ("istio-system, other", true),
        ("., istio-system", true),
        (".", false),
        ("other", false),
        ("'~'", false),
    ] {
        let entry = format!(
            "ServiceEntry default/e: {{hosts: [e.com], exportTo: [{export_to}], resolution: STATIC, \
             ports: [{{number: 80, name: http, protocol: HTTP}}], endpoints: [{{address: 10.0.0.1}}]}}"
        );
        let (_, cluster, _, _) = routed("host: e.com", &entry);
        assert_eq!(cluster.is_some(), visible, "ServiceEntry {export_to}");
        let rule = format!(
            "DestinationRule default/a: {{host: a, exportTo: [{export_to}], subsets: [{{name: v1, labels: {{}}}}]}}"
        );
        let (_, cluster, _, _) = routed("host: a, subset: v1", &rule);
        assert_eq!(cluster.is_some(), visible, "DestinationRule {export_to}");
        let routes = format!(
            "{GATEWAY}\n{A}\nVirtualService default/v: {{hosts: [x.com], gateways: [gateway], exportTo: [{export_to}], \
             http: [{{route: [{{destination: {{host: a}}}}]}}]}}"
        );
        let t = translate(&objects(&routes), &env);
        assert_eq!(host(&t, "http.80", "x.com").is_some(), visible, "VirtualService {export_to}");
        let said = t.diagnostics.iter().any(|d| d.code == "not-exported");
        assert_eq!(said, !visible, "VirtualService {export_to}");
    }
}

const PODS: &str = "---
apiVersion: v1
kind: Pod
metadata: {name: a-1, namespace: default, labels: {app: a, version: v1, pod-template-hash: abc}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: a-v1-abc, uid: u}]}
spec: {containers: [{name: c, ports: [{name: web, containerPort: 8080}]}]}
status: {phase: Running, podIP: 10.1.0.1, conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: a-2, namespace: default, labels: {app: a, version: v2}}
spec: {containers: [{name: c, ports: [{name: web, containerPort: 8081}]}]}
status: {phase: Running, podIP: 10.1.0.2, conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: a-3, namespace: default, labels: {app: a, version: v2}}
spec: {containers: []}
status: {phase: Running, podIP: 10.1.0.3, conditions: [{type: Ready, status: 'False'}]}
---
apiVersion: v1
kind: Service
metadata: {name: a, namespace: default}
spec: {selector: {app: a}, ports: [{name: http, port: 80, targetPort: web}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a, namespace: default}
spec: {host: a, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
";

const SLICE: &str = "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a-x, namespace: default, labels: {kubernetes.io/service-name: a}}
addressType: IPv4
endpoints:
- {addresses: [10.1.0.2], conditions: {ready: true}, targetRef: {kind: Pod, name: a-2, namespace: default}, zone: z1}
- {addresses: [10.1.0.1]}
- {addresses: [10.9.9.9], conditions: {ready: false}}
ports: [{name: http, port: 9000}]
";

/// The endpoints of service `a` (its subset, if any), from whole YAML.
fn endpoints_of(yaml: &str, subset: &str) -> Vec<Endpoint> {
    let head = read(&format!(
        "{GATEWAY}\nVirtualService default/v: {{hosts: [x.com], gateways: [gateway], http: [{{route: [{{destination: {{host: a, subset: '{subset}'}}}}]}}]}}"
    ));
    let reading = tidegate_api::read("more.yaml", yaml);
    assert_eq!(reading.diagnostics, []);
    let all: Objects = head.into_iter().chain(reading.objects).collect();
    let t = translate(&all, &env());
    let name = ClusterName::outbound(80, subset, "a.default.svc.cluster.local");
    t.model.endpoints[&name].endpoints.clone()
}

#[test]
fn endpoints_of_services() {
    let with_slice = format!("{PODS}{SLICE}");
    for (yaml, subset, expected) in [
        (PODS, "", vec!["10.1.0.1:8080", "10.1.0.2:8081"]),
        (PODS, "v2", vec!["10.1.0.2:8081"]),
        (&with_slice, "", vec!["10.1.0.2:9000", "10.1.0.1:9000"]),
        (&with_slice, "v1", vec!["10.1.0.1:9000"]),
    ] {
        assert_eq!(addresses(&endpoints_of(yaml, subset)), expected, "{subset}");
    }
    let found = endpoints_of(&with_slice, "");
    assert_eq!(found.iter().map(|e| &*e.workload).collect::<Vec<_>>(), ["a-2", "a-v1"]);
    assert_eq!(&*found[0].locality.zone, "z1");
    assert!(matches!(found[0].address, Address::Socket(_)));
}

#[test]
fn what_is_spoken_to_a_cluster() {
    let with = |http: &str| {
        format!(
            "DestinationRule default/a: {{host: a, trafficPolicy: {{connectionPool: {{http: {{{http}}}}}}}}}"
        )
    };
    for (http, expected) in [
        ("", UpstreamProtocol::Http1),
        ("h2UpgradePolicy: DO_NOT_UPGRADE", UpstreamProtocol::Http1),
        ("h2UpgradePolicy: UPGRADE", UpstreamProtocol::Http2),
        ("useClientProtocol: true", UpstreamProtocol::Client),
        ("useClientProtocol: true, h2UpgradePolicy: UPGRADE", UpstreamProtocol::Client),
        ("useClientProtocol: false, h2UpgradePolicy: UPGRADE", UpstreamProtocol::Http2),
    ] {
        let (_, cluster, _, said) = routed("host: a", &with(http));
        assert_eq!(cluster.unwrap().protocol, expected, "{http}");
        assert!(!said.iter().any(|s| s.ends_with("not-enforced")), "{said:?}");
    }
}

#[test]
fn the_mesh_upgrades_what_no_rule_decides() {
    let port = |port: &str| format!("Service default/a: {{ports: [{{{port}}}]}}");
    let rule = |http: &str| {
        format!(
            "DestinationRule default/a: {{host: a, trafficPolicy: {{connectionPool: {{http: {{{http}}}}}}}}}"
        )
    };
    for (mesh, declared, http, expected) in [
        ("UPGRADE", "name: http, port: 80", "", UpstreamProtocol::Http2),
        ("UPGRADE", "name: http, port: 80", "maxRetries: 1", UpstreamProtocol::Http2),
        ("UPGRADE", "name: http, port: 80", "h2UpgradePolicy: DEFAULT", UpstreamProtocol::Http2),
        ("UPGRADE", "name: http, port: 80", "h2UpgradePolicy: DO_NOT_UPGRADE", UpstreamProtocol::Http1),
        ("UPGRADE", "name: http, port: 80", "useClientProtocol: true", UpstreamProtocol::Client),
        ("UPGRADE", "name: web, port: 80", "", UpstreamProtocol::Http1),
        ("UPGRADE", "name: https, port: 80", "", UpstreamProtocol::Http1),
        ("UPGRADE", "name: web, port: 80", "h2UpgradePolicy: UPGRADE", UpstreamProtocol::Http2),
        ("DO_NOT_UPGRADE", "name: http, port: 80", "", UpstreamProtocol::Http1),
        ("DO_NOT_UPGRADE", "name: http, port: 80", "h2UpgradePolicy: UPGRADE", UpstreamProtocol::Http2),
        (
            "DO_NOT_UPGRADE",
            "name: grpc, port: 80",
            "h2UpgradePolicy: DO_NOT_UPGRADE",
            UpstreamProtocol::Http2,
        ),
    ] {
        let mesh = format!("ConfigMap istio-system/istio: {{mesh: 'h2UpgradePolicy: {mesh}'}}");
        let route = "VirtualService default/v: {hosts: [x.com], gateways: [gateway], http: [{route: [{destination: {host: a}}]}]}";
        let lines = [GATEWAY, &port(declared), &rule(http), &mesh, route].join("\n");
        let t = translate(&objects(&lines), &env());
        let name = ClusterName::outbound(80, "", "a.default.svc.cluster.local");
        assert_eq!(t.model.clusters[&name].protocol, expected, "{mesh} {declared} {http}");
        assert!(!said(&t).iter().any(|s| s.contains("h2UpgradePolicy")), "{:?}", said(&t));
    }
}

#[test]
fn policies_override_each_other() {
    let rule = |policy: &str, subset: &str| {
        format!(
            "DestinationRule default/a: {{host: a, trafficPolicy: {{{policy}}}, subsets: [{{name: v1, labels: {{}}, trafficPolicy: {{{subset}}}}}]}}"
        )
    };
    let random = "loadBalancer: {simple: RANDOM}";
    let robin = "loadBalancer: {simple: ROUND_ROBIN}";
    let slow = "connectionPool: {tcp: {connectTimeout: 3s}}";
    for (policy, subset, balancer, connect) in [
        ("", "", LoadBalancer::LeastRequest, 10),
        (random, "", LoadBalancer::Random, 10),
        (random, robin, LoadBalancer::RoundRobin, 10),
        (&format!("{random}, {slow}"), robin, LoadBalancer::RoundRobin, 3),
        // A policy for the port replaces the whole one.
        (
            &format!("{random}, {slow}, portLevelSettings: [{{port: {{number: 80}}, {robin}}}]"),
            "",
            LoadBalancer::RoundRobin,
            10,
        ),
        (
            &format!("{slow}, portLevelSettings: [{{port: {{number: 81}}, {robin}}}]"),
            "",
            LoadBalancer::LeastRequest,
            3,
        ),
    ] {
        let (_, cluster, _, _) = routed("host: a, subset: v1", &rule(policy, subset));
        let cluster = cluster.unwrap();
        assert_eq!(
            (cluster.load_balancer, cluster.connect_timeout),
            (balancer, Duration::from_secs(connect)),
            "{policy} {subset}"
        );
    }
}

#[test]
fn rules_are_looked_up_by_namespace_and_host() {
    let rule = |place: &str, host: &str, balancer: &str| {
        format!(
            "DestinationRule {place}: {{host: '{host}', trafficPolicy: {{loadBalancer: {{simple: {balancer}}}}}}}"
        )
    };
    let full = "a.default.svc.cluster.local";
    for (lines, expected) in [
        (
            vec![rule("default/one", "a", "RANDOM"), rule("istio-system/two", full, "ROUND_ROBIN")],
            LoadBalancer::Random,
        ),
        (vec![rule("istio-system/two", full, "ROUND_ROBIN")], LoadBalancer::RoundRobin),
        (
            vec![
                rule("default/one", "a", "RANDOM"),
                rule("istio-system/two", full, "ROUND_ROBIN").replace("{host", "{exportTo: [.], host"),
            ],
            LoadBalancer::RoundRobin,
        ),
        (
            vec![
                rule("default/one", "*.cluster.local", "RANDOM"),
                rule("default/two", "*.default.svc.cluster.local", "ROUND_ROBIN"),
            ],
            LoadBalancer::RoundRobin,
        ),
        (
            vec![rule("default/one", "*.cluster.local", "RANDOM"), rule("default/two", "a", "ROUND_ROBIN")],
            LoadBalancer::RoundRobin,
        ),
        (vec![rule("other/one", full, "RANDOM")], LoadBalancer::LeastRequest),
        (
            vec![rule("default/one", "a", "RANDOM"), rule("default/two", "a", "ROUND_ROBIN")],
            LoadBalancer::Random,
        ),
        // the first of those that have a policy
        (
            vec![
                "DestinationRule default/first: {host: a, subsets: [{name: v1, labels: {}}]}".to_owned(),
                rule("default/one", "a", "RANDOM"),
                rule("default/two", "a", "ROUND_ROBIN"),
            ],
            LoadBalancer::Random,
        ),
    ] {
        let (_, cluster, _, _) = routed("host: a", &lines.join("\n"));
        assert_eq!(cluster.unwrap().load_balancer, expected, "{lines:?}");
    }
}

#[test]
fn how_long_idle_connections_are_kept() {
    for (pool, expected) in [
        ("", Duration::from_secs(3600)),
        ("http: {idleTimeout: 3s}", Duration::from_secs(3)),
        ("tcp: {idleTimeout: 2s}", Duration::from_secs(2)),
        ("tcp: {idleTimeout: 2s}, http: {idleTimeout: 3s}", Duration::from_secs(3)),
        ("tcp: {idleTimeout: 2s}, http: {maxRetries: 1}", Duration::from_secs(2)),
        ("tcp: {idleTimeout: 0s}", Duration::MAX),
    ] {
        let rule =
            format!("DestinationRule default/a: {{host: a, trafficPolicy: {{connectionPool: {{{pool}}}}}}}");
        let (_, cluster, _, _) = routed("host: a", &rule);
        assert_eq!(cluster.unwrap().idle_timeout, expected, "{pool}");
    }
}

#[test]
fn settings_of_a_port_leave_nothing_of_their_level() {
    use tidegate_model::{ProxyProtocol, RetryBudget};
    let port = "portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]";
    let rule = |policy: &str, subset: &str| {
        format!(
            "DestinationRule default/a: {{host: a, trafficPolicy: {{{policy}}}, subsets: [{{name: v1, trafficPolicy: {{{subset}}}}}]}}"
        )
    };
    let share = |millionths| RetryBudget::Share { millionths, min_concurrency: 3, interval: Duration::ZERO };
    let (v1, v2) = (
        "proxyProtocol: {version: V1}, retryBudget: {percent: 50}",
        "proxyProtocol: {version: V2}, retryBudget: {percent: 10}",
    );
    for (policy, subset, expected) in [
        (v1.to_owned(), String::new(), (Some(ProxyProtocol::V1), share(500_000))),
        (format!("{v1}, {port}"), String::new(), (None, RetryBudget::default())),
        (v1.to_owned(), v2.to_owned(), (Some(ProxyProtocol::V2), share(100_000))),
        (v1.to_owned(), format!("{v2}, {port}"), (Some(ProxyProtocol::V1), share(500_000))),
        (format!("{v1}, {port}"), v2.to_owned(), (Some(ProxyProtocol::V2), share(100_000))),
    ] {
        let (_, cluster, _, _) = routed("host: a, subset: v1", &rule(&policy, &subset));
        let cluster = cluster.unwrap();
        assert_eq!((cluster.proxy_protocol, cluster.retry_budget), expected, "{policy} {subset}");
    }
}
