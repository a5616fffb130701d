//! HTTP/2 upstreams: a server of `h2` in this task, driven stream by stream.

use super::super::testing::retries;
use super::*;
use ::h2::server::{self, Connection, SendResponse};
use ::h2::{Reason, RecvStream};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tidegate_model::{RetryCondition, UpstreamProtocol};

/// Has the upstream spoken to like this.
pub(super) fn speak(protocol: UpstreamProtocol) -> impl FnOnce(&mut Model) {
    move |model| {
        for cluster in model.clusters.values_mut() {
            std::sync::Arc::make_mut(cluster).protocol = protocol;
        }
    }
}

fn upstream<F: Future<Output = ()>>(http2: bool, act: impl FnOnce(Stage) -> F) {
    play(speak(UpstreamProtocol::Http2), http2, act);
}

pub(super) type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// The upstream's end of one connection, whose frames go on in a task of their own.
pub(super) struct Server(tokio::sync::mpsc::UnboundedReceiver<Asked>, tokio::sync::mpsc::UnboundedSender<()>);

impl Server {
    async fn accept(listener: &TcpListener, streams: u32) -> Server {
        Server::accept_as(listener, server::Builder::new().max_concurrent_streams(streams)).await
    }

    pub(super) async fn accept_as(listener: &TcpListener, settings: &server::Builder) -> Server {
        let stream = listener.accept().await.unwrap().0;
        let mut connection: Connection<_, Bytes> = settings.handshake(stream).await.unwrap();
        let (tell, asked) = tokio::sync::mpsc::unbounded_channel();
        let (leave, mut left) = tokio::sync::mpsc::unbounded_channel();
        tokio::task::spawn_local(async move {
            loop {
                tokio::select! {
                    Some(()) = left.recv() => connection.graceful_shutdown(),
                    next = connection.accept() => match next {
                        Some(Ok(next)) => _ = tell.send(next),
                        _ => return,
                    },
                }
            }
        });
        Server(asked, leave)
    }

    pub(super) async fn next(&mut self) -> Asked {
        self.0.recv().await.expect("a request")
    }
}

fn ok() -> Response<()> {
    Response::new(())
}

pub(super) async fn text(body: &mut RecvStream) -> Vec<u8> {
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        text.extend_from_slice(&data);
    }
    text
}

fn map(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
}

pub(super) async fn connect(client: DuplexStream) -> ::h2::client::SendRequest<Bytes> {
    let (send, connection) = ::h2::client::handshake(client).await.unwrap();
    tokio::task::spawn_local(connection);
    send.ready().await.unwrap()
}

