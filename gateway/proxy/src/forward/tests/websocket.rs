//! WebSocket between both protocols on both sides: HTTP/1 has an upgrade, HTTP/2 an extended
//! CONNECT.

use super::http2_upstream::{Server, connect, speak};
use super::*;
use crate::forward::websocket;
use ::h2::ext::Protocol;
use ::h2::{Reason, RecvStream, SendStream, client, server};
use bytes::Bytes;
use http::{Request, Response};
use std::future::poll_fn;
use std::time::Instant;
use tidegate_model::UpstreamProtocol;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Client and upstream: whether they speak HTTP/2.
const PAIRS: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];

/// One side of a WebSocket once it is open.
enum Side {
    Client(DuplexStream),
    Upstream(TcpStream),
    Stream(SendStream<Bytes>, RecvStream),
}

impl Side {
    /// Sends all of it, as the other side takes it.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        match self {
            Side::Client(s) => s.write_all(bytes).await.is_ok(),
            Side::Upstream(s) => s.write_all(bytes).await.is_ok(),
            Side::Stream(send, _) => {
                let mut left = bytes;
                while !left.is_empty() {
                    send.reserve_capacity(left.len());
                    let Some(Ok(n)) = poll_fn(|cx| send.poll_capacity(cx)).await else { return false };
                    let (now, rest) = left.split_at(n);
                    if send.send_data(Bytes::copy_from_slice(now), false).is_err() {
                        return false;
                    }
                    left = rest;
                }
                true
            }
        }
    }

    /// The next bytes: none at the end, an error when it was cut.
    async fn next(&mut self) -> Result<Vec<u8>, String> {
        let mut piece = vec![0; 64 << 10];
        let read = match self {
            Side::Client(s) => s.read(&mut piece).await,
            Side::Upstream(s) => s.read(&mut piece).await,
            Side::Stream(_, body) => {
                return match body.data().await {
                    Some(Ok(data)) => {
                        body.flow_control().release_capacity(data.len()).unwrap();
                        // an empty frame is no end
                        if data.is_empty() { Box::pin(self.next()).await } else { Ok(data.to_vec()) }
                    }
                    Some(Err(e)) => Err(format!("{:?}", e.reason())),
                    None => Ok(vec![]),
                };
            }
        };
        piece.truncate(read.map_err(|e| e.kind().to_string())?);
        Ok(piece)
    }

    async fn gets(&mut self, expected: &[u8]) {
        let mut got = Vec::new();
        while got.len() < expected.len() {
            let piece = self.next().await.unwrap();
            assert!(!piece.is_empty(), "ended after {} bytes", got.len());
            got.extend(piece);
        }
        assert!(got == expected, "{} bytes are not as sent", got.len());
    }

    async fn end(&mut self) {
        match self {
            Side::Client(s) => s.shutdown().await.unwrap(),
            Side::Upstream(s) => s.shutdown().await.unwrap(),
            Side::Stream(send, _) => send.send_data(Bytes::new(), true).unwrap(),
        }
    }

    fn reset(self) {
        match self {
            Side::Client(_) => {}
            Side::Upstream(s) => socket2::SockRef::from(&s).set_linger(Some(Duration::ZERO)).unwrap(),
            Side::Stream(mut send, _) => send.send_reset(Reason::CANCEL),
        }
    }
}

/// The client's end of a connection of HTTP/2, once the gateway's SETTINGS are there.
async fn settled(client: DuplexStream) -> client::SendRequest<Bytes> {
    let send = connect(client).await;
    while !send.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
    }
    send
}

fn extended() -> Request<()> {
    let request = Request::connect("http://a.b/chat").extension(Protocol::from_static("websocket"));
    let request = request.header("sec-websocket-version", "13").header("sec-websocket-protocol", "x");
    request.body(()).unwrap()
}

