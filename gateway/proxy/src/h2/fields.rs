//! What both sides of HTTP/2 share: field lines there and back, and sending content.

use super::memory::{Lines, copied, header_name, take_map};
use crate::forward::head::{self, field_lines};
use crate::h1::field::{forbidden_in_trailers, known};
use bytes::Bytes;
use h2::SendStream;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// How long a stream that is given up is kept so that its last bytes leave.
const LINGER: Duration = Duration::from_millis(100);

/// An error of `h2` as one of the network's.
pub(super) fn broken(e: h2::Error) -> io::Error {
    if e.is_io() {
        e.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())
    } else {
        io::Error::other(e)
    }
}

/// The fields of a head that we wrote and whose names `keep` accepts.
pub(super) fn raise_fields(head: &[u8], keep: impl Fn(&HeaderName) -> bool) -> io::Result<HeaderMap> {
    let mut fields = take_map();
    Lines::with(|before| {
        for line in field_lines(head) {
            before.field(line, |name, value| {
                if keep(name) {
                    fields.append(name, value.clone());
                }
            })?;
        }
        Ok(fields)
    })
}

/// Trailer lines as fields.
pub(super) fn fields(trailers: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in head::fields(trailers) {
        if let (Ok(name), Ok(value)) = (header_name(name), HeaderValue::from_bytes(value)) {
            map.append(name, value);
        }
    }
    map
}

/// Whether trailers say where a message ends or goes, which was decided before (RFC 9110 6.5.1).
pub(super) fn may_not_be_trailers(trailers: &HeaderMap) -> bool {
    trailers.keys().any(|name| known(name.as_str().as_bytes()).is_framing())
}

/// Trailers that may pass, as lines.
pub(super) fn write_fields(trailers: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in trailers {
        let name = name.as_str().as_bytes();
        if !forbidden_in_trailers(name) {
            for part in [name, b": ", value.as_bytes(), b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
    }
}

/// Sends content as the windows allow; ready when all of it was taken. `last` when nothing
/// follows, and then `ended` is set.
pub(super) fn poll_send(
    send: &mut SendStream<Bytes>,
    content: &mut &[u8],
    last: bool,
    ended: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while !content.is_empty() {
        send.reserve_capacity(content.len());
        let capacity = send.capacity();
        if capacity == 0 {
            ready!(send.poll_capacity(cx)).ok_or(io::ErrorKind::BrokenPipe)?.map_err(broken)?;
            continue;
        }
        let (now, rest) = content.split_at(capacity.min(content.len()));
        *ended = last && rest.is_empty();
        send.send_data(copied(now), *ended).map_err(broken)?;
        *content = rest;
    }
    Poll::Ready(Ok(()))
}

/// Keeps a stream for a moment: with its last handle goes what was not sent yet.
pub(super) fn linger(send: Option<SendStream<Bytes>>) {
    tokio::task::spawn_local(async move {
        tokio::time::sleep(LINGER).await;
        drop(send);
    });
}
