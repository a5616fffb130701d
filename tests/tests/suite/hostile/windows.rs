//! Clients of HTTP/2 that ask for much and take nothing.

use super::script::{Heard, get_head, preface, settings};
use super::{PORT, config};
use anyhow::{Context, Result, ensure};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tidegate_tests::{Gateway, Net, Start, get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Who takes nothing: so many connections with so many streams each (the gateway takes 100 of a connection at once) and such
/// a window, zero or one that the first of the streams use up; and what each may cost the gateway, in KiB.
/// Each stream has a file of its own towards the origin.
const HOSTILE: [(usize, usize, u32, usize); 3] =
    [(15, 100, 0, 100 * STREAM), (15, 100, 0xffff, 100 * STREAM), (100, 10, 0, 256)];
/// What a stream may cost, in KiB: no more than a slow connection of HTTP/1 may, and not a buffer of 64 KiB.
const STREAM: usize = 20;
/// Bytes of an answer.
const LARGE: usize = 1 << 20;
/// How long a busy machine may take for what takes a moment.
const PATIENCE: Duration = Duration::from_secs(60);

/// Serves large answers, and short ones for `/short`.
async fn serve(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(answer(stream));
    }
}

async fn answer(mut stream: TcpStream) -> Result<()> {
    let large = vec![b'x'; 16 << 10];
    let mut head = Vec::new();
    while stream.read_buf(&mut head).await? > 0 {
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let length = if head.starts_with(b"GET /short ") { 2 } else { LARGE };
        head.clear();
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes()).await?;
        for at in (0..length).step_by(large.len()) {
            stream.write_all(&large[..large.len().min(length - at)]).await?;
        }
    }
    Ok(())
}

/// Opens as many streams as it may, hears the head of each answer, and then takes nothing more.
async fn stall(to: SocketAddr, from: SocketAddr, streams: usize, window: u32) -> Result<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(from)?;
    let mut stream = socket.connect(to).await?;
    let mut bytes = preface(None, true)?;
    bytes.extend(settings(4, window));
    (0..streams).for_each(|n| bytes.extend(get_head(2 * n as u32 + 1)));
    stream.write_all(&bytes).await?;
    let (mut heard, mut buffer) = (Heard::default(), vec![0; 16 << 10]);
    while heard.statuses.len() < streams {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await;
        let n = read.with_context(|| format!("{} answers of {streams}", heard.statuses.len()))??;
        ensure!(n > 0, "the connection ended: {heard:?}");
        heard.take(&buffer[..n]);
    }
    ensure!(heard.statuses.iter().all(|s| *s == 200), "{heard:?}");
    Ok(stream)
}

/// The memory once it does not grow any more, in KiB.
async fn settled_memory(gateway: &Gateway) -> usize {
    let mut memory = super::http2::memory(gateway.id());
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = super::http2::memory(gateway.id());
        if now <= memory {
            break;
        }
        memory = now;
    }
    memory
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_take_nothing_cost_little_memory() -> Result<()> {
    let (net, folder) = (Net::reserve()?, tempfile::tempdir()?);
    let origin = SocketAddr::new(net.next()?.into(), 8080);
    tokio::spawn(serve(TcpListener::bind(origin).await?));
    std::fs::write(folder.path().join("lanes.yaml"), config(&[(PORT, origin)]))?;
    let client = SocketAddr::new(net.next()?.into(), 0);
    for (connections, streams, window, most) in HOSTILE {
        let start = Start::with(folder.path()).access_log("off").arg("--concurrency").arg("1");
        let gateway = start.start(&net).await?;
        let at = SocketAddr::new(Ipv4Addr::into(net.gateway()), PORT);
        ensure!(get(at, "a.example", "/short").await?.status == 200);
        let before = settled_memory(&gateway).await;
        let mut stalled = Vec::new();
        for _ in 0..connections {
            stalled.push(stall(at, client, streams, window).await?);
            // others are served meanwhile
            ensure!(get(at, "a.example", "/short").await?.status == 200);
        }
        let grown = settled_memory(&gateway).await.saturating_sub(before);
        let each = grown / connections;
        crate::say(&format!(
            "a connection with {streams} streams and a window of {window} costs {each} KiB of memory\n"
        ));
        ensure!(each < most, "{each} KiB a connection, at most {most}");
        drop(stalled);
        ensure!(get(at, "a.example", "/short").await?.status == 200);
    }
    Ok(())
}
