//! Watches the frames that a client sends, for what `h2` does not watch: that its preface ends in
//! SETTINGS (RFC 9113 3.4), that trailers have no pseudo-header fields, and since when a header block has been
//! open.

use super::abuse::IdleFrames;
use super::blocks::Blocks;
use std::time::Instant;

const PREFACE: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// The bits of a stream's number.
const STREAM: u32 = u32::MAX >> 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Where in the client's bytes we are.
#[derive(Default)]
pub(super) struct Frames {
    /// Bytes seen, up to the preface's length.
    preface: usize,
    header: [u8; 9],
    /// Bytes of `header` that are there.
    filled: usize,
    /// Bytes of payload still to come.
    payload: usize,
    begun: bool,
    greeted: bool,
    open_since: Option<Instant>,
    idle: IdleFrames,
    flooded: bool,
    /// A client's header blocks; not those of servers, of whose trailers no pseudo-header field goes on.
    blocks: Option<Blocks>,
    /// The payload is part of a header block, or the last of one.
    fields: bool,
    block_ends: bool,
}

/// What a peer does that the protocol forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forbidden {
    /// The first frame is not SETTINGS.
    NoSettings,
    /// Trailers have a pseudo-header field.
    PseudoTrailer,
}

impl Frames {
    /// Those of a client.
    pub(super) fn of_client() -> Self {
        Frames { blocks: Some(Blocks::default()), ..Frames::default() }
    }

    /// Those of a server, whose preface is its SETTINGS alone.
    pub(super) fn of_server() -> Self {
        Frames { preface: PREFACE, ..Frames::default() }
    }

    /// Takes note of bytes as they are read.
    ///
    /// # Errors
    /// For what `h2` is not to see.
    pub(super) fn see(&mut self, mut bytes: &[u8]) -> Result<(), Forbidden> {
        let n = bytes.len().min(PREFACE - self.preface);
        self.preface += n;
        bytes = &bytes[n..];
        while !bytes.is_empty() {
            let skipped = bytes.len().min(self.payload);
            self.payload -= skipped;
            if self.fields
                && let Some(blocks) = &mut self.blocks
                && !blocks.see(&bytes[..skipped], self.payload)
            {
                return Err(Forbidden::PseudoTrailer);
            }
            if self.payload == 0 && std::mem::take(&mut self.block_ends) {
                self.blocks.as_mut().into_iter().for_each(Blocks::finish);
            }
            bytes = &bytes[skipped..];
            let n = bytes.len().min(self.header.len() - self.filled);
            self.header[self.filled..self.filled + n].copy_from_slice(&bytes[..n]);
            self.filled += n;
            bytes = &bytes[n..];
            if self.filled == self.header.len() {
                self.filled = 0;
                self.frame()?;
            }
        }
        self.greeted |= self.begun && self.payload == 0;
        Ok(())
    }

    fn frame(&mut self) -> Result<(), Forbidden> {
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        self.payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.greeted = self.begun;
        if !std::mem::replace(&mut self.begun, true) && kind != SETTINGS {
            return Err(Forbidden::NoSettings);
        }
        let asks_nothing = match kind {
            DATA => self.payload == 0 && flags & END_STREAM == 0,
            HEADERS | RST_STREAM | WINDOW_UPDATE => false,
            _ => true,
        };
        self.flooded |= asks_nothing && self.idle.flood();
        self.fields = matches!(kind, HEADERS | CONTINUATION);
        if let Some(blocks) = &mut self.blocks {
            let stream = u32::from_be_bytes(stream) & STREAM;
            match kind {
                HEADERS => blocks.begin(stream, flags),
                CONTINUATION => blocks.go_on(),
                RST_STREAM => blocks.end(stream),
                DATA if flags & END_STREAM != 0 => blocks.end(stream),
                _ => {}
            }
        }
        if self.fields {
            let open = flags & END_HEADERS == 0;
            self.block_ends = !open;
            self.open_since = open.then(|| self.open_since.unwrap_or_else(Instant::now));
        }
        Ok(())
    }

