//! Reads header blocks just far enough to know pseudo-header fields in trailers, which are malformed
//! (RFC 9113 8.1) and which `h2` leaves out without a word.
//!
//! Of the dynamic table (RFC 7541 2.3.2) one thing is kept: which of the last entries have the name of a
//! pseudo-header field. What was evicted need not be known, since `h2` ends a connection that refers to it.

use std::collections::VecDeque;

/// The last index of the static table (RFC 7541 A), and the last in it of a pseudo-header field.
const STATIC: u32 = 61;
const STATIC_PSEUDO: u32 = 14;
/// How a string begins whose first letter is `:`, in Huffman's code: seven bits (RFC 7541 B).
const HUFFMAN_COLON: u8 = 0b101_1100;

/// How many streams are remembered that the client has not ended: more than it may have open.
const UPLOADS: usize = 256;

const END_STREAM: u8 = 0x1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Where in a header block we are.
#[derive(Clone, Copy)]
enum At {
    /// Before a field.
    Field,
    /// In an integer, whose next seven bits have this weight.
    Integer(Number, u8),
    /// Before the length of a name or a value.
    Length(Number),
    /// Before the first letter of a name.
    Letter,
    /// In what is left of a name, or of a value.
    Name,
    Value,
}

/// What an integer is.
#[derive(Clone, Copy)]
enum Number {
    /// The index of a field that is in a table.
    Field,
    /// The index of a name, or 0 where the name follows.
    NameOf,
    /// The size of the table.
    Size,
    NameLength,
    ValueLength,
}

/// The header blocks that a client sends on a connection.
pub(super) struct Blocks {
    at: At,
    number: u32,
    /// What is left of a string.
    string: usize,
    huffman: bool,
    /// The field enters the table.
    enters: bool,
    /// Its name is that of a pseudo-header field.
    pseudo: bool,
    /// Bit n says whether the entry n before the last is one. The table has 4,096 bytes and each entry at
    /// least 32, so there are never more.
    table: u128,
    /// The newest stream.
    newest: u32,
    /// The stream that the block opens.
    opens: Option<u32>,
    /// Those that were opened and not taken out yet.
    opened: VecDeque<u32>,
    /// Those that the client has not ended, as far as they are remembered.
    uploads: Vec<u32>,
    /// The block is that of one of those.
    trailers: bool,
    /// How much of the frame comes before its fields, whether it begins with the length of what comes behind
    /// them, and how much that is.
    before: u8,
    padded: bool,
    behind: usize,
}

impl Default for Blocks {
    fn default() -> Self {
        Blocks {
            at: At::Field,
            number: 0,
            string: 0,
            huffman: false,
            enters: false,
            pseudo: false,
            table: 0,
            newest: 0,
            opens: None,
            opened: VecDeque::new(),
            uploads: Vec::new(),
            trailers: false,
            before: 0,
            padded: false,
            behind: 0,
        }
    }
}

impl Blocks {
    /// HEADERS begins.
    pub(super) fn begin(&mut self, stream: u32, flags: u8) {
        self.at = At::Field;
        // after its end a stream takes no trailers, which is an error that h2 sees
        self.trailers = self.uploads.contains(&stream);
        if stream > self.newest {
            self.newest = stream;
            self.opens = Some(stream);
            if flags & END_STREAM == 0 {
                if self.uploads.len() == UPLOADS {
                    self.uploads.remove(0);
                }
                self.uploads.push(stream);
            }
        } else if flags & END_STREAM != 0 {
            self.end(stream);
        }
        self.padded = flags & PADDED != 0;
        self.before = u8::from(self.padded) + if flags & PRIORITY != 0 { 5 } else { 0 };
        self.behind = 0;
    }

    /// The block is all there.
    pub(super) fn finish(&mut self) {
        self.opened.extend(self.opens.take());
    }

    /// Takes out the first stream that was opened, where it is older than `stream`, which is taken out, too.
    pub(super) fn opened_before(&mut self, stream: u32) -> Option<u32> {
        match self.opened.front() {
            Some(first) if *first < stream => self.opened.pop_front(),
            Some(first) if *first == stream => {
                self.opened.pop_front();
                None
            }
            _ => None,
        }
    }

