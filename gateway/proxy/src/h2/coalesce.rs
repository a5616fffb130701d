//! A stream for `h2` whose flushes are held back: the codec flushes after every DATA frame that it
//! does not copy, which is one write (and one TLS record) for each response. Here a flush by the
//! codec only marks; the connection's own loop flushes once, after all streams that were ready
//! have written. And what has nothing to read is asked once between two such flushes: the codec tries
//! to read again for each stream that it hands out.

use super::frames::{Forbidden, Frames};
use super::sent::{End, Sent};
use crate::forward::buffers::Bulk;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

/// How much is held back before it is written without a flush.
const HOLD: usize = 16 << 10;

struct Held<S> {
    stream: S,
    /// What is held back.
    bytes: Option<Bulk>,
    dirty: bool,
    frames: Frames,
    /// What the peer did for which nothing more of it is read.
    forbidden: Option<Forbidden>,
    /// The codec has read all that had come, and its task is woken when there is more.
    waits: bool,
    /// What we tell a client.
    sent: Option<Sent>,
}

impl<S: AsyncWrite + Unpin> Held<S> {
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(bytes) = &mut self.bytes {
            ready!(bytes.poll_write_to(&mut self.stream, cx))?;
            // an idle connection holds no buffers
            self.bytes = None;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes note of what the codec wrote last.
    fn see_sent(&mut self, taken: usize) {
        if let (Some(bytes), Some(sent)) = (&self.bytes, &mut self.sent) {
            let all = bytes.bytes();
            sent.see(&all[all.len() - taken..], |stream| self.frames.is_unseen(stream));
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        if self.dirty {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// The half that is given to `h2`.
pub(super) struct Coalesce<S>(Rc<RefCell<Held<S>>>);

/// The half that the connection's loop keeps.
pub(super) struct Flusher<S>(Rc<RefCell<Held<S>>>);

pub(super) fn coalesce<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> (Coalesce<S>, Flusher<S>) {
    watched(stream, Frames::of_client(), Some(Sent::default()))
}

/// The same for our side of a connection to a server.
pub(super) fn coalesce_client<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> (Coalesce<S>, Flusher<S>) {
    watched(stream, Frames::of_server(), None)
}

fn watched<S>(stream: S, frames: Frames, sent: Option<Sent>) -> (Coalesce<S>, Flusher<S>) {
    let held = Held { stream, bytes: None, dirty: false, frames, forbidden: None, waits: false, sent };
    let held = Rc::new(RefCell::new(held));
    (Coalesce(held.clone()), Flusher(held))
}

impl<S: AsyncWrite + Unpin> Flusher<S> {
    /// Writes out what the codec left; to be called at the end of each poll of the connection's task.
    /// Pending is fine: the stream wakes the task.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = self.0.borrow_mut();
        held.waits = false;
        held.poll_flush(cx)
    }

    /// Whether the peer floods us with frames that ask for nothing.
    pub(super) fn flooded(&self) -> bool {
        self.0.borrow().frames.flooded()
    }

    /// What the peer did that is forbidden: from there on `h2` gets nothing of it.
    pub(super) fn forbidden(&self) -> Option<Forbidden> {
        self.0.borrow().forbidden
    }

    /// Whether all that has come was looked at, since the last flush.
    pub(super) fn waits(&self) -> bool {
        self.0.borrow().waits
    }

    /// Takes out the first stream that the client has opened, where it is older than `stream`. `stream` itself is
    /// taken out, too.
    pub(super) fn opened_before(&self, stream: u32) -> Option<u32> {
        self.0.borrow_mut().frames.opened_before(stream)
    }

    /// How `h2` ended a stream that it did not hand over, if that was lately.
    pub(super) fn end_of(&self, stream: u32) -> Option<End> {
        self.0.borrow().sent.as_ref()?.end(stream)
    }

    /// Whether the peer's SETTINGS have come.
    pub(super) fn greeted(&self) -> bool {
        self.0.borrow().frames.greeted()
    }

    /// Since when a header block has waited for its end.
    pub(super) fn open_since(&self) -> Option<Instant> {
        self.0.borrow().frames.open_since()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Flusher<S> {
    /// Writes out what is left, ends our side, and reads what the client still sends until it
    /// ends its own: a socket that closes with unread bytes is reset, and then the client loses
    /// what it has not read. Gives up when the client is silent for `silence`, or after `most`.
    pub(super) async fn end(&self, silence: Duration, most: Duration) {
        let ending = async {
            let written = poll_fn(|cx| self.poll_flush(cx));
            let ended = async {
                written.await?;
                poll_fn(|cx| Pin::new(&mut self.0.borrow_mut().stream).poll_shutdown(cx)).await
            };
            if !matches!(timeout(silence, ended).await, Ok(Ok(()))) {
                return;
            }
            let mut scratch = [0; 512];
            let read = async |scratch: &mut [u8]| {
                let mut into = ReadBuf::new(scratch);
                poll_fn(|cx| Pin::new(&mut self.0.borrow_mut().stream).poll_read(cx, &mut into)).await?;
                Ok::<_, io::Error>(into.filled().len())
            };
            while let Ok(Ok(1..)) = timeout(silence, read(&mut scratch)).await {}
        };
        // Whoever keeps sending is cut all the same.
        let _ = timeout(most, ending).await;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalesce<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut held = self.0.borrow_mut();
        if held.forbidden.is_some() || held.waits {
            return Poll::Pending;
        }
        let before = into.filled().len();
        let read = Pin::new(&mut held.stream).poll_read(cx, into);
        held.waits = read.is_pending();
        ready!(read)?;
        held.forbidden = held.frames.see(&into.filled()[before..]).err();
        if held.forbidden.is_some() {
            // the connection's loop looks at that next
            into.set_filled(before);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalesce<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut held = self.0.borrow_mut();
        if held.bytes.as_ref().is_some_and(|b| b.bytes().len() >= HOLD || b.room() == 0) {
            ready!(held.poll_write_out(cx))?;
        }
        held.dirty = true;
        let bytes = held.bytes.get_or_insert_with(Bulk::take);
        let room = bytes.room();
        slices.iter().for_each(|s| bytes.push(s));
        let taken = room - bytes.room();
        held.see_sent(taken);
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = self.0.borrow_mut();
        ready!(held.poll_flush(cx))?;
        Pin::new(&mut held.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn nothing_is_written_before_the_loop_flushes() {
        let (near, mut far) = tokio::io::duplex(64 << 10);
        let (mut io, flusher) = coalesce(near);
        io.write_all(b"one ").await.unwrap();
        io.flush().await.unwrap();
        io.write_all(b"two").await.unwrap();
        let mut buf = [0; 16];
        let early = tokio::time::timeout(std::time::Duration::from_millis(20), far.read(&mut buf)).await;
        assert!(early.is_err());
        poll_fn(|cx| flusher.poll_flush(cx)).await.unwrap();
        assert_eq!(far.read(&mut buf).await.unwrap(), 7);
        assert_eq!(&buf[..7], b"one two");
    }

    #[tokio::test]
    async fn what_has_nothing_to_read_is_asked_once_between_flushes() {
        let (near, mut far) = tokio::io::duplex(64);
        let (mut io, flusher) = coalesce_client(near);
        let mut buf = [0; 16];
        let mut cx = Context::from_waker(Waker::noop());
        let mut poll_read = || {
            let mut into = ReadBuf::new(&mut buf);
            Pin::new(&mut io).poll_read(&mut cx, &mut into).map_ok(|()| into.filled().len())
        };
        assert!(poll_read().is_pending());
        far.write_all(&[0, 0, 0, 4]).await.unwrap();
        assert!(poll_read().is_pending());
        poll_fn(|cx| flusher.poll_flush(cx)).await.unwrap();
        assert!(matches!(poll_read(), Poll::Ready(Ok(4))));
    }

    #[tokio::test]
    async fn the_end_waits_for_the_client_to_have_read() {
        let long = Duration::from_secs(5);
        let (near, mut far) = tokio::io::duplex(4);
        let (mut io, flusher) = coalesce(near);
        io.write_all(b"the last bytes").await.unwrap();
        let client = async {
            let mut read = Vec::new();
            far.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, b"the last bytes");
            // as WINDOW_UPDATE for what was read
            far.write_all(&[0; 1300]).await.expect("the other side still reads");
            far.shutdown().await.unwrap();
        };
        let began = Instant::now();
        tokio::join!(flusher.end(long, long), client);
        assert!(began.elapsed() < long);
    }

    #[tokio::test]
    async fn the_end_waits_for_nobody_for_long() {
        let (silence, most) = (Duration::from_millis(20), Duration::from_millis(200));
        let (near, _far) = tokio::io::duplex(64);
        coalesce(near).1.end(silence, Duration::from_secs(60)).await;
        let (near, far) = tokio::io::duplex(64);
        let (_, mut far) = tokio::io::split(far);
        let flood = async { while far.write_all(&[0; 64]).await.is_ok() {} };
        let (_io, flusher) = coalesce(near);
        tokio::select! {
            () = flusher.end(Duration::from_secs(60), most) => {}
            () = flood => panic!("ended by itself"),
        }
    }

    #[tokio::test]
    async fn what_is_held_is_bounded() {
        let (near, _far) = tokio::io::duplex(1);
        let (mut io, _flusher) = coalesce(near);
        let mut sent = 0;
        let flood = async {
            loop {
                sent += io.write(&[0; 4096]).await.unwrap();
            }
        };
        let _ = tokio::time::timeout(std::time::Duration::from_millis(20), flood).await;
        assert!(sent <= 2 * HOLD, "{sent}");
    }
}
