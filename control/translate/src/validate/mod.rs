//! What makes an object invalid, as Istio's validation webhook decides it.

mod authorization_policy;
mod destination_rule;
mod gateway;
mod http_route;
mod l4_route;
mod localities;
mod peer_authentication;
mod request_authentication;
mod rules;
mod service_entry;
mod telemetry;
#[cfg(test)]
mod tests;
mod traffic;
mod virtual_service;

pub(crate) use authorization_policy::{attribute, ip_block};
pub(crate) use rules::{is_framing, is_token};

use crate::report::Report;
use rules::Check;
use tidegate_api::{Object, Spec};
use tidegate_model::Diagnostic;

/// What is wrong with `object` by itself. With an error in it, the object is refused as a whole.
pub fn validate(object: &Object) -> Vec<Diagnostic> {
    let mut check = Check { object, report: Report::default() };
    match &object.spec {
        Spec::Gateway(gateway) => gateway::validate(&mut check, gateway),
        Spec::VirtualService(vs) => virtual_service::validate(&mut check, vs),
        Spec::DestinationRule(rule) => destination_rule::validate(&mut check, rule),
        Spec::ServiceEntry(entry) => service_entry::validate(&mut check, entry),
        Spec::WorkloadEntry(entry) => service_entry::workload(&mut check, "spec", entry, true),
        Spec::Telemetry(telemetry) => telemetry::validate(&mut check, telemetry),
        Spec::AuthorizationPolicy(policy) => authorization_policy::validate(&mut check, policy),
        Spec::PeerAuthentication(policy) => peer_authentication::validate(&mut check, policy),
        Spec::RequestAuthentication(policy) => request_authentication::validate(&mut check, policy),
        _ => {}
    }
    check.report.finish()
}
