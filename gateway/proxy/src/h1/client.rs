use super::body::BodyScan;
use super::head::Framing;
use crate::forward::buffers::{Bulk, Work};
use crate::forward::deadline::Deadline;
use crate::forward::downstream::Downstream;
use crate::forward::error::Kind;
use crate::forward::pace::Awaited;
use crate::forward::stall::{self, Stall};
use crate::forward::tunnel::End;
use pingora::protocols::{SocketDigest, Stream};
use pingora::server::ShutdownWatch;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// A body up to this size is sent in one write with the head.
const JOINED: usize = 4 << 10;
/// The same where the stream takes one slice at a time (TLS).
const JOINED_TLS: usize = 16 << 10;
/// How much of a response is read at once where the clients of many others do not take theirs.
const PIECE: usize = 16 << 10;

/// The client of one HTTP/1 connection, and its request in hand.
pub(super) struct Client {
    pub(super) stream: Stream,
    pub(super) deadline: Deadline,
    pub(super) shutdown: ShutdownWatch,
    /// The request's body.
    scan: BodyScan,
    /// Chunk framing is taken off the body.
    decode: bool,
    /// Where in `w.buf` the next request begins.
    pub(super) next: usize,
    http11: bool,
    /// The connection ends after this response.
    pub(super) closing: bool,
    /// The end of the connection is the end of the response.
    until_close: bool,
    /// The response was cut off.
    pub(super) aborted: bool,
    /// Bytes of `w.reply` sent.
    replied: usize,
    /// While the response waits for the client.
    stall: Option<Stall>,
}

impl Client {
    pub(super) fn new(stream: Stream, deadline: Deadline, shutdown: ShutdownWatch) -> Self {
        Client {
            stream,
            deadline,
            shutdown,
            scan: BodyScan::new(Framing::None),
            decode: false,
            next: 0,
            http11: true,
            closing: false,
            until_close: false,
            aborted: false,
            replied: 0,
            stall: None,
        }
    }

    /// Before a head was understood: whatever is answered ends the connection.
    pub(super) fn give_up(&mut self) {
        self.scan = BodyScan::new(Framing::None);
        self.closing = true;
    }

    /// Gives up what is in hand: where the end of the connection would be that of the response, it is
    /// cut off.
    pub(super) fn cut(&mut self) {
        if self.until_close {
            self.abort();
        }
    }

    fn poll_out(&mut self, w: &mut Work, body: &mut Bulk, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if stall::are_many() {
            // what TLS holds already is enough
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        }
        while self.replied < w.reply.len() {
            let vectored = self.stream.is_write_vectored();
            if body.bytes().len() <= if vectored { JOINED } else { JOINED_TLS } {
                w.reply.extend_from_slice(body.bytes());
                body.advance(body.bytes().len());
            }
            let head = &w.reply[self.replied..];
            let stream = Pin::new(&mut self.stream);
            let n = ready!(if body.is_empty() || !vectored {
                stream.poll_write(cx, head)
            } else {
                stream.poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(body.bytes())])
            })?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_head = n.min(head.len());
            self.replied += of_head;
            body.advance(n - of_head);
        }
        body.poll_write_to(&mut self.stream, cx)
    }

    /// Whether another request may follow on this connection.
    pub(super) fn goes_on(&self) -> bool {
        !self.closing && !self.aborted && self.uploaded()
    }
}

impl Downstream for Client {
    fn deadline(&mut self) -> &mut Deadline {
        &mut self.deadline
    }

    fn begin_upload(&mut self, w: &mut Work) -> Result<Range<usize>, Kind> {
        self.http11 = w.request.http11;
        self.closing |= !w.request.persistent();
        self.scan = BodyScan::new(w.request.request_framing());
        self.decode = false;
        let body = w.pos + w.request.len;
        self.next = body;
        let Ok((used, kept)) = self.scan.scan(&mut w.buf[body..w.end]) else {
            self.closing = true;
            return Err(Kind::BadBody);
        };
        self.next = body + used;
        let mut end = body + kept;
        for part in self.scan.tail() {
            w.buf[end..end + part.len()].copy_from_slice(part);
            end += part.len();
        }
        Ok(body..end)
    }

    fn uploaded(&self) -> bool {
        self.scan.done()
    }

    fn received(&self) -> u64 {
        self.scan.data()
    }

