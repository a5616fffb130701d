//! Destinations, weights, mirrors, faults, retries and CORS of routes.

use super::http_route;
use super::rules::{Check, is_token};
use crate::fault::GRPC_STATUSES;
use crate::retries::unknown_conditions;
use std::ops::RangeInclusive;
use std::time::Duration;
use tidegate_api::istio::{
    CorsPolicy, Destination, HttpFaultInjection, HttpRetry, HttpRoute, RouteDestination, StringMatch,
};

const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*"];

/// The statuses that have a name.
const STATUSES: [RangeInclusive<u16>; 12] = [
    100..=103,
    200..=208,
    226..=226,
    300..=305,
    307..=308,
    400..=418,
    421..=426,
    428..=429,
    431..=431,
    451..=451,
    500..=508,
    510..=511,
];

pub(super) fn validate(check: &mut Check<'_>, field: &str, route: &HttpRoute) {
    for (i, d) in route.route.iter().enumerate() {
        let field = format!("{field}.route[{i}]");
        destination(check, &format!("{field}.destination"), &d.destination);
        http_route::headers(check, &format!("{field}.headers"), d.headers.as_deref());
    }
    weights(check, field, &route.route.iter().map(|d| d.weight).collect::<Vec<_>>());
    mirrors(check, field, route);
    if let Some(faults) = &route.fault {
        fault(check, &format!("{field}.fault"), faults);
    }
    if let Some(policy) = &route.retries {
        retries(check, &format!("{field}.retries"), policy);
    }
    if let Some(policy) = &route.cors_policy {
        cors(check, &format!("{field}.corsPolicy"), policy);
    }
}

/// Destinations of a TCP or TLS route.
pub(super) fn l4_destinations(check: &mut Check<'_>, field: &str, destinations: &[RouteDestination]) {
    for (i, d) in destinations.iter().enumerate() {
        destination(check, &format!("{field}.route[{i}].destination"), &d.destination);
    }
    weights(check, field, &destinations.iter().map(|d| d.weight).collect::<Vec<_>>());
}

fn weights(check: &mut Check<'_>, field: &str, weights: &[Option<i32>]) {
    for (i, weight) in weights.iter().enumerate() {
        if weight.is_some_and(|w| w < 0) {
            let text = "a weight must not be negative";
            check.error(&format!("{field}.route[{i}].weight"), "invalid-weight", text, "use 0 or more");
        }
    }
    let sum: i64 = weights.iter().map(|w| i64::from(w.unwrap_or(0))).sum();
    if weights.len() > 1 && sum == 0 {
        let text = "total destination weight = 0";
        check.error(
            &format!("{field}.route"),
            "invalid-weight",
            text,
            "give at least one destination a weight",
        );
    }
}

fn destination(check: &mut Check<'_>, field: &str, destination: &Destination) {
    let host = format!("{field}.host");
    if destination.host == "*" {
        check.error(&host, "invalid-host", "* is not a destination", "name a service");
    } else {
        check.wildcard_name(&host, &destination.host);
    }
    if let Some(subset) = destination.subset.as_deref().filter(|s| !s.is_empty()) {
        check.label(&format!("{field}.subset"), subset, "subset");
    }
    if let Some(port) = &destination.port {
        check.port(&format!("{field}.port.number"), port.number.unwrap_or(0));
    }
}

fn mirrors(check: &mut Check<'_>, field: &str, route: &HttpRoute) {
    if route.mirror.is_some() && !route.mirrors.is_empty() {
        let text = "cannot be used with mirror";
        check.error(&format!("{field}.mirrors"), "one-of", text, "keep one of them");
    }
    if let Some(mirror) = &route.mirror {
        destination(check, &format!("{field}.mirror"), mirror);
    }
    for (i, mirror) in route.mirrors.iter().enumerate() {
        let field = format!("{field}.mirrors[{i}]");
        destination(check, &format!("{field}.destination"), &mirror.destination);
        check.percent(&format!("{field}.percentage.value"), mirror.percentage.as_ref().and_then(|p| p.value));
    }
    check.percent(&format!("{field}.mirrorPercent"), route.mirror_percent.map(f64::from));
    let percentage = route.mirror_percentage.as_ref().and_then(|p| p.value);
    check.percent(&format!("{field}.mirrorPercentage.value"), percentage);
}

