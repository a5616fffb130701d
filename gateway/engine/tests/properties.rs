//! The index against the plain scan, explanations against decisions, changes against compiling anew.

mod build;
mod oracle;
mod request;

use build::*;
use oracle::Verdict;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use request::Request;
use std::sync::Arc;
use tidegate_engine::{Claims, Decision, NoRoute, Scheme, Table};
use tidegate_model::*;

const DOMAINS: &[&str] = &["a.x", "b.x", "c.a.x", "*.x", "*.a.x", "*-b.x", "*b.x", "*", "::1"];
const AUTHORITIES: &[&str] = &[
    "a.x", "A.X:80", "b.x.", "b.x.:80", "z.x", "q.a.x", "c.a.x", "y-b.x", "bb.x", ".x", "x", "", "[::1]:80",
    "a:b",
];
const REGEXES: &[&str] =
    &["/a.*", "(?i)/b+", "/[ab]{1,2}", "a|/b", "/(a|b)/.*", ".*", "", "a+", "[ab]*", "("];

fn text() -> impl Strategy<Value = StringMatch> {
    let value = || "[abAB/]{0,2}";
    prop_oneof![
        4 => value().prop_map(|s| StringMatch::Exact(s.into())),
        1 => value().prop_map(|s| StringMatch::Prefix(s.into())),
        1 => select(REGEXES).prop_map(|s| StringMatch::Regex(s.into())),
    ]
}

fn value() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![1 => Just(ValueMatch::Present), 6 => text().prop_map(ValueMatch::Value)]
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        2 => Just(PathMatch::Any),
        3 => "/[abA/]{0,3}".prop_map(|s| PathMatch::Exact(s.into())),
        6 => "(/[abA/]{0,3})?".prop_map(|s| PathMatch::Prefix(s.into())),
        2 => select(REGEXES).prop_map(|s| PathMatch::Regex(s.into())),
    ]
}

fn header_match() -> impl Strategy<Value = HeaderMatch> {
    let name = select(&["h", "h", "h", "i", ":method", ":path", ":authority"][..]);
    (name, value(), prop::bool::weighted(0.2)).prop_map(|(name, value, invert)| HeaderMatch {
        name: HeaderName::new(name),
        value,
        invert,
    })
}

fn method() -> impl Strategy<Value = StringMatch> {
    select(&["GET", "PUT", "POST"][..]).prop_map(|m| StringMatch::Exact(m.into()))
}

fn query_match() -> impl Strategy<Value = QueryMatch> {
    (select(&["q", "r"][..]), value()).prop_map(|(name, value)| QueryMatch { name: name.into(), value })
}

fn claim_match() -> impl Strategy<Value = ClaimMatch> {
    let path = select(&["c", "c", "o.c", "o"][..]);
    let parse = |path: &str| ClaimPath::parse(&format!("{}.{path}", ClaimPath::PREFIX));
    let path = path.prop_filter_map("a claim", parse);
    (path, value(), prop::bool::weighted(0.2)).prop_map(|(path, value, invert)| ClaimMatch {
        path,
        value,
        invert,
    })
}

fn claims() -> impl Strategy<Value = Option<Claims>> {
    let text = || "[ab]{0,2}".prop_map(serde_json::Value::from);
    let one = move || {
        prop_oneof![
            3 => text(),
            2 => vec(text(), 0..3).prop_map(serde_json::Value::from),
            1 => Just(serde_json::Value::from(7)),
        ]
    };
    let inner = one().prop_map(|v| serde_json::json!({ "c": v }));
    option::of((one(), option::of(inner)).prop_map(|(c, o)| {
        let o = o.map(|o| ("o".to_owned(), o));
        [("c".to_owned(), c)].into_iter().chain(o).collect()
    }))
}

fn rare<S: Strategy>(s: S) -> impl Strategy<Value = Option<S::Value>> {
    option::weighted(0.15, s)
}

fn matches() -> impl Strategy<Value = RouteMatch> {
    let scheme = select(&["http", "https"][..]).prop_map(|s| StringMatch::Exact(s.into()));
    let authority = select(AUTHORITIES).prop_map(|s| StringMatch::Exact(s.into()));
    (
        path_match(),
        prop::bool::weighted(0.2),
        rare(method()),
        rare(scheme),
        rare(authority),
        vec(header_match(), 0..3),
        rare(query_match()),
        rare(claim_match()),
    )
        .prop_map(|(path, ignore_path_case, method, scheme, authority, headers, query, claim)| {
            RouteMatch {
                path,
                ignore_path_case,
                method,
                scheme,
                authority,
                headers,
                query: query.into_iter().collect(),
                claims: claim.into_iter().collect(),
            }
        })
}

