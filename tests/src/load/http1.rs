//! HTTP/1.1 requests, written from one piece of memory and read without looking at more than framing.

use super::forget::Forget;
use super::{FIELDS, HUGE, KILOBYTE, LARGE, MEBIBYTE, SMALL, Shape, Tickets, host};
use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write as _;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What is sent, and what must come back.
pub(super) struct Request {
    bytes: Vec<u8>,
    /// The length of the answer's body.
    answer: usize,
    /// What is read of it at a time.
    piece: usize,
}

impl Request {
    pub(super) fn new(shape: Shape) -> Request {
        let (path, upload, answer) = match shape {
            Shape::Post => ("/svc3/submit", 10 << 10, KILOBYTE),
            Shape::Upload => ("/svc3/submit", MEBIBYTE, KILOBYTE),
            Shape::Large => (LARGE, 0, 100 << 10),
            Shape::Download => (HUGE, 0, MEBIBYTE),
            _ => (SMALL, 0, KILOBYTE),
        };
        let method = if upload > 0 { "POST" } else { "GET" };
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", host(0));
        for (name, value) in FIELDS {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head += "Connection: keep-alive\r\n";
        if upload > 0 {
            let _ = write!(head, "Content-Type: application/json\r\nContent-Length: {upload}\r\n");
        }
        let mut bytes = (head + "\r\n").into_bytes();
        bytes.resize(bytes.len() + upload, b'y');
        let piece = if shape == Shape::Download { 256 << 10 } else { 16 << 10 };
        Request { bytes, answer, piece }
    }
}

/// Sends the request again and again over one connection; returns how many were answered.
pub(super) async fn run(
    mut stream: impl Forget + AsyncWrite,
    request: &Request,
    tickets: &Tickets,
) -> Result<u64> {
    let mut buffer = vec![0; request.piece];
    let mut answered = 0;
    while tickets.take() {
        exchange(&mut stream, request, &mut buffer).await?;
        answered += 1;
    }
    Ok(answered)
}

/// One request and its whole answer, which must be 200 and of its length.
pub(super) async fn exchange(
    stream: &mut (impl Forget + AsyncWrite),
    request: &Request,
    buffer: &mut [u8],
) -> Result<()> {
    stream.write_all(&request.bytes).await?;
    stream.flush().await?;
    let mut filled = 0;
    let mut left = loop {
        let n = stream.read(&mut buffer[filled..]).await?;
        ensure!(n > 0, "the connection ended before its answer");
        filled += n;
        if let Some((head, body)) = framing(&buffer[..filled])? {
            ensure!(body == request.answer, "an answer of {body} bytes instead of {}", request.answer);
            break (head + body).checked_sub(filled).context("more came than the answer")?;
        }
    };
    while left > 0 {
        let n = stream.forget(buffer).await?;
        ensure!(n > 0, "the connection ended {left} bytes early");
        left = left.checked_sub(n).context("more came than the answer")?;
    }
    Ok(())
}

/// The lengths of an answer's head and body, once its head is there.
fn framing(bytes: &[u8]) -> Result<Option<(usize, usize)>> {
    let Some(head) = head_length(bytes) else { return Ok(None) };
    if bytes.get(9..12) != Some(b"200") {
        bail!("answered {}", String::from_utf8_lossy(&bytes[..head.min(80)]));
    }
    let body = content_length(&bytes[..head]).context("an answer without Content-Length")?;
    Ok(Some((head, body)))
}

/// Where the head ends.
pub(super) fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

/// The value of `Content-Length`.
pub(super) fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"\ncontent-length:";
    let at = head.windows(NAME.len()).position(|w| w.eq_ignore_ascii_case(NAME))?;
    let line = head[at + NAME.len()..].split(|b| *b == b'\r').next()?;
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_large_as_a_browsers() {
        let get = Request::new(Shape::Get).bytes;
        assert!((600..750).contains(&get.len()), "{}", get.len());
        for (shape, body) in [(Shape::Post, 10 << 10), (Shape::Upload, 1 << 20)] {
            let post = Request::new(shape).bytes;
            let head = head_length(&post).unwrap();
            assert_eq!((content_length(&post[..head]), post.len()), (Some(body), head + body));
        }
    }

    #[test]
    fn answers_are_framed() {
        assert!(framing(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap().is_none());
        assert_eq!(framing(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nab").unwrap(), Some((39, 12)));
        assert!(framing(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n").is_err());
    }
}
