//! What pages of other origins may do, as header operations (Istio 2.14).

use crate::matches::string_match;
use std::sync::Arc;
use tidegate_api::istio::{CorsPolicy, UnmatchedPreflights};
use tidegate_model::{Cors, FormatString, HeaderName, HeaderOp, StringMatch};

/// The policy of a rule.
pub(crate) fn cors(policy: &CorsPolicy) -> Arc<Cors> {
    let exact = policy.allow_origin.iter().map(|o| StringMatch::Exact(o.as_str().into()));
    // the older field counts only where the newer one is not used
    let allow_origins = match policy.allow_origins.as_slice() {
        [] => exact.collect(),
        origins => origins.iter().filter_map(string_match).collect(),
    };
    let age = policy.max_age.map(|age| age.as_secs().to_string()).unwrap_or_default();
    let details = [
        set("access-control-allow-methods", &policy.allow_methods.join(",")),
        set("access-control-allow-headers", &policy.allow_headers.join(",")),
        set("access-control-max-age", &age),
    ];
    let details: Vec<HeaderOp> = details.into_iter().flatten().collect();
    let credentials = policy.allow_credentials.filter(|allowed| *allowed).map(|_| "true").unwrap_or_default();
    let granted: Vec<HeaderOp> =
        [origin(), set("access-control-allow-credentials", credentials)].into_iter().flatten().collect();
    let exposed = set("access-control-expose-headers", &policy.expose_headers.join(","));
    let ignored = policy.unmatched_preflights == Some(UnmatchedPreflights::Ignore);
    Arc::new(Cors {
        allow_origins,
        preflight_headers: granted.iter().chain(&details).chain(&exposed).cloned().collect(),
        unmatched_headers: ignored.then_some(details),
        response_headers: granted.into_iter().chain(exposed).collect(),
    })
}

fn origin() -> Option<HeaderOp> {
    let origin = FormatString::parse("%REQ(ORIGIN)%").ok()?;
    Some(HeaderOp::Set(HeaderName::new("access-control-allow-origin"), origin))
}

/// Sets a header, unless there is nothing to say.
fn set(name: &str, value: &str) -> Option<HeaderOp> {
    (!value.is_empty()).then(|| HeaderOp::Set(HeaderName::new(name), FormatString::of_text(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preflight_is_told_what_is_exposed_as_in_envoy() {
        let policy = CorsPolicy {
            expose_headers: vec!["x-a".into(), "x-b".into()],
            allow_methods: vec!["GET".into()],
            ..CorsPolicy::default()
        };
        let cors = cors(&policy);
        let names = |ops: &[HeaderOp]| ops.iter().map(|op| op.name().to_string()).collect::<Vec<_>>();
        let (origin, exposed) = ("access-control-allow-origin", "access-control-expose-headers");
        assert_eq!(names(&cors.preflight_headers), [origin, "access-control-allow-methods", exposed]);
        assert_eq!(names(&cors.response_headers), [origin, exposed]);
    }
}
