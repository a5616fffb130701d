//! Whether a try that failed is followed by another: a function of the policy and of what came of
//! the try, with Envoy's meaning of the conditions.

use crate::telemetry::RetryCount;
use crate::upstream::Seen;
use std::time::Duration;
use tidegate_model::{RetryCondition, RetryOn, RetryPolicy};

/// What came of a try, while nothing of a response has been passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There was no connection.
    NoConnection,
    /// The upstream said that it did not look at the request.
    Refused,
    /// No response: the connection ended, the stream was reset, what came was not HTTP, or the
    /// time for the try was up.
    Reset {
        /// Something of the request was sent.
        started: bool,
    },
    /// A response's head.
    Response {
        status: u16,
        /// `grpc-status`, where it is in the head.
        grpc_status: Option<u8>,
        /// `x-envoy-ratelimited` is there.
        rate_limited: bool,
    },
}

impl Outcome {
    /// What it says about the endpoint: a call of gRPC that failed counts by the status that it stands for.
    pub(crate) fn seen(self) -> Seen {
        match self {
            Outcome::NoConnection | Outcome::Refused | Outcome::Reset { .. } => Seen::Failure,
            Outcome::Response { grpc_status: Some(status), .. } => Seen::Status(http_status(status)),
            Outcome::Response { status, .. } => Seen::Status(status),
        }
    }
}

/// The HTTP status for one of gRPC, as Envoy has it.
fn http_status(grpc: u8) -> u16 {
    match grpc {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// What to do about a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// What came of it is the answer.
    Answer,
    /// Try again.
    Again,
    /// The policy wants another try, but it may not be.
    Not(Refusal),
}

/// Why there is no other try although the policy wants one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// As many as the policy allows have failed.
    Exhausted,
    /// The cluster's budget for retries is used up.
    Budget,
    /// The request's body was too large to be kept.
    Body,
}

impl From<Refusal> for RetryCount {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Exhausted => RetryCount::Exhausted,
            Refusal::Budget => RetryCount::OverBudget,
            Refusal::Body => RetryCount::BodyNotKept,
        }
    }
}

/// Decides about the try after which `done` retries have been made. The cluster's budget is asked
/// by whoever acts on [`Verdict::Again`].
pub(crate) fn decide(policy: Option<&RetryPolicy>, outcome: Outcome, done: u32, body_kept: bool) -> Verdict {
    match policy.filter(|policy| is_retriable(policy, outcome)) {
        None => Verdict::Answer,
        Some(_) if !body_kept => Verdict::Not(Refusal::Body),
        Some(policy) if done >= policy.attempts => Verdict::Not(Refusal::Exhausted),
        Some(_) => Verdict::Again,
    }
}

fn is_retriable(policy: &RetryPolicy, outcome: Outcome) -> bool {
    use RetryCondition::{
        ConnectFailure, GatewayError, RateLimited, RefusedStream, Reset, ResetBeforeRequest, ServerError,
    };
    // no response counts as one of the gateway's own, which is a 503 or 504
    const UNANSWERED: RetryOn = RetryOn::EMPTY.with(Reset).with(ServerError).with(GatewayError);
    const UNSENT: RetryOn = UNANSWERED.with(ResetBeforeRequest);
    let on = policy.on;
    match outcome {
        Outcome::NoConnection => on.has_any(UNSENT.with(ConnectFailure)),
        Outcome::Refused => on.has_any(UNANSWERED.with(RefusedStream)),
        Outcome::Reset { started: false } => on.has_any(UNSENT),
        Outcome::Reset { started: true } => on.has_any(UNANSWERED),
        Outcome::Response { rate_limited: true, .. } => on.has(RateLimited),
        Outcome::Response { status, grpc_status, .. } => {
            is_retriable_status(policy, status) || grpc_status.is_some_and(|s| is_retriable_grpc(on, s))
        }
    }
}

fn is_retriable_status(policy: &RetryPolicy, status: u16) -> bool {
    use RetryCondition::{GatewayError, Retriable4xx, RetriableStatusCodes, ServerError};
    let on = policy.on;
    (status >= 500 && on.has(ServerError))
        || (matches!(status, 502..=504) && on.has(GatewayError))
        || (status == 409 && on.has(Retriable4xx))
        || (on.has(RetriableStatusCodes) && policy.statuses.contains(&status))
}

fn is_retriable_grpc(on: RetryOn, status: u8) -> bool {
    use RetryCondition::{Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable};
    let condition = match status {
        1 => Cancelled,
        4 => DeadlineExceeded,
        8 => ResourceExhausted,
        13 => Internal,
        14 => Unavailable,
        _ => return false,
    };
    on.has(condition)
}

