//! What is tried again, with what, and when time is up.

use super::super::testing::retries;
use super::http2_upstream::{Server, connect, speak};
use super::*;
use http::Response;
use std::sync::Arc;
use tidegate_model::{
    Address, ConsistentHash, HashKey, HashTable, LoadBalancer, RetryCondition, RetryPolicy, UpstreamProtocol,
};

const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno";

/// Gives the rule this policy.
fn policy(on: &'static [RetryCondition], edit: fn(&mut RetryPolicy)) -> impl FnOnce(&mut Model) {
    move |model| {
        change(model, "*", |f| {
            f.retries = retries(on);
            f.retries.iter_mut().for_each(edit);
        })
    }
}

fn on(conditions: &'static [RetryCondition]) -> impl FnOnce(&mut Model) {
    policy(conditions, |_| {})
}

#[test]
fn a_status_is_tried_again_with_the_body_on_the_same_connection() {
    play(on(&[RetryCondition::ServerError]), false, |mut s| async move {
        s.send("POST /a HTTP/1.1\r\nHost: a.b\r\nContent-Length: 4\r\n\r\nbody").await;
        let (mut up, head) = s.accept().await;
        assert_eq!(header(&head, "x-envoy-attempt-count"), Some("1"));
        assert_eq!(header(&head, "x-envoy-expected-rq-timeout-ms"), None);
        for attempt in ["2", "3"] {
            assert_eq!(read_until(&mut up, "body").await, "body");
            up.write_all(UNAVAILABLE.as_bytes()).await.unwrap();
            let head = read_until(&mut up, "\r\n\r\n").await;
            assert!(head.starts_with("POST /a HTTP/1.1\r\n"), "{head}");
            assert_eq!(header(&head, "x-envoy-attempt-count"), Some(attempt));
        }
        read_until(&mut up, "body").await;
        up.write_all(OK.as_bytes()).await.unwrap();
        assert!(s.read_until("ok").await.starts_with("HTTP/1.1 200 OK\r\n"));
        // when all have failed, the last answer is the one
        s.send(GET).await;
        for _ in 0..3 {
            read_until(&mut up, "\r\n\r\n").await;
            up.write_all(UNAVAILABLE.as_bytes()).await.unwrap();
        }
        assert!(s.read_until("\r\n\r\nno").await.starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
        // a status that is no failure is not tried again
        s.send(GET).await;
        read_until(&mut up, "\r\n\r\n").await;
        up.write_all(b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
        assert!(s.read_until("\r\n\r\nno").await.starts_with("HTTP/1.1 404 No\r\n"));
    });
}

#[test]
fn a_body_that_comes_in_pieces_is_kept_and_goes_on_with_the_next_try() {
    play(on(&[RetryCondition::Reset]), false, |mut s| async move {
        s.send("POST / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
        let (mut up, _) = s.accept().await;
        read_until(&mut up, "abc\r\n").await;
        s.send("2\r\nde\r\n").await;
        read_until(&mut up, "de\r\n").await;
        drop(up);
        let (mut up, _) = s.accept().await;
        assert_eq!(read_until(&mut up, "de\r\n").await, "3\r\nabc\r\n2\r\nde\r\n");
        s.send("1\r\nf\r\n0\r\n\r\n").await;
        assert_eq!(read_until(&mut up, "0\r\n\r\n").await, "1\r\nf\r\n0\r\n\r\n");
        up.write_all(OK.as_bytes()).await.unwrap();
        s.read_until("ok").await;
    });
}

#[test]
fn a_body_that_is_too_large_is_sent_once() {
    play(on(&[RetryCondition::ServerError]), false, |mut s| async move {
        let size = limits().retry_body + 10;
        for framing in ["Content-Length", "Transfer-Encoding"] {
            let (value, body) = match framing {
                "Content-Length" => (size.to_string(), "x".repeat(size - 1) + "!"),
                _ => ("chunked".to_owned(), format!("{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size))),
            };
            let end = &body[body.len() - 7..];
            s.send(&format!("POST / HTTP/1.1\r\nHost: a.b\r\n{framing}: {value}\r\n\r\n")).await;
            let (mut up, _) = s.accept().await;
            s.send(&body).await;
            assert_eq!(read_until(&mut up, end).await, body);
            up.write_all(UNAVAILABLE.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes())
                .await
                .unwrap();
            assert!(s.read_until("\r\n\r\nno").await.starts_with("HTTP/1.1 503 "), "{framing}");
        }
    });
}

/// Gives clusters a second endpoint, that nobody listens on.
fn and_one_that_is_gone(model: &mut Model) {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for set in model.endpoints.values_mut() {
        let endpoints = &mut Arc::make_mut(set).endpoints;
        let mut other = endpoints[0].clone();
        other.address = Address::Socket(gone);
        endpoints.push(other);
    }
}

#[test]
fn a_key_keeps_its_endpoint_unless_previous_ones_are_to_be_avoided() {
    const KEYS: usize = 60;
    let policies: [fn(&mut RetryPolicy); 3] =
        [|_| {}, |p| p.avoid_previous_hosts = Some(false), |p| p.avoid_previous_hosts = Some(true)];
    for (i, edit) in policies.into_iter().enumerate() {
        let hashed = move |model: &mut Model| {
            policy(&[RetryCondition::ConnectFailure], edit)(model);
            and_one_that_is_gone(model);
            for cluster in model.clusters.values_mut() {
                let key = HashKey::Header(HeaderName::new("x-key"));
                let table = HashTable::Ring { minimum: 1024 };
                let hash = ConsistentHash { key, table };
                Arc::make_mut(cluster).load_balancer = LoadBalancer::ConsistentHash(hash);
            }
        };
        play(hashed, false, |mut s| async move {
            let upstream =
                std::mem::replace(&mut s.upstream, TcpListener::bind("127.0.0.1:0").await.unwrap());
            let answering = tokio::task::spawn_local(async move {
                loop {
                    let (mut up, _) = upstream.accept().await.unwrap();
                    read_until(&mut up, "\r\n\r\n").await;
                    up.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
                        .await
                        .unwrap();
                }
            });
            let mut served = 0;
            for key in 0..KEYS {
                s.send(&format!("GET / HTTP/1.1\r\nHost: a.b\r\nx-key: {key}\r\n\r\n")).await;
                let head = s.read_until("\r\n\r\n").await;
                let length = header(&head, "content-length").unwrap().parse().unwrap();
                s.client.read_exact(&mut vec![0; length]).await.unwrap();
                served += usize::from(head.starts_with("HTTP/1.1 200 "));
            }
            match i {
                2 => assert_eq!(served, KEYS),
                _ => assert!((1..KEYS).contains(&served), "{served}"),
            }
            answering.abort();
        });
    }
}

#[test]
fn another_endpoint_is_tried_first() {
    let two = |model: &mut Model| {
        on(&[RetryCondition::ConnectFailure])(model);
        and_one_that_is_gone(model);
    };
    play(two, false, |mut s| async move {
        for _ in 0..6 {
            s.send("POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 1\r\n\r\nx").await;
            let (mut up, _) = s.accept().await;
            read_until(&mut up, "x").await;
            up.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
                .await
                .unwrap();
            assert!(s.read_until("ok").await.starts_with("HTTP/1.1 200 OK\r\n"));
        }
    });
}

#[test]
fn nothing_is_tried_again_once_the_client_has_heard() {
    play(on(&[RetryCondition::ServerError]), false, |mut s| async move {
        s.send("GET / HTTP/1.1\r\nHost: a.b\r\n\r\n").await;
        let (mut up, _) = s.accept().await;
        up.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n").await.unwrap();
        s.read_until("\r\n\r\n").await;
        drop(up);
        assert!(s.read_until("reset reason: connection termination").await.starts_with("HTTP/1.1 503 "));
    });
}

#[test]
fn the_time_for_a_try_is_not_that_for_the_whole() {
    let slow = policy(&[RetryCondition::Reset], |p| {
        p.attempts = 1;
        p.per_try_timeout = Some(Duration::from_millis(60));
    });
    play(slow, false, |mut s| async move {
        s.send(GET).await;
        let (_first, head) = s.accept().await;
        assert_eq!(header(&head, "x-envoy-expected-rq-timeout-ms"), Some("60"));
        let (mut up, _) = s.accept().await;
        up.write_all(OK.as_bytes()).await.unwrap();
        assert!(s.read_until("ok").await.starts_with("HTTP/1.1 200 OK\r\n"));
        // one retry is all: the time of the second is up too
        s.send(GET).await;
        let answer = s.read_until("request timeout").await;
        assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    });
    // the wait before a retry counts
    let patient = |model: &mut Model| {
        policy(&[RetryCondition::ServerError], |p| {
            p.backoff = Duration::from_secs(3600);
            p.max_backoff = Duration::from_secs(3600);
        })(model);
        change(model, "*", |f| f.timeout = Some(Duration::from_millis(60)));
    };
    play(patient, false, |mut s| async move {
        s.send(GET).await;
        let (mut up, _) = s.accept().await;
        up.write_all(UNAVAILABLE.as_bytes()).await.unwrap();
        assert!(s.read_until("request timeout").await.starts_with("HTTP/1.1 504 "));
    });
}

#[test]
fn time_counts_from_the_end_of_the_request_even_while_nobody_takes_it() {
    let timeout = |model: &mut Model| {
        change(model, "*", |f| f.timeout = Some(Duration::from_millis(100)));
        // nobody answers there
        for set in model.endpoints.values_mut() {
            Arc::make_mut(set).endpoints[0].address = Address::Socket("192.0.2.1:9".parse().unwrap());
        }
        for cluster in model.clusters.values_mut() {
            Arc::make_mut(cluster).connect_timeout = Duration::from_secs(60);
        }
    };
    play(timeout, false, |mut s| async move {
        s.send("POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 1\r\n\r\n").await;
        s.send("x").await;
        let answer = s.read_until("\r\n\r\n").await;
        // a network that says at once that there is no way is an answer too
        assert!(answer.starts_with("HTTP/1.1 504 ") || answer.starts_with("HTTP/1.1 503 "), "{answer}");
    });
}

#[test]
fn a_response_that_never_stops_ends_with_the_time() {
    let timeout = |m: &mut Model| change(m, "*", |f| f.timeout = Some(Duration::from_millis(100)));
    play(timeout, false, |mut s| async move {
        s.send(GET).await;
        let (mut up, _) = s.accept().await;
        up.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        let pouring = tokio::task::spawn_local(async move {
            let chunk = format!("2000\r\n{}\r\n", "x".repeat(0x2000));
            while up.write_all(chunk.as_bytes()).await.is_ok() {}
        });
        let answer = s.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && !answer.ends_with("0\r\n\r\n"));
        pouring.await.unwrap();
    });
}

#[test]
fn a_status_of_grpc_in_the_head_is_tried_again() {
    let grpc = |model: &mut Model| {
        speak(UpstreamProtocol::Http2)(model);
        on(&[RetryCondition::Unavailable])(model);
        change(model, "*", |f| f.timeout = Some(Duration::from_secs(60)));
    };
    play(grpc, false, |mut s| async move {
        s.send(
            "POST / HTTP/1.1\r\nHost: a.b\r\nContent-Type: application/grpc\r\ngrpc-timeout: 2S\r\nContent-Length: 1\r\n\r\nx",
        )
        .await;
        let mut server = Server::accept_as(&s.upstream, &::h2::server::Builder::new()).await;
        for attempt in ["1", "2"] {
            let (request, mut respond) = server.next().await;
            assert_eq!(request.headers()["x-envoy-attempt-count"], attempt);
            // the first try has all of the time, to the millisecond, another one what is left
            let least = if attempt == "1" { 2000 } else { 1 };
            for name in ["grpc-timeout", "x-envoy-expected-rq-timeout-ms"] {
                let left = request.headers()[name].to_str().unwrap().trim_end_matches('m').parse::<u32>();
                assert!(left.is_ok_and(|ms| (least..=2000).contains(&ms)), "{:?}", request.headers());
            }
            let response = Response::builder().header("grpc-status", "14").body(()).unwrap();
            respond.send_response(response, true).unwrap();
        }
        let (_, mut respond) = server.next().await;
        let response = Response::builder().header("grpc-status", "5").body(()).unwrap();
        respond.send_response(response, true).unwrap();
        assert_eq!(header(&s.read_until("\r\n\r\n").await, "grpc-status"), Some("5"));
    });
}

#[test]
fn a_call_of_grpc_may_ask_for_less_time() {
    play(speak(UpstreamProtocol::Http2), false, |mut s| async move {
        s.send(
            "POST / HTTP/1.1\r\nHost: a.b\r\nContent-Type: application/grpc\r\ngrpc-timeout: 60m\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        let mut server = Server::accept_as(&s.upstream, &::h2::server::Builder::new()).await;
        let (_request, _respond) = server.next().await;
        let answer = s.read_until("\r\n\r\n").await;
        assert_eq!(header(&answer, "grpc-message"), Some("upstream request timeout"));
        assert_eq!(header(&answer, "grpc-status"), Some("14"));
    });
    // also where the upstream speaks HTTP/1, and is told so
    play(
        |_| {},
        false,
        |mut s| async move {
            const CALL: &str = "POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 0\r\ngrpc-timeout: 60m\r\n";
            s.send(&format!("{CALL}Content-Type: application/grpc\r\n\r\n")).await;
            let (_up, head) = s.accept().await;
            assert_eq!(header(&head, "grpc-timeout"), Some("60m"));
            assert_eq!(header(&head, "x-envoy-expected-rq-timeout-ms"), Some("60"));
            let answer = s.read_until("\r\n\r\n").await;
            assert_eq!(header(&answer, "grpc-message"), Some("upstream request timeout"));
            assert_eq!(header(&answer, "grpc-status"), Some("14"));
            // what is no call has all the time
            s.send(&format!("{CALL}Content-Type: application/grpc-web\r\n\r\n")).await;
            let (mut up, head) = s.accept().await;
            assert_eq!(header(&head, "x-envoy-expected-rq-timeout-ms"), None);
            tokio::time::sleep(Duration::from_millis(100)).await;
            up.write_all(OK.as_bytes()).await.unwrap();
            assert!(s.read_until("ok").await.starts_with("HTTP/1.1 200 OK\r\n"));
        },
    );
    // a stream that has begun ends with that status too
    play(speak(UpstreamProtocol::Http2), true, |s| async move {
        let Stage { client, upstream, shutdown: _shutdown } = s;
        let mut send = connect(client).await;
        let call = http::Request::post("http://a.b/p.S/M").header("content-type", "application/grpc");
        let call = call.header("grpc-timeout", "60m").body(()).unwrap();
        let (answer, _) = send.send_request(call, true).unwrap();
        let mut server = Server::accept_as(&upstream, &::h2::server::Builder::new()).await;
        let (_request, mut respond) = server.next().await;
        let _stream = respond.send_response(Response::new(()), false).unwrap();
        let mut body = answer.await.unwrap().into_body();
        assert!(body.data().await.is_none());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "14");
    });
}
