//! Tries until there is a response: pick an endpoint, connect, send, await the response's head; and
//! again, as the route's retries say, or where a kept connection turned out to be dead.

use super::affinity::Affinity;
use super::buffers::{Bulk, Work};
use super::deadline::{Waiting, under_deadline};
use super::downstream::Downstream;
use super::error::Kind;
use super::grpc;
use super::head::write_interim;
use super::mirror;
use super::outgoing::Outgoing;
use super::record::{Life, Protocol, Site};
use super::relay;
use super::retry::{self, Outcome, Refusal, Verdict};
use super::upload::{Sender, Upload};
use super::upstream::{NoHead, Upstream};
use super::view::View;
use super::websocket;
use crate::h1::field::Known;
use crate::h2::Exchange;
use crate::telemetry::RetryCount;
use crate::upstream::{Cluster, ConnectError, EndpointId, Pick, Seen, TransportOptions};
use std::borrow::Cow;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tidegate_engine::RequestView;
use tidegate_model::UpstreamProtocol;
use tokio::time::timeout;

/// The most interim responses before the real one.
const INTERIM: usize = 16;

/// A response whose head has come.
pub(crate) struct Response {
    pub(crate) upstream: Upstream,
    /// The head (`w.response`), and what came with it.
    pub(crate) bulk: Bulk,
    /// The rest of the upload.
    pub(crate) upload: Upload,
    pub(crate) sender: Sender,
}

/// What a try came to, if not to a response.
struct Failed {
    kind: Kind,
    /// What a retry policy sees; `None` when there is nothing to retry.
    outcome: Option<Outcome>,
    /// The connection was kept from an earlier request and is to blame: on another one the request
    /// may be sent again, whatever the policy says.
    stale: bool,
}

impl From<Kind> for Failed {
    fn from(kind: Kind) -> Self {
        Failed { kind, outcome: None, stale: false }
    }
}

/// The tries of one request.
pub(crate) struct Tries<'a, 't, D> {
    down: &'a mut D,
    w: &'a mut Work,
    life: &'a mut Life<'t>,
    site: Site<'a>,
    outgoing: Outgoing<'a>,
    upload: Upload,
    /// How many retries were made, and which endpoints have been tried.
    retries: u32,
    tried: Vec<EndpointId>,
    /// The hash by which its endpoint is picked, each time the same.
    hash: Option<u64>,
    /// The next one needs a new connection.
    fresh: bool,
    /// Interim responses that the client got.
    interim: usize,
}

impl<'a, 't, D: Downstream> Tries<'a, 't, D> {
    /// None yet.
    pub(crate) fn new(
        down: &'a mut D,
        w: &'a mut Work,
        life: &'a mut Life<'t>,
        site: Site<'a>,
        outgoing: Outgoing<'a>,
    ) -> Self {
        let keep = outgoing.http2 || outgoing.retries().is_some();
        let upload = Upload::new(&site.worker.limits, w.request.content_length(), keep);
        w.began = Some(life.began);
        let (retries, tried, hash, fresh, interim) = (0, Vec::new(), None, false, 0);
        Tries { down, w, life, site, outgoing, upload, retries, tried, hash, fresh, interim }
    }

