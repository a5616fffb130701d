//! nginx behind: as a workload that serves, and as a proxy of one.

use crate::nginx::{Config, Nginx};
use crate::origin::{Echo, Origin, content};
use crate::raw::Raw;
use crate::site::Objects;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tidegate_tests::{Answer, Authority, Connection, Gateway, Net, Request, Version, exchange};
use tokio::task::JoinSet;

const PORT: u16 = 8080;
const SIZE: usize = 1_000_000;
/// As Debian's nginx.conf has it, as far as it is seen from outside.
const PACKAGED: &str = "sendfile on; tcp_nopush on; gzip on; gzip_types text/plain;";
const PAGES: &str = "location /file { } location /dir { } location /say { return 200 \"$request_method $request_uri $http_host\"; } \
    location /gone { return 410; } location /silent { return 444; } location /moved { return 301 /elsewhere; } \
    location /included { ssi on; ssi_types text/plain; } location /pid { return 200 $pid; } \
    location /upload { client_max_body_size 5m; dav_methods PUT; create_full_put_path on; }";

/// A server, the host that leads there, and the protocol of its port.
struct Site {
    objects: Objects,
    config: Config,
}

impl Site {
    fn new(net: &Net) -> Result<Site> {
        let mut objects = Objects::default();
        objects.gateway("edge", PORT, "HTTP", "*", "");
        let mut config = Config::new(net)?;
        config.http(PACKAGED);
        std::fs::write(config.root().join("file"), content(SIZE))?;
        std::fs::write(config.root().join("included"), "before <!--# echo var='request_uri' --> behind")?;
        std::fs::create_dir_all(config.root().join("dir"))?;
        std::fs::create_dir_all(config.root().join("upload"))?;
        Ok(Site { objects, config })
    }

    /// One more server, with [`PAGES`].
    fn add(&mut self, host: &str, protocol: &str, lines: &str) {
        let listen = if protocol == "HTTP2" || protocol == "GRPC" { "http2" } else { "" };
        let at = self.config.server(listen, lines);
        self.objects.site(host, "edge", at, protocol);
    }

    async fn start(self, net: &Net) -> Result<(Nginx, Gateway, tempfile::TempDir)> {
        let nginx = self.config.start().await?;
        let (gateway, folder) = self.objects.start(net).await?;
        Ok((nginx, gateway, folder))
    }
}

