//! What a sidecar routes outbound.

use crate::clusters::Clusters;
use crate::delegate::rules;
use crate::export::reach;
use crate::hosts::{is_subset, resolve};
use crate::matches::Place;
use crate::report::Report;
use crate::service_registry::{Service, Source};
use crate::virtual_service::routes;
use crate::world::{Item, World};
use crate::{Binding, Env, Translation};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidegate_api::Objects;
use tidegate_api::istio::VirtualService;
use tidegate_model::{
    Action, Destination, Forward, HostPattern, Route, RouteMatch, RouteTable, RuleRef, TableName,
    VirtualHost, VirtualHostKey,
};

/// The port on which hosts that are no service are routed too.
const HTTP_PORT: u16 = 80;

/// Translates for a sidecar in `env.namespace` with `env.labels`.
pub(crate) fn translate(objects: &Objects, env: &Env) -> Translation {
    let world = World::new(objects, env);
    let mut out = Translation { ready: true, ..Translation::default() };
    let mut outbound = Outbound {
        world: &world,
        bound: bound_to_mesh(&world),
        clusters: Clusters::new(&world),
        report: Report::default(),
        hosts: BTreeMap::new(),
    };
    outbound.services();
    outbound.unknown_hosts();
    let Outbound { clusters, report, hosts, .. } = outbound;
    let mut binding = Binding::default();
    for (port, table) in hosts.keys().map(|k| (k.0, port_table(k.0))).collect::<BTreeSet<_>>() {
        let made = RouteTable { name: table.clone(), server_port: port, tls: false };
        out.model.route_tables.insert(table.clone(), Arc::new(made));
        binding.tables.push((port, table));
    }
    for ((port, domain), routes) in hosts {
        let key = VirtualHostKey { table: port_table(port), domain };
        let host = VirtualHost { key: key.clone(), routes, https_redirect: false };
        out.model.virtual_hosts.insert(key, Arc::new(host));
    }
    out.bindings.insert("mesh".into(), binding);
    out.absent = clusters.finish(&mut out.model);
    out.model.mesh = Arc::new(world.mesh.settings(&mut Report::default()));
    out.diagnostics = report.finish();
    out
}

fn port_table(port: u16) -> TableName {
    port.to_string().into()
}

/// The visible VirtualServices that sidecars serve, by age.
fn bound_to_mesh<'a>(world: &World<'a>) -> Vec<(Item<'a, VirtualService>, Vec<String>)> {
    let mut found = Vec::new();
    for item in &world.virtual_services {
        let (object, vs) = *item;
        let own = &*object.reference.namespace;
        let bound = vs.gateways.is_empty() || vs.gateways.iter().any(|g| g == "mesh");
        let visible =
            reach(&vs.export_to, world.mesh.virtual_service_export_to(), own, &world.env.namespace).is_some();
        if bound && visible && !vs.hosts.is_empty() {
            let hosts = vs.hosts.iter().map(|h| resolve(h, own, &world.env.domain)).collect();
            found.push((*item, hosts));
        }
    }
    found
}

struct Outbound<'w, 'a> {
    world: &'w World<'a>,
    bound: Vec<(Item<'a, VirtualService>, Vec<String>)>,
    clusters: Clusters<'w, 'a>,
    report: Report,
    hosts: BTreeMap<(u16, HostPattern), Vec<Arc<Route>>>,
}

impl<'a> Outbound<'_, 'a> {
    /// Each HTTP port of each service: the rules of the one VirtualService that counts, else the service itself.
    fn services(&mut self) {
        let world = self.world;
        for service in world.registry.services() {
            let chosen = self.chosen(&service.host);
            for port in service.ports.iter().map(|p| p.number) {
                let routes = match chosen {
                    Some(item) => self.routes(item, port),
                    None => self.default_route(service, port).into_iter().collect(),
                };
                for domain in self.domains(service) {
                    self.hosts.entry((port, domain)).or_insert_with(|| routes.clone());
                }
            }
        }
    }

    /// Hosts of VirtualServices that are no service are served on port 80 alone.
    fn unknown_hosts(&mut self) {
        let hosts: BTreeSet<String> = self.bound.iter().flat_map(|(_, hosts)| hosts.clone()).collect();
        for host in hosts {
            let known = self.world.registry.services().any(|s| is_subset(&s.host, &host));
            if known || host == "*" {
                continue;
            }
            if let Some(item) = self.chosen(&host) {
                let routes = self.routes(item, HTTP_PORT);
                self.hosts.entry((HTTP_PORT, HostPattern::parse(&host))).or_insert(routes);
            }
        }
    }

    /// The oldest VirtualService with exactly that host, else the one with the longest wildcard.
    fn chosen(&self, host: &str) -> Option<Item<'a, VirtualService>> {
        let exact = self.bound.iter().find(|(_, hosts)| hosts.iter().any(|h| h == host));
        if let Some((item, _)) = exact {
            return Some(*item);
        }
        let mut best: Option<(usize, Item<'a, VirtualService>)> = None;
        for (item, hosts) in &self.bound {
            let fits =
                hosts.iter().filter(|h| h.starts_with('*') && is_subset(host, h)).map(String::len).max();
            if let Some(length) = fits.filter(|l| best.is_none_or(|(b, _)| *l > b)) {
                best = Some((length, *item));
            }
        }
        best.map(|(_, item)| item)
    }

    fn routes(&mut self, item: Item<'a, VirtualService>, port: u16) -> Vec<Arc<Route>> {
        let env = self.world.env;
        let rules = rules(self.world, item, &mut self.report);
        let place = Place { gateway: "mesh", port, labels: &env.labels, namespace: &env.namespace };
        let own = &item.0.reference.namespace;
        routes(&rules, own, &place, &env.domain, &mut self.clusters, &mut self.report)
    }

    fn default_route(&mut self, service: &Service<'_>, port: u16) -> Option<Arc<Route>> {
        let (Source::Kubernetes((object, _)) | Source::Entry((object, _))) = service.sources.first()?;
        let (cluster, _) = self.clusters.resolve(&service.host, "", Some(u32::from(port)), port);
        let destination = Destination {
            cluster,
            weight: 1,
            authority: None,
            request_headers: Vec::new(),
            response_headers: Vec::new(),
        };
        let forward = Forward { destinations: vec![destination], path_rewrite: None, timeout: None };
        Some(Arc::new(Route {
            name: "default".into(),
            rule: RuleRef { object: object.reference.clone(), index: 0, match_index: None, root: None },
            origin: object.origin(),
            matches: RouteMatch::default(),
            action: Arc::new(Action::Forward(forward)),
        }))
    }

    /// The names by which a client here reaches a service.
    fn domains(&self, service: &Service<'_>) -> Vec<HostPattern> {
        let mut names = vec![service.host.to_string()];
        if let Some(Source::Kubernetes((object, kube))) = service.sources.first() {
            let (name, namespace) = (&object.reference.name, &object.reference.namespace);
            if *namespace == self.world.env.namespace {
                names.push(name.to_string());
            }
            names.push(format!("{name}.{namespace}"));
            names.push(format!("{name}.{namespace}.svc"));
            let ips = kube.cluster_ip.iter().chain(&kube.cluster_ips);
            names.extend(ips.filter(|ip| !ip.is_empty() && *ip != "None").cloned());
        }
        names.iter().map(|n| HostPattern::parse(n)).collect()
    }
}
