//! The model of a gateway: its listeners, and the virtual hosts of each route table.

use crate::action::report_shares_without_mirror;
use crate::clusters::Clusters;
use crate::delegate::{Rule, rules};
use crate::host_index::HostIndex;
use crate::hosts::intersect;
use crate::matches::{Place, gateway_name};
use crate::report::Report;
use crate::servers::{Kind, Server, Shared, full_name, merge, selected};
use crate::telemetry::Telemetries;
use crate::tls::report_shared_certificates;
use crate::virtual_service::{catch_alls_last, routes};
use crate::world::World;
use crate::{
    Env, Translation, access_log, authentication, authorization, enforcement, l4, references, tls, tracing,
    unreachable, unserved,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidegate_api::Objects;
use tidegate_model::{
    HostPattern, Listener, ListenerKey, ListenerProtocol, Model, ObjectRef, Route, RouteTable, TableName,
    TcpRoute, TlsAction, TlsServer, TlsTermination, VirtualHost, VirtualHostKey,
};

/// Translates for the gateway that `env` describes.
pub(crate) fn translate(objects: &Objects, env: &Env) -> Translation {
    let world = World::new(objects, env);
    let mut report = Report::default();
    unserved::report(&world, &mut report);
    enforcement::report(&world, &mut report);
    references::report(&world, &mut report);
    let expanded: Vec<Vec<Rule<'_>>> =
        world.virtual_services.iter().map(|item| rules(&world, *item, &mut report)).collect();
    for rules in &expanded {
        unreachable::report(rules, &mut report);
        report_shares_without_mirror(rules, &mut report);
    }
    for item in &world.virtual_services {
        unreachable::report_tcp(*item, &mut report);
    }
    let mut out = Translation::default();
    for (object, _) in selected(&world) {
        out.bindings.insert(full_name(object), crate::Binding::default());
    }
    let mut tables = Tables {
        world: &world,
        expanded: &expanded,
        by_gateway: by_gateway(&world),
        clusters: Clusters::new(&world),
        report,
    };
    for (key, shared) in merge(&world, &mut tables.report) {
        tables.listener(key, &shared, &mut out);
    }
    let Tables { mut clusters, mut report, .. } = tables;
    let mut settings = world.mesh.settings(&mut report);
    settings.strict_paths = env.strict_paths;
    let telemetries = Telemetries::new(&world, &mut report);
    settings.access_log = access_log::access_log(&world.mesh, &telemetries, &mut report);
    settings.tracing = tracing::tracing(&world, &telemetries, &mut clusters, &mut report);
    out.model.mesh = Arc::new(settings);
    let authorization = authorization::authorization(&world, &out.model, &mut clusters, &mut report);
    out.model.authorization = Arc::new(authorization);
    out.absent = clusters.finish(&mut out.model);
    out.model.authentication = Arc::new(authentication::authentication(&world, &mut report));
    out.diagnostics = report.finish();
    out.diagnostics.extend(authorization::report_broken(&world));
    out
}

/// A host of a VirtualService that is bound to a Gateway.
#[derive(Clone, Copy)]
struct Bound<'w> {
    /// Where the VirtualService is in the order of merging.
    rank: usize,
    /// Which VirtualService it is.
    index: usize,
    host: &'w str,
}

/// The hosts of the visible VirtualServices by the gateways that they name.
fn by_gateway<'w>(world: &'w World<'_>) -> BTreeMap<String, HostIndex<Bound<'w>>> {
    let mut found: BTreeMap<String, HostIndex<Bound<'w>>> = BTreeMap::new();
    for (rank, i) in world.visible_virtual_services().into_iter().enumerate() {
        let (object, vs) = world.virtual_services[i];
        let names: BTreeSet<String> =
            vs.gateways.iter().map(|g| gateway_name(g, &object.reference.namespace)).collect();
        for name in names {
            let bound = found.entry(name).or_default();
            for host in &world.hosts[i] {
                bound.insert(host, Bound { rank, index: i, host });
            }
        }
    }
    found
}

struct Tables<'w, 'a> {
    world: &'w World<'a>,
    /// The rules of each VirtualService.
    expanded: &'w [Vec<Rule<'a>>],
    by_gateway: BTreeMap<String, HostIndex<Bound<'w>>>,
    clusters: Clusters<'w, 'a>,
    report: Report,
}

/// A virtual host in the making.
#[derive(Default)]
struct Merging {
    routes: Vec<Arc<Route>>,
    /// The VirtualServices and server ports whose routes are in it; with the Gateway, where matches ask for it.
    merged: BTreeSet<(usize, Option<Arc<str>>, u16)>,
    https_redirect: bool,
}

