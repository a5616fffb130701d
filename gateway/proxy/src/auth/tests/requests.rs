use super::super::authenticator::Authenticator;
use super::super::cache::TokenCache;
use super::super::denial::Denial;
use super::super::{HttpFetch, KeyFetching, KeyStore};
use super::*;
use crate::forward::buffers::Work;
use crate::forward::edits::{Edits, Ops, Rendered};
use crate::forward::head::{RequestChanges, write_request};
use crate::forward::view::View;
use crate::h1::head::HeadLimits;
use tidegate_engine::RequestView;
use tidegate_model::{Authentication, ClaimHeader, HeaderOp};

fn work(target: &str, fields: &str) -> Box<Work> {
    let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let mut w = Work::take();
    w.push_back(text.as_bytes());
    let Work { buf, end, request, .. } = &mut *w;
    let limits = HeadLimits { bytes: 60 << 10, fields: 100, target: 8 << 10 };
    assert!(request.parse_request(&buf[..*end], limits).unwrap());
    w
}

fn authenticator(rules: Vec<Arc<TokenRule>>) -> Authenticator {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let fetch = HttpFetch::new(&KeyFetching::default()).unwrap();
    let mut store = KeyStore::over_network(runtime.handle().clone(), fetch);
    let (built, diagnostics) = Authenticator::build(&Authentication { rules }, None, &mut store);
    assert_eq!(diagnostics, []);
    built.unwrap()
}

fn authenticate(rules: &[Arc<TokenRule>], w: &mut Work) -> Result<(), Denial> {
    authenticator(rules.to_vec()).authenticate(w, &TokenCache::default())
}

/// The request as it goes upstream, but for what the gateway says of itself.
fn upstream(w: &Work, ops: &[HeaderOp]) -> String {
    let mut out = Vec::new();
    let rendered = Rendered::default();
    let edits = Edits::new(Ops { rule: ops, ..Ops::default() }, &rendered);
    let changes = RequestChanges {
        http2: false,
        target: None,
        authority: None,
        replaced: false,
        edits,
        attempt: 1,
        expected: None,
        grpc_timeout: None,
    };
    write_request(w, &mut out, &changes);
    let text = String::from_utf8(out).unwrap();
    let own = |line: &&str| ["x-forwarded", "x-request-id", "x-envoy"].iter().any(|n| line.starts_with(n));
    text.split("\r\n").filter(|line| !line.is_empty() && !own(line)).collect::<Vec<_>>().join("\n")
}

fn header(w: &Work, name: &str) -> Option<String> {
    let view = View::of(w);
    let value = view.header(&HeaderName::new(name))?;
    Some(String::from_utf8(value.into_owned()).unwrap())
}

fn outputs(r: &mut TokenRule) {
    let claim =
        |header: &str, claim: &str| ClaimHeader { header: HeaderName::new(header), claim: claim.into() };
    r.payload_header = Some(HeaderName::new("x-payload"));
    r.claim_headers = vec![claim("x-sub", "sub"), claim("x-k", "o.k"), claim("x-none", "none")];
}

#[test]
fn without_a_token_a_request_is_nobodys() {
    let rules = [rule("me", outputs)];
    for fields in ["", "Authorization: Basic YTpi\r\n", "X-Other: 1\r\n", "Cookie: access_token=x\r\n"] {
        let mut w = work("/", fields);
        assert_eq!(authenticate(&rules, &mut w), Ok(()), "{fields}");
        assert!(View::of(&w).claims().is_none());
        assert_eq!(upstream(&w, &[]), format!("GET / HTTP/1.1\nHost: a\n{}", fields.trim_end()).trim_end());
    }
    let mut w = work("/", "");
    assert_eq!(authenticate(&[rule("me", |r| r.required = true)], &mut w), Err(Denial::Missing));
}

#[test]
fn what_a_token_says_goes_upstream_and_to_routing() {
    let payload =
        json!({"iss": "me", "sub": "user 1", "o": {"k": ["v"]}, "scope": "a  b", "exp": now() + 60});
    let text = usual(&payload);
    let forged = "x-sub: admin\r\nX_Sub: admin\r\nX-PAYLOAD: x\r\nx-none: admin\r\nx-subject: kept\r\n";
    let fields = format!("Authorization: Bearer {text}\r\n{forged}");
    let encoded = text.split('.').nth(1).unwrap();
    let given = format!("x-payload: {encoded}\nx-sub: user 1\nx-k: WyJ2Il0=");

    let mut w = work("/x?y=1", &fields);
    assert_eq!(authenticate(&[rule("me", outputs)], &mut w), Ok(()));
    assert_eq!(upstream(&w, &[]), format!("GET /x?y=1 HTTP/1.1\nHost: a\nx-subject: kept\n{given}"));
    assert_eq!(header(&w, "x-sub").as_deref(), Some("user 1"));
    assert_eq!((header(&w, "x-none"), header(&w, "authorization")), (None, None));
    let view = View::of(&w);
    let claims = view.claims().unwrap();
    assert_eq!((&claims["iss"], &claims["scope"]), (&json!("me"), &json!(["a", "b"])));
    // operations of the route apply to what tokens gave
    let ops = [HeaderOp::Remove(HeaderName::new("x-sub"))];
    assert!(!upstream(&w, &ops).contains("user 1"));

    let mut w = work("/", &fields);
    let keeps = rule("me", |r| {
        outputs(r);
        r.forward = true;
    });
    assert_eq!(authenticate(&[keeps], &mut w), Ok(()));
    assert_eq!(
        upstream(&w, &[]),
        format!("GET / HTTP/1.1\nHost: a\nAuthorization: Bearer {text}\nx-subject: kept\n{given}")
    );
    // what a token of nobody says is forged
    let mut w = work("/", forged);
    assert_eq!(authenticate(&[rule("me", outputs)], &mut w), Ok(()));
    assert_eq!(upstream(&w, &[]), "GET / HTTP/1.1\nHost: a\nx-subject: kept");
    // nobody can have it taken off
    let mut w = work("/", &format!("Connection: x-sub\r\n{fields}"));
    assert_eq!(authenticate(&[rule("me", outputs)], &mut w), Ok(()));
    assert_eq!(header(&w, "x-sub").as_deref(), Some("user 1"));
}