    /// Whether a stream was opened and not taken out.
    pub(super) fn is_unseen(&self, stream: u32) -> bool {
        self.opened.contains(&stream)
    }

    /// The client ends a stream.
    pub(super) fn end(&mut self, stream: u32) {
        self.uploads.retain(|s| *s != stream);
    }

    /// CONTINUATION begins.
    pub(super) fn go_on(&mut self) {
        (self.before, self.padded, self.behind) = (0, false, 0);
    }

    /// Takes note of a part of the frame, of which `left` bytes are still to come. False when trailers have
    /// a pseudo-header field.
    pub(super) fn see(&mut self, mut part: &[u8], left: usize) -> bool {
        while self.before > 0 {
            let Some((first, rest)) = part.split_first() else { return true };
            if std::mem::take(&mut self.padded) {
                self.behind = usize::from(*first);
            }
            self.before -= 1;
            part = rest;
        }
        let padding = self.behind.saturating_sub(left).min(part.len());
        let mut part = &part[..part.len() - padding];
        while let Some(byte) = part.first() {
            let taken = match self.at {
                // fields of the tables, each in a byte: in a request's head they change nothing
                At::Field if !self.trailers && is_indexed(byte) => {
                    let indexed = part.iter().take_while(|b| is_indexed(b)).count();
                    part = &part[indexed..];
                    continue;
                }
                At::Name | At::Value => part.len().min(self.string),
                At::Letter => 0,
                _ => 1,
            };
            if self.step(*byte, taken) {
                return false;
            }
            part = &part[taken..];
        }
        true
    }

    /// Goes on by so many bytes, of which `byte` is the first. True at a pseudo-header field in trailers.
    fn step(&mut self, byte: u8, taken: usize) -> bool {
        match self.at {
            At::Field => return self.field(byte),
            At::Integer(of, shift) => {
                // a number that is too large is an error for h2
                let bits = u32::from(byte & 0x7f).checked_shl(shift.into()).unwrap_or(u32::MAX);
                self.number = self.number.saturating_add(bits);
                if byte & 0x80 == 0 {
                    return self.integer(of);
                }
                self.at = At::Integer(of, shift.saturating_add(7));
            }
            At::Length(of) => {
                self.huffman = byte & 0x80 != 0;
                return self.begin_integer(of, byte, 7);
            }
            At::Letter => {
                self.pseudo = if self.huffman { byte >> 1 == HUFFMAN_COLON } else { byte == b':' };
                self.at = At::Name;
                return self.pseudo && self.trailers;
            }
            At::Name | At::Value => {
                self.string -= taken;
                if self.string == 0 {
                    self.end_of_string();
                }
            }
        }
        false
    }

    /// How a field is written (RFC 7541 6).
    fn field(&mut self, byte: u8) -> bool {
        self.enters = byte & 0xc0 == 0x40;
        match byte {
            0x80.. => self.begin_integer(Number::Field, byte, 7),
            0x40.. => self.begin_integer(Number::NameOf, byte, 6),
            0x20.. => self.begin_integer(Number::Size, byte, 5),
            _ => self.begin_integer(Number::NameOf, byte, 4),
        }
    }

    /// An integer begins in so many bits of a byte (RFC 7541 5.1).
    fn begin_integer(&mut self, of: Number, byte: u8, bits: u8) -> bool {
        let most = (1 << bits) - 1;
        self.number = u32::from(byte) & most;
        if self.number < most {
            return self.integer(of);
        }
        self.at = At::Integer(of, 0);
        false
    }

    fn integer(&mut self, of: Number) -> bool {
        match of {
            Number::Field => {
                self.at = At::Field;
                return self.is_pseudo(self.number) && self.trailers;
            }
            Number::Size => self.at = At::Field,
            Number::NameOf if self.number == 0 => self.at = At::Length(Number::NameLength),
            Number::NameOf => {
                self.pseudo = self.is_pseudo(self.number);
                self.at = At::Length(Number::ValueLength);
                return self.pseudo && self.trailers;
            }
            Number::NameLength | Number::ValueLength => {
                self.string = self.number as usize;
                let name = matches!(of, Number::NameLength);
                self.at = if name { At::Letter } else { At::Value };
                if self.string == 0 {
                    self.pseudo &= !name;
                    self.at = if name { At::Name } else { At::Value };
                    self.end_of_string();
                }
            }
        }
        false
    }

