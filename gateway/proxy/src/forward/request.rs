//! The phases of one request, in order.

use super::answer::{Answer, answer, render};
use super::attempt::{Response, Tries};
use super::buffers::Work;
use super::check;
use super::downstream::Downstream;
use super::edits::Ops;
use super::error::{Kind, Limit};
use super::fault::inject;
use super::glimpse::Glimpse;
use super::outgoing::Outgoing;
use super::plan::{Plan, plan};
use super::record::{InHand, Life, Reply, Site};
use super::relay;
use super::upstream::Upstream;
use crate::h1::head::Head;
use crate::snapshot::Snapshot;
use crate::upstream::Seen;
use std::ops::Range;
use std::time::Instant;
use tidegate_engine::ForwardDecision;
use tidegate_model::HeaderName;

/// Serves the request whose head stands in `w`:
/// head -> canonical path -> identity -> route -> (pick, connect, send, await), again where that
/// failed and may be -> response -> log. `now` is when the head was there. Returns when all that ended.
pub(crate) async fn serve<D: Downstream>(
    down: &mut D,
    w: &mut Work,
    site: Site<'_>,
    now: Instant,
) -> Instant {
    if site.worker.overload.sheds() {
        return Box::pin(shed(down, w, site, now)).await;
    }
    let pin = site.worker.pin(&site.connection.last);
    let snapshot: &Snapshot = &pin;
    let mut in_hand = InHand::begin(now, w, site);
    let InHand { life, w, .. } = &mut in_hand;
    down.deadline().start(now, site.worker.limits.request_idle);
    let uploading = begin_upload(down, w, site);
    let planned = match (plan(life, w, site, snapshot), &uploading) {
        // boxed, so that asking is no part of every request
        (Plan::Check(check), Ok(first)) => {
            life.delayed = true;
            Box::pin(check::decide(down, w, life, site, snapshot, check, first.clone())).await
        }
        (planned, _) => planned,
    };
    let faulted = match life.faults() {
        Some(fault) if uploading.is_ok() => inject(down, w, life, site, fault).await,
        _ => Ok(()),
    };
    let next = match (faulted, planned, uploading) {
        (_, _, Err(kind)) => Err(Answer::Error(kind, None)),
        (Err(answer), ..) | (Ok(()), Plan::Answer(answer), _) => Err(answer),
        // it was asked about above
        (Ok(()), Plan::Check(_), _) => Err(Answer::Error(Kind::Forbidden, None)),
        (Ok(()), Plan::Forward(decision), Ok(first)) => Ok((decision, first)),
    };
    let result = match next {
        Ok((ref decision, first)) => {
            let sent = forward(down, w, life, site, snapshot, decision, first).await;
            sent.map_err(|kind| Answer::Error(kind, None))
        }
        Err(answer) => Err(answer),
    };
    if let Err(a) = result {
        answer(down, w, life, site, &snapshot.mesh, a).await;
    }
    life.received = life.received.max(down.received());
    in_hand.end()
}

/// Finds where the body ends, and holds it to the limit as far as that is known already.
fn begin_upload<D: Downstream>(down: &mut D, w: &mut Work, site: Site<'_>) -> Result<Range<usize>, Kind> {
    let first = down.begin_upload(w)?;
    match site.worker.limits.request_body {
        Some(most) if down.received().max(w.request.content_length().unwrap_or(0)) > most => {
            Err(Kind::Limit(Limit::Body))
        }
        _ => Ok(first),
    }
}

/// Answers without a look at what it asks for: the process has too much memory.
async fn shed<D: Downstream>(down: &mut D, w: &mut Work, site: Site<'_>, now: Instant) -> Instant {
    let pin = site.worker.pin(&site.connection.last);
    let mut in_hand = InHand::begin(now, w, site);
    let InHand { life, w, .. } = &mut in_hand;
    let Work { buf, pos, request, identity, .. } = &mut **w;
    let (peer, tls) = (site.connection.peer, site.connection.tls.is_some());
    identity.establish(request, &buf[*pos..], peer, tls, pin.mesh.trusted_proxies);
    down.deadline().start(now, site.worker.limits.request_idle);
    // a body that breaks the rules ends the connection, which the answer does, too
    let _ = down.begin_upload(w);
    answer(down, w, life, site, &pin.mesh, Answer::Error(Kind::Limit(Limit::Memory), None)).await;
    in_hand.end()
}

/// Answers what was not understood as a request, or refused whatever it says: then nothing but `refused` is known of it.
/// It came at `began`.
pub(crate) async fn refuse<D: Downstream>(
    down: &mut D,
    w: &mut Work,
    site: Site<'_>,
    kind: Kind,
    refused: Option<Box<Glimpse>>,
    began: Instant,
) {
    let now = Instant::now();
    let pin = site.worker.pin(&site.connection.last);
    let mut in_hand = InHand::begin(began, w, site);
    let InHand { life, w, .. } = &mut in_hand;
    life.refused = refused;
    life.start -= now - began;
    // the buffers were another request's: nothing of that is to be logged with this one
    w.identity.establish(&Head::default(), &[], site.connection.peer, site.connection.tls.is_some(), 0);
    down.deadline().start(now, site.worker.limits.request_idle);
    answer(down, w, life, site, &pin.mesh, Answer::Error(kind, None)).await;
    in_hand.end();
}

async fn forward<'t, D: Downstream>(
    down: &mut D,
    w: &mut Work,
    life: &mut Life<'t>,
    site: Site<'_>,
    snapshot: &'t Snapshot,
    decision: &ForwardDecision<'t>,
    first: Range<usize>,
) -> Result<(), Kind> {
    let outgoing = Outgoing::new(life, w, site, snapshot, decision, first)?;
    let response = {
        // in a block of its own, so that its memory is free again
        let mut tries = Tries::new(down, w, life, site, outgoing);
        tries.response().await?
    };
    let Response { mut upstream, bulk, mut upload, mut sender } = response;
    #[cfg(test)]
    super::tests::defect::provoke(w);
    life.status = w.response.status;
    life.set_details("via_upstream");
    let ops = Ops { rule: &decision.destination.response_headers, cors: life.cors, granted: &[] };
    let came_with =
        |name: &HeaderName| w.response.values(bulk.bytes(), name.as_str().as_bytes()).next().is_some();
    let granted = check::OfResponse::resolve(life.granted.as_deref().unwrap_or_default(), ops, came_with);
    let ops = Ops { granted: &granted, ..ops };
    render(life, w, site, ops, Reply::Upstream(bulk.bytes()));
    let sending = (&mut upload, &mut sender);
    let (mesh, cut) = (&snapshot.mesh, &site.worker.cut);
    let relayed = relay::relay(down, w, life, ops, mesh, &mut upstream, bulk, sending, cut).await;
    if let (
        Err(Kind::UpstreamClosed | Kind::UpstreamReset | Kind::UpstreamMalformed),
        Some(cluster),
        Some(pick),
    ) = (&relayed, life.cluster, &life.pick)
    {
        cluster.observe(pick, Seen::Failure);
    }
    let (over, reusable) = relayed?;
    life.over = Some(over);
    if let (true, Some(cluster), Upstream::One(connection)) = (reusable, life.cluster, upstream) {
        site.worker.pool.put(cluster, connection, over);
    }
    Ok(())
}
