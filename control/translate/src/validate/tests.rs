use tidegate_model::Severity;

/// What Istio's webhook decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Accepted,
    Warned,
    Refused,
}

use Decision::{Accepted, Refused, Warned};

/// Reads and validates an object; what was said comes with the decision.
fn decide(kind: &str, spec: &str) -> (Decision, String) {
    let group = match kind {
        "RequestAuthentication" | "AuthorizationPolicy" | "PeerAuthentication" => "security",
        "Telemetry" => "telemetry",
        _ => "networking",
    };
    let text = format!(
        "apiVersion: {group}.istio.io/v1\nkind: {kind}\nmetadata: {{name: x, namespace: default}}\nspec: {spec}\n"
    );
    let reading = tidegate_api::read("test.yaml", &text);
    let mut found = reading.diagnostics;
    found.extend(reading.objects.iter().flat_map(super::validate));
    let said: Vec<_> = found.iter().map(ToString::to_string).collect();
    let decision = match found.iter().map(|d| d.severity).max() {
        Some(Severity::Error) => Refused,
        Some(Severity::Warning) => Warned,
        _ => Accepted,
    };
    (decision, said.join("\n"))
}

fn check(kind: &str, wrap: impl Fn(&str) -> String, cases: &[(Decision, &str)]) {
    for (expected, case) in cases {
        let spec = wrap(case);
        let (decision, said) = decide(kind, &spec);
        assert_eq!(decision, *expected, "{spec}\n{said}");
        assert_eq!(said.is_empty(), decision == Accepted, "{spec}");
    }
}

#[test]
fn http_rules() {
    let rule = |case: &str| format!("{{hosts: [foo.bar], http: [{{{case}}}]}}");
    check(
        "VirtualService",
        rule,
        &[
            (Accepted, "route: [{destination: {host: foo.baz}}]"),
            (Refused, "route: [{weight: 1}]"),
            (Refused, ""),
            (Refused, "match: [{uri: {prefix: /}}]"),
            (
                Accepted,
                "route: [{destination: {host: a.b}, weight: 550}, {destination: {host: c.d}, weight: 500}]",
            ),
            (Refused, "route: [{destination: {host: a.b}}, {destination: {host: c.d}}]"),
            (Refused, "route: [{destination: {host: a.b}, weight: -1}]"),
            (Refused, "route: [{destination: {host: '*'}}]"),
            (Refused, "route: [{destination: {host: default/baz}}]"),
            (Refused, "route: [{destination: {host: a.b, port: {number: 70000}}}]"),
            (Refused, "route: [{destination: {host: a.b, subset: a_b}}]"),
            (Accepted, "delegate: {name: test, namespace: test}"),
            (Refused, "delegate: {name: test}, redirect: {uri: /t}"),
            (Refused, "delegate: {name: test}, route: [{destination: {host: a.b}}]"),
            (Warned, "delegate: {name: test}, directResponse: {status: 200}, rewrite: {uri: /a}"),
        ],
    );
}

