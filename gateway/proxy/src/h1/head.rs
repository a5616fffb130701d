//! HTTP/1 heads as byte ranges into a buffer: one parse that is both the framing guard
//! (RFC 9112, strictly) and the codec. Nothing is allocated per message.

use super::authority;
use super::field::{Known, is_token, known};
use super::lines::{Lines, RequestLine, Stop};
use memchr::memchr;
use std::ops::Range;

/// The most names in all `Connection` fields of a head.
const NOMINATIONS: usize = 16;

/// A range of the buffer.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    at: u32,
    len: u32,
}

impl Span {
    #[expect(clippy::cast_possible_truncation, reason = "heads are limited to far less than 4 GiB")]
    pub(crate) fn new(range: Range<usize>) -> Self {
        Span { at: range.start as u32, len: (range.end - range.start) as u32 }
    }
    pub(crate) fn start(self) -> usize {
        self.at as usize
    }
    pub(crate) fn end(self) -> usize {
        (self.at + self.len) as usize
    }
    pub(crate) fn of_buffer(self, buf: &[u8]) -> &[u8] {
        // twice, because one range costs a check of its own for its ends
        &buf[self.start()..][..self.len as usize]
    }
}

/// One field line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) name: Span,
    pub(crate) value: Span,
    pub(crate) known: Known,
}

/// Where a body ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Framing {
    /// There is none.
    None,
    /// After so many bytes, at least one.
    Length(u64),
    /// After its last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// Limits on a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    /// Bytes in all.
    pub(crate) bytes: usize,
    /// Field lines.
    pub(crate) fields: usize,
    /// Bytes of the target.
    pub(crate) target: usize,
}

/// What responses are held to.
pub(crate) const RESPONSE_LIMITS: HeadLimits = HeadLimits { bytes: 60 << 10, fields: 100, target: 0 };

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The status to answer a request with.
    pub(crate) status: u16,
    /// Why, in a word for the log.
    pub(crate) reason: &'static str,
}

pub(super) const fn bad(reason: &'static str) -> Refused {
    Refused { status: 400, reason }
}

/// A parsed request or response head.
#[derive(Default, Debug)]
pub(crate) struct Head {
    /// The field lines in order.
    pub(crate) fields: Vec<Field>,
    /// Method, of requests.
    pub(crate) method: Span,
    /// The target as sent.
    pub(crate) target: Span,
    /// The target's path; empty stands for `/`.
    pub(crate) path: Span,
    /// The target's query without `?`.
    pub(crate) query: Option<Span>,
    /// The authority: `Host`, `:authority` or that of an absolute target; empty for none.
    pub(crate) authority: Span,
    /// Where the first field line begins.
    pub(crate) fields_at: usize,
    /// Bytes of the whole head.
    pub(crate) len: usize,
    /// Status, of responses.
    pub(crate) status: u16,
    /// HTTP/1.1, not 1.0.
    pub(crate) http11: bool,
    /// `Upgrade: websocket` with `Connection: upgrade`, or the like in a 101.
    pub(crate) upgrade: bool,
    /// `Grpc-Status`, empty for none.
    pub(crate) grpc_status: Span,
    /// `X-Envoy-RateLimited`.
    pub(crate) rate_limited: bool,
    /// `TE: trailers`.
    pub(crate) te_trailers: bool,
    /// The target is in origin form and without a fragment, so the request line may be sent on as it is.
    pub(crate) origin_form: bool,
    /// The bits of what its fields are known as, when they were read.
    seen: u32,
    /// `Host` is not what the absolute target says, which counts instead (RFC 9112 3.2.2).
    pub(crate) host_ignored: bool,
    has_host: bool,
    close: bool,
    keep_alive: bool,
    connection_upgrade: bool,
    /// The `Upgrade` is to WebSocket.
    pub(crate) upgrade_websocket: bool,
    upgrades: u8,
    nominates: bool,
    connection_options: usize,
    content_length: Option<u64>,
    chunked: bool,
}

impl Head {
    /// Forgets everything but the memory.
    pub(crate) fn reset(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Head { fields, ..Head::default() };
    }