#[test]
fn tokens_are_found_where_the_rule_says() {
    let good = usual(&json!({"iss": "me"}));
    let at = |locations: Vec<TokenLocation>| [rule("me", |r| r.locations = locations)];
    let header = |name: &str, prefix: &str| TokenLocation::Header(HeaderName::new(name), prefix.into());
    let found = |rules: &[Arc<TokenRule>], target: &str, fields: &str| {
        let mut w = work(&target.replace("TOKEN", &good), &fields.replace("TOKEN", &good));
        let result = authenticate(rules, &mut w);
        (result.map(|()| w.verified.is_some()), upstream(&w, &[]).replace(&good, "TOKEN"))
    };
    let plain = |line: &str| format!("{line} HTTP/1.1\nHost: a");
    let default = [rule("me", |_| {})];
    // parameters, with what surrounds them
    for (target, sent) in [
        ("/p?access_token=TOKEN", "GET /p"),
        ("/?a=1&access_token=TOKEN&b=%20+", "GET /?a=1&b=%20+"),
        ("/?access%5Ftoken=TOKEN&access_token=x&&b", "GET /?&b"),
        ("?access_token=TOKEN", "GET /"),
    ] {
        let target = target.strip_prefix('?').map_or(target.to_owned(), |query| format!("http://a?{query}"));
        assert_eq!(found(&default, &target, ""), (Ok(true), plain(sent)), "{target}");
    }
    for (location, fields, sent) in [
        (header("x-t", ""), "X-T: TOKEN\r\n", ""),
        (header("x-t", "T="), "x-t: a, T= TOKEN\r\n", ""),
        (header("authorization", "Bearer "), "authorization: Bearer   TOKEN\r\n", ""),
        (header("authorization", "Bearer "), "authorization: a\r\nauthorization: Bearer TOKEN\r\n", ""),
        (TokenLocation::Cookie("t".into()), "Cookie: x=y; t=TOKEN\r\n", "\nCookie: x=y; t=TOKEN"),
        (
            TokenLocation::Cookie("t".into()),
            "cookie: tt=y\r\ncookie: t=\"TOKEN\"\r\n",
            "\ncookie: tt=y\ncookie: t=\"TOKEN\"",
        ),
    ] {
        let rules = at(vec![location]);
        assert_eq!(found(&rules, "/", fields), (Ok(true), plain("GET /") + sent), "{fields}");
    }
    // elsewhere a token is none
    for (location, fields) in
        [(header("x-t", ""), "Authorization: Bearer TOKEN\r\n"), (header("x-t", "T "), "x-t: TOKEN\r\n")]
    {
        assert_eq!(found(&at(vec![location]), "/", fields).0, Ok(false), "{fields}");
    }
    // nothing behind the prefix is no token, and not none
    assert_eq!(found(&default, "/", "Authorization: Bearer ?\r\n").0, Err(Denial::Format));
    assert_eq!(found(&default, "/?access_token=", "").0, Err(Denial::Format));
}

#[test]
fn every_token_of_a_request_must_be_good() {
    let rules = [rule("me", outputs)];
    let (good, other) = (usual(&json!({"iss": "me", "sub": "1"})), usual(&json!({"iss": "me", "sub": "2"})));
    let expired = usual(&json!({"iss": "me", "exp": 1}));
    let bearer =
        |tokens: &[&str]| tokens.iter().map(|t| format!("Authorization: Bearer {t}\r\n")).collect::<String>();
    let mut w = work("/", &bearer(&[&good, &expired]));
    assert_eq!(authenticate(&rules, &mut w), Err(Denial::Expired));
    let mut w = work(&format!("/?access_token={expired}"), &bearer(&[&good]));
    assert_eq!(authenticate(&rules, &mut w), Err(Denial::Expired));
    let mut w = work("/", &bearer(&[&good, &other]));
    assert_eq!(authenticate(&rules, &mut w), Ok(()));
    assert_eq!(View::of(&w).claims().unwrap()["sub"], "1");
    assert_eq!(header(&w, "x-sub").as_deref(), Some("2,1"), "both, as they were verified");
    assert!(!upstream(&w, &[]).contains("uthorization"));
}