fn host() -> impl Strategy<Value = VirtualHost> {
    prop_oneof![2 => mixture(), 1 => crowd()]
}

/// Rules of all kinds.
fn mixture() -> impl Strategy<Value = VirtualHost> {
    let routes = vec(matches(), 0..50);
    (select(DOMAINS), routes, prop::bool::weighted(0.1)).prop_map(|(domain, matches, https_redirect)| {
        let routes = matches.into_iter().enumerate().map(|(i, m)| route(i, m, forward(None))).collect();
        VirtualHost { https_redirect, ..virtual_host(TABLE, domain, routes) }
    })
}

/// Rules that can only be told apart by what they ask for beside the path.
fn crowd() -> impl Strategy<Value = VirtualHost> {
    let path = select(&["", "/", "/a", "/a/a"][..]);
    let asked = (select(&["h", "i", "j", ":method"][..]), select(&["a", "b", "GET"][..]));
    let rule = (path, any::<bool>(), any::<bool>(), vec(asked, 1..4));
    let matches = rule.prop_map(|(path, exact, ignore_path_case, asked)| RouteMatch {
        path: if exact { PathMatch::Exact(path.into()) } else { PathMatch::Prefix(path.into()) },
        ignore_path_case,
        headers: asked.into_iter().map(|(name, value)| header(name, value)).collect(),
        ..RouteMatch::default()
    });
    (select(DOMAINS), vec(matches, 20..150)).prop_map(|(domain, matches)| {
        let routes = matches.into_iter().enumerate().map(|(i, m)| route(i, m, forward(None))).collect();
        virtual_host(TABLE, domain, routes)
    })
}

fn request() -> impl Strategy<Value = Request> {
    (
        select(&["GET", "PUT", "DELETE"][..]),
        any::<bool>(),
        select(AUTHORITIES),
        prop_oneof!["/[abAB/]{0,5}", Just("*".to_owned())],
        option::of("(q|r|s|q=[ab]{0,2}|r=a|&){0,4}"),
        vec((select(&["h", "i", "j"][..]), "[ab]|[abAB/]{0,2}"), 0..4),
        claims(),
    )
        .prop_map(|(method, tls, authority, path, query, headers, claims)| Request {
            method: method.into(),
            scheme: if tls { Scheme::Https } else { Scheme::Http },
            authority: authority.into(),
            path,
            query,
            headers: headers.into_iter().map(|(n, v)| (n.into(), v)).collect(),
            claims,
        })
}

