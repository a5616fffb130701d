//! The whole matrix of HTTP/1.0, as nginx speaks it by default, byte for byte.

use crate::origin::{Echo, Origin, content};
use crate::raw::{Raw, Reply};
use crate::site::{HOST, Objects, RULES};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use tidegate_tests::Net;

const LARGE: usize = 3_000_000;

/// A listener, and what it knows.
const ANY: u16 = 8080;
const NAMED: u16 = 8081;
const SOME: u16 = 8082;

/// `Host` as it is sent, and the answer where the listener has a virtual host for every host, has
/// hosts, or has a virtual host for some of every host; 0 means served.
const HOSTS: &[(&str, [u16; 3])] = &[
    ("", [0, 400, 400]),
    // "proxy_set_header Host ''" sends none at all; this is nobody's
    ("Host: \r\n", [400, 400, 400]),
    ("Host: shop.example\r\n", [0, 0, 0]),
    ("Host: SHOP.example:8000\r\n", [0, 0, 0]),
    // what nginx sends by default: the name of its upstream block, or the address in proxy_pass
    ("Host: tidegate_upstream\r\n", [0, 404, 404]),
    ("Host: 127.0.0.1:8080\r\n", [0, 404, 404]),
    ("Host: shop.example\r\nHost: shop.example\r\n", [400, 400, 400]),
    ("Host: shop.example, other.example\r\n", [400, 400, 400]),
];

/// `Connection` as it is sent, and whether the connection may stay.
const CONNECTIONS: &[(&str, bool)] =
    &[("", false), ("Connection: close\r\n", false), ("Connection: keep-alive\r\n", true)];

/// A request, its answer, and whether its end can be told without the connection's end.
struct Row {
    method: &'static str,
    path: &'static str,
    upload: Option<usize>,
    status: u16,
    body: usize,
    told: bool,
}

const fn row(method: &'static str, path: &'static str, status: u16, body: usize, told: bool) -> Row {
    Row { method, path, upload: None, status, body, told }
}

const fn upload(method: &'static str, path: &'static str, size: usize, status: u16, body: usize) -> Row {
    Row { method, path, upload: Some(size), status, body, told: true }
}

const SMALL: &[Row] = &[
    row("GET", "/length/0", 200, 0, true),
    row("GET", "/length/5", 200, 5, true),
    row("GET", "/chunked/20000", 200, 20_000, false),
    row("GET", "/until-close/0", 200, 0, false),
    row("GET", "/until-close/5", 200, 5, false),
    row("GET", "/old/5", 200, 5, false),
    row("HEAD", "/length/5", 200, 0, true),
    row("HEAD", "/chunked/5", 200, 0, false),
    row("HEAD", "/until-close/5", 200, 0, false),
    row("GET", "/status/204", 204, 0, true),
    row("GET", "/status/304", 304, 0, true),
    row("GET", "/status/404", 404, 5, true),
    row("GET", "/status/500", 500, 5, true),
    row("GET", "/redirect", 302, 0, true),
    row("GET", "/hints", 200, 6, true),
    row("GET", "/direct", 418, 15, true),
    row("HEAD", "/direct", 418, 0, true),
    row("GET", "/moved", 308, 0, true),
    row("GET", "/nowhere", 503, 121, true),
    row("GET", "/~lost", 404, 25, true),
    row("POST", "/echo", 200, 0, true),
    upload("POST", "/echo", 0, 200, 0),
    upload("PUT", "/echo", 5, 200, 5),
    upload("POST", "/length/5", 5, 200, 5),
];

const BIG: &[Row] = &[
    row("GET", "/length/3000000", 200, LARGE, true),
    row("GET", "/chunked/3000000", 200, LARGE, false),
    row("GET", "/until-close/3000000", 200, LARGE, false),
    row("GET", "/old/3000000", 200, LARGE, false),
    row("HEAD", "/length/3000000", 200, 0, true),
    upload("POST", "/echo", LARGE, 200, LARGE),
    // answered while the body is still coming
    upload("POST", "/direct", LARGE, 418, 15),
    upload("POST", "/~lost", LARGE, 404, 25),
    upload("POST", "/early", LARGE, 413, 5),
];

