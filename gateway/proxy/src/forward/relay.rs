//! Passing a response on to the client, while the rest of the request goes the other way.

use super::attempt::{Sender, poll_abandoned, poll_expired};
use super::buffers::{Bulk, Work};
use super::downstream::Downstream;
use super::edits::{Edits, Ops};
use super::error::Kind;
use super::head::{ResponseChanges, write_response};
use super::record::Life;
use super::tunnel;
use super::upstream::Upstream;
use crate::h1::body::BodyScan;
use crate::h1::head::{Framing, Head};
use std::future::poll_fn;
use std::task::{Context, Poll};
use tidegate_model::MeshSettings;

/// Sends the response whose head stands at the front of `bulk`. True when the upstream
/// connection may serve another request.
#[expect(clippy::too_many_arguments, reason = "the whole state of a request, borrowed apart")]
pub(crate) async fn relay<D: Downstream>(
    down: &mut D,
    w: &mut Work,
    life: &mut Life<'_>,
    ops: Ops<'_>,
    mesh: &MeshSettings,
    upstream: &mut Upstream,
    mut bulk: Bulk,
    sender: &mut Sender,
) -> Result<bool, Kind> {
    let to_head = w.request.method.of_buffer(w.head()) == b"HEAD";
    let chunks = down.takes_chunks();
    let mut body = Body::of(&w.response, upstream, to_head, chunks);
    let head = w.response.len;
    let switching = w.response.status == 101;
    let content = if switching { 0 } else { body.take(&mut bulk, head)? };
    let decoded = body.framing == Framing::Chunked && body.form == Form::Content;
    let last = body.ends_connection(&w.response);
    let empty = upstream.is_http2() && body.scan.done() && w.response.content_length().is_none();
    let known = decoded && body.scan.done() || empty && !w.response.bodiless();
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
            encode: body.form == Form::Chunks,
            length: (known && !to_head).then_some(content),
            connection: if switching { b"connection: upgrade\r\n" } else { down.connection_lines(last) },
        },
    );
    life.responded = true;
    bulk.advance(head);
    if switching {
        let over;
        (life.received, life.sent, over) = tunnel::join(down, w, upstream, bulk).await;
        return over.map(|()| false);
    }
    down.begin_response(w, body.framing == Framing::None).map_err(|_| Kind::ClientGone)?;
    let sent = stream(down, w, upstream, bulk, sender, &mut body).await;
    life.sent = body.scan.data();
    w.trailers.extend_from_slice(body.trailers(upstream).unwrap_or_default());
    sent?;
    life.ended = Some(down.deadline().touched());
    Ok(body.scan.done() && !body.overread && w.response.persistent() && sender.complete())
}

/// The body of a response on its way.
struct Body {
    framing: Framing,
    scan: BodyScan,
    form: Form,
    /// Bytes came after the end: the connection is out of step.
    overread: bool,
}

/// In which form a body goes to the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// As it comes.
    Same,
    /// Without the chunk framing it comes in.
    Content,
    /// In chunks, which it does not come in.
    Chunks,
}

impl Body {
    fn of(response: &Head, upstream: &Upstream, to_head: bool, chunks: bool) -> Self {
        let framing = match (response.response_framing(to_head), upstream) {
            (framing, Upstream::One(_)) => framing,
            (_, Upstream::Two(exchange)) if exchange.ended() || to_head || response.bodiless() => {
                Framing::None
            }
            // until END_STREAM: `h2` holds it to its content-length, and trailers may follow
            (_, Upstream::Two(_)) => Framing::UntilClose,
        };
        let form = match framing {
            _ if !chunks => Form::Content,
            Framing::UntilClose if response.content_length().is_none() => Form::Chunks,
            _ => Form::Same,
        };
        Body { framing, scan: BodyScan::new(framing), form, overread: false }
    }

    /// Whether only the end of the client's connection tells it where the body ends.
    fn ends_connection(&self, response: &Head) -> bool {
        self.form == Form::Content
            && match self.framing {
                Framing::UntilClose => response.content_length().is_none(),
                Framing::Chunked => !self.scan.done(),
                _ => false,
            }
    }

