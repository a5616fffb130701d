//! What one client may do to the gateway: how large, how many, how slow; and what happens where there is too much of all.

use super::http2_upstream::connect;
use super::*;
use ::h2::Reason;
use bytes::Bytes;
use http::Request;
use std::future::poll_fn;

fn with_body(most: u64) -> Limits {
    Limits { request_body: Some(most), ..limits() }
}

fn nothing(_: &mut Model) {}

/// Nobody has connected to the upstream.
async fn nobody_came(upstream: &TcpListener) {
    let quiet = Duration::from_millis(30);
    assert!(tokio::time::timeout(quiet, upstream.accept()).await.is_err(), "the upstream was asked");
}

#[test]
fn a_body_that_says_that_it_is_too_large_goes_nowhere() {
    for (length, passes) in [(8, true), (9, false)] {
        play_within(with_body(8), nothing, false, |mut s| async move {
            let head = "POST / HTTP/1.1\r\nHost: a.b\r\nExpect: 100-continue\r\nContent-Length:";
            s.send(&format!("{head} {length}\r\n\r\n")).await;
            if passes {
                s.accept().await;
                return;
            }
            let answer = s.read_to_end().await;
            assert!(answer.starts_with("HTTP/1.1 413 Payload Too Large\r\n"), "{answer}");
            assert!(answer.contains("connection: close\r\n"), "{answer}");
            nobody_came(&s.upstream).await;
        });
        play_within(with_body(8), nothing, true, |s| async move {
            let Stage { client, upstream, shutdown: _shutdown } = s;
            let mut send = connect(client).await;
            for (kind, status) in [("text/plain", 413), ("application/grpc", 200)] {
                let request = Request::post("http://a.b/").header("content-length", length);
                let request = request.header("content-type", kind).body(()).unwrap();
                let (answer, _stream) = send.send_request(request, false).unwrap();
                if passes {
                    upstream.accept().await.unwrap();
                    continue;
                }
                let answer = answer.await.unwrap();
                assert_eq!(answer.status(), status);
                // RESOURCE_EXHAUSTED
                let grpc = answer.headers().get("grpc-status").map(|s| s.to_str().unwrap());
                assert_eq!(grpc, (status == 200).then_some("8"));
            }
            if !passes {
                nobody_came(&upstream).await;
            }
        });
    }
}

#[test]
fn a_body_that_turns_out_too_large_is_cut_off() {
    // what comes with the head counts at once
    play_within(with_body(8), nothing, false, |mut s| async move {
        s.send("POST / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n123456789\r\n").await;
        assert!(s.read_to_end().await.starts_with("HTTP/1.1 413 "));
        nobody_came(&s.upstream).await;
    });
    for answers in [false, true] {
        play_within(with_body(8), nothing, false, |mut s| async move {
            s.send("POST / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n")
                .await;
            let (mut up, _) = s.accept().await;
            read_until(&mut up, "12345678\r\n").await;
            if answers {
                up.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegun").await.unwrap();
                s.read_until("begun").await;
            }
            s.send("1\r\n9\r\n0\r\n\r\n").await;
            let rest = s.read_to_end().await;
            assert!(if answers { rest.is_empty() } else { rest.starts_with("HTTP/1.1 413 ") }, "{rest}");
            assert_eq!(up.read(&mut [0]).await.unwrap_or(0), 0, "the upstream is let go");
        });
        play_within(with_body(8), nothing, true, |s| async move {
            let Stage { client, upstream, shutdown: _shutdown } = s;
            let mut send = connect(client).await;
            let request = Request::post("http://a.b/").body(()).unwrap();
            let (answer, mut stream) = send.send_request(request, false).unwrap();
            stream.send_data(Bytes::from_static(b"12345678"), false).unwrap();
            let mut up = upstream.accept().await.unwrap().0;
            read_until(&mut up, "12345678\r\n").await;
            if answers {
                up.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegun").await.unwrap();
                let mut body = answer.await.unwrap().into_body();
                assert_eq!(body.data().await.unwrap().unwrap(), "begun");
                stream.send_data(Bytes::from_static(b"9"), false).unwrap();
                assert!(body.data().await.unwrap().is_err(), "the stream is reset");
            } else {
                stream.send_data(Bytes::from_static(b"9"), false).unwrap();
                assert_eq!(answer.await.unwrap().status(), 413);
                assert_eq!(poll_fn(|cx| stream.poll_reset(cx)).await.unwrap(), Reason::NO_ERROR);
            }
            assert_eq!(up.read(&mut [0]).await.unwrap_or(0), 0, "the upstream is let go");
        });
    }
}

