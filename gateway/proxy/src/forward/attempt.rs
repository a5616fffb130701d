//! One try, and a second one where a kept connection turned out to be dead: pick an endpoint,
//! connect, send, await the response's head.

use super::buffers::{Bulk, Work};
use super::deadline::Expired;
use super::downstream::Downstream;
use super::error::Kind;
use super::head::write_interim;
use super::record::{Life, Protocol, Site};
use super::upstream::{NoHead, Upstream};
use super::websocket;
use crate::h1::field::Known;
use crate::h2::Exchange;
use crate::upstream::{Cluster, ConnectError, Pick};
use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tidegate_model::UpstreamProtocol;
use tokio::time::timeout;

/// The most interim responses before the real one.
const INTERIM: usize = 16;
/// How often a request is sent again that the upstream refused without looking at it.
const REFUSALS: usize = 3;
/// How much of a body sent over HTTP/2 is kept so that it can be sent again.
const REPEATABLE: usize = 64 << 10;

/// A response whose head has come.
pub(crate) struct Response {
    pub(crate) upstream: Upstream,
    /// The head (`w.response`), and what came with it.
    pub(crate) bulk: Bulk,
    /// The rest of the upload.
    pub(crate) sender: Sender,
}

/// Gets a response's head from the cluster.
pub(crate) async fn response<D: Downstream>(
    down: &mut D,
    w: &mut Work,
    life: &mut Life<'_>,
    site: Site<'_>,
    cluster: &Arc<Cluster>,
) -> Result<Response, Kind> {
    let pick = &*life.pick.insert(cluster.pick(fastrand::u64(..)).ok_or(Kind::NoEndpoint)?);
    let (mut fresh, mut refusals) = (false, 0);
    loop {
        let connected = connect(down, w, site, cluster, pick, fresh).await;
        let mut upstream = connected.map_err(|e| match e {
            NoConnection::Abandoned(kind) => kind,
            NoConnection::Failed(e) => {
                let kind = match &e {
                    ConnectError::Refused => Kind::ConnectRefused,
                    ConnectError::Timeout => Kind::ConnectTimeout,
                    ConnectError::Other(_) => Kind::ConnectFailed,
                };
                life.transport_failure = Cow::Owned(e.to_string());
                kind
            }
        })?;
        life.upstream_local = upstream.local();
        life.attempts += 1;
        let sent_at = Instant::now();
        let mut sender = Sender::default();
        match head(down, w, site, &mut upstream, &mut sender).await {
            Ok(bulk) => {
                life.service_time = Some(down.deadline().touched() - sent_at);
                life.request_duration = down.uploaded().then(|| sent_at - life.began);
                return Ok(Response { upstream, bulk, sender });
            }
            Err(NoHead::Refused) if refusals < REFUSALS && !sender.streamed => refusals += 1,
            Err(NoHead::Refused) => return Err(Kind::UpstreamReset),
            Err(NoHead::Silent) if upstream.reused() && !fresh && may_repeat(down, w, &sender) => {
                fresh = true
            }
            Err(NoHead::Silent) => return Err(Kind::UpstreamClosed),
            Err(NoHead::Error(kind)) => return Err(kind),
        }
    }
}

