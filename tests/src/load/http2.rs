//! HTTP/2 requests as a client that cares for nothing but its answers: frames as bytes (RFC 9113), its own
//! fields in the dynamic table after the first request as a browser's would be (RFC 7541).

use super::{FIELDS, SMALL, Tickets, host};
use anyhow::{Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Streams of one connection at a time.
const STREAMS: u32 = 10;
/// The largest window.
const WINDOW: u32 = (1 << 31) - 1;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The header block of the first request, which fills the table, or of a later one.
fn block(first: bool) -> Vec<u8> {
    // :method GET and :scheme https are in the static table
    let mut block = vec![0x82, 0x87];
    let own = [(":authority", host(0)), (":path", SMALL.to_owned())];
    let own = own.into_iter().chain(FIELDS.map(|(n, v)| (n, v.to_owned())));
    let own: Vec<_> = own.filter(|(_, v)| !v.is_empty()).collect();
    for (i, (name, value)) in own.iter().enumerate() {
        if first {
            block.push(0x40);
            for text in [&name.to_ascii_lowercase(), value] {
                // lengths below 127 fit the prefix
                block.push(u8::try_from(text.len()).unwrap_or(u8::MAX).min(126));
                block.extend_from_slice(text.as_bytes());
            }
        } else {
            // the table's newest entry is 62
            block.push(0x80 | u8::try_from(61 + own.len() - i).unwrap_or(0));
        }
    }
    block
}

/// Keeps ten streams busy on one connection; returns how many were answered.
pub(super) async fn run(mut stream: impl AsyncRead + AsyncWrite + Unpin, tickets: &Tickets) -> Result<u64> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let initial_window = [&[0, 4][..], &WINDOW.to_be_bytes()].concat();
    frame(&mut out, SETTINGS, 0, 0, &initial_window);
    frame(&mut out, WINDOW_UPDATE, 0, 0, &(WINDOW - 65_535).to_be_bytes());
    let mut client = Client { out, next: 1, open: 0, answered: 0, received: 0, later: block(false) };
    for _ in 0..STREAMS {
        client.request(tickets);
    }
    let (mut buffer, mut filled) = (vec![0; 64 << 10], 0);
    while client.open > 0 {
        stream.write_all(&client.out).await?;
        stream.flush().await?;
        client.out.clear();
        let n = stream.read(&mut buffer[filled..]).await?;
        ensure!(n > 0, "the connection ended with {} streams open", client.open);
        filled += n;
        let used = client.take(&buffer[..filled], tickets)?;
        buffer.copy_within(used..filled, 0);
        filled -= used;
    }
    Ok(client.answered)
}

struct Client {
    /// What is to be written.
    out: Vec<u8>,
    /// The next stream.
    next: u32,
    open: u32,
    answered: u64,
    /// Bytes of bodies since the connection's window was opened.
    received: u32,
    later: Vec<u8>,
}

impl Client {
    fn request(&mut self, tickets: &Tickets) {
        if !tickets.take() {
            return;
        }
        let flags = END_STREAM | END_HEADERS;
        match self.next {
            1 => frame(&mut self.out, HEADERS, flags, 1, &block(true)),
            n => frame(&mut self.out, HEADERS, flags, n, &self.later),
        }
        self.next += 2;
        self.open += 1;
    }

    /// Takes the whole frames, and says how many bytes they were.
    fn take(&mut self, bytes: &[u8], tickets: &Tickets) -> Result<usize> {
        let mut at = 0;
        while let Some(head) = bytes.get(at..at + 9) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let end = at + 9 + usize::try_from(length)?;
            let Some(payload) = bytes.get(at + 9..end) else { break };
            self.frame(head[3], head[4], length, payload, tickets)?;
            at = end;
        }
        Ok(at)
    }

    fn frame(&mut self, kind: u8, flags: u8, length: u32, payload: &[u8], tickets: &Tickets) -> Result<()> {
        match kind {
            DATA => self.received += length,
            // the first field is :status 200 of the static table, after what the table's size may become
            HEADERS => {
                let status = payload.iter().find(|b| !matches!(b, 0x20..=0x3f));
                ensure!(status == Some(&0x88), "an answer that is not 200");
            }
            SETTINGS if flags & ACK == 0 => frame(&mut self.out, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(&mut self.out, PING, ACK, 0, payload),
            RST_STREAM => bail!("a stream was reset: {payload:?}"),
            GOAWAY => bail!("the server says goodbye: {payload:?}"),
            _ => {}
        }
        if self.received > WINDOW / 4 {
            frame(&mut self.out, WINDOW_UPDATE, 0, 0, &self.received.to_be_bytes());
            self.received = 0;
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            self.open -= 1;
            self.answered += 1;
            self.request(tickets);
        }
        Ok(())
    }
}
