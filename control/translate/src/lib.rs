//! Pure translation of [`Objects`] into the [`Model`], with diagnostics: no I/O, no clock.
//!
//! [`Admission`] decides which version of each object counts, [`translate`] makes the model of one gateway of them,
//! and [`translate_mesh`] the routes that a sidecar would have. Section numbers in comments are those of Istio's own
//! concepts: gateways, virtual services, destination rules.

mod access_log;
mod action;
mod admission;
mod authentication;
mod authorization;
mod clusters;
mod cors;
mod delegate;
mod destination_rule;
mod endpoints;
mod enforcement;
mod export;
mod external_authorizer;
mod fault;
mod gateway;
mod headers;
mod hold;
mod host_index;
mod hosts;
mod l4;
mod limits;
mod load_balancer;
mod locality;
mod log_filter;
mod matches;
mod mesh;
mod mesh_config;
mod outlier;
mod protocol;
mod references;
mod report;
mod retries;
mod rule_index;
mod secret;
mod servers;
mod service_registry;
mod telemetry;
mod tls;
mod tracing;
mod traffic_distribution;
mod unreachable;
mod unserved;
mod unused_endpoints;
mod unused_rules;
mod upstream_tls;
mod validate;
mod virtual_service;
mod world;

#[cfg(test)]
mod tests;

pub use admission::{Admission, Admitted};
pub use validate::validate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;
use tidegate_api::istio::TrafficPolicy;
use tidegate_api::{Object, Objects, Spec};
use tidegate_model::{ClusterName, Diagnostic, ListenerKey, Model, ObjectRef, Origin, TableName};

/// Who a gateway is to its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Env {
    /// The namespace of the gateway's pod: its certificates are here, and what is exported to it is what it sees.
    pub namespace: Arc<str>,
    /// The labels of the gateway's pod, which selectors are held against.
    pub labels: BTreeMap<String, String>,
    /// Local ports by the server ports of Gateways.
    pub ports: BTreeMap<u16, u16>,
    /// The cluster's DNS domain: `cluster.local`.
    pub domain: Arc<str>,
    /// The namespace of mesh-wide objects: `istio-system`.
    pub root_namespace: Arc<str>,
    /// Become ready, and deny nothing, although security objects that may select this gateway are refused.
    pub allow_unenforced: bool,
    /// Rules that say nothing about retries have Istio's default policy.
    pub default_retries: bool,
    /// Paths that some server may read otherwise than the gateway are refused.
    pub strict_paths: bool,
    /// Clusters for which nothing is said have a budget for retries, which in Istio they have not.
    pub default_retry_budget: bool,
    /// What time it is, for the validity of certificates.
    pub now: SystemTime,
    /// AuthorizationPolicies for this gateway that are refused and have no good version, each with where it is
    /// written: they deny everything.
    pub broken_policies: BTreeMap<ObjectRef, Origin>,
    /// DestinationRules that are refused and have no good version, by the host to which they set up TLS: nothing is sent
    /// there.
    pub broken_rules: BTreeMap<String, ObjectRef>,
    /// Contents of the files that [`files`] names, or why one cannot be read.
    pub files: Files,
}

/// Contents of files by their paths, or why one cannot be read.
pub type Files = BTreeMap<String, Result<Arc<[u8]>, String>>;

/// The files that Gateways and DestinationRules name instead of Secrets: certificates, keys, authorities and revocation
/// lists.
pub fn files(objects: &Objects) -> BTreeSet<String> {
    let gateways = objects.gateways();
    let settings = gateways.iter().flat_map(|(_, g)| &g.servers).filter_map(|s| s.tls.as_ref());
    let of_servers = settings.flat_map(secret::files).map(str::to_owned);
    let rules = objects.destination_rules();
    let of_upstreams = rules.iter().flat_map(|(_, rule)| upstream_tls::files(rule));
    of_servers.chain(of_upstreams).collect()
}

/// What a set of objects means.
#[derive(Clone, Debug, Default)]
pub struct Translation {
    /// What the data plane is told.
    pub model: Model,
    /// What there is to say about the objects, by file, line and column.
    pub diagnostics: Vec<Diagnostic>,
    /// The Gateways that select this gateway, as `namespace/name` (or `mesh`), with what they opened.
    pub bindings: BTreeMap<Arc<str>, Binding>,
    /// Why there is no cluster, for each that a route names and that the model does not have.
    pub absent: BTreeMap<ClusterName, String>,
}

/// What a Gateway opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// Its listeners.
    pub listeners: Vec<ListenerKey>,
    /// Its TLS servers and route tables by name, each with its server port.
    pub tables: Vec<(u16, TableName)>,
    /// Its listeners for plain TCP, each with its server port.
    pub tcp: Vec<(u16, ListenerKey)>,
}

/// The model of the gateway that `env` describes.
///
/// `objects` should have passed [`Admission`], which keeps invalid ones out.
pub fn translate(objects: &Objects, env: &Env) -> Translation {
    gateway::translate(objects, env)
}

/// The host to which a DestinationRule sets up TLS, or says that there is none.
pub fn tls_host(rule: &Object) -> Option<&str> {
    let Spec::DestinationRule(rule) = &rule.spec else { return None };
    let policies =
        rule.traffic_policy.iter().chain(rule.subsets.iter().filter_map(|s| s.traffic_policy.as_ref()));
    let asks =
        |p: &TrafficPolicy| p.tls.is_some() || p.port_level_settings.iter().any(|port| port.tls.is_some());
    policies.into_iter().any(asks).then_some(rule.host.as_str())
}

/// A host as a DestinationRule of this namespace names it, in full.
pub fn full_host(host: &str, namespace: &str, env: &Env) -> String {
    hosts::resolve(host, namespace, &env.domain)
}

/// Whether a policy of `security.istio.io` is for the gateway that `env` describes.
pub fn guards(policy: &Object, env: &Env) -> bool {
    unserved::selects_gateway(env, policy)
}

/// What a sidecar in `env.namespace` with `env.labels` would route outbound: one route table for every port of every
/// service that it sees, named by the port's number (`9080`). There are no listeners in it.
pub fn translate_mesh(objects: &Objects, env: &Env) -> Translation {
    mesh::translate(objects, env)
}