    /// Gets a response's head from the cluster.
    pub(crate) async fn response(&mut self) -> Result<Response, Kind> {
        // the time that the upload takes is the client's
        self.down.deadline().limit_whole(self.outgoing.timeout);
        if self.down.uploaded() {
            let now = if self.life.delayed { Instant::now() } else { self.life.began };
            self.down.deadline().start_limits(now);
        }
        if self.outgoing.http2 {
            self.down.upload_content();
        }
        let cluster = self.outgoing.cluster;
        cluster.count_request(self.life.began);
        self.life.admitted = cluster.admit().map_err(Kind::from)?;
        let affinity = Affinity::of(cluster, self.w, self.site, self.outgoing.is_copy());
        (self.hash, self.life.affinity_cookie) = (affinity.hash, affinity.cookie);
        let dice = self.hash.unwrap_or_else(|| fastrand::u64(..));
        self.life.pick = match cluster.pick(dice) {
            None => Some(Box::pin(self.pick_by_host(dice, false)).await?),
            picked => picked,
        };
        loop {
            self.life.attempts += 1;
            // as in Envoy, the first try has all of the time
            let rest = match self.life.attempts {
                1 => self.outgoing.timeout,
                _ => self.down.deadline().rest(),
            };
            if let Some(span) = &mut self.w.span {
                span.begin_try(&mut self.w.tries, self.life.began.elapsed());
            }
            self.outgoing.write(self.w, self.life, self.site, rest)?;
            if !self.outgoing.mirrors().is_empty() && self.life.attempts == 1 {
                mirror::begin(self.down, self.w, self.site, &self.outgoing);
            }
            let tried = self.one().await;
            self.observe(&tried);
            self.end_try(tried.is_ok());
            let outcome = match &tried {
                Ok(tried) => tried.outcome(self.w),
                Err(failed) if failed.stale && !self.fresh => {
                    self.fresh = true;
                    continue;
                }
                Err(failed) => failed.outcome,
            };
            if !self.begin_retry(outcome.filter(|_| self.interim == 0)) {
                let Tried { upstream, bulk, sender } = tried.map_err(|failed| failed.kind)?;
                let mut upload = std::mem::take(&mut self.upload);
                upload.release(&sender);
                return Ok(Response { upstream, bulk, upload, sender });
            }
            if let Ok(tried) = tried {
                self.discard(tried);
            }
            // boxed, so that waiting is no part of every request
            Box::pin(self.pause()).await?;
        }
    }

    /// Tells the cluster what the try says about its endpoint.
    fn observe(&self, tried: &Result<Tried, Failed>) {
        if !self.outgoing.cluster.observes() {
            return;
        }
        let seen = match tried {
            Ok(tried) => tried.outcome(self.w).map(Outcome::seen),
            Err(failed) if failed.stale && !self.fresh => None,
            Err(failed) => self.blames_endpoint(failed.kind).then_some(Seen::Failure),
        };
        if let (Some(seen), Some(pick)) = (seen, &self.life.pick) {
            self.outgoing.cluster.observe(pick, seen);
        }
    }

    /// Whether a failure is the endpoint's: not where the client chose how short the time was, nor where it was spent
    /// waiting for room among our own requests.
    fn blames_endpoint(&self, kind: Kind) -> bool {
        let reached =
            || self.life.upstream_local.is_some() || self.life.pick.as_ref().is_some_and(Pick::is_connecting);
        let own = kind == Kind::Timeout && (self.life.asked_time || !reached());
        kind.blames_endpoint() && !own
    }

    /// Notes what became of a try, where its span is recorded.
    fn end_try(&mut self, answered: bool) {
        let Some(last) = self.w.tries.last_mut() else { return };
        let status = Some(self.w.response.status).filter(|_| answered);
        last.end(self.life.began.elapsed(), self.life.pick.as_ref().map(|p| p.address), status);
    }

    /// Whether there is to be another try; the record says why not, where one is wanted.
    fn begin_retry(&mut self, outcome: Option<Outcome>) -> bool {
        let Some(outcome) = outcome else { return false };
        let refusal =
            match retry::decide(self.outgoing.retries(), outcome, self.retries, self.upload.is_whole()) {
                Verdict::Answer => return false,
                Verdict::Not(refusal) => refusal,
                Verdict::Again => {
                    // one that is over makes room for the next
                    self.life.retry = None;
                    self.life.retry = self.outgoing.cluster.begin_retry(Instant::now());
                    if self.life.retry.is_some() {
                        self.site.worker.telemetry.count_retry(RetryCount::Sent);
                        return true;
                    }
                    Refusal::Budget
                }
            };
        self.site.worker.telemetry.count_retry(refusal.into());
        self.life.not_retried(refusal);
        false
    }