#[test]
fn the_first_rule_that_accepts_counts() {
    let rules = [rule("a", |r| r.audiences = vec!["x".into()]), rule("b", |_| {}), rule("c", outputs)];
    let of = |payload: Value| format!("Authorization: Bearer {}\r\n", usual(&payload));
    for (fields, expected) in [
        (of(json!({"iss": "a", "aud": "x"})), Ok(Some("a"))),
        (of(json!({"iss": "b"})), Ok(Some("b"))),
        (of(json!({"iss": "d"})), Err(Denial::IssuerUnknown)),
        (of(json!({"iss": "a"})), Err(Denial::Audience)),
        (of(json!({"iss": "b", "exp": 1})), Err(Denial::Expired)),
        ("Authorization: Bearer x\r\n".into(), Err(Denial::Format)),
        (String::new(), Ok(None)),
    ] {
        let mut w = work("/", &fields);
        let result = authenticate(&rules, &mut w);
        let issuer = w.verified.as_ref().and_then(|v| v.claims()).map(|c| c["iss"].as_str().unwrap());
        assert_eq!(result.map(|()| issuer), expected, "{fields}");
    }
    // what only another rule's tokens may say is not believed either
    let mut w = work("/", &format!("x-sub: admin\r\n{}", of(json!({"iss": "b", "sub": "me"}))));
    assert_eq!(authenticate(&rules, &mut w), Ok(()));
    assert_eq!(header(&w, "x-sub"), None);
    // a rule that must be met is met by the token of another, and not by none
    let rules = [rule("a", |r| r.required = true), rule("b", |_| {})];
    assert_eq!(authenticate(&rules, &mut work("/", "")), Err(Denial::Missing));
    assert_eq!(authenticate(&rules, &mut work("/", &of(json!({"iss": "b"})))), Ok(()));
}

#[test]
fn each_token_may_be_of_another_issuer() {
    let claim = |header: &str| ClaimHeader { header: HeaderName::new(header), claim: "sub".into() };
    let rules = [
        rule("a", |r| r.claim_headers = vec![claim("x-a")]),
        rule("b", |r| {
            r.claim_headers = vec![claim("x-b")];
            r.forward = true;
        }),
        rule("c", |r| r.locations = vec![TokenLocation::Cookie("c".into())]),
    ];
    let of = |issuer: &str, sub: &str| usual(&json!({"iss": issuer, "sub": sub}));
    let expired = usual(&json!({"iss": "a", "exp": 1}));
    for (param, bearer, expected) in [
        (of("a", "1"), of("b", "2"), Ok("2")),
        (of("b", "2"), of("a", "1"), Ok("1")),
        (expired, of("b", "2"), Err(Denial::Expired)),
        (of("d", "1"), of("b", "2"), Err(Denial::IssuerUnknown)),
        // a place that is not the issuer's
        (of("c", "1"), of("b", "2"), Err(Denial::IssuerUnknown)),
    ] {
        let fields = format!("Authorization: Bearer {bearer}\r\nx-a: admin\r\n");
        let mut w = work(&format!("/?access_token={param}"), &fields);
        let result = authenticate(&rules, &mut w);
        let sub = w.verified.as_ref().and_then(|v| v.claims()).map(|c| c["sub"].as_str().unwrap());
        assert_eq!(result.map(|()| sub), expected.map(Some), "{param} {bearer}");
        if result.is_ok() {
            assert_eq!((header(&w, "x-a"), header(&w, "x-b")), (Some("1".into()), Some("2".into())));
            let sent = upstream(&w, &[]);
            let payload = |issuer, sub| of(issuer, sub).split('.').nth(1).unwrap().to_owned();
            assert!(sent.contains(&payload("b", "2")) && !sent.contains(&payload("a", "1")), "{sent}");
        }
    }
}

#[test]
fn preflights_pass_and_say_nothing() {
    let preflight = "Origin: https://a\r\nAccess-Control-Request-Method: PUT\r\nx-sub: admin\r\nAuthorization: Bearer x\r\n";
    let rules = [rule("me", outputs)];
    let mut w = work("/", preflight);
    assert_eq!(authenticate(&rules, &mut w), Err(Denial::Format), "a GET is none");
    let text = format!("OPTIONS / HTTP/1.1\r\nHost: a\r\n{preflight}\r\n");
    let mut w = Work::take();
    w.push_back(text.as_bytes());
    let Work { buf, end, request, .. } = &mut *w;
    let limits = HeadLimits { bytes: 4096, fields: 20, target: 100 };
    assert!(request.parse_request(&buf[..*end], limits).unwrap());
    assert_eq!(authenticate(&rules, &mut w), Ok(()));
    assert!(w.verified.is_none() && header(&w, "x-sub").is_none());
}
