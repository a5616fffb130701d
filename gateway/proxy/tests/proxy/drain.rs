use crate::support::*;
use std::time::{Duration, Instant};
use tidegate_model::Model;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn drain_ends_idle_connections_and_closes_listeners() {
    let proxy = start();
    let mut model = Model::default();
    plain(&mut model, key(1));
    proxy.apply(model);
    proxy.set_ready(true);
    let (at, status) = (address(&proxy, key(1)), proxy.status_address());
    let mut idle = TcpStream::connect(at).await.unwrap();
    eventually("it is accepted", async || metric(&proxy, "tidegate_connections_active").await == 1).await;
    let drained = tokio::task::spawn_blocking(move || proxy.drain());
    eventually("not ready", async || get(status, "/healthz/ready").await.0 == 503).await;
    assert_eq!(idle.read(&mut [0]).await.unwrap_or(0), 0);
    assert_eq!(drained.await.unwrap(), 0);
    TcpStream::connect(at).await.unwrap_err();
    TcpStream::connect(status).await.unwrap_err();
}

#[tokio::test]
async fn who_asked_much_at_once_hears_of_the_drain_too() {
    let proxy = start();
    let mut model = Model::default();
    plain(&mut model, key(1));
    proxy.apply(model);
    let at = address(&proxy, key(1));
    let mut idle = Vec::new();
    for requests in TURN {
        let mut client = TcpStream::connect(at).await.unwrap();
        let all = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(requests);
        client.write_all(all.as_bytes()).await.unwrap();
        let mut answers = Vec::new();
        while String::from_utf8_lossy(&answers).matches("HTTP/1.1 404 ").count() < requests {
            client.read_buf(&mut answers).await.unwrap();
        }
        idle.push(client);
    }
    let drained = tokio::task::spawn_blocking(move || proxy.drain());
    assert_eq!(drained.await.unwrap(), 0, "connections that did not end by themselves");
}

#[tokio::test]
async fn drain_cuts_what_does_not_end_in_time() {
    let mut options = options();
    options.limits.drain = Duration::from_millis(400);
    options.limits.handshake_time = Duration::from_secs(60);
    let proxy = tidegate_proxy::Proxy::start(options).unwrap();
    let mut model = Model::default();
    secret(&mut model, "s", &["a.b"], &rcgen::PKCS_ECDSA_P256_SHA256);
    tls(&mut model, key(1), &[("https.443", &["a.b"], &["s"])]);
    proxy.apply(model);
    // A handshake that never goes on.
    let mut stuck = TcpStream::connect(address(&proxy, key(1))).await.unwrap();
    eventually("it is accepted", async || metric(&proxy, "tidegate_connections_active").await == 1).await;
    let start = Instant::now();
    let drained = tokio::task::spawn_blocking(move || proxy.drain());
    assert_eq!(stuck.read(&mut [0]).await.unwrap_or(0), 0);
    assert_eq!(drained.await.unwrap(), 1);
    assert!(start.elapsed() >= Duration::from_millis(400) && start.elapsed() < Duration::from_secs(4));
}
