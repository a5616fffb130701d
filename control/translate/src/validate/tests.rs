mod policies;
mod upstreams;

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
            (Warned, "headers: {request: {set: {Host: '%REQ(x-h)%'}}}"),
            (Warned, "headers: {request: {set: {Host: '50%'}}}"),
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