fn upgrade() -> String {
    format!(
        "GET /chat HTTP/1.1\r\nHost: a.b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: x\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

/// What an upstream of HTTP/1 that keeps the rules answers to this request.
fn switching(head: &str) -> String {
    let accept = websocket::accept(header(head, "sec-websocket-key").unwrap().as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: x\r\n\r\n"
    )
}

/// Opens a WebSocket; what belongs to the connections is kept with it.
async fn open(
    client: DuplexStream,
    upstream: &TcpListener,
    from: bool,
    to: bool,
) -> (Side, Side, impl Sized) {
    let mut kept = (None, None);
    let asking = async {
        if !from {
            let mut client = client;
            client.write_all(upgrade().as_bytes()).await.unwrap();
            let head = read_until(&mut client, "\r\n\r\n").await;
            assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
            let said = ["upgrade", "connection", "sec-websocket-accept", "sec-websocket-protocol"];
            let said = said.map(|n| header(&head, n).unwrap_or_default().to_ascii_lowercase());
            assert_eq!(said, ["websocket", "upgrade", &ACCEPT.to_ascii_lowercase(), "x"], "{head}");
            return Side::Client(client);
        }
        let mut send = settled(client).await;
        let (answer, stream) = send.send_request(extended(), false).unwrap();
        kept.0 = Some(send);
        let answer = answer.await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["sec-websocket-protocol"]),
            (200, &"x".parse().unwrap())
        );
        for name in ["connection", "upgrade", "sec-websocket-accept", "content-length"] {
            assert!(!answer.headers().contains_key(name), "{name}: {answer:?}");
        }
        Side::Stream(stream, answer.into_body())
    };
    let answering = async {
        if !to {
            let mut up = upstream.accept().await.unwrap().0;
            let head = read_until(&mut up, "\r\n\r\n").await;
            assert!(head.starts_with("GET /chat HTTP/1.1\r\n"), "{head}");
            let said = ["upgrade", "connection", "sec-websocket-version", "sec-websocket-protocol"];
            assert_eq!(
                said.map(|n| header(&head, n).unwrap_or_default()),
                ["websocket", "upgrade", "13", "x"]
            );
            assert_eq!(header(&head, "sec-websocket-key") == Some(KEY), !from);
            up.write_all(switching(&head).as_bytes()).await.unwrap();
            return Side::Upstream(up);
        }
        let mut server = Server::accept_as(upstream, server::Builder::new().enable_connect_protocol()).await;
        let (request, mut respond) = server.next().await;
        kept.1 = Some(server);
        assert_eq!((request.method().as_str(), request.uri().path()), ("CONNECT", "/chat"));
        assert_eq!(request.extensions().get::<Protocol>().unwrap().as_str(), "websocket");
        let headers = request.headers();
        assert_eq!(
            (&headers["sec-websocket-version"], &headers["sec-websocket-protocol"]),
            (&"13".parse().unwrap(), &"x".parse().unwrap())
        );
        assert!(
            !headers.contains_key("sec-websocket-key") && !headers.contains_key("upgrade"),
            "{headers:?}"
        );
        let response = Response::builder().header("sec-websocket-protocol", "x").body(()).unwrap();
        Side::Stream(respond.send_response(response, false).unwrap(), request.into_body())
    };
    let (client, upstream) = tokio::join!(asking, answering);
    (client, upstream, kept)
}

/// Plays with an open WebSocket, of each pair of protocols.
fn each<F: Future<Output = ()>>(act: impl Fn(Side, Side) -> F) {
    for (from, to) in PAIRS {
        let protocol = if to { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 };
        let act = &act;
        play(speak(protocol), from, |s| async move {
            let Stage { client, upstream, shutdown: _shutdown } = s;
            let (client, upstream, _kept) = open(client, &upstream, from, to).await;
            act(client, upstream).await;
        });
    }
}

#[test]
fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    each(|mut client, mut upstream| async move {
        for i in 0..20 {
            let message = vec![i; 1 + usize::from(i) * 1000];
            assert!(client.send(&message).await);
            upstream.gets(&message).await;
            assert!(upstream.send(&message).await);
            client.gets(&message).await;
        }
        client.end().await;
        assert_eq!(upstream.next().await, Ok(vec![]));
        assert!(upstream.send(b"after the end of the other way").await);
        client.gets(b"after the end of the other way").await;
        upstream.end().await;
        assert_eq!(client.next().await, Ok(vec![]));
    });
    each(|mut client, mut upstream| async move {
        upstream.end().await;
        assert_eq!(client.next().await, Ok(vec![]));
        assert!(client.send(b"still here").await);
        upstream.gets(b"still here").await;
        client.end().await;
        assert_eq!(upstream.next().await, Ok(vec![]));
    });
}

#[test]
fn a_cut_goes_through() {
    let cut = |said: Result<Vec<u8>, String>| {
        let why = said.expect_err("it was cut");
        assert!(matches!(why.as_str(), "connection reset" | "Some(CANCEL)"), "{why}");
    };
    each(|client, mut upstream| async move {
        // an end in memory cannot be cut
        if matches!(client, Side::Stream(..)) {
            client.reset();
            cut(upstream.next().await);
        }
    });
    each(|mut client, upstream| async move {
        let in_memory = matches!(client, Side::Client(_));
        upstream.reset();
        let said = client.next().await;
        if in_memory { assert_eq!(said, Ok(vec![])) } else { cut(said) }
    });
    // also where nothing is read any more
    each(|mut client, mut upstream| async move {
        client.end().await;
        assert_eq!(upstream.next().await, Ok(vec![]));
        if matches!(client, Side::Stream(..)) {
            drop(client);
            while upstream.send(&[0; 1000]).await {
                tokio::task::yield_now().await;
            }
        }
    });
}