    fn taken(&self) -> Option<u64> {
        // the system writes ahead of what the client takes, and says nothing for long where that is slow
        Some(SocketDigest::from_raw_fd(self.stream.id()).tcp_info()?.tcpi_bytes_acked)
    }

    fn poll_upload(&mut self, w: &mut Work, cx: &mut Context<'_>) -> Poll<Result<Bulk, Kind>> {
        let read = Bulk::poll_read(&mut self.stream, cx, self.scan.limit());
        if read.is_pending() {
            self.deadline.await_client(Awaited::Upload);
        }
        let Ok(mut bulk) = ready!(read) else {
            return Poll::Ready(Err(Kind::ClientGone));
        };
        if bulk.is_empty() {
            return Poll::Ready(Err(Kind::ClientGone));
        }
        let taken =
            if self.decode { self.scan.decode(bulk.bytes_mut()) } else { self.scan.scan(bulk.bytes_mut()) };
        let Ok((used, kept)) = taken else {
            self.closing = true;
            return Poll::Ready(Err(Kind::BadBody));
        };
        w.push_back(&bulk.bytes()[used..]);
        bulk.truncate(kept);
        if !self.decode {
            self.scan.tail().into_iter().for_each(|part| bulk.push(part));
        }
        Poll::Ready(Ok(bulk))
    }

    fn upload_content(&mut self) {
        self.decode = true;
    }

    fn upload_trailers(&self) -> Option<&[u8]> {
        self.scan.trailers()
    }

    fn poll_gone(&mut self, w: &mut Work, cx: &mut Context<'_>) -> Poll<()> {
        // what comes now belongs to the next request; only the end of all of it tells of a client
        // that left, so a good deal is taken in before the rest waits
        while w.room_ahead() {
            match ready!(w.poll_read(&mut self.stream, cx)) {
                Ok(n) if n > 0 => {}
                _ => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    fn takes_chunks(&self) -> bool {
        self.http11
    }

    fn connection_lines(&mut self, last: bool) -> &'static [u8] {
        // The listener may have gone while the request was in flight.
        self.until_close = last;
        self.closing |= last || !self.uploaded() || self.shutdown.has_changed().unwrap_or(true);
        match (self.closing, self.http11) {
            (true, _) => b"connection: close\r\n",
            (false, false) => b"connection: keep-alive\r\n",
            (false, true) => b"",
        }
    }

    async fn interim(&mut self, w: &mut Work) -> io::Result<()> {
        if !self.http11 {
            return Ok(());
        }
        let Client { stream, deadline, .. } = self;
        let mut send = pin!(async {
            stream.write_all(&w.reply).await?;
            stream.flush().await
        });
        poll_fn(|cx| match send.as_mut().poll(cx) {
            Poll::Pending => deadline.poll(cx).map(|_| Err(io::ErrorKind::TimedOut.into())),
            ready => ready,
        })
        .await
    }

    fn begin_response(&mut self, _w: &mut Work, _end: bool) -> io::Result<()> {
        self.replied = 0;
        Ok(())
    }

    fn room(&mut self) -> usize {
        if stall::are_many() { PIECE } else { usize::MAX }
    }

    fn poll_body(
        &mut self,
        w: &mut Work,
        body: &mut Bulk,
        _last: bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let sent = self.poll_out(w, body, cx);
        if sent.is_ready() {
            self.stall = None;
            return sent;
        }
        self.deadline.await_client(Awaited::Download);
        if self.stall.is_none() {
            self.stall = Some(Stall::begin());
            if stall::are_many() {
                body.shrink();
                w.shrink();
            }
        }
        sent
    }

    fn poll_end(&mut self, _trailers: Option<&[u8]>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.stream).poll_flush(cx);
        if sent.is_pending() {
            self.deadline.await_client(Awaited::Download);
        }
        sent
    }

    fn begin_tunnel(&mut self, w: &Work) -> Range<usize> {
        self.closing = true;
        self.next..w.end
    }

    fn abort(&mut self) {
        self.aborted = true;
        // the end of a plain connection would make the response look whole; TLS ends otherwise
        if self.until_close {
            self.stream.cut();
        }
    }
}

impl End for Client {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bulk>> {
        self.stream.poll_read(cx)
    }

    fn poll_write(&mut self, piece: &mut Bulk, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_write(piece, cx)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        End::poll_flush(&mut self.stream, cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        End::poll_shutdown(&mut self.stream, cx)
    }

    fn cut(&mut self) {
        self.aborted = true;
        self.stream.cut();
    }
}
