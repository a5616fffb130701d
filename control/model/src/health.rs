use serde::Serialize;
use std::time::Duration;

/// When an endpoint that fails is left out for a while, as Envoy's outlier detection does it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutlierDetection {
    /// So many responses of 5xx in a row; 0 is never. No response at all counts as one, unless those are counted apart.
    pub consecutive_5xx: u32,
    /// So many of 502, 503 and 504 in a row, or of no response; 0 is never.
    pub consecutive_gateway_errors: u32,
    /// So many tries in a row without any response, counted apart from responses; one that gets a connection begins the
    /// row anew. 0 is never. `None`: they count as responses of 503.
    pub consecutive_local_failures: Option<u32>,
    /// The statuses that count in place of 5xx; empty when 5xx do.
    pub error_statuses: Vec<u16>,
    /// How often it is looked whether an endpoint may come back.
    pub interval: Duration,
    /// How long an endpoint is left out the first time. It grows by as much with each time.
    pub base_ejection_time: Duration,
    /// No more endpoints than this are left out, in percent; one always may be, unless it is 0.
    pub max_ejection_percent: u8,
    /// Where fewer endpoints than this are healthy, in percent, all of them are used; 0 is never.
    pub min_health_percent: u8,
}

impl OutlierDetection {
    /// An endpoint is left out no longer than this, or than the first time if that is longer (Envoy).
    pub const LONGEST: Duration = Duration::from_secs(300);
}

/// How the weight of a new endpoint grows to its full size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warmup {
    /// How long that takes.
    pub duration: Duration,
    /// The share that it begins with, in millionths.
    pub minimum: u32,
    /// How steep it is, in thousandths: 1000 is linear, more is faster at the beginning.
    pub aggression: u32,
}
