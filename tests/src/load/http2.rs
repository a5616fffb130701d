//! HTTP/2 requests as a client that cares for nothing but its answers: frames as bytes (RFC 9113), its own
//! fields in the dynamic table after the first request as a browser's would be (RFC 7541).

use super::frames::{self, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, RST_STREAM, Windows};
use super::{FIELDS, GRPC_HOST, KILOBYTE, METHOD, SMALL, Tickets, grpc, host};
use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Streams of one connection at a time.
const STREAMS: u32 = 10;
/// `:method` and `:scheme` of the static table.
const GET: u8 = 0x82;
const POST: u8 = 0x83;
const HTTPS: u8 = 0x87;
/// What a gRPC client sends beside, and a field that the proxy takes away.
const CALL_FIELDS: [(&str, &str); 6] = [
    ("content-type", "application/grpc"),
    ("te", "trailers"),
    ("user-agent", "grpc-go/1.76.0"),
    ("grpc-accept-encoding", "gzip"),
    ("authorization", "Bearer 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
    ("x-debug", "1"),
];

/// What is asked again and again, and what must come back.
pub(super) struct Call {
    /// The header block of the first request, which fills the table, and of the later ones.
    first: Vec<u8>,
    later: Vec<u8>,
    body: Vec<u8>,
    /// The length of the answer's body.
    answer: usize,
    /// Whether trailers must follow it.
    trailers: bool,
}

impl Call {
    pub(super) fn get() -> Call {
        let own = [(":authority", host(0)), (":path", SMALL.to_owned())];
        let own = own.into_iter().chain(FIELDS.map(|(n, v)| (n, v.to_owned())));
        Call::new(GET, &own.collect::<Vec<_>>(), Vec::new(), KILOBYTE, false)
    }

    pub(super) fn grpc() -> Call {
        let own = [(":authority", GRPC_HOST.to_owned()), (":path", METHOD.to_owned())];
        let own = own.into_iter().chain(CALL_FIELDS.map(|(n, v)| (n, v.to_owned())));
        Call::new(POST, &own.collect::<Vec<_>>(), grpc::message(), grpc::message().len(), true)
    }

    fn new(method: u8, own: &[(&str, String)], body: Vec<u8>, answer: usize, trailers: bool) -> Call {
        let (mut first, mut later) = (vec![method, HTTPS], vec![method, HTTPS]);
        for (i, (name, value)) in own.iter().enumerate() {
            first.push(0x40);
            for text in [&name.to_ascii_lowercase(), value] {
                // lengths below 127 fit the prefix
                first.push(u8::try_from(text.len()).unwrap_or(u8::MAX).min(126));
                first.extend_from_slice(text.as_bytes());
            }
            // the table's newest entry is 62
            later.push(0x80 | u8::try_from(61 + own.len() - i).unwrap_or(0));
        }
        Call { first, later, body, answer, trailers }
    }
}

/// Keeps ten streams busy on one connection; returns how many were answered.
pub(super) async fn run(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    call: &Call,
    tickets: &Tickets,
) -> Result<u64> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frames::write_first(&mut out);
    let mut client = Client {
        call,
        out,
        next: 1,
        open: Vec::new(),
        waiting: STREAMS,
        answered: 0,
        windows: Windows::new(),
    };
    client.send(tickets);
    let (mut buffer, mut filled) = (vec![0; 64 << 10], 0);
    while !client.open.is_empty() || client.waiting > 0 {
        stream.write_all(&client.out).await?;
        stream.flush().await?;
        client.out.clear();
        let n = stream.read(&mut buffer[filled..]).await?;
        ensure!(n > 0, "the connection ended with {} streams open", client.open.len());
        filled += n;
        let mut used = 0;
        while let Some((frame, length)) = Frame::first(&buffer[used..filled]) {
            client.frame(&frame, tickets)?;
            used += length;
        }
        buffer.copy_within(used..filled, 0);
        filled -= used;
    }
    Ok(client.answered)
}

/// A request that is not answered yet.
struct Open {
    stream: u32,
    has_head: bool,
    /// What came of the body.
    body: usize,
}

struct Client<'a> {
    call: &'a Call,
    /// What is to be written.
    out: Vec<u8>,
    /// The next stream.
    next: u32,
    open: Vec<Open>,
    /// Requests for which there was no room in the connection's window yet.
    waiting: u32,
    answered: u64,
    windows: Windows,
}

impl Client<'_> {
    /// Sends what waits, unless the load has ended.
    fn send(&mut self, tickets: &Tickets) {
        while self.waiting > 0 && self.windows.take(self.call.body.len()) {
            self.waiting -= 1;
            if !tickets.take() {
                continue;
            }
            let block = if self.next == 1 { &self.call.first } else { &self.call.later };
            if self.call.body.is_empty() {
                frames::write(&mut self.out, HEADERS, END_STREAM | END_HEADERS, self.next, block);
            } else {
                frames::write(&mut self.out, HEADERS, END_HEADERS, self.next, block);
                frames::write(&mut self.out, DATA, END_STREAM, self.next, &self.call.body);
            }
            self.open.push(Open { stream: self.next, has_head: false, body: 0 });
            self.next += 2;
        }
    }

    fn frame(&mut self, frame: &Frame<'_>, tickets: &Tickets) -> Result<()> {
        self.windows.answer(frame, &mut self.out);
        match frame.kind {
            DATA | HEADERS => self.part(frame)?,
            RST_STREAM => bail!("a stream was reset: {:?}", frame.payload),
            GOAWAY => bail!("the server says goodbye: {:?}", frame.payload),
            _ => {}
        }
        self.send(tickets);
        Ok(())
    }

    /// A part of an answer: 200, the body in its length, and trailers if there must be some.
    fn part(&mut self, frame: &Frame<'_>) -> Result<()> {
        let at = self.open.iter().position(|o| o.stream == frame.stream);
        let open = at.and_then(|at| self.open.get_mut(at)).context("an answer to nothing")?;
        if frame.kind == DATA {
            open.body += frame.payload.len();
        } else if !open.has_head {
            // the first field is :status 200 of the static table, after what the table's size may become
            let status = frame.payload.iter().find(|b| !matches!(b, 0x20..=0x3f));
            ensure!(status == Some(&0x88), "an answer that is not 200");
            open.has_head = true;
        }
        if frame.ends_stream() {
            let (body, must) = (open.body, self.call.answer);
            ensure!(body == must, "an answer of {body} bytes instead of {must}");
            ensure!((frame.kind == HEADERS) == self.call.trailers, "trailers that must not be, or none");
            self.open.swap_remove(at.unwrap_or(0));
            self.answered += 1;
            self.waiting += 1;
        }
        Ok(())
    }
}
