//! Which DestinationRules count for a client.

use super::*;
use tidegate_model::{ClusterName, LoadBalancer};

/// The load balancer of `a` in `default`, for a gateway in this namespace.
fn balancer(namespace: &str, lines: &[String]) -> LoadBalancer {
    let vs = "VirtualService default/v: {hosts: [x.com], gateways: [gateway], http: [{route: [{destination: {host: a}}]}]}";
    let env = crate::Env { namespace: namespace.into(), root_namespace: "root".into(), ..env() };
    let t = translate(&objects(&format!("{GATEWAY}\n{A}\n{vs}\n{}", lines.join("\n"))), &env);
    let name = ClusterName::outbound(80, "", "a.default.svc.cluster.local");
    t.model.clusters[&name].load_balancer.clone()
}

fn rule(place: &str, host: &str, more: &str, balancer: &str) -> String {
    format!(
        "DestinationRule {place}: {{host: '{host}', {more} trafficPolicy: {{loadBalancer: {{simple: {balancer}}}}}}}"
    )
}

/// Two rules of `default` for `a`, the older one with RANDOM, and whose counts for a gateway in this namespace.
#[test]
fn rules_of_a_host() {
    let only = |namespaces: &str| format!("exportTo: [{namespaces}],");
    let selects = |label: &str| format!("workloadSelector: {{matchLabels: {{istio: {label}}}}},");
    let (ours, others) = (selects("ingressgateway"), selects("other"));
    let (random, robin, none) = (LoadBalancer::Random, LoadBalancer::RoundRobin, LoadBalancer::LeastRequest);
    for (gateway, one, two, expected) in [
        // of those that are not merged, the newest; without exportTo is not the same as with *
        ("gw", &*only("'*'"), &*only("gw"), &robin),
        ("gw", "", &only("'*'"), &robin),
        // a set
        ("gw", &only("gw, b"), &only("b, gw"), &random),
        // merged into one for fewer, which are those that it counts for
        ("gw", &only("gw"), &only("b, gw"), &random),
        ("b", &only("gw"), &only("b, gw"), &none),
        ("gw", &only("b"), &only("gw"), &robin),
        // private, and for others than its own namespace
        ("gw", &only("."), &only("default"), &none),
        ("default", &only("b"), &only("'~'"), &none),
        ("default", &only("b"), &only("default"), &robin),
        ("default", &only("b"), &only("."), &robin),
        // selectors are for their own namespace, and come first
        ("default", "", &ours, &robin),
        ("default", "", &others, &random),
        ("gw", "", &ours, &random),
        ("gw", &ours, &ours, &none),
        ("default", &ours, &ours, &random),
        ("default", &only("."), &others, &random),
        ("root", &only("root"), &ours, &random),
    ] {
        let mut lines =
            vec![rule("default/one", "a", one, "RANDOM"), rule("default/two", "a", two, "ROUND_ROBIN")];
        assert_eq!(balancer(gateway, &lines), *expected, "{gateway} {lines:?}");
        lines.reverse();
        assert_eq!(balancer(gateway, &lines), *expected, "{gateway} {lines:?}");
    }
}

/// A rule for the host alone hides wildcards, also where it is not for this client.
#[test]
fn rules_of_wider_hosts() {
    let exact = |more: &str| rule("default/one", "a", more, "RANDOM");
    let wide = rule("default/two", "*.default.svc.cluster.local", "", "ROUND_ROBIN");
    let root = rule("root/three", "*.local", "", "PASSTHROUGH")
        .replace("simple: PASSTHROUGH", "consistentHash: {useSourceIp: true}");
    let hashed = balancer("gw", std::slice::from_ref(&root));
    let (private, selector) = ("exportTo: [b],", "workloadSelector: {matchLabels: {istio: other}},");
    for (gateway, lines, expected) in [
        ("gw", vec![exact(""), wide.clone()], &LoadBalancer::Random),
        ("gw", vec![exact(private), wide.clone()], &LoadBalancer::LeastRequest),
        ("gw", vec![exact(private), wide.clone(), root.clone()], &hashed),
        ("default", vec![exact(private), wide.clone(), root.clone()], &LoadBalancer::RoundRobin),
        ("gw", vec![exact(selector), wide.clone(), root.clone()], &LoadBalancer::RoundRobin),
        ("default", vec![exact(selector), wide, root], &LoadBalancer::LeastRequest),
    ] {
        assert_eq!(balancer(gateway, &lines), *expected, "{gateway} {lines:?}");
    }
}
