//! What providers decide, and what becomes of requests when they do not.

use super::provider::{Provider, Question};
use super::{SOON, World, policies};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tidegate_tests::{Answer, Connection, Net, Request, TokenSigner, Version, exchange, values};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A provider with its address in a config of its own.
pub(super) fn entry(at: SocketAddr, protocol: &str) -> String {
    format!(
        "\n---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: provider}}\nspec:\n  hosts: \
         [provider.example]\n  resolution: STATIC\n  ports: [{{number: 80, name: p, protocol: {protocol}}}]\n  \
         endpoints: [{{address: {}, ports: {{p: {}}}}}]\n",
        at.ip(),
        at.port()
    )
}

pub(super) fn mesh(kind: &str, settings: &str) -> String {
    format!(
        "\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    \
         extensionProviders: [{{name: me, {kind}: {{service: provider.example, port: 80, {settings}}}}}]\n"
    )
}

/// Everything below `/checked` is asked about, and nothing else; of what passes, `/checked/never` does not.
fn asking(kind: &str, settings: &str) -> String {
    let deny = "{action: DENY, rules: [{to: [{operation: {paths: [/checked/never]}}]}, \
                {when: [{key: 'request.headers[x-user]', values: [eve]}]}]}";
    let custom =
        "{action: CUSTOM, provider: {name: me}, rules: [{to: [{operation: {paths: ['/checked*']}}]}]}";
    policies(&[("custom", custom), ("deny", deny)]) + &mesh(kind, settings)
}

async fn world(protocol: &str, policies: &str) -> Result<(World, Provider, Net)> {
    let net = Net::reserve()?;
    let at = SocketAddr::new(IpAddr::V4(net.next()?), 8081);
    let provider = Provider::start(at).await?;
    Ok((World::start(&entry(at, protocol), policies).await?, provider, net))
}

/// The log line of the last answer.
async fn logged(world: &World, mark: usize, details: &str) -> Result<()> {
    let line = world.gateway.log.find(mark, SOON, |line| line.contains(details)).await;
    let line: Value = serde_json::from_str(&line.with_context(|| format!("no {details}"))?)?;
    ensure!(line["response_flags"] == "UAEX", "{line}");
    Ok(())
}

impl World {
    /// Asks for `/checked` in both versions of HTTP, wanting this of the provider.
    async fn wanting(&self, want: &str) -> Result<Vec<Answer>> {
        let mut answers = Vec::new();
        for version in [Version::Http11, Version::Http2] {
            let request = self.request("/checked/a?b=c&secret=1&user=eve").version(version);
            let request = request.header("x-want", want).header("x-user", "mallory").header("x-secret", "s");
            let request = request.header("x-groups", "a").header("x-there", "yes").header("cookie", "a=1");
            answers.push(exchange(&request).await?);
        }
        Ok(answers)
    }
}

