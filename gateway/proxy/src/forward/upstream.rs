use super::buffers::{Bulk, Work};
use super::error::Kind;
use super::tunnel::End;
use crate::h2::{Broken, Exchange};
use crate::tls::fault;
use crate::upstream::UpstreamConnection;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// The upstream's side of one request: a connection of HTTP/1, or a stream of HTTP/2.
pub(crate) enum Upstream {
    One(Box<UpstreamConnection>),
    Two(Box<Exchange>),
}

/// Why no head came.
#[derive(Debug)]
pub(crate) enum NoHead {
    /// The connection ended before the first byte of a response.
    Silent,
    /// The upstream refused the request without looking at it.
    Refused,
    /// The connection takes no more requests, and looked at nothing of this one.
    Leaving,
    Error(Kind),
}

impl From<Kind> for NoHead {
    fn from(kind: Kind) -> Self {
        NoHead::Error(kind)
    }
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

    /// The address that the connection leads to.
    pub(crate) fn remote(&self) -> Option<SocketAddr> {
        match self {
            Upstream::One(c) => c.remote(),
            Upstream::Two(x) => x.place().remote(),
        }
    }

    /// Why the connection ended, where TLS said that.
    pub(super) fn fault(&self) -> Option<&str> {
        match self {
            Upstream::One(c) => c.fault.as_deref(),
            Upstream::Two(_) => None,
        }
    }

    /// Whether requests go as content, without the framing of HTTP/1.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Upstream::Two(_))
    }

    /// Begins the request whose head stands in `w.out`; `end` when that is all of it. Returns how
    /// much of `w.out` is sent with that.
    pub(super) fn open(&mut self, w: &Work, end: bool) -> io::Result<usize> {
        match self {
            Upstream::One(_) => Ok(0),
            Upstream::Two(exchange) => {
                exchange.open(&w.out[..w.body_at], w.identity.scheme.as_str(), end)?;
                Ok(w.body_at)
            }
        }
    }

    /// Sends; ready when `content` is empty. `end` when nothing follows.
    pub(super) fn poll_send(
        &mut self,
        content: &mut &[u8],
        end: bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let c = match self {
            Upstream::One(c) => c,
            Upstream::Two(exchange) => return exchange.poll_send(content, end, cx),
        };
        while !content.is_empty() {
            match ready!(Pin::new(&mut c.stream).poll_write(cx, content))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => *content = &content[n..],
            }
        }
        Poll::Ready(Ok(()))
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

    /// Reads more of a response's head, at most `limit` bytes where that is more than there is; ready with true when
    /// there was more.
    pub(super) fn poll_head(
        &mut self,
        got: &mut Option<Bulk>,
        limit: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, NoHead>> {
        match self {
            Upstream::One(c) => {
                let read = match got {
                    Some(bulk) => bulk.poll_fill(&mut c.stream, cx, limit.max(bulk.bytes().len())),
                    None => Bulk::poll_read(&mut c.stream, cx, limit).map_ok(|bulk| {
                        let n = bulk.bytes().len();
                        *got = Some(bulk);
                        n
                    }),
                };
                read.map(|n| {
                    c.fault = n.as_ref().err().and_then(fault);
                    Ok(n.unwrap_or(0) > 0)
                })
            }
            Upstream::Two(exchange) => exchange.poll_head(got, cx).map(|head| match head {
                Ok(()) => Ok(true),
                Err(Broken::Refused) => Err(NoHead::Refused),
                Err(Broken::Leaving) => Err(NoHead::Leaving),
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

    fn linger(&mut self) {
        if let Upstream::Two(exchange) = self {
            exchange.linger();
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
            Broken::Refused | Broken::Leaving | Broken::Reset => Kind::UpstreamReset,
            Broken::Closed => Kind::UpstreamClosed,
            Broken::Malformed => Kind::UpstreamMalformed,
            Broken::Unsendable => Kind::BadRequest(400, "request_cannot_be_said_in_http2"),
        }
    }
}
