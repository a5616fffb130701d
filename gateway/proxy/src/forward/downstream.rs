use super::buffers::{Bulk, Work};
use super::deadline::Deadline;
use super::error::Kind;
use super::tunnel::End;
use std::io;
use std::ops::Range;
use std::task::{Context, Poll};

/// The client's side of one request: a request on an HTTP/1 connection, or a stream of HTTP/2.
pub(crate) trait Downstream: End {
    /// The request's deadlines.
    fn deadline(&mut self) -> &mut Deadline;

    /// Finds where the request's body ends, and which part of it came with the head: a range of
    /// `w.buf`, as it stands on an HTTP/1 wire.
    fn begin_upload(&mut self, w: &mut Work) -> Result<Range<usize>, Kind>;

    /// Whether the request's body is all there.
    fn uploaded(&self) -> bool;

    /// Bytes of the request's body so far, without framing.
    fn received(&self) -> u64;

    /// Bytes that the client has taken so far, of this response or of the whole connection; `None` where that cannot be
    /// known.
    fn taken(&self) -> Option<u64> {
        None
    }

    /// How many requests share the connection.
    fn streams(&self) -> usize {
        1
    }

    /// The next bytes of the request's body, as they go on an HTTP/1 wire.
    fn poll_upload(&mut self, w: &mut Work, cx: &mut Context<'_>) -> Poll<Result<Bulk, Kind>>;

    /// Has the rest of the body come as content, without framing and trailers.
    fn upload_content(&mut self);

    /// The request's trailer lines, each with its CRLF, once the body is all there.
    fn upload_trailers(&self) -> Option<&[u8]>;

    /// Ready when the client is gone. Asked only once the body is all there.
    fn poll_gone(&mut self, w: &mut Work, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether chunked bodies may be passed on as they come; otherwise they are decoded.
    fn takes_chunks(&self) -> bool;

    /// The field lines on the connection itself; `last` when the response ends with it.
    fn connection_lines(&mut self, last: bool) -> &'static [u8];

    /// Passes on an interim response (1xx) that stands in `w.reply`.
    async fn interim(&mut self, w: &mut Work) -> io::Result<()>;

    /// Begins the response whose head stands in `w.reply`; `end` when there is no body.
    fn begin_response(&mut self, w: &mut Work, end: bool) -> io::Result<()>;

    /// How many bytes of a response may be read for it at once.
    fn room(&mut self) -> usize {
        usize::MAX
    }

    /// Sends content; ready when `body` is empty and the head is out. `last` when nothing follows.
    fn poll_body(
        &mut self,
        w: &mut Work,
        body: &mut Bulk,
        last: bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>;

    /// Ends the response after its body: trailers, where they did not pass with the chunks.
    fn poll_end(&mut self, trailers: Option<&[u8]>, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// From the 101 on, bytes go both ways ([`End`]): says which part of `w.buf` the client sent
    /// early.
    fn begin_tunnel(&mut self, w: &Work) -> Range<usize>;

    /// Ends a call of gRPC whose response has begun with these trailer lines, or cuts it off where
    /// they cannot be said.
    fn end_call(&mut self, _trailers: &[u8]) {
        self.abort();
    }

    /// Cuts a response off: the client must not take it for whole.
    fn abort(&mut self);
}
