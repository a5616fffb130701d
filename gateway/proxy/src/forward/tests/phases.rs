//! The phases of a request that is no simple question and answer, between both protocols on both
//! sides: what comes before the response, a response that comes early, trailers, and who goes away.

use super::http2_upstream::{Server, connect, speak};
use super::*;
use ::h2::client::{ResponseFuture, SendRequest};
use ::h2::server::SendResponse;
use ::h2::{Reason, RecvStream, SendStream, server};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use std::future::poll_fn;
use tidegate_model::UpstreamProtocol;

/// Client and upstream: whether they speak HTTP/2.
const PAIRS: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];

/// The client of one request, whose body comes in pieces of unknown number.
enum Client {
    One(DuplexStream),
    Two {
        answer: ResponseFuture,
        send: SendStream<Bytes>,
        body: Option<RecvStream>,
        _connection: SendRequest<Bytes>,
    },
}

/// The upstream's side of it.
enum Upstream {
    One(TcpStream),
    Two { body: RecvStream, respond: SendResponse<Bytes>, send: Option<SendStream<Bytes>>, _server: Server },
}

fn map(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
}

async fn data(body: &mut RecvStream) -> Result<Bytes, Option<Reason>> {
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(|e| e.reason())?;
        body.flow_control().release_capacity(piece.len()).unwrap();
        if !piece.is_empty() {
            return Ok(piece);
        }
    }
    Ok(Bytes::new())
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

impl Client {
    async fn ask(client: DuplexStream, http2: bool) -> Client {
        if http2 {
            let mut connection = connect(client).await;
            let request = Request::post("http://a.b/").header("expect", "100-continue").body(()).unwrap();
            let (answer, send) = connection.send_request(request, false).unwrap();
            return Client::Two { answer, send, body: None, _connection: connection };
        }
        let mut client = client;
        let head =
            "POST / HTTP/1.1\r\nHost: a.b\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        Client::One(client)
    }

    async fn send(&mut self, text: &'static str) {
        match self {
            Client::One(s) => s.write_all(chunk(text).as_bytes()).await.unwrap(),
            Client::Two { send, .. } => send.send_data(text.into(), false).unwrap(),
        }
    }

    async fn finish(&mut self) {
        match self {
            Client::One(s) => s.write_all(b"0\r\nx-up: 1\r\n\r\n").await.unwrap(),
            Client::Two { send, .. } => send.send_trailers(map("x-up", "1")).unwrap(),
        }
    }

    /// The next head's status, interim or final, with its `link` and whether the connection ends.
    async fn head(&mut self, interim: bool) -> (u16, String, bool) {
        let link = |headers: &HeaderMap| {
            headers.get("link").map(|v| v.to_str().unwrap().to_string()).unwrap_or_default()
        };
        match self {
            Client::One(s) => {
                let head = read_until(s, "\r\n\r\n").await;
                let link = header(&head, "link").unwrap_or_default().to_string();
                (head[9..12].parse().unwrap(), link, header(&head, "connection") == Some("close"))
            }
            Client::Two { answer, .. } if interim => {
                let head = poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
                (head.status().as_u16(), link(head.headers()), false)
            }
            Client::Two { answer, body, .. } => {
                let head = answer.await.unwrap();
                let said = (head.status().as_u16(), link(head.headers()), false);
                *body = Some(head.into_body());
                said
            }
        }
    }

    async fn gets(&mut self, text: &str) {
        match self {
            Client::One(s) => assert_eq!(read_until(s, &format!("{text}\r\n")).await, chunk(text)),
            Client::Two { body, .. } => assert_eq!(data(body.as_mut().unwrap()).await.unwrap(), text),
        }
    }

