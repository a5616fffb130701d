//! The lines of HTTP/1 heads (RFC 9112): where each ends and that it is made of what it may be made of, not what it
//! says. Bytes are read in order and the first that is wrong decides, so the verdict is the same however they arrive.

use super::field::{Known, is_token_char};
use super::head::{Field, Refused, Span, bad};
use crate::scan::{first_below, token_end};

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
        let (buf, begin) = (self.buf, self.at);
        let start = buf[begin..].iter().take(METHOD + 1).position(|c| !is_token_char(*c));
        let Some(method) = start.map(|length| begin + length) else {
            return Err(if buf.len() - begin > METHOD { bad("method").into() } else { Stop::More });
        };
        if method == begin || buf[method] != b' ' {
            return Err(bad("request_line").into());
        }
        let target = method + 1;
        let most = &buf[..buf.len().min(target + limit + 1)];
        let end = match first_below::<0x21>(most, target) {
            Some(end) => end,
            None if most.len() - target > limit => {
                return Err(Refused { status: 414, reason: "target_too_long" }.into());
            }
            None => return Err(Stop::More),
        };
        if end == target || buf[end] != b' ' {
            return Err(bad("request_line").into());
        }
        let http11 = version(&buf[end + 1..])?;
        self.at = line_end(buf, end + 1 + VERSION.len() + 1, "request_line")?;
        Ok(RequestLine { method: Span::new(begin..method), target: Span::new(target..end), http11 })
    }

    /// The first line of a response: its status, and whether it is HTTP/1.1.
    pub(super) fn status_line(&mut self) -> Result<(u16, bool), Stop> {
        let buf = self.buf;
        let http11 = version(&buf[self.at..])?;
        let mut end = self.at + VERSION.len() + 1;
        if *buf.get(end).ok_or(Stop::More)? != b' ' {
            return Err(bad("status").into());
        }
        let mut status = 0;
        for _ in 0..3 {
            end += 1;
            match buf.get(end).ok_or(Stop::More)? {
                digit @ b'0'..=b'9' => status = status * 10 + u16::from(digit - b'0'),
                _ => return Err(bad("status").into()),
            }
        }
        end += 1;
        if buf.get(end) == Some(&b' ') {
            end = text_end(buf, end + 1)?;
        }
        self.at = line_end(buf, end, "status")?;
        Ok((status, http11))
    }

    /// Reads every field line, up to the empty line that ends the head; at most `limit` of them. What their names mean is
    /// still to be looked up.
    pub(super) fn fields(&mut self, limit: usize, fields: &mut Vec<Field>) -> Result<(), Stop> {
        let buf = self.buf;
        loop {
            let colon = token_end(buf, self.at).ok_or(Stop::More)?;
            if colon == self.at {
                self.at = line_end(buf, colon, "field_name")?;
                return Ok(());
            }
            if buf[colon] != b':' {
                return Err(bad("field_name").into());
            }
            let end = text_end(buf, colon + 1)?;
            let next = line_end(buf, end, "field_value")?;
            if fields.len() == limit {
                return Err(Refused { status: 431, reason: "too_many_fields" }.into());
            }
            let (name, value) = (Span::new(self.at..colon), trim(buf, colon + 1, end));
            fields.push(Field { name, value, known: Known::Other });
            self.at = next;
        }
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

/// What stands between `start` and `end`, without blanks around it: nearly always there is one, in front.
#[inline]
fn trim(buf: &[u8], start: usize, end: usize) -> Span {
    match &buf[start..end] {
        [b' ', text @ ..] if !is_blank_around(text) => Span::new(start + 1..end),
        text if !is_blank_around(text) => Span::new(start..end),
        text => trim_all(text, start),
    }
}

fn is_blank_around(text: &[u8]) -> bool {
    [text.first(), text.last()].into_iter().flatten().any(|c| is_blank(*c))
}

#[cold]
fn trim_all(text: &[u8], start: usize) -> Span {
    let leading = text.iter().take_while(|c| is_blank(**c)).count();
    let trailing = text[leading..].iter().rev().take_while(|c| is_blank(**c)).count();
    Span::new(start + leading..start + text.len() - trailing)
}

/// A blank or a tab: no other byte of a text is as low.
fn is_blank(c: u8) -> bool {
    c <= b' '
}

/// Where the next line begins when this one ends at `end`, as it must; `else_bad` when something else stands there.
#[inline]
fn line_end(buf: &[u8], end: usize, else_bad: &'static str) -> Result<usize, Stop> {
    match (buf.get(end), buf.get(end + 1)) {
        (Some(b'\r'), Some(b'\n')) => Ok(end + 2),
        (None, _) | (Some(b'\r'), None) => Err(Stop::More),
        (Some(b'\r' | b'\n'), _) => Err(bad("bare_line_feed").into()),
        _ => Err(bad(else_bad).into()),
    }
}

/// Where text that begins at `start` ends: before the first control character but tab.
#[inline]
fn text_end(buf: &[u8], start: usize) -> Result<usize, Stop> {
    let mut end = start;
    while let Some(found) = first_below::<0x20>(buf, end) {
        if buf[found] != b'\t' {
            return Ok(found);
        }
        end = found + 1;
    }
    Err(Stop::More)
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
    }
}