impl Tables<'_, '_> {
    fn listener(&mut self, key: ListenerKey, shared: &Shared<'_>, out: &mut Translation) {
        let (servers, protocol) = match shared {
            Shared::Other(_) => return,
            Shared::Http(servers) => {
                let Some(first) = servers.first() else { return };
                self.table(servers, false, &mut out.model);
                (&servers[..], ListenerProtocol::Http(first.table.clone()))
            }
            Shared::Tls(servers) => {
                let tls: Vec<_> = servers.iter().filter_map(|s| self.tls_server(s, &mut out.model)).collect();
                // What refuses everyone needs no socket.
                if tls.iter().all(|s| matches!(s.action, TlsAction::Refuse(_))) {
                    return;
                }
                report_shared_certificates(servers, &tls, &mut self.report);
                (&servers[..], ListenerProtocol::Tls(tls))
            }
            Shared::Tcp(server) => match self.tcp_route(server) {
                Some(route) => (std::slice::from_ref(server), ListenerProtocol::Tcp(route)),
                None => return,
            },
        };
        let mut owners: Vec<ObjectRef> = Vec::new();
        let (mut seen, mut bound) = (BTreeSet::new(), BTreeSet::new());
        for server in servers {
            if seen.insert(&server.object.reference) {
                owners.push(server.object.reference.clone());
            }
            let binding = out.bindings.entry(full_name(server.object)).or_default();
            if !binding.listeners.contains(&key) {
                binding.listeners.push(key);
            }
            if server.kind == Kind::Tcp {
                binding.tcp.push((server.port, key));
                continue;
            }
            let table = (server.port, server.table.clone());
            if bound.insert((&server.object.reference, table.clone())) && !binding.tables.contains(&table) {
                binding.tables.push(table);
            }
        }
        let Some(first) = servers.first() else { return };
        let (index, origin) =
            (first.index, first.object.locate(&format!("spec.servers[{}].port", first.index)));
        out.model.listeners.insert(key, Arc::new(Listener { key, protocol, owners, index, origin }));
    }

    /// A TLS server, unless it serves nothing: without rules it leaves its names to wider ones, as in Istio.
    fn tls_server(&mut self, server: &Server<'_>, model: &mut Model) -> Option<TlsServer> {
        let action = match server.kind {
            Kind::Https => {
                self.table(std::slice::from_ref(server), true, model);
                self.terminate(server, model, TlsAction::Http)
            }
            Kind::TlsToTcp => {
                let route = self.tcp_route(server)?;
                self.terminate(server, model, |t| TlsAction::Tcp(t, route))
            }
            Kind::Passthrough => {
                let attached = self.attached_services(server);
                let gateway = full_name(server.object);
                let place = l4::Place { gateway: &gateway, attached: &attached };
                let routes = l4::sni_routes(self.world, server, &place, &mut self.clusters, &mut self.report);
                if routes.is_empty() {
                    self.without_rules(server, "tls");
                    return None;
                }
                TlsAction::Passthrough { routes, protocols: Vec::new() }
            }
            Kind::AutoPassthrough => {
                let routes = l4::auto_passthrough(self.world, server, &mut self.clusters);
                let protocols = l4::MESH_PROTOCOLS.iter().map(|p| (*p).into()).collect();
                TlsAction::Passthrough { routes, protocols }
            }
            _ => TlsAction::Refuse("its TLS mode ISTIO_MUTUAL is not enforced yet".into()),
        };
        let hosts: BTreeSet<Arc<str>> = server.hosts.iter().map(|h| h.host.as_str().into()).collect();
        Some(TlsServer {
            table: server.table.clone(),
            hosts: hosts.into_iter().collect(),
            action,
            owner: server.object.reference.clone(),
            index: server.index,
            origin: server.object.locate(&format!("spec.servers[{}].tls", server.index)),
        })
    }

    fn terminate(
        &mut self,
        server: &Server<'_>,
        model: &mut Model,
        action: impl FnOnce(TlsTermination) -> TlsAction,
    ) -> TlsAction {
        match tls::termination(self.world, server, model, &mut self.report) {
            Ok(termination) => action(termination),
            Err(why) => TlsAction::Refuse(why.into()),
        }
    }

    /// The route of a server's connections, unless no rule has them.
    fn tcp_route(&mut self, server: &Server<'_>) -> Option<Arc<TcpRoute>> {
        let attached = self.attached_services(server);
        let gateway = full_name(server.object);
        let place = l4::Place { gateway: &gateway, attached: &attached };
        let route = l4::tcp_route(self.world, server, &place, &mut self.clusters, &mut self.report);
        if route.is_none() {
            self.without_rules(server, "tcp");
        }
        route
    }

