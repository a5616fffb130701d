//! What happens to requests on their way, beside how they end. Each worker counts for itself.

use super::histogram::add;
use super::metrics::{counter, family, label};
use prometheus::proto::{Metric, MetricFamily, MetricType};
use std::sync::atomic::{AtomicU64, Ordering};

/// What became of a retry that a policy wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RetryCount {
    /// The request was sent again.
    Sent,
    /// As many as the policy allows had failed.
    Exhausted,
    /// The cluster's budget was used up.
    OverBudget,
    /// The request's body had not been kept.
    BodyNotKept,
}

impl RetryCount {
    const ALL: [RetryCount; 4] =
        [RetryCount::Sent, RetryCount::Exhausted, RetryCount::OverBudget, RetryCount::BodyNotKept];

    /// In a word, for logs and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            RetryCount::Sent => "sent",
            RetryCount::Exhausted => "retry_limit",
            RetryCount::OverBudget => "retry_budget",
            RetryCount::BodyNotKept => "request_body_not_kept",
        }
    }
}

/// What became of a copy for a mirror.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MirrorCount {
    /// The mirror answered.
    Answered,
    /// It was not reached, or did not answer in time.
    Failed,
    /// Too many copies were under way.
    Busy,
    /// The copies under way held too much memory.
    Memory,
    /// The request's body was too large.
    Body,
    /// The request did not come to its end.
    Incomplete,
    /// The mirror's cluster does not exist.
    NoCluster,
    /// The request asks for another protocol, in which nobody would speak to the mirror.
    Upgrade,
}

impl MirrorCount {
    const SENT: [MirrorCount; 2] = [MirrorCount::Answered, MirrorCount::Failed];
    const DROPPED: [MirrorCount; 6] = [
        MirrorCount::Busy,
        MirrorCount::Memory,
        MirrorCount::Body,
        MirrorCount::Incomplete,
        MirrorCount::NoCluster,
        MirrorCount::Upgrade,
    ];

    /// In a word, for metrics.
    fn name(self) -> &'static str {
        match self {
            MirrorCount::Answered => "answered",
            MirrorCount::Failed => "failed",
            MirrorCount::Busy => "too_many",
            MirrorCount::Memory => "memory",
            MirrorCount::Body => "body_too_large",
            MirrorCount::Incomplete => "request_incomplete",
            MirrorCount::NoCluster => "no_cluster",
            MirrorCount::Upgrade => "upgrade",
        }
    }
}

/// What policies said of a request or a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AuthorizationCount {
    /// It passes.
    Allowed,
    /// It does not.
    Denied,
    /// A provider was asked and lets it pass.
    CheckPassed,
    /// A provider was asked and refuses it.
    CheckRefused,
    /// A provider did not answer.
    CheckFailed,
    /// A policy of AUDIT matches it.
    Audited,
    /// It would pass if policies that are tried only were no dry run.
    DryRunAllowed,
    /// It would not.
    DryRunDenied,
}

impl AuthorizationCount {
    const ALL: [AuthorizationCount; 8] = [
        AuthorizationCount::Allowed,
        AuthorizationCount::Denied,
        AuthorizationCount::CheckPassed,
        AuthorizationCount::CheckRefused,
        AuthorizationCount::CheckFailed,
        AuthorizationCount::Audited,
        AuthorizationCount::DryRunAllowed,
        AuthorizationCount::DryRunDenied,
    ];

    /// In a word, for metrics.
    fn name(self) -> &'static str {
        match self {
            AuthorizationCount::Allowed => "allowed",
            AuthorizationCount::Denied => "denied",
            AuthorizationCount::CheckPassed => "check_passed",
            AuthorizationCount::CheckRefused => "check_refused",
            AuthorizationCount::CheckFailed => "check_failed",
            AuthorizationCount::Audited => "audited",
            AuthorizationCount::DryRunAllowed => "dry_run_allowed",
            AuthorizationCount::DryRunDenied => "dry_run_denied",
        }
    }
}

/// One worker's counts, which only that worker adds to.
#[derive(Default)]
pub(super) struct Counts {
    /// By [`RetryCount`].
    retries: [AtomicU64; RetryCount::ALL.len()],
    /// By [`MirrorCount`].
    mirrors: [AtomicU64; MirrorCount::SENT.len() + MirrorCount::DROPPED.len()],
    /// By [`AuthorizationCount`].
    authorizations: [AtomicU64; AuthorizationCount::ALL.len()],
}

impl Counts {
    pub(super) fn count_retry(&self, what: RetryCount) {
        add(&self.retries[what as usize], 1);
    }

    pub(super) fn count_mirror(&self, what: MirrorCount) {
        add(&self.mirrors[what as usize], 1);
    }

    pub(super) fn count_authorization(&self, what: AuthorizationCount) {
        add(&self.authorizations[what as usize], 1);
    }

    #[cfg(test)]
    pub(super) fn of_mirrors(&self, what: MirrorCount) -> u64 {
        self.mirrors[what as usize].load(Ordering::Relaxed)
    }
}

/// The workers added up.
pub(super) fn families(workers: &[&Counts]) -> [MetricFamily; 4] {
    let sum = |count: &dyn Fn(&Counts) -> &AtomicU64| {
        workers.iter().map(|counts| count(counts).load(Ordering::Relaxed)).sum()
    };
    let retry = |of: RetryCount| metric("result", of.name(), sum(&|counts| &counts.retries[of as usize]));
    let mirror = |name, of: MirrorCount| metric(name, of.name(), sum(&|counts| &counts.mirrors[of as usize]));
    let authorization = |of: AuthorizationCount| {
        metric("result", of.name(), sum(&|counts| &counts.authorizations[of as usize]))
    };
    [
        family(
            MetricType::COUNTER,
            "tidegate_authorization_total",
            "What authorization policies said of requests and connections.",
            AuthorizationCount::ALL.map(authorization).to_vec(),
        ),
        family(
            MetricType::COUNTER,
            "tidegate_retries_total",
            "Retries that policies wanted, by what became of them.",
            RetryCount::ALL.map(retry).to_vec(),
        ),
        family(
            MetricType::COUNTER,
            "tidegate_mirror_requests_total",
            "Copies of requests that were sent to mirrors, by what became of them.",
            MirrorCount::SENT.map(|of| mirror("result", of)).to_vec(),
        ),
        family(
            MetricType::COUNTER,
            "tidegate_mirror_dropped_total",
            "Copies of requests that were not sent to mirrors, by why.",
            MirrorCount::DROPPED.map(|of| mirror("reason", of)).to_vec(),
        ),
    ]
}

fn metric(name: &str, value: &str, count: u64) -> Metric {
    counter(vec![label(name, value)], count)
}
