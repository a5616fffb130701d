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
            !answer.headers().contains_key("transfer-encoding") && !answer.headers().contains_key("x-hop")
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
        while let Some(data) = body.data().await {
            assert!(data.unwrap().is_empty());
        }
        assert!(body.trailers().await.unwrap().is_none());
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
            (400, Request::head("http://a.b/").header("host", "c.d")),
            (400, Request::get("http://a.b/%00")),
            (431, (0..130).fold(Request::get("http://a.b/"), |r, i| r.header(format!("x-{i}"), "y"))),
        ] {
            let request = request.body(()).unwrap();
            let to_head = request.method() == ::http::Method::HEAD;
            let (answer, _) = send.send_request(request, true).unwrap();
            let answer = answer.await.unwrap();
            assert_eq!(
                (answer.status(), answer.body().is_end_stream()),
                (status.try_into().unwrap(), to_head)
            );
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

/// A frame's bytes.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// POST http a.b /, content-length: 0
const EMPTY_POST: &[u8] = b"\x83\x86\x84\x01\x03a.b\x0f\x0d\x010";

#[test]
fn a_header_block_that_never_ends_is_cut() {
    two(|mut s| async move {
        let began = std::time::Instant::now();
        let bytes = [PREFACE, &frame(4, 0, 0, &[]), &frame(1, 0, 1, &[0x82])].concat();
        s.client.write_all(&bytes).await.unwrap();
        s.client.read_to_end(&mut Vec::new()).await.unwrap();
        let took = began.elapsed();
        assert!(took >= limits().head_time && took < 2 * limits().head_time, "{took:?}");
    });
}

#[test]
fn a_preface_without_settings_is_refused() {
    two(|mut s| async move {
        let bytes = [PREFACE, &frame(1, 5, 1, EMPTY_POST)].concat();
        s.client.write_all(&bytes).await.unwrap();
        s.client.read_to_end(&mut Vec::new()).await.unwrap();
        let nobody = tokio::time::timeout(Duration::from_millis(30), s.upstream.accept()).await;
        assert!(nobody.is_err());
    });
}

#[test]
fn a_body_that_was_announced_empty_is_not_passed_on() {
    two(|mut s| async move {
        let headers = frame(1, 4, 1, EMPTY_POST);
        let data = frame(0, 1, 1, b"smuggled");
        s.client.write_all(&[PREFACE, &frame(4, 0, 0, &[]), &headers].concat()).await.unwrap();
        let quiet = Duration::from_millis(30);
        assert!(tokio::time::timeout(quiet, s.upstream.accept()).await.is_err());
        s.client.write_all(&data).await.unwrap();
        assert!(tokio::time::timeout(quiet, s.upstream.accept()).await.is_err());
        // the same with nothing in it is a request like any other
        s.client.write_all(&[frame(1, 4, 3, EMPTY_POST), frame(0, 1, 3, b"")].concat()).await.unwrap();
        assert!(s.accept().await.1.starts_with("POST / HTTP/1.1\r\nhost: a.b\r\n"));
    });
}

#[test]
fn a_stream_that_ends_with_its_head_has_a_length_in_http1() {
    play(
        |_| {},
        true,
        |s| async move {
            let Stage { client, upstream, shutdown: _shutdown } = s;
            let mut send = connect(client).await;
            for (method, ends, length) in [
                ("POST", true, Some("0")),
                ("POST", false, None),
                ("GET", true, None),
                ("DELETE", true, None),
            ] {
                let request = Request::builder().method(method).uri("http://a.b/").body(()).unwrap();
                let (answer, mut body) = send.send_request(request, ends).unwrap();
                if !ends {
                    body.send_data(Default::default(), true).unwrap();
                }
                let mut up = upstream.accept().await.unwrap().0;
                let head = read_until(&mut up, "\r\n\r\n").await;
                assert_eq!(header(&head, "content-length"), length, "{head}");
                assert_eq!(header(&head, "transfer-encoding").is_some(), !ends, "{head}");
                up.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await.unwrap();
                assert_eq!(answer.await.unwrap().status(), 204);
            }
        },
    );
}
