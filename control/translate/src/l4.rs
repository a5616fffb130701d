//! Rules for connections: `tcp` and `tls` of VirtualServices, and what AUTO_PASSTHROUGH needs no rules for.
//!
//! At a gateway their match blocks ask for the port and the Gateway alone, as in Istio; `sniHosts` besides.

use crate::action::dangling;
use crate::clusters::Clusters;
use crate::hosts::{canonical, intersect, is_subset, resolve};
use crate::matches::gateway_name;
use crate::report::Report;
use crate::servers::Server;
use crate::service_registry::{Service, Source};
use crate::world::World;
use std::collections::BTreeSet;
use std::sync::Arc;
use tidegate_api::Object;
use tidegate_api::istio::{
    Location, RouteDestination, TcpRoute as WrittenTcp, TlsMatchAttributes, VirtualService,
};
use tidegate_model::{ClusterName, RuleRef, SniRoute, TcpDestination, TcpRoute, TcpSection};

/// The protocols that sidecars offer by ALPN when they speak mesh TLS.
pub(crate) const MESH_PROTOCOLS: [&str; 5] =
    ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];

/// Where rules for connections are looked for.
pub(crate) struct Place<'p> {
    /// The Gateway as `namespace/name`.
    pub(crate) gateway: &'p str,
    /// The VirtualServices that are attached to the server, in the order of merging.
    pub(crate) attached: &'p [usize],
}

/// The route of all connections to a server: the first rule for TCP that counts there.
pub(crate) fn tcp_route(
    world: &World<'_>,
    server: &Server<'_>,
    place: &Place<'_>,
    clusters: &mut Clusters<'_, '_>,
    report: &mut Report,
) -> Option<Arc<TcpRoute>> {
    for (object, vs) in place.attached.iter().map(|i| world.virtual_services[*i]) {
        for (index, rule) in vs.tcp.iter().enumerate() {
            if let Some(match_index) = tcp_match(object, rule, server, place)
                && !rule.route.is_empty()
            {
                let reference = rule_ref(object, index, match_index);
                let made = Written { object, section: TcpSection::Tcp, index, routes: &rule.route };
                return Some(made.route(world, reference, server.port, clusters, report));
            }
        }
    }
    None
}

/// The block by which a rule counts at a server; `Some(None)` for one without blocks.
fn tcp_match(
    object: &Object,
    rule: &WrittenTcp,
    server: &Server<'_>,
    place: &Place<'_>,
) -> Option<Option<usize>> {
    if rule.matches.is_empty() {
        return Some(None);
    }
    let own = &object.reference.namespace;
    rule.matches.iter().position(|m| counts(m.port, &m.gateways, own, server, place)).map(Some)
}

/// Whether a match block counts at a server. The labels and the namespace of a source and the subnets of a
/// destination belong to sidecars.
fn counts(port: Option<u32>, gateways: &[String], own: &str, server: &Server<'_>, place: &Place<'_>) -> bool {
    port.is_none_or(|p| p == 0 || p == u32::from(server.port))
        && (gateways.is_empty() || gateways.iter().any(|g| gateway_name(g, own) == place.gateway))
}

/// The routes of a server that does not terminate TLS, by SNI.
pub(crate) fn sni_routes(
    world: &World<'_>,
    server: &Server<'_>,
    place: &Place<'_>,
    clusters: &mut Clusters<'_, '_>,
    report: &mut Report,
) -> Vec<SniRoute> {
    let mut routes = Vec::new();
    let mut claimed = BTreeSet::new();
    for (object, vs) in place.attached.iter().map(|i| world.virtual_services[*i]) {
        for (index, rule) in vs.tls.iter().enumerate().filter(|(_, rule)| !rule.route.is_empty()) {
            for (m, block) in rule.matches.iter().enumerate() {
                if !counts(block.port, &block.gateways, &object.reference.namespace, server, place) {
                    continue;
                }
                let field = format!("spec.tls[{index}].match[{m}].sniHosts");
                let hosts = sni_hosts(world, object, vs, block, server, &field, &mut claimed, report);
                if hosts.is_empty() {
                    continue;
                }
                let reference = rule_ref(object, index, Some(m));
                let made = Written { object, section: TcpSection::Tls, index, routes: &rule.route };
                let route = made.route(world, reference, server.port, clusters, report);
                routes.push(SniRoute { hosts, route });
            }
        }
    }
    routes
}

