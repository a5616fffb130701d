use super::buffers::{Bulk, Work};
use super::error::Kind;
use super::tunnel::End;
use crate::h2::{Broken, Exchange};
use crate::upstream::UpstreamConnection;
use pingora::protocols::Stream;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// The upstream's side of one request: a connection of HTTP/1, or a stream of HTTP/2.
pub(crate) enum Upstream {
    One(UpstreamConnection),
    Two(Box<Exchange>),
}

/// Why no head came.
#[derive(Debug)]
pub(crate) enum NoHead {
    /// The connection ended before the first byte of a response.
    Silent,
    /// Nothing of the request was processed.
    Refused,
    Error(Kind),
}

impl Upstream {
    /// Whether the connection served a request before.
    pub(crate) fn reused(&self) -> bool {
        match self {
            Upstream::One(c) => c.reused,
            Upstream::Two(x) => x.place().reused,
        }
    }

    /// Our address towards the endpoint.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        match self {
            Upstream::One(c) => c.local,
            Upstream::Two(x) => x.place().local(),
        }
    }

    /// Whether requests go as content, without the framing of HTTP/1.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Upstream::Two(_))
    }

    /// Sends what of `w.out` was not `sent`, then a piece; `last` when nothing follows.
    pub(super) fn poll_write(
        &mut self,
        w: &Work,
        sent: &mut usize,
        piece: &mut Option<Bulk>,
        last: bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Upstream::One(c) => poll_write_stream(&mut c.stream, w, sent, piece, cx),
            Upstream::Two(exchange) => {
                if *sent < w.body_at {
                    let end = last && piece.is_none() && w.out.len() == w.body_at;
                    exchange.open(&w.out[..w.body_at], w.identity.scheme.as_str(), end)?;
                    *sent = w.body_at;
                }
                let mut content = &w.out[*sent..];
                let written = exchange.poll_send(&mut content, last && piece.is_none(), cx);
                *sent = w.out.len() - content.len();
                ready!(written)?;
                if let Some(bulk) = piece {
                    ready!(exchange.poll_send_piece(bulk, last, cx))?;
                    *piece = None;
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Has what was written leave. An HTTP/2 connection does so itself.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Upstream::One(c) => Pin::new(&mut c.stream).poll_flush(cx),
            Upstream::Two(_) => Poll::Ready(Ok(())),
        }
    }

    /// Ends the request after its last content.
    pub(super) fn poll_finish(
        &mut self,
        trailers: Option<&[u8]>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Upstream::One(_) => self.poll_flush(cx),
            Upstream::Two(exchange) => Poll::Ready(exchange.finish(trailers)),
        }
    }

    /// Reads more of a response's head; ready with true when there was more.
    pub(super) fn poll_head(
        &mut self,
        got: &mut Option<Bulk>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, NoHead>> {
        match self {
            Upstream::One(c) => {
                let read = match got {
                    Some(bulk) => bulk.poll_fill(&mut c.stream, cx, usize::MAX),
                    None => Bulk::poll_read(&mut c.stream, cx, usize::MAX).map_ok(|bulk| {
                        let n = bulk.bytes().len();
                        *got = Some(bulk);
                        n
                    }),
                };
                read.map(|n| Ok(n.unwrap_or(0) > 0))
            }
            Upstream::Two(exchange) => exchange.poll_head(got, cx).map(|head| match head {
                Ok(()) => Ok(true),
                Err(Broken::Refused) => Err(NoHead::Refused),
                Err(Broken::Closed) => Err(NoHead::Silent),
                Err(broken) => Err(NoHead::Error(broken.into())),
            }),
        }
    }

    /// The next bytes of the response's body, and whether they are the last; `limit` is how many
    /// the connection may be asked for.
    pub(super) fn poll_body(
        &mut self,
        limit: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Bulk, bool), Kind>> {
        match self {
            Upstream::One(c) => {
                let bulk =
                    ready!(Bulk::poll_read(&mut c.stream, cx, limit)).map_err(|_| Kind::UpstreamClosed)?;
                let ended = bulk.is_empty();
                Poll::Ready(Ok((bulk, ended)))
            }
            Upstream::Two(exchange) => {
                let bulk = ready!(exchange.poll_read(cx))?;
                Poll::Ready(Ok((bulk, exchange.ended())))
            }
        }
    }
}

fn poll_write_stream(
    stream: &mut Stream,
    w: &Work,
    sent: &mut usize,
    piece: &mut Option<Bulk>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while *sent < w.out.len() {
        match ready!(Pin::new(&mut *stream).poll_write(cx, &w.out[*sent..]))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            n => *sent += n,
        }
    }
    if let Some(bulk) = piece {
        ready!(bulk.poll_write_to(stream, cx))?;
        *piece = None;
    }
    Poll::Ready(Ok(()))
}

impl End for Upstream {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bulk>> {
        match self {
            Upstream::One(c) => c.stream.poll_read(cx),
            Upstream::Two(exchange) => {
                exchange.poll_read(cx).map_err(|_| io::ErrorKind::ConnectionReset.into())
            }
        }
    }

    fn poll_write(&mut self, piece: &mut Bulk, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Upstream::One(c) => c.stream.poll_write(piece, cx),
            Upstream::Two(exchange) => exchange.poll_send_piece(piece, false, cx),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Upstream::poll_flush(self, cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Upstream::One(c) => End::poll_shutdown(&mut c.stream, cx),
            Upstream::Two(exchange) => Poll::Ready(exchange.end()),
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Upstream::One(_) => Poll::Pending,
            Upstream::Two(exchange) => exchange.poll_reset(cx),
        }
    }

    fn cut(&mut self) {
        match self {
            Upstream::One(c) => c.stream.cut(),
            Upstream::Two(exchange) => exchange.cut(),
        }
    }
}

impl From<Broken> for Kind {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Refused | Broken::Reset => Kind::UpstreamReset,
            Broken::Closed => Kind::UpstreamClosed,
            Broken::Malformed => Kind::UpstreamMalformed,
            Broken::Unsendable => Kind::BadRequest(400, "request_cannot_be_said_in_http2"),
        }
    }
}
