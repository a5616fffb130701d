//! The origin's side of gRPC: an HTTP/2 server that looks at frames only, never at header blocks, and answers each call
//! with a message as long as the call's.

use super::frames::{self, DATA, END_HEADERS, END_STREAM, Frame, HEADERS, RST_STREAM, Windows};
use anyhow::{Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A gRPC message of a hundred bytes with its prefix: not compressed, and its length.
pub fn message() -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, 100];
    bytes.resize(105, b'm');
    bytes
}

/// `:status` 200 and `content-type` of the static table, without use of the dynamic one (RFC 7541, 6.2.2).
const HEAD: &[u8] = b"\x88\x0f\x10\x10application/grpc";
const TRAILERS: &[u8] = b"\x00\x0bgrpc-status\x010";

/// Serves a connection whose preface was read; `buffer` holds what came behind it.
pub(super) async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut buffer: Vec<u8>,
    mut filled: usize,
) -> Result<()> {
    let mut callee = Callee {
        message: message(),
        out: Vec::new(),
        calls: Vec::new(),
        done: Vec::new(),
        windows: Windows::new(),
    };
    frames::write_first(&mut callee.out);
    buffer.resize(64 << 10, 0);
    loop {
        let mut used = 0;
        while let Some((frame, length)) = Frame::first(&buffer[used..filled]) {
            callee.frame(&frame)?;
            used += length;
        }
        buffer.copy_within(used..filled, 0);
        filled -= used;
        stream.write_all(&callee.out).await?;
        callee.out.clear();
        let n = stream.read(&mut buffer[filled..]).await?;
        if n == 0 {
            return Ok(());
        }
        filled += n;
    }
}

struct Callee {
    message: Vec<u8>,
    /// What is to be written.
    out: Vec<u8>,
    /// Streams whose calls have not ended, and what came of their messages.
    calls: Vec<(u32, usize)>,
    /// Those that have, and wait for room in the connection's window.
    done: Vec<u32>,
    windows: Windows,
}

impl Callee {
    fn frame(&mut self, frame: &Frame<'_>) -> Result<()> {
        self.windows.answer(frame, &mut self.out);
        match frame.kind {
            HEADERS => self.calls.push((frame.stream, 0)),
            RST_STREAM => self.calls.retain(|(stream, _)| *stream != frame.stream),
            DATA => {
                if let Some((_, length)) = self.calls.iter_mut().find(|(stream, _)| *stream == frame.stream) {
                    *length += frame.payload.len();
                }
            }
            _ => {}
        }
        if frame.ends_stream()
            && let Some(at) = self.calls.iter().position(|(stream, _)| *stream == frame.stream)
        {
            let (stream, length) = self.calls.swap_remove(at);
            ensure!(length == self.message.len(), "a call of {length} bytes");
            self.done.push(stream);
        }
        while !self.done.is_empty() && self.windows.take(self.message.len()) {
            let stream = self.done.remove(0);
            frames::write(&mut self.out, HEADERS, END_HEADERS, stream, HEAD);
            frames::write(&mut self.out, DATA, 0, stream, &self.message);
            frames::write(&mut self.out, HEADERS, END_HEADERS | END_STREAM, stream, TRAILERS);
        }
        Ok(())
    }
}
