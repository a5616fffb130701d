use super::*;

#[test]
fn destination_rules() {
    let spec = |case: &str| format!("{{host: reviews, {case}}}");
    check(
        "DestinationRule",
        spec,
        &[
            (Accepted, "subsets: [{name: v1, labels: {version: v1}}]"),
            (Warned, "subsets: [{name: v1}, {name: v1}]"),
            (Refused, "subsets: [{name: v_1}]"),
            (Refused, "subsets: [{name: v1, labels: {'a b': c}}]"),
            (Accepted, "trafficPolicy: {connectionPool: {tcp: {idleTimeout: 0s, connectTimeout: 1s}}}"),
            (Refused, "trafficPolicy: {connectionPool: {tcp: {connectTimeout: 0.5ms}}}"),
            (Refused, "trafficPolicy: {connectionPool: {http: {maxRetries: -1}}}"),
            (Refused, "trafficPolicy: {portLevelSettings: [{loadBalancer: {simple: RANDOM}}]}"),
            (Refused, "trafficPolicy: {outlierDetection: {maxEjectionPercent: 101}}"),
            (
                Accepted,
                "trafficPolicy: {retryBudget: {percent: 100, minRetryConcurrency: 1, budgetInterval: 0s}}",
            ),
            (Refused, "trafficPolicy: {retryBudget: {percent: 100.5}}"),
            (
                Accepted,
                "trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 101}}}}",
            ),
            (
                Refused,
                "trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 100}}}}",
            ),
            (
                Refused,
                "trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 9000000}}}",
            ),
            (Warned, "trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: false}}}"),
            (Warned, "trafficPolicy: {loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}}"),
            (
                Accepted,
                "trafficPolicy: {loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}, outlierDetection: {}}",
            ),
            (Refused, "trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: 'a b'}}}"),
            (
                Refused,
                "trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: s, path: '/;x'}}}}",
            ),
            (Refused, "trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: 's t'}}}}"),
            (Refused, "trafficPolicy: {tls: {mode: MUTUAL}}"),
            (Refused, "trafficPolicy: {tls: {mode: ISTIO_MUTUAL, credentialName: x}}"),
            (Refused, "exportTo: [a/b]"),
        ],
    );
}

#[test]
fn traffic_policies() {
    check(
        "DestinationRule",
        |case| format!("{{host: reviews, {case}}}"),
        &[
            (Refused, "trafficPolicy: {}"),
            (Refused, "subsets: [{name: v1, trafficPolicy: {}}]"),
            (Refused, "trafficPolicy: {portLevelSettings: [{port: {number: 80}}]}"),
            (Refused, "trafficPolicy: {portLevelSettings: []}"),
            (Refused, "trafficPolicy: {connectionPool: {}}"),
            (Accepted, "trafficPolicy: {connectionPool: {http: {}}}"),
            (
                Refused,
                "trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}}",
            ),
            (Refused, "trafficPolicy: {outlierDetection: {consecutiveLocalOriginFailures: 5}}"),
            (
                Accepted,
                "trafficPolicy: {outlierDetection: {consecutiveLocalOriginFailures: 5, splitExternalLocalOriginErrors: true}}",
            ),
            (Accepted, "trafficPolicy: {tunnel: {targetHost: '2001:db8::1', targetPort: 443}}"),
            (Refused, "trafficPolicy: {tunnel: {targetHost: '*.a', targetPort: 443}}"),
            (Refused, "trafficPolicy: {tunnel: {protocol: FOO, targetHost: a, targetPort: 443}}"),
            (
                Refused,
                "trafficPolicy: {tunnel: {targetHost: a, targetPort: 443}, proxyProtocol: {version: V1}}",
            ),
        ],
    );
}

#[test]
fn consistent_hashes() {
    check(
        "DestinationRule",
        |case| {
            format!(
                "{{host: reviews, trafficPolicy: {{loadBalancer: {{consistentHash: {{useSourceIp: true, {case}}}}}}}}}"
            )
        },
        &[
            (Refused, "maglev: {}"),
            (Refused, "maglev: {tableSize: 5000011}"),
            (Refused, "minimumRingSize: 10, maglev: {tableSize: 101}"),
            (Refused, "minimumRingSize: 10, ringHash: {minimumRingSize: 10}"),
            (Accepted, "ringHash: {}"),
        ],
    );
}