#[tokio::test]
async fn a_provider_is_asked_by_http() -> Result<()> {
    let settings = "pathPrefix: /auth, timeout: 60s, includeRequestHeadersInCheck: [x-want, 'x-us*', cookie], \
                    includeAdditionalHeadersInCheck: {x-from: edge, x-said: '%REQ(x-secret)%, 5%%', x-nobody: '%REQ(x-none)%'}, headersToUpstreamOnAllow: [x-user, x-groups], \
                    headersToDownstreamOnAllow: [x-seen], headersToDownstreamOnDeny: [x-user]";
    let (world, provider, _net) = world("HTTP", &asking("envoyExtAuthzHttp", settings)).await?;
    assert_eq!(exchange(&world.request("/open")).await?.status, 200);
    ensure!(provider.asked().is_empty(), "asked about what no rule matches");
    let hits = world.backend.hits().len();
    for answer in world.wanting("allow").await? {
        assert_eq!((answer.status, answer.header("x-seen")), (200, Some("yes")), "{}", answer.text());
    }
    for question in provider.asked() {
        assert_eq!((&*question.method, &*question.path), ("GET", "/auth/checked/a?b=c&secret=1&user=eve"));
        assert_eq!(question.header("host"), Some("www.example.com"));
        assert_eq!((question.header("x-from"), question.header("x-user")), (Some("edge"), Some("mallory")));
        assert_eq!((question.header("x-said"), question.header("x-nobody")), (Some("s, 5%"), None));
        assert_eq!((question.header("cookie"), question.header("x-secret")), (Some("a=1"), None));
    }
    for hit in &world.backend.hits()[hits..] {
        assert_eq!(values(&hit.headers, "x-user"), ["bob"]);
        assert_eq!(values(&hit.headers, "x-groups"), ["b"], "the last line");
        ensure!(values(&hit.headers, "x-other").is_empty() && hit.path.contains("user=eve"), "{hit:?}");
        ensure!(values(&hit.headers, "x-there").is_empty(), "the provider takes it away: {hit:?}");
    }
    let mark = world.gateway.log.since(0).len();
    for (want, status, body) in [("deny", 401, "go away"), ("redirect", 302, "")] {
        for answer in world.wanting(want).await? {
            assert_eq!((answer.status, &*answer.text()), (status, body), "{want}");
            assert_eq!(answer.header("x-user"), Some("bob"), "{want}");
            assert_eq!(answer.header("location"), Some("http://login.example/"), "{want}");
            assert_eq!(answer.header("www-authenticate"), Some("Basic"), "{want}");
            assert_eq!((answer.header("x-other"), answer.header("set-cookie")), (None, None), "{want}");
        }
    }
    logged(&world, mark, "ext_authz_denied").await?;
    let mark = world.gateway.log.since(0).len();
    let hits = world.backend.hits().len();
    // who says nothing, or what cannot be used, lets nobody pass
    for (want, status) in [("error", 403), ("large", 403), ("success", 403)] {
        for answer in world.wanting(want).await? {
            assert_eq!(answer.status, status, "{want}");
        }
    }
    logged(&world, mark, "ext_authz_error").await?;
    assert_eq!(world.backend.hits().len(), hits);
    // the other policies see what the provider made of the request
    let request = world.request("/checked/never").header("x-want", "allow");
    assert_eq!(exchange(&request).await?.status, 403);
    settings_count(&world).await?;
    drop(provider);
    assert!(
        world.wanting("allow").await?.iter().all(|answer| answer.status == 503),
        "{}",
        world.gateway.said()
    );
    Ok(())
}

#[tokio::test]
async fn a_provider_may_bring_the_token() -> Result<()> {
    let signer = TokenSigner::new()?;
    let claims = json!({"iss": "here", "sub": "me"});
    let sign = |expired| signer.sign(claims.as_object().context("claims")?, expired);
    let (good, bad) = (sign(false)?, sign(true)?);
    let tokens = format!(
        "\n---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: tokens, namespace: \
         istio-system}}\nspec: {{jwtRules: [{{issuer: here, jwks: '{}', outputClaimToHeaders: [{{header: x-user, claim: \
         sub}}]}}]}}\n",
        signer.key_set()?
    );
    let settings = "timeout: 60s, includeRequestHeadersInCheck: [x-want], headersToUpstreamOnAllow: [authorization, x-user]";
    let custom = "{action: CUSTOM, provider: {name: me}, rules: [{}]}";
    let allow = "{rules: [{from: [{source: {requestPrincipals: [here/me]}}]}]}";
    let all =
        policies(&[("custom", custom), ("allow", allow)]) + &mesh("envoyExtAuthzHttp", settings) + &tokens;
    let (world, provider, _net) = world("HTTP", &all).await?;
    let brought = |token: &str| world.request("/a").header("x-want", &format!("token {token}"));
    let sent = |token: &str, want: &str| {
        world.request("/a").header("x-want", want).header("authorization", &format!("Bearer {token}"))
    };
    for (request, expected) in [
        (brought(&good), 200),
        (brought(&bad), 401),
        (sent(&bad, &format!("token {good}")), 200),
        (sent(&good, "allow"), 200),
        (sent(&bad, "redirect"), 302),
        (sent(&bad, "allow"), 401),
        (world.request("/a").header("x-want", "allow"), 403),
    ] {
        let hits = world.backend.hits().len();
        let answer = exchange(&request).await?;
        ensure!(answer.status == expected, "{request:?}: {} {}", answer.status, answer.text());
        let asked = provider.asked();
        let has_token = values(&request.headers, "authorization").len();
        assert_eq!(asked.len(), 1);
        assert_eq!(
            asked[0].headers.get_all("authorization").iter().count(),
            has_token,
            "the provider sees it"
        );
        for hit in &world.backend.hits()[hits..] {
            assert_eq!(values(&hit.headers, "x-user"), ["me"], "what the provider says of it does not count");
            ensure!(values(&hit.headers, "authorization").is_empty(), "{hit:?}");
        }
    }
    Ok(())
}

