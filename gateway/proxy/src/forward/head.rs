//! Writing heads: what came is copied in runs, and the edits are applied on the way.

use super::buffers::Work;
use super::edits::{Edits, line};
use super::view::View;
use crate::address;
use crate::h1::field::Known;
use crate::h1::head::{Framing, Head};
use crate::scan;
use memchr::memchr;
use std::cell::RefCell;
use std::time::{Duration, SystemTime};
use tidegate_engine::RequestView;
use tidegate_model::MeshSettings;

/// The largest number in a `grpc-timeout`.
const GRPC_TIMEOUT: u64 = 99_999_999;

/// What changes in a request on its way upstream.
pub(crate) struct RequestChanges<'a> {
    /// It goes on in HTTP/2, where a stream says itself that it has no body.
    pub(crate) http2: bool,
    /// The new target, where the path is rewritten.
    pub(crate) target: Option<&'a [u8]>,
    /// The authority where it is not the one sent.
    pub(crate) authority: Option<&'a [u8]>,
    /// A rule put it in place of the one sent.
    pub(crate) replaced: bool,
    /// Header operations of the route.
    pub(crate) edits: Edits<'a>,
    /// Which try this is, from 1.
    pub(crate) attempt: u32,
    /// How long the upstream may take for it.
    pub(crate) expected: Option<Duration>,
    /// The time that a call of gRPC has, where it is not what the client said.
    pub(crate) grpc_timeout: Option<Duration>,
}

/// Appends the request's head as it goes upstream.
pub(crate) fn write_request(w: &Work, out: &mut Vec<u8>, changes: &RequestChanges<'_>) {
    let (head, buf, view) = (&w.request, w.head(), View::of(w));
    if changes.target.is_none() && w.path.is_empty() && head.origin_form && head.http11 {
        out.extend_from_slice(&buf[head.method.start()..head.fields_at]);
    } else {
        out.extend_from_slice(view.method());
        out.push(b' ');
        match changes.target {
            Some(target) => out.extend_from_slice(target),
            None => write_target(view, out),
        }
        out.extend_from_slice(b" HTTP/1.1\r\n");
    }
    let edits = changes.edits;
    if let Some(authority) = changes.authority {
        line(out, b"host", authority);
    }
    head.copy_fields(buf, out, |f| match f.known {
        Known::Host => changes.authority.is_none(),
        Known::ContentLength => true,
        Known::Connection
        | Known::HopByHop
        | Known::Nominated
        | Known::Te
        | Known::TransferEncoding
        | Known::ForwardedFor
        | Known::ForwardedProto
        | Known::RequestId
        | Known::Internal
        | Known::RateLimited
        | Known::ServiceTime => false,
        Known::Upgrade => head.upgrade,
        Known::WebSocketKey => true,
        Known::Claim if !w.identity.trusted => false,
        Known::ClientCert if !w.identity.client_cert.passes() => false,
        Known::Expect => head.http11,
        Known::TraceParent | Known::B3 if w.span.is_some_and(|s| s.replaces()) => false,
        Known::TraceState if w.span.is_some_and(|s| s.ends_tracestate()) => false,
        Known::GrpcTimeout => changes.grpc_timeout.is_none() && edits.keeps(b"grpc-timeout"),
        _ => edits.keeps(f.name.of_buffer(buf)),
    });
    if head.request_framing() == Framing::Chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    } else if view.method() != b"GET" && !changes.http2 {
        write_no_length(head, view.method(), out);
    }
    if head.upgrade {
        out.extend_from_slice(b"connection: upgrade\r\n");
    }
    if head.te_trailers {
        out.extend_from_slice(if head.upgrade {
            b"te: trailers\r\n"
        } else {
            b"connection: te\r\nte: trailers\r\n"
        });
    }
    write_own(w, out, changes, view);
    write_given(w, out, edits);
    edits.write(out);
    out.extend_from_slice(b"\r\n");
}

