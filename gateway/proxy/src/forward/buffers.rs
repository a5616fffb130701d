//! Buffers borrowed from the worker thread: an idle connection holds none of them.

use super::check::{Granted, Held};
use super::edits::Rendered;
use super::identity::Identity;
use super::mirror::Copying;
use crate::auth::Verified;
use crate::h1::head::Head;
use crate::trace::{SpanContext, Try};
use std::cell::RefCell;
use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// First size of a head buffer.
const HEAD: usize = 16 << 10;
/// How much of what follows a request is read while it is served.
const AHEAD: usize = 64 << 10;
/// How much of a head buffer may be used up before what follows moves to the front.
const CONSUMED: usize = HEAD / 2;
/// Size of a body buffer.
const BULK: usize = 64 << 10;
/// Room at the end of a body buffer that reading leaves for chunk framing.
const TAIL: usize = 2;
/// Room in front for the size of a chunk.
const HEADROOM: usize = 8;
/// How many of each a thread keeps for reuse.
const KEPT_WORKS: usize = 256;
const KEPT_BULKS: usize = 32;

#[expect(clippy::vec_box, reason = "a connection holds its Work as one pointer, which the box is")]
mod store {
    use super::*;
    thread_local! {
        pub(super) static WORKS: RefCell<Vec<Box<Work>>> = const { RefCell::new(Vec::new()) };
        pub(super) static BULKS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    }
}
use store::{BULKS, WORKS};

/// What one request in flight needs.
#[derive(Default)]
pub(crate) struct Work {
    /// Bytes from the client; the request's head begins at `pos`, unread memory at `end`.
    pub(crate) buf: Vec<u8>,
    pub(crate) pos: usize,
    pub(crate) end: usize,
    /// The request's head.
    pub(crate) request: Head,
    /// The canonical path where it differs from the one sent; empty where it does not.
    pub(crate) path: Vec<u8>,
    /// The target to send upstream where the path is rewritten.
    pub(crate) target: Vec<u8>,
    /// The authority as sent upstream.
    pub(crate) authority: Vec<u8>,
    /// What goes upstream: the head and as much of the body as came with it.
    pub(crate) out: Vec<u8>,
    /// Where in `out` the body begins.
    pub(crate) body_at: usize,
    /// The response's head as it came from the upstream.
    pub(crate) response: Head,
    /// The response's head as it goes to the client.
    pub(crate) reply: Vec<u8>,
    /// The trailer lines of the response.
    pub(crate) trailers: Vec<u8>,
    /// Who sent the request.
    pub(crate) identity: Identity,
    /// Its span, where requests are traced.
    pub(crate) span: Option<SpanContext>,
    /// The spans of its tries, where they are recorded.
    pub(crate) tries: Vec<Try>,
    /// Its tokens, when they were verified.
    pub(crate) verified: Option<Box<Verified>>,
    /// What a provider gave it that let it pass.
    pub(crate) granted: Option<Box<Granted>>,
    /// What of the body was read behind the head to be checked, as it stands on the wire.
    pub(crate) ahead: Vec<u8>,
    /// Counts that.
    pub(crate) held: Option<Held>,
    /// The copy for mirrors, until the request is all there.
    pub(crate) copying: Option<Box<Copying>>,
    /// Values of header operations that are not literal.
    pub(crate) rendered: Rendered,
}

impl Work {
    /// One from the thread's store.
    pub(crate) fn take() -> Box<Work> {
        WORKS.with(|w| w.borrow_mut().pop()).unwrap_or_else(|| {
            Box::new(Work { buf: vec![0; HEAD], out: Vec::with_capacity(4096), ..Work::default() })
        })
    }

    /// Gives it back; one that grew is freed instead.
    pub(crate) fn give_back(mut self: Box<Self>) {
        self.pos = 0;
        self.end = 0;
        self.clear();
        if self.buf.len() == HEAD && self.out.capacity() + self.reply.capacity() <= 4 * HEAD {
            WORKS.with(|w| {
                let mut w = w.borrow_mut();
                if w.len() < KEPT_WORKS {
                    w.push(self);
                }
            });
        }
    }

    /// Forgets the last request, not the bytes that follow it.
    pub(crate) fn clear(&mut self) {
        self.request.reset();
        self.response.reset();
        self.path.clear();
        self.authority.clear();
        self.out.clear();
        self.reply.clear();
        self.trailers.clear();
        self.verified = None;
        self.granted = None;
        self.ahead = Vec::new();
        self.held = None;
        self.span = None;
        self.tries.clear();
        self.copying = None;
    }

    /// Gives up all memory but that of what it holds: for a request that has been answered, or is yet to come, and may wait
    /// for long.
    pub(crate) fn shrink(&mut self) {
        self.buf.truncate(self.end);
        for text in [&mut self.buf, &mut self.out, &mut self.reply] {
            text.shrink_to_fit();
        }
        self.request.fields.shrink_to_fit();
        self.response.fields.shrink_to_fit();
    }