/// What passes without an answer, and what is answered then.
async fn settings_count(world: &World) -> Result<()> {
    let open = "failOpen: true, includeHeadersInCheck: [x-want]";
    world.policies(&asking("envoyExtAuthzHttp", &format!("timeout: 60s, {open}"))).await?;
    assert!(world.wanting("error").await?.iter().all(|answer| answer.status == 200));
    let denied = world.wanting("deny").await?;
    assert!(
        denied.iter().all(|a| a.status == 401 && a.header("x-other") == Some("no")),
        "all headers of a refusal"
    );
    // time is short only where it runs out
    world.policies(&asking("envoyExtAuthzHttp", &format!("timeout: 0.5s, {open}"))).await?;
    assert!(world.wanting("silence").await?.iter().all(|answer| answer.status == 200));
    let status = "timeout: 0.5s, statusOnError: '503', includeHeadersInCheck: [x-want]";
    world.policies(&asking("envoyExtAuthzHttp", status)).await?;
    for want in ["silence", "error"] {
        assert!(world.wanting(want).await?.iter().all(|answer| answer.status == 503), "{want}");
    }
    Ok(())
}

#[tokio::test]
async fn a_provider_is_asked_by_grpc() -> Result<()> {
    // the protocol of the port is not what makes it gRPC
    let (world, provider, _net) = world("HTTP", &asking("envoyExtAuthzGrpc", "timeout: 60s")).await?;
    let hits = world.backend.hits().len();
    for answer in world.wanting("allow").await? {
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(values(&answer.headers, "x-seen"), ["yes", "twice"]);
        assert_eq!(answer.header("x-nowhere"), None);
    }
    for question in provider.asked() {
        assert_eq!(
            (question.header("content-type"), question.header("te")),
            (Some("application/grpc"), Some("trailers"))
        );
        for text in [
            "/checked/a?b=c&secret=1&user=eve",
            "www.example.com",
            "mallory",
            "x-request-id",
            ":authority",
            "127.",
        ] {
            ensure!(question.has(text), "{text}: {}", String::from_utf8_lossy(&question.body));
        }
    }
    for hit in &world.backend.hits()[hits..] {
        assert_eq!(hit.path, "/checked/a?b=c&user=b%26b");
        assert_eq!(hit.authority.as_deref(), Some("www.example.com"));
        let all = |name| values(&hit.headers, name);
        assert_eq!((all("x-user"), all("x-groups")), (vec!["bob".into()], vec!["a".into(), "b".into()]));
        assert_eq!((all("x-nowhere"), all("x-there")), (vec!["new".into()], vec!["theirs".into()]));
        ensure!(all("x-absent").is_empty() && all("x-secret").is_empty(), "{hit:?}");
    }
    for answer in world.wanting("deny").await? {
        assert_eq!((answer.status, &*answer.text()), (401, "go away"));
        assert_eq!(answer.header("www-authenticate"), Some("Basic"));
        assert_eq!(values(&answer.headers, "set-cookie"), ["a=1", "b=2"]);
    }
    let (hits, mark) = (world.backend.hits().len(), world.gateway.log.since(0).len());
    assert!(world.wanting("elsewhere").await?.iter().all(|answer| answer.status == 200));
    for hit in &world.backend.hits()[hits..] {
        assert_eq!(hit.path, "/checked/elsewhere?new=1", "made canonical");
    }
    let line = world.gateway.log.find(mark, SOON, |line| line.contains("/checked/elsewhere?new=1")).await;
    ensure!(line.is_some(), "{}", world.gateway.log.tail());
    let hits = world.backend.hits().len();
    // the policies behind it see the new path
    let unasked = ["plain", "success", "error", "no-message", "broken-header", "silence"];
    for want in ["never", "another-method", "bad-path"].into_iter().chain(unasked) {
        if want == "silence" {
            world.policies(&asking("envoyExtAuthzGrpc", "timeout: 0.5s")).await?;
        }
        let statuses: Vec<_> = world.wanting(want).await?.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [403, 403], "{want}");
    }
    assert_eq!(world.backend.hits().len(), hits);
    drop(provider);
    assert!(world.wanting("allow").await?.iter().all(|answer| answer.status == 403));
    assert_eq!(world.metric("check_passed").await?, 6);
    Ok(())
}

fn upload(world: &World, version: Version, body: &str) -> Request {
    let request = world.request("/checked/up").method("POST").version(version);
    Request { body: Some(body.into()), ..request }
}