#[test]
fn a_connection_has_so_many_requests() {
    let two = || Limits { connection_requests: Some(2), ..limits() };
    play_within(two(), nothing, false, |mut s| async move {
        s.send(&GET.repeat(3)).await;
        let (mut up, _) = s.accept().await;
        up.write_all(OK.as_bytes()).await.unwrap();
        assert!(!s.read_until("\r\n\r\nok").await.contains("connection: close"));
        read_until(&mut up, "\r\n\r\n").await;
        up.write_all(OK.as_bytes()).await.unwrap();
        let answer = s.read_to_end().await;
        assert!(answer.contains("connection: close\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
    });
    // nothing is lost of what the client asked for before it heard
    play_within(two(), nothing, true, |s| async move {
        let Stage { client, upstream, shutdown: _shutdown } = s;
        let mut send = connect(client).await;
        let mut answers = Vec::new();
        for _ in 0..4 {
            send = send.ready().await.unwrap();
            answers.push(send.send_request(Request::get("http://a.b/").body(()).unwrap(), true).unwrap().0);
        }
        for _ in 0..4 {
            let mut up = upstream.accept().await.unwrap().0;
            read_until(&mut up, "\r\n\r\n").await;
            up.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
                .await
                .unwrap();
        }
        for answer in answers {
            assert_eq!(answer.await.unwrap().status(), 200);
        }
        assert!(send.ready().await.is_err(), "no more may be asked");
    });
}

#[test]
fn too_much_memory_sheds_requests_and_their_connections() {
    let shed = || PLAYED.with_borrow(|worker| worker.as_ref().unwrap().overload.shed_everything());
    play(nothing, false, |mut s| async move {
        shed();
        s.send(&format!("POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 3\r\n\r\nabc{GET}")).await;
        let answer = s.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("connection: close\r\n"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1);
        nobody_came(&s.upstream).await;
    });
    play(nothing, true, |s| async move {
        let Stage { client, upstream, shutdown: _shutdown } = s;
        let mut send = connect(client).await;
        shed();
        let answer = send.send_request(Request::get("http://a.b/").body(()).unwrap(), true).unwrap().0;
        assert_eq!(answer.await.unwrap().status(), 503);
        nobody_came(&upstream).await;
    });
}

#[test]
fn idle_connections_make_room_and_busy_ones_stay() {
    let patient = || Limits { keep_alive_idle: Duration::from_secs(600), ..limits() };
    let dismiss = || PLAYED.with_borrow(|worker| worker.as_ref().unwrap().resting.dismiss(9));
    play_within(patient(), nothing, false, |mut s| async move {
        s.send(GET).await;
        let (mut up, _) = s.accept().await;
        assert_eq!(dismiss(), 0);
        up.write_all(OK.as_bytes()).await.unwrap();
        s.read_until("ok").await;
        while dismiss() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(s.read_to_end().await, "");
    });
    play_within(patient(), nothing, true, |s| async move {
        let Stage { client, upstream, shutdown: _shutdown } = s;
        let send = connect(client).await;
        let answer =
            send.clone().send_request(Request::get("http://a.b/").body(()).unwrap(), true).unwrap().0;
        let mut up = upstream.accept().await.unwrap().0;
        assert_eq!(dismiss(), 0);
        read_until(&mut up, "\r\n\r\n").await;
        up.write_all(OK.as_bytes()).await.unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
        while dismiss() == 0 {
            tokio::task::yield_now().await;
        }
        while send.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
}

/// Soon too slow, while standing still is allowed for long.
fn hurried() -> Limits {
    Limits {
        min_rate: 1000,
        slow_request: Duration::from_millis(100),
        slow_response: Duration::from_millis(100),
        request_idle: Duration::from_secs(600),
        ..limits()
    }
}

/// Longer than a slow client is waited for.
const LONG: Duration = Duration::from_millis(600);

#[test]
fn a_body_that_trickles_in_is_given_up() {
    play_within(hurried(), nothing, false, |mut s| async move {
        s.send("POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 99999\r\n\r\n").await;
        let (mut up, _) = s.accept().await;
        let (mut from, mut to) = tokio::io::split(&mut s.client);
        let trickle = async {
            while to.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answer = read_until(&mut from, "Request Timeout") => assert!(answer.starts_with("HTTP/1.1 408 ")),
            () = trickle => {}
        }
        while up.read(&mut [0; 99]).await.is_ok_and(|n| n > 0) {}
    });
    play_within(hurried(), nothing, true, |s| async move {
        let Stage { client, upstream, shutdown: _shutdown } = s;
        let mut send = connect(client).await;
        let request = Request::post("http://a.b/").header("content-length", 99_999).body(()).unwrap();
        let (answer, mut stream) = send.send_request(request, false).unwrap();
        stream.send_data(Bytes::from_static(b"x"), false).unwrap();
        let (_up, answer) = tokio::join!(upstream.accept(), answer);
        assert_eq!(answer.unwrap().status(), 408);
    });
}

#[test]
fn who_has_nothing_to_send_is_not_slow() {
    let head = "POST / HTTP/1.1\r\nHost: a.b\r\n";
    // a stream of messages; a client that waits for 100; an upstream that takes its time
    for (fields, then) in [
        ("Transfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n0\r\n\r\n"),
        ("Content-Length: 1\r\nExpect: 100-continue\r\n\r\n", "x"),
        ("Content-Length: 1\r\n\r\nx", ""),
    ] {
        play_within(hurried(), nothing, false, |mut s| async move {
            s.send(&format!("{head}{fields}")).await;
            let (mut up, _) = s.accept().await;
            tokio::time::sleep(LONG).await;
            s.send(then).await;
            read_until(&mut up, if then.is_empty() { "x" } else { then }).await;
            up.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await.unwrap();
            s.read_until("\r\n\r\n").await;
            tokio::time::sleep(LONG).await;
            up.write_all(b"ok").await.unwrap();
            s.read_until("ok").await;
        });
    }
}

#[test]
fn a_stream_whose_answer_is_not_taken_is_reset() {
    play_within(hurried(), nothing, true, |s| async move {
        let Stage { client, upstream, shutdown: _shutdown } = s;
        let mut send = connect(client).await;
        let (answer, mut stream) =
            send.send_request(Request::get("http://a.b/").body(()).unwrap(), true).unwrap();
        let mut up = upstream.accept().await.unwrap().0;
        read_until(&mut up, "\r\n\r\n").await;
        up.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await.unwrap();
        let _body = answer.await.unwrap();
        let flood = async { while up.write_all(&[0; 4096]).await.is_ok() {} };
        let reset = poll_fn(|cx| stream.poll_reset(cx));
        let ((), reset) = tokio::join!(flood, reset);
        assert_eq!(reset.unwrap(), Reason::CANCEL);
    });
}