    fn without_rules(&mut self, server: &Server<'_>, section: &str) {
        let text = format!(
            "no VirtualService with {section} rules for port {} is bound to it, so it serves nothing",
            server.port
        );
        let advice =
            format!("bind a VirtualService with a host of this server and {section} rules to the Gateway");
        self.report.warning(
            server.object,
            &format!("spec.servers[{}]", server.index),
            "no-routes",
            text,
            advice,
        );
    }

    /// The VirtualServices that share a host with `server`, in the order of merging.
    fn attached_services(&self, server: &Server<'_>) -> Vec<usize> {
        self.attached(server, &full_name(server.object)).into_keys().map(|(_, index)| index).collect()
    }

    /// The route table that `servers` share.
    fn table(&mut self, servers: &[Server<'_>], tls: bool, model: &mut Model) {
        let Some(first) = servers.first() else { return };
        let mut hosts: BTreeMap<HostPattern, Merging> = BTreeMap::new();
        for server in servers {
            self.server(server, tls, &mut hosts);
        }
        let name: TableName = first.table.clone();
        for (domain, mut merging) in hosts {
            catch_alls_last(&mut merging.routes);
            self.conflicts(&domain, &merging);
            let key = VirtualHostKey { table: name.clone(), domain };
            let host = VirtualHost {
                key: key.clone(),
                routes: merging.routes,
                https_redirect: merging.https_redirect,
            };
            model.virtual_hosts.insert(key, Arc::new(host));
        }
        model.route_tables.insert(name.clone(), Arc::new(RouteTable { name, server_port: first.port, tls }));
    }

    /// Says which routes of a domain that several VirtualServices share are never reached.
    fn conflicts(&mut self, domain: &HostPattern, merging: &Merging) {
        let services: BTreeSet<usize> = merging.merged.iter().map(|(index, ..)| *index).collect();
        if services.len() < 2 {
            return;
        }
        let rules = || services.iter().flat_map(|index| &self.expanded[*index]);
        let object = |of: &ObjectRef| rules().map(|rule| rule.object).find(|object| object.reference == *of);
        unreachable::report_merged(domain, &merging.routes, object, &mut self.report);
    }

    /// Merges the routes for the hosts of one server. With `httpsRedirect`, it redirects the hosts as they are written
    /// and those that it shares with VirtualServices, for all servers of the port.
    fn server(&mut self, server: &Server<'_>, tls: bool, hosts: &mut BTreeMap<HostPattern, Merging>) {
        let world = self.world;
        let gateway = full_name(server.object);
        let place = Place {
            gateway: &gateway,
            port: server.port,
            labels: &world.env.labels,
            namespace: &world.env.namespace,
        };
        let redirects = !tls && server.written.tls.as_ref().is_some_and(|t| t.https_redirect == Some(true));
        for ((_, index), domains) in self.attached(server, &gateway) {
            let rules = &self.expanded[index];
            let routes = routes(rules, &place, &world.env.domain, &mut self.clusters, &mut self.report);
            // Without a route here it must not stand before a wider host.
            if routes.is_empty() {
                continue;
            }
            let of_gateway = asks_for_gateways(rules).then(|| gateway.clone());
            for domain in domains {
                let merging = hosts.entry(domain).or_default();
                merging.https_redirect |= redirects;
                if merging.merged.insert((index, of_gateway.clone(), server.port)) {
                    merging.routes.extend(routes.iter().cloned());
                }
            }
        }
        if redirects {
            for host in &server.hosts {
                hosts.entry(HostPattern::parse(&host.host)).or_default().https_redirect = true;
            }
        }
    }

    /// The VirtualServices, in the order of merging, with the domains that they share with `server`.
    fn attached(
        &self,
        server: &Server<'_>,
        gateway: &str,
    ) -> BTreeMap<(usize, usize), BTreeSet<HostPattern>> {
        let mut attached: BTreeMap<(usize, usize), BTreeSet<HostPattern>> = BTreeMap::new();
        let Some(bound) = self.by_gateway.get(gateway) else { return attached };
        for host in &server.hosts {
            for b in bound.overlapping(&host.host) {
                let own = &self.world.virtual_services[b.index].0.reference.namespace;
                let Some(domain) = intersect(b.host, &host.host).filter(|_| host.admits(own)) else {
                    continue;
                };
                attached.entry((b.rank, b.index)).or_default().insert(HostPattern::parse(domain));
            }
        }
        attached
    }
}

/// Whether the routes of a VirtualService differ between Gateways.
fn asks_for_gateways(rules: &[Rule<'_>]) -> bool {
    rules.iter().flat_map(|rule| &rule.blocks).any(|(_, block)| !block.gateways.is_empty())
}
