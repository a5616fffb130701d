//! Endpoints that are left out after what requests saw of them.

use super::super::testing::{forward, host};
use super::http2_upstream::{Server, connect, speak};
use super::*;
use ::h2::server::Builder;
use http::{Request, StatusCode};
use std::sync::Arc;
use tidegate_model::{ConnectionLimits, Destination, OutlierDetection, UpstreamProtocol};

pub(super) fn detection(edit: impl FnOnce(&mut OutlierDetection)) -> impl FnOnce(&mut Model) {
    let mut rule = OutlierDetection {
        consecutive_5xx: 2,
        consecutive_gateway_errors: 0,
        consecutive_local_failures: None,
        error_statuses: vec![],
        interval: Duration::from_secs(100),
        base_ejection_time: Duration::from_secs(100),
        max_ejection_percent: 10,
        min_health_percent: 0,
    };
    edit(&mut rule);
    move |model| {
        let cluster = model.clusters.values_mut().next().unwrap();
        Arc::make_mut(cluster).outlier_detection = Some(rule);
    }
}

const FAILED: &str = "HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno";

#[test]
fn an_endpoint_that_fails_gets_no_more_requests() {
    play(detection(|_| {}), false, |mut s| async move {
        s.send(GET).await;
        let (mut up, _) = s.accept().await;
        // a success between them begins the row anew
        for (i, answer) in [FAILED, OK, FAILED, FAILED].into_iter().enumerate() {
            if i > 0 {
                s.send(GET).await;
                read_until(&mut up, "\r\n\r\n").await;
            }
            up.write_all(answer.as_bytes()).await.unwrap();
            s.read_until(&answer[answer.len() - 2..]).await;
        }
        s.send(GET).await;
        let refused = s.read_until("no healthy upstream").await;
        assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    });
}

#[test]
fn what_is_no_response_counts_like_one() {
    play(detection(|_| {}), false, |mut s| async move {
        for _ in 0..2 {
            s.send(GET).await;
            drop(s.accept().await);
            s.read_until("reset reason: connection termination").await;
        }
        s.send(GET).await;
        s.read_until("no healthy upstream").await;
    });
}

#[test]
fn who_counts_them_apart_forgives_whom_a_request_reaches() {
    let apart = |most: u32| {
        move |rule: &mut OutlierDetection| {
            rule.consecutive_5xx = 0;
            rule.consecutive_local_failures = Some(most);
        }
    };
    play(detection(apart(1)), false, |mut s| async move {
        s.send(GET).await;
        drop(s.accept().await);
        s.read_until("reset reason: connection termination").await;
        s.send(GET).await;
        s.read_until("no healthy upstream").await;
    });
    play(detection(apart(2)), false, |mut s| async move {
        for answer in [Some(FAILED), Some(FAILED), None, Some(FAILED), None, None, None, Some(FAILED)] {
            s.send(GET).await;
            let (mut up, _) = s.accept().await;
            match answer {
                Some(answer) => {
                    up.write_all(answer.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes())
                        .await
                        .unwrap();
                    s.read_until("\r\n\r\nno").await;
                }
                None => {
                    drop(up);
                    s.read_until("reset reason: connection termination").await;
                }
            }
        }
        // nobody listens any more
        s.upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for _ in 0..2 {
            s.send(GET).await;
            s.read_until("reset reason: remote connection failure").await;
        }
        s.send(GET).await;
        s.read_until("no healthy upstream").await;
    });
}

#[test]
fn time_that_the_client_chose_is_not_the_endpoints_fault() {
    let call = "POST / HTTP/1.1\r\nHost: a.b\r\nContent-Type: application/grpc\r\nGrpc-Timeout: 20m\r\n\
                Content-Length: 0\r\n\r\n";
    let change = |model: &mut Model| {
        detection(|_| {})(model);
        speak(UpstreamProtocol::Http2)(model);
    };
    play(change, false, |mut s| async move {
        s.send(call).await;
        let mut server = Server::accept_as(&s.upstream, &Builder::new()).await;
        for _ in 0..3 {
            let _unanswered = server.next().await;
            let answer = s.read_until("\r\n\r\n").await;
            assert!(answer.contains("grpc-status: 14"), "{answer}");
            s.send(call).await;
        }
        server.next().await;
    });
}

#[test]
fn time_spent_waiting_for_room_is_not_the_endpoints_fault() {
    let change = |model: &mut Model| {
        detection(|_| {})(model);
        let cluster = Arc::make_mut(model.clusters.values_mut().next().unwrap());
        cluster.limits = ConnectionLimits { max_connections: Some(1), ..ConnectionLimits::default() };
        let destination = Destination {
            cluster: cluster.name.clone(),
            weight: 1,
            authority: None,
            request_headers: vec![],
            response_headers: vec![],
        };
        host(model, "long.b", forward(destination));
        super::super::testing::change(model, "*", |f| f.timeout = Some(Duration::from_millis(50)));
    };
    play(change, true, |s| async move {
        let Stage { client, upstream, shutdown: _shutdown } = s;
        let send = connect(client).await;
        let ask = |host: &str| {
            let request = Request::get(format!("http://{host}/")).body(()).unwrap();
            tokio::task::spawn_local(send.clone().send_request(request, true).unwrap().0)
        };
        let long = ask("long.b");
        let mut up = upstream.accept().await.unwrap().0;
        read_until(&mut up, "\r\n\r\n").await;
        for _ in 0..3 {
            assert_eq!(ask("a.b").await.unwrap().unwrap().status(), StatusCode::GATEWAY_TIMEOUT);
        }
        let next = ask("long.b");
        for answered in [long, next] {
            up.write_all(OK.as_bytes()).await.unwrap();
            assert_eq!(answered.await.unwrap().unwrap().status(), StatusCode::OK);
        }
    });
}
