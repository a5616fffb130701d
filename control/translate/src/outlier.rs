//! When endpoints that fail are left out, and how new ones begin, from a DestinationRule.

use std::time::Duration;
use tidegate_api::istio::{self, LoadBalancerSettings};
use tidegate_model::{LoadBalancer, OutlierDetection, Warmup};

/// Envoy's value for a field that is not written.
const CONSECUTIVE: u32 = 5;
const INTERVAL: Duration = Duration::from_secs(10);
const BASE_EJECTION_TIME: Duration = Duration::from_secs(30);
const MAX_EJECTION_PERCENT: i32 = 10;
const WARMUP_MINIMUM_PERCENT: f64 = 10.0;

/// Outlier detection, which is off unless the object is there.
pub(crate) fn detection(written: Option<&istio::OutlierDetection>) -> Option<OutlierDetection> {
    let written = written?;
    let apart = written.split_external_local_origin_errors == Some(true);
    let local = written.consecutive_local_origin_failures.filter(|n| *n > 0).unwrap_or(CONSECUTIVE);
    let statuses = written.outlier_detection_http_error_codes.iter();
    Some(OutlierDetection {
        consecutive_5xx: written.consecutive_5xx_errors.unwrap_or(CONSECUTIVE),
        consecutive_gateway_errors: written.consecutive_gateway_errors.unwrap_or(0),
        consecutive_local_failures: apart.then_some(local),
        error_statuses: statuses.filter_map(|status| u16::try_from(*status).ok()).collect(),
        interval: written.interval.unwrap_or(INTERVAL),
        base_ejection_time: written.base_ejection_time.unwrap_or(BASE_EJECTION_TIME),
        // as in Istio, 0 is as if it was not written
        max_ejection_percent: percent(
            written.max_ejection_percent.filter(|p| *p > 0).unwrap_or(MAX_EJECTION_PERCENT),
        ),
        min_health_percent: percent(written.min_health_percent.unwrap_or(0)),
    })
}

fn percent(written: i32) -> u8 {
    u8::try_from(written.clamp(0, 100)).unwrap_or(100)
}

/// How new endpoints begin, where the policy weighs endpoints so.
pub(crate) fn warmup(settings: Option<&LoadBalancerSettings>, policy: &LoadBalancer) -> Option<Warmup> {
    if !matches!(policy, LoadBalancer::LeastRequest | LoadBalancer::RoundRobin) {
        return None;
    }
    let settings = settings?;
    let written = settings.warmup.as_ref();
    let duration = written.map(|warmup| warmup.duration).or(settings.warmup_duration_secs)?;
    let minimum = written.and_then(|warmup| warmup.minimum_percent).unwrap_or(WARMUP_MINIMUM_PERCENT);
    let aggression = written.and_then(|warmup| warmup.aggression).unwrap_or(1.0);
    // floats beyond the range of the integer end at its bounds
    Some(Warmup {
        duration,
        minimum: (minimum.clamp(0.0, 100.0) * 10_000.0).round() as u32,
        aggression: (aggression * 1000.0).round() as u32,
    })
}
