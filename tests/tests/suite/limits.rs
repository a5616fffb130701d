//! Limits that are set by flags, each seen from outside: by the client, in the access log, in the metrics.

use crate::reload::{Site, forward_to};
use anyhow::{Context, Result, bail, ensure};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidegate_tests::{
    Backend, Connection, Failure, Gateway, Net, Request, Start, Version, exchange, websocket,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long a busy machine may take for what takes a moment.
const PATIENCE: Duration = Duration::from_secs(60);

/// A workload, and a gateway that sends everything to it.
async fn gateway(net: &Net, backend: &Backend, flags: &str) -> Result<Gateway> {
    let workload = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
    backend.listen(workload).await?;
    in_front_of(net, workload, flags).await
}

async fn in_front_of(net: &Net, workload: SocketAddr, flags: &str) -> Result<Gateway> {
    let site = Site::new()?;
    site.write("routes.yaml", &forward_to(&[workload]))?;
    let start = Start::with(site.path()).arg("--concurrency").arg("1");
    flags.split_whitespace().fold(start, |start, flag| start.arg(flag)).start(net).await
}

/// A metric without labels.
async fn metric(gateway: &Gateway, name: &str) -> Result<u64> {
    let text = exchange(&Request::to(gateway.status()).path("/stats/prometheus")).await?.text();
    let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.with_context(|| format!("no {name} in {text}"))?.parse()?)
}

/// Waits for a line of the access log that has all of this.
async fn logged(gateway: &Gateway, parts: &[&str]) -> Result<()> {
    let line = gateway.log.find(0, PATIENCE, |l| parts.iter().all(|part| l.contains(part))).await;
    line.map(|_| ()).with_context(|| format!("no line with {parts:?}: {}", gateway.said()))
}

#[tokio::test]
async fn requests_are_as_large_and_as_many_as_they_may_be() -> Result<()> {
    let (net, backend) = (Net::reserve()?, Backend::default());
    let flags = "--max-request-body 16 --max-requests-per-connection 2 --max-header-bytes 100Ki";
    let gateway = gateway(&net, &backend, flags).await?;
    for version in [Version::Http11, Version::Http2] {
        let request = || Request::to(gateway.at(8080)).version(version);
        for (bytes, status) in [(16, 200), (17, 413)] {
            let mut post = request().method("POST");
            post.body = Some(vec![b'x'; bytes]);
            ensure!(exchange(&post).await?.status == status, "{bytes} bytes over {version:?}");
        }
        let large = request().header("x-large", &"x".repeat(90 << 10));
        ensure!(exchange(&large).await?.status == 200, "{version:?}");
        let larger = request().header("x-large", &"x".repeat(110 << 10));
        ensure!(exchange(&larger).await.map_or(431, |answer| answer.status) == 431, "{version:?}");

        let mut connection = Connection::open(&request()).await?;
        for last in [false, true] {
            let answer = connection.send(&request()).await?;
            ensure!(answer.status == 200, "{version:?}");
            let closes = answer.header("connection") == Some("close");
            ensure!(closes == (last && version == Version::Http11), "{version:?}");
        }
        // HTTP/2 clients hear it on their way: what they ask for until then is answered
        let end = Instant::now() + PATIENCE;
        while let Ok(answer) = connection.send(&request()).await {
            ensure!(version == Version::Http2 && answer.status == 200 && Instant::now() < end);
        }
    }
    logged(&gateway, &["\"response_code\":413", "request_payload_too_large"]).await
}

/// A connection on which a request was answered.
async fn idle(gateway: &Gateway, from: Ipv4Addr) -> Result<Connection, Failure> {
    let mut request = Request::to(gateway.at(8080));
    request.from = Some(from.into());
    let mut connection = Connection::open(&request).await?;
    connection.send(&request).await?;
    Ok(connection)
}

#[tokio::test]
async fn connections_are_as_many_as_they_may_be_and_idle_ones_make_room() -> Result<()> {
    let (net, backend) = (Net::reserve()?, Backend::default());
    let gateway = gateway(&net, &backend, "--max-connections 16 --max-connections-per-client 12").await?;
    let (one, other) = (net.next()?, net.next()?);
    let mut first = Vec::new();
    for _ in 0..12 {
        first.push(idle(&gateway, one).await?);
    }
    ensure!(idle(&gateway, one).await.is_err(), "the thirteenth of one client");
    ensure!(metric(&gateway, "tidegate_client_connections_overflow_total").await? == 1);
    let mut second = Vec::new();
    let end = Instant::now() + PATIENCE;
    while second.len() < 10 {
        match idle(&gateway, other).await {
            Ok(connection) => second.push(connection),
            Err(e) if Instant::now() > end => bail!("no room after {}: {e}", second.len()),
            // those that were told to go have not gone yet
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    let request = Request::to(gateway.at(8080));
    ensure!(first[0].send(&request).await.is_err(), "what was idle for longest has ended");
    ensure!(second[9].send(&request).await?.status == 200, "the newest goes on");
    Ok(())
}

/// Answers with more than anybody's system takes ahead, but for `/quiet`, which it never answers; plays a WebSocket
/// that sends back what it gets.
async fn serve(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            if head.starts_with(b"GET /ws ") {
                let switch =
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
                stream.write_all(switch.as_bytes()).await?;
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await?;
            } else if head.starts_with(b"GET /large ") {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await?;
                while stream.write_all(&[b'x'; 64 << 10]).await.is_ok() {}
            } else {
                // until the gateway lets go
                while stream.read(&mut [0; 4096]).await? > 0 {}
            }
            anyhow::Ok(())
        });
    }
}