/// Says that there is no body where the method has one mostly, as in Envoy: there are servers that ask for it
/// (RFC 9110 8.6).
#[inline(never)]
fn write_no_length(head: &Head, method: &[u8], out: &mut Vec<u8>) {
    if head.content_length().is_none() && !head.upgrade && !matches!(method, b"HEAD" | b"DELETE" | b"TRACE") {
        out.extend_from_slice(b"content-length: 0\r\n");
    }
}

/// What verified tokens and providers gave it.
fn write_given(w: &Work, out: &mut Vec<u8>, edits: Edits<'_>) {
    if let Some(verified) = &w.verified {
        verified.write(out, edits);
    }
    if let Some(granted) = &w.granted {
        granted.write(out, edits);
    }
}

/// Path and query as they are matched.
pub(crate) fn write_target(view: View<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(view.path());
    if let Some(query) = view.query() {
        out.push(b'?');
        out.extend_from_slice(query);
    }
}

/// What is said of the client's certificate, in one line.
#[inline(never)]
fn write_certificates(out: &mut Vec<u8>, edits: Edits<'_>, view: View<'_>) {
    const NAME: &str = "x-forwarded-client-cert";
    if let Some(said) = view.value(NAME.as_bytes()) {
        own(out, edits, NAME, &said);
    }
}

/// The lines that the gateway adds. They count as sent by the client: operations apply to them.
fn write_own(w: &Work, out: &mut Vec<u8>, changes: &RequestChanges<'_>, view: View<'_>) {
    let edits = changes.edits;
    let forwarded = &w.identity.forwarded_for;
    own(out, edits, "x-forwarded-for", forwarded);
    own(out, edits, "x-forwarded-proto", w.identity.scheme.as_str().as_bytes());
    own(out, edits, "x-request-id", &w.identity.request_id);
    if w.identity.client_cert.adds.is_some() {
        write_certificates(out, edits, view);
    }
    if let Some(span) = &w.span {
        span.headers(|name, value| own(out, edits, name, value));
    }
    own(out, edits, "x-envoy-attempt-count", itoa::Buffer::new().format(changes.attempt).as_bytes());
    if let Some(expected) = changes.expected {
        let expected = milliseconds(expected);
        own(out, edits, "x-envoy-expected-rq-timeout-ms", itoa::Buffer::new().format(expected).as_bytes());
    }
    if let Some(timeout) = changes.grpc_timeout {
        let timeout = format!("{}m", milliseconds(timeout).min(GRPC_TIMEOUT));
        own(out, edits, "grpc-timeout", timeout.as_bytes());
    }
    let mut client = Vec::new();
    let mut external = forwarded.rsplit(|c| *c == b',').next().unwrap_or_default();
    if w.identity.trusted {
        address::write_ip(w.identity.client.ip(), &mut client);
        external = &client;
    }
    own(out, edits, "x-envoy-external-address", external);
    if changes.target.is_some() && edits.keeps(b"x-envoy-original-path") {
        out.extend_from_slice(b"x-envoy-original-path: ");
        write_target(view, out);
        out.extend_from_slice(b"\r\n");
    }
    if changes.replaced && !view.authority().is_empty() {
        own(out, edits, "x-envoy-original-host", view.authority());
    }
}

/// Writes a line of the gateway, unless an operation takes it away again.
#[inline(always)]
fn own(out: &mut Vec<u8>, edits: Edits<'_>, name: &str, value: &[u8]) {
    if edits.keeps(name.as_bytes()) {
        line(out, name.as_bytes(), value);
    }
}

/// At least 1: 0 would be no limit.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// What changes in a response on its way to the client.
pub(crate) struct ResponseChanges<'a> {
    /// Header operations of the route.
    pub(crate) edits: Edits<'a>,
    /// Settings: the `server` header.
    pub(crate) mesh: &'a MeshSettings,
    /// A cookie for the client to keep.
    pub(crate) cookie: Option<&'a str>,
    /// `x-envoy-upstream-service-time`.
    pub(crate) service_time: Duration,
    /// Whether the chunk framing stays.
    pub(crate) chunks: bool,
    /// Whether the body is put in chunks.
    pub(crate) encode: bool,
    /// The length of a body that is known here.
    pub(crate) length: Option<usize>,
    /// Lines on the connection.
    pub(crate) connection: &'static [u8],
}