    /// What is kept while nothing comes: no buffers of a connection that is idle, and of one that is slow to send a head no
    /// more than what came of it.
    pub(crate) fn rest(mut self: Box<Self>) -> Option<Box<Self>> {
        if self.pos == self.end {
            self.give_back();
            return None;
        }
        self.shrink();
        Some(self)
    }

    /// The bytes of the request's head, and what follows.
    pub(crate) fn head(&self) -> &[u8] {
        &self.buf[self.pos..]
    }

    /// Reads more from a client.
    pub(crate) fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut R,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let end = self.end;
        let mut into = ReadBuf::new(&mut self.buf[end..]);
        ready!(Pin::new(from).poll_read(cx, &mut into))?;
        let n = into.filled().len();
        self.end += n;
        Poll::Ready(Ok(n))
    }

    /// Makes room for more of a head: the parser's limits bound how far it grows.
    pub(crate) fn make_room(&mut self) {
        if self.end < self.buf.len() {
            return;
        }
        if self.pos > 0 {
            self.buf.copy_within(self.pos..self.end, 0);
            self.end -= self.pos;
            self.pos = 0;
        } else {
            self.buf.resize((self.buf.len() * 2).max(HEAD), 0);
        }
    }

    /// Makes room for requests that come early; false when that many may wait in the socket.
    pub(crate) fn room_ahead(&mut self) -> bool {
        if self.end == self.buf.len() && self.end < AHEAD {
            self.buf.resize((self.buf.len() * 2).clamp(HEAD, AHEAD), 0);
        }
        self.end < self.buf.len()
    }

    /// Drops what comes before `next`, where the next request begins, so that the buffer stays
    /// within a few reads however requests follow each other.
    pub(crate) fn consume(&mut self, next: usize) {
        self.pos = next;
        if next < CONSUMED {
            return;
        }
        self.buf.copy_within(next..self.end, 0);
        self.end -= next;
        self.pos = 0;
        let fits = HEAD.max(self.end);
        if self.buf.len() > fits {
            self.buf.truncate(fits);
            self.buf.shrink_to_fit();
        }
    }

    /// Keeps bytes that were read too far: they belong to the next request.
    pub(crate) fn push_back(&mut self, bytes: &[u8]) {
        self.append([bytes]);
    }

    /// Appends text to what stands in `buf`, with one look at how much room there is.
    // Always: a part of known length is then copied without a call.
    #[inline(always)]
    pub(crate) fn append<const N: usize>(&mut self, parts: [&[u8]; N]) {
        let end = self.end + parts.iter().map(|part| part.len()).sum::<usize>();
        if self.buf.len() < end {
            self.buf.resize(end, 0);
        }
        let mut room = &mut self.buf[self.end..end];
        for part in parts {
            let (place, rest) = room.split_at_mut(part.len());
            place.copy_from_slice(part);
            room = rest;
        }
        self.end = end;
    }
}

/// A read buffer: taken when there is something to read, given back when it was passed on.
pub(crate) struct Bulk {
    data: Box<[u8]>,
    pos: usize,
    end: usize,
}

impl Bulk {
    /// Bytes of memory of one.
    pub(crate) const SIZE: usize = BULK;

    /// An empty one from the thread's store.
    pub(crate) fn take() -> Bulk {
        let data = BULKS.with(|b| b.borrow_mut().pop()).unwrap_or_else(|| vec![0; BULK].into());
        Bulk { data, pos: 0, end: 0 }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.data[self.pos..self.end]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.pos..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pos == self.end
    }

    /// Drops bytes from the front.
    pub(crate) fn advance(&mut self, n: usize) {
        self.pos += n;
    }

    /// Keeps only the first `n` bytes.
    pub(crate) fn truncate(&mut self, n: usize) {
        self.end = self.pos + n;
    }

    /// Gives up all memory but that of the content, where that is less than most of it.
    pub(crate) fn shrink(&mut self) {
        let content = self.bytes().len();
        if content < self.data.len() / 2 {
            let small = Bulk { data: self.bytes().into(), pos: 0, end: content };
            *self = small;
        }
    }

    /// Makes all of it available again once it is empty.
    pub(crate) fn rewind(&mut self) {
        if self.is_empty() {
            (self.pos, self.end) = (0, 0);
        }
    }

    /// How much more fits.
    pub(crate) fn room(&self) -> usize {
        self.data.len().saturating_sub(self.end + TAIL)
    }