    /// The end of the response, with its trailer.
    async fn gets_end(&mut self) {
        match self {
            Client::One(s) => assert_eq!(read_until(s, "\r\n\r\n").await, "0\r\nx-down: 2\r\n\r\n"),
            Client::Two { body, .. } => {
                let body = body.as_mut().unwrap();
                assert!(data(body).await.unwrap().is_empty());
                assert_eq!(body.trailers().await.unwrap().unwrap()["x-down"], "2");
            }
        }
    }

    fn leave(self) {
        if let Client::Two { mut send, .. } = self {
            send.send_reset(Reason::CANCEL);
        }
    }

    /// Whether the response was cut.
    async fn is_cut(&mut self) -> bool {
        match self {
            Client::One(s) => {
                let mut rest = Vec::new();
                s.read_to_end(&mut rest).await.is_err() || !rest.ends_with(b"0\r\n\r\n")
            }
            Client::Two { body, .. } => loop {
                match data(body.as_mut().unwrap()).await {
                    Ok(piece) if piece.is_empty() => return false,
                    Ok(_) => {}
                    Err(reason) => return reason == Some(Reason::INTERNAL_ERROR),
                }
            },
        }
    }
}

impl Upstream {
    async fn accept(upstream: &TcpListener, http2: bool) -> Upstream {
        if http2 {
            let mut server = Server::accept_as(upstream, &server::Builder::new()).await;
            let (request, respond) = server.next().await;
            assert_eq!(request.headers()["expect"], "100-continue");
            return Upstream::Two { body: request.into_body(), respond, send: None, _server: server };
        }
        let mut stream = upstream.accept().await.unwrap().0;
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert_eq!(header(&head, "expect"), Some("100-continue"));
        Upstream::One(stream)
    }

    async fn interim(&mut self, status: u16) {
        match self {
            Upstream::One(s) => {
                s.write_all(format!("HTTP/1.1 {status} X\r\nLink: a\r\n\r\n").as_bytes()).await.unwrap();
            }
            Upstream::Two { respond, .. } => {
                let head = Response::builder().status(status).header("link", "a").body(()).unwrap();
                respond.send_informational(head).unwrap();
            }
        }
    }

    async fn answer(&mut self, status: u16) {
        match self {
            Upstream::One(s) => {
                let head = format!("HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n");
                s.write_all(head.as_bytes()).await.unwrap();
            }
            Upstream::Two { respond, send, .. } => {
                let head = Response::builder().status(status).body(()).unwrap();
                *send = Some(respond.send_response(head, false).unwrap());
            }
        }
    }

    async fn send(&mut self, text: &'static str) {
        match self {
            Upstream::One(s) => s.write_all(chunk(text).as_bytes()).await.unwrap(),
            Upstream::Two { send, .. } => send.as_mut().unwrap().send_data(text.into(), false).unwrap(),
        }
    }

    async fn finish(&mut self) {
        match self {
            Upstream::One(s) => s.write_all(b"0\r\nx-down: 2\r\n\r\n").await.unwrap(),
            Upstream::Two { send, .. } => send.as_mut().unwrap().send_trailers(map("x-down", "2")).unwrap(),
        }
    }

    async fn gets(&mut self, text: &str) {
        match self {
            Upstream::One(s) => assert_eq!(read_until(s, &format!("{text}\r\n")).await, chunk(text)),
            Upstream::Two { body, .. } => assert_eq!(data(body).await.unwrap(), text),
        }
    }

    async fn gets_end(&mut self) {
        match self {
            Upstream::One(s) => assert_eq!(read_until(s, "\r\n\r\n").await, "0\r\nx-up: 1\r\n\r\n"),
            Upstream::Two { body, .. } => {
                assert!(data(body).await.unwrap().is_empty());
                assert_eq!(body.trailers().await.unwrap().unwrap()["x-up"], "1");
            }
        }
    }

    /// Waits until the gateway has let go of the request before its end.
    async fn is_let_go(&mut self) {
        match self {
            Upstream::One(s) => while s.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {},
            Upstream::Two { respond, send, .. } => {
                let reset = match send {
                    Some(send) => poll_fn(|cx| send.poll_reset(cx)).await,
                    None => poll_fn(|cx| respond.poll_reset(cx)).await,
                };
                assert_eq!(reset.unwrap(), Reason::CANCEL);
            }
        }
    }

