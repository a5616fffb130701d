//! After a 101: bytes go both ways until one side ends, or nothing moved for too long.

use super::client::Client;
use crate::forward::buffers::{Bulk, Work};
use crate::forward::downstream::Downstream;
use pingora::protocols::Stream;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// One direction.
#[derive(Default)]
pub(crate) struct Way {
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

impl Way {
    fn with(piece: Bulk) -> Self {
        let bytes = piece.bytes().len() as u64;
        Way { piece: Some(piece), bytes, ..Way::default() }
    }

    fn with_all(bytes: &[u8]) -> Self {
        let mut piece = Bulk::take();
        let (first, rest) = bytes.split_at(bytes.len().min(piece.room()));
        piece.push(first);
        Way { bytes: bytes.len() as u64, rest: rest.to_vec(), ..Way::with(piece) }
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
    pub(crate) fn poll(
        &mut self,
        from: &mut Stream,
        to: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.closed {
            if let Some(piece) = &mut self.piece {
                ready!(piece.poll_write_to(to, cx))?;
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
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.closed = true;
            } else {
                match Bulk::poll_read(from, cx, usize::MAX) {
                    Poll::Ready(piece) => {
                        let piece = piece?;
                        self.bytes += piece.bytes().len() as u64;
                        self.ended = piece.is_empty();
                        self.piece = Some(piece).filter(|p| !p.is_empty());
                    }
                    Poll::Pending => {
                        if self.dirty {
                            ready!(Pin::new(&mut *to).poll_flush(cx))?;
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

/// Joins client and upstream: first the response's head, then what either side sent early.
/// Returns the bytes from and to the client.
pub(super) async fn join(
    client: &mut Client,
    w: &mut Work,
    upstream: &mut Stream,
    early: Bulk,
) -> (u64, u64) {
    let mut nothing = Bulk::take();
    let head = client.begin_response(w, false).is_ok()
        && poll_fn(|cx| match client.poll_body(w, &mut nothing, false, cx) {
            Poll::Pending => client.deadline.poll(cx).map(|_| false),
            Poll::Ready(sent) => Poll::Ready(sent.is_ok()),
        })
        .await;
    if !head {
        return (0, 0);
    }
    let (mut down, mut up) = (Way::with(early), Way::with_all(&w.buf[client.next..w.end]));
    w.end = client.next;
    down.dirty = true;
    poll_fn(|cx| {
        let to_client = down.poll(upstream, &mut client.stream, cx);
        let to_upstream = up.poll(&mut client.stream, upstream, cx);
        if down.take_moved() | up.take_moved() {
            client.deadline.touch();
        }
        match (to_client, to_upstream) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(()),
            (Poll::Ready(_), Poll::Ready(_)) => Poll::Ready(()),
            _ => client.deadline.poll(cx).map(|_| ()),
        }
    })
    .await;
    (up.bytes, down.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn what_came_early_arrives_whole_and_in_order() {
        let early: Vec<u8> = (0..200_000u32).map(|n| n.to_le_bytes()[1]).collect();
        let mut way = Way::with_all(&early);
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
