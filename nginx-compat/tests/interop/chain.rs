//! client -> nginx with TLS -> gateway -> nginx -> workload, set up as ingress-nginx does.

use crate::nginx::Config;
use crate::origin::{Echo, Origin, content};
use crate::site::{HOST, Objects, RULES};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use tidegate_tests::{Authority, Connection, Net, Request, Version, exchange};

const PLAIN: u16 = 8080;
const REDIRECTING: u16 = 8081;
const LARGE: usize = 3_000_000;

/// What stands in every location of an ingress controller.
const LOCATION: &str = "proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade; \
    proxy_set_header Connection $connection_upgrade; proxy_set_header X-Request-ID $request_id; \
    proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-For $remote_addr; \
    proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Forwarded-Port $server_port; \
    proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Scheme $scheme; \
    proxy_set_header X-Scheme $scheme; proxy_set_header X-Original-Forwarded-For $http_x_forwarded_for; \
    proxy_set_header Proxy ''; proxy_connect_timeout 5s; proxy_buffering off; proxy_request_buffering on; \
    proxy_http_version 1.1; proxy_cookie_domain off; proxy_next_upstream error timeout; \
    proxy_next_upstream_tries 3; proxy_redirect off;";

#[tokio::test]
async fn a_chain_of_nginx_gateway_and_nginx() -> Result<()> {
    let net = Net::reserve()?;
    let origin = Origin::start(&net).await?;
    let identity = Authority::new("chain")?.issue(HOST, &[HOST.to_owned()])?;
    let gateway_at = SocketAddr::new(net.gateway().into(), PLAIN);
    let redirecting_at = SocketAddr::new(net.gateway().into(), REDIRECTING);
    let mut config = Config::new(&net)?;
    config.http(&format!(
        "client_max_body_size 0; map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}\n\
         upstream tidegate {{ server {gateway_at}; keepalive 320; }}\n\
         upstream redirecting {{ server {redirecting_at}; keepalive 320; }}\n\
         upstream origin {{ server {}; keepalive 8; }}",
        origin.at
    ));
    let location = format!(
        "location / {{ {LOCATION} proxy_pass http://tidegate; }} \
                            location /only-secure {{ {LOCATION} proxy_pass http://redirecting; }}"
    );
    let secure = config.tls_server("http2", &identity, &location)?;
    let insecure = config.server("", &location);
    std::fs::create_dir_all(config.root().join("dir"))?;
    let behind = config.server(
        "",
        "absolute_redirect off; location /dir { } location / { proxy_pass http://origin; proxy_http_version 1.1; \
         proxy_set_header Host $host; proxy_set_header Upgrade $http_upgrade; \
         proxy_set_header Connection $connection_upgrade; }",
    );
    let _nginx = config.start().await?;
    let mut objects = Objects::default();
    objects.trusted_proxies(1);
    objects.gateway("plain", PLAIN, "HTTP", "*", "");
    objects.gateway("redirecting", REDIRECTING, "HTTP", "*", ", tls: {httpsRedirect: true}");
    objects.routes("shop", HOST, "plain, redirecting", RULES);
    objects.upstream("origin.example", behind, "HTTP");
    objects.upstream("nowhere.example", SocketAddr::new(net.next()?.into(), 1), "HTTP");
    let (_gateway, _folder) = objects.start(&net).await?;

    for version in [Version::Http11, Version::Http2] {
        let plain = Request::to(secure).host(HOST).version(version).tls(HOST);
        says_who_asks(&plain).await.with_context(|| format!("{version:?}"))?;
        passes(&plain).await.with_context(|| format!("{version:?}"))?;
    }
    let socket = Request::to(secure).host(HOST).tls(HOST).header("upgrade", "websocket");
    let answer = exchange(&socket.header("connection", "upgrade")).await?;
    assert_eq!(answer.after_upgrade, Some(b"\x81\x85\0\0\0\0hello".to_vec()), "{answer:?}");
    let answer = exchange(&Request::to(insecure).host(HOST).path("/only-secure")).await?;
    let to = answer.header("location");
    assert_eq!((answer.status, to), (301, Some("https://shop.example/only-secure")));
    Ok(())
}

/// The workload gets to know the client's address and scheme, from the one proxy that is trusted.
async fn says_who_asks(plain: &Request) -> Result<()> {
    let forged = plain.clone().header("x-forwarded-proto", "gopher").header("x-real-ip", "192.0.2.66");
    let answer = exchange(&forged.header("x-forwarded-for", "192.0.2.1").path("/echo")).await?;
    let echo = Echo::of(&answer.body).with_context(|| format!("no echo: {}", answer.status))?;
    for (name, value) in [
        ("host", HOST),
        ("x-forwarded-for", "127.0.0.1,127.0.0.1"),
        ("x-original-forwarded-for", "192.0.2.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", HOST),
        ("x-real-ip", "127.0.0.1"),
        ("x-scheme", "https"),
    ] {
        ensure!(echo.header(name) == Some(value), "{name}: {:?}", echo.headers);
    }
    ensure!(echo.header("x-request-id").is_some_and(|id| id.len() == 36), "{:?}", echo.headers);
    // a server with httpsRedirect believes nginx that this is https
    let answer = exchange(&plain.clone().path("/only-secure")).await?;
    ensure!(answer.status == 200, "redirected: {:?}", answer.headers);
    Ok(())
}

/// Bodies, statuses and redirects, over one connection.
async fn passes(plain: &Request) -> Result<()> {
    let mut open = Connection::open(plain).await?;
    for (path, status, body) in [
        ("/length/3000000", 200, content(LARGE)),
        ("/chunked/300000", 200, content(300_000)),
        ("/until-close/300000", 200, content(300_000)),
        ("/status/404", 404, b"hello".to_vec()),
        ("/status/204", 204, Vec::new()),
        ("/direct", 418, b"short and stout".to_vec()),
    ] {
        let answer = open.send(&plain.clone().path(path)).await.context(path)?;
        ensure!(answer.status == status, "{path}: {}", answer.status);
        ensure!(answer.body == body, "{path}: {} bytes", answer.body.len());
    }
    for (path, status, to) in [
        ("/moved", 308, "https://shop.example/elsewhere"),
        ("/redirect", 302, "/elsewhere"),
        ("/dir", 301, "/dir/"),
    ] {
        let answer = open.send(&plain.clone().path(path)).await.context(path)?;
        ensure!((answer.status, answer.header("location")) == (status, Some(to)), "{path}: {answer:?}");
    }
    let answer = open.send(&plain.clone().path("/nowhere")).await?;
    ensure!(answer.status == 503, "{}", answer.status);
    let mut upload = plain.clone().method("POST").path("/echo");
    upload.body = Some(content(LARGE));
    let answer = open.send(&upload).await?;
    let echo = Echo::of(&answer.body).context("no echo")?;
    ensure!(echo.body == content(LARGE), "{} bytes went up", echo.body.len());
    Ok(())
}
