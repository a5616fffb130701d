use super::rules::{Check, host_syntax, is_label};
use super::{http_route, l4_route};
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
    for (i, gateway) in vs.gateways.iter().enumerate() {
        gateway_name(check, &format!("spec.gateways[{i}]"), gateway);
    }
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
    for (i, host) in vs.hosts.iter().enumerate() {
        let field = format!("spec.hosts[{i}]");
        check.host(&field, host);
        if host == "*" && on_mesh {
            let text = "the host * is not allowed on the mesh gateway";
            check.error(&field, "invalid-host", text, "name a Gateway in spec.gateways, or write the hosts");
        }
        if vs.hosts[..i].iter().any(|h| h.eq_ignore_ascii_case(host)) {
            check.error(&field, "duplicate", format!("{host:?} is there twice"), "remove one");
        }
    }
}

/// `mesh`, `name`, `namespace/name`, or the legacy `name.namespace.svc...`.
pub(super) fn gateway_name(check: &mut Check<'_>, field: &str, name: &str) {
    let advice = "write name, or namespace/name";
    let valid = match name.split_once('/') {
        Some((namespace, name)) => is_label(namespace) && is_name(name),
        None => is_name(name),
    };
    if !valid {
        let text = format!("{name:?} is not the name of a Gateway; invalid value for namespace or name");
        check.error(field, "invalid-gateway", text, advice);
    } else if !name.contains('/') && name.contains('.') {
        check.warning(field, "legacy-gateway", "this form of a Gateway's name is deprecated", advice);
    }
}

/// The name of an object, which may have dots.
fn is_name(name: &str) -> bool {
    !name.contains('*') && name.parse::<IpAddr>().is_err() && host_syntax(name).is_ok()
}
