use super::*;
use std::time::Duration;
use tidegate_model::{HeaderOp, PathRewrite, RedirectPath, RedirectPort};

fn routes(http: &str) -> Vec<Arc<Route>> {
    let line = format!("VirtualService default/v: {{hosts: [x.com], gateways: [gateway], http: [{http}]}}");
    let t = usual(&line);
    host(&t, "http.80", "x.com").map(|h| h.routes.clone()).unwrap_or_default()
}

const TO_A: &str = "route: [{destination: {host: a}}]";

#[test]
fn rewrites_by_the_kind_of_match() {
    for (matches, expected) in [
        ("[{uri: {prefix: /foo}}]", PathRewrite::Prefix("/new".into())),
        ("[{headers: {x: {exact: yy}}}]", PathRewrite::Prefix("/new".into())),
        ("[{uri: {exact: /foo}}]", PathRewrite::Full("/new".into())),
        ("[{uri: {regex: '/f.*'}}]", PathRewrite::Full("/new".into())),
    ] {
        let made = routes(&format!("{{match: {matches}, rewrite: {{uri: /new}}, {TO_A}}}"));
        let Action::Forward(f) = &*made[0].action else { panic!("{matches}") };
        assert_eq!(f.path_rewrite, Some(expected), "{matches}");
    }
    let made =
        routes(&format!("{{rewrite: {{uriRegexRewrite: {{match: '/(a)', rewrite: '\\1'}}}}, {TO_A}}}"));
    let Action::Forward(f) = &*made[0].action else { panic!() };
    assert_eq!(
        f.path_rewrite,
        Some(PathRewrite::Regex { pattern: "/(a)".into(), substitution: "\\1".into() })
    );
}

#[test]
fn blocks_share_their_action() {
    let made = routes(&format!("{{match: [{{uri: {{prefix: /a}}}}, {{uri: {{prefix: /b}}}}], {TO_A}}}"));
    assert!(Arc::ptr_eq(&made[0].action, &made[1].action));
    assert_eq!(made[1].rule.match_index, Some(1));
}

#[test]
fn the_older_list_of_origins_counts_only_alone() {
    for (policy, expected) in
        [("{allowOrigin: [a]}", "a"), ("{allowOrigin: [a], allowOrigins: [{exact: b}]}", "b")]
    {
        let made = routes(&format!("{{corsPolicy: {policy}, {TO_A}}}"));
        let origins = &made[0].cors.as_ref().unwrap().allow_origins;
        assert_eq!(*origins, [tidegate_model::StringMatch::Exact(expected.into())], "{policy}");
    }
}

#[test]
fn redirects() {
    for (redirect, status, port, path) in [
        ("{uri: /t}", 301, RedirectPort::Keep, Some(RedirectPath::Full("/t".into()))),
        (
            "{prefixRewrite: /t, redirectCode: 308}",
            308,
            RedirectPort::Keep,
            Some(RedirectPath::Prefix("/t".into())),
        ),
        ("{scheme: https, port: 0}", 301, RedirectPort::Keep, None),
        ("{scheme: https, port: 8443}", 301, RedirectPort::Number(8443), None),
        ("{scheme: https, derivePort: FROM_REQUEST_PORT}", 301, RedirectPort::FromRequestPort, None),
        ("{authority: b.com, derivePort: FROM_PROTOCOL_DEFAULT}", 301, RedirectPort::Keep, None),
    ] {
        let made = routes(&format!("{{redirect: {redirect}}}"));
        let Action::Redirect(r) = &*made[0].action else { panic!("{redirect}") };
        assert_eq!((r.status, r.port, &r.path), (status, port, &path), "{redirect}");
    }
}

#[test]
fn direct_responses_carry_body_and_headers() {
    let made =
        routes("{directResponse: {status: 503, body: {string: hi}}, headers: {response: {set: {X-A: '1'}}}}");
    let Action::DirectResponse(d) = &*made[0].action else { panic!() };
    assert_eq!((d.status, &*d.body, &*d.details), (503, &b"hi"[..], "direct_response"));
    assert!(matches!(&d.response_headers[..], [HeaderOp::Set(n, _)] if n.as_str() == "x-a"));
}