#[test]
fn localities() {
    check(
        "DestinationRule",
        |case| {
            format!(
                "{{host: reviews, trafficPolicy: {{outlierDetection: {{}}, loadBalancer: {{localityLbSetting: {{{case}}}}}}}}}"
            )
        },
        &[
            (Refused, "failover: [{from: a, to: a}]"),
            (Refused, "failover: [{from: a/b, to: c}]"),
            (Refused, "failover: [{from: a, to: '*'}]"),
            (Accepted, "failover: [{from: a, to: b}], failoverPriority: [version]"),
            (Refused, "failover: [{from: a, to: b}], failoverPriority: [topology.kubernetes.io/region]"),
            (Accepted, "failoverPriority: [topology.kubernetes.io/region, 'x=y']"),
            (Refused, "distribute: [{from: a, to: {a: 100}}], failover: [{from: a, to: b}]"),
            (Warned, "distribute: [{from: a, to: {a: 100}}], failoverPriority: [x]"),
            (Refused, "distribute: [{from: a, to: {a: 99}}]"),
            (Refused, "distribute: [{from: a, to: {a: 100, b: 0}}]"),
            (
                Accepted,
                "distribute: [{from: a/b/*, to: {a/b/*: 80, a/c/*: 20}}, {from: a/c/*, to: {a/c: 100}}]",
            ),
            (Warned, "distribute: [{from: a/*, to: {a/*: 50, a/b/*: 50}}]"),
            (Refused, "distribute: [{from: a/*, to: {a: 50, a/*: 50}}]"),
            (Warned, "distribute: [{from: a, to: {a: 50, '*': 50}}]"),
            (Refused, "distribute: [{from: a/*, to: {a/*: 100}}, {from: a/b/*, to: {a/*: 100}}]"),
            (Refused, "distribute: [{from: '*', to: {a/*: 100}}, {from: a/b/*, to: {a/*: 100}}]"),
            (Accepted, "distribute: [{from: a/b/*, to: {a/*: 100}}, {from: a/*, to: {a/*: 100}}]"),
            (Accepted, "distribute: [{from: a/b, to: {a/*: 100}}, {from: '*', to: {a/*: 100}}]"),
            (Refused, "distribute: [{from: a/b, to: {a/*: 100}}, {from: a, to: {a/*: 100}}]"),
            (Refused, "distribute: [{from: a/*/c, to: {a: 100}}]"),
            (Refused, "distribute: [{from: a//c, to: {a: 100}}]"),
        ],
    );
}

#[test]
fn service_entries() {
    let spec = |case: &str| {
        format!("{{hosts: [a.com], ports: [{{number: 80, name: http, protocol: HTTP}}], {case}}}")
    };
    check(
        "ServiceEntry",
        spec,
        &[
            (Accepted, "resolution: DNS"),
            (Accepted, "resolution: STATIC, endpoints: [{address: 1.2.3.4, ports: {http: 8080}}]"),
            (Warned, "resolution: STATIC"),
            (Refused, "resolution: DNS, endpoints: [{address: 'unix:///a'}]"),
            (Refused, "resolution: STATIC, endpoints: [{address: b.com}]"),
            (Refused, "resolution: STATIC, endpoints: [{address: 1.2.3.4, ports: {other: 8080}}]"),
            (Refused, "resolution: NONE, endpoints: [{address: 1.2.3.4}]"),
            (Refused, "resolution: DNS_ROUND_ROBIN, endpoints: [{address: b.com}, {address: c.com}]"),
            (Refused, "resolution: DNS, addresses: [10.0.0.0/8]"),
            (Accepted, "resolution: NONE, addresses: [10.0.0.0/8]"),
            (Refused, "resolution: NONE, addresses: [nowhere]"),
            (
                Refused,
                "resolution: STATIC, endpoints: [{address: 1.2.3.4}], workloadSelector: {labels: {a: b}}",
            ),
        ],
    );
    let plain = |case: &str| format!("{{{case}}}");
    check(
        "ServiceEntry",
        plain,
        &[
            (Refused, "hosts: ['*'], resolution: NONE"),
            (Refused, "hosts: ['*.a.com'], resolution: DNS"),
            (Refused, "hosts: [a.com], ports: [{number: 80, name: a}, {number: 80, name: b}]"),
            (Refused, "hosts: [a.com], ports: [{number: 80, name: a b}]"),
            (
                Refused,
                "hosts: [a.com, b.com], resolution: DNS, ports: [{number: 80, name: a, protocol: TCP}]",
            ),
            (Refused, "hosts: [a.com, b.com], resolution: DNS, ports: [{number: 80, name: http}]"),
            (
                Accepted,
                "hosts: [a.com, b.com], resolution: DNS, ports: [{number: 80, name: a, protocol: HTTPS}]",
            ),
            (
                Accepted,
                "hosts: [a.com, b.com], resolution: NONE, ports: [{number: 80, name: a, protocol: TCP}]",
            ),
            (Refused, "hosts: [a.com], ports: [{number: 80, name: a}, {number: 81, name: a}]"),
        ],
    );
}

