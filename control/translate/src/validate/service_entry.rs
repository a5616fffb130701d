use super::rules::{Check, bracket, is_label};
use crate::protocol::Protocol;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use tidegate_api::istio::{Resolution, ServiceEntry, WorkloadEntry};

pub(super) fn validate(check: &mut Check<'_>, entry: &ServiceEntry) {
    let resolution = entry.resolution.unwrap_or(Resolution::None);
    hosts(check, entry);
    addresses(check, entry, resolution);
    ports(check, entry);
    endpoints(check, entry, resolution);
    several_hosts(check, entry, resolution);
    if let Some(selector) = &entry.workload_selector {
        check.labels("spec.workloadSelector.labels", &selector.labels);
    }
    check.export_to(&entry.export_to);
}

fn hosts(check: &mut Check<'_>, entry: &ServiceEntry) {
    if entry.hosts.is_empty() {
        check.error("spec.hosts", "missing-field", "has no hosts", "add at least one");
    }
    for (i, host) in entry.hosts.iter().enumerate() {
        let field = format!("spec.hosts[{i}]");
        if host == "*" {
            check.error(&field, "invalid-host", "* is not a service", "write the hosts");
        } else {
            check.wildcard_name(&field, host);
        }
    }
}

fn addresses(check: &mut Check<'_>, entry: &ServiceEntry, resolution: Resolution) {
    for (i, address) in entry.addresses.iter().enumerate() {
        let field = format!("spec.addresses[{i}]");
        let network = address.parse::<IpNet>().is_ok();
        if !network && address.parse::<IpAddr>().is_err() {
            let text = format!("{address:?} is not an address");
            check.error(&field, "invalid-address", text, "write an IP address or a CIDR");
        } else if network && !matches!(resolution, Resolution::None | Resolution::Static) {
            let text = "a CIDR needs resolution NONE or STATIC";
            check.error(&field, "invalid-address", text, "write an IP address, or change the resolution");
        }
    }
}

fn ports(check: &mut Check<'_>, entry: &ServiceEntry) {
    if entry.ports.is_empty() {
        let text = "has no ports: nothing can be sent to it";
        check.warning("spec.ports", "missing-field", text, "add the ports of the service");
    }
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (i, port) in entry.ports.iter().enumerate() {
        let field = format!("spec.ports[{i}]");
        check.port(&format!("{field}.number"), port.number);
        if port.name.is_empty() {
            check.error(&format!("{field}.name"), "missing-field", "is empty", "name the port");
        } else if !is_label(&port.name) {
            let text = format!("{:?} is not the name of a port", port.name);
            check.error(&format!("{field}.name"), "invalid-name", text, "use letters, digits and '-'");
        } else if !names.insert(&port.name) {
            let text = format!("{:?} is there twice", port.name);
            check.error(&format!("{field}.name"), "duplicate", text, "give each port its own name");
        }
        if !numbers.insert(port.number) {
            let text = format!("{} is there twice", port.number);
            check.error(&format!("{field}.number"), "duplicate", text, "remove one");
        }
        if let Some(target) = port.target_port {
            check.port(&format!("{field}.targetPort"), target);
        }
        let protocol = port.protocol.as_deref().filter(|p| !p.is_empty());
        if let Some(protocol) = protocol.filter(|p| Protocol::parse(p).is_none()) {
            let text = format!("{protocol:?} is an invalid protocol");
            check.error(
                &format!("{field}.protocol"),
                "invalid-protocol",
                text,
                "use HTTP, HTTPS, HTTP2, GRPC or TCP",
            );
        }
    }
}

/// Plain TCP does not say which of several hosts is meant.
fn several_hosts(check: &mut Check<'_>, entry: &ServiceEntry, resolution: Resolution) {
    if entry.hosts.len() < 2 || matches!(resolution, Resolution::None | Resolution::DynamicDns) {
        return;
    }
    for (i, port) in entry.ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().and_then(Protocol::parse);
        if !protocol.is_some_and(|p| p.is_http() || matches!(p, Protocol::Https | Protocol::Tls)) {
            let text = "must be HTTP or TLS, since nothing else says which of several hosts is meant";
            let advice = "set it, or write a ServiceEntry for each host";
            check.error(&format!("spec.ports[{i}].protocol"), "invalid-protocol", text, advice);
        }
    }
}