#[test]
fn weights_and_timeouts() {
    let weighted = "route: [{destination: {host: a}, weight: 90}, {destination: {host: b}, weight: 10}, {destination: {host: missing}, weight: 0}]";
    for (rule, weights, timeout) in [
        (format!("{{timeout: 2s, {weighted}}}"), vec![90, 10], Some(Duration::from_secs(2))),
        ("{route: [{destination: {host: a}, weight: 0}]}".into(), vec![1], None),
        (format!("{{timeout: 0s, {TO_A}}}"), vec![1], None),
    ] {
        let made = routes(&rule);
        let Action::Forward(f) = &*made[0].action else { panic!("{rule}") };
        let seen: Vec<_> = f.destinations.iter().map(|d| d.weight).collect();
        assert_eq!((seen, f.timeout), (weights, timeout), "{rule}");
    }
}

#[test]
fn building_stops_at_the_first_catch_all() {
    let made = routes(&format!(
        "{{match: [{{uri: {{prefix: /a}}}}, {{port: 80}}, {{uri: {{prefix: /b}}}}], {TO_A}}}, {{match: [{{uri: {{prefix: /c}}}}], {TO_A}}}"
    ));
    assert_eq!(made.iter().map(|r| path(&r.matches)).collect::<Vec<_>>(), ["/a", "*"]);
}

#[test]
fn names_and_rule_references() {
    let made = routes(&format!(
        "{{name: first, match: [{{name: m, uri: {{prefix: /a}}}}, {{uri: {{prefix: /b}}}}], {TO_A}}}, {{{TO_A}}}"
    ));
    let seen: Vec<_> = made
        .iter()
        .map(|r| (r.name.to_string(), r.rule.object.to_string(), r.rule.index, r.rule.match_index))
        .collect();
    let object = "VirtualService/default/v".to_owned();
    assert_eq!(
        seen,
        [
            ("first.m".to_owned(), object.clone(), 0, Some(0)),
            ("first".to_owned(), object.clone(), 0, Some(1)),
            (String::new(), object, 1, None)
        ]
    );
    assert!(made[0].origin.line > 0);
}

#[test]
fn claims_are_conditions_and_need_someone_to_read_tokens() {
    let rule = "{match: [{headers: {'@request.auth.claims[a.b][C]': {exact: x}}, withoutHeaders: {'@request.auth.claims.d': {}}}], route: [{destination: {host: a}}]}, {route: [{destination: {host: b}}]}";
    let lines = format!("VirtualService default/v: {{hosts: [x.com], gateways: [gateway], http: [{rule}]}}");
    let t = usual(&lines);
    let routes = &host(&t, "http.80", "x.com").unwrap().routes;
    let claims: Vec<_> =
        routes[0].matches.claims.iter().map(|c| (c.path.names().join("|"), c.invert)).collect();
    assert_eq!(claims, [("a.b|C".to_owned(), false), ("d".to_owned(), true)]);
    assert!(routes[0].matches.headers.is_empty() && routes.len() == 2);
    let missing = "warning spec.http[0].match[0] no-authentication".to_owned();
    assert!(said(&t).contains(&missing), "{:?}", said(&t));
    for (policy, reported) in [
        ("istio-system/p: {jwtRules: [{issuer: i, jwks: '{\"keys\":[]}'}]}", false),
        ("istio-system/p: {selector: {matchLabels: {istio: egressgateway}}, jwtRules: [{issuer: i}]}", true),
        ("istio-system/p: {}", true),
        ("default/p: {jwtRules: [{issuer: i}]}", true),
    ] {
        let t = usual(&format!("{lines}\nRequestAuthentication {policy}"));
        assert_eq!(said(&t).contains(&missing), reported, "{policy}");
    }
}
