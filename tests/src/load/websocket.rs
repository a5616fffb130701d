//! WebSocket messages (RFC 6455): a client that sends one and waits for it to come back, and the origin's echo.

use super::http1::head_length;
use super::{Tickets, WEBSOCKET, host};
use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes of a message.
const MESSAGE: usize = 128;
/// The first bytes of its frames: the end of a binary message, its length in two more bytes, masked or not.
const MASKED: [u8; 4] = [0x82, 0xfe, 0, 128];
const PLAIN: [u8; 4] = [0x82, 0x7e, 0, 128];
const MASK: [u8; 4] = [0x5a, 0xa5, 0x3c, 0xc3];
/// The example key of section 1.3, and its answer.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(super) const ACCEPTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Sends messages over one WebSocket, one at a time; returns how many came back.
pub(super) async fn run(mut stream: impl AsyncRead + AsyncWrite + Unpin, tickets: &Tickets) -> Result<u64> {
    open(&mut stream).await?;
    let message: Vec<u8> = (0..MESSAGE).map(|i| i as u8).collect();
    let mut sent = [&MASKED[..], &MASK[..], &message].concat();
    unmask(MASK, &mut sent[8..]);
    let expected = [&PLAIN[..], &message].concat();
    let (mut received, mut answered) = (vec![0; expected.len()], 0);
    while tickets.take() {
        stream.write_all(&sent).await?;
        stream.read_exact(&mut received).await?;
        ensure!(received == expected, "another message came back");
        answered += 1;
    }
    Ok(answered)
}

/// The upgrade, which must be answered with 101.
async fn open(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<()> {
    let request = format!(
        "GET {WEBSOCKET} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n",
        host(0)
    );
    stream.write_all(request.as_bytes()).await?;
    let (mut buffer, mut filled) = ([0; 4 << 10], 0);
    // nothing follows it before a message is sent
    while head_length(&buffer[..filled]).is_none() {
        let n = stream.read(&mut buffer[filled..]).await?;
        ensure!(n > 0, "the connection ended before it was upgraded");
        filled += n;
    }
    let head = String::from_utf8_lossy(&buffer[..filled]);
    ensure!(head.starts_with("HTTP/1.1 101 "), "answered {}", head.lines().next().unwrap_or_default());
    Ok(())
}

/// Echoes messages; `buffer` holds what came behind the upgrade.
pub(super) async fn echo(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut buffer: Vec<u8>,
    mut filled: usize,
) -> Result<()> {
    let mut out = Vec::new();
    loop {
        const FRAME: usize = MASKED.len() + MASK.len() + MESSAGE;
        let mut used = 0;
        while let Some((head, rest)) = buffer[used..filled].get(..FRAME).and_then(|f| f.split_at_checked(4)) {
            ensure!(head == MASKED, "another frame than the load sends: {head:?}");
            let (mask, payload) = rest.split_first_chunk().context("a frame without mask")?;
            out.extend_from_slice(&PLAIN);
            let begin = out.len();
            out.extend_from_slice(payload);
            unmask(*mask, &mut out[begin..]);
            used += FRAME;
        }
        buffer.copy_within(used..filled, 0);
        filled -= used;
        stream.write_all(&out).await?;
        out.clear();
        let n = stream.read(&mut buffer[filled..]).await?;
        if n == 0 {
            return Ok(());
        }
        filled += n;
    }
}

/// Masks, or takes the mask away.
fn unmask(mask: [u8; 4], payload: &mut [u8]) {
    for (byte, mask) in payload.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
}