    /// Reads a request head from the front of `buf`: `Ok(true)` when it is all there.
    /// The verdict does not depend on how the bytes arrive.
    ///
    /// # Errors
    /// With the status to answer; the connection is of no further use.
    pub(crate) fn parse_request(&mut self, buf: &[u8], limits: HeadLimits) -> Result<bool, Refused> {
        let whole = &buf[..buf.len().min(limits.bytes)];
        let read = self.read_request(whole, limits);
        self.verdict(read, whole.len() == limits.bytes)
    }

    /// Reads a response head from the front of `buf`, held to the same rules.
    ///
    /// # Errors
    /// When it is malformed; the connection is of no further use.
    pub(crate) fn parse_response(&mut self, buf: &[u8]) -> Result<bool, Refused> {
        let whole = &buf[..buf.len().min(RESPONSE_LIMITS.bytes)];
        let read = self.read_response(whole);
        self.verdict(read, whole.len() == RESPONSE_LIMITS.bytes)
    }

    fn verdict(&mut self, read: Result<(), Stop>, full: bool) -> Result<bool, Refused> {
        let Err(stop) = read else { return Ok(true) };
        self.reset();
        match stop {
            Stop::More if full => Err(Refused { status: 431, reason: "head_too_large" }),
            Stop::More => Ok(false),
            Stop::Refused(refused) => Err(refused),
        }
    }

    fn read_request(&mut self, buf: &[u8], limits: HeadLimits) -> Result<(), Stop> {
        self.reset();
        let mut lines = Lines::new(buf);
        lines.skip_empty()?;
        let RequestLine { method, target, http11 } = lines.request_line(limits.target)?;
        (self.method, self.target, self.http11) = (method, target, http11);
        self.read_fields(lines, limits.fields)?;
        self.take_target(buf)?;
        self.heed_fields(buf)?;
        Ok(self.finish_request(buf)?)
    }

    fn read_response(&mut self, buf: &[u8]) -> Result<(), Stop> {
        self.reset();
        let mut lines = Lines::new(buf);
        (self.status, self.http11) = lines.status_line()?;
        self.read_fields(lines, RESPONSE_LIMITS.fields)?;
        self.heed_fields(buf)?;
        Ok(self.finish_response(buf)?)
    }

    /// Finds all field lines. What they are and say counts only once all are there.
    fn read_fields(&mut self, mut lines: Lines<'_>, limit: usize) -> Result<(), Stop> {
        self.fields_at = lines.at();
        lines.fields(limit, &mut self.fields)?;
        self.len = lines.at();
        Ok(())
    }

    fn heed_fields(&mut self, buf: &[u8]) -> Result<(), Refused> {
        let mut fields = std::mem::take(&mut self.fields);
        let heeded = fields.iter_mut().try_for_each(|field| {
            field.known = known(field.name.of_buffer(buf));
            if field.known == Known::Other { Ok(()) } else { self.heed(buf, *field) }
        });
        self.fields = fields;
        heeded
    }

    /// Checks the target's form (RFC 9112 3.2) and finds path, query and authority in it.
    pub(crate) fn take_target(&mut self, buf: &[u8]) -> Result<(), Refused> {
        let mut target = self.target.of_buffer(buf);
        if self.method.of_buffer(buf) == b"CONNECT" {
            return Err(Refused { status: 405, reason: "connect_refused" });
        }
        // without a branch for each byte, so that it is looked at by vector instructions
        let visible = |bytes: &[u8]| bytes.iter().fold(true, |all, c| all & (0x21..0x7f).contains(c));
        let plain = target.iter().fold(true, |all, c| all & (0x21..0x7f).contains(c) & (*c != b'#'));
        if !plain {
            // a fragment is the client's own matter: as in Istio, it goes no further
            let end = target.iter().position(|c| *c == b'#').filter(|_| visible(target));
            target = &target[..end.ok_or(bad("target_character"))?];
            self.target = Span::new(self.target.start()..self.target.start() + target.len());
        }
        let mut path_at = self.target.start();
        match target {
            [b'/', ..] => self.origin_form = plain,
            b"*" if self.method.of_buffer(buf) == b"OPTIONS" => self.origin_form = plain,
            _ => {
                let scheme = [&b"http://"[..], b"https://"]
                    .into_iter()
                    .find(|s| target.len() > s.len() && target[..s.len()].eq_ignore_ascii_case(s))
                    .ok_or(bad("target_form"))?;
                let rest = &target[scheme.len()..];
                let end = rest.iter().position(|c| matches!(c, b'/' | b'?')).unwrap_or(rest.len());
                path_at += scheme.len();
                self.authority = Span::new(path_at..path_at + end);
                if !authority::is_valid(self.authority.of_buffer(buf)) {
                    return Err(bad("target_authority"));
                }
                path_at += end;
            }
        }
        let rest = &buf[path_at..self.target.end()];
        let end = memchr(b'?', rest).unwrap_or(rest.len());
        self.path = Span::new(path_at..path_at + end);
        self.query = (end < rest.len()).then(|| Span::new(path_at + end + 1..self.target.end()));
        Ok(())
    }