#[test]
fn requests_of_http1_become_streams() {
    upstream(false, |mut s| async move {
        s.send(
            "POST /x?y HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nConnection: te\r\n\r\n\
            3\r\nabc\r\n",
        )
        .await;
        let mut server = Server::accept(&s.upstream, 100).await;
        let (mut request, mut respond) = server.next().await;
        assert_eq!((request.method().as_str(), request.uri().to_string()), ("POST", "http://a.b/x?y".into()));
        assert_eq!(request.headers()["te"], "trailers");
        assert!(
            !request.headers().contains_key("host") && !request.headers().contains_key("transfer-encoding")
        );
        s.send("2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n").await;
        assert_eq!(text(request.body_mut()).await, b"abcde");
        assert_eq!(request.body_mut().trailers().await.unwrap().unwrap()["x-sum"], "5");
        let mut send = respond.send_response(ok(), false).unwrap();
        let head = s.read_until("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !head.contains("content-length"), "{head}");
        assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
        send.send_data("hello".into(), false).unwrap();
        assert_eq!(s.read_until("lo\r\n").await, "5\r\nhello\r\n");
        send.send_trailers(map("x-t", "1")).unwrap();
        assert_eq!(s.read_until("\r\n\r\n").await, "0\r\nx-t: 1\r\n\r\n");
        // the next request goes over the same connection, and a length stays one
        s.send(GET).await;
        let (request, mut respond) = server.next().await;
        assert!(request.body().is_end_stream());
        let response = Response::builder().header("content-length", "2").body(()).unwrap();
        respond.send_response(response, false).unwrap().send_data("ok".into(), true).unwrap();
        let answer = s.read_until("\r\n\r\nok").await;
        assert!(header(&answer, "content-length") == Some("2") && !answer.contains("chunked"), "{answer}");
        // no body at all is a length too
        s.send(GET).await;
        let (_, mut respond) = server.next().await;
        respond.send_response(ok(), true).unwrap();
        assert_eq!(header(&s.read_until("\r\n\r\n").await, "content-length"), Some("0"));
    });
}

#[test]
fn clients_of_http10_get_the_body_until_the_end() {
    upstream(false, |mut s| async move {
        s.send("GET / HTTP/1.0\r\nHost: a.b\r\nConnection: keep-alive\r\n\r\n").await;
        let mut server = Server::accept(&s.upstream, 100).await;
        let (_, mut respond) = server.next().await;
        let mut send = respond.send_response(ok(), false).unwrap();
        send.send_data("all ".into(), false).unwrap();
        send.send_data("of it".into(), false).unwrap();
        send.send_trailers(map("x-t", "1")).unwrap();
        let answer = s.read_to_end().await;
        assert!(answer.ends_with("\r\n\r\nall of it"), "{answer}");
        assert_eq!(header(&answer, "connection"), Some("close"));
    });
}

#[test]
fn grpc_goes_both_ways_at_once_with_its_trailers() {
    upstream(true, |s| async move {
        let Stage { client, upstream, shutdown: _shutdown } = s;
        let mut send = connect(client).await;
        let request = Request::post("http://a.b/p.S/M").header("content-type", "application/grpc");
        let request = request.header("te", "trailers").body(()).unwrap();
        let (answer, mut upload) = send.send_request(request, false).unwrap();
        let mut server = Server::accept(&upstream, 100).await;
        let (mut request, mut respond) = server.next().await;
        assert_eq!(request.headers()["te"], "trailers");
        let mut stream = respond.send_response(ok(), false).unwrap();
        let mut body = answer.await.unwrap().into_body();
        for _ in 0..3 {
            upload.send_data("ping".into(), false).unwrap();
            assert_eq!(request.body_mut().data().await.unwrap().unwrap(), "ping");
            stream.send_data("pong".into(), false).unwrap();
            assert_eq!(body.data().await.unwrap().unwrap(), "pong");
        }
        upload.send_data(Bytes::new(), true).unwrap();
        assert!(text(request.body_mut()).await.is_empty());
        stream.send_trailers(map("grpc-status", "0")).unwrap();
        assert!(text(&mut body).await.is_empty());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
        // trailers only
        send = send.ready().await.unwrap();
        let (answer, _) =
            send.send_request(Request::post("http://a.b/p.S/N").body(()).unwrap(), true).unwrap();
        let (_, mut respond) = server.next().await;
        respond
            .send_response(Response::builder().header("grpc-status", "5").body(()).unwrap(), true)
            .unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "5");
        assert!(answer.body().is_end_stream());
    });
}

