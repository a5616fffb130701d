//! References to what does not exist, and objects that serve nothing.

use crate::export::reach;
use crate::host_index::HostIndex;
use crate::hosts::{ServerHost, resolve};
use crate::matches::{asks_for_claims, gateway_name};
use crate::report::Report;
use crate::servers::full_name;
use crate::unserved::selects_gateway;
use crate::upstream_tls;
use crate::world::{Item, World, selects};
use crate::{locality, unused_endpoints, unused_rules};
use std::collections::{BTreeMap, BTreeSet};
use tidegate_api::Object;
use tidegate_api::istio::{DestinationRule, Gateway, VirtualService};

/// Reports them.
pub(crate) fn report(world: &World<'_>, report: &mut Report) {
    let gateways: Gateways =
        world.gateways.iter().map(|item| (full_name(item.0).to_string(), server_hosts(*item))).collect();
    world.mesh.others(world.objects, world.env, report);
    let delegates = delegates(world);
    for (item, hosts) in world.virtual_services.iter().zip(&world.hosts) {
        if item.1.hosts.is_empty() {
            unused_delegate(*item, &delegates, report);
        } else {
            virtual_service(world, *item, hosts, &gateways, report);
        }
        claims(world, *item, report);
    }
    for (object, gateway) in &world.gateways {
        if !selects(&gateway.selector, &world.env.labels) {
            let text = "does not select this gateway";
            let advice = "run the gateway with the labels of the selector (--label) if it should";
            report.note(object, "spec.selector", "not-selected", text, advice);
        }
    }
    hosts_of_others(world, report);
    for item in world.objects.destination_rules() {
        destination_rule(world, item, report);
    }
    unused_rules::report(world, report);
    unused_endpoints::report(world, report);
    world.distribution.report(world, report);
}

/// The hosts of the servers of each Gateway.
type Gateways = BTreeMap<String, HostIndex<ServerHost>>;

fn server_hosts((object, gateway): Item<'_, Gateway>) -> HostIndex<ServerHost> {
    let mut index = HostIndex::default();
    for written in gateway.servers.iter().flat_map(|s| &s.hosts) {
        let host = ServerHost::parse(written, &object.reference.namespace);
        index.insert(&host.host.clone(), host);
    }
    index
}

fn delegates(world: &World<'_>) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for (object, vs) in &world.virtual_services {
        for delegate in vs.http.iter().filter_map(|r| r.delegate.as_ref()) {
            let namespace = delegate.namespace.as_deref().filter(|n| !n.is_empty());
            let namespace = namespace.unwrap_or(&object.reference.namespace).to_owned();
            found.insert((namespace, delegate.name.clone().unwrap_or_default()));
        }
    }
    found
}

fn unused_delegate(
    (object, _): Item<'_, VirtualService>,
    delegates: &BTreeSet<(String, String)>,
    report: &mut Report,
) {
    let r = &object.reference;
    if !delegates.contains(&(r.namespace.to_string(), r.name.to_string())) {
        let text = "has no hosts and no other VirtualService delegates to it, so it serves nothing";
        report.warning(object, "", "unused-delegate", text, "add hosts, or delegate to it");
    }
}

fn virtual_service(
    world: &World<'_>,
    (object, vs): Item<'_, VirtualService>,
    hosts: &[String],
    gateways: &Gateways,
    report: &mut Report,
) {
    let own = &*object.reference.namespace;
    let mut bound = Vec::new();
    for (i, written) in vs.gateways.iter().enumerate().filter(|(_, g)| *g != "mesh") {
        let name = gateway_name(written, own);
        match gateways.get(&name) {
            Some(gateway) => bound.push(gateway),
            None => {
                let text = format!("there is no Gateway {name}, so nothing is served through it");
                let advice = match gateways.keys().find(|k| k.rsplit('/').next() == name.rsplit('/').next()) {
                    Some(other) => format!("did you mean {other}?"),
                    None => "create it, or correct the name".to_owned(),
                };
                report.warning(object, &format!("spec.gateways[{i}]"), "unknown-gateway", text, advice);
            }
        }
    }
    if vs.gateways.iter().all(|g| g == "mesh") {
        let field = if vs.gateways.is_empty() { "" } else { "spec.gateways" };
        let text = "is bound to mesh only; no gateway serves it";
        let advice = "add a Gateway to spec.gateways to serve it here; see it with explain --gateway mesh";
        report.note(object, field, "mesh-only", text, advice);
        return;
    }
    if bound.is_empty() {
        return;
    }
    let visible =
        reach(&vs.export_to, world.mesh.virtual_service_export_to(), own, &world.env.namespace).is_some();
    if !visible {
        let text = format!("is not exported to {}, the namespace of this gateway", world.env.namespace);
        let advice = format!("add {:?} or \"*\" to exportTo", &*world.env.namespace);
        report.warning(object, "spec.exportTo", "not-exported", text, advice);
    }
    for (i, host) in hosts.iter().enumerate() {
        let served = bound.iter().any(|servers| servers.overlapping(host).any(|s| s.admits(own)));
        if !served && !vs.gateways.iter().any(|g| g == "mesh") {
            let text = format!("no server of its Gateways has the host {host:?}, so it is not served");
            let advice = "add the host to a server of the Gateway, for this namespace";
            report.warning(object, &format!("spec.hosts[{i}]"), "host-not-in-gateway", text, advice);
        }
    }
}

