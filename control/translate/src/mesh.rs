//! What a sidecar routes outbound.

use crate::clusters::Clusters;
use crate::delegate::rules;
use crate::export::reach;
use crate::host_index::HostIndex;
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
    let mut out = Translation::default();
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

/// The visible VirtualServices that sidecars serve by their hosts, each by age.
fn bound_to_mesh(world: &World<'_>) -> HostIndex<usize> {
    let mut found = HostIndex::default();
    for (i, item) in world.virtual_services.iter().enumerate() {
        let (object, vs) = *item;
        let own = &*object.reference.namespace;
        let bound = vs.gateways.is_empty() || vs.gateways.iter().any(|g| g == "mesh");
        let visible =
            reach(&vs.export_to, world.mesh.virtual_service_export_to(), own, &world.env.namespace).is_some();
        if bound && visible {
            for host in &world.hosts[i] {
                found.insert(host, i);
            }
        }
    }
    found
}

struct Outbound<'w, 'a> {
    world: &'w World<'a>,
    bound: HostIndex<usize>,
    clusters: Clusters<'w, 'a>,
    report: Report,
    hosts: BTreeMap<(u16, HostPattern), Vec<Arc<Route>>>,
}

impl<'a> Outbound<'_, 'a> {
    /// Each port of each service: the rules of the one VirtualService that counts, else the service itself.
    fn services(&mut self) {
        let world = self.world;
        for service in world.registry.services() {
            let chosen = self.chosen(&service.host);
            for port in service.ports.iter().map(|p| p.number) {
                let routes = chosen.and_then(|item| self.routes(item, port));
                let routes =
                    routes.unwrap_or_else(|| self.default_route(service, port).into_iter().collect());
                for domain in self.domains(service) {
                    self.hosts.entry((port, domain)).or_insert_with(|| routes.clone());
                }
            }
        }
    }

    /// Hosts of VirtualServices that are no service are served on port 80 alone.
    fn unknown_hosts(&mut self) {
        let world = self.world;
        let hosts: BTreeSet<&String> = world.hosts.iter().flatten().collect();
        for host in hosts {
            if host == "*" || self.bound.exact(host).is_empty() || world.registry.has_within(host) {
                continue;
            }
            let routes = self.chosen(host).and_then(|item| self.routes(item, HTTP_PORT));
            if let Some(routes) = routes {
                self.hosts.entry((HTTP_PORT, HostPattern::parse(host))).or_insert(routes);
            }
        }
    }

    /// The oldest VirtualService with exactly that host, else the one with the longest wildcard.
    fn chosen(&self, host: &str) -> Option<Item<'a, VirtualService>> {
        let found = self.bound.exact(host).first().or_else(|| self.bound.wider(host).next());
        found.map(|i| self.world.virtual_services[*i])
    }

    /// The routes of a VirtualService, unless it has none on that port.
    fn routes(&mut self, item: Item<'a, VirtualService>, port: u16) -> Option<Vec<Arc<Route>>> {
        let env = self.world.env;
        let rules = rules(self.world, item, &mut self.report);
        let place = Place { gateway: "mesh", port, labels: &env.labels, namespace: &env.namespace };
        let routes = routes(&rules, &place, &env.domain, &mut self.clusters, &mut self.report);
        (!routes.is_empty()).then_some(routes)
    }

    fn default_route(&mut self, service: &Service<'_>, port: u16) -> Option<Arc<Route>> {
        let object = service.sources.first()?.object();
        let (cluster, _) = self.clusters.resolve(&service.host, "", Some(u32::from(port)), port);
        let destination = Destination {
            cluster,
            weight: 1,
            authority: None,
            request_headers: Vec::new(),
            response_headers: Vec::new(),
        };
        let retries = self.clusters.retries(None);
        let forward = Forward { destinations: vec![destination], retries, ..Forward::default() };
        Some(Arc::new(Route {
            name: "default".into(),
            rule: RuleRef { object: object.reference.clone(), index: 0, match_index: None, root: None },
            origin: object.origin(),
            matches: RouteMatch::default(),
            cors: None,
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
