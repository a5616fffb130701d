//! The servers of all Gateways that select this gateway, merged by the port on which they listen.

use crate::endpoints::container_port;
use crate::hosts::ServerHost;
use crate::protocol::Protocol;
use crate::report::Report;
use crate::world::{Item, World, port, selects};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use tidegate_api::Object;
use tidegate_api::istio::{Gateway, Server as Written, ServerTlsMode};
use tidegate_api::kubernetes::{NumberOrName, Service};
use tidegate_model::{Bind, ListenerKey, TableName};

/// A server of a Gateway.
pub(crate) struct Server<'a> {
    pub(crate) object: &'a Object,
    pub(crate) written: &'a Written,
    /// Its index in `spec.servers`.
    pub(crate) index: usize,
    /// Its port as VirtualServices name it.
    pub(crate) port: u16,
    pub(crate) hosts: Vec<ServerHost>,
    /// What is spoken, and what becomes of it.
    pub(crate) kind: Kind,
    /// The route table of its requests.
    pub(crate) table: TableName,
}

/// What shares a port.
pub(crate) enum Shared<'a> {
    /// Plain HTTP: one route table.
    Http(Vec<Server<'a>>),
    /// TLS: each server has a table of its own.
    Tls(Vec<Server<'a>>),
    /// Bytes of whatever protocol: the port belongs to one server.
    Tcp(Server<'a>),
    /// Something that is not served; it has the port all the same.
    Other(&'a Object),
}

/// Merges the servers of the Gateways that select this gateway; the first on a port says what is spoken there.
pub(crate) fn merge<'a>(world: &World<'a>, report: &mut Report) -> BTreeMap<ListenerKey, Shared<'a>> {
    let mut ports = BTreeMap::new();
    let mut names = BTreeSet::new();
    let services: Vec<_> = world.registry.selecting(&world.env.namespace, &world.env.labels).collect();
    let selected = world.gateways.iter().filter(|(_, g)| selects(&g.selector, &world.env.labels));
    for (object, gateway) in selected {
        for (index, written) in gateway.servers.iter().enumerate() {
            let field = format!("spec.servers[{index}]");
            let Some((key, number)) = place(world, &services, object, written, &field, report) else {
                continue;
            };
            let hosts: Vec<_> =
                written.hosts.iter().map(|h| ServerHost::parse(h, &object.reference.namespace)).collect();
            let kind = Kind::of(written);
            let table = match kind {
                Kind::Http => http_table(key),
                _ => tls_table(object, written, number, &mut names),
            };
            let server = Server { object, written, index, port: number, hosts, kind, table };
            admit(&mut ports, key, server, &field, report);
        }
    }
    ports
}

fn http_table(key: ListenerKey) -> TableName {
    match key.bind {
        Bind::Default => format!("http.{}", key.port).into(),
        Bind::Ip(ip) => format!("http.{}.{ip}", key.port).into(),
    }
}

fn tls_table(object: &Object, written: &Written, port: u16, names: &mut BTreeSet<TableName>) -> TableName {
    let r = &object.reference;
    let base = format!("https.{port}.{}.{}.{}", written.port.name, r.name, r.namespace);
    // Port names are unique within a valid Gateway; a number keeps tables apart in one that is not.
    let mut name: TableName = base.as_str().into();
    let mut again = 1;
    while !names.insert(name.clone()) {
        again += 1;
        name = format!("{base}.{again}").into();
    }
    name
}

/// What a server speaks, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Plain HTTP.
    Http,
    /// HTTP in TLS, which ends here.
    Https,
    /// Anything in TLS, which ends here: rules for TCP.
    TlsToTcp,
    /// TLS that does not end here: rules for TLS.
    Passthrough,
    /// TLS that does not end here: the SNI names a service of the mesh.
    AutoPassthrough,
    /// TLS with the mesh's own certificates, which there are none of: always refused.
    IstioMutual,
    /// Anything: rules for TCP.
    Tcp,
    /// What is not served.
    Other,
}

impl Kind {
    fn of(written: &Written) -> Self {
        let protocol = Protocol::parse(&written.port.protocol).unwrap_or(Protocol::Unknown);
        let mode = written.tls.as_ref().and_then(|t| t.mode).unwrap_or(ServerTlsMode::Passthrough);
        match (protocol, mode) {
            (p, _) if p.is_http() => Kind::Http,
            (Protocol::Https | Protocol::Tls, ServerTlsMode::Passthrough) => Kind::Passthrough,
            (Protocol::Https | Protocol::Tls, ServerTlsMode::AutoPassthrough) => Kind::AutoPassthrough,
            (Protocol::Https | Protocol::Tls, ServerTlsMode::IstioMutual) => Kind::IstioMutual,
            (Protocol::Https, _) => Kind::Https,
            (Protocol::Tls, _) => Kind::TlsToTcp,
            // A tunnel of the mesh is more than bytes.
            _ if written.port.protocol.eq_ignore_ascii_case("hbone") => Kind::Other,
            (Protocol::Tcp, _) => Kind::Tcp,
            _ => Kind::Other,
        }
    }

    fn is_tls(self) -> bool {
        matches!(
            self,
            Kind::Https | Kind::TlsToTcp | Kind::Passthrough | Kind::AutoPassthrough | Kind::IstioMutual
        )
    }
}

