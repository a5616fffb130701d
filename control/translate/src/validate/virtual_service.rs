use super::rules::{Check, host_syntax, is_label};
use super::{http_route, l4_route};
use crate::hosts::is_subset;
use std::net::IpAddr;
use tidegate_api::istio::VirtualService;

/// What a VirtualService is, for the rules of its routes.
pub(super) struct Context {
    /// It has no hosts: others delegate to it.
    pub(super) is_delegate: bool,
    /// Sidecars serve it.
    pub(super) on_mesh: bool,
}

pub(super) fn validate(check: &mut Check<'_>, vs: &VirtualService) {
    let is_delegate = vs.hosts.is_empty();
    let on_mesh = !is_delegate && (vs.gateways.is_empty() || vs.gateways.iter().any(|g| g == "mesh"));
    let context = Context { is_delegate, on_mesh };
    if is_delegate {
        delegate(check, vs);
    }
    hosts(check, vs, on_mesh);
    gateway_names(check, "spec.gateways", &vs.gateways);
    if vs.http.is_empty() && vs.tls.is_empty() && vs.tcp.is_empty() {
        check.error("spec", "missing-route", "has no http, tls or tcp routes", "add at least one route");
    }
    for (i, route) in vs.http.iter().enumerate() {
        http_route::validate(check, &format!("spec.http[{i}]"), route, &context);
    }
    for (i, route) in vs.tls.iter().enumerate() {
        l4_route::tls(check, &format!("spec.tls[{i}]"), route, vs);
    }
    for (i, route) in vs.tcp.iter().enumerate() {
        l4_route::tcp(check, &format!("spec.tcp[{i}]"), route);
    }
    check.export_to(&vs.export_to);
}

fn delegate(check: &mut Check<'_>, vs: &VirtualService) {
    for (field, there) in
        [("gateways", !vs.gateways.is_empty()), ("tls", !vs.tls.is_empty()), ("tcp", !vs.tcp.is_empty())]
    {
        if there {
            let text = "a VirtualService without hosts, to which others delegate, cannot have it";
            check.error(&format!("spec.{field}"), "invalid-delegate", text, "add hosts, or remove it");
        }
    }
}

fn hosts(check: &mut Check<'_>, vs: &VirtualService, on_mesh: bool) {
    let lower: Vec<String> = vs.hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
    for (i, host) in vs.hosts.iter().enumerate() {
        let field = format!("spec.hosts[{i}]");
        check.host(&field, host);
        if host == "*" && on_mesh {
            let text = "the host * is not allowed on the mesh gateway";
            check.error(&field, "invalid-host", text, "name a Gateway in spec.gateways, or write the hosts");
        }
        let overlap = |other: &String| is_subset(&lower[i], other) || is_subset(other, &lower[i]);
        match lower[..i].iter().find(|other| overlap(other)) {
            Some(other) if *other == lower[i] => {
                check.error(&field, "duplicate", format!("{host:?} is there twice"), "remove one");
            }
            Some(other) => {
                let text = format!("{host:?} overlaps with {other:?}: both stand for some hosts");
                check.error(&field, "duplicate", text, "remove one, or split the VirtualService");
            }
            None => {}
        }
    }
}

/// `mesh`, `name`, `./name`, `namespace/name`, or the legacy `name.namespace.svc...`.
///
/// Istio's webhook looks no further than at the first one without a slash, so clusters may have anything after it.
pub(super) fn gateway_names(check: &mut Check<'_>, field: &str, names: &[String]) {
    let advice = "write name, or namespace/name";
    let seen = names.iter().position(|name| !name.contains('/')).unwrap_or(names.len());
    for (i, name) in names.iter().enumerate() {
        let field = format!("{field}[{i}]");
        let valid = match name.split_once('/') {
            Some((namespace, name)) => (namespace == "." || is_label(namespace)) && is_label(name),
            None => is_name(name),
        };
        if !valid {
            let text = format!("{name:?} is not the name of a Gateway; invalid value for namespace or name");
            match i <= seen {
                true => check.error(&field, "invalid-gateway", text, advice),
                false => check.warning(&field, "invalid-gateway", text, advice),
            }
        } else if !name.contains('/') && name.contains('.') {
            check.warning(&field, "legacy-gateway", "this form of a Gateway's name is deprecated", advice);
        }
    }
}

/// A DNS name without a wildcard.
fn is_name(name: &str) -> bool {
    !name.contains('*') && name.parse::<IpAddr>().is_err() && host_syntax(name).is_ok()
}