/// Whether the request may be sent again on a new connection: all of it is still at hand, and the
/// upstream either saw nothing of it or may see it twice (RFC 9110 9.2.2).
fn may_repeat<D: Downstream>(down: &D, w: &Work, sender: &Sender) -> bool {
    const IDEMPOTENT: [&[u8]; 6] = [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"];
    let at_hand = !sender.streamed && (down.uploaded() || sender.sent == 0);
    let method = w.request.method.of_buffer(w.head());
    at_hand && (sender.sent == 0 || IDEMPOTENT.contains(&method))
}

enum NoConnection {
    Failed(ConnectError),
    Abandoned(Kind),
}

impl From<ConnectError> for NoConnection {
    fn from(e: ConnectError) -> Self {
        NoConnection::Failed(e)
    }
}

async fn connect<D: Downstream>(
    down: &mut D,
    w: &mut Work,
    site: Site<'_>,
    cluster: &Arc<Cluster>,
    pick: &Pick,
    fresh: bool,
) -> Result<Upstream, NoConnection> {
    let pool = &site.worker.pool;
    let websocket = w.request.upgrade;
    let mut get = pin!(async {
        if site.protocol.upstream(cluster.config().protocol) == Protocol::Http2 {
            // boxed, so that what HTTP/2 needs is no part of every request of HTTP/1
            if let Some(exchange) = Box::pin(exchange(site, cluster, pick, websocket)).await? {
                return Ok(Upstream::Two(exchange));
            }
        }
        Ok(Upstream::One(pool.get(cluster, pick, fresh).await?))
    });
    poll_fn(|cx| match get.as_mut().poll(cx) {
        Poll::Ready(connection) => Poll::Ready(connection),
        Poll::Pending => poll_abandoned(down, w, cx).map(|kind| Err(NoConnection::Abandoned(kind))),
    })
    .await
}

/// A stream of HTTP/2; none where HTTP/1 is to be spoken instead, because a WebSocket does not
/// fit and the upstream is only thought to speak what the client does.
async fn exchange(
    site: Site<'_>,
    cluster: &Arc<Cluster>,
    pick: &Pick,
    websocket: bool,
) -> Result<Option<Box<Exchange>>, NoConnection> {
    let place = site.worker.pool.place(cluster, pick).await?;
    if websocket {
        let limit = cluster.config().connect_timeout;
        let takes = timeout(limit, place.takes_websockets()).await;
        if !takes.map_err(|_| ConnectError::Timeout)? {
            return match cluster.config().protocol {
                UpstreamProtocol::Client => Ok(None),
                _ => Err(NoConnection::Abandoned(Kind::NoWebSocket)),
            };
        }
    }
    Ok(Some(Box::new(Exchange::new(place))))
}

/// Ready when waiting makes no sense any more: the client is gone, or the time is up.
pub(crate) fn poll_abandoned<D: Downstream>(down: &mut D, w: &mut Work, cx: &mut Context<'_>) -> Poll<Kind> {
    if down.uploaded() && down.poll_gone(w, cx).is_ready() {
        return Poll::Ready(Kind::ClientGone);
    }
    poll_expired(down, cx)
}

/// Ready when the time is up.
pub(crate) fn poll_expired<D: Downstream>(down: &mut D, cx: &mut Context<'_>) -> Poll<Kind> {
    if down.uploaded() {
        down.deadline().start_whole();
    }
    down.deadline().poll(cx).map(|e| match e {
        Expired::Whole => Kind::Timeout,
        Expired::Idle if down.uploaded() => Kind::Stalled,
        Expired::Idle => Kind::Idle,
    })
}

/// Sends the request while waiting for the response's head.
async fn head<D: Downstream>(
    down: &mut D,
    w: &mut Work,
    site: Site<'_>,
    upstream: &mut Upstream,
    sender: &mut Sender,
) -> Result<Bulk, NoHead> {
    let mut got: Option<Bulk> = None;
    let mut interim = 0;
    loop {
        let more = poll_fn(|cx| {
            if let Poll::Ready(Err(kind)) = sender.poll(upstream, down, w, cx) {
                return Poll::Ready(Err(NoHead::Error(kind)));
            }
            match upstream.poll_head(&mut got, cx) {
                Poll::Pending => poll_abandoned(down, w, cx).map(|kind| Err(NoHead::Error(kind))),
                ready => ready,
            }
        })
        .await
        .map_err(|e| match e {
            NoHead::Refused if interim > 0 => NoHead::Error(Kind::UpstreamReset),
            e => e,
        })?;
        let Some(mut bulk) = got.take().filter(|b| !b.is_empty()) else {
            return Err(if interim == 0 { NoHead::Silent } else { NoHead::Error(Kind::UpstreamClosed) });
        };
        if !more {
            return Err(NoHead::Error(Kind::UpstreamClosed));
        }
        down.deadline().touch();
        if interim_responses(down, w, site, &mut bulk, &mut interim, sender).await.map_err(NoHead::Error)? {
            return Ok(bulk);
        }
        got = Some(bulk);
    }
}

/// Passes interim responses on; true when the final one's head is at the front of `bulk`.
async fn interim_responses<D: Downstream>(
    down: &mut D,
    w: &mut Work,
    site: Site<'_>,
    bulk: &mut Bulk,
    count: &mut usize,
    sender: &Sender,
) -> Result<bool, Kind> {
    loop {
        if !w.response.parse_response(bulk.bytes()).map_err(|_| Kind::UpstreamMalformed)? {
            return Ok(false);
        }
        match w.response.status {
            // before the end of the request its rest would be read as what follows the upgrade
            101 if w.request.upgrade && w.response.upgrade && sender.complete() => {
                return if accepted(w, bulk.bytes(), site) { Ok(true) } else { Err(Kind::UpstreamMalformed) };
            }
            101 => return Err(Kind::UpstreamMalformed),
            100..200 => {}
            _ => return Ok(true),
        }
        *count += 1;
        if *count > INTERIM {
            return Err(Kind::UpstreamMalformed);
        }
        write_interim(&w.response, bulk.bytes(), &mut w.reply);
        down.interim(w).await.map_err(|_| Kind::ClientGone)?;
        bulk.advance(w.response.len);
        bulk.rewind();
    }
}

/// Whether the upstream completed the handshake of a WebSocket. A client of HTTP/1 sees to that
/// itself.
fn accepted(w: &Work, response: &[u8], site: Site<'_>) -> bool {
    if site.protocol == Protocol::Http1 {
        return true;
    }
    let Some(key) = w.request.known(w.head(), Known::WebSocketKey).next() else { return false };
    let expected = websocket::accept(key);
    let mut said = w.response.known(response, Known::WebSocketAccept);
    w.response.upgrade_websocket && said.next() == Some(expected.as_bytes()) && said.next().is_none()
}

/// Sends a request: first `w.out`, then the rest of the body as it comes.
#[derive(Default)]
pub(crate) struct Sender {
    /// Bytes of `w.out` sent.
    sent: usize,
    /// A piece of the body on its way.
    piece: Option<Bulk>,
    /// More than `w.out` was sent, so it cannot be sent again.
    streamed: bool,
    /// Written, not flushed.
    dirty: bool,
    /// The upstream takes no more. It may have answered nevertheless.
    refused: bool,
    done: bool,
}

impl Sender {
    /// Whether all was sent and taken.
    pub(crate) fn complete(&self) -> bool {
        self.done && !self.refused
    }

    /// Sends as much as can be sent now; ready when that was all.
    pub(crate) fn poll<D: Downstream>(
        &mut self,
        upstream: &mut Upstream,
        down: &mut D,
        w: &mut Work,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Kind>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        loop {
            let last = down.uploaded() && !(upstream.is_http2() && down.upload_trailers().is_some());
            self.dirty |= self.sent < w.out.len() || self.piece.is_some();
            match ready!(upstream.poll_write(w, &mut self.sent, &mut self.piece, last, cx)) {
                Ok(()) if down.uploaded() => {
                    self.refused |= ready!(upstream.poll_finish(down.upload_trailers(), cx)).is_err();
                    self.done = true;
                    return Poll::Ready(Ok(()));
                }
                Ok(()) => {}
                Err(_) => {
                    self.refused = true;
                    self.done = true;
                    return Poll::Ready(Ok(()));
                }
            }
            match down.poll_upload(w, cx) {
                Poll::Ready(Ok(piece)) => {
                    down.deadline().touch();
                    if upstream.is_http2()
                        && !self.streamed
                        && w.out.len() + piece.bytes().len() <= REPEATABLE
                    {
                        w.out.extend_from_slice(piece.bytes());
                    } else {
                        self.streamed = true;
                        self.piece = Some(piece);
                    }
                }
                Poll::Ready(Err(kind)) => return Poll::Ready(Err(kind)),
                Poll::Pending => {
                    if self.dirty && ready!(upstream.poll_flush(cx)).is_ok() {
                        self.dirty = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}
