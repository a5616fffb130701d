//! Passing a response on to the client, while the rest of the request goes the other way.

use super::attempt::{Sender, poll_abandoned, poll_expired};
use super::buffers::{Bulk, Work};
use super::downstream::Downstream;
use super::edits::Edits;
use super::error::Kind;
use super::head::{ResponseChanges, write_response};
use super::record::Life;
use crate::h1::body::BodyScan;
use crate::h1::head::Framing;
use crate::upstream::UpstreamConnection;
use pingora::protocols::Stream;
use std::future::poll_fn;
use std::task::{Context, Poll};
use tidegate_model::{HeaderOp, MeshSettings};

/// Sends the response whose head stands at the front of `bulk`. True when the upstream
/// connection may serve another request.
#[expect(clippy::too_many_arguments, reason = "the whole state of a request, borrowed apart")]
pub(crate) async fn relay<D: Downstream>(
    down: &mut D,
    w: &mut Work,
    life: &mut Life<'_>,
    ops: &[HeaderOp],
    mesh: &MeshSettings,
    upstream: &mut UpstreamConnection,
    mut bulk: Bulk,
    sender: &mut Sender,
) -> Result<bool, Kind> {
    let to_head = w.request.method.of_buffer(w.head()) == b"HEAD";
    let framing = w.response.response_framing(to_head);
    let chunks = down.takes_chunks();
    let mut body = Body { scan: BodyScan::new(framing), decode: !chunks, overread: false };
    let head = w.response.len;
    let switching = w.response.status == 101;
    let content = if switching { 0 } else { body.take(&mut bulk, head)? };
    let whole = body.scan.done();
    let decoded = framing == Framing::Chunked && body.decode;
    let last = framing == Framing::UntilClose || decoded && !whole;
    let Work { response, reply, rendered, .. } = &mut *w;
    write_response(
        response,
        bulk.bytes(),
        reply,
        &ResponseChanges {
            edits: Edits::new(ops, rendered),
            mesh,
            service_time: life.service_time.unwrap_or_default(),
            chunks,
            length: (decoded && whole && !to_head).then_some(content),
            connection: if switching { b"connection: upgrade\r\n" } else { down.connection_lines(last) },
        },
    );
    life.responded = true;
    bulk.advance(head);
    if switching {
        (life.received, life.sent) = down.tunnel(w, &mut upstream.stream, bulk).await;
        return Ok(false);
    }
    down.begin_response(w, framing == Framing::None).map_err(|_| Kind::ClientGone)?;
    let sent = stream(down, w, &mut upstream.stream, bulk, sender, &mut body).await;
    life.sent = body.scan.data();
    sent?;
    Ok(body.scan.done() && !body.overread && w.response.persistent() && sender.complete())
}

/// The body of a response on its way.
struct Body {
    scan: BodyScan,
    decode: bool,
    /// Bytes came after the end: the connection is out of step.
    overread: bool,
}

impl Body {
    /// Takes what belongs to the body from `bulk` behind its first `skip` bytes.
    fn take(&mut self, bulk: &mut Bulk, skip: usize) -> Result<usize, Kind> {
        let bytes = &mut bulk.bytes_mut()[skip..];
        let all = bytes.len();
        let taken = if self.decode { self.scan.decode(bytes) } else { self.scan.scan(bytes) };
        let (used, kept) = taken.map_err(|_| Kind::UpstreamMalformed)?;
        self.overread |= used < all;
        bulk.truncate(skip + kept);
        if !self.decode {
            self.scan.tail().into_iter().for_each(|part| bulk.push(part));
        }
        Ok(kept)
    }

    fn trailers(&self) -> Option<&[u8]> {
        self.scan.trailers().filter(|_| self.decode)
    }
}

async fn stream<D: Downstream>(
    down: &mut D,
    w: &mut Work,
    upstream: &mut Stream,
    mut bulk: Bulk,
    sender: &mut Sender,
    body: &mut Body,
) -> Result<(), Kind> {
    let mut ended = false;
    loop {
        let done = ended || body.scan.done();
        let last = done && body.trailers().is_none();
        poll_fn(|cx| {
            poll_upload(sender, upstream, down, w, cx)?;
            match down.poll_body(w, &mut bulk, last, cx) {
                Poll::Ready(r) => Poll::Ready(r.map_err(|_| Kind::ClientGone)),
                Poll::Pending => poll_expired(down, cx).map(Err),
            }
        })
        .await?;
        drop(bulk);
        down.deadline().touch();
        if done {
            break;
        }
        bulk = poll_fn(|cx| {
            poll_upload(sender, upstream, down, w, cx)?;
            match Bulk::poll_read(upstream, cx, body.scan.limit()) {
                Poll::Ready(r) => Poll::Ready(r.map_err(|_| Kind::UpstreamClosed)),
                Poll::Pending => poll_abandoned(down, w, cx).map(Err),
            }
        })
        .await?;
        if bulk.is_empty() {
            if !body.scan.until_close() {
                return Err(Kind::UpstreamClosed);
            }
            ended = true;
        }
        body.take(&mut bulk, 0)?;
    }
    poll_fn(|cx| match down.poll_end(body.trailers(), cx) {
        Poll::Ready(r) => Poll::Ready(r.map_err(|_| Kind::ClientGone)),
        Poll::Pending => poll_expired(down, cx).map(Err),
    })
    .await
}

/// Lets the upload go on; only its errors matter here.
fn poll_upload<D: Downstream>(
    sender: &mut Sender,
    upstream: &mut Stream,
    down: &mut D,
    w: &mut Work,
    cx: &mut Context<'_>,
) -> Result<(), Kind> {
    match sender.poll(upstream, down, w, cx) {
        Poll::Ready(result) => result,
        Poll::Pending => Ok(()),
    }
}
