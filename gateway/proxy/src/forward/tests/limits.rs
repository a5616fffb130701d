//! Clusters that have as much to do as they may have.

use super::http2_upstream::{Server, connect, speak};
use super::*;
use ::h2::server::Builder;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use std::sync::Arc;
use tidegate_model::{ConnectionLimits, UpstreamProtocol};

/// A cluster of HTTP/1 or HTTP/2 with these limits.
fn limited(protocol: UpstreamProtocol, limits: ConnectionLimits) -> impl FnOnce(&mut Model) {
    move |model| {
        speak(protocol)(model);
        Arc::make_mut(model.clusters.values_mut().next().unwrap()).limits = limits;
    }
}

fn get() -> Request<()> {
    Request::get("http://a.b/").body(()).unwrap()
}

#[test]
fn one_request_too_many_is_answered_at_once() {
    let requests = ConnectionLimits { max_requests: Some(1), ..ConnectionLimits::default() };
    let (max_connections, max_pending_requests) = (Some(1), Some(1));
    let connections = ConnectionLimits { max_connections, ..ConnectionLimits::default() };
    let pending = ConnectionLimits { max_pending_requests, ..connections.clone() };
    for (limits, refused_at) in [(requests, 2), (pending, 3)] {
        play(limited(UpstreamProtocol::Http1, limits), true, move |s| async move {
            let Stage { client, upstream, shutdown: _shutdown } = s;
            let send = connect(client).await;
            let ask = || {
                let mut send = send.clone();
                tokio::task::spawn_local(send.send_request(get(), true).unwrap().0)
            };
            let first = ask();
            let mut up = upstream.accept().await.unwrap().0;
            read_until(&mut up, "\r\n\r\n").await;
            let waiting: Vec<_> = (2..refused_at).map(|_| ask()).collect();
            let refused = ask().await.unwrap().unwrap();
            assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(refused.headers()["x-envoy-overloaded"], "true");
            assert!(!first.is_finished() && !waiting.iter().any(|w| w.is_finished()));
            // who waits gets the connection
            up.write_all(OK.as_bytes()).await.unwrap();
            assert_eq!(first.await.unwrap().unwrap().status(), StatusCode::OK);
            for next in waiting {
                read_until(&mut up, "\r\n\r\n").await;
                up.write_all(OK.as_bytes()).await.unwrap();
                assert_eq!(next.await.unwrap().unwrap().status(), StatusCode::OK);
            }
        });
    }
}

#[test]
fn streams_share_what_connections_there_may_be() {
    let (max_connections, max_pending_requests) = (Some(1), Some(1));
    let limits = ConnectionLimits { max_connections, max_pending_requests, ..ConnectionLimits::default() };
    play(limited(UpstreamProtocol::Http2, limits), true, |s| async move {
        let Stage { client, upstream, shutdown: _shutdown } = s;
        let mut send = connect(client).await;
        // the upstream takes one at a time, so the second waits for its turn on the same connection, and no third may
        let first = send.send_request(get(), true).unwrap().0;
        let mut server = Server::accept_as(&upstream, Builder::new().max_concurrent_streams(1)).await;
        let (_, mut respond) = server.next().await;
        let second = send.send_request(get(), true).unwrap().0;
        let waits = tokio::task::spawn_local(second);
        send = send.ready().await.unwrap();
        let third = send.send_request(get(), true).unwrap().0.await.unwrap();
        assert_eq!(third.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(third.headers()["x-envoy-overloaded"], "true");
        assert!(!waits.is_finished());
        respond.send_response(Response::new(()), true).unwrap();
        assert_eq!(first.await.unwrap().status(), StatusCode::OK);
        let (_, mut respond) = server.next().await;
        respond.send_response(Response::new(()), true).unwrap();
        assert_eq!(waits.await.unwrap().unwrap().status(), StatusCode::OK);
    });
}

#[test]
fn a_session_has_so_many_streams() {
    let limits = ConnectionLimits { max_concurrent_streams: Some(1), ..ConnectionLimits::default() };
    play(limited(UpstreamProtocol::Http2, limits), true, |s| async move {
        let Stage { client, upstream, shutdown: _shutdown } = s;
        let mut send = connect(client).await;
        let mut held = Vec::new();
        for _ in 0..2 {
            let answer = send.send_request(get(), true).unwrap().0;
            let mut server = Server::accept_as(&upstream, &Builder::new()).await;
            let (_, respond) = server.next().await;
            held.push((answer, server, respond));
            send = send.ready().await.unwrap();
        }
        for (answer, _server, mut respond) in held {
            respond.send_response(Response::new(()), true).unwrap();
            assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
        }
    });
}

#[test]
fn a_session_carries_so_many_requests() {
    let limits = ConnectionLimits { max_requests_per_connection: Some(2), ..ConnectionLimits::default() };
    play(limited(UpstreamProtocol::Http2, limits), false, |mut s| async move {
        for _ in 0..2 {
            s.send(GET).await;
            let mut server = Server::accept_as(&s.upstream, &Builder::new()).await;
            for i in 0..2 {
                if i > 0 {
                    s.send(GET).await;
                }
                let (_, mut respond) = server.next().await;
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                body.send_data(Bytes::from_static(b"ok"), true).unwrap();
                s.read_until("0\r\n\r\n").await;
            }
        }
    });
}
