//! nginx in front: as packaged, and as people set it up.

use crate::nginx::{self, Config};
use crate::origin::{Echo, Origin, content};
use crate::site::{HOST, Objects, RULES};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;
use tidegate_tests::{
    Answer, Authority, Connection, Gateway, Identity, Net, Request, Version, exchange, values,
};

/// Bodies up to 3 MB both ways; nginx's own limit is 1 MB.
const LARGE: usize = 3_000_000;

const ANY: u16 = 8080;
const NAMED: u16 = 8081;
const TLS: u16 = 8443;
const PASSED: u16 = 8444;

/// How nginx is set up for its location, and what its `proxy_pass` names. `{any}` and the others are the
/// gateway's listeners, as upstream blocks; `{kept}` keeps connections.
const SETUPS: &[(&str, &str)] = &[
    ("as packaged", "proxy_pass http://any;"),
    ("address", "proxy_pass http://{any};"),
    ("no host", "proxy_pass http://any; proxy_set_header Host '';"),
    ("host", "proxy_pass http://named; proxy_set_header Host $host;"),
    ("host with port", "proxy_pass http://named; proxy_set_header Host $http_host;"),
    ("host of ours", "proxy_pass http://named; proxy_set_header Host shop.example;"),
    (
        "keep-alive of 1.0",
        "proxy_pass http://kept; proxy_set_header Host $host; proxy_set_header Connection keep-alive;",
    ),
    (
        "kept",
        "proxy_pass http://kept; proxy_set_header Host $host; proxy_http_version 1.1; proxy_set_header Connection '';",
    ),
    ("1.1, closed", "proxy_pass http://named; proxy_set_header Host $host; proxy_http_version 1.1;"),
    (
        "forwarded",
        "proxy_pass http://named; proxy_set_header Host $host; proxy_set_header X-Real-IP $remote_addr; \
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Host $host; \
         proxy_set_header X-Forwarded-Port $server_port; proxy_set_header X-Forwarded-Proto $scheme;",
    ),
    (
        "upgrades",
        "proxy_pass http://named; proxy_set_header Host $host; proxy_http_version 1.1; \
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;",
    ),
    (
        "unbuffered",
        "proxy_pass http://kept; proxy_set_header Host $host; proxy_http_version 1.1; \
      proxy_set_header Connection ''; proxy_request_buffering off; proxy_buffering off;",
    ),
    (
        "unbuffered 1.0",
        "proxy_pass http://named; proxy_set_header Host $host; proxy_request_buffering off; proxy_buffering off;",
    ),
    (
        "TLS",
        "proxy_pass https://secured; proxy_set_header Host $host; proxy_ssl_server_name on; \
      proxy_ssl_name shop.example; proxy_ssl_verify on; proxy_ssl_trusted_certificate ca.crt;",
    ),
    (
        "TLS, kept",
        "proxy_pass https://secured; proxy_set_header Host $host; proxy_ssl_server_name on; \
      proxy_ssl_name shop.example; proxy_http_version 1.1; proxy_set_header Connection '';",
    ),
    (
        "asks first",
        "auth_request /permit; auth_request_set $who $upstream_status; proxy_set_header X-Permit $who; \
      proxy_pass http://named; proxy_set_header Host $host;",
    ),
];

/// What is sent, and what comes back: method, path, bytes up, status, bytes down.
const REQUESTS: &[(&str, &str, Option<usize>, u16, usize)] = &[
    ("GET", "/length/0", None, 200, 0),
    ("GET", "/length/5?a=b%20c&d", None, 200, 5),
    ("GET", "/length/3000000", None, 200, LARGE),
    ("GET", "/chunked/300000", None, 200, 300_000),
    ("GET", "/chunked/0", None, 200, 0),
    ("GET", "/until-close/300000", None, 200, 300_000),
    ("GET", "/old/100000", None, 200, 100_000),
    ("GET", "/hints", None, 200, 6),
    ("HEAD", "/length/3000000", None, 200, 0),
    ("HEAD", "/chunked/5", None, 200, 0),
    ("HEAD", "/direct", None, 418, 0),
    ("GET", "/status/204", None, 204, 0),
    ("GET", "/status/304", None, 304, 0),
    ("GET", "/status/404", None, 404, 5),
    ("GET", "/status/500", None, 500, 5),
    ("GET", "/redirect", None, 302, 0),
    ("GET", "/moved", None, 308, 0),
    ("GET", "/direct", None, 418, 15),
    ("GET", "/nowhere", None, 503, 121),
    ("GET", "/~lost", None, 404, 25),
    ("POST", "/direct", Some(LARGE), 418, 15),
    ("POST", "/~lost", Some(1_000_000), 404, 25),
    ("POST", "/echo", Some(LARGE), 200, LARGE),
    ("POST", "/echo", Some(0), 200, 0),
    ("PUT", "/echo?x=%2F", Some(5), 200, 5),
    ("PATCH", "/echo", Some(70_000), 200, 70_000),
    ("DELETE", "/echo", None, 200, 0),
    ("OPTIONS", "/echo", None, 200, 0),
];

