//! Targets, locations, weights, explanations: what Istio documents and its tests show.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod build;
mod request;

use build::*;
use request::Request;
use std::sync::Arc;
use tidegate_engine::{Decision, NoRoute, Scheme, Table};
use tidegate_model::*;

fn table(matches: PathMatch, action: Action) -> Table {
    let matches = RouteMatch { path: matches, ..RouteMatch::default() };
    Table::compile(&model([virtual_host(TABLE, "*", vec![route(0, matches, action)])])).table
}

fn decide<'t>(table: &'t Table, request: &Request) -> Decision<'t> {
    table.route_table(&TABLE.into()).unwrap().decide(request, 0)
}

fn prefix(s: &str) -> PathMatch {
    PathMatch::Prefix(s.into())
}

fn target(matches: PathMatch, rewrite: PathRewrite, sent: &str) -> String {
    let table = table(matches, forward(Some(rewrite)));
    let request = Request::get("a.b", sent);
    let mut out = Vec::new();
    decide(&table, &request).write_target(&request, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn rewrites() {
    let with = |s: &str| PathRewrite::Prefix(s.into());
    let full = |s: &str| PathRewrite::Full(s.into());
    let regex = |pattern: &str, substitution: &str| PathRewrite::Regex {
        pattern: pattern.into(),
        substitution: substitution.into(),
    };
    let service = "^/service/([^/]+)(/.*)$";
    for (matches, rewrite, sent, expected) in [
        (PathMatch::Exact("/foo".into()), full("/new/path"), "/foo?k=v", "/new/path?k=v"),
        (prefix("/old"), with("/new"), "/old", "/new"),
        (prefix("/old"), with("/new"), "/old/x/y?q=1", "/new/x/y?q=1"),
        (prefix("/old"), with("/new"), "/oldABC", "/newABC"),
        (prefix("/foo/"), with("/"), "/foo/baz", "/baz"),
        (prefix("/bar"), with("/"), "/bar/baz", "//baz"),
        (PathMatch::Any, with("/v2/"), "/foo", "/v2/foo"),
        (PathMatch::Any, with("/v3"), "/foo", "/v3foo"),
        (PathMatch::Any, with("/v3"), "*", "*"),
        (prefix("/full"), regex("/.*", "/replace"), "/full/a/b?q=1", "/replace?q=1"),
        (
            PathMatch::Regex(service.into()),
            regex(service, r"\2/instance/\1"),
            "/service/foo/v1/api?a=/service/x/y",
            "/v1/api/instance/foo?a=/service/x/y",
        ),
        (PathMatch::Any, regex("(?i)/xxx/", "/yyy/"), "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
        (PathMatch::Any, regex("(?i)/xxx/", "/yyy/"), "/aaa/bbb", "/aaa/bbb"),
        (PathMatch::Any, regex("one", "two"), "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"),
        (PathMatch::Any, regex("b", r"<\0\\>"), "/abc", r"/a<b\>c"),
        (PathMatch::Any, regex("b*", "-"), "/abc", "-/-a-c-"),
        (PathMatch::Any, regex("(x)?b", r"[\1]"), "/ab", "/a[]"),
        (PathMatch::Any, regex(".*", ""), "/abc?q", "/abc?q"),
    ] {
        let what = format!("{rewrite:?} of {sent}");
        assert_eq!(target(matches, rewrite, sent), expected, "{what}");
    }
}

#[test]
fn redirects() {
    let base = redirect;
    let uri = |s: &str| Redirect { path: Some(RedirectPath::Full(s.into())), ..base() };
    let with = |s: &str| Redirect { path: Some(RedirectPath::Prefix(s.into())), ..base() };
    let scheme = |s: &str, port| Redirect { scheme: Some(s.into()), port, ..base() };
    let host = |s: &str, r: Redirect| Redirect { authority: Some(s.into()), ..r };
    let (keep, derive) = (RedirectPort::Keep, RedirectPort::FromRequestPort);
    let number = RedirectPort::Number;
    for (redirect, authority, sent, location) in [
        (uri("/new"), "a.b", "/foo?k=v", "http://a.b/new?k=v"),
        (uri("/new?x=1"), "a.b", "/foo?k=v", "http://a.b/new?x=1"),
        (uri("/new"), "a.b:8080", "/foo", "http://a.b:8080/new"),
        (uri("/new"), "a.b:80", "/foo", "http://a.b:80/new"),
        (with("/new"), "a.b", "/foo/bar", "http://a.b/new/bar"),
        (with("/"), "a.b", "/foo/bar?q", "http://a.b//bar?q"),
        (host("c.d", uri("/new")), "a.b:8080", "/foo/x?q=1", "http://c.d/new?q=1"),
        (host("c.d:90", base()), "a.b", "/foo", "http://c.d:90/foo"),
        (host("c.d", scheme("https", number(8443))), "a.b:80", "/foo", "https://c.d:8443/foo"),
        (scheme("https", keep), "a.b", "/foo?q=1", "https://a.b/foo?q=1"),
        (scheme("https", keep), "a.b:80", "/foo", "https://a.b/foo"),
        (scheme("https", keep), "a.b:8080", "/foo", "https://a.b:8080/foo"),
        (scheme("http", keep), "a.b:80", "/foo", "http://a.b:80/foo"),
        (scheme("https", number(8443)), "a.b", "/foo", "https://a.b:8443/foo"),
        (scheme("https", number(443)), "a.b:80", "/foo", "https://a.b/foo"),
        (scheme("http", number(80)), "a.b:8081", "/foo", "http://a.b:8081/foo"),
        (scheme("https", number(443)), "a.b:8443", "/foo", "https://a.b:8443/foo"),
        (host("c.d", scheme("https", number(443))), "a.b:8443", "/foo", "https://c.d/foo"),
        (scheme("http", number(443)), "a.b:8443", "/foo", "http://a.b:443/foo"),
        (Redirect { port: number(80), ..base() }, "a.b:8081", "/foo", "http://a.b:8081/foo"),
        (Redirect { port: number(443), ..base() }, "a.b:8081", "/foo", "http://a.b:443/foo"),
        (scheme("https", number(8443)), "[::1]:80", "/foo", "https://[::1]:8443/foo"),
        (scheme("https", keep), "[::1]", "/foo", "https://[::1]/foo"),
        // The server port of the table is 8080.
        (scheme("https", derive), "a.b", "/foo", "https://a.b:8080/foo"),
        (scheme("https", derive), "a.b:1234", "/foo", "https://a.b:8080/foo"),
    ] {
        let what = format!("{redirect:?} for {authority}{sent}");
        let table = table(prefix("/foo"), Action::Redirect(redirect));
        let request = Request::get(authority, sent);
        let mut out = Vec::new();
        decide(&table, &request).write_location(&request, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), location, "{what}");
    }
}

#[test]
fn without_a_scheme_the_server_says_which_port_is_the_default() {
    for (tls, port, scheme, location) in [
        (true, RedirectPort::Number(443), Scheme::Https, "https://a.b:8443/"),
        (true, RedirectPort::Number(80), Scheme::Https, "https://a.b:80/"),
        (true, RedirectPort::FromRequestPort, Scheme::Https, "https://a.b:8443/"),
        // TLS ended before, as a trusted proxy says.
        (false, RedirectPort::Number(443), Scheme::Https, "https://a.b:443/"),
        (false, RedirectPort::Number(80), Scheme::Https, "https://a.b:8443/"),
        (false, RedirectPort::FromRequestPort, Scheme::Https, "https://a.b:443/"),
    ] {
        let action = Action::Redirect(Redirect { port, ..redirect() });
        let mut model = model([virtual_host(TABLE, "*", vec![route(0, RouteMatch::default(), action)])]);
        let source = RouteTable { name: TABLE.into(), server_port: 443, tls };
        model.route_tables.insert(TABLE.into(), source.into());
        let table = Table::compile(&model).table;
        let request = Request { scheme, ..Request::get("a.b:8443", "/") };
        let mut out = Vec::new();
        decide(&table, &request).write_location(&request, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), location, "{tls} {port:?}");
    }
}

#[test]
fn https_redirect_is_for_plain_requests_only() {
    let host = virtual_host(TABLE, "a.b", vec![route(0, RouteMatch::default(), forward(None))]);
    let table = Table::compile(&model([VirtualHost { https_redirect: true, ..host }])).table;
    let mut request = Request::get("A.b:8080", "/x/y?c=1");
    let decision = decide(&table, &request);
    assert!(matches!(decision, Decision::HttpsRedirect));
    let mut out = Vec::new();
    decision.write_location(&request, &mut out);
    assert_eq!(out, b"https://A.b:8080/x/y?c=1");
    request.scheme = Scheme::Https;
    assert!(matches!(decide(&table, &request), Decision::Forward(_)));
}

#[test]
fn weights_share_the_dice() {
    let destinations = [("none", 0), ("most", 9), ("zero", 0), ("rest", 1)];
    let destinations = destinations.iter().map(|(host, weight)| destination(host, *weight)).collect();
    let action = Action::Forward(Forward { destinations, ..Forward::default() });
    let table = table(PathMatch::Any, action);
    let view = table.route_table(&TABLE.into()).unwrap();
    let request = Request::get("a.b", "/");
    let pick = |dice| match view.decide(&request, dice) {
        Decision::Forward(chosen) => chosen.destination.cluster.as_str().to_owned(),
        other => panic!("{other:?}"),
    };
    let tenth = u64::MAX / 10;
    for (dice, host) in [(0, "most"), (9 * tenth, "most"), (9 * tenth + 10, "rest"), (u64::MAX, "rest")] {
        assert_eq!(pick(dice), format!("outbound|80||{host}"), "{dice}");
    }
}

/// Conditions that a GET of `/fo?q=1&q=2` with `x-user: jason`, `x-two: a` and `x-two: b` does not meet, and what is said of them.
fn losers() -> Vec<(RouteMatch, &'static str)> {
    let exact = |s: &str| ValueMatch::Value(StringMatch::Exact(s.into()));
    let base = RouteMatch::default;
    let without = |name: &str, value| HeaderMatch { name: HeaderName::new(name), value, invert: true };
    let query = |name: &str, value| vec![QueryMatch { name: name.into(), value }];
    let with = |header| RouteMatch { headers: vec![header], ..base() };
    vec![
        (RouteMatch { path: prefix("/foo"), ..base() }, r#"uri: prefix "/foo" does not match "/fo""#),
        (
            RouteMatch { path: PathMatch::Exact("/FOO".into()), ignore_path_case: true, ..base() },
            r#"uri: exact "/FOO" (ignoring case) does not match "/fo""#,
        ),
        (
            RouteMatch { path: PathMatch::Regex("/f".into()), ..base() },
            r#"uri: regex "/f" does not match "/fo""#,
        ),
        (
            RouteMatch { method: Some(StringMatch::Exact("POST".into())), ..base() },
            r#"method: exact "POST" does not match "GET""#,
        ),
        (with(header("x-env", "prod")), r#"headers[x-env]: absent, wants exact "prod""#),
        (with(header("x-user", "joe")), r#"headers[x-user]: exact "joe" does not match "jason""#),
        (with(header("x-two", "a,b")), r#"headers[x-two]: exact "a,b" does not match "a", "b""#),
        (with(without("x-two", exact("b"))), r#"withoutHeaders[x-two]: exact "b" matches "b""#),
        (with(header(":method", "PUT")), r#"headers[:method]: exact "PUT" does not match "GET""#),
        (with(without("x-user", ValueMatch::Present)), "withoutHeaders[x-user]: present"),
        (with(without("x-user", exact("jason"))), r#"withoutHeaders[x-user]: exact "jason" matches "jason""#),
        (
            with(without("x-env", ValueMatch::Value(StringMatch::Regex(".*".into())))),
            r#"withoutHeaders[x-env]: absent counts as "", which regex ".*" matches"#,
        ),
        (
            RouteMatch { query: query("v", ValueMatch::Present), ..base() },
            "queryParams[v]: absent, wants any value",
        ),
        (
            RouteMatch { query: query("q", exact("2")), ..base() },
            r#"queryParams[q]: exact "2" does not match "1""#,
        ),
    ]
}

#[test]
fn explains_in_the_words_of_the_user() {
    let reasons = losers();
    let wins = (RouteMatch::default(), "");
    let never_reached = wins.clone();
    let all = reasons.iter().chain([&wins, &never_reached]).enumerate();
    let routes: Vec<Arc<Route>> = all.map(|(i, (m, _))| route(i, m.clone(), forward(None))).collect();
    let table = Table::compile(&model([virtual_host(TABLE, "*.b", routes)])).table;
    let request = Request::get("a.b", "/fo?q=1&q=2").with("x-user", "jason");
    let request = request.with("x-two", "a").with("x-two", "b");
    let explained = table.route_table(&TABLE.into()).unwrap().explain(&request, 0);
    assert_eq!(explained.domain.as_deref(), Some("*.b"));
    let said: Vec<_> = explained.considered.iter().map(|c| c.lost_by.as_deref()).collect();
    let expected: Vec<_> = reasons.iter().map(|(_, reason)| Some(*reason)).chain([None]).collect();
    assert_eq!(said, expected);
}

#[test]
fn a_rule_that_does_not_compile_answers_instead_of_a_wider_one() {
    let broken = |s: &str| RouteMatch { path: PathMatch::Regex(s.into()), ..RouteMatch::default() };
    let rewrite = |pattern: &str, substitution: &str| {
        let (pattern, substitution) = (pattern.into(), substitution.into());
        forward(Some(PathRewrite::Regex { pattern, substitution }))
    };
    let none = Forward { destinations: vec![destination("b", 0)], ..Forward::default() };
    for (matches, action, said) in [
        (broken("a)|(b"), forward(None), "RE2"),
        (broken("(?=a)"), forward(None), "RE2"),
        (broken("((a{100}){100}){100}"), forward(None), "bytes"),
        (RouteMatch::default(), rewrite("(", ""), "RE2"),
        (RouteMatch::default(), rewrite("(a)", r"\2"), "group 2"),
        (RouteMatch::default(), rewrite("a", r"\x"), "backslash"),
        (RouteMatch::default(), Action::Forward(none), "weight"),
    ] {
        let rules = vec![route(0, matches, action), route(1, RouteMatch::default(), forward(None))];
        let compiled = Table::compile(&model([virtual_host(TABLE, "*", rules.clone())]));
        let [(rule, reason)] = &*compiled.refused else { panic!("{said}: {:?}", compiled.refused) };
        assert_eq!(*rule, rules[0].rule);
        assert!(reason.contains(said), "{reason}");
        match decide(&compiled.table, &Request::get("a", "/")) {
            Decision::DirectResponse(route, direct, _) => {
                assert_eq!((route.rule.index, direct.status), (0, 500));
                assert!(!direct.details.is_empty());
            }
            other => panic!("{said}: {other:?}"),
        }
    }
}

#[test]
fn hosts_do_not_fall_through() {
    let rule =
        |i, path: &str| route(i, RouteMatch { path: prefix(path), ..RouteMatch::default() }, forward(None));
    let hosts = [("a.x", 0, "/a"), ("*.x", 1, "/b"), ("*", 2, "/")];
    let hosts = hosts.map(|(domain, i, path)| virtual_host(TABLE, domain, vec![rule(i, path)]));
    let compiled = Table::compile(&model(hosts));
    for (authority, path, expected) in [
        ("a.x", "/a", Some(0)),
        ("a.x", "/b", None),
        ("b.x", "/b", Some(1)),
        ("b.x", "/a", None),
        ("x", "/a", Some(2)),
        ("", "/a", Some(2)),
        (&"y".repeat(5000), "/a", Some(2)),
    ] {
        let request = Request::get(authority, path);
        let decision = decide(&compiled.table, &request);
        assert_eq!(decision.route().map(|r| r.rule.index), expected, "{authority}{path}");
        assert_eq!(matches!(decision, Decision::NoRoute(NoRoute::NoRule)), expected.is_none());
    }
}

#[test]
fn listeners_lead_to_their_tables() {
    let key = |port| ListenerKey { bind: Bind::Default, port };
    let mut model = model([virtual_host(TABLE, "*", vec![])]);
    let protocols = [
        (80, ListenerProtocol::Http(TABLE.into())),
        (81, ListenerProtocol::Http("missing".into())),
        (443, ListenerProtocol::Tls(Vec::new())),
    ];
    for (port, protocol) in protocols {
        let listener = build::listener(key(port), protocol);
        model.listeners.insert(listener.key, Arc::new(listener));
    }
    let table = Table::compile(&model).table;
    let routes = |port| table.listener_routes(&key(port)).map(|view| view.name().to_string());
    assert_eq!([80, 81, 443, 82].map(routes), [Some(TABLE.to_owned()), None, None, None]);
    assert_eq!(table.listeners().map(|l| l.key.port).collect::<Vec<_>>(), [80, 81, 443]);
}

#[test]
fn what_does_not_change_is_shared() {
    let rule = |i| route(i, RouteMatch::default(), forward(None));
    let old = model([virtual_host(TABLE, "a", vec![rule(0)]), virtual_host(TABLE, "b", vec![rule(1)])]);
    let mut new = old.clone();
    add_host(&mut new, virtual_host(TABLE, "b", vec![rule(2)]));
    let before = Table::compile(&old).table;
    let after = before.apply(&new, &new.diff(&old)).table;
    let found = |table, host| {
        let route = decide(table, &Request::get(host, "/")).route().unwrap();
        (std::ptr::from_ref(route), route.rule.index)
    };
    assert_eq!(found(&before, "a"), found(&after, "a"));
    assert_eq!((found(&before, "b").1, found(&after, "b").1), (1, 2));
}

/// What is written, whether a token meets it and why not, and whether a request without one does.
fn claim_conditions() -> Vec<(RouteMatch, bool, &'static str, bool)> {
    let exact = |s: &str| ValueMatch::Value(StringMatch::Exact(s.into()));
    let claim = |path: &str, value, invert| {
        let path = ClaimPath::parse(&format!("{}{path}", ClaimPath::PREFIX)).unwrap();
        RouteMatch { claims: vec![ClaimMatch { path, value, invert }], ..RouteMatch::default() }
    };
    vec![
        (claim(".sub", exact("me"), false), true, "", false),
        (
            claim(".sub", exact("m"), false),
            false,
            r#"headers[@request.auth.claims[sub]]: exact "m" does not match "me""#,
            false,
        ),
        (claim(".groups", exact("b"), false), true, "", false),
        (claim(".groups", exact("3"), false), false, "", false),
        (claim(".n", exact("7"), false), false, "", false),
        (claim(".n", ValueMatch::Present, false), true, "", false),
        (claim("[x.y/z][k]", exact("v"), false), true, "", false),
        (
            claim(".x.y/z.k", exact("v"), false),
            false,
            "headers[@request.auth.claims[x][y/z][k]]: absent, wants exact \"v\"",
            false,
        ),
        (claim(".o.k", exact("w"), false), true, "", false),
        (claim(".sub.k", ValueMatch::Present, false), false, "", false),
        (claim(".o", exact("v"), false), false, "", false),
        (
            claim(".sub", exact("me"), true),
            false,
            r#"withoutHeaders[@request.auth.claims[sub]]: exact "me" matches "me""#,
            true,
        ),
        (claim(".groups", exact("c"), true), true, "", true),
        (claim(".none", exact(""), true), true, "", true),
        (
            claim(".sub", ValueMatch::Present, true),
            false,
            "withoutHeaders[@request.auth.claims[sub]]: present",
            true,
        ),
        (
            claim("[id_token]", exact("u"), false),
            false,
            "headers[@request.auth.claims[id_token]]: exact (hidden) does not match \"t\"",
            false,
        ),
    ]
}

#[test]
fn claims_are_those_of_a_verified_token() {
    let token = serde_json::json!({
        "sub": "me", "n": 7, "groups": ["a", "b", 3], "x.y/z": {"k": "v"}, "o": {"k": ["v", "w"]}, "id_token": "t",
    });
    let serde_json::Value::Object(token) = token else { panic!("an object") };
    let with = Request { claims: Some(token), ..Request::get("a", "/") };
    for (matches, met, why, without) in claim_conditions() {
        let routes = vec![route(0, matches.clone(), forward(None))];
        let table = Table::compile(&model([virtual_host(TABLE, "*", routes)])).table;
        let is = |request: &Request| decide(&table, request).route().is_some();
        let forged = Request::get("a", "/").with("@request.auth.claims.sub", "me");
        assert_eq!((is(&with), is(&forged)), (met, without), "{matches:?}");
        if !why.is_empty() {
            let explained = table.route_table(&TABLE.into()).unwrap().explain(&with, 0);
            assert_eq!(explained.considered[0].lost_by.as_deref(), Some(why));
        }
    }
    let routes = vec![route(0, claim_conditions()[0].0.clone(), forward(None))];
    let table = Table::compile(&model([virtual_host(TABLE, "*", routes)])).table;
    let explained = table.route_table(&TABLE.into()).unwrap().explain(&Request::get("a", "/"), 0);
    let said = explained.considered[0].lost_by.clone();
    assert_eq!(
        said.as_deref(),
        Some("headers[@request.auth.claims[sub]]: no verified token, wants exact \"me\"")
    );
}

#[test]
fn origins_are_asked_for() {
    let set = |v: &str| vec![HeaderOp::Set(HeaderName::new("x"), FormatString::parse(v).unwrap())];
    let cors = |origin, unmatched| Cors {
        allow_origins: vec![origin],
        preflight_headers: set("granted"),
        unmatched_headers: unmatched,
        response_headers: set("response"),
    };
    let exact = || StringMatch::Exact("https://a".into());
    let regex = || StringMatch::Regex("https://[a-c]".into());
    let method = ("access-control-request-method", "PUT");
    for (policy, verb, headers, preflight, expected) in [
        (cors(exact(), None), "OPTIONS", vec![("origin", "https://a"), method], true, "granted"),
        (cors(exact(), None), "OPTIONS", vec![("origin", "https://b"), method], false, ""),
        (cors(exact(), Some(set("none"))), "OPTIONS", vec![("origin", "https://b"), method], true, "none"),
        (cors(exact(), Some(set("none"))), "OPTIONS", vec![method], false, ""),
        (cors(exact(), None), "OPTIONS", vec![("origin", "https://a")], false, "response"),
        (cors(exact(), None), "GET", vec![("origin", "https://a"), method], false, "response"),
        (cors(exact(), None), "GET", vec![("origin", "")], false, ""),
        (cors(regex(), None), "GET", vec![("origin", "https://c")], false, "response"),
        (cors(regex(), None), "GET", vec![("origin", "https://cc")], false, ""),
        (cors(StringMatch::Exact("*".into()), None), "GET", vec![("origin", "null")], false, "response"),
    ] {
        let mut rule = Route::clone(&route(0, RouteMatch::default(), forward(None)));
        rule.cors = Some(Arc::new(policy));
        let table = Table::compile(&model([virtual_host(TABLE, "*", vec![Arc::new(rule)])])).table;
        let mut request = Request::get("a.b", "/");
        request.method = verb.into();
        request.headers.extend(headers.iter().map(|(n, v)| ((*n).into(), (*v).into())));
        let (answered, ops) = match decide(&table, &request) {
            Decision::Preflight(_, ops) => (true, ops),
            Decision::Forward(f) => (false, f.cors),
            other => panic!("{other:?}"),
        };
        let said = ops.iter().map(|op| match op {
            HeaderOp::Set(_, value) => value.as_str(),
            _ => "",
        });
        assert_eq!((answered, said.collect::<String>()), (preflight, expected.into()), "{verb} {headers:?}");
    }
}
