//! Small YAML in, checks of the model and the diagnostics out.

mod access_log;
mod admission;
mod authentication;
mod authorization;
mod clusters;
mod delegates;
mod diagnostics;
mod endpoints;
mod fields;
mod gateways;
mod l4;
mod mesh;
mod mirrors;
mod order;
mod owners;
mod policies;
mod retries;
mod routes;
mod rule_index;
mod tls;
mod tracing;
mod traffic_distribution;
mod unused_rules;
mod upstream_tls;

use crate::{Env, Translation, translate};
use std::sync::Arc;
use tidegate_api::Objects;
use tidegate_model::{Action, HostPattern, PathMatch, Route, RouteMatch, VirtualHost};

/// A gateway as it is by default.
fn env() -> Env {
    Env {
        namespace: "istio-system".into(),
        labels: [("istio".to_owned(), "ingressgateway".to_owned())].into(),
        ports: [].into(),
        domain: "cluster.local".into(),
        root_namespace: "istio-system".into(),
        allow_unenforced: false,
        broken_policies: Default::default(),
        broken_rules: Default::default(),
        strict_paths: false,
        default_retries: true,
        default_retry_budget: true,
        now: std::time::SystemTime::now(),
        files: crate::Files::new(),
    }
}

/// Objects, each `KIND NAMESPACE/NAME: {spec}` in flow style on a line, in the API group of its kind.
fn objects(lines: &str) -> Objects {
    let mut all = Objects::new();
    for object in read(lines) {
        all.insert(Arc::new(object));
    }
    all
}

fn read(lines: &str) -> Vec<tidegate_api::Object> {
    let mut text = String::new();
    for line in lines.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let (head, body) = line.split_once(": ").unwrap();
        let (kind, place) = head.split_once(' ').unwrap();
        let (namespace, rest) = place.split_once('/').unwrap();
        let mut words = rest.split(' ');
        let name = words.next().unwrap();
        let metadata: String = words.map(|w| format!(", {}", w.replace('=', ": "))).collect();
        let (version, field) = match kind {
            "Service" | "Pod" => ("v1", "spec"),
            "Secret" | "ConfigMap" => ("v1", "data"),
            "Deployment" => ("apps/v1", "spec"),
            "Endpoints" => ("v1", ""),
            "EndpointSlice" => ("discovery.k8s.io/v1", ""),
            "AuthorizationPolicy" | "PeerAuthentication" | "RequestAuthentication" => {
                ("security.istio.io/v1", "spec")
            }
            "Telemetry" => ("telemetry.istio.io/v1", "spec"),
            "EnvoyFilter" => ("networking.istio.io/v1alpha3", "spec"),
            _ => ("networking.istio.io/v1", "spec"),
        };
        text += &format!("---\napiVersion: {version}\nkind: {kind}\n");
        text += &format!("metadata: {{name: {name}, namespace: {namespace}{metadata}}}\n");
        match field {
            "" => {
                text +=
                    &format!("{}\n", body.trim_start_matches('{').trim_end_matches('}').replace(";;", "\n"))
            }
            field => text += &format!("{field}: {body}\n"),
        }
    }
    let reading = tidegate_api::read("test.yaml", &text);
    assert_eq!(reading.diagnostics, [], "{text}");
    reading.objects
}

const GATEWAY: &str = "Gateway default/gateway: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}";
const A: &str = "Service default/a: {selector: {app: a}, ports: [{name: http, port: 80}]}";
const B: &str = "Service default/b: {selector: {app: b}, ports: [{name: http, port: 80}]}";

/// Translates the usual gateway and services `a` and `b` with `lines`.
fn usual(lines: &str) -> Translation {
    translate(&objects(&format!("{GATEWAY}\n{A}\n{B}\n{lines}")), &env())
}

fn host<'t>(translation: &'t Translation, table: &str, domain: &str) -> Option<&'t VirtualHost> {
    let domain = HostPattern::parse(domain);
    let mut hosts = translation.model.virtual_hosts.values();
    hosts.find(|h| *h.key.table == *table && h.key.domain == domain).map(|h| &**h)
}

/// The domains of a table, in the order of the model.
fn domains(translation: &Translation, table: &str) -> Vec<String> {
    let hosts = translation.model.virtual_hosts.keys().filter(|k| *k.table == *table);
    hosts.map(|k| k.domain.to_string()).collect()
}

/// `path -> clusters` of each route.
fn shown(host: &VirtualHost) -> Vec<String> {
    host.routes.iter().map(|r| format!("{} -> {}", path(&r.matches), target(r))).collect()
}

fn path(m: &RouteMatch) -> String {
    match &m.path {
        PathMatch::Any => "*".into(),
        PathMatch::Exact(p) => format!("={p}"),
        PathMatch::Prefix(p) => p.to_string(),
        PathMatch::Regex(p) => format!("~{p}"),
    }
}

fn target(route: &Route) -> String {
    match &*route.action {
        Action::Forward(f) => {
            f.destinations.iter().map(|d| d.cluster.to_string()).collect::<Vec<_>>().join(" ")
        }
        Action::Redirect(r) => format!("redirect {}", r.status),
        Action::DirectResponse(d) => format!("answer {} {}", d.status, d.details),
    }
}

/// `severity field code` of each diagnostic with that severity or a worse one than a note.
fn said(translation: &Translation) -> Vec<String> {
    translation.diagnostics.iter().map(|d| format!("{} {} {}", d.severity, d.field, d.code)).collect()
}