async fn one_question(provider: &Provider) -> Result<Question> {
    let end = Instant::now() + SOON;
    loop {
        if let Some(question) = provider.asked().pop() {
            return Ok(question);
        }
        ensure!(Instant::now() < end, "nobody was asked");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A client that sends its body when it is told to.
async fn waits_to_be_told(world: &World) -> Result<()> {
    let mut stream = TcpStream::connect(world.gateway.at(8080)).await?;
    let head = "POST /checked/up HTTP/1.1\r\nhost: www.example.com\r\nexpect: 100-continue\r\n\
                content-length: 5\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut told = [0; 25];
    tokio::time::timeout(SOON, stream.read_exact(&mut told)).await??;
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await?;
    let mut answer = String::new();
    tokio::time::timeout(SOON, stream.read_to_string(&mut answer)).await??;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn bodies_are_checked_within_bounds_and_arrive_whole() -> Result<()> {
    let body = |partial| {
        format!("includeRequestBodyInCheck: {{maxRequestBytes: 5000, allowPartialMessage: {partial}}}")
    };
    let (world, provider, _net) = world("HTTP", &asking("envoyExtAuthzHttp", &body(false))).await?;
    let (small, large) = ("s".repeat(5000), "l".repeat(200_000));
    for version in [Version::Http11, Version::Http2] {
        assert_eq!(exchange(&upload(&world, version, &small)).await?.status, 200);
        let question = one_question(&provider).await?;
        assert_eq!(
            (question.body.len(), question.header("x-envoy-auth-partial-body")),
            (5000, Some("false"))
        );
        assert_eq!(world.backend.hits().last().context("no hit")?.body, small, "{version:?}");
        assert_eq!(exchange(&upload(&world, version, &large)).await?.status, 413, "{version:?}");
    }
    ensure!(provider.asked().is_empty(), "asked about what is too large");
    world.policies(&asking("envoyExtAuthzHttp", &body(true))).await?;
    for version in [Version::Http11, Version::Http2] {
        assert_eq!(exchange(&upload(&world, version, &large)).await?.status, 200, "{version:?}");
        let question = one_question(&provider).await?;
        assert_eq!((question.body.len(), question.header("x-envoy-auth-partial-body")), (5000, Some("true")));
        ensure!(world.backend.hits().last().context("no hit")?.body == large, "the rest came otherwise");
    }
    // chunks, and a client that waits to be told to go on; another request follows on the connection
    let mut connection = Connection::open(&world.request("/checked/up")).await?;
    let head = "POST /checked/up HTTP/1.1\r\nhost: www.example.com\r\ntransfer-encoding: chunked\r\n\r\n";
    let raw = format!("{head}5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
    for _ in 0..2 {
        let answer = connection.send_raw(raw.as_bytes(), "POST", false).await?;
        assert_eq!(answer.status, 200);
        assert_eq!(one_question(&provider).await?.body, b"hello world");
        assert_eq!(world.backend.hits().last().context("no hit")?.body, "hello world");
    }
    waits_to_be_told(&world).await?;
    assert_eq!(one_question(&provider).await?.body, b"hello");
    let grpc = format!("{}, timeout: 60s", body(true).replace("5000", "5000, packAsBytes: true"));
    world.policies(&asking("envoyExtAuthzGrpc", &grpc)).await?;
    provider.asked();
    assert_eq!(exchange(&upload(&world, Version::Http11, "body in a message")).await?.status, 200);
    ensure!(one_question(&provider).await?.has("body in a message"), "no body");
    Ok(())
}

#[tokio::test]
async fn a_provider_that_cannot_be_asked_denies_what_its_rules_match() -> Result<()> {
    let custom = |name: &str, path: &str| {
        format!(
            "{{action: CUSTOM, provider: {{name: {name}}}, rules: [{{to: [{{operation: {{paths: [{path}]}}}}]}}]}}"
        )
    };
    let (me, other) = (custom("me", "/me*"), custom("other", "'*/other'"));
    let policies = policies(&[("a", &me), ("b", &other)]) + &mesh("envoyExtAuthzHttp", "timeout: 60s");
    let (world, provider, _net) = world("HTTP", &policies).await?;
    let mark = world.gateway.log.since(0).len();
    for (path, status) in [("/me", 200), ("/other", 403), ("/me/other", 403), ("/neither", 200)] {
        assert_eq!(exchange(&world.request(path)).await?.status, status, "{path}: {}", world.gateway.said());
    }
    assert_eq!(provider.asked().len(), 1);
    let details = "ns[istio-system]-policy[b]-rule[0]-deny-due-to-bad-CUSTOM-action";
    let line = world.gateway.log.find(mark, SOON, |line| line.contains(details)).await.context(details)?;
    let line: Value = serde_json::from_str(&line)?;
    assert_eq!(line["response_code"], json!(403));
    Ok(())
}
