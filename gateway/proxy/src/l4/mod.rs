//! Connections whose bytes go on as they are: opaque TCP, TLS that is not terminated here, and what
//! is inside of TLS that is.

use crate::connection::Connection;
use crate::forward::affinity;
use crate::forward::authorize::{ends, note};
use crate::forward::check;
use crate::forward::deadline::Deadline;
use crate::forward::error::Kind;
use crate::forward::record::{Protocol, Site};
use crate::forward::tunnel::{End, Failed, Way};
use crate::snapshot::Snapshot;
use crate::telemetry::{AuthorizationCount, Flag, Flags, Record, TcpSeries};
use crate::upstream::{Cluster, ConnectError, NoHost, Pick, Seen, UpstreamConnection};
use crate::worker::Worker;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant, SystemTime};
use tidegate_engine::{Check, Subject, TcpDecision};
use tidegate_model::{CheckProtocol, ClusterName, HashKey};

/// Stands for no limit: longer than any process runs.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Where a connection goes: everything of the decision that outlives the snapshot.
pub(crate) struct Target {
    name: ClusterName,
    cluster: Option<Arc<Cluster>>,
    idle_timeout: Duration,
    has_policies: bool,
}

impl Target {
    pub(crate) fn new(decision: &TcpDecision<'_>, snapshot: &Snapshot) -> Self {
        let destination = decision.destination;
        Target {
            name: destination.cluster.clone(),
            cluster: snapshot.clusters.get(&destination.cluster).cloned(),
            idle_timeout: destination.idle_timeout.unwrap_or(FOREVER),
            has_policies: decision.route.has_policies(),
        }
    }
}

/// How a connection ends before both sides have ended it.
mod ends {
    use crate::telemetry::Flag;

