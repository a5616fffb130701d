//! Whole requests through a worker: real sockets upstream, a client in memory.

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

/// Runs a play of at most five seconds on one thread.
fn play<F: Future<Output = ()>>(change: impl FnOnce(&mut Model), http2: bool, act: impl FnOnce(Stage) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut model = model(upstream.local_addr().unwrap());
        change(&mut model);
        let worker = worker(&model, limits());
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
        tokio::time::timeout(Duration::from_secs(5), act).await.expect("the play does not end");
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
            X-Forwarded-Proto: https\r\nX-Request-Id: mine\r\nX-Envoy-Retry-On: 5xx\r\nKeep-Alive: 5\r\n\
            X-Forwarded-Client-Cert: By=x\r\nConnection: x-nominated\r\nX-Nominated: 1\r\nUpgrade: h2c\r\n\r\n",
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
            ("x-forwarded-client-cert", None),
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
        s.send("GET /old?q HTTP/1.1\r\nHost: a.b\r\nX-A: 1\r\nx-b: 1\r\nX-C: 1\r\n\r\n").await;
        let (mut up, head) = s.accept().await;
        assert!(head.starts_with("GET /new?q HTTP/1.1\r\nhost: other.example\r\nX-C: 1\r\n"), "{head}");
        assert_eq!(header(&head, "x-b"), Some("was 1"));
        assert_eq!(header(&head, "x-request-id"), Some("fixed"));
        assert_eq!(header(&head, "x-envoy-original-path"), Some("/old?q"));
        assert!(
            header(&head, "x-a").is_none()
                && head.contains("x-c: 2\r\n")
                && head.matches("ost: ").count() == 1
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
        assert!(s.read_until("\r\n\r\n").await.contains("Transfer-Encoding: chunked\r\n"));
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
        assert!(head.contains("Expect: 100-continue\r\n") && head.contains("Transfer-Encoding: chunked\r\n"));
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
                assert!(s.read_until("before headers").await.starts_with("HTTP/1.1 503 "));
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
            assert!(s.read_until("before headers").await.starts_with("HTTP/1.1 502 "), "{answer}");
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
fn shutdown_ends_idle_connections_at_once_and_others_after_their_request() {
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
        tokio::time::sleep(Duration::from_millis(20)).await;
        s.shutdown.send(true).unwrap();
        let began = std::time::Instant::now();
        assert_eq!(s.read_to_end().await, "");
        assert!(began.elapsed() < Duration::from_millis(200));
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
        let answer = s.read_until("teapot").await;
        assert!(answer.starts_with("HTTP/1.1 418 ") && header(&answer, "x-a") == Some("b"), "{answer}");
        s.send("GET /p?q HTTP/1.1\r\nHost: redirect\r\n\r\n").await;
        let answer = s.read_until("\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 302 "), "{answer}");
        assert_eq!(header(&answer, "location"), Some("https://redirect/p?q"));
        s.send(GET).await;
        assert!(s.read_until("before headers").await.starts_with("HTTP/1.1 503 "));
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

mod http2 {
    use super::*;
    use ::h2::client::{self, SendRequest};
    use bytes::Bytes;
    use http::{HeaderMap, Request};

    async fn connect(client: DuplexStream) -> SendRequest<Bytes> {
        let (send, connection) = client::handshake(client).await.unwrap();
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        send.ready().await.unwrap()
    }

    fn two<F: Future<Output = ()>>(act: impl FnOnce(Stage) -> F) {
        play(|_| {}, true, act);
    }

    #[test]
    fn requests_become_http1_and_responses_come_back() {
        two(|s| async move {
            let Stage { client, upstream, shutdown: _shutdown } = s;
            let mut send = connect(client).await;
            let request = Request::get("http://a.b/x?y").header("cookie", "a=1").header("cookie", "b=2");
            let (answer, _) = send.send_request(request.body(()).unwrap(), true).unwrap();
            let mut up = upstream.accept().await.unwrap().0;
            let head = read_until(&mut up, "\r\n\r\n").await;
            assert!(head.starts_with("GET /x?y HTTP/1.1\r\nhost: a.b\r\ncookie: a=1; b=2\r\n"), "{head}");
            assert!(header(&head, "transfer-encoding").is_none());
            up.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Up: 1\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n")
                .await
                .unwrap();
            up.write_all(b"2\r\nok\r\n3\r\n!!!\r\n0\r\nx-sum: 5\r\n\r\n").await.unwrap();
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers()["x-up"], "1");
            assert_eq!(answer.headers()["server"], "tidegate");
            assert!(
                !answer.headers().contains_key("transfer-encoding")
                    && !answer.headers().contains_key("x-hop")
            );
            let mut body = answer.into_body();
            let mut text = Vec::new();
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                text.extend_from_slice(&data);
            }
            assert_eq!(text, b"ok!!!");
            assert_eq!(body.trailers().await.unwrap().unwrap()["x-sum"], "5");
        });
    }

    #[test]
    fn uploads_and_downloads_go_at_once_and_trailers_pass() {
        two(|s| async move {
            let Stage { client, upstream, shutdown: _shutdown } = s;
            let mut send = connect(client).await;
            let request = Request::post("http://a.b/").body(()).unwrap();
            let (answer, mut upload) = send.send_request(request, false).unwrap();
            let mut up = upstream.accept().await.unwrap().0;
            let head = read_until(&mut up, "\r\n\r\n").await;
            assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
            up.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
            let mut body = answer.await.unwrap().into_body();
            for _ in 0..3 {
                upload.send_data(Bytes::from_static(b"ping"), false).unwrap();
                assert_eq!(read_until(&mut up, "ping\r\n").await, "4\r\nping\r\n");
                up.write_all(b"4\r\npong\r\n").await.unwrap();
                assert_eq!(body.data().await.unwrap().unwrap(), "pong");
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("x-t", "1".parse().unwrap());
            trailers.insert("authorization", "no".parse().unwrap());
            upload.send_trailers(trailers).unwrap();
            assert_eq!(read_until(&mut up, "1\r\n\r\n").await, "0\r\nx-t: 1\r\n\r\n");
            up.write_all(b"0\r\n\r\n").await.unwrap();
            assert!(body.data().await.is_none());
        });
    }

    #[test]
    fn a_slow_reader_holds_back_the_upstream() {
        two(|s| async move {
            let Stage { client, upstream, shutdown: _shutdown } = s;
            let mut send = connect(client).await;
            let (answer, _) = send.send_request(Request::get("http://a.b/").body(()).unwrap(), true).unwrap();
            let mut up = upstream.accept().await.unwrap().0;
            read_until(&mut up, "\r\n\r\n").await;
            up.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n").await.unwrap();
            let body = answer.await.unwrap().into_body();
            let mut sent = 0;
            let flood = async {
                loop {
                    sent += up.write(&[0; 65536]).await.unwrap();
                }
            };
            let _ = tokio::time::timeout(Duration::from_millis(300), flood).await;
            assert!(sent < 20 << 20, "{sent} bytes were taken for a client that does not read");
            // reset: the upstream is let go
            drop(body);
            let gone = async { while up.write_all(&[0; 65536]).await.is_ok() {} };
            gone.await;
        });
    }

    #[test]
    fn errors_resets_and_goaway() {
        two(|s| async move {
            let Stage { client, upstream, shutdown } = s;
            let mut send = connect(client).await;
            for (status, request) in [
                (400, Request::get("http://a.b/").header("host", "c.d")),
                (400, Request::get("http://a.b/%00")),
                (431, (0..130).fold(Request::get("http://a.b/"), |r, i| r.header(format!("x-{i}"), "y"))),
            ] {
                let (answer, _) = send.send_request(request.body(()).unwrap(), true).unwrap();
                assert_eq!(answer.await.unwrap().status(), status);
                send = send.ready().await.unwrap();
            }
            // a reset cancels the upstream's work
            let (answer, mut stream) =
                send.send_request(Request::get("http://a.b/").body(()).unwrap(), true).unwrap();
            let mut up = upstream.accept().await.unwrap().0;
            read_until(&mut up, "\r\n\r\n").await;
            stream.send_reset(::h2::Reason::CANCEL);
            drop(answer);
            assert_eq!(up.read(&mut [0]).await.unwrap(), 0);
            // GOAWAY: what is in flight ends well, nothing new begins
            send = send.ready().await.unwrap();
            let (answer, _) = send.send_request(Request::get("http://a.b/").body(()).unwrap(), true).unwrap();
            let mut up = upstream.accept().await.unwrap().0;
            read_until(&mut up, "\r\n\r\n").await;
            shutdown.send(true).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            up.write_all(OK.as_bytes()).await.unwrap();
            assert_eq!(answer.await.unwrap().status(), 200);
            assert!(send.ready().await.is_err());
        });
    }
}

/// How often the thread of a connection allocates while it serves `n` requests.
fn allocations_of(n: usize) -> usize {
    use std::io::{Read, Write};
    let upstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let downstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (up, down) = (upstream.local_addr().unwrap(), downstream.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut stream = upstream.accept().unwrap().0;
        while stream.read(&mut [0; 4096]).unwrap() > 0 {
            stream.write_all(OK.as_bytes()).unwrap();
        }
    });
    let client = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(down).unwrap();
        for _ in 0..n {
            stream.write_all(GET.as_bytes()).unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"ok") {
                let mut buf = [0; 4096];
                let n = stream.read(&mut buf).unwrap();
                seen.extend_from_slice(&buf[..n]);
            }
        }
    });
    let accepted = downstream.accept().unwrap().0;
    accepted.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut model = model(up);
    change(&mut model, "*", |f| {
        f.destinations[0].request_headers = vec![set("x-a", "b"), HeaderOp::Remove(HeaderName::new("x-c"))];
        f.destinations[0].response_headers = vec![set("x-d", "e")];
    });
    let allocations = runtime.block_on(async {
        let worker = worker(&model, Limits::default());
        let stream = pingora::protocols::l4::stream::Stream::from(TcpStream::from_std(accepted).unwrap());
        let (_shutdown, watch) = watch::channel(false);
        let before = crate::allocations::count();
        h1::serve(Box::new(stream), connection(), worker, watch).await;
        crate::allocations::count() - before
    });
    client.join().unwrap();
    allocations
}

#[test]
fn a_request_of_http1_allocates_nothing() {
    let few = allocations_of(20);
    assert_eq!(allocations_of(220), few, "{few} for the connection itself");
}

#[test]
fn a_connection_is_small() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let worker = worker(&model("127.0.0.1:1".parse().unwrap()), Limits::default());
        let (_shutdown, watch) = watch::channel(false);
        let stream = || Box::new(tokio::io::duplex(1).0);
        let one = h1::serve(stream(), connection(), worker.clone(), watch.clone());
        let one = std::mem::size_of_val(&one);
        assert!(one < 3 << 10, "an HTTP/1 connection takes {one} bytes");
        let two = h2::serve(stream(), connection(), worker, watch);
        let two = std::mem::size_of_val(&two);
        assert!(two < 4 << 10, "an HTTP/2 connection takes {two} bytes");
    });
}
