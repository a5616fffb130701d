//! Message bodies: where they end, and their data. Chunk framing is checked as it passes and
//! either passed on as it came or taken off in place.

use super::field::{forbidden_in_trailers, is_token};
use super::head::Framing;

/// Bytes of a trailer section.
const TRAILERS: usize = 8 << 10;

/// Finds the end of a body in the bytes that arrive.
pub(crate) struct BodyScan {
    state: State,
    data: u64,
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    Done,
    Length(u64),
    Close,
    Size { n: u64, digits: u8 },
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    Trailer { start: usize },
    TrailerLf { start: usize },
}

/// The body breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl BodyScan {
    /// At the beginning of a body.
    pub(crate) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None => State::Done,
            Framing::Length(n) => State::Length(n),
            Framing::UntilClose => State::Close,
            Framing::Chunked => State::Size { n: 0, digits: 0 },
        };
        BodyScan { state, data: 0, trailers: Vec::new() }
    }

    /// Whether the body has ended.
    pub(crate) fn done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes of content seen, without framing.
    pub(crate) fn data(&self) -> u64 {
        self.data
    }

    /// The trailer lines seen, each with its CRLF.
    pub(crate) fn trailers(&self) -> Option<&[u8]> {
        Some(self.trailers.as_slice()).filter(|t| !t.is_empty())
    }

    /// How much may be read without reading past this body.
    pub(crate) fn limit(&self) -> usize {
        match self.state {
            State::Length(n) => usize::try_from(n).unwrap_or(usize::MAX),
            State::Done => 0,
            _ => usize::MAX,
        }
    }

    /// How many bytes of `b` belong to this body.
    ///
    /// # Errors
    /// When the chunk framing is not exactly as RFC 9112 7.1 has it; extensions are refused.
    pub(crate) fn scan(&mut self, b: &[u8]) -> Result<usize, Malformed> {
        let mut used = 0;
        while used < b.len() && !self.done() {
            let (framing, content) = self.piece(&b[used..])?;
            used += framing + content;
        }
        Ok(used)
    }

    /// Like [`BodyScan::scan`], but moves the content to the front of `b` and returns how many
    /// bytes belong to the body and how many of them are content.
    ///
    /// # Errors
    /// As [`BodyScan::scan`].
    pub(crate) fn decode(&mut self, b: &mut [u8]) -> Result<(usize, usize), Malformed> {
        let (mut used, mut kept) = (0, 0);
        while used < b.len() && !self.done() {
            let (framing, content) = self.piece(&b[used..])?;
            used += framing;
            if used > kept {
                b.copy_within(used..used + content, kept);
            }
            used += content;
            kept += content;
        }
        Ok((used, kept))
    }

    /// Takes framing, then one run of content, from the front of `b`: how many bytes of each.
    fn piece(&mut self, b: &[u8]) -> Result<(usize, usize), Malformed> {
        let mut framing = 0;
        loop {
            let left = b.len() - framing;
            let run = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(left);
            let (content, next) = match self.state {
                _ if left == 0 => return Ok((framing, 0)),
                State::Done => return Ok((framing, 0)),
                State::Close => (left, State::Close),
                State::Length(n) if n == run(n) as u64 => (run(n), State::Done),
                State::Length(n) => (run(n), State::Length(n - run(n) as u64)),
                State::Data(n) if n == run(n) as u64 => (run(n), State::DataCr),
                State::Data(n) => (run(n), State::Data(n - run(n) as u64)),
                _ => {
                    self.state = self.step(b[framing])?;
                    framing += 1;
                    continue;
                }
            };
            self.state = next;
            self.data += content as u64;
            return Ok((framing, content));
        }
    }

    /// One byte of chunk framing or trailers.
    fn step(&mut self, c: u8) -> Result<State, Malformed> {
        Ok(match self.state {
            State::Size { n, digits } => match char::from(c).to_digit(16) {
                Some(d) if digits < 16 && n >> 59 == 0 => {
                    State::Size { n: n << 4 | u64::from(d), digits: digits + 1 }
                }
                None if c == b'\r' && digits > 0 => State::SizeLf(n),
                _ => return Err(Malformed),
            },
            State::SizeLf(0) if c == b'\n' => State::Trailer { start: 0 },
            State::SizeLf(n) if c == b'\n' => State::Data(n),
            State::DataCr if c == b'\r' => State::DataLf,
            State::DataLf if c == b'\n' => State::Size { n: 0, digits: 0 },
            State::Trailer { start } if c == b'\r' => State::TrailerLf { start },
            State::Trailer { start } if (c >= 0x20 && c != 0x7f) || c == b'\t' => {
                if self.trailers.len() >= TRAILERS {
                    return Err(Malformed);
                }
                self.trailers.push(c);
                State::Trailer { start }
            }
            State::TrailerLf { start } if c == b'\n' => self.end_trailer_line(start)?,
            _ => return Err(Malformed),
        })
    }

    fn end_trailer_line(&mut self, start: usize) -> Result<State, Malformed> {
        let lines = &mut self.trailers;
        if lines.len() == start {
            return Ok(State::Done);
        }
        let line = &lines[start..];
        let colon = line.iter().position(|c| *c == b':').ok_or(Malformed)?;
        if !is_token(&line[..colon]) || forbidden_in_trailers(&line[..colon]) {
            return Err(Malformed);
        }
        lines.extend_from_slice(b"\r\n");
        Ok(State::Trailer { start: lines.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(m: &[u8]) -> Result<(usize, bool), Malformed> {
        let mut s = BodyScan::new(Framing::Chunked);
        s.scan(m).map(|n| (n, s.done()))
    }

    #[test]
    fn chunked_bodies_end_where_they_end_however_they_are_cut() {
        let m = b"5\r\nhello\r\n00a\r\n0123456789\r\n0\r\nx-sum: y\r\nb:\r\n\r\nGET";
        let end = m.len() - 3;
        for cut in 0..end {
            let mut s = BodyScan::new(Framing::Chunked);
            assert_eq!(s.scan(&m[..cut]), Ok(cut));
            assert_eq!(s.scan(&m[cut..]), Ok(end - cut));
            assert!(s.done());
            assert_eq!(s.data(), 15);
            assert_eq!(s.trailers(), Some(&b"x-sum: y\r\nb:\r\n"[..]));
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
        let bad: [&[u8]; 24] = [
            b"\r\n",
            b"5;a\r\n",
            b"5;a=b\r\n",
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
            b"0\r\nhost: x\r\n",
            b"0\r\nTransfer-Encoding: chunked\r\n",
            b"0\r\nX-Forwarded-For: 1\r\n",
            b"0\r\na b: c\r\n",
            b"0\r\na: \0\r\n",
            b"0\r\na: b\n",
            b"0\n",
        ];
        for b in bad {
            assert_eq!(all(b), Err(Malformed), "{}", b.escape_ascii());
        }
        let mut long = b"0\r\na: ".to_vec();
        long.resize(TRAILERS + 100, b'x');
        assert_eq!(all(&long), Err(Malformed));
    }

    #[test]
    fn lengths_end_exactly() {
        let mut s = BodyScan::new(Framing::Length(3));
        assert_eq!(s.limit(), 3);
        assert_eq!(s.scan(b"ab"), Ok(2));
        assert_eq!(s.scan(b"cGET"), Ok(1));
        assert!(s.done());
        let mut s = BodyScan::new(Framing::UntilClose);
        assert_eq!(s.scan(b"abc"), Ok(3));
        assert!(!s.done());
    }

    proptest! {
        #[test]
        fn any_bytes_same_verdict_however_cut(b in "[0-9a-f\r\n;:x ]{0,40}", cut in 0usize..40) {
            let b = b.as_bytes();
            let cut = cut.min(b.len());
            let mut s = BodyScan::new(Framing::Chunked);
            let whole = s.scan(b).map(|n| (n, s.data()));
            let mut s = BodyScan::new(Framing::Chunked);
            let split = s.scan(&b[..cut]).and_then(|n| s.scan(&b[cut..]).map(|m| (n + m, s.data())));
            prop_assert_eq!(whole, split);
        }
    }
}