    /// Forgets a response; its connection is kept where all of it is there.
    fn discard(&mut self, mut tried: Tried) {
        let to_head = self.w.request.method.of_buffer(self.w.head()) == b"HEAD";
        if let Upstream::One(connection) = tried.upstream
            && tried.sender.complete()
            && relay::is_whole(&self.w.response, &mut tried.bulk, to_head)
        {
            self.site.worker.pool.put(self.outgoing.cluster, connection, Instant::now());
        }
    }

    /// Waits before a retry, and picks its endpoint.
    async fn pause(&mut self) -> Result<(), Kind> {
        let Some(policy) = self.outgoing.retries() else { return Ok(()) };
        let mut sleep = pin!(tokio::time::sleep(retry::wait(policy, self.retries, fastrand::u64(..))));
        let upload = &mut self.upload;
        under_deadline(self.down, self.w, Waiting::ForUpstream, |down, w, cx| {
            upload.read_ahead(down, w, cx)?;
            sleep.as_mut().poll(cx).map(Ok::<_, Kind>)
        })
        .await?;
        self.retries += 1;
        self.fresh = false;
        // the last one counts as busy until here, since its request is not over
        self.tried.extend(self.life.pick.as_ref().map(Pick::id));
        // as in Istio, a key keeps its endpoint where nothing else is said
        let avoid = policy.avoid_previous_hosts.unwrap_or(self.hash.is_none());
        let avoided = if avoid { &self.tried[..] } else { &[] };
        let dice = self.hash.unwrap_or_else(|| fastrand::u64(..));
        self.life.pick = match self.outgoing.cluster.pick_other(dice, avoided) {
            None => Some(self.pick_by_host(dice, avoid).await?),
            picked => picked,
        };
        Ok(())
    }

    /// Picks an endpoint where it is the host that the request asks for, as it is sent: a rule may have replaced it.
    async fn pick_by_host(&mut self, dice: u64, another: bool) -> Result<Pick, Kind> {
        let hosts = self.outgoing.cluster.hosts().ok_or(Kind::NoEndpoint)?;
        self.outgoing.write(self.w, self.life, self.site, None)?;
        let host = match &*self.w.authority {
            [] => View::of(self.w).authority().to_vec(),
            replaced => replaced.to_vec(),
        };
        let avoided = if another { &self.tried[..] } else { &[] };
        let mut pick = pin!(hosts.pick(&host, dice, avoided));
        let upload = &mut self.upload;
        let picked = under_deadline(self.down, self.w, Waiting::ForUpstream, |down, w, cx| {
            let picked = pick.as_mut().poll(cx).map(Ok::<_, Kind>);
            if picked.is_pending() {
                upload.read_ahead(down, w, cx)?;
            }
            picked
        });
        picked.await?.map_err(|why| {
            self.life.transport_failure = Cow::Owned(why.to_string());
            why.into()
        })
    }

    async fn one(&mut self) -> Result<Tried, Failed> {
        self.life.transport_failure = Cow::Borrowed("");
        self.life.upstream_local = None;
        let mut upstream = self.connect().await?;
        if let Some(pick) = &mut self.life.pick {
            if pick.has_moved() {
                pick.address = upstream.remote().unwrap_or(pick.address);
            }
            self.outgoing.cluster.observe(pick, Seen::Reached);
        }
        self.life.upstream_local = upstream.local();
        self.limit(self.outgoing.retries().and_then(|r| r.per_try_timeout));
        let sent_at = Instant::now();
        let mut sender = Sender::default();
        let came = self.head(&mut upstream, &mut sender).await;
        self.limit(None);
        match came {
            Ok((bulk, now)) => {
                self.life.service_time = Some(now - sent_at);
                self.life.request_duration = self.down.uploaded().then(|| sent_at - self.life.began);
                Ok(Tried { upstream, bulk, sender })
            }
            Err(why) => {
                if let Some(fault) = upstream.fault() {
                    self.life.transport_failure = Cow::Owned(format!("TLS_error: {fault}"));
                }
                let mut failed = why.failed(&sender, upstream.reused(), is_idempotent(self.w));
                failed.stale &= self.interim == 0 && self.upload.is_whole();
                Err(failed)
            }
        }
    }

