//! Which route table a request reaches: what listeners and SNI do for a connection.

use super::request::Request;
use std::collections::BTreeSet;
use tidegate_model::{Bind, ListenerKey, ListenerProtocol, Model, RouteTable, TableName, TlsServer};
use tidegate_translate::Binding;

/// Where a request arrives.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chosen<'m> {
    /// At this route table.
    Table(&'m TableName),
    /// At a TLS port none of whose servers has its name: the connection is closed.
    NoServer(u16),
}

/// The route table for `request`: of the server that has the URL's port as server port, else as local port, else of
/// the only server port of its scheme. `binding` leaves only what one Gateway opened.
pub(super) fn choose<'m>(
    model: &'m Model,
    request: &Request,
    binding: Option<&Binding>,
) -> Result<Chosen<'m>, String> {
    let opened =
        |table: &RouteTable| binding.is_none_or(|b| b.tables.iter().any(|(_, name)| *name == table.name));
    let mut tables: Vec<Opened<'m>> = Vec::new();
    for listener in model.listeners.values() {
        let mut add = |name: &TableName, server: Option<&'m TlsServer>| {
            if let Some(table) = model.route_tables.get(name).filter(|table| opened(table)) {
                tables.push(Opened { key: listener.key, table, server });
            }
        };
        match &listener.protocol {
            ListenerProtocol::Http(name) => add(name, None),
            ListenerProtocol::Tls(servers) => {
                servers.iter().for_each(|server| add(&server.table, Some(server)))
            }
        }
    }
    // a listener on every address before one on a single address
    tables.sort_by_key(|t| (t.key.bind != Bind::Default, t.table.server_port));
    let all = ports(&tables);
    let same: Vec<_> = tables.into_iter().filter(|t| t.table.tls == request.tls()).collect();
    let server_ports: BTreeSet<u16> = same.iter().map(|t| t.table.server_port).collect();
    let reached: Vec<_> = if server_ports.contains(&request.port) {
        same.into_iter().filter(|t| t.table.server_port == request.port).collect()
    } else if same.iter().any(|t| t.key.port == request.port) {
        same.into_iter().filter(|t| t.key.port == request.port).collect()
    } else if server_ports.len() == 1 {
        same
    } else {
        return Err(unserved(request, &all));
    };
    let Some(first) = reached.first() else { return Err(unserved(request, &all)) };
    if !request.tls() {
        return Ok(Chosen::Table(&first.table.name));
    }
    let best = reached
        .iter()
        .filter_map(|t| Some((rank(t.server?, &request.host)?, t)))
        .max_by_key(|(rank, _)| *rank);
    Ok(match best {
        Some((_, t)) => Chosen::Table(&t.table.name),
        None => Chosen::NoServer(first.table.server_port),
    })
}

/// A route table with the listener that leads to it.
struct Opened<'m> {
    key: ListenerKey,
    table: &'m RouteTable,
    server: Option<&'m TlsServer>,
}

/// How well a server's hosts fit a name: exactly best, then by the longest wildcard; `None` is not at all.
fn rank(server: &TlsServer, name: &str) -> Option<usize> {
    let fits = |host: &str| match host.strip_prefix('*') {
        None => (host == name).then_some(usize::MAX),
        Some(suffix) => (name.len() > suffix.len() && name.ends_with(suffix)).then_some(suffix.len()),
    };
    server.hosts.iter().filter_map(|host| fits(host)).max()
}

fn ports(tables: &[Opened<'_>]) -> BTreeSet<String> {
    let scheme = |t: &Opened<'_>| if t.table.tls { "https" } else { "http" };
    tables.iter().map(|t| format!("{} on {}", scheme(t), t.table.server_port)).collect()
}

fn unserved(request: &Request, there_are: &BTreeSet<String>) -> String {
    let scheme = if request.tls() { "https" } else { "http" };
    if there_are.is_empty() {
        return "no listener is open: no Gateway with a usable server selects this gateway; compare its selector with \
                --label"
            .to_owned();
    }
    let there_are: Vec<_> = there_are.iter().map(String::as_str).collect();
    format!("nothing serves {scheme} on port {}; there is {}", request.port, there_are.join(", "))
}