#[tokio::test]
async fn every_request_of_http10_is_answered_in_its_form() -> Result<()> {
    let net = Net::reserve()?;
    let origin = Origin::start(&net).await?;
    let mut objects = Objects::default();
    objects.gateway("any", ANY, "HTTP", "*", "");
    objects.gateway("named", NAMED, "HTTP", HOST, "");
    objects.gateway("some", SOME, "HTTP", "*", "");
    objects.routes("any", "*", "any", RULES);
    objects.routes("named", HOST, "named, some", RULES);
    objects.upstream("origin.example", origin.at, "HTTP");
    objects.upstream("nowhere.example", SocketAddr::new(net.next()?.into(), 1), "HTTP");
    let (gateway, _folder) = objects.start(&net).await?;
    let mut failures = Vec::new();
    for (i, port) in [ANY, NAMED, SOME].into_iter().enumerate() {
        for (host, refused) in HOSTS {
            let rows = SMALL.iter().chain(BIG.iter().filter(|_| *host == "Host: shop.example\r\n"));
            for row in rows {
                for (connection, stays) in CONNECTIONS {
                    let fields = format!("{host}{connection}");
                    let (to, refused) = (gateway.at(port), refused[i]);
                    if let Err(e) = check(to, row, &fields, refused, *stays).await {
                        failures.push(format!("{port} {} {} {fields:?}: {e:#}", row.method, row.path));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

async fn check(to: SocketAddr, row: &Row, fields: &str, refused: u16, stays: bool) -> Result<()> {
    let Row { method, path, .. } = row;
    let length = row.upload.map(|n| format!("Content-Length: {n}\r\n")).unwrap_or_default();
    let mut request = format!("{method} {path} HTTP/1.0\r\n{fields}{length}\r\n").into_bytes();
    request.extend(content(row.upload.unwrap_or(0)));
    let mut raw = Raw::open(to).await?;
    let reply = raw.exchange(&request, *method == "HEAD").await?;
    ensure!(reply.header("transfer-encoding").is_none(), "chunks for HTTP/1.0");
    if refused != 0 {
        ensure!(reply.status == refused, "{} in place of {refused}", reply.status);
    } else {
        is_answer(row, &reply)?;
        let early = row.upload.is_some_and(|n| n == LARGE) && row.body != LARGE;
        if stays && row.told && !early {
            ensure!(!reply.closed, "the connection was to stay");
        }
    }
    ensure!(stays || reply.closed, "the connection was to end");
    if !reply.closed {
        let next = format!("GET /length/7 HTTP/1.0\r\nHost: {HOST}\r\n\r\n");
        let reply = raw.exchange(next.as_bytes(), false).await.context("the next request")?;
        ensure!((reply.status, reply.body) == (200, content(7)), "the next request: {}", reply.status);
    }
    Ok(())
}

fn is_answer(row: &Row, reply: &Reply) -> Result<()> {
    ensure!(reply.status == row.status, "{} in place of {}", reply.status, row.status);
    if row.path == "/echo" {
        let echo = Echo::of(&reply.body).context("no echo")?;
        ensure!(echo.line == format!("{} /echo HTTP/1.1", row.method), "{}", echo.line);
        ensure!(echo.header("host").is_some_and(|h| !h.is_empty()), "{:?}", echo.headers);
        ensure!(echo.body == content(row.body), "{} bytes went up", echo.body.len());
        return Ok(());
    }
    ensure!(reply.body.len() == row.body, "{} bytes in place of {}", reply.body.len(), row.body);
    let ours = row.status == 200 && !row.path.starts_with("/hints");
    ensure!(!ours || reply.body == content(row.body), "other bytes");
    match row.path {
        "/redirect" => ensure!(reply.header("location") == Some("/elsewhere"), "{reply:?}"),
        "/moved" => ensure!(reply.header("location").is_some_and(|l| l.ends_with("/elsewhere")), "{reply:?}"),
        "/length/3000000" => ensure!(reply.header("content-length") == Some("3000000"), "no length"),
        _ => {}
    }
    Ok(())
}
