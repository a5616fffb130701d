//! Endpoints that get no requests, or others than one may think.

use crate::endpoints::is_healthy;
use crate::hosts::resolve;
use crate::locality;
use crate::report::Report;
use crate::service_registry::Service;
use crate::world::{Item, World};
use std::collections::BTreeMap;
use tidegate_api::Object;
use tidegate_api::istio::{DestinationRule, LocalityLoadBalancerSetting};
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
        of_rule(world, item, report);
    }
    let says = |s: &&LocalityLoadBalancerSetting| {
        let empty = s.distribute.is_empty() && s.failover.is_empty() && s.failover_priority.is_empty();
        s.enabled != Some(false) && !empty
    };
    if let (Some(object), Some(_)) = (world.mesh.object(), world.mesh.locality_lb_setting().filter(says)) {
        let text = world.registry.services().find_map(|service| without_region(world, service));
        text.into_iter().for_each(|text| unknown_region(object, "data.mesh.localityLbSetting", text, report));
    }
}

/// Endpoints that a rule would have judged by where they run.
fn of_rule(world: &World<'_>, (object, rule): Item<'_, DestinationRule>, report: &mut Report) {
    let settings = locality::settings(rule);
    let counting: Vec<_> = settings.iter().filter(|(_, s)| s.enabled != Some(false)).collect();
    if counting.is_empty() {
        return;
    }
    let host = resolve(&rule.host, &object.reference.namespace, &world.env.domain);
    let services = world.registry.within(&host);
    let Some(text) = services.into_iter().find_map(|service| without_region(world, service)) else { return };
    for (field, _) in counting {
        unknown_region(object, field, text.clone(), report);
    }
}

/// Says of what localities count for that they do not for these endpoints.
pub(crate) fn unknown_region(object: &Object, field: &str, text: String, report: &mut Report) {
    let advice = "add the Node objects of the cluster, whose labels name the region";
    report.warning(object, field, "unknown-region", text, advice);
}

/// Says that of endpoints of a service only the zone is known, where that is so.
pub(crate) fn without_region(world: &World<'_>, service: &Service<'_>) -> Option<String> {
    let all = BTreeMap::new();
    let zone = service.ports.iter().find_map(|port| {
        let endpoints = world.registry.endpoints_of(service, port, &all);
        let found =
            endpoints.into_iter().find(|e| e.locality.region.is_empty() && !e.locality.zone.is_empty());
        found.map(|e| e.locality.zone)
    })?;
    Some(format!(
        "endpoints of {} are in zone {zone:?} of a region that is not known, so they are in no locality that is named",
        service.host
    ))
}