#[test]
fn who_does_not_read_holds_back_who_sends() {
    async fn flood(from: &mut Side) -> usize {
        let mut sent = 0;
        let flood = async {
            while from.send(&[0; 16 << 10]).await {
                sent += 16 << 10;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(150), flood).await;
        sent
    }
    each(|mut client, mut upstream| async move {
        for sent in [flood(&mut client).await, flood(&mut upstream).await] {
            assert!(sent < 12 << 20, "{sent} bytes were taken for nobody");
        }
    });
}

#[test]
fn only_idleness_ends_it() {
    each(|mut client, mut upstream| async move {
        let idle = limits().request_idle;
        let begun = Instant::now();
        while begun.elapsed() < idle + idle / 4 {
            let round = Instant::now();
            tokio::time::sleep(idle / 10).await;
            if round.elapsed() > idle / 2 {
                return; // too busy a machine to tell
            }
            assert!(client.send(b"x").await);
            upstream.gets(b"x").await;
        }
        let silent = Instant::now();
        assert!(client.next().await.unwrap_or_default().is_empty());
        assert!(upstream.next().await.unwrap_or_default().is_empty());
        assert!(silent.elapsed() > idle / 2, "{:?}", silent.elapsed());
    });
}

#[test]
fn a_stop_says_goodbye_between_frames() {
    const MASKED: &[u8] = b"\x81\x83mask\x01\x02\x03";
    let say = || PLAYED.with_borrow(|worker| worker.as_ref().unwrap().cut.say());
    let rest = async |side: &mut Side| {
        let mut all = Vec::new();
        while let Ok(piece) = side.next().await
            && !piece.is_empty()
        {
            all.extend(piece);
        }
        all
    };
    each(|mut client, mut upstream| async move {
        assert!(client.send(MASKED).await);
        upstream.gets(MASKED).await;
        // in the middle of a frame there is nothing to say
        assert!(upstream.send(b"\x82\x05abc").await);
        client.gets(b"\x82\x05abc").await;
        say();
        assert_eq!(rest(&mut client).await, b"");
        let said = rest(&mut upstream).await;
        let [0x88, 0x82, a, b, _, _, high, low] = said[..] else {
            panic!("{said:?} is no Close, to HTTP/2 {}", matches!(upstream, Side::Stream(..)))
        };
        assert_eq!([high ^ a, low ^ b], 1001u16.to_be_bytes());
    });
    each(|mut client, _upstream| async move {
        say();
        assert_eq!(rest(&mut client).await, [0x88, 2, 0x03, 0xe9]);
    });
}

#[test]
fn a_half_closed_one_does_not_stay_for_ever() {
    each(|mut client, mut upstream| async move {
        client.end().await;
        assert_eq!(upstream.next().await, Ok(vec![]));
        assert!(client.next().await.unwrap_or_default().is_empty());
    });
}

#[test]
fn a_handshake_that_is_not_completed_opens_nothing() {
    // what the upstream of HTTP/1 says, and what the client of HTTP/2 gets
    let wrong = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    let other = switching(&upgrade()).replace("WebSocket", "h2c");
    for (said, status) in [
        (format!("{wrong}\r\n"), 502),
        (format!("{wrong}Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"), 502),
        (other, 502),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno".to_string(), 403),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno".to_string(), 502),
    ] {
        play(
            |_| {},
            true,
            |s| async move {
                let Stage { client, upstream, shutdown: _shutdown } = s;
                let mut send = settled(client).await;
                let (answer, _stream) = send.send_request(extended(), false).unwrap();
                let mut up = upstream.accept().await.unwrap().0;
                read_until(&mut up, "\r\n\r\n").await;
                up.write_all(said.as_bytes()).await.unwrap();
                let answer = answer.await.unwrap();
                assert_eq!(answer.status(), status, "{said}");
                let mut side = Side::Stream(_stream, answer.into_body());
                if status != 502 {
                    side.gets(b"no").await;
                }
            },
        );
    }
}