#[test]
fn redirects_rewrites_and_answers() {
    let rule = |case: &str| format!("{{hosts: [foo.bar], http: [{{{case}}}]}}");
    let to = "route: [{destination: {host: foo.baz}}]";
    let with_route = |case: &str| format!("{{hosts: [foo.bar], http: [{{{to}, {case}}}]}}");
    check(
        "VirtualService",
        rule,
        &[
            (Accepted, "redirect: {uri: /lerp, authority: foo.biz}"),
            (Accepted, "redirect: {authority: t}"),
            (Warned, "redirect: {uri: t, authority: t, redirectCode: 308}"),
            (Warned, "redirect: {prefixRewrite: t}"),
            (Refused, "redirect: {uri: ''}"),
            (Refused, "redirect: {redirectCode: 302}"),
            (Accepted, "redirect: {derivePort: FROM_PROTOCOL_DEFAULT}"),
            (Warned, "redirect: {port: 0}"),
            (Refused, "redirect: {uri: t, redirectCode: 299}"),
            (Refused, "redirect: {uri: t, redirectCode: 304}"),
            (Refused, "redirect: {uri: t, prefixRewrite: /u}"),
            (Refused, "redirect: {scheme: ftp}"),
            (Refused, "redirect: {uri: /t}, fault: {abort: {httpStatus: 500}}"),
            (Accepted, "match: [{uri: {prefix: /foo}}], redirect: {prefixRewrite: /bar}"),
            (Accepted, "match: [{headers: {x-foo: {exact: bar}}}], redirect: {prefixRewrite: /bar}"),
            (Refused, "match: [{uri: {exact: /foo}}], redirect: {prefixRewrite: /bar}"),
            (Refused, "match: [{uri: {regex: /foo.*}}], redirect: {prefixRewrite: /bar}"),
            (Accepted, "directResponse: {status: 200}"),
            (Accepted, "directResponse: {status: 600}"),
            (Refused, "directResponse: {status: 199}"),
            (Refused, "directResponse: {status: 601}"),
            (Refused, "route: [{destination: {host: a.b}}], directResponse: {status: 200}"),
            (Refused, "directResponse: {status: 200}, redirect: {uri: /t}"),
        ],
    );
    check(
        "VirtualService",
        with_route,
        &[
            (Refused, "redirect: {uri: /lerp, authority: foo.biz}"),
            (Accepted, "rewrite: {uri: /path/to/resource, authority: foobar.org}"),
            (Accepted, "rewrite: {authority: foobar.org}"),
            (Warned, "rewrite: {uri: v2}"),
            (Refused, "rewrite: {}"),
            (Refused, "rewrite: {uri: /a, uriRegexRewrite: {match: a, rewrite: b}}"),
            (Accepted, "rewrite: {uriRegexRewrite: {match: '/(a)', rewrite: '/\\1'}}"),
            (Refused, "rewrite: {uriRegexRewrite: {match: '/(a)', rewrite: '/\\2'}}"),
            (Refused, "rewrite: {uriRegexRewrite: {rewrite: '\\2'}}"),
            (Refused, "rewrite: {uriRegexRewrite: {match: a}}"),
            (Refused, "rewrite: {uriRegexRewrite: {match: '[', rewrite: '['}}"),
            (Refused, "rewrite: {authority: bar}, headers: {request: {set: {':authority': foo}}}"),
        ],
    );
}

