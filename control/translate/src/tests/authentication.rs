use super::*;
use tidegate_model::{HeaderName, KeyLocation, KeySource, TokenLocation, TokenRule};

const KEYS: &str = "'{\"keys\": []}'";

fn rules(lines: &str) -> (Vec<Arc<TokenRule>>, Vec<String>) {
    let t = translate(&objects(lines), &env());
    (t.model.authentication.rules.clone(), said(&t))
}

#[test]
fn the_rules_of_all_policies_that_select_the_gateway_are_sorted_by_issuer() {
    let lines = [
        format!(
            "RequestAuthentication istio-system/b: {{jwtRules: [{{issuer: z, jwks: {KEYS}}}, {{jwksUri: 'http://keys/'}}]}}"
        ),
        format!(
            "RequestAuthentication istio-system/a: {{selector: {{matchLabels: {{istio: ingressgateway}}}}, jwtRules: [{{issuer: m, jwks: {KEYS}}}]}}"
        ),
        format!(
            "RequestAuthentication istio-system/c: {{selector: {{matchLabels: {{istio: other}}}}, jwtRules: [{{issuer: x, jwks: {KEYS}}}]}}"
        ),
        format!("RequestAuthentication default/d: {{jwtRules: [{{issuer: v, jwks: {KEYS}}}]}}"),
        format!(
            "RequestAuthentication istio-system/e: {{targetRefs: [{{kind: Gateway, name: g, group: gateway.networking.k8s.io}}], jwtRules: [{{issuer: w, jwks: {KEYS}}}]}}"
        ),
    ];
    let (rules, said) = rules(&lines.join("\n"));
    let seen: Vec<_> =
        rules.iter().map(|r| (r.object.name.to_string(), r.index, r.issuer.as_deref())).collect();
    let rule = |name: &str, index, issuer| (name.to_owned(), index, issuer);
    assert_eq!(seen, [rule("b", 1, None), rule("a", 0, Some("m")), rule("b", 0, Some("z"))]);
    assert_eq!(said, ["note  not-selected", "note  not-selected", "note spec.targetRefs not-selected"]);
    assert!(rules.iter().all(|r| r.origin.line > 0));
}

#[test]
fn every_field_has_its_meaning() {
    let (rules, said) = rules(
        "RequestAuthentication istio-system/p: {jwtRules: [{issuer: 'https://i/', audiences: [a, b], timeout: 250ms, \
         fromHeaders: [{name: X-B, prefix: 'T '}, {name: x-a}], fromParams: [p], fromCookies: [d, c], \
         outputPayloadToHeader: X-Payload, outputClaimToHeaders: [{header: X-Sub, claim: sub}, {header: Connection, claim: nn}], \
         forwardOriginalToken: true, spaceDelimitedClaims: [roles, scope], presence: REQUIRED}, {issuer: j, jwks_uri: 'http://k'}]}",
    );
    let (first, second) = (&rules[0], &rules[1]);
    let header = |name: &str, prefix: &str| TokenLocation::Header(HeaderName::new(name), prefix.into());
    assert_eq!(
        first.locations,
        [
            header("x-a", ""),
            header("x-b", "T "),
            TokenLocation::Param("p".into()),
            TokenLocation::Cookie("c".into()),
            TokenLocation::Cookie("d".into()),
        ]
    );
    assert_eq!(
        second.locations,
        [header("authorization", "Bearer "), TokenLocation::Param("access_token".into())]
    );
    let remote = |location, ms| KeySource::Remote { location, timeout: std::time::Duration::from_millis(ms) };
    assert_eq!(first.keys, remote(KeyLocation::Issuer("https://i/".into()), 250));
    assert_eq!(second.keys, remote(KeyLocation::KeySet("http://k".into()), 5000));
    assert_eq!(first.audiences.iter().map(|a| &**a).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(first.payload_header, Some(HeaderName::new("x-payload")));
    let claims: Vec<_> = first.claim_headers.iter().map(|c| (c.header.as_str(), &*c.claim)).collect();
    assert_eq!(claims, [("x-sub", "sub")], "framing is never written");
    let lists: Vec<_> = first.space_delimited.iter().map(|c| &**c).collect();
    assert_eq!(lists, ["permission", "roles", "scope"]);
    assert_eq!((first.forward, first.required, second.forward, second.required), (true, true, false, false));
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn an_issuer_without_a_way_to_its_keys_trusts_none() {
    let (rules, said) = rules("RequestAuthentication istio-system/p: {jwtRules: [{issuer: me@example.com}]}");
    assert_eq!(rules[0].keys, KeySource::Inline(r#"{"keys": []}"#.into()));
    assert_eq!(said, ["warning spec.jwtRules[0].issuer no-keys"]);
}
