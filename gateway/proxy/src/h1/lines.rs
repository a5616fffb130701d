//! The lines of HTTP/1 heads (RFC 9112): where each ends and that it is made of what it may be made of, not what it
//! says. Bytes are read in order and the first that is wrong decides, so the verdict is the same however they arrive.

use super::field::{is_token_char, known};
use super::head::{Field, Refused, Span, bad};

/// Longest method.
pub(crate) const METHOD: usize = 32;
/// What every version begins with.
const VERSION: &[u8] = b"HTTP/1.";

/// Why reading ends before the head does.
pub(super) enum Stop {
    /// There are no more bytes yet.
    More,
    /// What is there is wrong.
    Refused(Refused),
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Stop::Refused(refused)
    }
}

/// The first line of a request.
pub(super) struct RequestLine {
    pub(super) method: Span,
    pub(super) target: Span,
    pub(super) http11: bool,
}

/// Reads a head line by line.
pub(super) struct Lines<'a> {
    buf: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    /// Of the head at the front of `buf`.
    pub(super) fn new(buf: &'a [u8]) -> Self {
        Lines { buf, at: 0 }
    }

    /// Where the next line begins.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Skips one empty line in front of a request (RFC 9112 2.2).
    pub(super) fn skip_empty(&mut self) -> Result<(), Stop> {
        match self.buf {
            [] | [b'\r'] | [b'\r', b'\n'] => return Err(Stop::More),
            [b'\r', b'\n', b'\r' | b'\n', ..] => return Err(bad("empty_lines").into()),
            [b'\r', b'\n', ..] => self.at = 2,
            [b'\r' | b'\n', ..] => return Err(bad("empty_lines").into()),
            _ => {}
        }
        Ok(())
    }

    /// The first line of a request, whose target has at most `limit` bytes.
    pub(super) fn request_line(&mut self, limit: usize) -> Result<RequestLine, Stop> {
        let line = &self.buf[self.at..];
        let method = line.iter().take(METHOD + 1).position(|c| !is_token_char(*c));
        let Some(method) = method else {
            return Err(if line.len() > METHOD { bad("method").into() } else { Stop::More });
        };
        if method == 0 || line[method] != b' ' {
            return Err(bad("request_line").into());
        }
        let target = &line[method + 1..];
        let target = &target[..target.len().min(limit + 1)];
        let end = match first_below::<0x21>(target) {
            Some(end) => method + 1 + end,
            None if target.len() > limit => {
                return Err(Refused { status: 414, reason: "target_too_long" }.into());
            }
            None => return Err(Stop::More),
        };
        if end == method + 1 || line[end] != b' ' {
            return Err(bad("request_line").into());
        }
        let http11 = version(&line[end + 1..])?;
        let length = line_end(line, end + 1 + VERSION.len() + 1, "request_line")?;
        let (method, target) = (self.span(0, method), self.span(method + 1, end));
        self.at += length;
        Ok(RequestLine { method, target, http11 })
    }

    /// The first line of a response: its status, and whether it is HTTP/1.1.
    pub(super) fn status_line(&mut self) -> Result<(u16, bool), Stop> {
        let line = &self.buf[self.at..];
        let http11 = version(line)?;
        let mut end = VERSION.len() + 1;
        if *line.get(end).ok_or(Stop::More)? != b' ' {
            return Err(bad("status").into());
        }
        let mut status = 0;
        for _ in 0..3 {
            end += 1;
            match line.get(end).ok_or(Stop::More)? {
                digit @ b'0'..=b'9' => status = status * 10 + u16::from(digit - b'0'),
                _ => return Err(bad("status").into()),
            }
        }
        end += 1;
        if line.get(end) == Some(&b' ') {
            end = text_end(line, end + 1)?;
        }
        self.at += line_end(line, end, "status")?;
        Ok((status, http11))
    }

    /// Reads every field line, up to the empty line that ends the head; at most `limit` of them.
    pub(super) fn fields(&mut self, limit: usize, fields: &mut Vec<Field>) -> Result<(), Stop> {
        loop {
            let line = &self.buf[self.at..];
            let colon = token_end(line)?;
            if colon == 0 {
                self.at += line_end(line, 0, "field_name")?;
                return Ok(());
            }
            if line[colon] != b':' {
                return Err(bad("field_name").into());
            }
            let end = text_end(line, colon + 1)?;
            let length = line_end(line, end, "field_value")?;
            if fields.len() == limit {
                return Err(Refused { status: 431, reason: "too_many_fields" }.into());
            }
            let (start, end) = trim(line, colon + 1, end);
            let (name, value) = (self.span(0, colon), self.span(start, end));
            fields.push(Field { name, value, known: known(&line[..colon]) });
            self.at += length;
        }
    }

    /// A part of the line that begins at `at`.
    #[inline]
    fn span(&self, start: usize, end: usize) -> Span {
        Span::new(self.at + start..self.at + end)
    }
}

