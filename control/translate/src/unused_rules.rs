//! DestinationRules, and parts of them, that say nothing of any request.

use crate::hosts::resolve;
use crate::report::{Report, list};
use crate::rule_index::export_to;
use crate::service_registry::Service;
use crate::tls_host;
use crate::world::{Item, World, selects};
use std::collections::BTreeSet;
use tidegate_api::istio::DestinationRule;
use tidegate_model::{ObjectRef, Severity};

/// Reports them.
pub(crate) fn report(world: &World<'_>, report: &mut Report) {
    let rules = world.objects.destination_rules();
    if rules.is_empty() {
        return;
    }
    for merged in world.rules.merged() {
        dropped(&merged.rules, report);
    }
    let services = world.registry.services();
    let reached: BTreeSet<&ObjectRef> = services
        .flat_map(|s| world.rules.lookup(&s.host, &s.namespace))
        .map(|(object, _)| &object.reference)
        .collect();
    for item in rules {
        let host = resolve(&item.1.host, &item.0.reference.namespace, &world.env.domain);
        let services = world.registry.within(&host);
        if services.is_empty() {
            continue;
        }
        if !reached.contains(&item.0.reference) {
            unreached(world, item, &services, report);
        }
        ports(item, &host, &services, report);
    }
}

/// Says what later rules of a host lose to earlier ones.
fn dropped(rules: &[Item<'_, DestinationRule>], report: &mut Report) {
    for (i, (object, rule)) in rules.iter().enumerate() {
        // one that is merged into another that is for some clients counts as a whole for all others
        let earlier = || {
            rules[..i]
                .iter()
                .filter(|(_, e)| e.workload_selector.is_some() == rule.workload_selector.is_some())
        };
        let first = earlier().find(|(_, earlier)| earlier.traffic_policy.is_some());
        if let (Some((first, _)), Some(_)) = (first, &rule.traffic_policy) {
            let text =
                format!("has no effect: {} is for the same host, comes first, and has one", first.reference);
            let advice = "write the policy of a host in one DestinationRule";
            report.warning(object, "spec.trafficPolicy", "conflicting-policy", text, advice);
        }
        for (s, subset) in rule.subsets.iter().enumerate() {
            let has = |rule: &DestinationRule| rule.subsets.iter().any(|other| other.name == subset.name);
            if let Some((first, _)) = earlier().find(|(_, earlier)| has(earlier)) {
                let text = format!(
                    "has no effect: {} is for the same host, comes first, and has the subset {:?}",
                    first.reference, subset.name
                );
                report.warning(
                    object,
                    &format!("spec.subsets[{s}]"),
                    "duplicate",
                    text,
                    "remove one, or rename it",
                );
            }
        }
    }
}

/// Says why no service has a rule, as this gateway sees it.
fn unreached(
    world: &World<'_>,
    (object, rule): Item<'_, DestinationRule>,
    services: &[&Service<'_>],
    report: &mut Report,
) {
    let (own, client, root) =
        (&*object.reference.namespace, &*world.env.namespace, &*world.env.root_namespace);
    let export_to = export_to(rule);
    let named = |namespace: &str| export_to.contains(namespace);
    let exported = match export_to.is_empty() {
        true => own == client || !world.mesh.rule_export_to().iter().any(|d| d == "."),
        false => named("*") || named(client) || (own == client && named(".")),
    };
    let selector = rule.workload_selector.as_ref();
    let (field, code, text) = if selector.is_some() && own != client {
        let text = format!("is for clients of its own namespace, and this gateway is in {client}");
        ("spec.workloadSelector", "not-selected", text)
    } else if selector.is_some_and(|s| !selects(&s.match_labels, &world.env.labels)) {
        ("spec.workloadSelector", "not-selected", "does not select this gateway".to_owned())
    } else if !exported {
        let text = format!("is not exported to {client}, the namespace of this gateway");
        ("spec.exportTo", "not-exported", text)
    } else if own != client && own != root && services.iter().all(|s| *s.namespace != *own) {
        let namespaces: BTreeSet<&str> =
            services.iter().map(|s| &*s.namespace).chain([client, root]).collect();
        let text = format!("has no effect here: rules for this host count in {}", list(namespaces));
        ("", "unreachable-rule", text)
    } else {
        let first = services.iter().flat_map(|s| world.rules.lookup(&s.host, &s.namespace)).next();
        let text = match first {
            Some((by, _)) => {
                format!("has no effect here: {} comes first for every service of the host", by.reference)
            }
            None => "has no effect here: a rule for the host alone hides it, which is not for this gateway"
                .to_owned(),
        };
        ("spec.host", "unreachable-rule", text)
    };
    // one that sets up TLS was surely meant for all who send there
    let severity = if tls_host(object).is_some() { Severity::Warning } else { Severity::Note };
    let advice = "leave it for other clients, or change it if it should count for this gateway";
    report.add(object.diagnostic(severity, field, text, advice, code));
}

/// Says which settings are for ports that no service of the host has.
fn ports(
    (object, rule): Item<'_, DestinationRule>,
    host: &str,
    services: &[&Service<'_>],
    report: &mut Report,
) {
    // the ports of an external name are those that are asked for
    if services.iter().any(|s| s.alias.is_some()) {
        return;
    }
    let of_rule = rule.traffic_policy.iter().map(|p| ("spec.trafficPolicy".to_owned(), p));
    let of_subsets =
        rule.subsets.iter().enumerate().filter_map(|(i, s)| {
            Some((format!("spec.subsets[{i}].trafficPolicy"), s.traffic_policy.as_ref()?))
        });
    for (field, policy) in of_rule.chain(of_subsets) {
        for (i, port) in policy.port_level_settings.iter().enumerate() {
            let Some(number) = port.port.as_ref().and_then(|p| p.number) else { continue };
            if services.iter().flat_map(|s| &s.ports).any(|p| u32::from(p.number) == number) {
                continue;
            }
            let known: BTreeSet<u16> = services.iter().flat_map(|s| &s.ports).map(|p| p.number).collect();
            let known = list(known.iter().map(ToString::to_string));
            let text = format!("has no effect: {host} has no port {number}");
            let advice = format!("use one of {known}: they are ports of the service, not of its endpoints");
            let field = format!("{field}.portLevelSettings[{i}].port.number");
            report.warning(object, &field, "unknown-port", text, advice);
        }
    }
}
