//! What one connection may do to the next request, and how long it may take.

use super::*;
use crate::forward::buffers::Work;
use pingora::protocols::l4::stream::Stream as L4Stream;

#[test]
fn a_refused_request_is_nobody_elses() {
    one(|mut s| async move {
        s.send("GET / HTTP/1.1\r\nHost: a.b\r\nX-Forwarded-For: 1.2.3.4\r\nConnection: close\r\n\r\n").await;
        let (mut up, head) = s.accept().await;
        up.write_all(OK.as_bytes()).await.unwrap();
        s.read_to_end().await;
        let w = Work::take();
        assert_eq!(w.identity.forwarded_for, b"1.2.3.4,127.0.0.1", "the buffers are used again");
        let id = header(&head, "x-request-id").unwrap().as_bytes();
        assert_eq!(w.identity.request_id, id);
        let (mut client, served) = tokio::io::duplex(4096);
        let (_shutdown, watch) = watch::channel(false);
        w.give_back();
        client.write_all(b"nonsense\r\n\r\n").await.unwrap();
        let worker = worker(&model(s.upstream.local_addr().unwrap()), limits());
        let serve = h1::serve(Box::new(served), connection(), worker, watch);
        let mut answer = String::new();
        tokio::join!(serve, async { client.read_to_string(&mut answer).await.unwrap() });
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        let w = Work::take();
        assert_eq!(w.identity.forwarded_for, b"127.0.0.1");
        assert_ne!(w.identity.request_id, id);
    });
}

#[test]
fn a_refused_head_is_answered_without_a_body() {
    for (text, has_body) in [
        ("GET / HTTP/1.1\r\n\r\n", true),
        ("HEAD / HTTP/1.1\r\n\r\n", false),
        ("\r\nHEAD / HTTP/1.1\r\nHost: a b\r\n\r\n", false),
        ("HEADS / HTTP/1.1\r\n\r\n", true),
    ] {
        one(|mut s| async move {
            s.send(text).await;
            let answer = s.read_to_end().await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{text:?}: {answer}");
            assert_eq!(!answer.ends_with("\r\n\r\n"), has_body, "{text:?}: {answer}");
            assert_ne!(header(&answer, "content-length"), Some("0"), "{text:?}");
        });
    }
}

#[test]
fn a_client_that_sends_all_before_it_reads_gets_an_early_answer() {
    one(|mut s| async move {
        let body = "x".repeat(4 << 20);
        let head = format!("POST /%00 HTTP/1.1\r\nHost: a.b\r\nContent-Length: {}\r\n\r\n", body.len());
        s.send(&head).await;
        s.send(&body).await;
        s.client.shutdown().await.unwrap();
        assert!(s.read_to_end().await.starts_with("HTTP/1.1 400 "));
    });
}

#[test]
fn after_an_interim_response_nothing_is_sent_again() {
    one(|mut s| async move {
        s.send(GET).await;
        let (mut up, _) = s.accept().await;
        up.write_all(OK.as_bytes()).await.unwrap();
        s.read_until("ok").await;
        s.send(GET).await;
        read_until(&mut up, "\r\n\r\n").await;
        up.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").await.unwrap();
        s.read_until("\r\n\r\n").await;
        drop(up);
        assert!(s.read_until("reset reason: connection termination").await.starts_with("HTTP/1.1 503 "));
    });
}

#[test]
fn a_101_before_the_end_of_the_request_is_no_upgrade() {
    one(|mut s| async move {
        s.send("POST / HTTP/1.1\r\nHost: a.b\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nab")
            .await;
        let (mut up, _) = s.accept().await;
        up.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        )
        .await
        .unwrap();
        assert!(s.read_until("reset reason: protocol error").await.starts_with("HTTP/1.1 502 "));
    });
}

