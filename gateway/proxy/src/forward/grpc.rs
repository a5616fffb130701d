//! gRPC: which requests are, and how the gateway's own answers are said in it.

use super::buffers::Work;
use crate::h1::field::Known;
use crate::h1::head::Head;
use std::time::Duration;

/// Whether the request is gRPC: by its content type, `application/grpc` with or without `+proto`
/// and the like. gRPC-Web is not: it is an answer of plain HTTP that its clients understand.
pub(crate) fn is_grpc(w: &Work) -> bool {
    let content_type = w.request.known(w.head(), Known::ContentType).next().unwrap_or_default();
    const GRPC: &[u8] = b"application/grpc";
    content_type.get(..GRPC.len()).is_some_and(|t| t.eq_ignore_ascii_case(GRPC))
        && matches!(content_type.get(GRPC.len()), None | Some(b'+' | b';'))
}

/// The status in a response's head: that of a call without an answer.
pub(super) fn status_of(response: &Head, buf: &[u8]) -> Option<u8> {
    std::str::from_utf8(response.grpc_status.of_buffer(buf)).ok()?.parse().ok()
}

/// How long a call may take by its `grpc-timeout`, in whole milliseconds and at least one.
pub(super) fn timeout(w: &Work) -> Option<Duration> {
    let value = w.request.known(w.head(), Known::GrpcTimeout).next()?;
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0'));
    let milliseconds = match unit {
        b'H' => number * 3_600_000,
        b'M' => number * 60_000,
        b'S' => number * 1000,
        b'm' => number,
        b'u' => number.div_ceil(1000),
        b'n' => number.div_ceil(1_000_000),
        _ => return None,
    };
    // nothing is no limit, as in Envoy
    Some(Duration::from_millis(milliseconds)).filter(|t| !t.is_zero())
}

/// The status that a client of gRPC gets for one of HTTP, as Envoy maps it.
pub(super) fn status(http: u16) -> u8 {
    match http {
        400 => 13,                   // INTERNAL
        401 => 16,                   // UNAUTHENTICATED
        403 => 7,                    // PERMISSION_DENIED
        404 => 12,                   // UNIMPLEMENTED
        413 => 8,                    // RESOURCE_EXHAUSTED, as gRPC's own servers say it
        429 | 502 | 503 | 504 => 14, // UNAVAILABLE
        _ => 2,                      // UNKNOWN
    }
}

/// Writes a message in percent-encoding, as `grpc-message` has it.
pub(super) fn encode(message: &[u8], out: &mut Vec<u8>) {
    for c in message {
        match c {
            b' '..=b'~' if *c != b'%' => out.push(*c),
            c => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                out.extend_from_slice(&[b'%', DIGITS[usize::from(c >> 4)], DIGITS[usize::from(c & 15)]]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(field: &str) -> Box<Work> {
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\n{field}\r\n\r\n");
        let mut w = Work::take();
        w.push_back(head.as_bytes());
        let limits = crate::h1::head::HeadLimits { bytes: 4096, fields: 10, target: 10 };
        let Work { request, buf, end, .. } = &mut *w;
        assert_eq!(request.parse_request(&buf[..*end], limits), Ok(true));
        w
    }

    #[test]
    fn timeouts() {
        for (value, milliseconds) in [
            ("1S", Some(1000)),
            ("250m", Some(250)),
            ("2M", Some(120_000)),
            ("1H", Some(3_600_000)),
            ("1500u", Some(2)),
            ("1n", Some(1)),
            ("99999999H", Some(359_999_996_400_000)),
            ("0S", None),
            ("100000000S", None),
            ("S", None),
            ("1s", None),
            ("-1S", None),
            ("", None),
        ] {
            let found = timeout(&work(&format!("grpc-timeout: {value}")));
            assert_eq!(found, milliseconds.map(Duration::from_millis), "{value}");
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        let mut out = Vec::new();
        encode("a b%\n\u{e4}~".as_bytes(), &mut out);
        assert_eq!(out, b"a b%25%0A%C3%A4~");
    }

    #[test]
    fn content_types() {
        for (content_type, grpc) in [
            ("application/grpc", true),
            ("Application/gRPC+proto", true),
            ("application/grpc; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grp", false),
            ("text/plain", false),
        ] {
            let w = work(&format!("content-type: {content_type}"));
            assert_eq!(is_grpc(&w), grpc, "{content_type}");
        }
    }
}
