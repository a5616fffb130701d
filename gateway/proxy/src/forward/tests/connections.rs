//! What one connection may do to the next request, and how long it may take.

use super::*;
use crate::forward::buffers::Work;

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
        assert!(s.read_until("before headers").await.starts_with("HTTP/1.1 503 "));
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
        assert!(s.read_until("before headers").await.starts_with("HTTP/1.1 502 "));
    });
}
