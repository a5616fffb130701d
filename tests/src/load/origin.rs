//! An origin that costs as little as it can: HTTP/1.1, 1 KB or 100 KB, whatever is asked, and nothing for spans.

use super::http1::{content_length, head_length};
use super::{LARGE, SPANS};
use anyhow::Result;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// Serves until it is dropped.
///
/// # Errors
/// When a connection cannot be accepted.
pub async fn serve(listeners: Vec<TcpListener>) -> Result<()> {
    let bodies = Rc::new([response(1 << 10), response(100 << 10), response(0)]);
    let set = LocalSet::new();
    set.run_until(async {
        let accepting = listeners.into_iter().map(|l| tokio::task::spawn_local(accept(l, bodies.clone())));
        for accepting in accepting.collect::<Vec<_>>() {
            accepting.await??;
        }
        Ok(())
    })
    .await
}

async fn accept(listener: TcpListener, bodies: Rc<[Vec<u8>; 3]>) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let bodies = bodies.clone();
        tokio::task::spawn_local(async move {
            // a gateway that goes away is no news here
            let _ = connection(stream, &bodies).await;
        });
    }
}

fn response(body: usize) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 01:00:00 GMT\r\nServer: origin\r\n\
         Content-Type: application/json; charset=utf-8\r\nContent-Length: {body}\r\n\
         Cache-Control: private, max-age=0, must-revalidate\r\nETag: \"5f2b-1a2b3c4d5e6f\"\r\n\
         Vary: Accept-Encoding\r\nX-Content-Type-Options: nosniff\r\n\r\n"
    )
    .into_bytes();
    bytes.resize(bytes.len() + body, b'x');
    bytes
}

async fn connection(mut stream: TcpStream, [small, large, empty]: &[Vec<u8>; 3]) -> Result<()> {
    let mut buffer = vec![0; 16 << 10];
    let mut filled = 0;
    loop {
        let Some(head) = head_length(&buffer[..filled]) else {
            let n = stream.read(&mut buffer[filled..]).await?;
            if n == 0 {
                return Ok(());
            }
            filled += n;
            continue;
        };
        let answer = match buffer[..head].split(|b| *b == b' ').nth(1) {
            Some(path) if path == LARGE.as_bytes() => large,
            Some(path) if path == SPANS.as_bytes() => empty,
            _ => small,
        };
        let mut left = (head + content_length(&buffer[..head]).unwrap_or(0)).saturating_sub(filled);
        while left > 0 {
            let n = stream.read(&mut buffer).await?;
            if n == 0 {
                return Ok(());
            }
            left = left.saturating_sub(n);
        }
        filled = 0;
        stream.write_all(answer).await?;
    }
}