/// Writes the response's head as it goes to the client; `buf` holds it as it came.
pub(crate) fn write_response(head: &Head, buf: &[u8], out: &mut Vec<u8>, changes: &ResponseChanges<'_>) {
    let edits = changes.edits;
    let keeps = |name: &[u8]| edits.keeps(name);
    let mut dated = false;
    let switching = head.status == 101;
    let no_body = head.bodiless() && head.status != 304;
    out.clear();
    out.extend_from_slice(b"HTTP/1.1");
    out.extend_from_slice(&buf[8..head.fields_at]);
    head.copy_fields(buf, out, |f| match f.known {
        Known::ContentLength => !no_body,
        Known::TransferEncoding
        | Known::Connection
        | Known::HopByHop
        | Known::Nominated
        | Known::Te
        | Known::ServiceTime => false,
        Known::Upgrade => switching,
        Known::WebSocketAccept => true,
        Known::Server => changes.mesh.server_header.is_none() && keeps(b"server"),
        Known::Date => {
            let kept = keeps(b"date");
            dated |= kept;
            kept
        }
        _ => keeps(f.name.of_buffer(buf)),
    });
    if changes.chunks && head.response_framing(false) == Framing::Chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    if let Some(cookie) = changes.cookie {
        line(out, b"set-cookie", cookie.as_bytes());
    }
    if let Some(n) = changes.length {
        line(out, b"content-length", itoa::Buffer::new().format(n).as_bytes());
    }
    if changes.encode {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    if keeps(b"x-envoy-upstream-service-time") {
        let mut ms = itoa::Buffer::new();
        line(out, b"x-envoy-upstream-service-time", ms.format(changes.service_time.as_millis()).as_bytes());
    }
    if !dated && !switching && keeps(b"date") {
        write_date(out);
    }
    end_response(out, edits, changes.mesh, changes.connection);
}

/// Writes the head of an interim response without what is for this hop alone.
pub(crate) fn write_interim(head: &Head, buf: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(b"HTTP/1.1");
    out.extend_from_slice(&buf[8..head.fields_at]);
    head.copy_fields(buf, out, |f| {
        !matches!(
            f.known,
            Known::ContentLength
                | Known::TransferEncoding
                | Known::Connection
                | Known::HopByHop
                | Known::Nominated
                | Known::Upgrade
        )
    });
    out.extend_from_slice(b"\r\n");
}

/// The end of every response head: `server`, the added lines, and the connection's.
pub(crate) fn end_response(out: &mut Vec<u8>, edits: Edits<'_>, mesh: &MeshSettings, connection: &[u8]) {
    if let Some(server) = mesh.server_header.as_ref().filter(|_| edits.keeps(b"server")) {
        line(out, b"server", server.as_bytes());
    }
    edits.write(out);
    out.extend_from_slice(connection);
    out.extend_from_slice(b"\r\n");
}

/// The fields of a head that we wrote.
pub(crate) fn lines(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    field_lines(head).map_while(field)
}

/// The field lines of a head that we wrote.
pub(crate) fn field_lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    rows(head).skip(1)
}

/// The fields of a trailer section.
pub(crate) fn fields(trailers: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    rows(trailers).map_while(field)
}

/// Lines up to the empty one that ends them.
fn rows(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    scan::lines(text).map(|line| line.strip_suffix(b"\r").unwrap_or(line)).take_while(|line| !line.is_empty())
}

/// Name and value of a field line.
pub(crate) fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr(b':', line)?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

/// Writes `date`, formatted once a second.
pub(crate) fn write_date(out: &mut Vec<u8>) {
    thread_local! {
        static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    DATE.with(|d| {
        let mut d = d.borrow_mut();
        if d.0 != second || d.1.is_empty() {
            *d = (second, httpdate::fmt_http_date(now));
        }
        line(out, b"date", d.1.as_bytes());
    });
}