#[test]
fn matches_and_headers() {
    let with_route = |case: &str| {
        format!("{{hosts: [foo.bar], http: [{{route: [{{destination: {{host: foo.baz}}}}], {case}}}]}}")
    };
    let long = format!("match: [{{uri: {{regex: '{}'}}}}]", "a".repeat(1025));
    check(
        "VirtualService",
        with_route,
        &[
            (Accepted, "match: [{headers: {x: {}, ':method': {exact: GET}}}]"),
            (Warned, "match: [{headers: {':foo': {}}}]"),
            (Warned, "match: [{uri: {exact: nolead}}]"),
            (Warned, "match: [{uri: {prefix: nolead}}]"),
            (Accepted, "match: [{uri: {prefix: ''}}]"),
            (Accepted, "match: [{withoutHeaders: {x: {regex: '*'}, y: {}}}]"),
            (Refused, "match: [{queryParams: {x: {regex: '*'}}}]"),
            (Refused, "match: [{withoutHeaders: {x: {regex: ''}}}]"),
            (Refused, "match: [{withoutHeaders: {x: {prefix: ''}}}]"),
            (Refused, "match: [{uri: {regex: ''}}]"),
            (Refused, "match: [{headers: {x: {regex: ''}}}]"),
            (Refused, "match: [{queryParams: {x: {prefix: ''}}}]"),
            (Refused, "match: [{scheme: {prefix: ''}}]"),
            (Refused, "match: [{method: {regex: ''}}]"),
            (Refused, "match: [{authority: {prefix: ''}}]"),
            (Accepted, "match: [{authority: {exact: ''}, headers: {x: {exact: ''}}}]"),
            (Accepted, "headers: {request: {set: {Host: a}}}"),
            (Accepted, "headers: {request: {add: {':authority': a}}}"),
            (Warned, "headers: {request: {set: {Connection: close}}}"),
            (Warned, "headers: {response: {remove: [Content-Length]}}"),
            (Refused, "match: [{headers: {emptyprefix: {prefix: ''}}}]"),
            (Refused, "match: [{headers: {x: {regex: '*'}}}]"),
            (Refused, "match: [{headers: {'a b': {}}}]"),
            (Refused, "match: [{headers: {'@request.auth.claims.a': {exact: b}}}]"),
            (Refused, "match: [{headers: {'@request.auth.claims.': {exact: b}}}]"),
            (Refused, "match: [{queryParams: {q: {regex: '('}}}]"),
            (Refused, "match: [{port: 70000}]"),
            (Refused, long.as_str()),
            (Refused, "headers: {request: {set: {'': value}}}"),
            (Refused, "headers: {request: {remove: ['']}}"),
            (Refused, "headers: {request: {remove: [Host]}}"),
            (Refused, "headers: {response: {remove: ['']}}"),
            (Refused, "headers: {response: {set: {Host: a}}}"),
            (Refused, "headers: {request: {set: {':path': /a}}}"),
            (Accepted, "headers: {response: {set: {i-love-istio: 100%%}}}"),
            (Refused, "headers: {response: {set: {i-love-istio: 100%}}}"),
            (Refused, "headers: {response: {set: {a: \"b\\r\\nc: d\"}}}"),
            (Accepted, "headers: {request: {add: {x: '%REQ(y)%'}}}"),
        ],
    );
}

#[test]
fn traffic_settings() {
    let with_route = |case: &str| {
        format!("{{hosts: [foo.bar], http: [{{route: [{{destination: {{host: foo.baz}}}}], {case}}}]}}")
    };
    check(
        "VirtualService",
        with_route,
        &[
            (Refused, "mirrorPercent: 101"),
            (Refused, "mirrorPercentage: {value: 101}"),
            (Accepted, "mirrorPercentage: {value: 1}"),
            (Refused, "mirrors: [{destination: {host: a.b}, percentage: {value: 101}}]"),
            (Refused, "mirrors: [{percentage: {value: 1}}]"),
            (Accepted, "mirrors: [{destination: {host: a.b}, percentage: {value: 1}}]"),
            (Refused, "mirror: {host: a.b}, mirrors: [{destination: {host: a.b}}]"),
            (Accepted, "fault: {abort: {percentage: {value: 0.001}, httpStatus: 200}}"),
            (Accepted, "fault: {abort: {httpStatus: 200}}"),
            (Refused, "fault: {abort: {httpStatus: 100}}"),
            (Accepted, "fault: {abort: {grpcStatus: DEADLINE_EXCEEDED}}"),
            (Refused, "fault: {abort: {grpcStatus: BAD_STATUS}}"),
            (Refused, "fault: {delay: {percentage: {value: 20}, fixedDelay: 3.000000042s}}"),
            (Refused, "fault: {}"),
            (Warned, "fault: {abort: {percentage: {value: 10}}}"),
            (Warned, "fault: {delay: {percentage: {value: 10}}}"),
            (Warned, "retries: {attempts: 0, backoff: 25ms}"),
            (Refused, "retries: {attempts: 0, retryOn: 5xx}"),
            (Refused, "retries: {attempts: 1, retryOn: '299'}"),
            (Refused, "retries: {attempts: 1, retryOn: '509'}"),
            (Accepted, "retries: {attempts: 1, retryOn: '511,425,208'}"),
            (Warned, "retries: {attempts: 1, retryOn: '5xx, reset'}"),
            (Warned, "retries: {attempts: 1, retryOn: '5xx,'}"),
            (Warned, "corsPolicy: {allowOrigin: ['*'], allowOrigins: [{exact: 'http://a'}]}"),
            (Refused, "corsPolicy: {allowOrigins: [{}]}"),
            (Refused, "corsPolicy: {allowOrigins: [{exact: ''}]}"),
            (Refused, "corsPolicy: {allowOrigins: [{prefix: ''}]}"),
            (Refused, "corsPolicy: {allowOrigins: [{regex: ''}]}"),
            (Accepted, "retries: {attempts: 10, perTryTimeout: 2s, retryOn: '5xx,gateway-error'}"),
            (Accepted, "retries: {attempts: 0}"),
            (Accepted, "retries: {attempts: 10, perTryTimeout: 2s, retryOn: '503,connect-failure'}"),
            (Refused, "retries: {attempts: -1, perTryTimeout: 2s}"),
            (Refused, "retries: {attempts: 0, perTryTimeout: 2s}"),
            (Refused, "retries: {attempts: 10, perTryTimeout: 2.000000001s}"),
            (Refused, "retries: {attempts: 10, perTryTimeout: 0.000000999s}"),
            (Refused, "retries: {attempts: 10, retryOn: '600,connect-failure'}"),
            (Accepted, "timeout: 1ms"),
            (Refused, "timeout: 1.0000001s"),
            (Refused, "timeout: 0s"),
            (Accepted, "corsPolicy: {allowMethods: [GET], exposeHeaders: [h], maxAge: 2s}"),
            (Refused, "corsPolicy: {exposeHeaders: ['']}"),
            (Refused, "corsPolicy: {maxAge: 2.000000042s}"),
            (Refused, "corsPolicy: {allowMethods: [GETT]}"),
        ],
    );
}

