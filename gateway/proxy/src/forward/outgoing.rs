//! A request as it goes upstream, written anew for each try.

use super::answer::render;
use super::buffers::Work;
use super::edits::{Edits, Ops};
use super::error::Kind;
use super::grpc;
use super::head::{RequestChanges, write_request};
use super::path::has_dot_segment;
use super::record::{Life, Lookup, Protocol, Reply, Site};
use crate::h1::authority;
use crate::h1::body::BodyScan;
use crate::h1::field::Known;
use crate::snapshot::Snapshot;
use crate::telemetry::render_header;
use crate::upstream::Cluster;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_engine::{Decision, ForwardDecision};
use tidegate_model::{FormatString, Mirror, RetryPolicy};

/// What is sent, where to, and how often.
pub(crate) struct Outgoing<'a> {
    /// What it is made by; a copy is made already.
    by: Option<(&'a Snapshot, &'a ForwardDecision<'a>)>,
    pub(crate) cluster: &'a Arc<Cluster>,
    /// What of the body came with the head: a range of `w.buf`.
    first: Range<usize>,
    /// What is spoken.
    pub(crate) http2: bool,
    is_grpc: bool,
    /// The time for all of it.
    pub(crate) timeout: Option<Duration>,
}

impl<'a> Outgoing<'a> {
    pub(crate) fn new<'t: 'a>(
        life: &mut Life<'t>,
        w: &Work,
        site: Site<'_>,
        snapshot: &'t Snapshot,
        decision: &'a ForwardDecision<'t>,
        first: Range<usize>,
    ) -> Result<Self, Kind> {
        let name = &decision.destination.cluster;
        life.cluster_name = name.as_str();
        let cluster = snapshot.clusters.get(name).ok_or(Kind::NoCluster)?;
        life.cluster = Some(cluster);
        let http2 = site.protocol.upstream(cluster.config().protocol) == Protocol::Http2;
        // towards HTTP/1 it matters only where the client gave a time
        let is_grpc = (http2 || w.request.has(Known::GrpcTimeout)) && grpc::is_grpc(w);
        let mut timeout = decision.forward.timeout;
        if let Some(asked) = Some(w).filter(|_| is_grpc).and_then(grpc::timeout) {
            // a client of gRPC may ask for less time than the route has (Istio 2.7)
            life.asked_time = timeout.is_none_or(|t| asked <= t);
            timeout = Some(timeout.map_or(asked, |t| t.min(asked)));
        }
        let by = Some((snapshot, decision));
        Ok(Outgoing { by, cluster, first, http2, is_grpc, timeout })
    }

    /// A request that stands in `w.out` as it is to be sent, once.
    pub(crate) fn copy(cluster: &'a Arc<Cluster>, http2: bool, timeout: Duration) -> Self {
        Outgoing { by: None, cluster, first: 0..0, http2, is_grpc: false, timeout: Some(timeout) }
    }

    /// Whether it is a copy for a mirror.
    pub(crate) fn is_copy(&self) -> bool {
        self.by.is_none()
    }

    /// How it is tried again.
    pub(crate) fn retries(&self) -> Option<&'a RetryPolicy> {
        self.by.and_then(|(_, decision)| decision.forward.retries.as_ref())
    }

    /// Where copies go.
    pub(crate) fn mirrors(&self) -> &'a [Mirror] {
        self.by.map_or(&[], |(_, decision)| &decision.forward.mirrors)
    }

    /// The cluster of a mirror.
    pub(crate) fn mirror(&self, mirror: &Mirror) -> Option<&'a Arc<Cluster>> {
        self.by.and_then(|(snapshot, _)| snapshot.clusters.get(&mirror.cluster))
    }

    /// Writes head and first part of the body to `w.out`. `rest` is what is left of the time for
    /// all of it.
    pub(crate) fn write(
        &self,
        w: &mut Work,
        life: &Life<'_>,
        site: Site<'_>,
        rest: Option<Duration>,
    ) -> Result<(), Kind> {
        let Some((snapshot, decision)) = self.by else { return Ok(()) };
        let destination = decision.destination;
        let ops = Ops { rule: &destination.request_headers, ..Ops::default() };
        render(life, w, site, ops, Reply::Sent);
        let replaced = match &destination.authority {
            Some(format) => replace_authority(life, w, site, format)?,
            None => false,
        };
        if !w.request.has_host() && w.authority.is_empty() {
            // HTTP/1.0 without Host: HTTP/1.1 must say one
            w.authority.extend_from_slice(self.cluster.config().host.as_bytes());
        }
        let own_host = replaced || w.request.host_ignored || !w.request.has_host();
        let mut out = std::mem::take(&mut w.out);
        let mut target = std::mem::take(&mut w.target);
        out.clear();
        target.clear();
        if decision.forward.path_rewrite.is_some() {
            Decision::Forward(*decision).write_target(&super::view::View::of(w), &mut target);
        }
        // a rewrite must not bring back what normalisation took away, nor make what is no path
        let path = target.split(|c| *c == b'?').next().unwrap_or_default();
        let bad = is_relative(&target) || has_dot_segment(snapshot.mesh.path_normalization, path);
        let mut written = Err(Kind::BadPath);
        if !bad {
            let changes = RequestChanges {
                http2: self.http2,
                target: Some(target.as_slice()).filter(|t| !t.is_empty()),
                authority: Some(w.authority.as_slice()).filter(|_| own_host),
                edits: Edits::of_request(ops, &w.rendered),
                attempt: life.attempts,
                replaced,
                expected: self.expected(rest),
                grpc_timeout: self.expected(rest).filter(|_| self.is_grpc),
            };
            write_request(w, &mut out, &changes);
            w.body_at = out.len();
            out.extend_from_slice(&w.buf[self.first.clone()]);
            out.extend_from_slice(&w.ahead);
            written = if self.http2 { decode(w, &mut out) } else { Ok(()) };
        }
        w.out = out;
        w.target = target;
        written
    }

    /// How long the upstream may take for this try.
    fn expected(&self, rest: Option<Duration>) -> Option<Duration> {
        let one_try = self.retries().and_then(|r| r.per_try_timeout);
        one_try.into_iter().chain(rest).min()
    }
}

/// Takes the framing of HTTP/1 off what of the body stands in `out`.
fn decode(w: &Work, out: &mut Vec<u8>) -> Result<(), Kind> {
    // it was scanned before, so it is well-formed
    let scanned = BodyScan::new(w.request.request_framing()).decode(&mut out[w.body_at..]);
    let (_, content) = scanned.map_err(|_| Kind::BadBody)?;
    out.truncate(w.body_at + content);
    Ok(())
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
            render_header(format, &life.record(w, site, Instant::now(), &headers), &mut authority);
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