    fn limit(&mut self, one_try: Option<Duration>) {
        let uploaded = self.down.uploaded();
        self.down.deadline().limit_try(one_try);
        if uploaded && one_try.is_some() {
            self.down.deadline().start_limits(Instant::now());
        }
    }

    async fn connect(&mut self) -> Result<Upstream, Failed> {
        let (pool, cluster) = (&self.site.worker.pool, self.outgoing.cluster);
        let (site, fresh) = (self.site, self.fresh);
        let (http2, websocket) = (self.outgoing.http2, self.w.request.upgrade);
        let Some(pick) = &self.life.pick else { return Err(Kind::NoEndpoint.into()) };
        let options = match cluster.transport().options(Some(&self.w.authority), site.connection) {
            Ok(options) => options,
            Err(error) => return Err(no_connection(&mut self.life.transport_failure, error)),
        };
        let upload = &mut self.upload;
        let mut get = pin!(async {
            if http2 {
                // boxed, so that what HTTP/2 needs is no part of every request of HTTP/1
                if let Some(exchange) = Box::pin(exchange(site, cluster, pick, &options, websocket)).await? {
                    return Ok(Upstream::Two(exchange));
                }
            }
            Ok(Upstream::One(pool.get(cluster, pick, &options, fresh).await?))
        });
        let connected = under_deadline(self.down, self.w, Waiting::ForUpstream, |down, w, cx| {
            let got: Poll<Result<_, NoConnection>> = get.as_mut().poll(cx);
            if got.is_pending() {
                upload.read_ahead(down, w, cx)?;
            }
            got
        });
        let error = match connected.await {
            Ok(upstream) => return Ok(upstream),
            Err(NoConnection::Abandoned(kind)) => return Err(kind.into()),
            Err(NoConnection::Failed(error)) => error,
        };
        pick.failed(&error);
        Err(no_connection(&mut self.life.transport_failure, error))
    }

    /// Sends the request while waiting for the response's head; returns when that came.
    async fn head(
        &mut self,
        upstream: &mut Upstream,
        sender: &mut Sender,
    ) -> Result<(Bulk, Instant), NoHead> {
        let mut got: Option<Bulk> = None;
        loop {
            let upload = &mut self.upload;
            let more = under_deadline(self.down, self.w, Waiting::ForUpstream, |down, w, cx| {
                sender.go_on(upload, upstream, down, w, cx)?;
                upstream.poll_head(&mut got, down.room(), cx)
            })
            .await?;
            let Some(mut bulk) = got.take().filter(|b| !b.is_empty()) else { return Err(NoHead::Silent) };
            if !more {
                return Err(NoHead::Error(Kind::UpstreamClosed));
            }
            let now = Instant::now();
            self.down.deadline().go_on(now)?;
            if self.interim_responses(&mut bulk, sender.complete()).await? {
                return Ok((bulk, now));
            }
            got = Some(bulk);
        }
    }