/// Whether this is HTTP/1.1; else it is 1.0.
fn version(text: &[u8]) -> Result<bool, Stop> {
    if !text.iter().zip(VERSION).all(|(c, of)| c == of) {
        return Err(bad("version").into());
    }
    match text.get(VERSION.len()) {
        Some(b'1') => Ok(true),
        Some(b'0') => Ok(false),
        Some(_) => Err(bad("version").into()),
        None => Err(Stop::More),
    }
}

/// The part between `start` and `end` without blanks around it.
#[inline]
fn trim(line: &[u8], mut start: usize, mut end: usize) -> (usize, usize) {
    let part = &line[..end];
    while start < part.len() && is_blank(part[start]) {
        start += 1;
    }
    while start < end && is_blank(part[end - 1]) {
        end -= 1;
    }
    (start, end)
}

/// A blank or a tab: no other byte of a text is as low.
fn is_blank(c: u8) -> bool {
    c <= b' '
}

/// Where the token at the front ends.
#[inline]
fn token_end(line: &[u8]) -> Result<usize, Stop> {
    let mut end = 0;
    while let Some(eight) = line[end..].first_chunk::<8>() {
        match eight.iter().position(|c| !is_token_char(*c)) {
            Some(at) => return Ok(end + at),
            None => end += 8,
        }
    }
    line[end..].iter().position(|c| !is_token_char(*c)).map(|at| end + at).ok_or(Stop::More)
}

/// The length of the line, which must end at `end`; `else_bad` when something else stands there.
#[inline]
fn line_end(line: &[u8], end: usize, else_bad: &'static str) -> Result<usize, Stop> {
    match line.get(end..).unwrap_or_default() {
        [b'\r', b'\n', ..] => Ok(end + 2),
        [] | [b'\r'] => Err(Stop::More),
        [b'\r' | b'\n', ..] => Err(bad("bare_line_feed").into()),
        _ => Err(bad(else_bad).into()),
    }
}

/// Where text that begins at `start` ends: before the first control character but tab.
#[inline]
fn text_end(line: &[u8], start: usize) -> Result<usize, Stop> {
    let mut end = start;
    while let Some(more) = line.get(end..).and_then(first_below::<0x20>) {
        end += more;
        if line[end] != b'\t' {
            return Ok(end);
        }
        end += 1;
    }
    Err(Stop::More)
}