/// Adds a server to what shares its port, or says why it cannot.
fn admit<'a>(
    ports: &mut BTreeMap<ListenerKey, Shared<'a>>,
    key: ListenerKey,
    server: Server<'a>,
    field: &str,
    report: &mut Report,
) {
    let (object, kind, port) = (server.object, server.kind, server.port);
    unserved(&server, field, report);
    let first = match ports.get_mut(&key) {
        None => {
            let shared = match kind {
                Kind::Http => Shared::Http(vec![server]),
                Kind::Tcp => Shared::Tcp(server),
                Kind::Other => Shared::Other(object),
                _ => Shared::Tls(vec![server]),
            };
            ports.insert(key, shared);
            return;
        }
        Some(Shared::Http(servers)) if kind == Kind::Http => {
            servers.push(server);
            return;
        }
        Some(Shared::Tls(servers)) if kind.is_tls() => {
            match duplicate(servers, &server) {
                None => servers.push(server),
                Some((host, other)) => {
                    let text =
                        format!("{host} is served on this port by {other} already; this server is left out");
                    let advice = "remove the host from one of the two";
                    report.warning(object, &format!("{field}.hosts"), "duplicate-host", text, advice);
                }
            }
            return;
        }
        Some(Shared::Tcp(other)) if kind == Kind::Tcp => {
            let other = &other.object.reference;
            let text = format!("port {} belongs to {other}: a TCP port has one server", server.port);
            report.warning(object, &format!("{field}.port"), "port-conflict", text, "use another port");
            return;
        }
        Some(Shared::Http(servers) | Shared::Tls(servers)) => servers.first().map(|s| s.object),
        Some(Shared::Tcp(other)) => Some(other.object),
        Some(Shared::Other(other)) => Some(*other),
    };
    let other = first.map_or_else(String::new, |o| o.reference.to_string());
    let at = if key.port == port { String::new() } else { format!(" (local port {})", key.port) };
    let text = format!("port {port}{at} is taken by {other} with another protocol; this server is left out");
    report.error(object, &format!("{field}.port"), "port-conflict", text, "use another port or protocol");
}

fn duplicate(servers: &[Server<'_>], new: &Server<'_>) -> Option<(String, String)> {
    servers.iter().find_map(|s| {
        let host = s.hosts.iter().find(|h| new.hosts.iter().any(|n| n.host == h.host))?;
        Some((host.host.clone(), s.object.reference.to_string()))
    })
}

/// Says what is not served, which fails closed, and what passes untranslated.
fn unserved(server: &Server<'_>, field: &str, report: &mut Report) {
    match server.kind {
        Kind::IstioMutual => {
            let text = "TLS mode ISTIO_MUTUAL is not enforced yet; connections to these hosts are refused";
            let advice = "use SIMPLE or MUTUAL with a credentialName, or wait for a later version";
            report.warning(server.object, &format!("{field}.tls.mode"), "not-enforced", text, advice);
        }
        Kind::Other => {
            let text = format!(
                "protocol {} is not served yet; the port is not opened",
                server.written.port.protocol
            );
            let advice = "use HTTP, HTTP2, GRPC, HTTPS, TLS or TCP, or wait for a later version";
            report.warning(server.object, &format!("{field}.port.protocol"), "not-enforced", text, advice);
        }
        Kind::Http if server.written.port.protocol.eq_ignore_ascii_case("grpc-web") => {
            let text = "gRPC-Web is not translated yet: requests of browsers go on as they are, and upstreams that \
                        speak gRPC alone do not understand them";
            let advice = "use an upstream that speaks gRPC-Web itself, or a translator in front of it; for gRPC alone \
                          write GRPC";
            report.warning(server.object, &format!("{field}.port.protocol"), "not-enforced", text, advice);
        }
        _ => {}
    }
}

/// Where a server listens, and its port as it is named.
fn place(
    world: &World<'_>,
    services: &[Item<'_, Service>],
    object: &Object,
    written: &Written,
    field: &str,
    report: &mut Report,
) -> Option<(ListenerKey, u16)> {
    let number = port(written.port.number)?;
    let bind = match written.bind.as_deref().filter(|b| !b.is_empty()) {
        None => Bind::Default,
        Some(text) => match text.parse::<IpAddr>() {
            Ok(ip) => Bind::Ip(ip),
            Err(_) => {
                let text = format!("{text:?} is no IP address, and nothing else can be listened on yet");
                let advice = "write an IP address, or leave bind out";
                report.warning(object, &format!("{field}.bind"), "not-enforced", text, advice);
                return None;
            }
        },
    };
    Some((ListenerKey { bind, port: local_port(world, services, number) }, number))
}

/// `--port`, else the target port of a Service that selects this gateway, else the port as it is.
fn local_port(world: &World<'_>, services: &[Item<'_, Service>], number: u16) -> u16 {
    let env = world.env;
    if let Some(local) = env.ports.get(&number) {
        return *local;
    }
    let target =
        services.iter().find_map(|(_, service)| service.declared(number).map(|(_, p)| p.target_port.clone()));
    match target.flatten() {
        Some(NumberOrName::Number(n)) => port(n).unwrap_or(number),
        Some(NumberOrName::Name(name)) => {
            let pods = world.registry.pods.get(&*env.namespace).map_or(&[][..], Vec::as_slice);
            let mut own = pods.iter().filter(|(o, _)| selects(&env.labels, &o.labels));
            own.find_map(|(_, pod)| container_port(pod, &name)).unwrap_or(number)
        }
        None => number,
    }
}

/// The Gateways that select this gateway.
pub(crate) fn selected<'w, 'a>(world: &'w World<'a>) -> impl Iterator<Item = Item<'a, Gateway>> + 'w {
    world.gateways.iter().filter(|(_, g)| selects(&g.selector, &world.env.labels)).copied()
}

/// The namespace and name of a Gateway.
pub(crate) fn full_name(object: &Object) -> Arc<str> {
    format!("{}/{}", object.reference.namespace, object.reference.name).into()
}