#[test]
fn an_upstream_of_http2_may_refuse_or_not_know_it() {
    for from in [false, true] {
        // refused: the client of HTTP/1 goes on with its connection
        play(speak(UpstreamProtocol::Http2), from, |s| async move {
            let Stage { mut client, upstream, shutdown: _shutdown } = s;
            let settings = server::Builder::new().enable_connect_protocol().clone();
            let refuse = async {
                let mut server = Server::accept_as(&upstream, &settings).await;
                let (mut request, mut respond) = server.next().await;
                let response =
                    Response::builder().status(403).header("content-length", "2").body(()).unwrap();
                respond.send_response(response, false).unwrap().send_data("no".into(), true).unwrap();
                let rest = request.body_mut().data().await;
                assert!(rest.is_none_or(|data| data.is_ok_and(|d| d.is_empty())), "our side ends well");
                server
            };
            if from {
                let mut send = settled(client).await;
                let (answer, _stream) = send.send_request(extended(), false).unwrap();
                let (answer, _server) = tokio::join!(answer, refuse);
                assert_eq!(answer.unwrap().status(), 403);
                return;
            }
            client.write_all(upgrade().as_bytes()).await.unwrap();
            let (head, mut server) = tokio::join!(read_until(&mut client, "\r\n\r\nno"), refuse);
            assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
            client.write_all(GET.as_bytes()).await.unwrap();
            server.next().await.1.send_response(Response::new(()), true).unwrap();
            read_until(&mut client, "\r\n\r\n").await;
        });
        // not announced: no stream is opened
        play(speak(UpstreamProtocol::Http2), from, |s| async move {
            let Stage { mut client, upstream, shutdown: _shutdown } = s;
            if from {
                let mut send = settled(client).await;
                let (answer, _stream) = send.send_request(extended(), false).unwrap();
                let _server = Server::accept_as(&upstream, &server::Builder::new()).await;
                assert_eq!(answer.await.unwrap().status(), 502);
                return;
            }
            client.write_all(upgrade().as_bytes()).await.unwrap();
            let _server = Server::accept_as(&upstream, &server::Builder::new()).await;
            let answer = read_until(&mut client, "over HTTP/2").await;
            assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        });
    }
    // where the upstream is only thought to speak what the client does, HTTP/1 is left
    play(speak(UpstreamProtocol::Client), true, |s| async move {
        let Stage { client, upstream, shutdown: _shutdown } = s;
        let mut send = settled(client).await;
        let (answer, _stream) = send.send_request(extended(), false).unwrap();
        let _server = Server::accept_as(&upstream, &server::Builder::new()).await;
        let mut up = upstream.accept().await.unwrap().0;
        let head = read_until(&mut up, "\r\n\r\n").await;
        up.write_all(switching(&head).as_bytes()).await.unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
    });
}

#[test]
fn what_http2_cannot_carry_is_refused() {
    for (change, with) in [
        ("GET /chat", "POST /chat"),
        (KEY, "short"),
        ("Sec-WebSocket-Key: ", "X-Key: "),
        ("Host: a.b", "Host: a.b\r\nContent-Length: 2"),
    ] {
        play(speak(UpstreamProtocol::Http2), false, |s| async move {
            let Stage { mut client, upstream, shutdown: _shutdown } = s;
            client.write_all(upgrade().replace(change, with).as_bytes()).await.unwrap();
            let settings = server::Builder::new().enable_connect_protocol().clone();
            let answering = async {
                let mut server = Server::accept_as(&upstream, &settings).await;
                let next = server.next().await;
                panic!("a stream was opened: {:?}", next.0);
            };
            let answer = tokio::select! {
                answer = read_until(&mut client, "\r\n\r\n") => answer,
                () = answering => unreachable!(),
            };
            assert!(answer.starts_with("HTTP/1.1 400 "), "{with}: {answer}");
        });
    }
}

#[test]
fn a_key_that_a_client_of_http2_sends_is_answered() {
    for to in [false, true] {
        let protocol = if to { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 };
        play(speak(protocol), true, |s| async move {
            let Stage { client, upstream, shutdown: _shutdown } = s;
            let mut send = settled(client).await;
            let mut request = extended();
            request.headers_mut().insert("sec-websocket-key", KEY.parse().unwrap());
            let (answer, _stream) = send.send_request(request, false).unwrap();
            let _kept = if to {
                let settings = server::Builder::new().enable_connect_protocol().clone();
                let mut server = Server::accept_as(&upstream, &settings).await;
                let (request, mut respond) = server.next().await;
                assert!(!request.headers().contains_key("sec-websocket-key"));
                let open = respond.send_response(Response::new(()), false).unwrap();
                (Some((server, open)), None)
            } else {
                let mut up = upstream.accept().await.unwrap().0;
                let head = read_until(&mut up, "\r\n\r\n").await;
                assert_eq!(header(&head, "sec-websocket-key"), Some(KEY));
                up.write_all(switching(&head).as_bytes()).await.unwrap();
                (None, Some(up))
            };
            assert_eq!(answer.await.unwrap().headers()["sec-websocket-accept"], ACCEPT);
        });
    }
}