/// The names of a block that the server has and that no block before it claimed.
#[expect(
    clippy::too_many_arguments,
    reason = "what a block is, where it stands, and what was claimed before"
)]
fn sni_hosts(
    world: &World<'_>,
    object: &Object,
    vs: &VirtualService,
    block: &TlsMatchAttributes,
    server: &Server<'_>,
    field: &str,
    claimed: &mut BTreeSet<String>,
    report: &mut Report,
) -> Vec<Arc<str>> {
    let own = &object.reference.namespace;
    let mut hosts = Vec::new();
    for (i, written) in block.sni_hosts.iter().enumerate() {
        let field = format!("{field}[{i}]");
        let name = canonical(written);
        let allowed = vs.hosts.iter().any(|h| is_subset(&name, &resolve(h, own, &world.env.domain)));
        let of_server = server.hosts.iter().filter(|h| allowed && h.admits(own));
        let served: BTreeSet<&str> = of_server.filter_map(|h| intersect(&name, &h.host)).collect();
        for host in &served {
            if claimed.insert((*host).to_owned()) {
                hosts.push(Arc::from(*host));
                continue;
            }
            let text = format!("{host} belongs to a rule before this one on port {}", server.port);
            report.warning(object, &field, "shadowed", text, "remove it from one of the two");
        }
        if !served.is_empty() && !served.contains(name.as_str()) {
            let served: Vec<_> = served.into_iter().collect();
            let text = format!(
                "is wider than the hosts of the Gateway's server: only {} is served",
                served.join(", ")
            );
            report.note(object, &field, "host-not-in-gateway", text, "add it to the hosts of the server");
        }
    }
    hosts
}

/// A route for each service of the mesh that an AUTO_PASSTHROUGH server has, and for each subset.
pub(crate) fn auto_passthrough(
    world: &World<'_>,
    server: &Server<'_>,
    clusters: &mut Clusters<'_, '_>,
) -> Vec<SniRoute> {
    let reference = rule_ref(server.object, server.index, None);
    let origin = server.object.locate(&format!("spec.servers[{}]", server.index));
    let mut routes = Vec::new();
    for service in world.registry.services() {
        if !is_of_mesh(service) || !server.hosts.iter().any(|h| is_subset(&service.host, &h.host)) {
            continue;
        }
        for cluster in clusters.by_sni(&service.host) {
            let name = cluster.as_str().to_ascii_lowercase();
            let destination = destination(cluster, 1, clusters);
            let route = TcpRoute {
                rule: reference.clone(),
                section: TcpSection::Servers,
                origin: origin.clone(),
                destinations: vec![destination],
            };
            routes.push(SniRoute { hosts: vec![name.into()], route: Arc::new(route) });
        }
    }
    routes
}

/// Whether a service's workloads are of the mesh, so that they may speak its TLS.
fn is_of_mesh(service: &Service<'_>) -> bool {
    service.alias.is_none()
        && service.sources.iter().all(|source| match source {
            Source::Kubernetes(_) => true,
            Source::Entry((_, entry)) => entry.location == Some(Location::MeshInternal),
        })
}

/// The destinations of a rule, as they were written.
struct Written<'r> {
    object: &'r Object,
    section: TcpSection,
    index: usize,
    routes: &'r [RouteDestination],
}

impl Written<'_> {
    fn route(
        &self,
        world: &World<'_>,
        rule: RuleRef,
        port: u16,
        clusters: &mut Clusters<'_, '_>,
        report: &mut Report,
    ) -> Arc<TcpRoute> {
        let several = self.routes.len() > 1;
        let field = format!("spec.{}[{}]", self.section, self.index);
        let mut destinations = Vec::new();
        for (i, written) in self.routes.iter().enumerate() {
            let weight = u32::try_from(written.weight.unwrap_or(0)).unwrap_or(0);
            if several && weight == 0 {
                continue;
            }
            let target = &written.destination;
            let host = resolve(&target.host, &self.object.reference.namespace, &world.env.domain);
            let subset = target.subset.as_deref().unwrap_or_default();
            let number = target.port.as_ref().and_then(|p| p.number);
            let (cluster, made) = clusters.resolve(&host, subset, number, port);
            if let Err(absent) = made {
                let field = format!("{field}.route[{i}].destination");
                let why = absent.text(&host, subset);
                dangling(self.object, &field, &why, &absent, "connections are closed (NC)", report);
            }
            destinations.push(destination(cluster, if several { weight } else { 1 }, clusters));
        }
        let origin = self.object.locate(&match rule.match_index {
            Some(m) => format!("{field}.match[{m}]"),
            None => field,
        });
        Arc::new(TcpRoute { rule, section: self.section, origin, destinations })
    }
}

fn destination(cluster: ClusterName, weight: u32, clusters: &Clusters<'_, '_>) -> TcpDestination {
    let idle_timeout = clusters.tcp_idle_timeout(&cluster);
    TcpDestination { cluster, weight, idle_timeout }
}

fn rule_ref(object: &Object, index: usize, match_index: Option<usize>) -> RuleRef {
    RuleRef { object: object.reference.clone(), index, match_index, root: None }
}