/// The processes of a test, and what keeps them.
struct Bench {
    net: Net,
    gateway: Gateway,
    _origins: [Origin; 2],
    _folder: tempfile::TempDir,
    identity: Identity,
    authority: Authority,
}

impl Bench {
    async fn start() -> Result<Bench> {
        let net = Net::reserve()?;
        let (origin, grpc) = (Origin::start(&net).await?, Origin::grpc(&net).await?);
        let authority = Authority::new("front")?;
        let identity = authority.issue(HOST, &[HOST.to_owned()])?;
        let mut objects = Objects::default();
        objects.gateway("any", ANY, "HTTP", "*", "");
        objects.gateway("named", NAMED, "HTTP", HOST, "");
        let tls = ", tls: {mode: SIMPLE, credentialName: shop}";
        objects.gateway("secured", TLS, "HTTPS", HOST, tls);
        objects.gateway("passed", PASSED, "HTTPS", HOST, tls);
        objects.routes("any", "*", "any", RULES);
        objects.routes("named", HOST, "named, secured, passed", RULES);
        objects.upstream("origin.example", origin.at, "HTTP");
        objects.upstream("nowhere.example", SocketAddr::new(net.next()?.into(), 1), "HTTP");
        objects.site("grpc.example", "any", grpc.at, "GRPC");
        objects.secret("shop", &identity);
        let (gateway, folder) = objects.start(&net).await?;
        Ok(Bench { net, gateway, _origins: [origin, grpc], _folder: folder, identity, authority })
    }

    fn config(&self) -> Result<Config> {
        let mut config = Config::new(&self.net)?;
        let (any, named, tls) = (self.gateway.at(ANY), self.gateway.at(NAMED), self.gateway.at(TLS));
        config.http(&format!(
            "client_max_body_size 16m; proxy_buffer_size 16k; proxy_buffers 8 16k;\n\
             map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}\n\
             upstream any {{ server {any}; }}\nupstream named {{ server {named}; }}\n\
             upstream kept {{ server {named}; keepalive 8; }}\nupstream secured {{ server {tls}; keepalive 8; }}"
        ));
        std::fs::write(config.root().join("ca.crt"), self.authority.certificate())?;
        Ok(config)
    }

    /// A location with one of the set-ups, and one that `auth_request` asks.
    fn location(&self, setup: &str) -> String {
        let setup = setup.replace("{any}", &self.gateway.at(ANY).to_string());
        format!(
            "location / {{ {setup} }}\nlocation = /permit {{ internal; proxy_pass http://named/status/204; \
             proxy_pass_request_body off; proxy_set_header Content-Length ''; proxy_set_header Host $host; }}"
        )
    }
}

#[tokio::test]
async fn every_set_up_is_served() -> Result<()> {
    let bench = Bench::start().await?;
    let mut config = bench.config()?;
    let mut setups = Vec::new();
    for (name, setup) in SETUPS {
        setups.push((*name, *setup, config.server("", &bench.location(setup)), false));
    }
    let location = bench.location("proxy_pass http://named; proxy_set_header Host $host;");
    setups.push(("HTTP/2", "", config.tls_server("http2", &bench.identity, &location)?, true));
    if nginx::has_stream() {
        setups.push((
            "TCP",
            "",
            config.stream_server(&format!("proxy_pass {};", bench.gateway.at(NAMED))),
            false,
        ));
    }
    let nginx = config.start().await?;
    let mut failures = Vec::new();
    for (name, setup, at, tls) in setups {
        if let Err(e) = serves(at, tls, &mut failures, (name, setup)).await {
            failures.push(format!("{name}: {e:#}"));
        }
    }
    let said = nginx.messages.tail();
    assert!(failures.is_empty(), "{} failures:\n{}\n{said}", failures.len(), failures.join("\n"));
    Ok(())
}

