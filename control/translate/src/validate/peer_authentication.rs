use super::request_authentication::selection;
use super::rules::{Check, bracket};
use tidegate_api::istio::PeerAuthentication;

pub(super) fn validate(check: &mut Check<'_>, policy: &PeerAuthentication) {
    const FIELD: &str = "spec.portLevelMtls";
    selection(check, policy.selector.as_ref(), None, &[]);
    let selects = policy.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty());
    let written = check.object.field(FIELD).is_some_and(|value| !value.is_null());
    if written && policy.port_level_mtls.is_empty() {
        check.error(FIELD, "empty", "must have a port", "add one, or remove it");
    } else if written && !selects {
        let text = "can be set for selected workloads only";
        check.error(FIELD, "invalid-policy", text, "add a selector, or remove it");
    }
    for port in policy.port_level_mtls.keys() {
        if !port.parse::<u16>().is_ok_and(|number| number > 0) {
            let text = format!("{port:?} is not a port");
            check.error(&format!("{FIELD}{}", bracket(port)), "invalid-port", text, "use 1 to 65535");
        }
    }
}
