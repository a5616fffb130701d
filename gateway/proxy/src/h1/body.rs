//! Message bodies: where they end, and their data. Chunk framing is checked as it passes and
//! either passed on without what is for this hop alone or taken off, both in place.

use super::field::{forbidden_in_trailers, is_token, is_token_char};
use super::head::Framing;

/// Bytes of a trailer section.
const TRAILERS: u16 = 8 << 10;
/// Bytes of the extensions of one chunk.
const EXTENSIONS: u16 = 256;

/// Finds the end of a body in the bytes that arrive.
pub(crate) struct BodyScan {
    state: State,
    chunked: bool,
    data: u64,
    trailers: Vec<u8>,
    /// Bytes of the trailer section so far, dropped ones too.
    trailer_bytes: u16,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    Done,
    Length(u64),
    Close,
    Size { n: u64, digits: u8 },
    Extension { n: u64, bytes: u16, at: Extension },
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    Trailer { start: usize },
    TrailerLf { start: usize },
}

/// Where in `;name`, `;name=value` or `;name="value"` (RFC 9112 7.1.1) the next byte stands.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Extension {
    NameStart,
    Name,
    ValueStart,
    Value,
    Quoted,
    Escaped,
    Closed,
}

impl Extension {
    /// One byte; none of them is whitespace outside of quotes.
    fn step(self, c: u8) -> Result<Self, Malformed> {
        use Extension::{Closed, Escaped, Name, NameStart, Quoted, Value, ValueStart};
        Ok(match (self, c) {
            (Name | Value | Closed, b';') => NameStart,
            (Name, b'=') => ValueStart,
            (NameStart | Name, _) if is_token_char(c) => Name,
            (ValueStart, b'"') => Quoted,
            (ValueStart | Value, _) if is_token_char(c) => Value,
            (Quoted, b'"') => Closed,
            (Quoted, b'\\') => Escaped,
            (Quoted | Escaped, _) if is_text(c) => Quoted,
            _ => return Err(Malformed),
        })
    }

    /// Whether the line may end here.
    fn is_whole(self) -> bool {
        matches!(self, Extension::Name | Extension::Value | Extension::Closed)
    }
}

/// The body breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Bytes from the front that are of one kind.
enum Run {
    Content(usize),
    Framing(usize),
    /// Chunk extensions and the trailer section, which are for this hop alone or held back.
    Held(usize),
}

