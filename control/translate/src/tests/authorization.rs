use super::*;
use tidegate_model::{Attribute, CheckProtocol, Policy, PolicyAction};

/// A service that decides, and the mesh config with it.
fn with_provider(kind: &str, settings: &str, lines: &str) -> String {
    format!(
        "Service default/authz: {{ports: [{{name: http, port: 8000}}]}}\n\
         ConfigMap istio-system/istio: {{mesh: 'extensionProviders: [{{name: me, {kind}: \
         {{service: default/authz.default.svc.cluster.local, port: 8000, {settings}}}}}]'}}\n{lines}"
    )
}

fn policies(lines: &str) -> (Vec<Arc<Policy>>, Vec<String>) {
    let t = translate(&objects(lines), &env());
    (t.model.authorization.policies.clone(), said(&t))
}

#[test]
fn policies_that_select_the_gateway_count_by_name() {
    let (policies, said) = policies(
        "AuthorizationPolicy istio-system/b: {}
        AuthorizationPolicy istio-system/a: {selector: {matchLabels: {istio: ingressgateway}}, action: DENY, rules: [{}]}
        AuthorizationPolicy istio-system/c: {selector: {matchLabels: {istio: other}}}
        AuthorizationPolicy default/d: {}
        AuthorizationPolicy istio-system/e: {targetRefs: [{kind: Gateway, name: g, group: gateway.networking.k8s.io}]}",
    );
    let seen: Vec<_> = policies.iter().map(|p| (&*p.object.name, p.action.as_str(), p.rules.len())).collect();
    assert_eq!(seen, [("a", "DENY", 1), ("b", "ALLOW", 0)]);
    assert_eq!(said, ["note  not-selected", "note  not-selected", "note spec.targetRefs not-selected"]);
    assert!(policies.iter().all(|p| p.origin.line > 0 && !p.dry_run));
}

#[test]
fn what_can_never_match_is_said() {
    let (policies, found) = policies(
        "AuthorizationPolicy istio-system/p: {rules: [{from: [{source: {principals: [a], notNamespaces: [b], ipBlocks: \
         [10.0.0.1]}}, {source: {serviceAccounts: [sa, ns/sa]}}], when: [{key: source.trustDomain, values: [c]}, {key: \
         'experimental.envoy.filters.a[b]', notValues: [d]}]}]}",
    );
    assert_eq!(
        found,
        [
            "warning spec.rules[0].from[0].source.principals never-matches",
            "warning spec.rules[0].from[0].source.notNamespaces never-matches",
            "warning spec.rules[0].from[1].source.serviceAccounts never-matches",
            "warning spec.rules[0].when[0].values never-matches",
            "warning spec.rules[0].when[1].notValues never-matches",
        ]
    );
    let mutual = "Gateway istio-system/g: {selector: {istio: ingressgateway}, servers: [{port: {number: 443, name: tls, \
                  protocol: HTTPS}, hosts: ['*'], tls: {mode: OPTIONAL_MUTUAL, credentialName: c}}]}\n\
                  AuthorizationPolicy istio-system/p: {rules: [{from: [{source: {principals: [a]}}]}]}";
    assert!(
        said(&translate(&objects(mutual), &env())).iter().all(|s| !s.contains("never-matches")),
        "clients may have identities"
    );
    let rule = &policies[0].rules[0];
    let texts: Vec<_> = rule.sources[1][0].values.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["istio-system/sa", "ns/sa"], "of the policy's own namespace");
    assert_eq!(rule.sources[0][2].attribute, Attribute::SourceIp);
    assert_eq!(rule.conditions.len(), 2);
}

#[test]
fn providers_know_no_tokens() {
    let rules = "rules: [{from: [{source: {requestPrincipals: [a/b]}}], when: [{key: 'request.auth.claims[c]', values: [d]}]}]";
    let (_, said) = policies(&format!("AuthorizationPolicy istio-system/p: {{action: DENY, {rules}}}"));
    assert!(said.is_empty(), "{said:?}");
    let custom =
        format!("AuthorizationPolicy istio-system/p: {{action: CUSTOM, provider: {{name: x}}, {rules}}}");
    let (_, said) = policies(&custom);
    for field in ["from[0].source.requestPrincipals", "when[0].values"] {
        let expected = format!("warning spec.rules[0].{field} never-matches");
        assert!(said.contains(&expected), "{said:?}");
    }
}

