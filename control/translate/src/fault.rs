//! Faults to inject (Istio 2.15).

use tidegate_api::istio::{FaultAbort, FaultDelay, HttpFaultInjection, Percent};
use tidegate_model::{Abort, AbortStatus, Delay, Fault, Share};

/// The statuses of gRPC by their codes.
pub(crate) const GRPC_STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The faults of a rule.
pub(crate) fn fault(written: &HttpFaultInjection) -> Fault {
    Fault { delay: written.delay.as_ref().and_then(delay), abort: written.abort.as_ref().and_then(abort) }
}

fn delay(delay: &FaultDelay) -> Option<Delay> {
    let share = match (&delay.percentage, delay.percent) {
        (None, Some(percent)) => Share::percent(percent.into()),
        (percentage, _) => share(percentage.as_ref()),
    };
    Some(Delay { duration: delay.fixed_delay?, share })
}

fn abort(abort: &FaultAbort) -> Option<Abort> {
    let grpc = abort.grpc_status.as_deref().and_then(|name| GRPC_STATUSES.iter().position(|s| *s == name));
    let status = match (abort.http_status, grpc.and_then(|code| u8::try_from(code).ok())) {
        (_, Some(code)) => AbortStatus::Grpc(code),
        (status, None) => AbortStatus::Http(u16::try_from(status?).ok()?),
    };
    Some(Abort { status, share: share(abort.percentage.as_ref()) })
}

/// Absent is never, unlike in most other places.
fn share(percentage: Option<&Percent>) -> Share {
    percentage.and_then(|p| p.value).map(Share::percent).unwrap_or_default()
}
