//! Whole requests through a worker: real sockets upstream, a client in memory.

mod abuse;
mod bounds;
mod check;
mod connections;
mod cost;
pub(super) mod defect;
mod fault;
mod http2;
mod http2_upstream;
mod identity;
mod limits;
mod mirror;
mod outlier;
mod phases;
mod retries;
mod websocket;

use super::testing::{change, connection, host, model, worker};
use crate::limits::Limits;
use crate::{h1, h2};
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use tidegate_model::{
    Action, DirectResponse, FormatString, HeaderName, HeaderOp, Model, PathRewrite, Redirect, RedirectPort,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: a.b\r\n\r\n";

/// What the test plays: the client's end, and the upstream's listener.
struct Stage {
    client: DuplexStream,
    upstream: TcpListener,
    shutdown: watch::Sender<bool>,
}

impl Stage {
    async fn send(&mut self, text: &str) {
        self.client.write_all(text.as_bytes()).await.unwrap();
    }

    /// Accepts a connection from the gateway and reads one request head.
    async fn accept(&self) -> (TcpStream, String) {
        let mut stream = self.upstream.accept().await.unwrap().0;
        let head = read_until(&mut stream, "\r\n\r\n").await;
        (stream, head)
    }

    async fn read_until(&mut self, end: &str) -> String {
        read_until(&mut self.client, end).await
    }

    async fn read_to_end(&mut self) -> String {
        let mut all = Vec::new();
        self.client.read_to_end(&mut all).await.unwrap();
        String::from_utf8(all).unwrap()
    }
}

/// Reads until the text ends like this.
async fn read_until<S: tokio::io::AsyncRead + Unpin>(stream: &mut S, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        match stream.read_u8().await {
            Ok(byte) => text.push(byte),
            Err(e) => panic!("ended ({e}) after {:?}", String::from_utf8_lossy(&text)),
        }
    }
    String::from_utf8(text).unwrap()
}

fn limits() -> Limits {
    Limits {
        head_time: Duration::from_millis(300),
        keep_alive_idle: Duration::from_millis(400),
        request_idle: Duration::from_millis(500),
        ..Limits::default()
    }
}

thread_local! {
    /// The worker of the play on this thread.
    static PLAYED: std::cell::RefCell<Option<std::rc::Rc<crate::worker::Worker>>> =
        const { std::cell::RefCell::new(None) };
}

/// Runs a play of at most thirty seconds on one thread.
fn play<F: Future<Output = ()>>(change: impl FnOnce(&mut Model), http2: bool, act: impl FnOnce(Stage) -> F) {
    play_within(limits(), change, http2, act);
}

/// The same with other limits.
fn play_within<F: Future<Output = ()>>(
    limits: Limits,
    change: impl FnOnce(&mut Model),
    http2: bool,
    act: impl FnOnce(Stage) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut model = model(upstream.local_addr().unwrap());
        change(&mut model);
        let worker = worker(&model, limits);
        PLAYED.set(Some(worker.clone()));
        let (client, served) = tokio::io::duplex(256 << 10);
        let (shutdown, watch) = watch::channel(false);
        tokio::task::spawn_local(async move {
            if http2 {
                h2::serve(Box::new(served), connection(), worker, watch).await;
            } else {
                h1::serve(Box::new(served), connection(), worker, watch).await;
            }
        });
        let act = act(Stage { client, upstream, shutdown });
        tokio::time::timeout(Duration::from_secs(30), act).await.expect("the play does not end");
    });
}

fn one<F: Future<Output = ()>>(act: impl FnOnce(Stage) -> F) {
    play(|_| {}, false, act);
}

/// The value of a header line of a head.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find_map(|l| l.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v))
}

fn set(name: &str, value: &str) -> HeaderOp {
    HeaderOp::Set(HeaderName::new(name), FormatString::parse(value).unwrap())
}