/// Sends every request, over one connection as long as that lasts.
async fn serves(
    at: SocketAddr,
    tls: bool,
    failures: &mut Vec<String>,
    (name, setup): (&str, &str),
) -> Result<()> {
    let plain = Request::to(at).host(HOST);
    let plain = if tls { plain.version(Version::Http2).tls(HOST) } else { plain };
    let mut connection = None;
    // nginx asks with 1.1, but takes an interim response for the final one before its version 1.29
    let knows_hints = |path| path != "/hints" || !setup.contains("proxy_http_version 1.1");
    // it ends a TCP connection as soon as one side has, so who is still sending may lose an early answer
    let waits = |sent: Option<usize>, status| name != "TCP" || sent.is_none() || status == 200;
    let known = REQUESTS.iter().filter(|r| knows_hints(r.1) && waits(r.2, r.3));
    for &(method, path, up, status, down) in known {
        let mut request = plain.clone().method(method).path(path).header("cookie", "a=b; c=d");
        request.body = up.map(content);
        let mut open = match connection.take() {
            Some(open) => open,
            None => Connection::open(&request).await.context("nginx takes no connection")?,
        };
        let result = match open.send(&request).await {
            Ok(answer) => {
                let closes = values(&answer.headers, "connection").contains(&"close".to_owned());
                // nginx does not say that it ends the connection of a body that it did not pass on
                let early = up.is_some() && status != 200;
                connection = (!closes && !early).then_some(open);
                is_answer(&answer, method, path, status, down)
            }
            Err(e) => Err(e.into()),
        };
        if let Err(e) = result {
            failures.push(format!("{name}: {method} {path}: {e:#}"));
        }
    }
    let mut chunked = plain.method("POST").path("/echo");
    if !tls {
        chunked = chunked.header("transfer-encoding", "chunked");
        chunked.body =
            Some([b"7530\r\n", content(30_000).as_slice(), b"\r\n5\r\nabcde\r\n0\r\n\r\n"].concat());
        let echo = Echo::of(&exchange(&chunked).await?.body).context("no echo of chunks")?;
        ensure!(echo.body == [&content(30_000), b"abcde".as_slice()].concat(), "chunks: {}", echo.body.len());
    }
    Ok(())
}

fn is_answer(answer: &Answer, method: &str, path: &str, status: u16, down: usize) -> Result<()> {
    ensure!(answer.status == status, "{} in place of {status}: {}", answer.status, answer.text());
    if path.starts_with("/echo") {
        let echo = Echo::of(&answer.body).context("no echo")?;
        ensure!(echo.line == format!("{method} {path} HTTP/1.1"), "{}", echo.line);
        ensure!(echo.header("cookie") == Some("a=b; c=d"), "{:?}", echo.headers);
        ensure!(echo.body == content(down), "{} bytes went up", echo.body.len());
        return Ok(());
    }
    ensure!(answer.body.len() == down, "{} bytes in place of {down}", answer.body.len());
    let ours = status == 200 && path != "/hints";
    ensure!(!ours || answer.body == content(down), "other bytes");
    let location = answer.header("location").unwrap_or_default();
    ensure!(status / 100 != 3 || status == 304 || location.ends_with("/elsewhere"), "to {location:?}");
    Ok(())
}