    /// Takes out the first stream that the client has opened, where it is older than `stream`, which is taken out,
    /// too.
    pub(super) fn opened_before(&mut self, stream: u32) -> Option<u32> {
        self.blocks.as_mut()?.opened_before(stream)
    }

    /// Whether a client has opened this stream, and it was not taken out.
    pub(super) fn is_unseen(&self, stream: u32) -> bool {
        self.blocks.as_ref().is_some_and(|blocks| blocks.is_unseen(stream))
    }

    /// Whether the peer's first frame, its SETTINGS, has come.
    pub(super) fn greeted(&self) -> bool {
        self.greeted
    }

    /// Whether too many frames came that ask for nothing: PING, SETTINGS, PRIORITY, empty DATA,
    /// CONTINUATION, and what nobody knows.
    pub(super) fn flooded(&self) -> bool {
        self.flooded
    }

    /// Since when a header block has waited for its end.
    pub(super) fn open_since(&self) -> Option<Instant> {
        self.open_since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut f = vec![0, 0, u8::try_from(payload).unwrap(), kind, flags, 0, 0, 0, 1];
        f.resize(9 + payload, 0xff);
        f
    }

    #[test]
    fn header_blocks_are_seen_to_open_and_close_however_the_bytes_are_cut() {
        let preface = vec![0; PREFACE];
        let bytes = [preface, frame(SETTINGS, 0, 12), frame(HEADERS, 0, 5), frame(0, 0, 3)].concat();
        for cut in 0..bytes.len() {
            let mut f = Frames::of_client();
            f.see(&bytes[..cut]).unwrap();
            f.see(&bytes[cut..]).unwrap();
            let since = f.open_since().expect("the block is open");
            f.see(&frame(CONTINUATION, 0, 1)).unwrap();
            assert_eq!(f.open_since(), Some(since));
            f.see(&frame(CONTINUATION, END_HEADERS, 1)).unwrap();
            assert_eq!(f.open_since(), None);
        }
    }

    #[test]
    fn settings_have_come_once_all_of_them_have() {
        for more in [vec![], frame(HEADERS, 0, 5)] {
            let bytes = [frame(SETTINGS, 0, 12), more].concat();
            for cut in 0..=bytes.len() {
                let mut f = Frames::of_server();
                f.see(&bytes[..cut]).unwrap();
                assert_eq!(f.greeted(), cut >= 21, "cut at {cut}");
                f.see(&bytes[cut..]).unwrap();
                assert!(f.greeted());
            }
        }
    }

    #[test]
    fn the_first_frame_is_settings() {
        let mut f = Frames::of_client();
        f.see(&[0; PREFACE]).unwrap();
        assert_eq!(f.see(&frame(HEADERS, END_HEADERS, 5)), Err(Forbidden::NoSettings));
    }
    #[test]
    fn trailers_have_no_pseudo_fields() {
        let headers = |block: &[u8]| {
            let mut f = frame(HEADERS, END_HEADERS, block.len());
            f.truncate(9);
            [f, block.to_vec()].concat()
        };
        let request = [vec![0; PREFACE], frame(SETTINGS, 0, 0), headers(b"\x84"), frame(DATA, 0, 3)].concat();
        for (trailers, verdict) in [(b"\x90", Ok(())), (b"\x84", Err(Forbidden::PseudoTrailer))] {
            let bytes = [request.clone(), headers(trailers), frame(DATA, 0, 3)].concat();
            for cut in 0..bytes.len() {
                let mut f = Frames::of_client();
                assert_eq!(f.see(&bytes[..cut]).and_then(|()| f.see(&bytes[cut..])), verdict, "cut at {cut}");
            }
            let bytes = [frame(SETTINGS, 0, 0), headers(b"\x88"), headers(trailers)].concat();
            assert_eq!(Frames::of_server().see(&bytes), Ok(()));
        }
    }
}