    /// Passes interim responses on; true when the final one's head is at the front of `bulk`.
    async fn interim_responses(&mut self, bulk: &mut Bulk, all_sent: bool) -> Result<bool, Kind> {
        let Tries { down, w, site, interim, .. } = self;
        loop {
            if !w.response.parse_response(bulk.bytes()).map_err(|_| Kind::UpstreamMalformed)? {
                return Ok(false);
            }
            match w.response.status {
                // before the end of the request its rest would be read as what follows the upgrade
                101 if w.request.upgrade && w.response.upgrade && all_sent => {
                    let completes = accepted(w, bulk.bytes(), *site);
                    return if completes { Ok(true) } else { Err(Kind::UpstreamMalformed) };
                }
                101 => return Err(Kind::UpstreamMalformed),
                // a client of HTTP/2 would take it for the beginning of the WebSocket (RFC 8441 5)
                200..300 if w.request.upgrade && site.protocol == Protocol::Http2 => {
                    return Err(Kind::UpstreamMalformed);
                }
                100..200 => {}
                _ => return Ok(true),
            }
            *interim += 1;
            if *interim > INTERIM {
                return Err(Kind::UpstreamMalformed);
            }
            write_interim(&w.response, bulk.bytes(), &mut w.reply);
            down.interim(w).await.map_err(|_| Kind::ClientGone)?;
            bulk.advance(w.response.len);
            bulk.rewind();
        }
    }
}

/// A try that came to a response.
struct Tried {
    upstream: Upstream,
    bulk: Bulk,
    sender: Sender,
}

impl Tried {
    fn outcome(&self, w: &Work) -> Option<Outcome> {
        let head = &w.response;
        (head.status >= 200).then(|| Outcome::Response {
            status: head.status,
            grpc_status: grpc::status_of(head, self.bulk.bytes()),
            rate_limited: head.rate_limited,
        })
    }
}

/// A try that came to no connection, and what is said of that. Who is over a limit is not let in by trying again.
fn no_connection(said: &mut Cow<'static, str>, error: ConnectError) -> Failed {
    *said = Cow::Owned(error.to_string());
    let outcome = error.may_pass().then_some(Outcome::NoConnection);
    Failed { kind: error.into(), outcome, stale: false }
}

/// Whether the request may be acted on twice (RFC 9110 9.2.2).
fn is_idempotent(w: &Work) -> bool {
    const IDEMPOTENT: [&[u8]; 6] = [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"];
    IDEMPOTENT.contains(&w.request.method.of_buffer(w.head()))
}

impl NoHead {
    /// What it means for another try. A connection that was `kept` may have been dead before
    /// the request, which is then sent again unless the upstream may have acted on it.
    fn failed(self, sender: &Sender, kept: bool, idempotent: bool) -> Failed {
        let reset = Some(Outcome::Reset { started: sender.started() });
        let (kind, outcome, stale) = match self {
            NoHead::Refused => (Kind::UpstreamReset, Some(Outcome::Refused), false),
            NoHead::Leaving => (Kind::UpstreamReset, Some(Outcome::Refused), kept),
            NoHead::Silent => (Kind::UpstreamClosed, reset, kept && (idempotent || !sender.started())),
            NoHead::Error(kind) => {
                let of_upstream = matches!(
                    kind,
                    Kind::UpstreamClosed | Kind::UpstreamReset | Kind::UpstreamMalformed | Kind::TryTimeout
                );
                (kind, reset.filter(|_| of_upstream), false)
            }
        };
        Failed { kind, outcome, stale }
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

enum NoConnection {
    Failed(ConnectError),
    Abandoned(Kind),
}

impl From<ConnectError> for NoConnection {
    fn from(e: ConnectError) -> Self {
        NoConnection::Failed(e)
    }
}

/// A stream of HTTP/2; none where HTTP/1 is to be spoken instead, because a WebSocket does not
/// fit and the upstream is only thought to speak what the client does.
async fn exchange(
    site: Site<'_>,
    cluster: &Arc<Cluster>,
    pick: &Pick,
    options: &TransportOptions,
    websocket: bool,
) -> Result<Option<Box<Exchange>>, NoConnection> {
    let place = site.worker.pool.place(cluster, pick, options).await?;
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

impl From<Kind> for NoConnection {
    fn from(kind: Kind) -> Self {
        NoConnection::Abandoned(kind)
    }
}
