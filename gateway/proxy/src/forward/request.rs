//! The phases of one request, in order.

use super::answer::{Answer, answer, render};
use super::attempt::{self, Response};
use super::buffers::Work;
use super::downstream::Downstream;
use super::edits::{Edits, Ops};
use super::error::Kind;
use super::fault::inject;
use super::head::{RequestChanges, write_request};
use super::plan::{Plan, plan};
use super::record::{Life, Lookup, Protocol, Reply, Site};
use super::relay;
use super::upstream::Upstream;
use crate::h1::authority;
use crate::h1::body::BodyScan;
use crate::h1::head::Head;
use crate::snapshot::Snapshot;
use crate::telemetry::{Flag, render_header};
use std::borrow::Cow;
use std::ops::Range;
use std::time::Instant;
use tidegate_engine::{Decision, ForwardDecision};
use tidegate_model::{FormatString, PathNormalization};

/// Serves the request whose head stands in `w`:
/// head -> canonical path -> identity -> route -> (pick, connect, send, await) -> response -> log.
pub(crate) async fn serve<D: Downstream>(down: &mut D, w: &mut Work, site: Site<'_>) {
    let now = Instant::now();
    let pin = site.worker.pin(&site.connection.last);
    let snapshot: &Snapshot = &pin;
    let mut life = Life::begin(now);
    down.deadline().start(now, site.worker.limits.request_idle, None);
    let result = forward(down, w, &mut life, site, snapshot).await;
    if let Err(a) = result {
        answer(down, w, &mut life, site, &snapshot.mesh, a).await;
    }
    life.received = life.received.max(down.received());
    life.finish(w, site);
}

/// Answers what was not understood as a request, but for the method where it was HEAD.
pub(crate) async fn refuse<D: Downstream>(
    down: &mut D,
    w: &mut Work,
    site: Site<'_>,
    kind: Kind,
    to_head: bool,
) {
    let now = Instant::now();
    let pin = site.worker.pin(&site.connection.last);
    let mut life = Life::begin(now);
    life.refused_head = to_head;
    // the buffers were another request's: nothing of that is to be logged with this one
    w.identity.establish(&Head::default(), &[], site.connection.peer, site.connection.tls.is_some(), 0);
    down.deadline().start(now, site.worker.limits.request_idle, None);
    answer(down, w, &mut life, site, &pin.mesh, Answer::Error(kind, None)).await;
    life.finish(w, site);
}

/// Decides, and sends the request on and its response back; `Err` is what to answer instead.
async fn forward<'t, D: Downstream>(
    down: &mut D,
    w: &mut Work,
    life: &mut Life<'t>,
    site: Site<'_>,
    snapshot: &'t Snapshot,
) -> Result<(), Answer<'t>> {
    let uploading = down.begin_upload(w);
    let plan = plan(life, w, site, snapshot);
    let first = uploading?;
    if let Some(fault) = life.faults() {
        inject(down, w, life, site, fault).await?;
    }
    let decision = match plan {
        Plan::Forward(decision) => decision,
        Plan::Answer(answer) => return Err(answer),
    };
    // the time that the upload takes is the client's
    let (idle, timeout) = (site.worker.limits.request_idle, decision.forward.timeout);
    let begin = if life.flags.has(Flag::DelayInjected) { Instant::now() } else { life.began };
    if down.uploaded() {
        down.deadline().start(begin, idle, timeout);
    } else {
        down.deadline().start_idle(begin, idle, timeout);
    }
    let destination = decision.destination;
    life.cluster_name = destination.cluster.as_str();
    let cluster = snapshot.clusters.get(&destination.cluster).ok_or(Kind::NoCluster)?;
    life.cluster = Some(cluster);
    let http2 = site.protocol.upstream(cluster.config().protocol) == Protocol::Http2;
    if http2 {
        down.upload_content();
    }
    serialise(w, life, site, snapshot, &decision, first, http2)?;
    let Response { mut upstream, bulk, mut sender } = attempt::response(down, w, life, site, cluster).await?;
    life.status = w.response.status;
    life.details = Cow::Borrowed("via_upstream");
    let ops = Ops { rule: &destination.response_headers, cors: life.cors };
    render(life, w, site, ops, Reply::Upstream(bulk.bytes()));
    let reusable = relay::relay(down, w, life, ops, &snapshot.mesh, &mut upstream, bulk, &mut sender).await?;
    if let (true, Some(pick), Upstream::One(connection)) = (reusable, &life.pick, upstream) {
        site.worker.pool.put(cluster, pick, connection, down.deadline().touched());
    }
    Ok(())
}

