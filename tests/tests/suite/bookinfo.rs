//! The sample that ships: every route of it, with echoing workloads.

use anyhow::{Context, Result};
use std::path::PathBuf;
use tidegate_tests::{
    Answer, Connection, Failure, Gateway, Net, Request, Start, Version, exchange, get, workspace,
};

const HOST: &str = "bookinfo.example.com";

fn sample() -> PathBuf {
    workspace().join("deploy/samples/bookinfo")
}

async fn start(net: &Net) -> Result<Gateway> {
    Start::with(sample()).arg("--echo").start(net).await
}

fn echoed(answer: &Answer) -> (u16, String, String) {
    let said = answer.json();
    let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
    (answer.status, text("workload"), text("path"))
}

#[tokio::test]
async fn paths_reach_their_workloads() -> Result<()> {
    let net = Net::reserve()?;
    let gateway = start(&net).await?;
    for (path, workload, seen) in [
        ("/productpage", "productpage-v1", "/productpage"),
        ("/productpage?u=1", "productpage-v1", "/productpage?u=1"),
        ("/static/css/a.css", "productpage-v1", "/static/css/a.css"),
        ("/login", "productpage-v1", "/login"),
        ("/logout", "productpage-v1", "/logout"),
        ("/api/v1/products/7", "productpage-v1", "/api/v1/products/7"),
        ("/catalog/7?q", "details-v1", "/details/7?q"),
    ] {
        let answer = get(gateway.at(8080), "localhost:8080", path).await?;
        assert_eq!(echoed(&answer), (200, workload.to_owned(), seen.to_owned()), "{path}");
    }
    assert_eq!(get(gateway.at(8080), "localhost", "/nowhere").await?.status, 404);
    Ok(())
}

#[tokio::test]
async fn echo_says_what_reached_it() -> Result<()> {
    let net = Net::reserve()?;
    let gateway = start(&net).await?;
    let mut request = Request::to(gateway.at(8080)).path("/login?x=1").host("shop.example").method("POST");
    request = request.header("x-a", "1").header("X-A", "2");
    request.body = Some(b"hello".to_vec());
    let said = exchange(&request).await?.json();
    assert_eq!(said["service"], "productpage", "{said}");
    assert_eq!(said["namespace"], "default", "{said}");
    assert_eq!(said["subset"], "v1", "{said}");
    assert_eq!(said["labels"]["app"], "productpage", "{said}");
    assert_eq!(said["method"], "POST", "{said}");
    assert_eq!(said["authority"], "shop.example", "{said}");
    assert_eq!(said["body_bytes"], 5, "{said}");
    let headers = said["headers"].as_array().context("headers")?;
    let mine: Vec<_> = headers.iter().filter(|h| h[0] == "x-a").map(|h| &h[1]).collect();
    assert_eq!(mine, ["1", "2"], "{said}");
    Ok(())
}

#[tokio::test]
async fn weights_are_kept_and_the_header_route_wins() -> Result<()> {
    const REQUESTS: usize = 2000;
    let net = Net::reserve()?;
    let gateway = start(&net).await?;
    let request = Request::to(gateway.at(8080)).path("/reviews/1");
    let mut connection = Connection::open(&request).await?;
    let (mut v1, mut v3) = (0, 0);
    for _ in 0..REQUESTS {
        match echoed(&connection.send(&request).await?).1.as_str() {
            "reviews-v1" => v1 += 1,
            "reviews-v3" => v3 += 1,
            other => panic!("reached {other:?}"),
        }
    }
    assert_eq!(v1 + v3, REQUESTS);
    assert!(
        (REQUESTS * 87 / 100..=REQUESTS * 93 / 100).contains(&v1),
        "v1 got {v1} of {REQUESTS}, want 90 %"
    );
    let jason = request.header("end-user", "jason");
    for _ in 0..20 {
        assert_eq!(echoed(&connection.send(&jason).await?).1, "reviews-v2");
    }
    Ok(())
}

#[tokio::test]
async fn redirects_and_direct_responses() -> Result<()> {
    let net = Net::reserve()?;
    let gateway = start(&net).await?;
    let front = get(gateway.at(8080), "localhost:8080", "/").await?;
    assert_eq!((front.status, front.header("location")), (302, Some("http://localhost:8080/productpage")));
    let hours = get(gateway.at(8080), "localhost:8080", "/hours").await?;
    assert_eq!((hours.status, hours.text().as_str()), (200, "open day and night"));
    let secure = get(gateway.at(8080), "secure.example.com", "/login").await?;
    assert_eq!((secure.status, secure.header("location")), (301, Some("https://secure.example.com/login")));
    Ok(())
}

#[tokio::test]
async fn https_by_server_name() -> Result<()> {
    let net = Net::reserve()?;
    let gateway = start(&net).await?;
    let request = Request::to(gateway.at(8443)).host(HOST).path("/productpage");
    let answer = exchange(&request.clone().tls(HOST)).await?;
    assert_eq!((echoed(&answer).1.as_str(), answer.alpn.as_deref()), ("productpage-v1", Some("http/1.1")));
    assert!(answer.certificate.is_some());
    for name in ["other.example.com", ""] {
        let refused = exchange(&request.clone().tls(name)).await;
        assert!(matches!(refused, Err(Failure::Closed(_))), "server name {name:?} got {refused:?}");
    }
    let answer = exchange(&request.clone().version(Version::Http2).tls(HOST)).await?;
    assert_eq!((echoed(&answer).1.as_str(), answer.alpn.as_deref()), ("productpage-v1", Some("h2")));
    assert_eq!(answer.version, "HTTP/2");
    Ok(())
}

#[tokio::test]
async fn http2_with_prior_knowledge_and_http10() -> Result<()> {
    let net = Net::reserve()?;
    let gateway = start(&net).await?;
    let request = Request::to(gateway.at(8080)).host(HOST).path("/productpage");
    let answer = exchange(&request.clone().version(Version::Http2)).await?;
    assert_eq!((answer.version.as_str(), echoed(&answer).1.as_str()), ("HTTP/2", "productpage-v1"));
    let mut old = request.version(Version::Http10);
    old.watch_close = true;
    let answer = exchange(&old).await?;
    assert_eq!(echoed(&answer).1, "productpage-v1");
    assert_eq!(answer.header("transfer-encoding"), None, "HTTP/1.0 knows no chunks");
    assert_eq!(answer.closed_after, Some(true));
    Ok(())
}