/// Where the first byte stands that is less than `LOW` or 0x7f. Looks at eight at a time: each byte of `low` and of
/// `delete` has its highest bit set where it is one of those, exactly so up to the first.
#[inline]
fn first_below<const LOW: u8>(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHEST: u64 = ONES << 7;
    let (words, rest) = bytes.as_chunks::<8>();
    let mut at = 0;
    for word in words {
        let word = u64::from_le_bytes(*word);
        let low = word.wrapping_sub(ONES * u64::from(LOW)) & !word;
        let other = word ^ (ONES * 0x7f);
        let delete = other.wrapping_sub(ONES) & !other;
        let found = (low | delete) & HIGHEST;
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    rest.iter().position(|c| *c < LOW || *c == 0x7f).map(|last| at + last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Where the head ends, what its first line says, and its fields.
    type Read<'a> = (usize, (&'a [u8], &'a [u8], u16, bool), Vec<(&'a [u8], &'a [u8])>);

    fn ours(text: &[u8], response: bool) -> Result<Read<'_>, Stop> {
        let mut lines = Lines::new(text);
        let first = if response {
            let (status, http11) = lines.status_line()?;
            (&b""[..], &b""[..], status, http11)
        } else {
            let RequestLine { method, target, http11 } = lines.request_line(1000)?;
            (method.of_buffer(text), target.of_buffer(text), 0, http11)
        };
        let mut read = Vec::new();
        lines.fields(100, &mut read)?;
        let fields = read.iter().map(|f| (f.name.of_buffer(text), f.value.of_buffer(text))).collect();
        Ok((lines.at(), first, fields))
    }

    /// By an established parser, which takes a bare line feed for the end of a line where we do not.
    fn theirs(text: &[u8], response: bool) -> Option<Read<'_>> {
        let mut slots = [httparse::EMPTY_HEADER; 32];
        let (status, first, headers) = if response {
            let mut r = httparse::Response::new(&mut slots);
            let status = r.parse(text).ok()?;
            (status, (&b""[..], &b""[..], r.code, r.version), r.headers)
        } else {
            let mut r = httparse::Request::new(&mut slots);
            let status = r.parse(text).ok()?;
            let [method, target] = [r.method, r.path].map(|t| t.unwrap_or_default().as_bytes());
            (status, (method, target, None, r.version), r.headers)
        };
        let httparse::Status::Complete(n) = status else { return None };
        let bare = text[..n].iter().enumerate().any(|(i, c)| *c == b'\n' && (i == 0 || text[i - 1] != b'\r'));
        let (method, target, code, version) = first;
        let fields = headers.iter().map(|h| (h.name.as_bytes(), h.value)).collect();
        (!bare).then(|| (n, (method, target, code.unwrap_or(0), version == Some(1)), fields))
    }

    /// A head with a few bytes changed, or a part of it.
    fn nearly(head: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![prop::sample::select(b"\r\n\t :/10aH\0\x7f\x80\xff".to_vec()), any::<u8>()];
        let changes = prop::collection::vec((0..head.len(), byte, 0..3u8), 0..4);
        (changes, head.len() / 2..=head.len()).prop_map(|(changes, length)| {
            let mut text = head.to_vec();
            for (at, byte, how) in changes {
                let at = at.min(text.len() - 1);
                match how {
                    0 => text[at] = byte,
                    1 => text.insert(at, byte),
                    _ => drop(text.remove(at)),
                }
            }
            text.truncate(length);
            text
        })
    }

    const REQUEST: &[u8] =
        b"GET /a?b HTTP/1.1\r\nHost: a.example\r\nx:\r\nUser-Agent: \tlong enough  \r\n\r\n";
    const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nDate: today\r\nx:\r\nServer: \tlong\tenough  \r\n\r\n";

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn heads_are_read_as_an_established_parser_reads_them(
            request in nearly(REQUEST), response in nearly(RESPONSE)
        ) {
            for (text, is_response) in [(&request, false), (&response, true)] {
                if !text.starts_with(b"\r") && !text.starts_with(b"\n") {
                    // what a target may hold is looked at later
                    let ascii = |read: &Read<'_>| read.1.1.is_ascii();
                    let ours = ours(text, is_response).ok().filter(ascii);
                    let theirs = theirs(text, is_response).filter(ascii);
                    prop_assert_eq!(ours, theirs, "{}", text.escape_ascii());
                }
            }
        }

        #[test]
        fn the_first_of_several_is_found(bytes in prop::collection::vec(
            prop_oneof![any::<u8>(), Just(b'a'), Just(b' '), Just(0x7f), Just(0x80), Just(0xff)], 0..40
        )) {
            let first = |low: u8| bytes.iter().position(|c| *c < low || *c == 0x7f);
            prop_assert_eq!(first_below::<0x20>(&bytes), first(0x20));
            prop_assert_eq!(first_below::<0x21>(&bytes), first(0x21));
        }
    }
}