#[test]
fn the_timeout_begins_with_the_end_of_the_request() {
    let timeout = |m: &mut Model| change(m, "*", |f| f.timeout = Some(Duration::from_millis(100)));
    let head = "POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 4\r\n\r\n";
    for answers in [true, false] {
        play(timeout, false, |mut s| async move {
            s.send(head).await;
            let (mut up, _) = s.accept().await;
            for piece in ["ab", "cd"] {
                tokio::time::sleep(Duration::from_millis(150)).await;
                s.send(piece).await;
                assert_eq!(read_until(&mut up, piece).await, piece);
            }
            if answers {
                up.write_all(OK.as_bytes()).await.unwrap();
                s.read_until("\r\n\r\nok").await;
            } else {
                let began = std::time::Instant::now();
                assert!(s.read_until("request timeout").await.starts_with("HTTP/1.1 504 "));
                assert!(began.elapsed() < Duration::from_millis(400), "the idle limit ended it");
            }
        });
    }
}

#[test]
fn a_tunnel_outlives_the_timeout() {
    let timeout = |m: &mut Model| change(m, "*", |f| f.timeout = Some(Duration::from_millis(100)));
    play(timeout, false, |mut s| async move {
        let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        s.send(&format!("GET / HTTP/1.1\r\nHost: a.b\r\n{upgrade}")).await;
        let (mut up, _) = s.accept().await;
        up.write_all(format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}").as_bytes()).await.unwrap();
        s.read_until("\r\n\r\n").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        s.send("ping").await;
        assert_eq!(read_until(&mut up, "ping").await, "ping");
    });
}

#[test]
fn a_client_that_reads_no_interim_response_is_given_up() {
    one(|mut s| async move {
        s.send(GET).await;
        let (mut up, _) = s.accept().await;
        let hints = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "x".repeat(50 << 10));
        for _ in 0..16 {
            let _ = up.write_all(hints.as_bytes()).await;
        }
        assert_eq!(up.read(&mut [0]).await.unwrap_or(0), 0);
    });
}

#[test]
fn an_authority_made_of_a_header_must_be_one() {
    let authority = |m: &mut Model| {
        change(m, "*", |f| f.destinations[0].authority = Some(FormatString::parse("%REQ(X-To)%").unwrap()));
    };
    for bad in ["a/b", "u@a", "a b"] {
        play(authority, false, |mut s| async move {
            s.send(&format!("GET / HTTP/1.1\r\nHost: a.b\r\nX-To: {bad}\r\n\r\n")).await;
            assert!(s.read_to_end().await.starts_with("HTTP/1.1 400 "), "{bad}");
        });
    }
    play(authority, false, |mut s| async move {
        s.send("GET / HTTP/1.1\r\nHost: a.b\r\nX-To: c.d:81\r\n\r\n").await;
        assert!(s.accept().await.1.contains("\r\nhost: c.d:81\r\n"));
    });
}

#[test]
fn a_client_that_leaves_is_noticed_behind_requests_that_wait() {
    one(|mut s| async move {
        s.send(GET).await;
        let (mut up, _) = s.accept().await;
        s.send(&GET.repeat(1000)).await;
        drop(s.client);
        let noticed = tokio::time::timeout(Duration::from_millis(300), up.read(&mut [0])).await;
        assert_eq!(noticed.expect("not before the idle limit").unwrap(), 0);
    });
}

#[test]
fn a_response_without_length_that_is_cut_off_does_not_look_whole() {
    for cut in [true, false] {
        one(|s| async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let served = L4Stream::from(listener.accept().await.unwrap().0);
            let (_shutdown, watch) = watch::channel(false);
            let worker = worker(&model(s.upstream.local_addr().unwrap()), limits());
            let serve = h1::serve(Box::new(served), connection(), worker, watch);
            let act = async {
                // of HTTP/1.1 it would be told by the last chunk
                client.write_all(GET.replace("HTTP/1.1", "HTTP/1.0").as_bytes()).await.unwrap();
                let (mut up, _) = s.accept().await;
                up.write_all(b"HTTP/1.1 200 OK\r\n\r\nsome").await.unwrap();
                read_until(&mut client, "some").await;
                if cut {
                    socket2::SockRef::from(&up).set_linger(Some(Duration::ZERO)).unwrap();
                }
                drop(up);
                client.read(&mut [0]).await.map_err(|e| e.kind())
            };
            let expected = if cut { Err(std::io::ErrorKind::ConnectionReset) } else { Ok(0) };
            assert_eq!(tokio::join!(serve, act).1, expected);
        });
    }
}
