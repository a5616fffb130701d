use super::abuse::Ends;
use super::budget::Stall;
use super::fields::{broken, fields, linger, may_not_be_trailers, poll_send, raise_fields, write_fields};
use crate::forward::buffers::{Bulk, Work};
use crate::forward::deadline::Deadline;
use crate::forward::downstream::Downstream;
use crate::forward::error::Kind;
use crate::forward::pace::Awaited;
use crate::forward::tunnel::End;
use crate::h1::field::{Known, known};
use crate::h1::head::Framing;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, Response, StatusCode};
use std::future::poll_fn;
use std::io::{self, Write};
use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

/// Room for what chunk framing adds to a piece.
const CHUNK: usize = 32;
/// How much is read of an answer that the client does not take now, where it takes nothing of many others either.
const MORSEL: usize = 1 << 10;

/// One stream of an HTTP/2 connection.
pub(super) struct Client<'d> {
    respond: SendResponse<Bytes>,
    send: Option<SendStream<Bytes>>,
    body: RecvStream,
    deadline: &'d mut Deadline,
    /// Shared by the streams of the connection that are open.
    open: &'d Rc<Ends>,
    /// While the answer waits for the client's windows.
    stall: Option<Stall<'d>>,
    chunked: bool,
    uploaded: bool,
    received: u64,
    sent: u64,
    /// The request's trailer lines.
    trailers: Vec<u8>,
    /// What of a DATA frame did not fit yet.
    rest: Bytes,
    /// END_STREAM was sent.
    ended: bool,
    /// Whether the client reset it before, once that was looked at.
    given_up: Option<bool>,
    /// For an extended CONNECT, whose content is no body but what goes through the tunnel.
    tunnel: Option<Tunnel>,
}

/// What an extended CONNECT asks for.
#[derive(Clone, Copy)]
pub(super) struct Tunnel {
    /// The client sent a `Sec-WebSocket-Key` although RFC 8441 has none, and awaits its answer.
    pub(super) keyed: bool,
}

impl<'d> Client<'d> {
    /// `uploaded` when the request has no body.
    pub(super) fn new(
        respond: SendResponse<Bytes>,
        body: RecvStream,
        uploaded: bool,
        deadline: &'d mut Deadline,
        open: &'d Rc<Ends>,
        tunnel: Option<Tunnel>,
    ) -> Self {
        Client {
            respond,
            send: None,
            body,
            deadline,
            open,
            stall: None,
            chunked: false,
            uploaded,
            received: 0,
            sent: 0,
            trailers: Vec::new(),
            rest: Bytes::new(),
            ended: false,
            given_up: None,
            tunnel,
        }
    }

    /// Whether the stream was reset before its response was all sent, by the client or because
    /// of what it did.
    pub(super) fn given_up(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        *self.given_up.get_or_insert_with(|| match &mut self.send {
            _ if self.ended => false,
            Some(send) => send.poll_reset(&mut cx).is_ready(),
            None => self.respond.poll_reset(&mut cx).is_ready(),
        })
    }