/// Claims that no request has, since no tokens are read here.
fn claims(world: &World<'_>, (object, vs): Item<'_, VirtualService>, report: &mut Report) {
    let policies = world.objects.request_authentications();
    if policies.iter().any(|(o, policy)| !policy.jwt_rules.is_empty() && selects_gateway(world.env, o)) {
        return;
    }
    for (r, route) in vs.http.iter().enumerate() {
        for (m, block) in route.matches.iter().enumerate() {
            if asks_for_claims(block) {
                let text = "asks for claims of tokens, and no RequestAuthentication that selects this gateway reads any";
                let advice = "add one with jwtRules for the issuer of the tokens";
                report.warning(
                    object,
                    &format!("spec.http[{r}].match[{m}]"),
                    "no-authentication",
                    text,
                    advice,
                );
            }
        }
    }
}

/// What ServiceEntries say of hosts that are another's.
fn hosts_of_others(world: &World<'_>, report: &mut Report) {
    for denied in &world.registry.denied {
        let (host, owner) = (&denied.host, &denied.owner.reference);
        let (text, advice) = if denied.field.starts_with("spec.hosts") {
            (
                format!("has no effect: {host} is a host of {owner}, and a host is of one namespace"),
                "remove it, or have one namespace declare the host",
            )
        } else {
            (format!("has no effect: {host} is {owner}, which has the ports that it has"), "add it there")
        };
        report.warning(denied.entry, &denied.field, "conflicting-host", text, advice);
    }
}

fn destination_rule(world: &World<'_>, (object, rule): Item<'_, DestinationRule>, report: &mut Report) {
    let host = resolve(&rule.host, &object.reference.namespace, &world.env.domain);
    if !world.registry.has_within(&host) {
        let text = format!("there is no service {host}, so this rule has no effect");
        report.warning(object, "spec.host", "unknown-host", text, "create the service, or correct the host");
    }
    subsets(world, object, rule, &host, report);
    upstream_tls::report(world, (object, rule), report);
}

/// Labels that endpoints have in Istio, which knows of several clusters and networks.
const UNKNOWN_LABELS: [&str; 2] = ["topology.istio.io/cluster", locality::NETWORK];

/// Istio's IST0173: a subset without endpoints, of a service that has some.
fn subsets(world: &World<'_>, object: &Object, rule: &DestinationRule, host: &str, report: &mut Report) {
    let Some(service) = world.registry.get(host) else { return };
    let selected = |labels: &BTreeMap<String, String>| {
        service.ports.iter().any(|p| !world.registry.endpoints_of(service, p, labels).is_empty())
    };
    if rule.subsets.is_empty() || !selected(&BTreeMap::new()) {
        return;
    }
    for (i, subset) in rule.subsets.iter().enumerate().filter(|(_, s)| !selected(&s.labels)) {
        let unknown = UNKNOWN_LABELS.into_iter().find(|label| subset.labels.contains_key(*label));
        let why = unknown.map_or(String::new(), |label| format!(" ({label} is not known here)"));
        let text = format!(
            "no endpoint of {host} has these labels{why}; requests to this subset are answered with 503"
        );
        let advice = "correct the labels, or start workloads that have them";
        report.warning(object, &format!("spec.subsets[{i}].labels"), "empty-subset", text, advice);
    }
}
