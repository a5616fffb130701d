//! When and how often requests are tried again, and how many retries a cluster takes.

use crate::Env;
use crate::mesh_config::Mesh;
use std::time::Duration;
use tidegate_api::istio::{ConnectionPoolSettings, HttpRetry, RetryBudget as Written};
use tidegate_model::{RetryBudget, RetryCondition, RetryOn, RetryPolicy};

/// How often after the first try when nothing is said.
const ATTEMPTS: u32 = 2;
/// What counts as failed when nothing is said: what no endpoint can have acted on. The statuses are those of the
/// rule, of which there are none then.
const CONDITIONS: [RetryCondition; 5] = [
    RetryCondition::ConnectFailure,
    RetryCondition::RefusedStream,
    RetryCondition::Unavailable,
    RetryCondition::Cancelled,
    RetryCondition::RetriableStatusCodes,
];
/// The wait before the first retry.
const BACKOFF: Duration = Duration::from_millis(25);
/// The longest wait in terms of the first.
const MAX_BACKOFF: u32 = 10;
/// The share of retries where a budget names none, in percent.
const PERCENT: f64 = 20.0;
/// The retries that are always allowed where a budget names none.
const MIN_CONCURRENCY: u32 = 3;

/// The policy of a rule: its own, else the mesh's, else Istio's. The rule's replaces the mesh's as a whole.
pub(crate) fn policy(written: Option<&HttpRetry>, mesh: &Mesh<'_>, env: &Env) -> Option<RetryPolicy> {
    match written.or(mesh.default_retries()) {
        Some(retry) => {
            let attempts = u32::try_from(retry.attempts?).ok().filter(|n| *n > 0)?;
            Some(convert(retry, attempts))
        }
        None => env.default_retries.then(|| convert(&HttpRetry::default(), ATTEMPTS)),
    }
}

fn convert(retry: &HttpRetry, attempts: u32) -> RetryPolicy {
    let (on, statuses) = match retry.retry_on.as_deref() {
        None | Some("") => (CONDITIONS.into_iter().collect(), Vec::new()),
        Some(text) => conditions(text),
    };
    let backoff = retry.backoff.unwrap_or(BACKOFF);
    RetryPolicy {
        attempts,
        per_try_timeout: retry.per_try_timeout.filter(|t| !t.is_zero()),
        on,
        statuses,
        backoff,
        max_backoff: backoff.saturating_mul(MAX_BACKOFF),
        avoid_previous_hosts: retry.retry_ignore_previous_hosts,
    }
}

/// What in a `retryOn` is neither the name of a condition nor a status.
pub(crate) fn unknown_conditions(text: &str) -> impl Iterator<Item = &str> {
    let status = |part: &str| part.parse::<u16>().is_ok_and(|s| (100..=599).contains(&s));
    text.split(',')
        .map(str::trim)
        .filter(move |p| !p.is_empty() && !status(p) && RetryCondition::by_name(p).is_none())
}

/// Names and statuses; a status means that statuses count.
fn conditions(text: &str) -> (RetryOn, Vec<u16>) {
    let (mut on, mut statuses) = (RetryOn::default(), Vec::new());
    for part in text.split(',').map(str::trim) {
        if let Some(condition) = RetryCondition::by_name(part) {
            on = on.with(condition);
        } else if let Ok(status) = part.parse() {
            on = on.with(RetryCondition::RetriableStatusCodes);
            statuses.push(status);
        }
    }
    (on, statuses)
}

/// The budget of a cluster: a `retryBudget` counts before `maxRetries`.
pub(crate) fn budget(
    written: Option<&Written>,
    pool: Option<&ConnectionPoolSettings>,
    env: &Env,
) -> RetryBudget {
    if let Some(budget) = written {
        return RetryBudget::Share {
            millionths: millionths(budget.percent.unwrap_or(PERCENT)),
            min_concurrency: budget.min_retry_concurrency.filter(|n| *n > 0).unwrap_or(MIN_CONCURRENCY),
            interval: budget.budget_interval.unwrap_or_default(),
        };
    }
    let max = pool.and_then(|p| p.http.as_ref()).and_then(|h| h.max_retries);
    match max.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0) {
        Some(max) => RetryBudget::Concurrent(max),
        None if env.default_retry_budget => RetryBudget::default(),
        None => RetryBudget::Unlimited,
    }
}

fn millionths(percent: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1,000,000")]
    let millionths = (percent.clamp(0.0, 100.0) * 10_000.0).round() as u32;
    millionths
}
