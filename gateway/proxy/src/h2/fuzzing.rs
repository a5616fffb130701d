//! The check of a request's shape, with whatever `h2` may hand over.

use super::lower::{LowerLimits, lower};
use crate::forward::buffers::Work;
use crate::h1::head::{Framing, Head, HeadLimits, Refused};
use h2::ext::Protocol;
use http::request::{Builder, Parts};
use http::uri;

/// The usual limits, scaled down so that fuzzing reaches them.
const LIMITS: LowerLimits = LowerLimits { fields: 20, target: 1 << 10 };
/// What the head that comes of it is read with: nothing is too much.
const READ: HeadLimits = HeadLimits { bytes: 1 << 20, fields: 1 << 10, target: 1 << 20 };
/// In the first byte: the stream ends with its head.
const END: u8 = 1;

/// Reads lines - method, scheme, authority, path, protocol, and then fields - behind a byte of flags as a
/// request of HTTP/2. What is accepted reads as HTTP/1 the same way, with one framing.
pub(crate) fn request(bytes: &[u8]) {
    let Some((flags, text)) = bytes.split_first() else { return };
    let Some(parts) = parts(text) else { return };
    let end = flags & END != 0;
    let mut w = Work::take();
    match lower(&parts, end, LIMITS, &mut w) {
        Ok(tunnel) => check(&w, end, tunnel.is_some()),
        Err(Refused { status, .. }) => assert!((400..=505).contains(&status), "status {status}"),
    }
    w.give_back();
}

fn check(w: &Work, end: bool, tunnel: bool) {
    let shown = String::from_utf8_lossy(&w.buf[..w.end]);
    let mut parsed = Head::default();
    assert_eq!(parsed.parse_request(&w.buf[..w.end], READ), Ok(true), "{shown}");
    assert_eq!(format!("{parsed:?}"), format!("{:?}", w.request), "{shown}");
    assert!(parsed.has_host(), "{shown}");
    let sized = parsed.content_length().is_some();
    let chunked = parsed.request_framing() == Framing::Chunked;
    assert_eq!(chunked, !sized && !end && !tunnel, "{shown}");
}

/// The request as `h2` makes it of pseudo-header fields and fields, where it takes them.
fn parts(text: &[u8]) -> Option<Parts> {
    let mut lines = text.split(|c| *c == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let method = http::Method::from_bytes(next()).ok()?;
    let mut uri = uri::Parts::default();
    let (scheme, authority, path) = (next(), next(), next());
    if !scheme.is_empty() {
        uri.scheme = Some(uri::Scheme::try_from(scheme).ok()?);
    }
    if !authority.is_empty() {
        uri.authority = Some(uri::Authority::try_from(authority).ok()?);
    } else {
        // as `h2` does, since a URI with a scheme needs an authority
        uri.scheme = None;
    }
    uri.path_and_query = Some(uri::PathAndQuery::try_from(path).ok()?);
    let mut request = Builder::new().method(method).version(http::Version::HTTP_2).uri(uri);
    let protocol = next();
    if !protocol.is_empty() {
        request = request.extension(Protocol::from(std::str::from_utf8(protocol).ok()?));
    }
    for line in lines {
        let at = line.iter().position(|c| *c == b':')?;
        request = request.header(&line[..at], &line[at + 1..]);
    }
    Some(request.body(()).ok()?.into_parts().0)
}