    /// Takes one field: remembers it, and what it says about the message.
    #[inline]
    pub(crate) fn take_field(&mut self, buf: &[u8], name: Span, value: Span) -> Result<(), Refused> {
        let field = Field { name, value, known: known(name.of_buffer(buf)) };
        self.fields.push(field);
        if field.known == Known::Other { Ok(()) } else { self.heed(buf, field) }
    }

    /// What a field says about the message.
    fn heed(&mut self, buf: &[u8], Field { value, known, .. }: Field) -> Result<(), Refused> {
        let text = value.of_buffer(buf);
        self.seen |= known.bit();
        match known {
            Known::Host => self.take_host(buf, value)?,
            Known::ContentLength => self.take_content_length(text)?,
            Known::TransferEncoding => {
                if self.chunked || !self.http11 || !text.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refused { status: 501, reason: "transfer_encoding" });
                }
                self.chunked = true;
            }
            Known::Connection => self.take_connection(text)?,
            Known::Upgrade => {
                self.upgrades = self.upgrades.saturating_add(1);
                self.upgrade_websocket = text.eq_ignore_ascii_case(b"websocket");
            }
            Known::GrpcStatus => self.grpc_status = value,
            Known::RateLimited => self.rate_limited = true,
            Known::Te => self.te_trailers |= text.eq_ignore_ascii_case(b"trailers"),
            Known::Expect if self.status == 0 && !text.eq_ignore_ascii_case(b"100-continue") => {
                return Err(Refused { status: 417, reason: "unknown_expectation" });
            }
            _ => {}
        }
        Ok(())
    }

    fn take_host(&mut self, buf: &[u8], value: Span) -> Result<(), Refused> {
        if self.status != 0 {
            return Ok(());
        }
        let text = value.of_buffer(buf);
        if self.has_host || !authority::is_valid(text) {
            return Err(bad(if self.has_host { "two_hosts" } else { "invalid_host" }));
        }
        self.has_host = true;
        if self.authority == Span::default() {
            self.authority = value;
        } else {
            self.host_ignored = !self.authority.of_buffer(buf).eq_ignore_ascii_case(text);
        }
        Ok(())
    }

    fn take_content_length(&mut self, text: &[u8]) -> Result<(), Refused> {
        let digits = !text.is_empty() && text.len() <= 18 && text.iter().all(u8::is_ascii_digit);
        if self.content_length.is_some() || !digits {
            return Err(bad("content_length"));
        }
        self.content_length = Some(text.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')));
        Ok(())
    }

    fn take_connection(&mut self, text: &[u8]) -> Result<(), Refused> {
        if text == b"keep-alive" {
            // what nearly every client says is not taken apart
            self.take_connection_option(text)?;
        } else {
            text.split(|b| *b == b',').try_for_each(|t| self.take_connection_option(t.trim_ascii()))?;
        }
        if self.connection_options > NOMINATIONS { Err(bad("connection_options")) } else { Ok(()) }
    }

    fn take_connection_option(&mut self, token: &[u8]) -> Result<(), Refused> {
        self.connection_options += 1;
        match token.len() {
            0 => {}
            5 if token.eq_ignore_ascii_case(b"close") => self.close = true,
            10 if token.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
            7 if token.eq_ignore_ascii_case(b"upgrade") => self.connection_upgrade = true,
            _ if is_token(token) => self.nominates = true,
            _ => return Err(bad("connection_options")),
        }
        Ok(())
    }

    /// Marks the fields that `Connection` names: they are for this hop alone.
    fn nominate(&mut self, buf: &[u8]) -> Result<(), Refused> {
        for c in 0..self.fields.len() {
            if self.fields[c].known != Known::Connection {
                continue;
            }
            let options = self.fields[c].value.of_buffer(buf);
            for f in &mut self.fields {
                let name = f.name.of_buffer(buf);
                if !options.split(|b| *b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(name)) {
                    continue;
                }
                match f.known {
                    Known::Host | Known::ContentLength | Known::TransferEncoding => {
                        return Err(bad("connection_names_framing"));
                    }
                    Known::Te | Known::Upgrade | Known::Connection => {}
                    _ => f.known = Known::Nominated,
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, buf: &[u8]) -> Result<(), Refused> {
        if self.chunked && self.content_length.is_some() {
            return Err(bad("content_length_and_transfer_encoding"));
        }
        if self.nominates {
            self.nominate(buf)?;
        }
        self.upgrade = self.http11 && self.connection_upgrade && self.upgrades == 1;
        Ok(())
    }

    /// What must hold for the request as a whole.
    pub(crate) fn finish_request(&mut self, buf: &[u8]) -> Result<(), Refused> {
        if !self.has_host && self.http11 {
            return Err(bad("no_host"));
        }
        self.finish(buf)?;
        self.upgrade &= self.upgrade_websocket;
        Ok(())
    }

    fn finish_response(&mut self, buf: &[u8]) -> Result<(), Refused> {
        if !(100..=599).contains(&self.status) {
            return Err(bad("status"));
        }
        self.finish(buf)
    }

    /// Whether the request has a `Host` field.
    pub(crate) fn has_host(&self) -> bool {
        self.has_host
    }

    /// Content-Length, if there is one.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// Where the request's body ends.
    pub(crate) fn request_framing(&self) -> Framing {
        match (self.chunked, self.content_length) {
            (true, _) => Framing::Chunked,
            (_, Some(n)) if n > 0 => Framing::Length(n),
            _ => Framing::None,
        }
    }

    /// Whether responses with this status never have a body.
    pub(crate) fn bodiless(&self) -> bool {
        self.status < 200 || matches!(self.status, 204 | 304)
    }

    /// Where the response's body ends, given whether it answers a HEAD.
    pub(crate) fn response_framing(&self, to_head: bool) -> Framing {
        match (self.chunked, self.content_length) {
            _ if to_head || self.bodiless() => Framing::None,
            (true, _) => Framing::Chunked,
            (_, Some(0)) => Framing::None,
            (_, Some(n)) => Framing::Length(n),
            _ => Framing::UntilClose,
        }
    }

    /// Whether the connection may carry another message afterwards.
    pub(crate) fn persistent(&self) -> bool {
        !self.close && (self.http11 || self.keep_alive)
    }

    /// The values of every field of a name, in order.
    pub(crate) fn values<'a>(&'a self, buf: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .iter()
            .filter(move |f| f.name.of_buffer(buf).eq_ignore_ascii_case(name))
            .map(move |f| f.value.of_buffer(buf))
    }

    /// Whether there was a field known as `k`; looks at none of them.
    pub(crate) fn has(&self, k: Known) -> bool {
        self.seen & k.bit() != 0
    }

    /// The values of every field known as `k`, in order.
    pub(crate) fn known<'a>(&'a self, buf: &'a [u8], k: Known) -> impl Iterator<Item = &'a [u8]> {
        let fields = if self.has(k) { &self.fields } else { &[][..] };
        fields.iter().filter(move |f| f.known == k).map(move |f| f.value.of_buffer(buf))
    }

    /// Copies the field lines that `keep` accepts, in as few runs as possible.
    pub(crate) fn copy_fields(&self, buf: &[u8], out: &mut Vec<u8>, mut keep: impl FnMut(&Field) -> bool) {
        let end = self.len - 2;
        let mut run = self.fields_at;
        for (i, f) in self.fields.iter().enumerate() {
            if !keep(f) {
                out.extend_from_slice(&buf[run..f.name.start()]);
                run = self.fields.get(i + 1).map_or(end, |n| n.name.start());
            }
        }
        out.extend_from_slice(&buf[run..end]);
    }
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