#[test]
fn virtual_services() {
    let http = "http: [{route: [{destination: {host: foo.baz}}]}]";
    let spec = |case: &str| format!("{{{}}}", case.replace("HTTP", http));
    check(
        "VirtualService",
        spec,
        &[
            (Accepted, "HTTP"),
            (Refused, "hosts: [foo.ba!r], HTTP"),
            (Refused, "hosts: [foo.bar]"),
            (Refused, "hosts: [foo.bar, Foo.bar], HTTP"),
            (Refused, "hosts: ['*.foo.bar', a.foo.bar], HTTP"),
            (Refused, "hosts: ['*.foo.bar', '*.bar'], HTTP"),
            (Refused, "hosts: [a.foo.bar, '*'], gateways: [gw], HTTP"),
            (Accepted, "hosts: ['*.foo.bar', foo.bar, '*.a.bar'], HTTP"),
            (Refused, "hosts: ['*'], HTTP"),
            (Accepted, "hosts: ['*'], gateways: [gw], HTTP"),
            (Accepted, "hosts: [foo.bar], gateways: [ns1/gateway], HTTP"),
            (Refused, "hosts: [foo.bar], gateways: ['ns1/*'], HTTP"),
            (Accepted, "hosts: [foo.bar], gateways: [./gateway], HTTP"),
            (Refused, "hosts: [foo.bar], gateways: [ns1/a.b], HTTP"),
            (Warned, "hosts: [foo.bar], gateways: [gw, ns1/a.b], HTTP"),
            (Refused, "hosts: [foo.bar], gateways: ['g*', ns1/a], HTTP"),
            (Warned, "hosts: [foo.bar], gateways: [gateway.ns.svc.cluster.local], HTTP"),
            (Refused, "gateways: [gw], HTTP"),
            (Refused, "http: [{}]"),
            (Refused, "http: [{delegate: {name: a}}]"),
            (Accepted, "http: [{match: [{sourceNamespace: test}], route: [{destination: {host: a.b}}]}]"),
            (Refused, "tcp: [{route: [{destination: {host: foo.baz}}]}]"),
            (Accepted, "hosts: [foo.bar], tcp: [{route: [{destination: {host: '*foo.baz'}}]}]"),
            (Refused, "hosts: [foo.bar], tcp: [{match: [{port: 999}]}]"),
            (Refused, "hosts: [foo.bar], tls: [{match: [{port: 999, sniHosts: [foo.bar]}]}]"),
            (
                Warned,
                "hosts: [foo.bar], tls: [{match: [{sniHosts: [1.1.1.1]}], route: [{destination: {host: a.b}}]}]",
            ),
            (
                Refused,
                "hosts: [foo.bar], tls: [{match: [{sniHosts: [foo.*.com]}], route: [{destination: {host: a.b}}]}]",
            ),
            (Refused, "hosts: [foo.bar], exportTo: ['*', ns], HTTP"),
        ],
    );
}