#[test]
fn broken_policies_deny_everything() {
    let broken = tidegate_model::ObjectRef::new("AuthorizationPolicy", "istio-system", "p");
    let env = Env { broken_policies: [(broken.clone(), tidegate_model::Origin::default())].into(), ..env() };
    let t = translate(&objects("AuthorizationPolicy istio-system/q: {rules: [{}]}"), &env);
    let policies = &t.model.authorization.policies;
    assert_eq!((&policies[0].object, &policies[0].action), (&broken, &PolicyAction::Deny));
    assert_eq!(policies[0].rules, [tidegate_model::PolicyRule::default()]);
    assert_eq!(said(&t), ["error  denies-everything"]);
}

#[test]
fn connections_have_no_requests() {
    let tcp = "Gateway istio-system/g: {selector: {istio: ingressgateway}, servers: [{port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}]}
        VirtualService istio-system/v: {hosts: ['*'], gateways: [g], tcp: [{route: [{destination: {host: authz.default.svc.cluster.local}}]}]}";
    for (policy, expected) in [
        (
            "{action: DENY, rules: [{to: [{operation: {paths: [/a]}}]}]}",
            vec!["warning spec.rules[0] requests-alone"],
        ),
        ("{rules: [{to: [{operation: {paths: [/a]}}]}]}", vec!["warning spec.rules[0] requests-alone"]),
        ("{action: DENY, rules: [{to: [{operation: {paths: [/a], ports: ['1']}}]}]}", vec![]),
        ("{action: AUDIT, rules: [{to: [{operation: {paths: [/a]}}]}]}", vec![]),
        ("{action: CUSTOM, provider: {name: me}, rules: [{}]}", vec!["warning spec.provider requests-alone"]),
    ] {
        let lines = with_provider(
            "envoyExtAuthzHttp",
            "timeout: 1s",
            &format!("{tcp}\nAuthorizationPolicy istio-system/p: {policy}"),
        );
        let said = |lines: &str| {
            policies(lines).1.into_iter().filter(|s| !s.contains("data.mesh")).collect::<Vec<_>>()
        };
        assert_eq!(said(&lines), expected, "{policy}");
        // of the mesh's own connections none is closed
        let passed = "{port: {number: 9000, name: tls, protocol: TLS}, hosts: ['*.local'], tls: {mode: AUTO_PASSTHROUGH}}";
        let lines = lines.replace("{port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}", passed);
        let said = said(&lines);
        assert!(lines.contains(passed) && said.iter().all(|s| !s.contains("requests-alone")), "{said:?}");
    }
}

const CUSTOM: &str =
    "AuthorizationPolicy istio-system/p: {action: CUSTOM, provider: {name: ME}, rules: [{}]}";