/// How long to wait before a retry, of which `done` were made before: anything up to a limit that
/// doubles each time. `dice` is uniformly random.
pub(crate) fn wait(policy: &RetryPolicy, done: u32, dice: u64) -> Duration {
    let doubled = 1u32.checked_shl(done).unwrap_or(u32::MAX);
    let most = policy.backoff.saturating_mul(doubled).min(policy.max_backoff);
    let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(((u128::from(nanos) * u128::from(dice)) >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(on: &[RetryCondition], statuses: &[u16]) -> RetryPolicy {
        RetryPolicy {
            attempts: 2,
            per_try_timeout: None,
            on: on.iter().copied().collect(),
            statuses: statuses.to_vec(),
            backoff: Duration::from_millis(25),
            max_backoff: Duration::from_millis(250),
            avoid_previous_hosts: None,
        }
    }

    fn response(status: u16) -> Outcome {
        Outcome::Response { status, grpc_status: None, rate_limited: false }
    }

    fn grpc(status: u8) -> Outcome {
        Outcome::Response { status: 200, grpc_status: Some(status), rate_limited: false }
    }

    const SENT: Outcome = Outcome::Reset { started: true };
    const UNSENT: Outcome = Outcome::Reset { started: false };
    const LIMITED: Outcome = Outcome::Response { status: 503, grpc_status: None, rate_limited: true };

    #[test]
    fn conditions_mean_what_they_mean_in_envoy() {
        use Outcome::{NoConnection, Refused};
        use RetryCondition::*;
        let all = [
            NoConnection,
            Refused,
            SENT,
            UNSENT,
            LIMITED,
            response(200),
            response(404),
            response(409),
            response(429),
            response(500),
            response(502),
            response(503),
            response(504),
            response(505),
            grpc(0),
            grpc(1),
            grpc(4),
            grpc(8),
            grpc(13),
            grpc(14),
        ];
        let unanswered = [NoConnection, Refused, SENT, UNSENT];
        let errors = [500, 502, 503, 504, 505].map(response);
        let gateway_errors = [502, 503, 504].map(response);
        for (condition, retried) in [
            (ServerError, [&unanswered[..], &errors].concat()),
            (GatewayError, [&unanswered[..], &gateway_errors].concat()),
            (Reset, unanswered.to_vec()),
            (ResetBeforeRequest, vec![NoConnection, UNSENT]),
            (ConnectFailure, vec![NoConnection]),
            (RateLimited, vec![LIMITED]),
            (Retriable4xx, vec![response(409)]),
            (RefusedStream, vec![Refused]),
            (RetriableStatusCodes, vec![response(404), response(503)]),
            (RetriableHeaders, vec![]),
            (Http3PostConnectFailure, vec![]),
            (Cancelled, vec![grpc(1)]),
            (DeadlineExceeded, vec![grpc(4)]),
            (Internal, vec![grpc(13)]),
            (ResourceExhausted, vec![grpc(8)]),
            (Unavailable, vec![grpc(14)]),
        ] {
            let policy = policy(&[condition], &[404, 503]);
            let found: Vec<_> = all.into_iter().filter(|o| is_retriable(&policy, *o)).collect();
            assert_eq!(found, retried, "{condition:?}");
        }
    }

    #[test]
    fn statuses_alone_are_no_condition() {
        assert!(!is_retriable(&policy(&[], &[503]), response(503)));
    }

    #[test]
    fn verdicts() {
        use Verdict::{Again, Answer, Not};
        let on = policy(&[RetryCondition::ServerError], &[]);
        for (policy, outcome, done, kept, verdict) in [
            (Some(&on), response(503), 0, true, Again),
            (Some(&on), response(503), 1, true, Again),
            (Some(&on), response(503), 2, true, Not(Refusal::Exhausted)),
            (Some(&on), response(503), 0, false, Not(Refusal::Body)),
            (Some(&on), response(200), 0, false, Answer),
            (Some(&on), response(200), 2, true, Answer),
            (None, response(503), 0, true, Answer),
            (None, SENT, 0, false, Answer),
        ] {
            assert_eq!(decide(policy, outcome, done, kept), verdict, "{outcome:?} {done} {kept}");
        }
    }

    #[test]
    fn waits_grow_to_their_limit() {
        let policy = policy(&[], &[]);
        let ms = |d: Duration| d.as_millis();
        let most = [0, 1, 2, 3, 4, 31, 32, 1000].map(|done| ms(wait(&policy, done, u64::MAX)));
        assert_eq!(most, [24, 49, 99, 199, 249, 249, 249, 249]);
        assert_eq!(ms(wait(&policy, 1, u64::MAX / 2)), 24);
        assert_eq!(wait(&policy, 1000, 0), Duration::ZERO);
    }
}