async fn ask(gateway: &Gateway, text: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(gateway.at(8080)).await?;
    stream.write_all(text.as_bytes()).await?;
    Ok(stream)
}

async fn read_until(stream: &mut TcpStream, end: &str) -> Result<()> {
    let mut read = Vec::new();
    let reading = async {
        while !read.ends_with(end.as_bytes()) {
            read.push(stream.read_u8().await?);
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, reading).await.with_context(|| format!("no {end:?}"))?
}

#[tokio::test]
async fn slow_clients_are_given_up_and_silent_streams_go_on() -> Result<()> {
    let net = Net::reserve()?;
    let workload = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
    tokio::spawn(serve(TcpListener::bind(workload).await?));
    let flags = "--min-rate 100Ki --slow-request-timeout 500ms --slow-response-timeout 500ms";
    let gateway = in_front_of(&net, workload, flags).await?;
    let mut socket = websocket(gateway.at(8080), "a").await?;
    let mut quiet = ask(&gateway, "GET /quiet HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    let mut messages =
        ask(&gateway, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await?;

    let mut upload = ask(&gateway, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\nx").await?;
    let download = ask(&gateway, "GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    read_until(&mut upload, "Request Timeout").await?;
    logged(&gateway, &["\"response_code\":408", "request_too_slow"]).await?;
    logged(&gateway, &["\"path\":\"/large\"", "response_taken_too_slowly", "\"LR\""]).await?;
    drop(download);

    socket.write_all(b"still there").await?;
    read_until(&mut socket, "still there").await?;
    for stream in [&mut quiet, &mut messages] {
        let mut byte = [0];
        let silent = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut byte));
        ensure!(silent.await.is_err(), "a stream without anything to say has ended");
    }
    Ok(())
}

#[tokio::test]
async fn too_much_memory_takes_no_connections_and_is_no_reason_to_be_unready() -> Result<()> {
    let (net, backend) = (Net::reserve()?, Backend::default());
    let gateway = gateway(&net, &backend, "--memory-limit 24Mi").await?;
    let end = Instant::now() + PATIENCE;
    while metric(&gateway, "tidegate_overload_level").await? != 2 {
        ensure!(Instant::now() < end, "{}", gateway.said());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(exchange(&Request::to(gateway.at(8080))).await.is_err(), "a connection was taken");
    ensure!(metric(&gateway, "tidegate_overload_connections_refused_total").await? >= 1);
    ensure!(metric(&gateway, "tidegate_memory_limit_bytes").await? == 24 << 20);
    ensure!(metric(&gateway, "tidegate_memory_bytes").await? > 24 << 20);
    ensure!(
        gateway.readiness().await == Some(200)
            && gateway.said().contains("new connections are closed at once")
    );
    Ok(())
}

/// Bytes of memory that are the process's own.
fn memory(gateway: &Gateway) -> Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.id()))?;
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).context("no RssAnon")?;
    let kib: usize = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

#[tokio::test]
async fn bodies_that_are_slow_to_come_hold_little_memory() -> Result<()> {
    const CLIENTS: usize = 600;
    // tasks of a debug build are large; what is held of buffers comes on top, 16 KiB or 64 KiB each
    const MOST: usize = 34 << 10;
    let net = Net::reserve()?;
    let workload = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
    let listener = TcpListener::bind(workload).await?;
    let reached = Arc::new(AtomicUsize::new(0));
    let count = reached.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
        }
    });
    // longer than what is kept for retries, and shorter
    for length in [100_000, 50_000] {
        let gateway = in_front_of(&net, workload, "--min-rate 0").await?;
        let before = memory(&gateway)?;
        reached.store(0, Ordering::Relaxed);
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\nx");
            clients.push(ask(&gateway, &head).await?);
        }
        let end = Instant::now() + PATIENCE;
        loop {
            for client in &mut clients {
                client.write_all(b"x").await?;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            let each = memory(&gateway)?.saturating_sub(before) / CLIENTS;
            let all = reached.load(Ordering::Relaxed) >= CLIENTS;
            if all && each < MOST {
                break;
            }
            ensure!(Instant::now() < end, "{length}: {each} bytes for each client");
        }
    }
    Ok(())
}