    fn end_of_string(&mut self) {
        if matches!(self.at, At::Name) {
            self.at = At::Length(Number::ValueLength);
            return;
        }
        self.at = At::Field;
        if self.enters {
            self.table = self.table << 1 | u128::from(self.pseudo);
        }
    }

    fn is_pseudo(&self, index: u32) -> bool {
        match index {
            0..=STATIC => index <= STATIC_PSEUDO,
            _ => self.table.checked_shr(index - STATIC - 1).is_some_and(|table| table & 1 != 0),
        }
    }
}

/// Whether this is a whole field, one that is in a table (RFC 7541 6.1).
fn is_indexed(byte: &u8) -> bool {
    matches!(byte, 0x80..=0xfe)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a: b`, `:path: /` and what of them stands in a table.
    const PLAIN: &[u8] = b"\x00\x01a\x01b";
    const NEVER_INDEXED: &[u8] = b"\x10\x01a\x01b";
    const INDEXED: &[u8] = b"\x40\x01a\x01b";
    const PSEUDO: &[u8] = b"\x00\x05:path\x01/";
    const PSEUDO_INDEXED: &[u8] = b"\x40\x05:path\x01/";

    /// A frame: its flags, what comes before its fields, and what behind.
    type Frame<'a> = (u8, &'a [u8], &'a [u8], &'a [u8]);

    /// Whether the block of stream 1 that these frames make is taken, whatever the pieces they come in.
    fn taken(request: &[u8], frames: &[Frame<'_>]) -> bool {
        let all: usize = frames.iter().map(|(_, a, b, c)| a.len() + b.len() + c.len()).sum();
        let verdicts: Vec<bool> = (1..=all.max(1)).map(|size| taken_in(size, request, frames)).collect();
        assert!(verdicts.iter().all(|v| *v == verdicts[0]), "{frames:?}: {verdicts:?}");
        verdicts[0]
    }

    fn taken_in(size: usize, request: &[u8], frames: &[Frame<'_>]) -> bool {
        let mut blocks = Blocks::default();
        blocks.begin(1, 0);
        assert!(blocks.see(request, 0), "a request has pseudo-header fields");
        frames.iter().enumerate().all(|(i, (flags, before, fields, behind))| {
            let payload = [*before, *fields, *behind].concat();
            if i == 0 {
                blocks.begin(1, *flags)
            } else {
                blocks.go_on()
            }
            let mut left = payload.len();
            payload.chunks(size).all(|part| {
                left -= part.len();
                blocks.see(part, left)
            })
        })
    }

    #[test]
    fn pseudo_fields_in_trailers_are_seen_however_they_are_written() {
        let long = [&b"\x00\x7f\x80\x02a"[..], &[b'a'; 382], b"\x7f\x80\x02:", &[b':'; 382]].concat();
        let huffman = b"\x00\x84\xb9\x58\xd3\x3f\x01/";
        let huffman_plain = b"\x00\x82\x1c\x64\x01:";
        let cases: [(&[u8], &[u8], bool); 23] = [
            (PSEUDO, PLAIN, true),
            (PSEUDO, NEVER_INDEXED, true),
            (PSEUDO, &long, true),
            (PSEUDO, huffman_plain, true),
            (PSEUDO, b"\x8f\xbd", true),
            (PSEUDO, b"\x3f\xe1\x1f\x20", true),
            (PSEUDO, b"\x00\x00\x01:", true),
            (PSEUDO, PSEUDO, false),
            (PSEUDO, PSEUDO_INDEXED, false),
            (PSEUDO, huffman, false),
            (PSEUDO, b"\x84", false),
            (PSEUDO, b"\x04\x02/a", false),
            (PSEUDO, b"\x0e\x03200", false),
            (PSEUDO, b"\x0f\x00\x03abc", true),
            (&[PSEUDO_INDEXED, INDEXED].concat(), b"\xbe", true),
            (&[PSEUDO_INDEXED, INDEXED].concat(), b"\xbf", false),
            (&[PSEUDO_INDEXED, INDEXED, b"\x44\x01/", PLAIN].concat(), b"\xbf", true),
            (&[PSEUDO_INDEXED, INDEXED, b"\x44\x01/", PLAIN].concat(), b"\xbe", false),
            (&[PSEUDO_INDEXED, INDEXED].concat(), b"\x0f\x30\x01a", false),
            (&[PSEUDO_INDEXED, INDEXED].concat(), b"\x7f\x00\x01a\xc0", false),
            (&[&[PSEUDO_INDEXED][..], &[INDEXED; 127]].concat().concat(), b"\xff\x3e", false),
            (&[&[PSEUDO_INDEXED][..], &[INDEXED; 128]].concat().concat(), b"\xff\x3e", true),
            (
                &[&[PSEUDO_INDEXED][..], &[INDEXED; 128]].concat().concat(),
                b"\xff\x3f\xff\xff\xff\xff\xff",
                true,
            ),
        ];
        for (request, trailers, fine) in cases {
            assert_eq!(taken(request, &[(0, b"", trailers, b"")]), fine, "{request:x?}, then {trailers:x?}");
        }
    }

    #[test]
    fn streams_that_are_opened_are_taken_out_in_order() {
        let mut blocks = Blocks::default();
        for stream in [1, 3, 3, 5, 7] {
            blocks.begin(stream, END_STREAM);
            blocks.finish();
        }
        blocks.begin(9, END_STREAM);
        let taken: Vec<_> = [1, 5, 5, 7, u32::MAX].map(|s| blocks.opened_before(s)).into();
        assert_eq!(taken, [None, Some(3), None, None, None]);
        blocks.go_on();
        blocks.finish();
        assert_eq!((blocks.opened_before(u32::MAX), blocks.opened_before(u32::MAX)), (Some(9), None));
    }

    #[test]
    fn what_follows_the_end_of_a_stream_is_no_trailer() {
        for (first, end, fine) in [(0, false, false), (0, true, true), (END_STREAM, false, true)] {
            let mut blocks = Blocks::default();
            blocks.begin(1, first);
            assert!(blocks.see(PSEUDO, 0));
            if end {
                blocks.end(1);
            }
            blocks.begin(1, END_STREAM);
            assert_eq!(blocks.see(PSEUDO, 0), fine, "{first} {end}");
        }
        let mut blocks = Blocks::default();
        (0..10_000).for_each(|n| blocks.begin(2 * n + 1, 0));
        assert_eq!(blocks.uploads.len(), UPLOADS);
        blocks.begin(19_999, END_STREAM);
        assert!(!blocks.see(PSEUDO, 0));
    }

    #[test]
    fn frames_are_read_without_their_padding_and_priority() {
        let cases: [(&[Frame<'_>], bool); 10] = [
            (&[(PADDED, b"\x01", PLAIN, b"\x84")], true),
            (&[(PADDED, b"\x00", PSEUDO, b"")], false),
            (&[(PRIORITY, b"\x84\x84\x84\x84\x84", PLAIN, b"")], true),
            (&[(PRIORITY, b"\x00\x00\x00\x00\x00", PSEUDO, b"")], false),
            (&[(PADDED | PRIORITY, b"\x02\x84\x84\x84\x84\x84", PLAIN, b"\x84\x84")], true),
            (&[(PADDED | PRIORITY, b"\x02\x84\x84\x84\x84\x84", PSEUDO, b"\x00\x00")], false),
            (&[(0, b"", b"\x00\x05", b""), (PADDED, b"", b":path\x01/", b"")], false),
            (&[(PADDED, b"\x01", b"\x00\x01", b"\x84"), (0, b"", b"a\x01b", b"")], true),
            (&[(PADDED, b"\xff", PLAIN, b"")], true),
            (&[(PADDED, b"", b"", b"")], true),
        ];
        for (frames, fine) in cases {
            assert_eq!(taken(PSEUDO, frames), fine, "{frames:x?}");
        }
    }
}