    pub(super) type End = (Flag, &'static str);

    pub(super) const CLIENT: End = (Flag::DownstreamTermination, "downstream_reset");
    pub(super) const SERVER: End = (Flag::UpstreamTermination, "upstream_reset");
    pub(super) const IDLE: End = (Flag::StreamIdleTimeout, "idle_timeout");
    pub(super) const TOO_OLD: End = (Flag::DurationTimeout, "max_connection_duration");
    pub(super) const DRAINED: End = (Flag::LocalReset, "drain_time_is_over");
}

/// When a connection was accepted.
#[derive(Clone, Copy)]
pub(crate) struct Began {
    pub(crate) at: SystemTime,
    pub(crate) instant: Instant,
}

impl Began {
    pub(crate) fn now() -> Self {
        Began { at: SystemTime::now(), instant: Instant::now() }
    }
}

/// What became of a connection.
#[derive(Default)]
struct Outcome {
    flags: Flags,
    details: String,
    transport_failure: String,
    pick: Option<Pick>,
    upstream_local: Option<SocketAddr>,
    received: u64,
    sent: u64,
}

impl Outcome {
    fn failed(flag: Flag, details: impl Into<String>) -> Self {
        let mut outcome = Outcome { details: details.into(), ..Outcome::default() };
        outcome.flags.set(flag);
        outcome
    }
}

/// Joins a connection with an endpoint of its cluster until both sides have ended, nothing moved
/// for too long, or the time to drain is over after its listener went.
pub(crate) async fn serve(
    mut stream: Stream,
    target: Target,
    connection: &Rc<Connection>,
    worker: &Worker,
    shutdown: ShutdownWatch,
) {
    let cluster = target.cluster.as_deref();
    let outcome = match connect(&target, connection, worker).await {
        Ok((pick, upstream)) => {
            let series =
                worker.telemetry.tcp(cluster.map(|c| &**c.config()), Some(pick.workload()), Flags::default());
            series.opened();
            let outcome = tunnel(&mut stream, upstream, pick, &target, &series, worker, shutdown).await;
            series.closed();
            outcome
        }
        Err(outcome) => {
            let workload = outcome.pick.as_ref().map(|p| &**p.workload());
            let series = worker.telemetry.tcp(cluster.map(|c| &**c.config()), workload, outcome.flags);
            series.opened();
            series.closed();
            outcome
        }
    };
    finish(&outcome, Some(&target), connection, worker);
}

/// Logs a connection that was closed before anything of it went on.
pub(crate) fn refused(flag: Option<Flag>, details: String, connection: &Connection, worker: &Worker) {
    let mut outcome = Outcome { details, ..Outcome::default() };
    flag.into_iter().for_each(|flag| outcome.flags.set(flag));
    finish(&outcome, None, connection, worker);
}

/// Whether the policies let a connection through whose bytes go on.
///
/// # Errors
/// When they do not: the flag and the details of its log line.
pub(crate) async fn authorize(
    target: &Target,
    connection: &Rc<Connection>,
    worker: &Rc<Worker>,
) -> Result<(), (Option<Flag>, String)> {
    if !target.has_policies {
        return Ok(());
    }
    let pin = worker.pin(&connection.last);
    let snapshot: &Snapshot = &pin;
    let Some(authorizer) = snapshot.table.authorizer() else { return Ok(()) };
    let subject = Subject { ends: ends(connection, connection.peer.ip()), request: None };
    if authorizer.has_notes() {
        note(authorizer, &subject, worker);
    }
    let asked = authorizer.check(&subject);
    // as in Istio, a provider that is asked by HTTP is not asked about connections
    if let Ok(Some(Check { by, .. })) = asked
        && by.protocol == CheckProtocol::Grpc
    {
        let site = Site { worker, connection, protocol: Protocol::Http1 };
        let said = Box::pin(check::connection(connection, site, snapshot, by)).await;
        said.map_err(|why| (Some(Flag::ExternalAuthorization), why.to_owned()))?;
    }
    let (count, result) = match asked.and_then(|_| authorizer.enforce(&subject)) {
        Ok(()) => (AuthorizationCount::Allowed, Ok(())),
        Err(why) => (AuthorizationCount::Denied, Err((None, why.to_string()))),
    };
    worker.telemetry.count_authorization(count);
    result
}

async fn connect(
    target: &Target,
    connection: &Rc<Connection>,
    worker: &Worker,
) -> Result<(Pick, Box<UpstreamConnection>), Outcome> {
    let Some(cluster) = &target.cluster else {
        return Err(Outcome::failed(Flag::NoCluster, "cluster_not_found"));
    };
    let dice = match cluster.hash_key() {
        Some(HashKey::SourceIp) => affinity::of_ip(connection.peer.ip()),
        _ => fastrand::u64(..),
    };
    let pick = match cluster.pick(dice) {
        Some(pick) => pick,
        None => pick_by_name(cluster, connection, dice).await?,
    };
    let connected = async {
        // where that is what the client asks for, so it is for TLS
        let host = cluster.hosts().map(|_| connection.sni().as_bytes());
        let options = cluster.transport().options(host, connection)?;
        worker.pool.get_for_bytes(cluster, &pick, &options).await
    };
    match connected.await {
        Ok(upstream) => {
            cluster.observe(&pick, Seen::Connected);
            Ok((pick, upstream))
        }
        Err(ConnectError::Overflow) => {
            let mut outcome = Outcome::failed(Flag::Overflow, "upstream_overflow");
            outcome.pick = Some(pick);
            Err(outcome)
        }
        Err(e) => {
            pick.failed(&e);
            if Kind::from(e.clone()).blames_endpoint() {
                cluster.observe(&pick, Seen::Failure);
            }
            let mut outcome = Outcome::failed(Flag::UpstreamConnectFailure, "upstream_connect_failure");
            if matches!(e, ConnectError::Timeout) {
                outcome.details = "upstream_connect_timeout".into();
            }
            outcome.transport_failure = e.to_string();
            outcome.pick = Some(pick);
            Err(outcome)
        }
    }
}

/// Picks an endpoint where it is the server name that the client asks for.
async fn pick_by_name(cluster: &Cluster, connection: &Connection, dice: u64) -> Result<Pick, Outcome> {
    let Some(hosts) = cluster.hosts() else {
        return Err(Outcome::failed(Flag::NoHealthyUpstream, "no_healthy_upstream"));
    };
    hosts.pick(connection.sni().as_bytes(), dice, &[]).await.map_err(|why| {
        let (flag, details) = match why {
            NoHost::Foreign(_) => (Flag::NoHealthyUpstream, "host_not_of_service"),
            NoHost::TooMany => (Flag::Overflow, "upstream_overflow"),
            NoHost::NoAddress(_) => (Flag::DnsFailure, "dns_resolution_failure"),
        };
        let mut outcome = Outcome::failed(flag, details);
        outcome.transport_failure = why.to_string();
        outcome
    })
}

async fn tunnel(
    stream: &mut Stream,
    upstream: Box<UpstreamConnection>,
    pick: Pick,
    target: &Target,
    series: &TcpSeries,
    worker: &Worker,
    shutdown: ShutdownWatch,
) -> Outcome {
    let mut outcome = Outcome { pick: Some(pick), upstream_local: upstream.local, ..Outcome::default() };
    let UpstreamConnection { stream: mut server, in_use: _in_use, .. } = *upstream;
    let longest = target.cluster.as_ref().and_then(|c| c.config().limits.max_connection_duration);
    let (mut up, mut down) = (Way::default(), Way::default());
    let mut idle = Deadline::new(target.idle_timeout);
    let mut ended = None;
    let joined = poll_fn(|cx| {
        let there = up.poll(stream, &mut server, cx);
        let back = down.poll(&mut server, stream, cx);
        if up.take_moved() | down.take_moved() {
            idle.touch();
        }
        series.moved(up.bytes() - outcome.received, down.bytes() - outcome.sent);
        (outcome.received, outcome.sent) = (up.bytes(), down.bytes());
        Poll::Ready(match (there, back) {
            // The server has said all, and now it takes no more.
            (Poll::Ready(Err(Failed::Sink)), Poll::Ready(Ok(()))) => None,
            (Poll::Ready(Err(Failed::Source)), _) | (_, Poll::Ready(Err(Failed::Sink))) => Some(ends::CLIENT),
            (Poll::Ready(Err(Failed::Sink)), _) | (_, Poll::Ready(Err(Failed::Source))) => Some(ends::SERVER),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => None,
            _ => ready!(idle.poll(cx).map(|_| Some(ends::IDLE))),
        })
    });
    let until = async {
        ended = tokio::select! {
            biased;
            ended = joined => ended,
            () = drained(shutdown, worker.limits.drain) => Some(ends::DRAINED),
            () = tokio::time::sleep(longest.unwrap_or(FOREVER)) => Some(ends::TOO_OLD),
        };
    };
    if !worker.cut.unless(pin!(until)).await {
        ended = Some(ends::DRAINED);
    }
    match ended {
        Some(ends::CLIENT) => server.cut(),
        Some(ends::SERVER) => stream.cut(),
        _ => {}
    }
    if let Some((flag, details)) = ended {
        outcome.flags.set(flag);
        outcome.details = details.into();
    }
    outcome
}

/// Returns when the listener is gone and the time to drain is over: a tunnel has no end of its own
/// at which it could be asked to leave.
async fn drained(mut shutdown: ShutdownWatch, time: Duration) {
    // An error is the listener's end, too.
    let _ = shutdown.wait_for(|gone| *gone).await;
    tokio::time::sleep(time).await;
}

fn finish(outcome: &Outcome, target: Option<&Target>, connection: &Connection, worker: &Worker) {
    let cluster = target.and_then(|t| t.cluster.as_deref());
    let pick = outcome.pick.as_ref();
    worker.telemetry.finish_connection(&Record {
        attempts: u32::from(pick.is_some()),
        transport_failure: &outcome.transport_failure,
        flags: outcome.flags,
        details: &outcome.details,
        bytes_received: outcome.received,
        bytes_sent: outcome.sent,
        cluster: cluster.map(|c| &**c.config()),
        cluster_name: target.map_or("", |t| t.name.as_str()),
        workload: pick.map(|p| &**p.workload()),
        upstream_host: pick.map(|p| p.address),
        upstream_local: outcome.upstream_local,
        ..connection.record()
    });
}
