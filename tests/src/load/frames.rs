//! HTTP/2 frames as bytes (RFC 9113, section 4), for peers that know what to expect of each other.

/// The largest window.
pub(super) const LARGEST: u32 = (1 << 31) - 1;
/// The window of a connection or stream before anything was said of it.
pub(super) const INITIAL: u32 = 65_535;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// A whole frame.
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: &'a [u8],
}

impl Frame<'_> {
    /// The frame that these bytes begin with, and how many of them it is.
    pub(super) fn first(bytes: &[u8]) -> Option<(Frame<'_>, usize)> {
        let (head, rest) = bytes.split_first_chunk::<9>()?;
        let [a, b, c, kind, flags, stream @ ..] = *head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let payload = rest.get(..length)?;
        Some((Frame { kind, flags, stream: u32::from_be_bytes(stream) & LARGEST, payload }, 9 + length))
    }

    /// How much the frame takes of a window.
    pub(super) fn length(&self) -> u32 {
        u32::try_from(self.payload.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

pub(super) fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// What each side says first (the client behind its preface): windows as large as they can be.
pub(super) fn write_first(out: &mut Vec<u8>) {
    let initial_window = [&[0, 4][..], &LARGEST.to_be_bytes()].concat();
    write(out, SETTINGS, 0, 0, &initial_window);
    write(out, WINDOW_UPDATE, 0, 0, &(LARGEST - INITIAL).to_be_bytes());
}

/// What may be sent and was received on a connection, all of its streams together. Bodies are so small, and windows of
/// streams so large, that only this window ever matters.
pub(super) struct Windows {
    sendable: i64,
    received: u32,
}

impl Windows {
    pub(super) fn new() -> Windows {
        Windows { sendable: INITIAL.into(), received: 0 }
    }

    /// Takes so many bytes of what may be sent, if there is room for all of them.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let left = i64::try_from(bytes).map_or(-1, |bytes| self.sendable - bytes);
        if left >= 0 {
            self.sendable = left;
        }
        left >= 0
    }

    /// Does what every frame asks for: acknowledges settings and pings, and keeps the windows open.
    pub(super) fn answer(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) {
        match frame.kind {
            DATA => self.received += frame.length(),
            SETTINGS if frame.flags & ACK == 0 => write(out, SETTINGS, ACK, 0, &[]),
            PING if frame.flags & ACK == 0 => write(out, PING, ACK, 0, frame.payload),
            WINDOW_UPDATE if frame.stream == 0 => {
                let more = frame.payload.try_into().map_or(0, u32::from_be_bytes);
                self.sendable += i64::from(more & LARGEST);
            }
            _ => {}
        }
        if self.received > LARGEST / 4 {
            write(out, WINDOW_UPDATE, 0, 0, &self.received.to_be_bytes());
            self.received = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let mut bytes = Vec::new();
        write(&mut bytes, DATA, END_STREAM, 5, b"abc");
        assert!(Frame::first(&bytes[..11]).is_none());
        bytes.push(1);
        let (frame, length) = Frame::first(&bytes).unwrap();
        assert_eq!((frame.kind, frame.flags, frame.stream, frame.payload), (0, 1, 5, &b"abc"[..]));
        assert!(length == 12 && frame.ends_stream());
    }

    #[test]
    fn what_may_be_sent_is_what_the_window_has() {
        let (mut windows, mut out) = (Windows::new(), Vec::new());
        assert!(windows.take(65_000) && !windows.take(600) && windows.take(535) && !windows.take(1));
        let update = Frame { kind: WINDOW_UPDATE, flags: 0, stream: 0, payload: &600u32.to_be_bytes() };
        windows.answer(&update, &mut out);
        assert!(windows.take(600) && !windows.take(1) && out.is_empty());
    }
}
