//! Faults, and CORS on the answers of the gateway itself.

use super::*;
use std::sync::Arc;
use std::time::Instant;
use tidegate_model::{Abort, AbortStatus, Delay, Share};

const GRPC: &str =
    "POST /s/m HTTP/1.1\r\nHost: a.b\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";

fn abort(status: AbortStatus) -> impl Fn(&mut Model) {
    move |m| change(m, "*", |f| f.fault.abort = Some(Abort { status, share: Share::all() }))
}

fn delay(time: u64) -> impl Fn(&mut Model) {
    let duration = Duration::from_millis(time);
    move |m| change(m, "*", |f| f.fault.delay = Some(Delay { duration, share: Share::all() }))
}

#[test]
fn aborts_are_said_in_the_clients_protocol() {
    for (status, request, line, grpc) in [
        (AbortStatus::Http(418), GET, "HTTP/1.1 418 ", None),
        (AbortStatus::Grpc(8), GET, "HTTP/1.1 200 ", None),
        (AbortStatus::Http(503), GRPC, "HTTP/1.1 200 ", Some("14")),
        (AbortStatus::Grpc(8), GRPC, "HTTP/1.1 200 ", Some("8")),
    ] {
        play(abort(status), false, |mut s| async move {
            s.send(request).await;
            let end = if grpc.is_some() { "\r\n\r\n" } else { "fault filter abort" };
            let answer = s.read_until(end).await;
            assert!(answer.starts_with(line), "{answer}");
            assert_eq!(header(&answer, "grpc-status"), grpc, "{answer}");
        });
    }
}

#[test]
fn a_delay_is_neither_idleness_nor_part_of_the_timeout() {
    let model = |m: &mut Model| {
        // longer than the idle limit and than the timeout
        delay(700)(m);
        change(m, "*", |f| f.timeout = Some(Duration::from_millis(400)));
    };
    play(model, false, |mut s| async move {
        let began = Instant::now();
        s.send(GET).await;
        let (mut up, _) = s.accept().await;
        assert!(began.elapsed() >= Duration::from_millis(700));
        up.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        assert!(s.read_until("ok").await.starts_with("HTTP/1.1 200 "));
    });
}

#[test]
fn a_client_that_leaves_while_it_is_delayed_is_never_sent_on() {
    play(delay(60_000), false, |mut s| async move {
        s.send(GET).await;
        drop(s.client);
        let sent = tokio::time::timeout(Duration::from_millis(300), s.upstream.accept()).await;
        assert!(sent.is_err());
    });
}

#[test]
fn pages_of_other_origins_may_read_every_answer() {
    let model = |m: &mut Model| {
        let cors = tidegate_model::Cors {
            allow_origins: vec![tidegate_model::StringMatch::Exact("https://page".into())],
            preflight_headers: vec![set("access-control-allow-origin", "%REQ(ORIGIN)%")],
            unmatched_headers: None,
            response_headers: vec![set("access-control-allow-origin", "%REQ(ORIGIN)%")],
        };
        for host in m.virtual_hosts.values_mut() {
            for route in &mut Arc::make_mut(host).routes {
                Arc::make_mut(route).cors = Some(Arc::new(cors.clone()));
            }
        }
        change(m, "*", |f| {
            f.destinations[0].response_headers =
                vec![set("access-control-allow-origin", "rule"), set("x-a", "1")];
        });
    };
    let origin = Some("https://page");
    play(model, false, |mut s| async move {
        let get = GET.replace("\r\n\r\n", "\r\nOrigin: https://page\r\n\r\n");
        s.send(&get).await;
        let (mut up, _) = s.accept().await;
        let answer = b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 2\r\n\r\nok";
        up.write_all(answer).await.unwrap();
        let answer = s.read_until("ok").await;
        assert_eq!(
            (header(&answer, "access-control-allow-origin"), header(&answer, "x-a")),
            (origin, Some("1"))
        );
        assert_eq!(answer.to_ascii_lowercase().matches("allow-origin").count(), 1, "{answer}");
        drop(up);
        s.send(&get).await;
        drop(s.accept().await);
        let answer = s.read_until("reset reason: connection termination").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert_eq!(header(&answer, "access-control-allow-origin"), origin);
    });
    play(model, false, |mut s| async move {
        s.send("OPTIONS / HTTP/1.1\r\nHost: a.b\r\nOrigin: https://page\r\nAccess-Control-Request-Method: PUT\r\n\r\n")
            .await;
        let answer = s.read_until("\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(header(&answer, "access-control-allow-origin"), origin);
    });
}