fn endpoints(check: &mut Check<'_>, entry: &ServiceEntry, resolution: Resolution) {
    let none = entry.endpoints.is_empty();
    if !none && entry.workload_selector.is_some() {
        check.error("spec.endpoints", "one-of", "cannot be used with workloadSelector", "keep one of them");
    }
    match resolution {
        Resolution::None | Resolution::DynamicDns if !none => {
            let text = format!("resolution {} cannot have endpoints", resolution.as_str());
            check.error("spec.endpoints", "invalid-endpoint", text, "use STATIC or DNS");
        }
        Resolution::Static if none && entry.workload_selector.is_none() => {
            let text = "has resolution STATIC and nowhere to send to: requests are answered with 503";
            check.warning("spec.endpoints", "no-endpoints", text, "add endpoints or a workloadSelector");
        }
        Resolution::Dns | Resolution::DnsRoundRobin if none && entry.workload_selector.is_none() => {
            for (i, host) in entry.hosts.iter().enumerate().filter(|(_, h)| h.contains('*')) {
                let text = format!("{host:?} cannot be resolved by DNS");
                check.error(
                    &format!("spec.hosts[{i}]"),
                    "invalid-host",
                    text,
                    "add endpoints, or write the host",
                );
            }
        }
        Resolution::DnsRoundRobin if entry.endpoints.len() > 1 => {
            let text = "DNS_ROUND_ROBIN can have one endpoint only";
            check.error("spec.endpoints", "invalid-endpoint", text, "use DNS, or keep one");
        }
        _ => {}
    }
    for (i, endpoint) in entry.endpoints.iter().enumerate() {
        let field = format!("spec.endpoints[{i}]");
        workload(check, &field, endpoint, resolution != Resolution::Static);
        let address = endpoint.address.as_deref().unwrap_or_default();
        if address.starts_with("unix://") && resolution != Resolution::Static {
            let text = format!("{address:?} is no host name, as resolution {} wants", resolution.as_str());
            check.error(&format!("{field}.address"), "invalid-address", text, "use resolution STATIC");
        }
        for name in endpoint.ports.keys().filter(|n| !entry.ports.iter().any(|p| p.name == **n)) {
            let text = format!("{name:?} is not a port of this ServiceEntry");
            check.error(
                &format!("{field}.ports{}", bracket(name)),
                "unknown-port",
                text,
                "use a name of spec.ports",
            );
        }
    }
}

/// A workload; `names` says whether its address may be a DNS name.
pub(super) fn workload(check: &mut Check<'_>, field: &str, entry: &WorkloadEntry, names: bool) {
    let at = format!("{field}.address");
    match entry.address.as_deref().filter(|a| !a.is_empty()) {
        None if entry.network.is_some() => {
            let text =
                "has no address, so it cannot be dialled: endpoints of other networks need a gateway there";
            check.warning(&at, "not-enforced", text, "write the address of the workload");
        }
        None => check.error(&at, "missing-field", "is missing", "write the address of the workload"),
        Some(address) if address.starts_with("unix://") => {
            let path = address.trim_start_matches("unix://");
            if !path.starts_with('@') && (!path.starts_with('/') || path.ends_with('/')) {
                let text = format!("{path:?} is not the absolute path of a socket");
                check.error(&at, "invalid-address", text, "write it like unix:///run/app.sock");
            }
            let text = "unix domain sockets are not dialled yet; this endpoint gets no requests";
            check.warning(&at, "not-enforced", text, "write an IP address");
            if !entry.ports.is_empty() {
                let text = "a unix domain socket has no ports";
                check.error(&format!("{field}.ports"), "invalid-port", text, "remove them");
            }
        }
        Some(address) if address.parse::<IpAddr>().is_ok() => {}
        Some(address) if names => check.name(&at, address),
        Some(address) => {
            let text = format!("{address:?} is not an IP address, as resolution STATIC wants");
            check.error(&at, "invalid-address", text, "write an IP address, or use resolution DNS");
        }
    }
    for (name, port) in &entry.ports {
        let field = format!("{field}.ports{}", bracket(name));
        if !is_label(name) {
            check.error(&field, "invalid-name", format!("{name:?} is not the name of a port"), "rename it");
        }
        check.port(&field, *port);
    }
    check.labels(&format!("{field}.labels"), &entry.labels);
}