#[test]
fn headers_go_both_ways_as_istio_has_them() {
    one(|mut s| async move {
        s.send(
            "GET /a/../b?x=%2e HTTP/1.1\r\nHost: a.b\r\nX-Keep: 1\r\nX-Forwarded-For: 1.2.3.4\r\n\
            X-Forwarded-Proto: https\r\nX-Request-Id: mine\r\nX-Envoy-Retry-On: 5xx\r\nX-Envoy-Original-Host: b\r\nKeep-Alive: 5\r\n\
            X-Forwarded-Client-Cert: By=x\r\nX-Real-IP: 9.9.9.9\r\nConnection: x-nominated\r\nX-Nominated: 1\r\nUpgrade: h2c\r\n\r\n",
        )
        .await;
        let (mut up, head) = s.accept().await;
        assert!(head.starts_with("GET /b?x=%2e HTTP/1.1\r\nHost: a.b\r\nX-Keep: 1\r\n"), "{head}");
        for (name, value) in [
            ("x-forwarded-for", Some("1.2.3.4,127.0.0.1")),
            ("x-forwarded-proto", Some("http")),
            ("x-envoy-external-address", Some("127.0.0.1")),
            ("x-envoy-attempt-count", Some("1")),
            ("x-envoy-retry-on", None),
            ("x-envoy-original-host", None),
            ("x-forwarded-client-cert", None),
            ("x-real-ip", None),
            ("keep-alive", None),
            ("connection", None),
            ("x-nominated", None),
            ("upgrade", None),
        ] {
            assert_eq!(header(&head, name), value, "{name} in {head}");
        }
        assert_eq!(header(&head, "x-request-id").map(str::len), Some(36));
        assert_eq!(head.matches("orwarded-").count(), 2, "{head}");
        let answer = "HTTP/1.1 201 Made\r\nServer: them\r\nX-Up: 1\r\nKeep-Alive: timeout=5\r\n\
            Connection: x-hop\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\nok";
        up.write_all(answer.as_bytes()).await.unwrap();
        let answer = s.read_until("\r\n\r\nok").await;
        assert!(answer.starts_with("HTTP/1.1 201 Made\r\nX-Up: 1\r\nContent-Length: 2\r\n"), "{answer}");
        assert_eq!(header(&answer, "server"), Some("tidegate"));
        assert!(
            header(&answer, "x-envoy-upstream-service-time").is_some() && header(&answer, "date").is_some()
        );
        assert!(header(&answer, "keep-alive").is_none() && header(&answer, "x-hop").is_none(), "{answer}");
    });
}