/// Writes head and first part of the body, as they go upstream, to `w.out`.
fn serialise(
    w: &mut Work,
    life: &Life<'_>,
    site: Site<'_>,
    snapshot: &Snapshot,
    decision: &ForwardDecision<'_>,
    first: Range<usize>,
    http2: bool,
) -> Result<(), Kind> {
    let destination = decision.destination;
    let ops = Ops { rule: &destination.request_headers, ..Ops::default() };
    render(life, w, site, ops, Reply::Sent);
    let replaced = match &destination.authority {
        Some(format) => replace_authority(life, w, site, format)?,
        None => false,
    };
    if !w.request.has_host() && w.authority.is_empty() {
        // HTTP/1.0 without Host: HTTP/1.1 must say one
        let host = life.cluster.map(|c| c.config().host.clone()).unwrap_or_default();
        w.authority.extend_from_slice(host.as_bytes());
    }
    let own_host = replaced || w.request.host_ignored || !w.request.has_host();
    let mut out = std::mem::take(&mut w.out);
    let mut target = std::mem::take(&mut w.target);
    out.clear();
    target.clear();
    if decision.forward.path_rewrite.is_some() {
        Decision::Forward(*decision).write_target(&super::view::View::of(w), &mut target);
    }
    let climbs = snapshot.mesh.path_normalization != PathNormalization::None && has_dot_segment(&target);
    let bad = climbs || is_relative(&target);
    if !bad {
        let changes = RequestChanges {
            target: Some(target.as_slice()).filter(|t| !t.is_empty()),
            authority: Some(w.authority.as_slice()).filter(|_| own_host),
            edits: Edits::new(ops, &w.rendered),
        };
        write_request(w, &mut out, &changes);
        w.body_at = out.len();
        out.extend_from_slice(&w.buf[first]);
        if http2 {
            // it was scanned before, so it is well-formed
            let scanned = BodyScan::new(w.request.request_framing()).decode(&mut out[w.body_at..]);
            let (_, content) = scanned.map_err(|_| Kind::BadBody)?;
            out.truncate(w.body_at + content);
        }
    }
    w.out = out;
    w.target = target;
    // a rewrite must not bring back what normalisation took away, nor make what is no path
    if bad { Err(Kind::BadPath) } else { Ok(()) }
}

fn replace_authority(
    life: &Life<'_>,
    w: &mut Work,
    site: Site<'_>,
    format: &FormatString,
) -> Result<bool, Kind> {
    let mut authority = Vec::new();
    match format.literal() {
        Some(text) => {
            w.authority.clear();
            w.authority.extend_from_slice(text.as_bytes());
            return Ok(!w.authority.is_empty());
        }
        None => {
            let headers = Lookup { w, response: Reply::Sent };
            render_header(format, &life.record(w, site, &headers), &mut authority);
        }
    }
    if authority.is_empty() {
        return Ok(false);
    }
    // what it is made of may be the client's
    if !authority::is_valid(&authority) {
        return Err(Kind::BadRequest(400, "invalid_upstream_authority"));
    }
    w.authority = authority;
    Ok(true)
}

/// Whether a rewritten target is none that a server takes: neither a path nor `*` (RFC 9112 3.2).
fn is_relative(target: &[u8]) -> bool {
    !target.is_empty() && target != b"*" && !target.starts_with(b"/")
}

fn has_dot_segment(target: &[u8]) -> bool {
    let path = target.split(|c| *c == b'?').next().unwrap_or_default();
    path.split(|c| *c == b'/').any(|s| s == b"." || s == b"..")
}
