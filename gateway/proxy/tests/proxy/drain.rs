use crate::logged::start_logged;
use crate::support::*;
use std::time::{Duration, Instant};
use tidegate_model::Model;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

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

#[tokio::test]
async fn what_a_drain_cuts_is_logged_with_what_was_sent() {
    const SWITCH: &str = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    for (request, response) in [("", "200 OK\r\n".to_owned()), (SWITCH, format!("101 Switching\r\n{SWITCH}"))]
    {
        let (proxy, log) = start_logged();
        let mut model = Model::default();
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let route = forward(&mut model, "s", &[upstream.local_addr().unwrap()]);
        let table = plain(&mut model, key(1));
        host(&mut model, &table, "*", vec![route]);
        proxy.apply(model);
        let mut client = TcpStream::connect(address(&proxy, key(1))).await.unwrap();
        let head = format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{request}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n\r\n"
        );
        client.write_all(head.as_bytes()).await.unwrap();
        let (mut up, _) = upstream.accept().await.unwrap();
        up.write_all(format!("HTTP/1.1 {response}\r\n").as_bytes()).await.unwrap();
        let mut read = Vec::new();
        for _ in 0..3 {
            // a frame of WebSocket, or just bytes
            up.write_all(b"\x82\x05piece").await.unwrap();
            let so_far = read.windows(5).filter(|w| w == b"piece").count();
            while read.windows(5).filter(|w| w == b"piece").count() == so_far {
                assert_ne!(client.read_buf(&mut read).await.unwrap(), 0);
            }
        }
        tokio::task::spawn_blocking(move || proxy.drain()).await.unwrap();
        let line = log.lines(1).await.remove(0);
        assert_eq!(line["bytes_sent"], 21, "{line}");
        assert_eq!(line["response_flags"], "LR", "{line}");
    }
}