#[test]
fn routes_edit_headers_path_and_authority() {
    let edit = |m: &mut Model| {
        change(m, "*", |f| {
            f.path_rewrite = Some(PathRewrite::Full("/new".into()));
            let d = &mut f.destinations[0];
            d.authority = Some(FormatString::parse("other.example").unwrap());
            d.request_headers = vec![
                HeaderOp::Remove(HeaderName::new("x-a")),
                set("x-b", "was %REQ(X-B)%"),
                HeaderOp::Append(HeaderName::new("x-c"), FormatString::parse("2").unwrap()),
                set("x-request-id", "fixed"),
            ];
            d.response_headers =
                vec![set("x-code", "%RESPONSE_CODE%"), HeaderOp::Remove(HeaderName::new("x-up"))];
        });
    };
    play(edit, false, |mut s| async move {
        s.send("GET /old?q HTTP/1.1\r\nHost: A.b:8\r\nX-A: 1\r\nx-b: 1\r\nX-C: 1\r\nX-Envoy-Original-Host: x\r\n\r\n")
            .await;
        let (mut up, head) = s.accept().await;
        assert!(head.starts_with("GET /new?q HTTP/1.1\r\nhost: other.example\r\nX-C: 1\r\n"), "{head}");
        assert_eq!(header(&head, "x-b"), Some("was 1"));
        assert_eq!(header(&head, "x-request-id"), Some("fixed"));
        assert_eq!(header(&head, "x-envoy-original-path"), Some("/old?q"));
        assert_eq!(header(&head, "x-envoy-original-host"), Some("A.b:8"));
        assert_eq!(head.matches("riginal-").count(), 2, "{head}");
        assert!(
            header(&head, "x-a").is_none()
                && head.contains("x-c: 2\r\n")
                && head.matches("\r\nhost: ").count() == 1
        );
        up.write_all(b"HTTP/1.1 200 OK\r\nX-Up: 1\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        let answer = s.read_until("ok").await;
        assert_eq!((header(&answer, "x-code"), header(&answer, "x-up")), (Some("200"), None));
    });
}

#[test]
fn connections_are_kept_on_both_sides_and_requests_may_be_pipelined() {
    one(|mut s| async move {
        s.send(&format!("POST /1 HTTP/1.1\r\nHost: a.b\r\nContent-Length: 3\r\n\r\nabc{GET}")).await;
        let (mut up, _) = s.accept().await;
        assert_eq!(read_until(&mut up, "abc").await, "abc");
        up.write_all(OK.as_bytes()).await.unwrap();
        assert!(!s.read_until("\r\n\r\nok").await.contains("onnection"));
        let head = read_until(&mut up, "\r\n\r\n").await;
        assert!(head.starts_with("GET / "), "{head}");
        up.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-t: 1\r\n\r\n")
            .await
            .unwrap();
        assert!(s.read_until("\r\n\r\n").await.contains("transfer-encoding: chunked\r\n"));
        assert_eq!(s.read_until("1\r\n\r\n").await, "2\r\nok\r\n0\r\nx-t: 1\r\n\r\n");
        s.send("HEAD / HTTP/1.1\r\nHost: a.b\r\nConnection: close\r\n\r\n").await;
        assert!(read_until(&mut up, "\r\n\r\n").await.starts_with("HEAD / "));
        up.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n").await.unwrap();
        let answer = s.read_to_end().await;
        assert!(
            answer.contains("Content-Length: 9\r\n") && answer.contains("connection: close\r\n"),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\n"));
    });
}

#[test]
fn bodies_pass_while_they_come_and_trailers_with_them() {
    one(|mut s| async move {
        s.send("POST / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
            .await;
        let (mut up, head) = s.accept().await;
        assert!(head.contains("Expect: 100-continue\r\n") && head.contains("transfer-encoding: chunked\r\n"));
        up.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        assert_eq!(s.read_until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
        s.send("3\r\nabc\r\n").await;
        assert_eq!(read_until(&mut up, "abc\r\n").await, "3\r\nabc\r\n");
        // the response begins while the request still comes
        up.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nea").await.unwrap();
        s.read_until("\r\n\r\nea").await;
        s.send("0\r\nx-sum: 1\r\n\r\n").await;
        assert_eq!(read_until(&mut up, "1\r\n\r\n").await, "0\r\nx-sum: 1\r\n\r\n");
        up.write_all(b"rl").await.unwrap();
        s.read_until("rl").await;
    });
}

#[test]
fn http10_gets_no_chunks_and_no_interim_responses() {
    let chunked =
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    one(|mut s| async move {
        s.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        let (mut up, head) = s.accept().await;
        assert!(head.starts_with("GET / HTTP/1.1\r\nhost: service\r\n"), "{head}");
        up.write_all(format!("{chunked}2\r\nok\r\n0\r\n\r\n").as_bytes()).await.unwrap();
        let answer = s.read_until("\r\n\r\nok").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert_eq!(header(&answer, "content-length"), Some("2"));
        assert_eq!(header(&answer, "connection"), Some("keep-alive"));
        // not all of it at hand: it ends with the connection
        s.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\nHost: a\r\n\r\n").await;
        read_until(&mut up, "\r\n\r\n").await;
        up.write_all(format!("{chunked}2\r\nok\r\n").as_bytes()).await.unwrap();
        let answer = s.read_until("\r\n\r\nok").await;
        assert_eq!(header(&answer, "connection"), Some("close"));
        up.write_all(b"1\r\n!\r\n0\r\n\r\n").await.unwrap();
        assert_eq!(s.read_to_end().await, "!");
    });
}

#[test]
fn a_stale_connection_costs_an_idempotent_request_nothing() {
    one(|mut s| async move {
        for (method, repeated) in [("GET", true), ("POST", false)] {
            s.send(GET).await;
            let (mut up, _) = s.accept().await;
            up.write_all(OK.as_bytes()).await.unwrap();
            s.read_until("ok").await;
            // the upstream closes when the next request has come
            s.send(&format!("{method} /2 HTTP/1.1\r\nHost: a.b\r\nContent-Length: 0\r\n\r\n")).await;
            read_until(&mut up, "\r\n\r\n").await;
            drop(up);
            if repeated {
                let (mut up, head) = s.accept().await;
                assert!(head.starts_with("GET /2 "), "{head}");
                up.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
                    .await
                    .unwrap();
                s.read_until("ok").await;
            } else {
                assert!(
                    s.read_until("reset reason: connection termination").await.starts_with("HTTP/1.1 503 ")
                );
            }
        }
    });
}

#[test]
fn what_an_upstream_must_not_do() {
    for answer in [
        "HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        one(|mut s| async move {
            s.send(GET).await;
            let (mut up, _) = s.accept().await;
            up.write_all(answer.as_bytes()).await.unwrap();
            assert!(
                s.read_until("reset reason: protocol error").await.starts_with("HTTP/1.1 502 "),
                "{answer}"
            );
            assert_eq!(up.read(&mut [0]).await.unwrap_or(0), 0, "the connection is not used again");
        });
    }
    // more than it announced: the response is fine, the connection is not
    one(|mut s| async move {
        s.send(GET).await;
        let (mut up, _) = s.accept().await;
        up.write_all(format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").as_bytes())
            .await
            .unwrap();
        s.read_until("ok").await;
        s.send(GET).await;
        let (mut up, _) = s.accept().await;
        up.write_all(OK.as_bytes()).await.unwrap();
        s.read_until("ok").await;
    });
    // less than it announced: the client can tell
    one(|mut s| async move {
        s.send(GET).await;
        let (mut up, _) = s.accept().await;
        up.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok").await.unwrap();
        drop(up);
        assert!(s.read_to_end().await.ends_with("\r\n\r\nok"));
    });
}

#[test]
fn deadlines() {
    let timeout = |m: &mut Model| change(m, "*", |f| f.timeout = Some(Duration::from_millis(50)));
    play(timeout, false, |mut s| async move {
        s.send(GET).await;
        let (mut up, _) = s.accept().await;
        assert!(s.read_until("request timeout").await.starts_with("HTTP/1.1 504 "));
        assert_eq!(up.read(&mut [0]).await.unwrap(), 0);
    });
    one(|mut s| async move {
        s.send("GET / HT").await;
        let began = std::time::Instant::now();
        assert!(s.read_to_end().await.starts_with("HTTP/1.1 408 "));
        assert!(began.elapsed() < Duration::from_secs(2));
    });
    // nothing was sent: nothing is answered
    one(|mut s| async move { assert_eq!(s.read_to_end().await, "") });
    one(|mut s| async move {
        s.send("POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 9\r\n\r\nabc").await;
        let (_up, _) = s.accept().await;
        assert!(s.read_to_end().await.starts_with("HTTP/1.1 408 "));
    });
    one(|mut s| async move {
        s.send(GET).await;
        let (_up, _) = s.accept().await;
        assert!(s.read_until("stream timeout").await.starts_with("HTTP/1.1 504 "));
    });
}

#[test]
fn a_client_that_leaves_takes_its_request_with_it() {
    one(|mut s| async move {
        s.send(GET).await;
        let (mut up, _) = s.accept().await;
        drop(s.client);
        assert_eq!(up.read(&mut [0]).await.unwrap(), 0);
    });
}

#[test]
fn shutdown_ends_a_connection_with_its_next_answer() {
    one(|mut s| async move {
        s.send(GET).await;
        let (mut up, _) = s.accept().await;
        s.shutdown.send(true).unwrap();
        up.write_all(OK.as_bytes()).await.unwrap();
        assert!(s.read_to_end().await.contains("connection: close\r\n"));
    });
    one(|mut s| async move {
        s.send(GET).await;
        let (mut up, _) = s.accept().await;
        up.write_all(OK.as_bytes()).await.unwrap();
        s.read_until("ok").await;
        s.shutdown.send(true).unwrap();
        // idle when it hears of it; the client does not know yet
        tokio::time::sleep(Duration::from_millis(50)).await;
        s.send(GET).await;
        read_until(&mut up, "\r\n\r\n").await;
        up.write_all(OK.as_bytes()).await.unwrap();
        assert!(s.read_to_end().await.contains("connection: close\r\n"));
    });
}

#[test]
fn upgrades_become_tunnels_and_bytes_before_the_101_wait() {
    one(|mut s| async move {
        s.send("GET /ws HTTP/1.1\r\nHost: a.b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
            .await;
        let (mut up, head) = s.accept().await;
        assert_eq!(
            (header(&head, "upgrade"), header(&head, "connection")),
            (Some("websocket"), Some("upgrade"))
        );
        let quiet = tokio::time::timeout(Duration::from_millis(30), up.read_u8()).await;
        assert!(quiet.is_err(), "bytes before the 101 went up");
        up.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhi",
        )
        .await
        .unwrap();
        let answer = s.read_until("\r\n\r\nhi").await;
        assert_eq!(
            (header(&answer, "upgrade"), header(&answer, "connection")),
            (Some("websocket"), Some("upgrade"))
        );
        assert_eq!(read_until(&mut up, "early").await, "early");
        for _ in 0..3 {
            s.send("ping").await;
            assert_eq!(read_until(&mut up, "ping").await, "ping");
            up.write_all(b"pong").await.unwrap();
            s.read_until("pong").await;
        }
        drop(up);
        assert_eq!(s.read_to_end().await, "");
    });
}

#[test]
fn a_rewrite_to_what_is_no_path_is_not_sent() {
    let edit = |m: &mut Model| {
        change(m, "*", |f| f.path_rewrite = Some(PathRewrite::Prefix("v2".into())));
    };
    play(edit, false, |mut s| async move {
        s.send("GET /a HTTP/1.1\r\nHost: a.b\r\n\r\n").await;
        let answer = s.read_until("\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    });
    // asterisk-form has no path that could be rewritten
    play(edit, false, |mut s| async move {
        s.send("OPTIONS * HTTP/1.1\r\nHost: a.b\r\n\r\n").await;
        let (_up, head) = s.accept().await;
        assert!(head.starts_with("OPTIONS * HTTP/1.1\r\n"), "{head}");
    });
}

#[test]
fn answers_of_the_gateway_itself() {
    let rules = |m: &mut Model| {
        host(
            m,
            "direct",
            Action::DirectResponse(DirectResponse {
                status: 418,
                body: b"teapot".as_slice().into(),
                response_headers: vec![set("x-a", "b")],
                details: "direct_response".into(),
            }),
        );
        host(
            m,
            "redirect",
            Action::Redirect(Redirect {
                status: 302,
                scheme: Some("https".into()),
                authority: None,
                port: RedirectPort::Keep,
                path: None,
                response_headers: vec![],
            }),
        );
        let gone: SocketAddr = "127.0.0.1:1".parse().unwrap();
        for set in m.endpoints.values_mut() {
            std::sync::Arc::make_mut(set).endpoints[0].address = tidegate_model::Address::Socket(gone);
        }
    };
    play(rules, false, |mut s| async move {
        s.send("GET / HTTP/1.1\r\nHost: direct\r\n\r\n").await;
        let answer = s.read_until("\r\n\r\nteapot").await;
        assert!(answer.starts_with("HTTP/1.1 418 ") && header(&answer, "x-a") == Some("b"), "{answer}");
        s.send("GET /p?q HTTP/1.1\r\nHost: redirect\r\n\r\n").await;
        let answer = s.read_until("\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 302 "), "{answer}");
        assert_eq!(header(&answer, "location"), Some("https://redirect/p?q"));
        s.send(GET).await;
        assert!(s.read_until("reset reason: remote connection failure").await.starts_with("HTTP/1.1 503 "));
        s.send("GET / HTTP/1.1\r\nHost: a b\r\n\r\n").await;
        let answer = s.read_to_end().await;
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request\r\n") && answer.contains("connection: close"),
            "{answer}"
        );
    });
    let nothing = |m: &mut Model| m.virtual_hosts.clear();
    play(nothing, false, |mut s| async move {
        s.send("GET / HTTP/1.1\r\nHost: backend\r\nX-Real-IP: 1.1.1.1\r\n\r\n").await;
        let answer = s.read_until("$host`}").await;
        assert!(
            answer.starts_with("HTTP/1.1 404 ")
                && answer.contains("no virtual host for authority \"backend\"")
        );
        s.send("GET / HTTP/1.0\r\n\r\n").await;
        assert!(s.read_to_end().await.starts_with("HTTP/1.1 400 "));
    });
}

#[test]
fn an_absolute_target_says_the_host() {
    one(|mut s| async move {
        s.send("GET http://b.c:80/x HTTP/1.1\r\nHost: a.b\r\n\r\n").await;
        let (_up, head) = s.accept().await;
        assert!(head.starts_with("GET /x HTTP/1.1\r\nhost: b.c:80\r\n"), "{head}");
        assert!(!head.contains("a.b"), "{head}");
    });
}

#[test]
fn extensions_and_forbidden_trailers_go_no_further() {
    one(|mut s| async move {
        s.send("POST / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b").await;
        let (mut up, _) = s.accept().await;
        for piece in ["\"\r\nhel", "lo\r\n0;c\r", "\nX-Ok: 1\r\nHo", "st: x\r\n\r", "\n"] {
            s.send(piece).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(read_until(&mut up, "\r\n\r\n").await, "5\r\nhello\r\n0\r\nX-Ok: 1\r\n\r\n");
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding:\tChunked \r\n\r\n2;x\r\nok\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a\r\n\r\n";
        up.write_all(answer.as_bytes()).await.unwrap();
        let answer = s.read_until("X-Sum: 1\r\n\r\n").await;
        assert_eq!(header(&answer, "transfer-encoding"), Some("chunked"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"), "{answer}");
        s.send(GET).await;
        assert!(read_until(&mut up, "\r\n\r\n").await.starts_with("GET / "), "both connections go on");
    });
}

#[test]
fn no_body_is_said_to_be_none_where_the_method_has_one_mostly() {
    one(|mut s| async move {
        let mut up = None;
        for (method, fields, length) in [
            ("POST", "", Some("0")),
            ("PUT", "", Some("0")),
            ("PATCH", "", Some("0")),
            ("OPTIONS", "", Some("0")),
            ("PROPFIND", "", Some("0")),
            ("POST", "Content-Length: 0\r\n", Some("0")),
            ("POST", "Transfer-Encoding: chunked\r\n", None),
            ("GET", "", None),
            ("HEAD", "", None),
            ("DELETE", "", None),
            ("TRACE", "", None),
        ] {
            let body = if fields.starts_with('T') { "0\r\n\r\n" } else { "" };
            s.send(&format!("{method} / HTTP/1.1\r\nHost: a.b\r\n{fields}\r\n{body}")).await;
            let head = match &mut up {
                None => {
                    let (stream, head) = s.accept().await;
                    up = Some(stream);
                    head
                }
                Some(up) => read_until(up, "\r\n\r\n").await,
            };
            assert_eq!(header(&head, "content-length"), length, "{head}");
            assert!(head.to_lowercase().matches("content-length").count() < 2, "{head}");
            let up = up.as_mut().unwrap();
            read_until(up, body).await;
            up.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            s.read_until("\r\n\r\n").await;
        }
    });
}
