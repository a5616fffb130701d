//! Watches the frames that we send, for why `h2` resets a stream by itself, of which it tells nobody.

use h2::Reason;
use std::collections::VecDeque;

const HEADER: usize = 9;
const RST_STREAM: u8 = 3;
/// How many resets are remembered.
const RESETS: usize = 128;

/// Where in our own bytes we are.
#[derive(Default)]
pub(super) struct Sent {
    /// The header of a frame, and of RST_STREAM all of it.
    head: [u8; HEADER + 4],
    filled: usize,
    /// Bytes of payload still to come.
    payload: usize,
    /// The last streams that were reset, and why.
    resets: VecDeque<(u32, Reason)>,
}

impl Sent {
    /// Takes note of bytes as they are written.
    pub(super) fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = bytes.len().min(self.payload);
            self.payload -= skipped;
            bytes = &bytes[skipped..];
            let whole = if self.filled >= HEADER { self.head.len() } else { HEADER };
            let n = bytes.len().min(whole - self.filled);
            self.head[self.filled..self.filled + n].copy_from_slice(&bytes[..n]);
            self.filled += n;
            bytes = &bytes[n..];
            if self.filled == whole {
                self.frame();
            }
        }
    }

    fn frame(&mut self) {
        let [a, b, c, kind, _, stream @ .., e, f, g, h] = self.head;
        if self.filled == HEADER && kind == RST_STREAM {
            return;
        }
        if self.filled == HEADER {
            self.payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        } else {
            if self.resets.len() == RESETS {
                self.resets.pop_front();
            }
            let reason = Reason::from(u32::from_be_bytes([e, f, g, h]));
            self.resets.push_back((u32::from_be_bytes(stream), reason));
        }
        self.filled = 0;
    }

    /// With what code a stream was reset, if that was lately.
    pub(super) fn reset(&self, stream: u32) -> Option<Reason> {
        self.resets.iter().rev().find(|(s, _)| *s == stream).map(|(_, reason)| *reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_seen_however_the_bytes_are_cut() {
        let frame = |kind: u8, stream: u8, payload: &[u8]| {
            let length = u8::try_from(payload.len()).unwrap();
            [&[0, 0, length, kind, 0, 0, 0, 0, stream][..], payload].concat()
        };
        let bytes = [
            frame(4, 0, b"\0\x03\0\0\0\x64"),
            frame(RST_STREAM, 1, b"\0\0\0\x01"),
            frame(0, 3, &[3; 40]),
            frame(4, 0, b""),
            frame(RST_STREAM, 5, b"\0\0\0\x07"),
        ]
        .concat();
        for cut in 0..=bytes.len() {
            let mut sent = Sent::default();
            sent.see(&bytes[..cut]);
            sent.see(&bytes[cut..]);
            let seen = [1, 3, 5].map(|stream| sent.reset(stream));
            assert_eq!(seen, [Some(Reason::PROTOCOL_ERROR), None, Some(Reason::REFUSED_STREAM)]);
        }
    }
}