    /// Waits for the end of a body that was announced to be empty, which `h2` holds it to.
    pub(super) async fn ends(&mut self) -> Result<(), Kind> {
        while !self.uploaded {
            let next = poll_fn(|cx| match self.poll_piece(cx) {
                Poll::Pending => self.deadline.poll(cx).map(|_| Err(Kind::Idle)),
                ready => ready,
            });
            if !next.await?.is_empty() {
                return Err(Kind::BadStream);
            }
        }
        Ok(())
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bulk, Kind>> {
        loop {
            if !self.rest.is_empty() {
                return Poll::Ready(Ok(self.content()));
            }
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) => self.rest = data,
                Some(Err(e)) => return Poll::Ready(Err(ended(&e))),
                None => {
                    let trailers = ready!(self.body.poll_trailers(cx)).map_err(|e| ended(&e))?;
                    if trailers.as_ref().is_some_and(may_not_be_trailers) {
                        return Poll::Ready(Err(Kind::BadTrailers));
                    }
                    return Poll::Ready(Ok(self.end_of_upload(trailers)));
                }
            }
        }
    }

    /// A piece of content as it goes on an HTTP/1 wire.
    fn content(&mut self) -> Bulk {
        let mut bulk = Bulk::take();
        let content = self.rest.split_to(self.rest.len().min(bulk.room() - CHUNK));
        self.received += content.len() as u64;
        self.uploaded = self.rest.is_empty() && self.body.is_end_stream();
        if self.chunked {
            let mut size = [0u8; 20];
            let mut left = &mut size[..];
            let _ = write!(left, "{:x}\r\n", content.len());
            let unused = left.len();
            bulk.push(&size[..20 - unused]);
        }
        bulk.push(&content);
        if self.chunked {
            bulk.push(if self.uploaded { b"\r\n0\r\n\r\n" } else { b"\r\n" });
        }
        // what is read is bounded by this one piece, so its place in the window is free again
        let _ = self.body.flow_control().release_capacity(content.len());
        bulk
    }

    /// Sends content, as much as the windows take.
    fn poll_content(&mut self, body: &mut Bulk, last: bool, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(send) = &mut self.send else { return Poll::Ready(Ok(())) };
        let mut content = body.bytes();
        let all = content.len();
        let sent = poll_send(send, &mut content, last, &mut self.ended, cx);
        let taken = all - content.len();
        body.advance(taken);
        self.sent += taken as u64;
        if sent.is_ready() {
            self.stall = None;
            return sent;
        }
        self.deadline.await_client(Awaited::Download);
        if self.stall.is_none() {
            self.stall = Some(self.open.stalls.begin());
            if self.open.stalls.are_many() {
                body.shrink();
            }
        }
        sent
    }

    /// The end of a body after its content: trailers that may pass, and the last chunk.
    fn end_of_upload(&mut self, trailers: Option<HeaderMap>) -> Bulk {
        let mut bulk = Bulk::take();
        self.uploaded = true;
        if let Some(trailers) = trailers {
            write_fields(&trailers, &mut self.trailers);
        }
        if self.chunked {
            bulk.push(b"0\r\n");
            // bounded by what a header list may have, which is less than there is room
            bulk.push(&self.trailers);
            bulk.push(b"\r\n");
        }
        bulk
    }
}

/// Why a body has no end: the client reset its stream, or `h2` did for what the client sent.
fn ended(e: &h2::Error) -> Kind {
    if e.is_library() { Kind::BadStream } else { Kind::ClientGone }
}

/// A head that we wrote, for HTTP/2. The 101 of an extended CONNECT is a 200 (RFC 8441 5).
fn raise(head: &[u8], tunnel: Option<Tunnel>) -> io::Result<Response<()>> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let mut response = Response::new(());
    let status = head.get(9..12).and_then(|s| StatusCode::from_bytes(s).ok()).ok_or_else(invalid)?;
    let switching = status == StatusCode::SWITCHING_PROTOCOLS;
    *response.status_mut() = if switching { StatusCode::OK } else { status };
    let keep = |name: &HeaderName, tunnel: Tunnel| match known(name.as_str().as_bytes()) {
        Known::Connection | Known::Upgrade => !switching,
        Known::WebSocketAccept => tunnel.keyed,
        _ => true,
    };
    *response.headers_mut() = raise_fields(head, |name| tunnel.is_none_or(|t| keep(name, t)))?;
    Ok(response)
}