/// Every way of a response, whatever limits the connection has.
#[tokio::test]
async fn whatever_nginx_answers_arrives() -> Result<()> {
    let net = Net::reserve()?;
    let (origin, grpc) = (Origin::start(&net).await?, Origin::grpc(&net).await?);
    let mut site = Site::new(&net)?;
    site.add("packaged.example", "HTTP", PAGES);
    site.add("once.example", "HTTP", &format!("keepalive_timeout 0; {PAGES}"));
    site.add("thrice.example", "HTTP", &format!("keepalive_requests 3; {PAGES}"));
    site.add("short.example", "HTTP", &format!("keepalive_timeout 1ms; {PAGES}"));
    site.add("unchunked.example", "HTTP", &format!("chunked_transfer_encoding off; {PAGES}"));
    site.add("h2.example", "HTTP2", PAGES);
    site.add(
        "h2-thrice.example",
        "HTTP2",
        &format!("keepalive_requests 3; http2_max_concurrent_streams 2; {PAGES}"),
    );
    let upgrades = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;";
    site.add(
        "proxied.example",
        "HTTP",
        &format!("location / {{ {upgrades} proxy_pass http://{}; }}", origin.at),
    );
    site.add("grpc.example", "GRPC", &format!("location / {{ grpc_pass grpc://{}; }}", grpc.at));
    let (_nginx, gateway, _folder) = site.start(&net).await?;
    let at = gateway.at(PORT);

    let mut failures = Vec::new();
    let names = ["packaged", "once", "thrice", "short", "unchunked", "h2", "h2-thrice"];
    for name in names {
        for version in [Version::Http11, Version::Http2] {
            let plain = Request::to(at).host(&format!("{name}.example")).version(version);
            if let Err(e) = pages(&plain).await {
                failures.push(format!("{name} {version:?}: {e:#}"));
            }
        }
        if let Err(e) = goes_on(at, &format!("{name}.example")).await {
            failures.push(format!("{name}, hundred after another: {e:#}"));
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    uploads(at).await?;
    limits(at).await?;
    proxied(at).await
}

/// Each kind of answer once, over one connection.
async fn pages(plain: &Request) -> Result<()> {
    let mut open = Connection::open(plain).await?;
    let host = plain.host.clone();
    let get = |path: &str| plain.clone().path(path);
    let mut send = async |request: Request| -> Result<Answer> {
        let path = format!("{} {}", request.method, request.path);
        open.send(&request).await.with_context(|| path)
    };
    let said = send(get("/say?a=b%20c")).await?;
    let tidegate_tests::Host::Named(name) = host else { anyhow::bail!("no host") };
    ensure!(said.text() == format!("GET /say?a=b%20c {name}"), "{}", said.text());
    let file = send(get("/file")).await?;
    ensure!((file.status, file.body == content(SIZE)) == (200, true), "{} {}", file.status, file.body.len());
    let tag = file.header("etag").context("no ETag")?.to_owned();
    let head = send(get("/file").method("HEAD")).await?;
    ensure!(head.header("content-length") == Some("1000000") && head.body.is_empty(), "{:?}", head.headers);
    let cached = send(get("/file").header("if-none-match", &tag)).await?;
    ensure!((cached.status, cached.body.len()) == (304, 0), "{}", cached.status);
    let part = send(get("/file").header("range", "bytes=10-19")).await?;
    ensure!(part.status == 206 && part.body == content(20)[10..], "{}", part.status);
    let zipped = send(get("/file").header("accept-encoding", "gzip")).await?;
    ensure!(zipped.header("content-encoding") == Some("gzip"), "{:?}", zipped.headers);
    ensure!(zipped.body.starts_with(b"\x1f\x8b") && zipped.body.len() < SIZE, "no gzip");
    let included = send(get("/included")).await?;
    ensure!(included.text() == "before /included behind", "{}", included.text());
    for (path, status) in [("/missing", 404), ("/dir/", 403), ("/gone", 410), ("/silent", 503)] {
        let answer = send(get(path)).await?;
        ensure!(answer.status == status, "{path}: {}", answer.status);
    }
    let moved = send(get("/moved")).await?;
    ensure!(
        moved.status == 301 && moved.header("location").is_some_and(|l| l.contains("/elsewhere")),
        "{moved:?}"
    );
    let refused = send(get("/file").method("DELETE")).await?;
    ensure!(refused.status == 405, "{}", refused.status);
    Ok(())
}

/// Connections that close under the gateway cost no request that may be sent again.
async fn goes_on(at: SocketAddr, host: &str) -> Result<()> {
    let request = Request::to(at).host(host).path("/say");
    let mut open = Connection::open(&request).await?;
    for i in 0..100 {
        let answer = open.send(&request).await?;
        ensure!(answer.status == 200, "{} for request {i}", answer.status);
    }
    Ok(())
}

/// Bodies, asked for with `100 Continue` and not, and refused before their end.
async fn uploads(at: SocketAddr) -> Result<()> {
    let put = |host: &str| Request::to(at).host(host).method("PUT").path("/upload/a");
    for host in ["packaged.example", "once.example", "h2.example"] {
        let mut request = put(host);
        request.body = Some(content(3_000_000));
        let answer = exchange(&request).await?;
        ensure!(matches!(answer.status, 201 | 204), "{host}: {} {}", answer.status, answer.text());
        let stored = exchange(&Request::to(at).host(host).path("/upload/a")).await?;
        ensure!(stored.body == content(3_000_000), "{host}: {} bytes stored", stored.body.len());
    }
    // 1 MB is nginx's limit: it answers while the body is still coming
    let head = "POST /file HTTP/1.1\r\nHost: packaged.example\r\nContent-Length: 3000000\r\nConnection: close\r\n\r\n";
    let request = [head.as_bytes(), &content(3_000_000)].concat();
    let reply = Raw::open(at).await?.exchange(&request, false).await.context("too large")?;
    ensure!(reply.status == 413, "{}", reply.status);
    let mut raw = Raw::open(at).await?;
    let head = "PUT /upload/b HTTP/1.1\r\nHost: packaged.example\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\
                Connection: close\r\n\r\n";
    raw.send(head.as_bytes()).await?;
    ensure!(raw.interim().await? == 100, "no 100 Continue");
    let reply = raw.exchange(b"body", false).await.context("after 100 Continue")?;
    ensure!(matches!(reply.status, 201 | 204), "{}", reply.status);
    let head = head.replace("Content-Length: 4\r\n", "Content-Length: 30000000\r\n");
    let reply =
        Raw::open(at).await?.exchange(head.as_bytes(), false).await.context("too large to continue")?;
    ensure!(reply.status == 413, "no 413 in place of 100 Continue: {}", reply.status);
    Ok(())
}

/// nginx takes header lines of up to 8 KB, and the gateway has limits of its own.
async fn limits(at: SocketAddr) -> Result<()> {
    let say = Request::to(at).host("packaged.example").path("/say");
    for (size, status) in [(7_000, 200), (9_000, 400)] {
        let answer = exchange(&say.clone().header("x-large", &"x".repeat(size))).await?;
        ensure!(answer.status == status, "{size}: {}", answer.status);
    }
    Ok(())
}

/// nginx between the gateway and a workload.
async fn proxied(at: SocketAddr) -> Result<()> {
    let plain = Request::to(at).host("proxied.example");
    for path in ["/length/100000", "/chunked/100000", "/until-close/100000", "/old/100000"] {
        let answer = exchange(&plain.clone().path(path)).await?;
        ensure!((answer.status, answer.body == content(100_000)) == (200, true), "{path}: {}", answer.status);
    }
    let answer = exchange(&plain.clone().path("/echo")).await?;
    let echo = Echo::of(&answer.body).context("no echo")?;
    ensure!(echo.header("x-forwarded-proto") == Some("http"), "{:?}", echo.headers);
    let upgrade = plain.header("upgrade", "websocket").header("connection", "upgrade");
    let answer = exchange(&upgrade).await?;
    ensure!(answer.after_upgrade == Some(b"\x81\x85\0\0\0\0hello".to_vec()), "{answer:?}");
    let mut call = Request::to(at).host("grpc.example").version(Version::Http2).method("POST");
    call = call.header("content-type", "application/grpc").header("te", "trailers").path("/shop.Shop/Get");
    call.body = Some(content(100_000));
    let answer = exchange(&call).await?;
    ensure!(
        answer.header("grpc-status") == Some("0") && answer.body == content(100_000),
        "{:?}",
        answer.headers
    );
    let answer = exchange(&call.path("/fails")).await?;
    ensure!(answer.header("grpc-status") == Some("5"), "{:?}", answer.headers);
    Ok(())
}

/// How often the workers of nginx are replaced.
const RELOADS: usize = 8;

#[tokio::test]
async fn a_reload_of_nginx_costs_no_request() -> Result<()> {
    let net = Net::reserve()?;
    let mut site = Site::new(&net)?;
    site.add("h1.example", "HTTP", PAGES);
    site.add("h2.example", "HTTP2", PAGES);
    let (nginx, gateway, _folder) = site.start(&net).await?;
    let workers: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let mut clients = JoinSet::new();
    for i in 0..8 {
        let host = if i % 2 == 0 { "h1.example" } else { "h2.example" };
        let path = if i % 4 < 2 { "/pid" } else { "/file" };
        let request = Request::to(gateway.at(PORT)).host(host).path(path);
        clients.spawn(client(request, workers.clone()));
    }
    let seen = || workers.lock().unwrap_or_else(PoisonError::into_inner).len();
    let patience = Instant::now() + Duration::from_secs(120);
    let mut reloads = 0;
    while reloads < RELOADS {
        // the next one once the last one's worker has served
        if seen() > reloads {
            nginx.reload()?;
            reloads += 1;
        }
        while let Some(ended) = clients.try_join_next() {
            ended??;
        }
        ensure!(Instant::now() < patience, "{} workers served in two minutes", seen());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while seen() <= RELOADS {
        ensure!(Instant::now() < patience, "{} workers served in two minutes", seen());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    workers.lock().unwrap_or_else(PoisonError::into_inner).insert(ENOUGH.into());
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(())
}

/// nginx that wants TLS, and says what it saw of it.
#[tokio::test]
async fn nginx_is_spoken_to_by_tls_and_told_of_the_client() -> Result<()> {
    let net = Net::reserve()?;
    let authority = Authority::new("interop")?;
    let (server, me) = (authority.issue("nginx", &["nginx.example".into()])?, authority.issue("edge", &[])?);
    let mut site = Site::new(&net)?;
    std::fs::write(site.config.root().join("ca.crt"), authority.certificate())?;
    let seen = "location / { return 200 \"$ssl_protocol $ssl_server_name $server_protocol $ssl_client_s_dn \
                $ssl_session_reused $proxy_protocol_addr\"; }";
    let once = "connectionPool: {http: {maxRequestsPerConnection: 1}}";
    let mut hosts = Vec::new();
    for (host, protocol, listen, lines, policy) in [
        ("simple.example", "HTTP", "", "", once),
        ("h2.example", "HTTP2", "http2", "", once),
        ("tls12.example", "HTTP", "", "", once),
        ("mutual.example", "HTTP", "", "ssl_client_certificate ca.crt; ssl_verify_client on;", once),
        ("proxied.example", "HTTP", "proxy_protocol", "", "proxyProtocol: {version: V2}"),
        ("proxied1.example", "HTTP2", "http2 proxy_protocol", "", "proxyProtocol: {version: V1}"),
    ] {
        let versions = if host == "tls12.example" { "TLSv1.2" } else { "TLSv1.2 TLSv1.3" };
        let lines = format!("ssl_protocols {versions}; {lines} {seen}");
        let at = site.config.tls_server(listen, &server, &lines)?;
        site.objects.site(host, "edge", at, protocol);
        let tls = "tls: {mode: MUTUAL, credentialName: me, sni: nginx.example}";
        site.objects.policy(&format!("upstream.{host}"), &format!("{tls}, {policy}"));
        hosts.push(host);
    }
    site.objects.secret("me", &me);
    site.objects.authority("me-cacert", &authority);
    let (_nginx, gateway, _folder) = site.start(&net).await?;
    for host in hosts {
        let mut said = Vec::new();
        for _ in 0..2 {
            let answer = exchange(&Request::to(gateway.at(PORT)).host(host)).await?;
            ensure!(answer.status == 200, "{host}: {}", answer.text());
            said.push(answer.text());
        }
        let version = if host == "tls12.example" { "TLSv1.2" } else { "TLSv1.3" };
        let http =
            if host.starts_with("h2") || host.starts_with("proxied1") { "HTTP/2.0" } else { "HTTP/1.1" };
        let subject = if host == "mutual.example" { "CN=edge" } else { "" };
        let reused = |again: bool| if again { "r" } else { "." };
        let client = if host.starts_with("proxied") { "127.0.0.1" } else { "" };
        for (i, said) in said.iter().enumerate() {
            let expected = format!("{version} nginx.example {http} {subject} {} {client}", reused(i > 0));
            ensure!(*said == expected, "{host}: {said:?} and not {expected:?}");
        }
    }
    Ok(())
}

const ENOUGH: &str = "enough";

/// Asks on and on, and notes which worker answered.
async fn client(request: Request, workers: Arc<Mutex<BTreeSet<String>>>) -> Result<()> {
    let mut open = Connection::open(&request).await?;
    for i in 0.. {
        let answer = open.send(&request).await.with_context(|| format!("request {i}"))?;
        ensure!(answer.status == 200, "{} for request {i}: {:?}", answer.status, request.host);
        let mut workers = workers.lock().unwrap_or_else(PoisonError::into_inner);
        if workers.contains(ENOUGH) {
            break;
        }
        if request.path == "/pid" {
            workers.insert(answer.text());
        } else {
            ensure!(answer.body.len() == SIZE, "{} bytes for request {i}", answer.body.len());
        }
    }
    Ok(())
}