fn fault(check: &mut Check<'_>, field: &str, fault: &HttpFaultInjection) {
    if fault.abort.is_none() && fault.delay.is_none() {
        check.error(field, "missing-field", "has neither delay nor abort", "add one of them");
    }
    if let Some(abort) = &fault.abort {
        let field = format!("{field}.abort");
        if let Some(status) = abort.http_status.filter(|s| !(200..=600).contains(s)) {
            let text = format!("{status} is not a status that can be answered");
            check.error(&format!("{field}.httpStatus"), "invalid-status", text, "use 200 to 600");
        }
        if let Some(status) = abort.grpc_status.as_deref().filter(|s| !GRPC_STATUSES.contains(s)) {
            let text = format!("{status:?} is not a gRPC status");
            check.error(
                &format!("{field}.grpcStatus"),
                "invalid-status",
                text,
                "use a name such as UNAVAILABLE",
            );
        }
        if abort.http2_error.is_some() {
            let text = "is not implemented, in Istio neither";
            check.error(&format!("{field}.http2Error"), "invalid-fault", text, "use httpStatus");
        }
        if abort.http_status.is_none() && abort.grpc_status.is_none() && abort.http2_error.is_none() {
            let text = "says not how to abort, so nothing is aborted";
            check.warning(&field, "no-effect", text, "set httpStatus or grpcStatus");
        }
        check.percent(&format!("{field}.percentage.value"), abort.percentage.as_ref().and_then(|p| p.value));
    }
    if let Some(delay) = &fault.delay {
        let field = format!("{field}.delay");
        check.duration(&format!("{field}.fixedDelay"), delay.fixed_delay);
        if delay.exponential_delay.is_some() {
            let text = "is not implemented, in Istio neither";
            check.error(&format!("{field}.exponentialDelay"), "invalid-fault", text, "use fixedDelay");
        } else if delay.fixed_delay.is_none() {
            check.warning(&field, "no-effect", "says not how long, so nothing is delayed", "set fixedDelay");
        }
        check.percent(&format!("{field}.percent"), delay.percent.map(f64::from));
        check.percent(&format!("{field}.percentage.value"), delay.percentage.as_ref().and_then(|p| p.value));
    }
}

fn retries(check: &mut Check<'_>, field: &str, policy: &HttpRetry) {
    check.not_negative(&format!("{field}.attempts"), policy.attempts);
    let others = policy.per_try_timeout.is_some()
        || policy.retry_on.as_deref().is_some_and(|r| !r.is_empty())
        || policy.retry_remote_localities.is_some();
    if policy.attempts.unwrap_or(0) == 0 && others {
        let text = "0 attempts are no retries, so nothing else can be set";
        check.error(
            &format!("{field}.attempts"),
            "invalid-retries",
            text,
            "set attempts, or remove the others",
        );
    }
    if policy.attempts.unwrap_or(0) == 0 && policy.backoff.is_some() {
        let text = "has no effect with 0 attempts, which are no retries";
        check.warning(&format!("{field}.backoff"), "no-effect", text, "set attempts, or remove it");
    }
    check.duration(&format!("{field}.perTryTimeout"), policy.per_try_timeout);
    check.duration(&format!("{field}.backoff"), policy.backoff);
    let conditions = policy.retry_on.as_deref().unwrap_or_default();
    if !conditions.is_empty() && conditions.split(',').any(|c| c.is_empty() || c.trim() != c) {
        let text = "has a blank or a comma too many, for which Istio refuses it";
        check.warning(&format!("{field}.retryOn"), "invalid-retries", text, "join the names by commas alone");
    }
    for status in conditions.split(',').filter_map(|c| c.trim().parse::<u16>().ok()) {
        if (100..=599).contains(&status) && !STATUSES.iter().any(|known| known.contains(&status)) {
            let text = format!("{status} is not a status that has a name, and no other can be retried");
            let advice = "use one such as 503, or a name such as 5xx";
            check.error(&format!("{field}.retryOn"), "invalid-retries", text, advice);
        }
    }
    for unknown in unknown_conditions(conditions) {
        let text = format!("{unknown:?} is neither a retry condition nor a status");
        let advice = "use names such as connect-failure, or statuses, joined by commas";
        check.error(&format!("{field}.retryOn"), "invalid-retries", text, advice);
    }
}

fn cors(check: &mut Check<'_>, field: &str, policy: &CorsPolicy) {
    if !policy.allow_origin.is_empty() && !policy.allow_origins.is_empty() {
        let text = "has no effect beside allowOrigins";
        check.warning(&format!("{field}.allowOrigin"), "no-effect", text, "keep allowOrigins");
    }
    for (i, origin) in policy.allow_origins.iter().enumerate() {
        let field = format!("{field}.allowOrigins[{i}]");
        match origin {
            StringMatch::Present => {
                let text = "says not which origins are meant";
                check.error(&field, "invalid-cors", text, "set exact, prefix or regex");
            }
            StringMatch::Exact(text) if text.is_empty() => {
                let field = format!("{field}.exact");
                check.error(&field, "invalid-cors", "an origin must not be empty", "write one, or remove it");
            }
            origin => check.string_match(&field, origin),
        }
    }
    for (i, method) in policy.allow_methods.iter().enumerate() {
        if !METHODS.contains(&method.as_str()) {
            let text = format!("{method:?} is not a method");
            check.error(
                &format!("{field}.allowMethods[{i}]"),
                "invalid-cors",
                text,
                "use a name such as GET",
            );
        }
    }
    for (name, list) in [("allowHeaders", &policy.allow_headers), ("exposeHeaders", &policy.expose_headers)] {
        for (i, header) in list.iter().enumerate() {
            if !is_token(header) {
                let text = format!("{header:?} is not a header name");
                check.error(&format!("{field}.{name}[{i}]"), "invalid-cors", text, "name a header, or *");
            }
        }
    }
    if let Some(age) = policy.max_age {
        let field = format!("{field}.maxAge");
        if age < Duration::from_millis(1) || age.subsec_nanos() != 0 {
            let text = "only durations to seconds precision are supported";
            check.error(&field, "invalid-duration", text, "round it to whole seconds");
        }
    }
}
