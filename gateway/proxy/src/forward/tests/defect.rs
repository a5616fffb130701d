//! A panic costs the request that it is in.

use super::http2_upstream::connect;
use super::*;
use crate::forward::buffers::Work;
use crate::forward::testing;
use crate::forward::view::View;
use http::{Request, StatusCode};
use std::sync::Arc;
use tidegate_model::ConnectionLimits;

/// The path of requests that panic once the upstream has answered.
const DEFECT: &str = "/defect";

/// Where the requests of these tests panic.
pub(in crate::forward) fn provoke(w: &Work) {
    if View::of(w).path() == DEFECT.as_bytes() {
        // without a word: there are many
        std::panic::resume_unwind(Box::new("a defect, on purpose"));
    }
}

/// One request at a time: who does not give its place back holds up all that follow.
fn one_at_a_time(model: &mut Model) {
    let cluster = Arc::make_mut(model.clusters.values_mut().next().unwrap());
    cluster.limits = ConnectionLimits { max_requests: Some(1), ..ConnectionLimits::default() };
}

/// Answers everything.
async fn answering(upstream: TcpListener) {
    loop {
        let mut stream = upstream.accept().await.unwrap().0;
        tokio::task::spawn_local(async move {
            let mut read = Vec::new();
            while stream.read_buf(&mut read).await.is_ok_and(|n| n > 0) {
                if read.ends_with(b"\r\n\r\n") {
                    read.clear();
                    stream.write_all(OK.as_bytes()).await.unwrap();
                }
            }
        });
    }
}

#[test]
fn of_http2_it_costs_one_stream() {
    play(one_at_a_time, true, |s| async move {
        let Stage { client, upstream, shutdown: _shutdown } = s;
        tokio::task::spawn_local(answering(upstream));
        let send = connect(client).await;
        for i in 0..1000 {
            let mut send = send.clone().ready().await.unwrap();
            let get = |path| Request::get(format!("http://a.b{path}")).body(()).unwrap();
            let broken = send.send_request(get(DEFECT), true).unwrap().0.await.unwrap_err();
            assert!(broken.is_reset(), "{i}: {broken}");
            let whole = send.send_request(get("/"), true).unwrap().0.await.unwrap();
            assert_eq!(whole.status(), StatusCode::OK, "{i}");
        }
    });
}

#[test]
fn of_http1_it_costs_one_connection() {
    play(one_at_a_time, false, |s| async move {
        let Stage { mut client, upstream, shutdown } = s;
        tokio::task::spawn_local(answering(upstream));
        let worker = PLAYED.with_borrow(|worker| worker.clone()).unwrap();
        let get = |path: &str| GET.replacen('/', path, 1);
        for i in 0..1000 {
            let (mut broken, served) = tokio::io::duplex(64 << 10);
            let connection =
                h1::serve(Box::new(served), testing::connection(), worker.clone(), shutdown.subscribe());
            let task = tokio::task::spawn_local(connection);
            broken.write_all(get(DEFECT).as_bytes()).await.unwrap();
            assert_eq!(broken.read(&mut [0]).await.unwrap(), 0, "{i}: nothing comes back");
            assert!(task.await.unwrap_err().is_panic(), "{i}");
            client.write_all(get("/").as_bytes()).await.unwrap();
            let answer = read_until(&mut client, "\r\n\r\nok").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{i}: {answer}");
        }
    });
}
