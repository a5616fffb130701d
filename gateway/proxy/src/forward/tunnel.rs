//! After a 101: bytes go both ways until both sides have ended, one of them failed, or nothing
//! moved for too long.

use super::buffers::{Bulk, Work};
use super::deadline::{Waiting, under_deadline};
use super::downstream::Downstream;
use super::error::Kind;
use super::upstream::Upstream;
use super::websocket::{Frames, Sender};
use crate::listener::reset_on_close;
use crate::worker::Cut;
use pingora::protocols::Stream;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWrite;

/// How long one way may stand still once the other has ended.
const HALF_CLOSED: Duration = Duration::from_secs(10);

/// One end of a tunnel: a connection of HTTP/1, or a stream of HTTP/2.
pub(crate) trait End {
    /// The next bytes; none at the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bulk>>;

    /// Sends all of a piece, as fast as the peer takes it.
    fn poll_write(&mut self, piece: &mut Bulk, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Has what was written leave.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Tells the peer that nothing follows; it may go on sending.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready when the peer has cut the tunnel, where reading and writing do not tell.
    fn poll_reset(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// Has what was sent leave although this end is given up at once.
    fn linger(&mut self) {}

    /// Cuts the tunnel: the peer must not take what it got for all.
    fn cut(&mut self);
}

impl End for Stream {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bulk>> {
        Bulk::poll_read(self, cx, usize::MAX)
    }

    fn poll_write(&mut self, piece: &mut Bulk, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        piece.poll_write_to(self, cx)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(self), cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(self), cx)
    }

    fn cut(&mut self) {
        // TLS tells an end from a cut by itself
        if let Some(stream) = (**self).as_any().downcast_ref() {
            let _ = reset_on_close(stream);
        }
    }
}

/// One direction.
#[derive(Default)]
pub(crate) struct Way {
    /// Of a WebSocket.
    frames: Option<Frames>,
    /// What was read before the tunnel and does not fit into the first piece.
    rest: Vec<u8>,
    piece: Option<Bulk>,
    bytes: u64,
    /// The source has ended.
    ended: bool,
    /// And the sink knows.
    closed: bool,
    dirty: bool,
    moved: bool,
}

/// Which end failed.
#[derive(Debug)]
pub(crate) enum Failed {
    Source,
    Sink,
}

impl Way {
    /// From what `sender` sent early: a piece, and what did not fit into it.
    fn new(sender: Sender, piece: Bulk, rest: &[u8]) -> Self {
        let mut frames = Frames::of(sender);
        frames.see(piece.bytes());
        frames.see(rest);
        Way {
            frames: Some(frames),
            bytes: (piece.bytes().len() + rest.len()) as u64,
            piece: Some(piece),
            rest: rest.to_vec(),
            ended: false,
            closed: false,
            dirty: true,
            moved: false,
        }
    }

    fn with_all(sender: Sender, bytes: &[u8]) -> Self {
        let mut piece = Bulk::take();
        let (first, rest) = bytes.split_at(bytes.len().min(piece.room()));
        piece.push(first);
        Way::new(sender, piece, rest)
    }

    /// Ends it with the goodbye of WebSocket, as far as that can be sent now.
    fn say_goodbye<T: End>(&mut self, to: &mut T, cx: &mut Context<'_>) {
        let all_sent = self.piece.is_none() && self.rest.is_empty() && !self.ended;
        let Some(goodbye) = self.frames.as_mut().filter(|_| all_sent).and_then(Frames::goodbye) else {
            return;
        };
        let mut piece = Bulk::take();
        piece.push(&goodbye);
        if to.poll_write(&mut piece, cx).is_ready() && to.poll_flush(cx).is_ready() {
            let _ = to.poll_shutdown(cx);
            to.linger();
        }
    }

