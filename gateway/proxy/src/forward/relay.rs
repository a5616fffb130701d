//! Passing a response on to the client, while the rest of the request goes the other way.

use super::buffers::{Bulk, Work};
use super::deadline::{Waiting, under_deadline};
use super::downstream::Downstream;
use super::edits::{Edits, Ops};
use super::error::Kind;
use super::head::{ResponseChanges, write_response};
use super::record::Life;
use super::tunnel::{self, End};
use super::upload::{Sender, Upload};
use super::upstream::Upstream;
use crate::h1::body::BodyScan;
use crate::h1::head::{Framing, Head};
use crate::worker::Cut;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;
use tidegate_model::MeshSettings;

/// Sends the response whose head stands at the front of `bulk`; when the last of it had been handed over, and whether
/// the upstream connection may serve another request.
#[expect(clippy::too_many_arguments, reason = "the whole state of a request, borrowed apart")]
pub(crate) async fn relay<D: Downstream>(
    down: &mut D,
    w: &mut Work,
    life: &mut Life<'_>,
    ops: Ops<'_>,
    mesh: &MeshSettings,
    upstream: &mut Upstream,
    mut bulk: Bulk,
    (upload, sender): (&mut Upload, &mut Sender),
    cut: &Cut,
) -> Result<(Instant, bool), Kind> {
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
            cookie: life.affinity_cookie.as_deref(),
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
        // boxed, so that a tunnel is no part of every request
        let moved = (&mut life.received, &mut life.sent);
        let over = Box::pin(tunnel::join(down, w, upstream, bulk, cut, moved)).await;
        return over.map(|()| (Instant::now(), false));
    }
    down.begin_response(w, body.framing == Framing::None).map_err(|_| Kind::ClientGone)?;
    let moved = (&mut life.received, &mut life.sent);
    let sent = stream(down, w, upstream, bulk, (upload, sender), &mut body, moved).await;
    life.sent = body.scan.data();
    w.trailers.extend_from_slice(body.trailers(upstream).unwrap_or_default());
    let ended = sent?;
    Ok((ended, body.scan.done() && !body.overread && w.response.persistent() && sender.complete()))
}

/// Whether all of the response whose head stands at the front of `bulk` is there, and its
/// connection may serve another request.
pub(crate) fn is_whole(response: &Head, bulk: &mut Bulk, to_head: bool) -> bool {
    let mut scan = BodyScan::new(response.response_framing(to_head));
    let body = &mut bulk.bytes_mut()[response.len..];
    let all = body.len();
    let whole = scan.scan(body).is_ok_and(|(used, _)| used == all);
    whole && scan.done() && response.persistent()
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
        if self.form == Form::Same && self.framing == Framing::Chunked {
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
    (upload, sender): (&mut Upload, &mut Sender),
    body: &mut Body,
    (received, sent): (&mut u64, &mut u64),
) -> Result<Instant, Kind> {
    let mut ended = body.scan.done();
    if bulk.is_empty() && !ended && down.room() == usize::MAX {
        // what came with the head goes with it
        if let Poll::Ready(next) = poll_fn(|cx| Poll::Ready(upstream.poll_body(body.scan.limit(), cx))).await
        {
            (bulk, ended) = body.next(next?)?;
        }
    }
    let over = loop {
        let trailers = body.trailers(upstream);
        let framed = body.frame(&mut bulk, ended.then_some(trailers.unwrap_or_default()));
        let last = ended && framed && (body.form != Form::Content || trailers.is_none());
        under_deadline(down, w, Waiting::ForClient, |down, w, cx| {
            sender.go_on(upload, upstream, down, w, cx)?;
            down.poll_body(w, &mut bulk, last, cx).map_err(|_| Kind::ClientGone)
        })
        .await?;
        drop(bulk);
        let now = Instant::now();
        down.deadline().go_on(now)?;
        if ended && framed {
            break now;
        }
        // a stop may end it while it waits
        (*received, *sent) = (down.received(), body.scan.data());
        if ended {
            bulk = Bulk::take();
            continue;
        }
        let next = under_deadline(down, w, Waiting::ForUpstream, |down, w, cx| {
            sender.go_on(upload, upstream, down, w, cx)?;
            let next = upstream.poll_body(body.scan.limit().min(down.room()), cx);
            // TLS may hold what was written while the client took nothing
            if next.is_pending() && matches!(End::poll_flush(down, cx), Poll::Ready(Err(_))) {
                return Poll::Ready(Err(Kind::ClientGone));
            }
            next
        })
        .await?;
        (bulk, ended) = body.next(next)?;
    };
    let trailers = body.trailers(upstream).filter(|_| body.form == Form::Content);
    under_deadline(down, w, Waiting::ForClient, |down, _, cx| {
        down.poll_end(trailers, cx).map_err(|_| Kind::ClientGone)
    })
    .await?;
    Ok(over)
}
