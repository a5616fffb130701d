//! Endpoints that get no requests, or others than one may think.

use crate::endpoints::is_healthy;
use crate::hosts::resolve;
use crate::locality;
use crate::report::Report;
use crate::service_registry::Service;
use crate::world::{Item, World};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidegate_api::istio::DestinationRule;
use tidegate_api::kubernetes::AddressType;

/// Reports them.
pub(crate) fn report(world: &World<'_>, report: &mut Report) {
    for (object, slice) in world.objects.endpoint_slices() {
        if slice.address_type == AddressType::Fqdn {
            let text =
                "is not enforced, in Istio neither: endpoints with names of addressType FQDN get no requests";
            let advice = "write a ServiceEntry with resolution DNS";
            report.warning(object, "addressType", "not-enforced", text, advice);
        }
    }
    for (object, _) in world.objects.workload_entries() {
        if !is_healthy(object) {
            let text = "gets no requests: its health is checked, and its status does not say Healthy";
            report.note(object, "status.conditions", "unhealthy", text, "");
        }
    }
    for item in world.objects.destination_rules() {
        without_region(world, item, report);
    }
}

/// Endpoints that a rule would have judged by where they run, and of which only the zone is known.
fn without_region(world: &World<'_>, (object, rule): Item<'_, DestinationRule>, report: &mut Report) {
    let settings = locality::settings(rule);
    let mut settings = settings.iter().filter(|(_, s)| s.enabled != Some(false)).peekable();
    if settings.peek().is_none() {
        return;
    }
    let host = resolve(&rule.host, &object.reference.namespace, &world.env.domain);
    for service in world.registry.within(&host) {
        let Some(zone) = zone_alone(world, service) else { continue };
        let text = format!(
            "endpoints of {} are in zone {zone:?} of a region that is not known, so they are in no locality that this names",
            service.host
        );
        let advice = "add the Node objects of the cluster, whose labels name the region";
        settings
            .by_ref()
            .for_each(|(field, _)| report.warning(object, field, "unknown-region", text.clone(), advice));
        return;
    }
}

/// The zone of an endpoint whose region is not known.
fn zone_alone(world: &World<'_>, service: &Service<'_>) -> Option<Arc<str>> {
    let all = BTreeMap::new();
    service.ports.iter().find_map(|port| {
        let endpoints = world.registry.endpoints_of(service, port, &all);
        let found =
            endpoints.into_iter().find(|e| e.locality.region.is_empty() && !e.locality.zone.is_empty());
        found.map(|e| e.locality.zone)
    })
}