    /// Ends without the end of the response.
    fn fail(self) {
        if let Upstream::Two { send: Some(mut send), .. } = self {
            send.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

fn each<F: Future<Output = ()>>(act: impl Fn(Client, Upstream) -> F) {
    for (from, to) in PAIRS {
        let protocol = if to { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 };
        let act = &act;
        play(speak(protocol), from, |s| async move {
            let Stage { client, upstream, shutdown: _shutdown } = s;
            let client = Client::ask(client, from).await;
            let upstream = Upstream::accept(&upstream, to).await;
            act(client, upstream).await;
        });
    }
}

#[test]
fn a_body_waits_for_100_hints_pass_and_so_do_trailers() {
    each(|mut client, mut upstream| async move {
        upstream.interim(100).await;
        assert_eq!(client.head(true).await, (100, "a".into(), false));
        client.send("abc").await;
        upstream.gets("abc").await;
        upstream.interim(103).await;
        assert_eq!(client.head(true).await, (103, "a".into(), false));
        client.send("defg").await;
        upstream.gets("defg").await;
        client.finish().await;
        upstream.gets_end().await;
        upstream.answer(201).await;
        assert_eq!(client.head(false).await, (201, String::new(), false));
        for text in ["pong", "ping"] {
            upstream.send(text).await;
            client.gets(text).await;
        }
        upstream.finish().await;
        client.gets_end().await;
    });
}

#[test]
fn an_early_answer_does_not_stop_the_upload() {
    each(|mut client, mut upstream| async move {
        upstream.answer(200).await;
        // of HTTP/1: nobody knows yet whether the rest of the request will come
        let (status, _, closes) = client.head(false).await;
        assert_eq!((status, closes), (200, matches!(client, Client::One(_))));
        for _ in 0..3 {
            client.send("ping").await;
            upstream.gets("ping").await;
            upstream.send("pong").await;
            client.gets("pong").await;
        }
        client.finish().await;
        upstream.gets_end().await;
        upstream.finish().await;
        client.gets_end().await;
    });
}

#[test]
fn an_answer_that_ends_before_the_request_is_whole_and_the_rest_is_given_up() {
    each(|mut client, mut upstream| async move {
        client.send("abc").await;
        upstream.gets("abc").await;
        upstream.answer(413).await;
        upstream.send("too large").await;
        upstream.finish().await;
        assert_eq!(client.head(false).await.0, 413);
        client.gets("too large").await;
        client.gets_end().await;
        match client {
            Client::One(mut s) => assert_eq!(s.read(&mut [0]).await.unwrap(), 0, "the connection ends"),
            Client::Two { mut send, .. } => {
                // a server that wants no more says so without blame (RFC 9113 8.1)
                assert_eq!(poll_fn(|cx| send.poll_reset(cx)).await.unwrap(), Reason::NO_ERROR);
            }
        }
        if let Upstream::One(_) = upstream {
            upstream.is_let_go().await;
        }
    });
}

#[test]
fn who_goes_away_takes_the_other_with_it() {
    // before the answer
    each(|client, mut upstream| async move {
        client.leave();
        upstream.is_let_go().await;
    });
    // in its middle
    each(|mut client, mut upstream| async move {
        client.send("abc").await;
        upstream.gets("abc").await;
        upstream.answer(200).await;
        upstream.send("begun").await;
        client.head(false).await;
        client.gets("begun").await;
        client.leave();
        upstream.is_let_go().await;
    });
    each(|mut client, mut upstream| async move {
        upstream.answer(200).await;
        upstream.send("begun").await;
        client.head(false).await;
        client.gets("begun").await;
        upstream.fail();
        assert!(client.is_cut().await);
    });
}