#[test]
fn a_provider_has_its_settings() {
    let settings = "timeout: 2s, pathPrefix: /check, failOpen: true, clearRouteCache: true, statusOnError: \"503\", \
                    includeRequestHeadersInCheck: [X-A, x-b-*], includeAdditionalHeadersInCheck: {x-c: d}, \
                    includeRequestBodyInCheck: {maxRequestBytes: 10, allowPartialMessage: true}, \
                    headersToUpstreamOnAllow: [x-d, host], headersToDownstreamOnAllow: [x-e], headersToDownstreamOnDeny: [x-f]";
    let (found, said) = policies(&with_provider("envoyExtAuthzHttp", settings, CUSTOM));
    assert_eq!(
        said,
        [
            "warning data.mesh.extensionProviders[0].envoyExtAuthzHttp.headersToUpstreamOnAllow[1] not-enforced"
        ]
    );
    let PolicyAction::Custom(Ok(by)) = &found[0].action else { panic!("{:?}", found[0].action) };
    assert_eq!(by.cluster.as_str(), "outbound|8000||authz.default.svc.cluster.local");
    assert_eq!(
        (by.timeout.as_secs(), by.fail_open, by.clear_route_cache, by.status_on_error),
        (2, true, true, 503)
    );
    assert_eq!(by.body.map(|b| (b.most, b.partial, b.as_bytes)), Some((10, true, false)));
    let CheckProtocol::Http(http) = &by.protocol else { panic!("{:?}", by.protocol) };
    let text =
        |list: &[tidegate_model::TextPattern]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        (&*http.path_prefix, text(&http.request_headers)),
        ("/check", vec!["x-a".into(), "x-b-*".into()])
    );
    assert_eq!(
        (text(&http.upstream_on_allow), text(&http.downstream_on_allow)),
        (vec!["x-d".into()], vec!["x-e".into()])
    );
    let (found, said) = policies(&with_provider("envoyExtAuthzGrpc", "failOpen: false", CUSTOM));
    assert_eq!(said, [""; 0]);
    let PolicyAction::Custom(Ok(by)) = &found[0].action else { panic!("{:?}", found[0].action) };
    assert_eq!((&by.protocol, by.timeout.as_secs(), by.status_on_error), (&CheckProtocol::Grpc, 600, 403));
}

#[test]
fn policies_that_are_tried_only_do_not_choose_the_provider() {
    let tried = "AuthorizationPolicy istio-system/a annotations={istio.io/dry-run=\"true\"}: \
                 {action: CUSTOM, provider: {name: other}, rules: [{}]}";
    let (found, said) =
        policies(&with_provider("envoyExtAuthzGrpc", "timeout: 1s", &format!("{tried}\n{CUSTOM}")));
    let seen: Vec<_> =
        found.iter().map(|p| (p.dry_run, matches!(p.action, PolicyAction::Custom(Ok(_))))).collect();
    assert_eq!(seen, [(true, false), (false, true)]);
    assert_eq!(said, ["warning spec.provider.name several-providers"]);
}

#[test]
fn a_provider_that_cannot_be_asked_refuses() {
    let other = CUSTOM.replace("system/p", "system/q").replace("ME", "other");
    for (kind, settings, lines, expected) in [
        (
            "envoyExtAuthzGrpc",
            "timeout: 1s",
            other.clone(),
            vec![
                "note data.mesh.extensionProviders[0].envoyExtAuthzGrpc no-effect",
                "error spec.provider.name no-provider",
            ],
        ),
        (
            "envoyExtAuthzGrpc",
            "timeout: 1s",
            format!("{CUSTOM}\n{other}"),
            vec!["error spec.provider.name several-providers"],
        ),
        (
            "opentelemetry",
            "maxTagLength: 9",
            CUSTOM.into(),
            vec![
                "note data.mesh.extensionProviders[0].opentelemetry no-effect",
                "error spec.provider.name no-provider",
            ],
        ),
        (
            "envoyExtAuthzHttp",
            "pathPrefix: a",
            CUSTOM.into(),
            vec![
                "error data.mesh.extensionProviders[0].envoyExtAuthzHttp.pathPrefix invalid-path",
                "error spec.provider.name no-provider",
            ],
        ),
        (
            "envoyExtAuthzHttp",
            "statusOnError: \"200\"",
            CUSTOM.into(),
            vec!["error data.mesh.extensionProviders[0].envoyExtAuthzHttp.statusOnError invalid-status"],
        ),
    ] {
        let (found, said) = policies(&with_provider(kind, settings, &lines));
        assert_eq!(said, expected, "{kind} {settings} {lines}");
        let refuses = found.iter().filter(|p| matches!(p.action, PolicyAction::Custom(Err(_)))).count();
        assert_eq!(
            refuses,
            expected.iter().filter(|s| s.starts_with("error spec")).count(),
            "{kind} {settings}"
        );
    }
}
