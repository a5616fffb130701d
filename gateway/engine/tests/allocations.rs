//! Deciding and writing the request's new target allocates nothing.

mod build;
mod request;

use build::*;
use request::Request;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use tidegate_engine::{Authorizer, Decision, Ends, Subject, Table};
use tidegate_model::*;

/// The system's allocator, counting what each thread asks of it.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "an allocator is unsafe to implement; this one only counts and passes on")]
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps to the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the memory came from `System.alloc` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(run: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    run();
    ALLOCATIONS.get() - before
}

/// Hosts of all kinds, every kind of path, crowds told apart by a header, all rewrites.
fn table() -> Table {
    let regex = PathRewrite::Regex { pattern: "^/([a-z]+)/(.*)$".into(), substitution: r"/\2/\1".into() };
    let mut routes = Vec::new();
    let mut add = |path, headers, rewrite| {
        let matches = RouteMatch { path, headers, ..RouteMatch::default() };
        routes.push(route(routes.len(), matches, forward(rewrite)));
    };
    for i in 0..100 {
        add(PathMatch::Any, vec![header("x-tenant", &i.to_string())], None);
    }
    add(PathMatch::Exact("/exact".into()), vec![], Some(PathRewrite::Full("/full".into())));
    add(PathMatch::Prefix("/prefix".into()), vec![], Some(PathRewrite::Prefix("/".into())));
    add(PathMatch::Regex("/regex/[a-z]+/.*".into()), vec![], Some(regex));
    let hosts = ["a.example.com", "*.example.com", "*"];
    Table::compile(&model(hosts.map(|domain| virtual_host(TABLE, domain, routes.clone())))).table
}

#[test]
fn deciding_and_rewriting_allocate_nothing() {
    let table = table();
    let view = table.route_table(&TABLE.into()).unwrap();
    let mut target = Vec::with_capacity(1024);
    for authority in ["A.Example.com:8080", "b.EXAMPLE.com", "elsewhere"] {
        for (path, expected) in [
            ("/?q=1", "/?q=1"),
            ("/exact?q=1", "/full?q=1"),
            ("/prefix/a?q=1", "//a?q=1"),
            ("/regex/a/b?q=1", "/a/b/regex?q=1"),
        ] {
            let request = Request::get(authority, path);
            let request = if path == "/?q=1" { request.with("x-tenant", "77") } else { request };
            let mut run = || {
                target.clear();
                let decision = view.decide(&request, 1 << 60);
                assert!(matches!(decision, Decision::Forward(_)));
                decision.write_target(&request, &mut target);
            };
            // A regex makes its scratch space when a thread first uses it.
            run();
            assert_eq!(allocations(run), 0, "{authority}{path}");
            assert_eq!(String::from_utf8_lossy(&target), expected);
        }
    }
}

/// A policy of each action, with every kind of attribute that a request has.
#[expect(clippy::unwrap_used, reason = "what is written here is well-formed")]
fn authorizer() -> Authorizer {
    let text = |pattern: &str| Expected::Text(TextPattern::parse(pattern));
    let is = |attribute, value| Clause { attribute, values: vec![value], not_values: vec![] };
    let claim = ClaimPath::parse("@request.auth.claims.group").unwrap();
    let clauses = [
        is(Attribute::Host, text("*.example.com")),
        is(Attribute::Method, text("GET")),
        is(Attribute::Path, Expected::Template(PathTemplate::parse("/a/{*}/c/{**}").unwrap())),
        is(Attribute::Header(HeaderName::new("x-tenant")), text("77")),
        is(Attribute::Header(HeaderName::new(":path")), text("*q=1")),
        is(Attribute::RequestPrincipal, Expected::Principal(PrincipalPattern::parse("issuer/*"))),
        is(Attribute::Claim(claim), text("a*")),
        is(Attribute::SourceIp, Expected::Network("127.0.0.0/8".parse().unwrap())),
    ];
    let policy = |name: &str, action, clause: Option<Clause>| {
        let conditions = clauses.iter().cloned().chain(clause).collect();
        let rule = PolicyRule { conditions, ..PolicyRule::default() };
        Arc::new(Policy {
            object: ObjectRef::new("AuthorizationPolicy", "ns", name),
            origin: Origin::default(),
            action,
            dry_run: false,
            rules: vec![rule; 3],
        })
    };
    let never = is(Attribute::Sni, text("never"));
    let policies = vec![
        policy("allow", PolicyAction::Allow, None),
        policy("deny", PolicyAction::Deny, Some(never.clone())),
        policy("audit", PolicyAction::Audit, Some(never)),
    ];
    Authorizer::compile(&Authorization { policies }).unwrap()
}

#[test]
fn asking_policies_allocates_nothing() {
    let authorizer = authorizer();
    let mut request = Request::get("www.example.com:80", "/a/b/c/d?q=1").with("x-tenant", "77");
    let claims = serde_json::json!({"iss": "issuer", "sub": "me", "group": ["b", "admin"]});
    request.claims = claims.as_object().cloned();
    for authority in ["www.EXAMPLE.com", "elsewhere"] {
        request.authority = authority.into();
        let ends = Ends {
            source: [127, 0, 0, 1].into(),
            remote: [127, 0, 0, 1].into(),
            destination: ([127, 0, 0, 2], 80).into(),
            sni: "",
            names: &[],
        };
        let subject = Subject { ends, request: Some(&request) };
        let passes = authority != "elsewhere";
        let run = || {
            assert!(authorizer.check(&subject).is_ok_and(|check| check.is_none()));
            assert_eq!(authorizer.enforce(&subject).is_ok(), passes);
            assert!(authorizer.notes(&subject).audited.is_none());
        };
        assert_eq!(allocations(run), 0, "{authority}");
    }
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}