#[tokio::test]
async fn what_reaches_the_workload() -> Result<()> {
    let bench = Bench::start().await?;
    let mut config = bench.config()?;
    let setup =
        |name| SETUPS.iter().find(|(n, _)| *n == name).map(|(_, s)| bench.location(s)).context("no set-up");
    let forwarded = config.server("", &setup("forwarded")?);
    let upgrades = config.server("", &setup("upgrades")?);
    let packaged = config.server("", "location / { proxy_pass http://named; }");
    let asks = "auth_request /forbid; proxy_pass http://named; proxy_set_header Host $host;";
    let forbid =
        "location = /forbid { internal; proxy_pass http://named/status/403; proxy_set_header Host $host; }";
    let forbidden = config.server("", &format!("{}{forbid}", bench.location(asks)));
    let grpc = "grpc_pass grpc://any; grpc_set_header Host grpc.example;";
    let grpc = config.server("http2", &format!("location / {{ {grpc} }}"));
    let stream = nginx::has_stream().then(|| passed_through(&mut config, &bench));
    let _nginx = config.start().await?;

    let answer =
        exchange(&Request::to(forwarded).host(HOST).path("/echo").header("x-forwarded-for", "192.0.2.1"))
            .await?;
    let echo = Echo::of(&answer.body).context("no echo")?;
    for (name, value) in [
        ("host", HOST),
        // the client's own word, nginx's, and the gateway's
        ("x-forwarded-for", "192.0.2.1, 127.0.0.1,127.0.0.1"),
        // nobody trusts nginx here
        ("x-forwarded-proto", "http"),
    ] {
        assert_eq!(echo.header(name), Some(value), "{:?}", echo.headers);
    }
    for name in ["x-real-ip", "connection"] {
        assert_eq!(echo.header(name), None, "{:?}", echo.headers);
    }

    let upgrade = Request::to(upgrades).host(HOST).path("/socket").header("upgrade", "websocket");
    let answer = exchange(&upgrade.header("connection", "upgrade")).await?;
    assert_eq!((answer.status, answer.after_upgrade), (101, Some(b"\x81\x85\0\0\0\0hello".to_vec())));

    assert_eq!(exchange(&Request::to(forbidden).host(HOST).path("/echo")).await?.status, 403);
    is_told_what_to_change(&bench, packaged).await?;
    grpc_passes(grpc).await?;
    match stream {
        Some(at) => tls_passes(at, &bench).await?,
        None => say("not tried: TLS passed through by nginx; apt-get install libnginx-mod-stream\n"),
    }
    Ok(())
}

/// As packaged, nginx says its upstream's name where the host belongs.
async fn is_told_what_to_change(bench: &Bench, packaged: SocketAddr) -> Result<()> {
    let answer = exchange(&Request::to(packaged).host(HOST).path("/as-packaged")).await?;
    ensure!(answer.status == 404, "{}", answer.status);
    let is_it = |l: &str| l.contains("/as-packaged");
    let line =
        bench.gateway.log.find(0, Duration::from_secs(30), is_it).await.context("no access log line")?;
    let line: Value = serde_json::from_str(&line)?;
    ensure!(line["protocol"] == "HTTP/1.0" && line["authority"] == "named", "{line}");
    let details = line["response_code_details"].as_str().unwrap_or_default();
    ensure!(details.contains("proxy_set_header Host $host"), "{line}");
    Ok(())
}

async fn grpc_passes(at: SocketAddr) -> Result<()> {
    let call = Request::to(at).host("any.example").version(Version::Http2).method("POST");
    let mut call = call.header("content-type", "application/grpc").header("te", "trailers");
    for size in [0, 5, 1_000_000] {
        call.body = Some(content(size));
        let answer = exchange(&call.clone().path("/shop.Shop/Get")).await?;
        ensure!(answer.status == 200 && answer.header("grpc-status") == Some("0"), "{:?}", answer.headers);
        ensure!(answer.body == content(size), "{} bytes in place of {size}", answer.body.len());
    }
    let answer = exchange(&call.path("/fails")).await?;
    ensure!(answer.status == 200 && answer.header("grpc-status") == Some("5"), "{:?}", answer.headers);
    Ok(())
}

/// A listener that looks at the server name, and passes the TLS on as it is.
fn passed_through(config: &mut Config, bench: &Bench) -> SocketAddr {
    let to = bench.gateway.at(PASSED);
    config.stream(&format!("map $ssl_preread_server_name $to {{ {HOST} {to}; default 127.0.0.1:1; }}"));
    config.stream_server("ssl_preread on; proxy_pass $to;")
}

async fn tls_passes(at: SocketAddr, bench: &Bench) -> Result<()> {
    for version in [Version::Http11, Version::Http2] {
        let answer = exchange(&Request::to(at).host(HOST).version(version).tls(HOST).path("/echo")).await?;
        ensure!(answer.certificate == Some(bench.identity.der.clone()), "the gateway's own certificate");
        let echo = Echo::of(&answer.body).context("no echo")?;
        ensure!(echo.header("x-forwarded-proto") == Some("https"), "{version:?} {:?}", echo.headers);
    }
    let stranger = exchange(&Request::to(at).host("other.example").tls("other.example")).await;
    ensure!(stranger.is_err(), "nothing is behind another name");
    Ok(())
}

/// Prints what a passing test must not swallow.
fn say(text: &str) {
    // nobody may be reading
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
