//! Watches the frames that we send, for how `h2` ends a stream by itself, of which it tells nobody.

use h2::Reason;
use std::collections::VecDeque;

const HEADER: usize = 9;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
/// How many ends are remembered.
const ENDS: usize = 128;

/// How `h2` ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With an answer; it has but one, a 431.
    Answer,
    Reset(Reason),
}

/// Where in our own bytes we are.
#[derive(Default)]
pub(super) struct Sent {
    /// The header of a frame, and of RST_STREAM all of it.
    head: [u8; HEADER + 4],
    filled: usize,
    /// Bytes of payload still to come.
    payload: usize,
    /// The last streams that were ended, and how.
    ends: VecDeque<(u32, End)>,
}

impl Sent {
    /// Takes note of bytes as they are written. `is_unseen` says of a stream that `h2` has not handed it over.
    pub(super) fn see(&mut self, mut bytes: &[u8], is_unseen: impl Fn(u32) -> bool) {
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
                self.frame(&is_unseen);
            }
        }
    }

    fn frame(&mut self, is_unseen: impl Fn(u32) -> bool) {
        let [a, b, c, kind, _, stream @ .., e, f, g, h] = self.head;
        let stream = u32::from_be_bytes(stream);
        if self.filled == HEADER {
            if kind == RST_STREAM {
                return;
            }
            self.payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if kind == HEADERS && is_unseen(stream) {
                self.note(stream, End::Answer);
            }
        } else if self.end(stream).is_none() {
            self.note(stream, End::Reset(Reason::from(u32::from_be_bytes([e, f, g, h]))));
        }
        self.filled = 0;
    }

    fn note(&mut self, stream: u32, end: End) {
        if self.ends.len() == ENDS {
            self.ends.pop_front();
        }
        self.ends.push_back((stream, end));
    }

    /// How a stream was ended, if that was lately.
    pub(super) fn end(&self, stream: u32) -> Option<End> {
        self.ends.iter().rev().find(|(s, _)| *s == stream).map(|(_, end)| *end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_seen_however_the_bytes_are_cut() {
        let frame = |kind: u8, stream: u8, payload: &[u8]| {
            let length = u8::try_from(payload.len()).unwrap();
            [&[0, 0, length, kind, 0, 0, 0, 0, stream][..], payload].concat()
        };
        let bytes = [
            frame(4, 0, b"\0\x03\0\0\0\x64"),
            frame(RST_STREAM, 1, b"\0\0\0\x01"),
            frame(HEADERS, 3, b"\x88"),
            frame(0, 3, &[3; 40]),
            frame(HEADERS, 7, b"\x88"),
            frame(4, 0, b""),
            frame(RST_STREAM, 5, b"\0\0\0\x07"),
            frame(RST_STREAM, 7, b"\0\0\0\x01"),
        ]
        .concat();
        for cut in 0..=bytes.len() {
            let mut sent = Sent::default();
            sent.see(&bytes[..cut], |stream| stream != 3);
            sent.see(&bytes[cut..], |stream| stream != 3);
            let [malformed, refused] =
                [Reason::PROTOCOL_ERROR, Reason::REFUSED_STREAM].map(|why| Some(End::Reset(why)));
            let seen = [1, 3, 5, 7].map(|stream| sent.end(stream));
            assert_eq!(seen, [malformed, None, refused, Some(End::Answer)]);
        }
    }
}