    /// Appends what fits.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let n = bytes.len().min(self.room());
        self.data[self.end..self.end + n].copy_from_slice(&bytes[..n]);
        self.end += n;
    }

    /// An empty one with room in front for chunk framing.
    pub(crate) fn with_headroom() -> Bulk {
        let mut bulk = Bulk::take();
        (bulk.pos, bulk.end) = (HEADROOM, HEADROOM);
        bulk
    }

    /// Makes the content a chunk, in place. There must be room in front, as behind a head.
    pub(crate) fn frame(&mut self) {
        let mut size = [0u8; HEADROOM];
        let mut left = &mut size[..];
        let fits = write!(left, "{:x}\r\n", self.bytes().len()).is_ok();
        let n = HEADROOM - left.len();
        debug_assert!(fits && n <= self.pos);
        self.pos -= n;
        self.data[self.pos..self.pos + n].copy_from_slice(&size[..n]);
        self.data[self.end..self.end + TAIL].copy_from_slice(b"\r\n");
        self.end += TAIL;
    }

    /// Reads at most `limit` bytes more. A buffer full of unread bytes is an error of the peer's.
    pub(crate) fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut R,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        if self.room() == 0 && self.pos > 0 {
            self.data.copy_within(self.pos..self.end, 0);
            (self.pos, self.end) = (0, self.end - self.pos);
        }
        let to = self.data.len().saturating_sub(TAIL).min(self.end.saturating_add(limit));
        if self.end >= to {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        let mut into = ReadBuf::new(&mut self.data[self.end..to]);
        ready!(Pin::new(from).poll_read(cx, &mut into))?;
        let n = into.filled().len();
        self.end += n;
        Poll::Ready(Ok(n))
    }

    /// Reads at most `limit` bytes into a new one.
    pub(crate) fn poll_read<R: AsyncRead + Unpin>(
        from: &mut R,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<io::Result<Bulk>> {
        let mut bulk = Bulk::with_headroom();
        ready!(bulk.poll_fill(from, cx, limit))?;
        Poll::Ready(Ok(bulk))
    }

    /// Writes all of it.
    pub(crate) fn poll_write_to<W: AsyncWrite + Unpin>(
        &mut self,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            match ready!(Pin::new(&mut *to).poll_write(cx, self.bytes()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.pos += n,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        if data.len() < BULK {
            return;
        }
        BULKS.with(|b| {
            let mut b = b.borrow_mut();
            if b.len() < KEPT_BULKS {
                b.push(data);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_is_slow_to_come_holds_what_came_of_it() {
        let mut w = Work::take();
        w.append([b"GET / HTTP/1.1\r\nHost"]);
        let mut w = w.rest().unwrap();
        let held = [w.buf.capacity(), w.out.capacity(), w.reply.capacity()].iter().sum::<usize>();
        assert!(held < 100, "{held}");
        w.make_room();
        assert!(w.buf[..w.end].ends_with(b"Host") && w.buf.len() == HEAD);
    }

    #[test]
    fn pipelined_requests_do_not_make_the_buffer_grow() {
        let mut w = Work::take();
        for _ in 0..100 {
            // all that is there belongs to a body, and a full read brings more than its end
            let next = w.end;
            w.push_back(&[b'x'; BULK]);
            w.consume(next);
            assert_eq!((w.pos, w.end, w.buf.len()), (0, BULK, BULK));
        }
        w.consume(BULK - 3);
        assert_eq!((&w.buf[w.pos..w.end], w.buf.len(), w.buf.capacity()), (&b"xxx"[..], HEAD, HEAD));
        w.consume(w.end);
        assert_eq!(w.pos, w.end);
    }

    #[test]
    fn what_waits_holds_its_content_and_no_more() {
        for (content, kept) in [(0, 0), (100, 100), (BULK / 2, BULK)] {
            let mut bulk = Bulk::with_headroom();
            bulk.push(&vec![b'x'; content + 7]);
            bulk.advance(7);
            bulk.shrink();
            assert_eq!((bulk.bytes(), bulk.data.len()), (&*vec![b'x'; content], kept));
            // there is no room for more, and none is taken for it
            assert!(kept == BULK || bulk.room() == 0);
            drop(bulk);
            assert_eq!(Bulk::take().data.len(), BULK);
        }
        let mut w = Work::take();
        w.push_back(b"GET / HTTP/1.1\r\n\r\n");
        w.out.extend_from_slice(b"out");
        w.shrink();
        assert_eq!((w.head(), &*w.out), (&b"GET / HTTP/1.1\r\n\r\n"[..], &b"out"[..]));
        assert!(w.buf.capacity() + w.out.capacity() < 64);
        w.give_back();
        assert_eq!(Work::take().buf.len(), HEAD);
    }

    #[test]
    fn a_head_behind_others_may_cross_the_end_of_a_read_buffer() {
        let mut bulk = Bulk::take();
        bulk.push(&[b'x'; BULK]);
        bulk.advance(BULK - 3);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let read = bulk.poll_fill(&mut &b"abc"[..], &mut cx, usize::MAX);
        assert!(matches!(read, Poll::Ready(Ok(3))), "{read:?}");
        assert!(bulk.bytes().starts_with(b"x") && bulk.bytes().ends_with(b"abc"));
    }
}