#[test]
fn a_client_that_goes_away_resets_the_stream_alone() {
    upstream(true, |s| async move {
        let Stage { client, upstream, shutdown: _shutdown } = s;
        let mut send = connect(client).await;
        let get = || Request::get("http://a.b/").body(()).unwrap();
        let (answer, mut stream) = send.send_request(get(), true).unwrap();
        let mut server = Server::accept(&upstream, 100).await;
        let (_, mut respond) = server.next().await;
        stream.send_reset(Reason::CANCEL);
        drop(answer);
        let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
        assert_eq!(reset, Reason::CANCEL);
        send = send.ready().await.unwrap();
        let (answer, _) = send.send_request(get(), true).unwrap();
        server.next().await.1.send_response(ok(), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
    });
}

#[test]
fn what_was_refused_is_sent_again_and_what_was_reset_is_not() {
    let refused = |model: &mut Model| {
        speak(UpstreamProtocol::Http2)(model);
        change(model, "*", |f| f.retries = retries(&[RetryCondition::RefusedStream]));
    };
    play(refused, false, |mut s| async move {
        s.send("POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 4\r\n\r\nbody").await;
        let mut server = Server::accept(&s.upstream, 100).await;
        let (_, mut respond) = server.next().await;
        respond.send_reset(Reason::REFUSED_STREAM);
        let (mut request, mut respond) = server.next().await;
        assert_eq!(text(request.body_mut()).await, b"body");
        respond.send_response(ok(), true).unwrap();
        assert!(s.read_until("\r\n\r\n").await.starts_with("HTTP/1.1 200 OK\r\n"));
        s.send(GET).await;
        let (_, mut respond) = server.next().await;
        respond.send_reset(Reason::INTERNAL_ERROR);
        let answer = s.read_until("reset reason: remote reset").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        // in the middle of a response the client must not take it for whole
        s.send(GET).await;
        let (_, mut respond) = server.next().await;
        let mut send = respond.send_response(ok(), false).unwrap();
        send.send_data("half".into(), false).unwrap();
        s.read_until("4\r\nhalf\r\n").await;
        send.send_reset(Reason::INTERNAL_ERROR);
        assert_eq!(s.read_to_end().await, "");
    });
}

#[test]
fn a_connection_that_leaves_takes_nothing_new_and_a_full_one_gets_company() {
    upstream(true, |s| async move {
        let Stage { client, upstream, shutdown: _shutdown } = s;
        let mut send = connect(client).await;
        let get = || Request::get("http://a.b/").body(()).unwrap();
        let (first, _) = send.send_request(get(), true).unwrap();
        let mut one = Server::accept(&upstream, 1).await;
        let (_, mut respond) = one.next().await;
        // it takes one at a time
        send = send.ready().await.unwrap();
        let (second, _) = send.send_request(get(), true).unwrap();
        let mut two = Server::accept(&upstream, 1).await;
        let (_, mut respond_second) = two.next().await;
        // what is on a connection that leaves goes on
        one.1.send(()).unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        respond.send_response(ok(), true).unwrap();
        assert_eq!(first.await.unwrap().status(), 200);
        respond_second.send_response(ok(), true).unwrap();
        assert_eq!(second.await.unwrap().status(), 200);
        send = send.ready().await.unwrap();
        let (third, _) = send.send_request(get(), true).unwrap();
        two.next().await.1.send_response(ok(), true).unwrap();
        assert_eq!(third.await.unwrap().status(), 200);
    });
}

#[test]
fn answers_of_the_gateway_are_said_in_grpc() {
    play(
        |model| {
            speak(UpstreamProtocol::Http2)(model);
            model.endpoints.clear();
        },
        false,
        |mut s| async move {
            s.send("POST / HTTP/1.1\r\nHost: a.b\r\nContent-Type: application/grpc+proto\r\nContent-Length: 0\r\n\r\n").await;
            let answer = s.read_until("\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\n"), "{answer}");
            assert_eq!(header(&answer, "grpc-status"), Some("14"));
            assert_eq!(header(&answer, "grpc-message"), Some("no healthy upstream"));
        },
    );
}