#[test]
fn gateways() {
    let http = "port: {number: 7, name: http, protocol: HTTP}";
    let https = "port: {number: 443, name: https, protocol: HTTPS}, hosts: [foo.bar.com]";
    let spec = |case: &str| {
        let case = case.replace("SECURE", https).replace("PLAIN", http);
        format!("{{selector: {{istio: ingressgateway}}, servers: [{{{case}}}]}}")
    };
    check(
        "Gateway",
        spec,
        &[
            (Accepted, "PLAIN, hosts: [foo.bar.com]"),
            (Accepted, "PLAIN, hosts: [1.1.1.1]"),
            (Accepted, "PLAIN, hosts: ['*/foo.bar.com', './foo.com', '*', ns/*.com]"),
            (Refused, "PLAIN, hosts: [~/foo.bar.com]"),
            (Refused, "PLAIN, hosts: [foo]"),
            (Refused, "PLAIN, hosts: []"),
            (Refused, "PLAIN, hosts: [foo.bar.com], bind: 'unix://@foobar'"),
            (Refused, "PLAIN, hosts: [foo.bar.com], tls: {mode: SIMPLE, credentialName: x}"),
            (Accepted, "PLAIN, hosts: [foo.bar.com], tls: {httpsRedirect: true}"),
            (Refused, "port: {number: 66000, name: http, protocol: HTTP}, hosts: [foo.bar.com]"),
            (Refused, "port: {number: 7, name: http, protocol: kafka}, hosts: [foo.bar.com]"),
            (Refused, "SECURE"),
            (Warned, "SECURE, tls: {httpsRedirect: true}"),
            (Accepted, "SECURE, tls: {mode: SIMPLE, credentialName: x}"),
            (Refused, "SECURE, tls: {mode: SIMPLE, credentialName: x, serverCertificate: c, privateKey: k}"),
            (Refused, "SECURE, tls: {mode: SIMPLE, privateKey: k}"),
            (Refused, "SECURE, tls: {mode: SIMPLE, serverCertificate: c}"),
            (Refused, "SECURE, tls: {mode: MUTUAL, serverCertificate: c, privateKey: k}"),
            (
                Refused,
                "SECURE, tls: {mode: SIMPLE, credentialName: x, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2}",
            ),
            (Refused, "PLAIN, hosts: [a.com]}, {PLAIN, hosts: [b.com]"),
        ],
    );
}

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
fn service_entries_and_workloads() {
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
    check(
        "WorkloadEntry",
        plain,
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
fn hosts_by_syntax() {
    for (host, valid) in [
        ("a.example.com", true),
        ("*", true),
        ("*.example.com", true),
        ("*foo.com", true),
        ("*-foo.com", true),
        ("short", true),
        ("a..b", false),
        ("a.*.b", false),
        ("a_b.com", false),
        ("-a.com", false),
        ("", false),
        ("a b", false),
    ] {
        assert_eq!(super::rules::host_syntax(host).is_ok(), valid, "{host}");
    }
    assert!(super::rules::host_syntax(&"a.".repeat(140)).is_err());
}

#[test]
fn authorization_policies() {
    check(
        "AuthorizationPolicy",
        |case| format!("{{{case}}}"),
        &[
            (Accepted, ""),
            (Accepted, "rules: [{}]"),
            (Refused, "action: DENY"),
            (Accepted, "action: DENY, rules: [{}]"),
            (Refused, "action: LOG"),
            (Refused, "action: CUSTOM, rules: [{}]"),
            (Refused, "action: CUSTOM, provider: {name: ''}, rules: [{}]"),
            (Refused, "action: CUSTOM, provider: {name: me}"),
            (Accepted, "action: CUSTOM, provider: {name: me}, rules: [{}]"),
            (Refused, "provider: {name: me}, rules: [{}]"),
            (Refused, "targetRefs: [{kind: Pod, name: x}], rules: [{}]"),
            (
                Accepted,
                "targetRefs: [{kind: ServiceEntry, group: networking.istio.io, name: x}], rules: [{}]",
            ),
            (Refused, "selector: {matchLabels: {a: b}}, targetRef: {kind: Service, name: foo}"),
            (Refused, "rules: [{from: []}]"),
            (Refused, "rules: [{to: []}]"),
            (Refused, "rules: [{from: [{}]}]"),
            (Refused, "rules: [{to: [{operation: {}}]}]"),
            (Refused, "rules: [{when: [{values: [a]}]}]"),
        ],
    );
    check(
        "AuthorizationPolicy",
        |case| format!("{{rules: [{{from: [{{source: {{{case}}}}}]}}]}}"),
        &[
            (Accepted, "ipBlocks: [1.2.3.4, 5.6.0.0/16, '::1', '2001:db8::/32']"),
            (Refused, "ipBlocks: [1.2.3]"),
            (Refused, "notRemoteIpBlocks: [1.2.3.4/33]"),
            (Refused, "principals: ['']"),
            (Accepted, "serviceAccounts: [ns/sa, sa]"),
            (Refused, "serviceAccounts: [a/b/c]"),
            (Refused, "serviceAccounts: ['sa*']"),
            (Refused, "serviceAccounts: [ns/sa], namespaces: [ns]"),
            (Refused, "serviceAccounts: [ns/sa], notPrincipals: [a]"),
        ],
    );
    check(
        "AuthorizationPolicy",
        |case| format!("{{rules: [{{to: [{{operation: {{{case}}}}}]}}]}}"),
        &[
            (Accepted, "paths: ['*', '/a*', '*/b', '/c/{*}/d', '/{**}']"),
            (Refused, "paths: ['/a/{*}b']"),
            (Refused, "paths: ['/a/{foo}']"),
            (Refused, "notPaths: ['/a}*']"),
            (Refused, "notPaths: ['/{**}/{*}']"),
            (Refused, "paths: ['/{*}/*']"),
            (Accepted, "ports: ['80']"),
            (Refused, "ports: ['0']"),
            (Refused, "notPorts: [http]"),
            (Refused, "hosts: ['']"),
        ],
    );
    check(
        "AuthorizationPolicy",
        |case| format!("{{rules: [{{when: [{{{case}}}]}}]}}"),
        &[
            (Accepted, "key: 'request.headers[X-A]', values: ['*']"),
            (Refused, "key: 'request.headers[X A]', values: ['*']"),
            (Refused, "key: 'request.headers[]', values: ['*']"),
            (Refused, "key: 'request.headers', values: ['*']"),
            (Refused, "key: source.ip, values: [a]"),
            (Accepted, "key: remote.ip, notValues: [10.0.0.0/8]"),
            (Refused, "key: destination.port, values: [x]"),
            (Accepted, "key: 'request.auth.claims[a][b]', values: [x]"),
            (Refused, "key: 'request.auth.claims.a', values: [x]"),
            (Accepted, "key: 'experimental.envoy.filters.a.b[c]', values: [x]"),
            (Refused, "key: experimental.envoy.filters.a, values: [x]"),
            (Refused, "key: connection.sni"),
            (Refused, "key: request.color, values: [x]"),
            (Refused, "key: connection.sni, values: ['']"),
        ],
    );
}

#[test]
fn rules_of_providers() {
    let wrap = |rule: &str| format!("{{action: CUSTOM, provider: {{name: me}}, rules: [{{{rule}}}]}}");
    check(
        "AuthorizationPolicy",
        wrap,
        &[
            (Accepted, "from: [{source: {ipBlocks: [1.2.3.4]}}], to: [{operation: {paths: [/a]}}]"),
            (
                Accepted,
                "when: [{key: 'request.headers[a]', values: [b]}, {key: source.ip, values: [1.2.3.4]}]",
            ),
            (Refused, "from: [{source: {requestPrincipals: ['*']}}]"),
            (Refused, "from: [{source: {notPrincipals: [a]}}]"),
            (Refused, "from: [{source: {namespaces: [a]}}]"),
            (Refused, "from: [{source: {serviceAccounts: [a]}}]"),
            (Refused, "when: [{key: 'request.auth.claims[a]', values: [b]}]"),
            (Refused, "when: [{key: source.principal, values: [b]}]"),
        ],
    );
}

#[test]
fn request_authentications() {
    check(
        "RequestAuthentication",
        |case| format!("{{{case}}}"),
        &[
            (Accepted, ""),
            (Accepted, "selector: {matchLabels: {app: httpbin}}, jwtRules: [{issuer: example.com}]"),
            (Refused, "targetRefs: [{kind: Service, name: foo}], targetRef: {kind: Service, name: foo}"),
            (Refused, "selector: {matchLabels: {a: b}}, targetRef: {kind: Service, name: foo}"),
            (Accepted, "targetRef: {kind: Service, name: foo, group: ''}"),
            (Refused, "targetRef: {kind: Service}"),
            (Refused, "targetRef: {kind: Service, name: foo, namespace: bar}"),
            (Accepted, "targetRef: {kind: Gateway, name: foo, group: gateway.networking.k8s.io}"),
            (Accepted, "targetRefs: [{kind: GatewayClass, name: foo, group: gateway.networking.k8s.io}]"),
            (Refused, "targetRef: {kind: Gateway, name: foo, group: networking.istio.io}"),
            (Refused, "targetRefs: [{kind: Pod, name: foo}]"),
            (Refused, "targetRef: {kind: Service, name: foo, group: __}"),
            (Refused, "targetRef: {kind: Serv_ice, name: foo}"),
            (Refused, "selector: {matchLabels: {'a*': b}}"),
            (Refused, "selector: {matchLabels: {'': b}}"),
            (Refused, "jwtRules: [{audiences: [a]}]"),
            (Refused, "jwtRules: [{issuer: ''}]"),
            (Refused, "jwtRules: [{action: DENY, issuer: i}]"),
        ],
    );
    check(
        "RequestAuthentication",
        |case| format!("{{jwtRules: [{{issuer: example, {case}}}]}}"),
        &[
            (
                Accepted,
                "jwksUri: 'https://example.com/.well-known/jwks.json', forwardOriginalToken: true, fromCookies: [foo], fromHeaders: [{name: foo, prefix: baz}], outputClaimToHeaders: [{claim: abc, header: def}], timeout: 5s, outputPayloadToHeader: header, spaceDelimitedClaims: [custom_scope, provider.login.scope], presence: REQUIRED",
            ),
            (Accepted, "jwks: '{\"keys\": []}'"),
            (Refused, "jwks: '{\"keys\": []}', jwksUri: 'http://a/'"),
            (Refused, "jwks_uri: 'http://b/', jwksUri: 'http://a/'"),
            (Refused, "jwks: 'no json'"),
            (Refused, "jwks: '{}'"),
            (Refused, "audiences: ['']"),
            (Refused, "jwksUri: 'hTPp\\\\blah'"),
            (Refused, "jwksUri: 'http://'"),
            (Refused, "jwksUri: 'http://user:password@a/'"),
            (Refused, "jwksUri: 'file:///etc/passwd'"),
            (Refused, "jwksUri: \"http://a/\\r\\nx: y\""),
            (Refused, "fromHeaders: [{prefix: baz}]"),
            (Refused, "fromHeaders: [{name: '', prefix: baz}]"),
            (Refused, "fromHeaders: [{name: 'a b'}]"),
            (Refused, "fromParams: ['']"),
            (Refused, "fromCookies: ['']"),
            (Refused, "outputClaimToHeaders: [~]"),
            (Refused, "outputClaimToHeaders: [{claim: '', header: h}]"),
            (Refused, "outputClaimToHeaders: [{claim: x, header: ''}]"),
            (Refused, "outputClaimToHeaders: [{claim: x, header: ':authority'}]"),
            (Warned, "outputClaimToHeaders: [{claim: x, header: Content-Length}]"),
            (Warned, "outputPayloadToHeader: Host"),
            (Refused, "outputPayloadToHeader: 'a b'"),
            (Refused, "timeout: apple"),
            (Refused, "timeout: 100us"),
            (Refused, "spaceDelimitedClaims: ['']"),
            (Refused, "presence: MANDATORY"),
        ],
    );
}

#[test]
fn peer_authentications() {
    check(
        "PeerAuthentication",
        |case| format!("{{{case}}}"),
        &[
            (Accepted, ""),
            (Accepted, "mtls: {mode: STRICT}"),
            (Accepted, "selector: {matchLabels: {a: b}}, portLevelMtls: {8080: {mode: DISABLE}, '81': {}}"),
            (Refused, "mtls: {mode: BLAH}"),
            (Refused, "mtls: {modus: STRICT}"),
            (Refused, "selector: {matchLabels: {'a*': b}}"),
            (Refused, "portLevelMtls: {80: {mode: STRICT}}"),
            (Refused, "selector: {matchLabels: {a: b}}, portLevelMtls: {}"),
            (Refused, "selector: {matchLabels: {a: b}}, portLevelMtls: {acd: {mode: STRICT}}"),
            (Refused, "selector: {matchLabels: {a: b}}, portLevelMtls: {0: {mode: STRICT}}"),
            (Refused, "selector: {matchLabels: {a: b}}, portLevelMtls: {42949672: {mode: STRICT}}"),
        ],
    );
}

#[test]
fn telemetries() {
    check(
        "Telemetry",
        |case| format!("{{{case}}}"),
        &[
            (Accepted, ""),
            (
                Accepted,
                "accessLogging: [{providers: [{name: envoy}], filter: {expression: response.code >= 400}}]",
            ),
            (Refused, "accessLogging: [{providers: [{name: ''}]}]"),
            (Refused, "accessLogging: [{providers: [{}]}]"),
            (Refused, "metrics: [{providers: [{name: ''}]}]"),
            (Refused, "metrics: [{overrides: [{match: {metric: NO_SUCH}}]}]"),
            (Refused, "metrics: [{overrides: [{match: {customMetric: ''}}]}]"),
            (Accepted, "metrics: [{overrides: [{tagOverrides: {a: {value: b}, c: {operation: REMOVE}}}]}]"),
            (Refused, "metrics: [{overrides: [{tagOverrides: {a: {operation: UPSERT}}}]}]"),
            (Refused, "metrics: [{overrides: [{tagOverrides: {a: {operation: REMOVE, value: b}}}]}]"),
            (Refused, "selector: {matchLabels: {a: b}}, targetRef: {kind: Service, name: foo}"),
            (Refused, "sampling: 1"),
        ],
    );
    check(
        "Telemetry",
        |case| format!("{{tracing: [{{{case}}}]}}"),
        &[
            (Accepted, "randomSamplingPercentage: 0, disableSpanReporting: false"),
            (Accepted, "randomSamplingPercentage: 99.99, customTags: {a: {literal: {value: b}}}"),
            (Refused, "randomSamplingPercentage: 100.01"),
            (Refused, "randomSamplingPercentage: -1"),
            (Refused, "providers: [{name: ''}]"),
            (Refused, "customTags: {a: {}}"),
            (Refused, "customTags: {a: {literal: {value: ''}}}"),
            (Refused, "customTags: {a: {header: {name: ''}}}"),
            (Refused, "customTags: {a: {header: {name: b}, literal: {value: c}}}"),
            (Refused, "match: {mode: INBOUND}"),
        ],
    );
}