#[test]
fn workload_entries() {
    check(
        "WorkloadEntry",
        |case| format!("{{{case}}}"),
        &[
            (Accepted, "address: 1.2.3.4"),
            (Warned, "network: vm-net"),
            (Refused, "labels: {a: b}"),
            (Refused, "address: 'unix:///a', ports: {http: 80}"),
            (Warned, "address: 'unix:///a'"),
            (Warned, "address: 'unix://@a'"),
            (Refused, "address: 'unix:///a/'"),
            (Refused, "address: 'unix://a'"),
            (Refused, "address: 1.2.3.4, ports: {http: 0}"),
        ],
    );
}

#[test]
fn policies_of_ports() {
    let robin = "loadBalancer: {simple: ROUND_ROBIN}";
    check(
        "DestinationRule",
        |case| format!("{{host: reviews, trafficPolicy: {{{case}}}}}"),
        &[
            (
                Accepted,
                &format!(
                    "portLevelSettings: [{{port: {{number: 80}}, {robin}}}, {{port: {{number: 81}}, {robin}}}]"
                ),
            ),
            (
                Warned,
                &format!(
                    "portLevelSettings: [{{port: {{number: 80}}, {robin}}}, {{port: {{number: 80}}, {robin}}}]"
                ),
            ),
            (
                Warned,
                &format!(
                    "proxyProtocol: {{version: V1}}, portLevelSettings: [{{port: {{number: 80}}, {robin}}}]"
                ),
            ),
            (
                Warned,
                &format!(
                    "retryBudget: {{percent: 50}}, portLevelSettings: [{{port: {{number: 80}}, {robin}}}]"
                ),
            ),
            (Accepted, "retryBudget: {percent: 50}, proxyProtocol: {version: V1}"),
            (Accepted, "tls: {}"),
            (Accepted, "tls: {mode: DISABLE}"),
            (Warned, "tls: {sni: a.example}"),
            (Warned, "tls: {credentialName: a}"),
        ],
    );
}

#[test]
fn failover_and_who_notices_that_endpoints_fail() {
    let failover = "loadBalancer: {localityLbSetting: {failoverPriority: [x]}}";
    let detects = "outlierDetection: {interval: 1s}";
    let subset = |policy: &str| format!("subsets: [{{name: v1, trafficPolicy: {{{policy}}}}}]");
    let port = |policy: &str| format!("portLevelSettings: [{{port: {{number: 80}}, {policy}}}]");
    let robin = "loadBalancer: {simple: ROUND_ROBIN}";
    check(
        "DestinationRule",
        |case| format!("{{host: reviews, {case}}}"),
        &[
            (Accepted, &format!("trafficPolicy: {{{failover}, {detects}}}")),
            // a subset has what the rule says, and the rule not what the subset says
            (Warned, &format!("trafficPolicy: {{{failover}}}, {}", subset(detects))),
            (Accepted, &format!("trafficPolicy: {{{detects}}}, {}", subset(failover))),
            (Warned, &format!("trafficPolicy: {{{failover}}}, {}", subset(&format!("{detects}, {robin}")))),
            (
                Warned,
                &format!(
                    "subsets: [{{name: v1, trafficPolicy: {{{failover}}}}}, {{name: v2, trafficPolicy: {{{detects}}}}}]"
                ),
            ),
            // a port has not
            (Warned, &format!("trafficPolicy: {{{failover}, {}}}", port(detects))),
            (Warned, &format!("trafficPolicy: {{{detects}, {}}}", port(failover))),
            (Accepted, &format!("trafficPolicy: {{{}}}", port(&format!("{failover}, {detects}")))),
            (Warned, &format!("trafficPolicy: {{{}}}, {}", port(detects), subset(failover))),
        ],
    );
}