    /// Bytes that were read from the source.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether something was written since this was asked last.
    pub(crate) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Copies as much as goes now; ready when the source has ended and the sink was told.
    pub(crate) fn poll<F: End, T: End>(
        &mut self,
        from: &mut F,
        to: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>> {
        while !self.closed {
            if let Some(piece) = &mut self.piece {
                ready!(to.poll_write(piece, cx)).map_err(|_| Failed::Sink)?;
                self.piece = None;
                self.dirty = true;
                self.moved = true;
            } else if !self.rest.is_empty() {
                let mut piece = Bulk::take();
                let n = self.rest.len().min(piece.room());
                piece.push(&self.rest[..n]);
                self.rest.drain(..n);
                self.piece = Some(piece);
            } else if self.ended {
                ready!(to.poll_shutdown(cx)).map_err(|_| Failed::Sink)?;
                self.closed = true;
            } else {
                match from.poll_read(cx) {
                    Poll::Ready(piece) => {
                        let piece = piece.map_err(|_| Failed::Source)?;
                        self.bytes += piece.bytes().len() as u64;
                        if let Some(frames) = &mut self.frames {
                            frames.see(piece.bytes());
                        }
                        self.ended = piece.is_empty();
                        self.piece = Some(piece).filter(|p| !p.is_empty());
                    }
                    Poll::Pending => {
                        if self.dirty {
                            ready!(to.poll_flush(cx)).map_err(|_| Failed::Sink)?;
                            self.dirty = false;
                        }
                        return Poll::Pending;
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Joins client and upstream: first the response's head (`w.reply`), then what either side sent
/// early, `early` being the upstream's. Only idleness is limited from now on; when the time of a
/// stop is over, both sides hear it. Counts the bytes from the client and those to it.
///
/// # Errors
/// What cut the tunnel short.
pub(super) async fn join<D: Downstream>(
    down: &mut D,
    w: &mut Work,
    upstream: &mut Upstream,
    early: Bulk,
    cut: &Cut,
    (received, sent): (&mut u64, &mut u64),
) -> Result<(), Kind> {
    down.deadline().end_limits();
    let sent_early = down.begin_tunnel(w);
    let mut nothing = Bulk::take();
    let head = down.begin_response(w, false).is_ok()
        && under_deadline(down, w, Waiting::ForClient, |down, w, cx| {
            down.poll_body(w, &mut nothing, false, cx).map_err(|_| Kind::ClientGone)
        })
        .await
        .is_ok();
    if !head {
        return Err(Kind::ClientGone);
    }
    let mut to_client = Way::new(Sender::Server, early, b"");
    let mut to_upstream = Way::with_all(Sender::Client, &w.buf[sent_early.clone()]);
    w.end -= sent_early.len();
    let (mut half_closed, mut left) = (false, false);
    let over = poll_fn(|cx| {
        if cut.is_said() && !std::mem::replace(&mut left, true) {
            to_client.say_goodbye(down, cx);
            to_upstream.say_goodbye(upstream, cx);
        }
        let there = to_client.poll(upstream, down, cx);
        let back = to_upstream.poll(down, upstream, cx);
        (*received, *sent) = (to_upstream.bytes, to_client.bytes);
        if to_client.take_moved() | to_upstream.take_moved() {
            down.deadline().touch();
        }
        if !half_closed && (to_client.closed || to_upstream.closed) {
            half_closed = true;
            down.deadline().shorten(HALF_CLOSED);
        }
        match (there, back) {
            // the upstream has said all, and now it takes no more
            (Poll::Ready(Ok(())), Poll::Ready(Err(Failed::Sink))) => Poll::Ready(Ok(())),
            (Poll::Ready(Err(Failed::Sink)), _) | (_, Poll::Ready(Err(Failed::Source))) => {
                Poll::Ready(Err(Kind::ClientGone))
            }
            (Poll::Ready(Err(Failed::Source)), _) | (_, Poll::Ready(Err(Failed::Sink))) => {
                Poll::Ready(Err(Kind::UpstreamReset))
            }
            (Poll::Ready(_), Poll::Ready(_)) => Poll::Ready(Ok(())),
            _ if down.poll_reset(cx).is_ready() => Poll::Ready(Err(Kind::ClientGone)),
            (Poll::Ready(Ok(())), _) if upstream.poll_reset(cx).is_ready() => Poll::Ready(Ok(())),
            _ if upstream.poll_reset(cx).is_ready() => Poll::Ready(Err(Kind::UpstreamReset)),
            _ => down.deadline().poll(cx).map(|_| if half_closed { Ok(()) } else { Err(Kind::Stalled) }),
        }
    })
    .await;
    match over {
        Err(Kind::ClientGone) => upstream.cut(),
        Err(Kind::UpstreamReset) => down.cut(),
        _ => {}
    }
    over
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn what_came_early_arrives_whole_and_in_order() {
        let early: Vec<u8> = (0..200_000u32).map(|n| n.to_le_bytes()[1]).collect();
        let mut way = Way::with_all(Sender::Client, &early);
        let mut from: Stream = Box::new(tokio::io::duplex(16).0);
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let mut to: Stream = Box::new(near);
        let mut got = Vec::new();
        let copy = poll_fn(|cx| way.poll(&mut from, &mut to, cx));
        let (copied, read) = tokio::join!(copy, far.read_to_end(&mut got));
        copied.unwrap();
        read.unwrap();
        assert_eq!((got == early, way.bytes), (true, early.len() as u64));
    }
}