impl Downstream for Client<'_> {
    fn deadline(&mut self) -> &mut Deadline {
        self.deadline
    }

    fn begin_upload(&mut self, w: &mut Work) -> Result<Range<usize>, Kind> {
        self.chunked = w.request.request_framing() == Framing::Chunked;
        Ok(0..0)
    }

    fn uploaded(&self) -> bool {
        self.uploaded || self.tunnel.is_some()
    }

    fn received(&self) -> u64 {
        self.received
    }

    fn taken(&self) -> Option<u64> {
        Some(self.sent)
    }

    fn streams(&self) -> usize {
        // one share is the connection's own
        Rc::strong_count(self.open) - 1
    }

    fn poll_upload(&mut self, _w: &mut Work, cx: &mut Context<'_>) -> Poll<Result<Bulk, Kind>> {
        let piece = self.poll_piece(cx);
        if piece.is_pending() {
            self.deadline.await_client(Awaited::Upload);
        }
        piece
    }

    fn upload_content(&mut self) {
        self.chunked = false;
    }

    fn upload_trailers(&self) -> Option<&[u8]> {
        Some(self.trailers.as_slice()).filter(|t| !t.is_empty())
    }

    fn poll_gone(&mut self, _w: &mut Work, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.send {
            Some(_) if self.ended => Poll::Pending,
            Some(send) => send.poll_reset(cx).map(|_| ()),
            None => self.respond.poll_reset(cx).map(|_| ()),
        }
    }

    fn takes_chunks(&self) -> bool {
        false
    }

    fn connection_lines(&mut self, _last: bool) -> &'static [u8] {
        b""
    }

    async fn interim(&mut self, w: &mut Work) -> io::Result<()> {
        self.respond.send_informational(raise(&w.reply, None)?).map_err(broken)
    }

    fn begin_response(&mut self, w: &mut Work, end: bool) -> io::Result<()> {
        self.send = Some(self.respond.send_response(raise(&w.reply, self.tunnel)?, end).map_err(broken)?);
        self.ended = end;
        Ok(())
    }

    fn room(&mut self) -> usize {
        if !self.open.stalls.are_many() {
            return usize::MAX;
        }
        let Some(send) = &mut self.send else { return MORSEL };
        send.reserve_capacity(Bulk::SIZE);
        let room = send.capacity();
        // the connection's window is not to wait with us for what is to be sent
        send.reserve_capacity(0);
        room.max(MORSEL)
    }

    fn poll_body(
        &mut self,
        w: &mut Work,
        body: &mut Bulk,
        last: bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let stalled = self.stall.is_some();
        let sent = self.poll_content(body, last, cx);
        if !stalled && self.stall.is_some() && self.open.stalls.are_many() {
            w.shrink();
        }
        sent
    }

    fn poll_end(&mut self, trailers: Option<&[u8]>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(send) = self.send.as_mut().filter(|_| !self.ended) else { return Poll::Ready(Ok(())) };
        self.ended = true;
        let Some(trailers) = trailers else {
            return Poll::Ready(send.send_data(Bytes::new(), true).map_err(broken));
        };
        Poll::Ready(send.send_trailers(fields(trailers)).map_err(broken))
    }

    fn begin_tunnel(&mut self, _w: &Work) -> Range<usize> {
        0..0
    }

    fn end_call(&mut self, trailers: &[u8]) {
        let sent = self.send.as_mut().filter(|_| !self.ended).map(|s| s.send_trailers(fields(trailers)));
        self.ended = matches!(sent, Some(Ok(())));
        if !self.ended {
            self.abort();
        }
    }

    fn abort(&mut self) {
        // what comes after is our own doing
        self.given_up();
        match &mut self.send {
            Some(_) if self.tunnel.is_some() => self.cut(),
            Some(send) => send.send_reset(Reason::INTERNAL_ERROR),
            None => self.respond.send_reset(Reason::CANCEL),
        }
    }
}

impl End for Client<'_> {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bulk>> {
        if self.uploaded {
            return Poll::Ready(Ok(Bulk::take()));
        }
        self.poll_piece(cx).map_err(|_| io::ErrorKind::ConnectionReset.into())
    }

    fn poll_write(&mut self, piece: &mut Bulk, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_content(piece, false, cx)
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_end(None, cx)
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.send {
            Some(send) if !self.ended => send.poll_reset(cx).map(|_| ()),
            _ => Poll::Pending,
        }
    }

    fn linger(&mut self) {
        linger(self.send.take());
    }

    fn cut(&mut self) {
        self.given_up();
        if let Some(send) = &mut self.send {
            send.send_reset(Reason::CANCEL);
        }
    }
}