    /// Takes what belongs to the body from `bulk` behind its first `skip` bytes.
    fn take(&mut self, bulk: &mut Bulk, skip: usize) -> Result<usize, Kind> {
        let bytes = &mut bulk.bytes_mut()[skip..];
        let all = bytes.len();
        let taken = match self.form {
            Form::Content => self.scan.decode(bytes),
            Form::Same | Form::Chunks => self.scan.scan(bytes),
        };
        let (used, kept) = taken.map_err(|_| Kind::UpstreamMalformed)?;
        self.overread |= used < all;
        bulk.truncate(skip + kept);
        if self.form == Form::Same {
            self.scan.tail().into_iter().for_each(|part| bulk.push(part));
        }
        Ok(kept)
    }

    /// Takes the next piece, and says whether the body ends with it.
    fn next(&mut self, (mut bulk, ended): (Bulk, bool)) -> Result<(Bulk, bool), Kind> {
        if ended && self.framing != Framing::UntilClose {
            return Err(Kind::UpstreamClosed);
        }
        self.take(&mut bulk, 0)?;
        Ok((bulk, ended || self.scan.done()))
    }

    /// Trailers beside the body.
    fn trailers<'a>(&'a self, upstream: &'a Upstream) -> Option<&'a [u8]> {
        match upstream {
            Upstream::One(_) => self.scan.trailers(),
            Upstream::Two(exchange) => exchange.trailers(),
        }
    }

    /// Puts content in a chunk where the client needs that, and after it the end, if it fits.
    fn frame(&self, bulk: &mut Bulk, end: Option<&[u8]>) -> bool {
        if self.form != Form::Chunks {
            return true;
        }
        if !bulk.is_empty() {
            bulk.frame();
        }
        let Some(trailers) = end else { return true };
        if bulk.room() < b"0\r\n\r\n".len() + trailers.len() {
            return false;
        }
        for part in [b"0\r\n", trailers, b"\r\n"] {
            bulk.push(part);
        }
        true
    }
}

async fn stream<D: Downstream>(
    down: &mut D,
    w: &mut Work,
    upstream: &mut Upstream,
    mut bulk: Bulk,
    sender: &mut Sender,
    body: &mut Body,
) -> Result<(), Kind> {
    let mut ended = body.scan.done();
    if bulk.is_empty() && !ended {
        // what came with the head goes with it
        if let Poll::Ready(next) = poll_fn(|cx| Poll::Ready(upstream.poll_body(body.scan.limit(), cx))).await
        {
            (bulk, ended) = body.next(next?)?;
        }
    }
    loop {
        let trailers = body.trailers(upstream);
        let framed = body.frame(&mut bulk, ended.then_some(trailers.unwrap_or_default()));
        let last = ended && framed && (body.form != Form::Content || trailers.is_none());
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
        if ended && framed {
            break;
        }
        if ended {
            bulk = Bulk::take();
            continue;
        }
        let next = poll_fn(|cx| {
            poll_upload(sender, upstream, down, w, cx)?;
            match upstream.poll_body(body.scan.limit(), cx) {
                Poll::Pending => poll_abandoned(down, w, cx).map(Err),
                ready => ready,
            }
        })
        .await?;
        (bulk, ended) = body.next(next)?;
    }
    let trailers = body.trailers(upstream).filter(|_| body.form == Form::Content);
    poll_fn(|cx| match down.poll_end(trailers, cx) {
        Poll::Ready(r) => Poll::Ready(r.map_err(|_| Kind::ClientGone)),
        Poll::Pending => poll_expired(down, cx).map(Err),
    })
    .await
}

/// Lets the upload go on; only its errors matter here.
fn poll_upload<D: Downstream>(
    sender: &mut Sender,
    upstream: &mut Upstream,
    down: &mut D,
    w: &mut Work,
    cx: &mut Context<'_>,
) -> Result<(), Kind> {
    match sender.poll(upstream, down, w, cx) {
        Poll::Ready(result) => result,
        Poll::Pending => Ok(()),
    }
}