impl BodyScan {
    /// At the beginning of a body.
    pub(crate) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None => State::Done,
            Framing::Length(n) => State::Length(n),
            Framing::UntilClose => State::Close,
            Framing::Chunked => State::Size { n: 0, digits: 0 },
        };
        let chunked = framing == Framing::Chunked;
        BodyScan { state, chunked, data: 0, trailers: Vec::new(), trailer_bytes: 0 }
    }

    /// Whether the body has ended.
    pub(crate) fn done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes of content seen, without framing.
    pub(crate) fn data(&self) -> u64 {
        self.data
    }

    /// The trailer lines seen that may be passed on, each with its CRLF.
    pub(crate) fn trailers(&self) -> Option<&[u8]> {
        Some(self.trailers.as_slice()).filter(|t| !t.is_empty())
    }

    /// What follows the last chunk where the framing is kept: the trailers that may be passed on
    /// and the empty line. Nothing before the end and nothing where there are no chunks.
    pub(crate) fn tail(&self) -> [&[u8]; 2] {
        if self.chunked && self.done() { [self.trailers.as_slice(), b"\r\n"] } else { [b"", b""] }
    }

    /// How much may be read without reading past this body.
    pub(crate) fn limit(&self) -> usize {
        match self.state {
            State::Length(n) => usize::try_from(n).unwrap_or(usize::MAX),
            State::Done => 0,
            _ => usize::MAX,
        }
    }

    /// Takes the bytes of `b` that belong to this body, and moves what is passed on to the front:
    /// content and chunk framing without extensions; [`BodyScan::tail`] is to follow once done.
    /// Returns how many bytes belong to the body and how many are passed on. The tail fits into
    /// what the trailer section took, where that is in `b` as a whole.
    ///
    /// # Errors
    /// When the chunk framing is not exactly as RFC 9112 7.1 has it.
    pub(crate) fn scan(&mut self, b: &mut [u8]) -> Result<(usize, usize), Malformed> {
        self.take(b, true)
    }

    /// Like [`BodyScan::scan`], but keeps the content alone.
    ///
    /// # Errors
    /// As [`BodyScan::scan`].
    pub(crate) fn decode(&mut self, b: &mut [u8]) -> Result<(usize, usize), Malformed> {
        self.take(b, false)
    }

    fn take(&mut self, b: &mut [u8], framing: bool) -> Result<(usize, usize), Malformed> {
        let (mut used, mut kept) = (0, 0);
        while used < b.len() && !self.done() {
            let (n, keep) = match self.run(&b[used..])? {
                Run::Content(n) => (n, true),
                Run::Framing(n) => (n, framing),
                Run::Held(n) => (n, false),
            };
            if keep {
                if kept < used {
                    b.copy_within(used..used + n, kept);
                }
                kept += n;
            }
            used += n;
        }
        Ok((used, kept))
    }

    /// Takes one run from the front of `b`, which is not empty.
    fn run(&mut self, b: &[u8]) -> Result<Run, Malformed> {
        let of = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(b.len());
        let (n, next) = match self.state {
            State::Close => (b.len(), State::Close),
            State::Length(n) if n == of(n) as u64 => (of(n), State::Done),
            State::Length(n) => (of(n), State::Length(n - of(n) as u64)),
            State::Data(n) if n == of(n) as u64 => (of(n), State::DataCr),
            State::Data(n) => (of(n), State::Data(n - of(n) as u64)),
            _ => return self.framing(b),
        };
        self.state = next;
        self.data += n as u64;
        Ok(Run::Content(n))
    }

    fn framing(&mut self, b: &[u8]) -> Result<Run, Malformed> {
        let held = self.state.holds(b[0]);
        let mut n = 0;
        while let Some(c) = b.get(n).copied() {
            if matches!(self.state, State::Done | State::Data(_)) || self.state.holds(c) != held {
                break;
            }
            self.state = self.step(c)?;
            n += 1;
        }
        Ok(if held { Run::Held(n) } else { Run::Framing(n) })
    }

    /// One byte of chunk framing, extensions or trailers.
    fn step(&mut self, c: u8) -> Result<State, Malformed> {
        Ok(match self.state {
            State::Size { n, digits } => match char::from(c).to_digit(16) {
                Some(d) if digits < 16 && n >> 59 == 0 => {
                    State::Size { n: n << 4 | u64::from(d), digits: digits + 1 }
                }
                None if c == b'\r' && digits > 0 => State::SizeLf(n),
                None if c == b';' && digits > 0 => State::Extension { n, bytes: 0, at: Extension::NameStart },
                _ => return Err(Malformed),
            },
            State::Extension { n, at, .. } if c == b'\r' && at.is_whole() => State::SizeLf(n),
            State::Extension { n, bytes, at } if bytes < EXTENSIONS => {
                State::Extension { n, bytes: bytes + 1, at: at.step(c)? }
            }
            State::SizeLf(0) if c == b'\n' => State::Trailer { start: 0 },
            State::SizeLf(n) if c == b'\n' => State::Data(n),
            State::DataCr if c == b'\r' => State::DataLf,
            State::DataLf if c == b'\n' => State::Size { n: 0, digits: 0 },
            State::Trailer { start } if c == b'\r' => State::TrailerLf { start },
            State::Trailer { start } if is_text(c) => {
                if self.trailer_bytes >= TRAILERS {
                    return Err(Malformed);
                }
                self.trailer_bytes += 1;
                self.trailers.push(c);
                State::Trailer { start }
            }
            State::TrailerLf { start } if c == b'\n' => self.end_trailer_line(start)?,
            _ => return Err(Malformed),
        })
    }

    /// A trailer that could change what was already decided is dropped (RFC 9110 6.5.1).
    fn end_trailer_line(&mut self, start: usize) -> Result<State, Malformed> {
        let lines = &mut self.trailers;
        if lines.len() == start {
            return Ok(State::Done);
        }
        let line = &lines[start..];
        let colon = line.iter().position(|c| *c == b':').ok_or(Malformed)?;
        if !is_token(&line[..colon]) {
            return Err(Malformed);
        }
        if forbidden_in_trailers(&line[..colon]) {
            lines.truncate(start);
        } else {
            lines.extend_from_slice(b"\r\n");
        }
        Ok(State::Trailer { start: lines.len() })
    }
}

impl State {
    /// Whether the next byte is of an extension or of the trailer section.
    fn holds(self, c: u8) -> bool {
        match self {
            State::Size { .. } => c == b';',
            State::Extension { .. } => c != b'\r',
            State::Trailer { .. } | State::TrailerLf { .. } => true,
            _ => false,
        }
    }
}

