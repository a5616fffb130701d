//! HTTP/1.1 requests, written from one piece of memory and read without looking at more than framing.

use super::{FIELDS, LARGE, SMALL, Shape, Tickets, UPLOAD, host};
use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The bytes of a request.
pub(super) fn request(shape: Shape) -> Vec<u8> {
    let (method, path) = match shape {
        Shape::Post => ("POST", "/svc3/submit"),
        Shape::Large => ("GET", LARGE),
        _ => ("GET", SMALL),
    };
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", host(0));
    for (name, value) in FIELDS {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head += "Connection: keep-alive\r\n";
    if shape != Shape::Post {
        return (head + "\r\n").into_bytes();
    }
    let _ = write!(head, "Content-Type: application/json\r\nContent-Length: {UPLOAD}\r\n\r\n");
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + UPLOAD, b'y');
    bytes
}

/// Sends the request again and again over one connection; returns how many were answered.
pub(super) async fn run(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &[u8],
    tickets: &Tickets,
) -> Result<u64> {
    let mut buffer = vec![0; 16 << 10];
    let mut answered = 0;
    while tickets.take() {
        exchange(&mut stream, request, &mut buffer).await?;
        answered += 1;
    }
    Ok(answered)
}

/// One request and its whole answer, which must be 200.
pub(super) async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &[u8],
    buffer: &mut [u8],
) -> Result<()> {
    stream.write_all(request).await?;
    stream.flush().await?;
    let mut filled = 0;
    let mut left = loop {
        let n = stream.read(&mut buffer[filled..]).await?;
        ensure!(n > 0, "the connection ended before its answer");
        filled += n;
        if let Some((head, body)) = framing(&buffer[..filled])? {
            break (head + body).checked_sub(filled).context("more came than the answer")?;
        }
    };
    while left > 0 {
        let n = stream.read(buffer).await?;
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
        assert!((600..750).contains(&request(Shape::Get).len()), "{}", request(Shape::Get).len());
        let post = request(Shape::Post);
        let head = head_length(&post).unwrap();
        assert_eq!(content_length(&post[..head]), Some(post.len() - head));
    }

    #[test]
    fn answers_are_framed() {
        assert!(framing(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap().is_none());
        assert_eq!(framing(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nab").unwrap(), Some((39, 12)));
        assert!(framing(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n").is_err());
    }
}
