use super::rules::Check;
use super::traffic;
use crate::hosts::is_subset;
use ipnet::IpNet;
use std::net::IpAddr;
use tidegate_api::istio::{TcpRoute, TlsRoute, VirtualService};

pub(super) fn tls(check: &mut Check<'_>, field: &str, route: &TlsRoute, vs: &VirtualService) {
    if route.matches.is_empty() {
        let text = "a TLS route must have a match";
        check.error(&format!("{field}.match"), "missing-match", text, "add a match with sniHosts");
    }
    for (i, m) in route.matches.iter().enumerate() {
        let field = format!("{field}.match[{i}]");
        if m.sni_hosts.is_empty() {
            check.error(
                &format!("{field}.sniHosts"),
                "missing-field",
                "is missing",
                "name the hosts of the SNI",
            );
        }
        for (j, host) in m.sni_hosts.iter().enumerate() {
            sni(check, &format!("{field}.sniHosts[{j}]"), host, vs);
        }
        subnets(check, &field, &m.destination_subnets, m.port);
        check.labels(&format!("{field}.sourceLabels"), &m.source_labels);
    }
    required(check, field, route.route.is_empty());
    traffic::l4_destinations(check, field, &route.route);
}

fn sni(check: &mut Check<'_>, field: &str, host: &str, vs: &VirtualService) {
    if host.parse::<IpAddr>().is_ok() {
        let text = format!("{host} is an IP address, which no SNI carries");
        check.warning(field, "invalid-sni", text, "use a host name");
        return;
    }
    check.wildcard_name(field, host);
    let lower = host.to_ascii_lowercase();
    if !vs.hosts.iter().any(|h| is_subset(&lower, &h.to_ascii_lowercase())) {
        let text = format!("{host:?} is not among the hosts of this VirtualService");
        check.error(field, "invalid-sni", text, "add it to spec.hosts");
    }
}

pub(super) fn tcp(check: &mut Check<'_>, field: &str, route: &TcpRoute) {
    for (i, m) in route.matches.iter().enumerate() {
        let field = format!("{field}.match[{i}]");
        subnets(check, &field, &m.destination_subnets, m.port);
        check.labels(&format!("{field}.sourceLabels"), &m.source_labels);
    }
    required(check, field, route.route.is_empty());
    traffic::l4_destinations(check, field, &route.route);
}

fn required(check: &mut Check<'_>, field: &str, missing: bool) {
    if missing {
        check.error(&format!("{field}.route"), "missing-route", "has no destination", "add a route");
    }
}

fn subnets(check: &mut Check<'_>, field: &str, subnets: &[String], port: Option<u32>) {
    for (i, subnet) in subnets.iter().enumerate() {
        if subnet.parse::<IpNet>().is_err() && subnet.parse::<IpAddr>().is_err() {
            let text = format!("{subnet:?} is not a subnet");
            check.error(
                &format!("{field}.destinationSubnets[{i}]"),
                "invalid-address",
                text,
                "write 10.0.0.0/8",
            );
        }
    }
    if let Some(port) = port {
        check.port(&format!("{field}.port"), port);
    }
}