fn has_broken_regex(route: &Route) -> bool {
    format!("{:?}", route.matches).contains(r#"Regex("(")"#)
}

/// A decision as something to compare, across tables.
fn summary(table: &Table, name: &str, request: &Request) -> String {
    let Some(view) = table.route_table(&name.into()) else { return "no table".into() };
    let decision = view.decide(request, 7);
    let mut written = Vec::new();
    decision.write_target(request, &mut written);
    decision.write_location(request, &mut written);
    format!("{:?} {} {:?}", decision, view.server_port(), String::from_utf8(written))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_index_finds_what_a_scan_finds(hosts in vec(host(), 1..6), requests in vec(request(), 40)) {
        let model = model(hosts);
        let compiled = Table::compile(&model);
        let view = compiled.table.route_table(&TABLE.into()).unwrap();
        for request in &requests {
            let decision = view.decide(request, 0);
            match oracle::decide(&model, TABLE, request) {
                Verdict::NoVirtualHost => {
                    prop_assert!(matches!(decision, Decision::NoRoute(NoRoute::NoVirtualHost)), "{decision:?}");
                }
                Verdict::NoRule => {
                    prop_assert!(matches!(decision, Decision::NoRoute(NoRoute::NoRule)), "{decision:?}");
                }
                Verdict::Https => prop_assert!(matches!(decision, Decision::HttpsRedirect), "{decision:?}"),
                Verdict::Rule(route) => {
                    prop_assert_eq!(decision.route(), Some(route), "{:?}", request);
                    match decision {
                        Decision::DirectResponse(_, d, _) => {
                            prop_assert!(d.status == 500 && has_broken_regex(route));
                            prop_assert!(compiled.refused.iter().any(|(rule, _)| *rule == route.rule));
                        }
                        _ => prop_assert!(!has_broken_regex(route)),
                    }
                }
            }
        }
    }

    #[test]
    fn an_explanation_says_what_is_decided(hosts in vec(host(), 1..4), requests in vec(request(), 20)) {
        let table = Table::compile(&model(hosts)).table;
        let view = table.route_table(&TABLE.into()).unwrap();
        for request in &requests {
            let decision = view.decide(request, 3);
            let explained = view.explain(request, 3);
            prop_assert_eq!(format!("{:?}", decision), format!("{:?}", explained.decision));
            let won: Vec<_> = explained.considered.iter().filter(|c| c.lost_by.is_none()).collect();
            let winner = decision.route().map(|r| &r.rule);
            prop_assert_eq!(won.iter().map(|c| &c.rule).collect::<Vec<_>>(), Vec::from_iter(winner));
            if winner.is_some() {
                prop_assert_eq!(explained.considered.last().map(|c| &c.rule), winner);
            }
        }
    }

    #[test]
    fn changes_applied_equal_compiling_anew(
        steps in vec(step(), 1..12),
        requests in vec(request(), 12),
    ) {
        let mut model = Model::default();
        let mut table = Table::default();
        for step in steps {
            let mut next = model.clone();
            step.apply(&mut next);
            let applied = table.apply(&next, &next.diff(&model));
            let anew = Table::compile(&next);
            prop_assert_eq!(&applied.refused, &anew.refused);
            prop_assert_eq!(
                serde_json::to_string(&applied.table).unwrap(),
                serde_json::to_string(&anew.table).unwrap()
            );
            for request in &requests {
                for name in TABLES {
                    prop_assert_eq!(summary(&applied.table, name, request), summary(&anew.table, name, request));
                }
            }
            (model, table) = (next, applied.table);
        }
    }
}

const TABLES: [&str; 2] = [TABLE, "http.9090"];

/// One change of a model.
#[derive(Clone, Debug)]
enum Step {
    Table(&'static str, Option<u16>),
    Host(&'static str, VirtualHost),
    NoHost(&'static str, &'static str),
    Listener(u16, Option<&'static str>),
    Cluster(&'static str, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let table = || select(&TABLES[..]);
    prop_oneof![
        3 => (table(), option::weighted(0.8, 80..83_u16)).prop_map(|(t, p)| Step::Table(t, p)),
        6 => (table(), host(), any::<bool>()).prop_map(|(t, h, r)| Step::Host(t, redirecting(h, r))),
        2 => (table(), select(DOMAINS)).prop_map(|(t, d)| Step::NoHost(t, d)),
        1 => (80..82_u16, option::of(table())).prop_map(|(p, t)| Step::Listener(p, t)),
        1 => (select(&["a", "b"][..]), any::<bool>()).prop_map(|(c, there)| Step::Cluster(c, there)),
    ]
}

/// Makes the answers depend on the table's port.
fn redirecting(mut host: VirtualHost, redirects: bool) -> VirtualHost {
    if redirects {
        let action = Action::Redirect(Redirect { port: RedirectPort::FromRequestPort, ..redirect() });
        let routes = host.routes.iter().enumerate();
        host.routes = routes.map(|(i, r)| route(i, r.matches.clone(), action.clone())).collect();
    }
    host
}

impl Step {
    fn apply(self, model: &mut Model) {
        match self {
            Step::Table(name, Some(port)) => add_table(model, route_table(name, port)),
            Step::Table(name, None) => drop(model.route_tables.remove(name)),
            Step::Host(table, mut host) => {
                host.key.table = table.into();
                add_host(model, host);
            }
            Step::NoHost(table, domain) => {
                let key = VirtualHostKey { table: table.into(), domain: HostPattern::parse(domain) };
                model.virtual_hosts.remove(&key);
            }
            Step::Listener(port, table) => {
                let key = ListenerKey { bind: Bind::Default, port };
                model.listeners.remove(&key);
                if let Some(table) = table {
                    let protocol = ListenerProtocol::Http(table.into());
                    model.listeners.insert(key, Arc::new(listener(key, protocol)));
                }
            }
            Step::Cluster(name, there) => {
                let cluster = cluster(name);
                model.clusters.remove(&cluster.name);
                if there {
                    model.clusters.insert(cluster.name.clone(), Arc::new(cluster));
                }
            }
        }
    }
}

fn cluster(host: &str) -> Cluster {
    Cluster {
        name: ClusterName::outbound(80, "", host),
        host: host.into(),
        port: 80,
        subset: "".into(),
        service_name: host.into(),
        service_namespace: "default".into(),
        protocol: UpstreamProtocol::Http1,
        load_balancer: LoadBalancer::LeastRequest,
        outlier_detection: None,
        warmup: None,
        limits: ConnectionLimits::default(),
        connect_timeout: std::time::Duration::from_secs(10),
        idle_timeout: std::time::Duration::from_secs(60),
        retry_budget: RetryBudget::default(),
        tls: None,
        proxy_protocol: None,
    }
}
