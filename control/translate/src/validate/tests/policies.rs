use super::*;

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
}

#[test]
fn rules_of_issuers() {
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
            (Refused, "targetRefs: [{kind: Pod, name: foo}]"),
            (Refused, "selector: {matchLabels: {'a*': b}}"),
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
