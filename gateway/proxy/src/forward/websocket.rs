//! WebSocket, as far as a gateway speaks it. Of its opening handshake (RFC 6455 4), which is none
//! over HTTP/2 (RFC 8441 5), it takes the server's part towards a client of HTTP/1, and the
//! client's part towards an upstream of HTTP/1. And it says goodbye when it stops.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What is added to a key (RFC 6455 1.3).
const SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A fresh `Sec-WebSocket-Key`.
pub(crate) fn key() -> String {
    STANDARD.encode(fastrand::u128(..).to_be_bytes())
}

/// Whether a key is one: 16 bytes in base64.
pub(crate) fn is_key(key: &[u8]) -> bool {
    STANDARD.decode(key).is_ok_and(|k| k.len() == 16)
}

/// The `Sec-WebSocket-Accept` that answers a key.
pub(crate) fn accept(key: &[u8]) -> String {
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key);
    digest.update(SUFFIX);
    STANDARD.encode(digest.finish())
}

/// Which side sends: what a client sends is masked, and nothing else is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sender {
    Client,
    Server,
}

/// Where in the frames that one side sends we are. Their content is not looked at.
pub(crate) struct Frames {
    sender: Sender,
    header: [u8; 14],
    /// Bytes of `header` that are there.
    filled: usize,
    /// Bytes of payload still to come.
    payload: u64,
    /// These are no frames, or the last one has come.
    over: bool,
}

impl Frames {
    pub(crate) fn of(sender: Sender) -> Self {
        Frames { sender, header: [0; 14], filled: 0, payload: 0, over: false }
    }

    /// Takes note of bytes as they pass.
    pub(crate) fn see(&mut self, mut bytes: &[u8]) {
        while !self.over && !bytes.is_empty() {
            if self.payload > 0 {
                let n = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
                self.payload -= n as u64;
                bytes = &bytes[n..];
                continue;
            }
            self.header[self.filled] = bytes[0];
            self.filled += 1;
            bytes = &bytes[1..];
            self.begin();
        }
    }

    /// Begins a frame once its header is there.
    fn begin(&mut self) {
        const CLOSE: u8 = 8;
        let [first, second, ..] = self.header;
        if self.filled < 2 {
            return;
        }
        let masked = second & 0x80 != 0;
        let known = first & 0x30 == 0 && matches!(first & 0xf, 0..=2 | CLOSE..=10);
        self.over = !known || masked != (self.sender == Sender::Client);
        let length = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if self.over || self.filled < 2 + length + if masked { 4 } else { 0 } {
            return;
        }
        self.payload = match length {
            0 => u64::from(second & 0x7f),
            _ => self.header[2..2 + length].iter().fold(0, |n, b| n << 8 | u64::from(*b)),
        };
        self.over = first & 0xf == CLOSE;
        self.filled = 0;
    }

    /// A Close frame that says that the gateway goes away (1001), where one may stand now.
    pub(crate) fn goodbye(&mut self) -> Option<Vec<u8>> {
        if self.over || self.filled > 0 || self.payload > 0 {
            return None;
        }
        self.over = true;
        let [high, low] = 1001u16.to_be_bytes();
        Some(match self.sender {
            Sender::Server => vec![0x88, 2, high, low],
            Sender::Client => {
                let mask @ [a, b, c, d] = fastrand::u32(..).to_be_bytes();
                vec![0x88, 0x82, a, b, c, d, high ^ mask[0], low ^ mask[1]]
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_answered_as_the_rfc_says() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let (one, two) = (key(), key());
        assert!(is_key(one.as_bytes()) && is_key(two.as_bytes()) && one != two);
        for not_a_key in
            ["", "a", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZTEyMw==", "dGhl IHNhbXBsZSBub25jZQ=="]
        {
            assert!(!is_key(not_a_key.as_bytes()), "{not_a_key}");
        }
    }

    /// A frame of that many bytes.
    fn frame(first: u8, masked: bool, payload: usize) -> Vec<u8> {
        let (mask, bit): (&[u8], u8) = if masked { (b"mask", 0x80) } else { (b"", 0) };
        let length = match payload {
            0..126 => vec![u8::try_from(payload).unwrap() | bit],
            126..0x10000 => [&[126 | bit], &u16::try_from(payload).unwrap().to_be_bytes()[..]].concat(),
            _ => [&[127 | bit], &payload.to_be_bytes()[..]].concat(),
        };
        [&[first], &length[..], mask, &vec![0xff; payload]].concat()
    }

    #[test]
    fn a_goodbye_stands_between_frames_and_nowhere_else() {
        for (sender, masked) in [(Sender::Client, true), (Sender::Server, false)] {
            let frames = [(0x81, 0), (0x02, 5), (0x89, 125), (0xc0, 126), (0x82, 70_000)];
            let frames = frames.map(|(first, payload)| frame(first, masked, payload));
            let bytes = frames.concat();
            let mut ends = vec![0];
            frames.iter().for_each(|f| ends.push(ends[ends.len() - 1] + f.len()));
            for cut in (0..1000).chain(bytes.len() - 3..=bytes.len()) {
                let mut f = Frames::of(sender);
                f.see(&bytes[..cut]);
                assert_eq!(f.goodbye().is_some(), ends.contains(&cut), "{sender:?} at {cut}");
                assert_eq!(f.goodbye(), None, "it is said once");
            }
        }
    }

    #[test]
    fn nothing_is_said_in_what_is_no_websocket_or_has_ended() {
        for bytes in [b"hello".to_vec(), frame(0x83, false, 1), frame(0x81, true, 1), frame(0x88, false, 2)] {
            let mut f = Frames::of(Sender::Server);
            f.see(&bytes);
            assert_eq!(f.goodbye(), None, "{bytes:?}");
        }
        let said = Frames::of(Sender::Client).goodbye().unwrap();
        assert_eq!([said[0], said[1], said[6] ^ said[2], said[7] ^ said[3]], [0x88, 0x82, 3, 0xe9]);
        assert_eq!(Frames::of(Sender::Server).goodbye().unwrap(), [0x88, 2, 3, 0xe9]);
    }
}