#[test]
fn a_slow_reader_holds_back_its_stream_alone() {
    upstream(true, |s| async move {
        let Stage { client, upstream, shutdown: _shutdown } = s;
        let mut send = connect(client).await;
        let get = || Request::get("http://a.b/").body(()).unwrap();
        let (slow, _) = send.send_request(get(), true).unwrap();
        let mut server = Server::accept(&upstream, 100).await;
        let (_, mut respond) = server.next().await;
        let mut flood = respond.send_response(ok(), false).unwrap();
        let _slow = slow.await.unwrap();
        let mut sent = 0;
        let flooding = async {
            loop {
                flood.reserve_capacity(16 << 10);
                let Some(Ok(n)) = std::future::poll_fn(|cx| flood.poll_capacity(cx)).await else { return };
                flood.send_data(vec![0; n].into(), false).unwrap();
                sent += n;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(200), flooding).await;
        assert!(sent < 1 << 20, "{sent} bytes were taken for a client that does not read");
        send = send.ready().await.unwrap();
        let (answer, _) = send.send_request(get(), true).unwrap();
        server.next().await.1.send_response(ok(), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
    });
}

#[test]
fn the_protocol_of_the_client_is_kept() {
    play(speak(UpstreamProtocol::Client), false, |mut s| async move {
        s.send(GET).await;
        assert!(s.accept().await.1.starts_with("GET / HTTP/1.1\r\n"));
    });
    play(speak(UpstreamProtocol::Client), true, |s| async move {
        let Stage { client, upstream, shutdown: _shutdown } = s;
        let mut send = connect(client).await;
        let (answer, _) = send.send_request(Request::get("http://a.b/").body(()).unwrap(), true).unwrap();
        let mut server = Server::accept(&upstream, 100).await;
        server.next().await.1.send_response(ok(), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
    });
}

#[test]
fn bodies_that_end_with_the_connection_are_put_in_chunks() {
    one(|mut s| async move {
        s.send(GET).await;
        let mut up = s.accept().await.0;
        up.write_all(b"HTTP/1.0 200 OK\r\n\r\nfirst").await.unwrap();
        let head = s.read_until("5\r\nfirst\r\n").await;
        assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
        assert_eq!(header(&head, "connection"), None);
        up.write_all(b"second").await.unwrap();
        assert_eq!(s.read_until("\r\n").await, "6\r\n");
        assert_eq!(s.read_until("\r\n").await, "second\r\n");
        drop(up);
        assert_eq!(s.read_until("\r\n\r\n").await, "0\r\n\r\n");
        // the client's connection goes on
        s.send(GET).await;
        s.accept().await.0.write_all(OK.as_bytes()).await.unwrap();
        assert!(s.read_until("ok").await.starts_with("HTTP/1.1 200 OK\r\n"));
    });
}

#[test]
fn streams_that_a_goaway_leaves_out_are_sent_again_and_the_others_end_well() {
    /// The next frame's type and stream.
    async fn frame(stream: &mut TcpStream) -> (u8, u8) {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        (head[3], head[8])
    }
    async fn headers(stream: &mut TcpStream, wanted: u8) {
        while frame(stream).await != (1, wanted) {}
    }
    upstream(true, |s| async move {
        let Stage { client, upstream, shutdown: _shutdown } = s;
        let mut send = connect(client).await;
        let (first, _) = send.send_request(Request::get("http://a.b/1").body(()).unwrap(), true).unwrap();
        let mut leaving = upstream.accept().await.unwrap().0;
        leaving.read_exact(&mut [0; 24]).await.unwrap();
        leaving.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        headers(&mut leaving, 1).await;
        send = send.ready().await.unwrap();
        let (second, mut upload) =
            send.send_request(Request::post("http://a.b/2").body(()).unwrap(), false).unwrap();
        upload.send_data("body".into(), true).unwrap();
        headers(&mut leaving, 3).await;
        // GOAWAY: 1 is the last stream that was looked at
        leaving.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]).await.unwrap();
        let mut server = Server::accept(&upstream, 100).await;
        let (mut request, mut respond) = server.next().await;
        assert_eq!(request.uri().path(), "/2");
        assert_eq!(text(request.body_mut()).await, b"body");
        respond.send_response(ok(), true).unwrap();
        assert_eq!(second.await.unwrap().status(), 200);
        // :status 200
        leaving.write_all(&[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88]).await.unwrap();
        assert_eq!(first.await.unwrap().status(), 200);
    });
}

#[test]
fn requests_beyond_what_an_upstream_takes_wait_for_their_turn() {
    upstream(true, |s| async move {
        let Stage { client, upstream, shutdown: _shutdown } = s;
        let mut send = connect(client).await;
        let mut answers = Vec::new();
        for _ in 0..40 {
            let get = Request::get("http://a.b/").body(()).unwrap();
            answers.push(send.send_request(get, true).unwrap().0);
            send = send.ready().await.unwrap();
        }
        // each connection takes one at a time, and there is a limit to connections too
        tokio::task::spawn_local(async move {
            loop {
                let mut server = Server::accept(&upstream, 1).await;
                tokio::task::spawn_local(async move {
                    loop {
                        let (_, mut respond) = server.next().await;
                        tokio::task::yield_now().await;
                        respond.send_response(ok(), true).unwrap();
                    }
                });
            }
        });
        for answer in answers {
            assert_eq!(answer.await.unwrap().status(), 200);
        }
    });
}

#[test]
fn a_connection_is_replaced_before_it_has_no_stream_ids_left() {
    crate::h2::TESTED_STREAM_IDS.set(2);
    upstream(false, |mut s| async move {
        let mut begun: Vec<Server> = Vec::new();
        for i in 0..5 {
            s.send(GET).await;
            if i % 2 == 0 {
                begun.push(Server::accept(&s.upstream, 100).await);
            }
            let (_, mut respond) = begun.last_mut().unwrap().next().await;
            respond.send_response(ok(), true).unwrap();
            assert!(s.read_until("\r\n\r\n").await.starts_with("HTTP/1.1 200 "), "request {i}");
        }
        assert_eq!(begun.len(), 3);
    });
}