/// Visible, space, tab or not ASCII.
fn is_text(c: u8) -> bool {
    c >= 0x20 && c != 0x7f || c == b'\t'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is passed on of the body, in parts cut there, and how much of `m` belongs to it.
    fn passed(m: &[u8], cut: usize) -> Result<(Vec<u8>, usize, bool), Malformed> {
        let mut s = BodyScan::new(Framing::Chunked);
        let (mut text, mut all) = (Vec::new(), 0);
        for part in [&m[..cut], &m[cut..]] {
            let mut part = part.to_vec();
            let (used, kept) = s.scan(&mut part)?;
            text.extend_from_slice(&part[..kept]);
            all += used;
        }
        text.extend(s.tail().concat());
        Ok((text, all, s.done()))
    }

    #[test]
    fn chunked_bodies_are_passed_on_without_what_is_for_this_hop() {
        for (sent, expected) in [
            (
                "5\r\nhello\r\n00a\r\n0123456789\r\n0\r\nx-sum: y\r\nb:\r\n\r\n",
                "5\r\nhello\r\n00a\r\n0123456789\r\n0\r\nx-sum: y\r\nb:\r\n\r\n",
            ),
            ("5;a\r\nhello\r\n0;b=c;d\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
            ("5;a=\"b;\\\"\t \"\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
            ("0\r\nhost: x\r\nX-A: 1\r\nX-Forwarded-For: 1\r\n\r\n", "0\r\nX-A: 1\r\n\r\n"),
            ("0\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\n\r\n"),
        ] {
            let m = format!("{sent}GET");
            for cut in 0..=m.len() {
                let whole = Ok((expected.as_bytes().to_vec(), sent.len(), true));
                assert_eq!(passed(m.as_bytes(), cut), whole, "{sent:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn framing_is_taken_off_in_place() {
        let m = b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\nGET";
        for cut in 0..m.len() - 3 {
            let mut s = BodyScan::new(Framing::Chunked);
            let (mut a, mut b) = (m[..cut].to_vec(), m[cut..].to_vec());
            let (_, n) = s.decode(&mut a).unwrap();
            let mut text = a[..n].to_vec();
            let (used, n) = s.decode(&mut b).unwrap();
            text.extend_from_slice(&b[..n]);
            assert_eq!(text, b"hello!");
            assert_eq!(&b[used..], b"GET");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let bad: [&[u8]; 30] = [
            b"\r\n",
            b"5;\r\n",
            b"5;a;\r\n",
            b"5;a=\r\n",
            b"5;a=\"\r\n",
            b"5;a=\"b\"c\r\n",
            b"5;a=\"\\\r\"\r\n",
            b"5; a\r\n",
            b"5;a \r\n",
            b"5;a\0b\r\n",
            b"5;a\n",
            b";a\r\n",
            b"5\nhello",
            b"1\r\nab",
            b"1\r\na\n",
            b"5 \r\n",
            b" 5\r\n",
            b"-5\r\n",
            b"+5\r\n",
            b"0x5\r\n",
            b"g\r\n",
            b"5\rhello",
            b"00000000000000005\r\n",
            b"ffffffffffffffff\r\n",
            b"0\r\nfoo\r\n",
            b"0\r\n:authority: x\r\n",
            b"0\r\na b: c\r\n",
            b"0\r\na: \0\r\n",
            b"0\r\na: b\n",
            b"0\n",
        ];
        for b in bad {
            assert_eq!(passed(b, 0), Err(Malformed), "{}", b.escape_ascii());
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let extension = |n| format!("1;{}\r\na\r\n0\r\n\r\n", "a".repeat(n));
        assert!(passed(extension(256).as_bytes(), 0).is_ok());
        assert_eq!(passed(extension(257).as_bytes(), 0), Err(Malformed));
        let line = format!("host: {}\r\n", "x".repeat(1018));
        let trailers = |n| format!("0\r\n{}\r\n", line.repeat(n));
        assert!(passed(trailers(8).as_bytes(), 0).is_ok());
        assert_eq!(passed(trailers(9).as_bytes(), 0), Err(Malformed));
    }

    #[test]
    fn lengths_end_exactly() {
        let mut s = BodyScan::new(Framing::Length(3));
        assert_eq!(s.limit(), 3);
        assert_eq!(s.scan(&mut b"ab".to_owned()), Ok((2, 2)));
        assert_eq!(s.scan(&mut b"cGET".to_owned()), Ok((1, 1)));
        assert!(s.done());
        let mut s = BodyScan::new(Framing::UntilClose);
        assert_eq!(s.scan(&mut b"abc".to_owned()), Ok((3, 3)));
        assert!(!s.done());
    }

    proptest! {
        #[test]
        fn any_bytes_same_verdict_however_cut(
            b in "(5|a|0|\r\n|\r|\n|;|x|:|=|\"| |hello|0\r\n\r\n|host: y){0,12}",
            cut in 0usize..60,
        ) {
            let cut = cut.min(b.len());
            prop_assert_eq!(passed(b.as_bytes(), 0), passed(b.as_bytes(), cut));
        }
    }
}
