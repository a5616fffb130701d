//! Faults that a rule injects before anything is sent.

use super::answer::Answer;
use super::buffers::Work;
use super::deadline::{Waiting, under_deadline};
use super::downstream::Downstream;
use super::error::Kind;
use super::record::{Life, Site};
use crate::telemetry::Flag;
use std::future::Future;
use std::time::{Duration, Instant};
use tidegate_model::Fault;

/// Delays the request and then aborts it, as the dice fall.
pub(crate) async fn inject<'t, D: Downstream>(
    down: &mut D,
    w: &mut Work,
    life: &mut Life<'t>,
    site: Site<'_>,
    fault: &Fault,
) -> Result<(), Answer<'t>> {
    let dice = || fastrand::u64(..);
    if let Some(delay) = fault.delay.as_ref().filter(|d| d.share.takes(dice())) {
        life.flags.set(Flag::DelayInjected);
        life.delayed = true;
        wait(down, w, site, delay.duration).await.map_err(|kind| Answer::Error(kind, None))?;
    }
    match fault.abort.as_ref().filter(|a| a.share.takes(dice())) {
        Some(abort) => Err(Answer::Abort(abort.status)),
        None => Ok(()),
    }
}

/// Lets the time pass, unless the client leaves.
async fn wait<D: Downstream>(down: &mut D, w: &mut Work, site: Site<'_>, time: Duration) -> Result<(), Kind> {
    let idle = site.worker.limits.request_idle.saturating_add(time);
    down.deadline().start(Instant::now(), idle);
    // boxed, so that it is no part of every request
    let mut sleep = Box::pin(tokio::time::sleep(time));
    under_deadline(down, w, Waiting::ForUpstream, |_, _, cx| sleep.as_mut().poll(cx).map(Ok::<_, Kind>))
        .await?;
    down.deadline().start(Instant::now(), site.worker.limits.request_idle);
    Ok(())
}
