//! Which listener a request or connection reaches: what ports do for it.

use super::request::{Carries, Request};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidegate_model::{Bind, ListenerKey, ListenerProtocol, Model, TableName, TlsAction};
use tidegate_translate::Binding;

/// Where a request arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) listener: ListenerKey,
    /// The server's port, as VirtualServices name it.
    pub(super) server_port: u16,
    /// Whether that is a guess: the URL names no port, and nothing listens on its scheme's.
    pub(super) is_assumed: bool,
}

/// The listener for `request`: that which has the URL's port as server port, else as local port. For a URL without one
/// it may also be the only one of its scheme. `only` leaves those that one Gateway opened.
pub(super) fn choose(
    model: &Model,
    bindings: &BTreeMap<Arc<str>, Binding>,
    request: &Request,
    only: Option<&Binding>,
) -> Result<Reached, String> {
    let ports = Ports::new(bindings, only);
    let mut opened: Vec<Opened> = Vec::new();
    for listener in model.listeners.values() {
        let mut add = |server_port: Option<u16>, scheme: &'static str| {
            let opens = server_port.map(|server_port| Opened { key: listener.key, server_port, scheme });
            opened.extend(opens);
        };
        match &listener.protocol {
            ListenerProtocol::Http(name) => add(ports.of_table(name, model), "http"),
            ListenerProtocol::Tcp(_) => add(ports.of_tcp(listener.key), "tcp"),
            ListenerProtocol::Tls(servers) => {
                for server in servers {
                    let is_http = matches!(server.action, TlsAction::Http(_));
                    add(ports.of_table(&server.table, model), if is_http { "https" } else { "tls" });
                }
            }
        }
    }
    // a listener on every address before one on a single address
    opened.sort_by_key(|o| (o.key.bind != Bind::Default, o.server_port));
    let all: BTreeSet<String> = opened.iter().map(|o| format!("{} on {}", o.scheme, o.server_port)).collect();
    let fits = |o: &&Opened| match request.carries {
        Carries::Http => o.scheme == "http",
        Carries::Tls => matches!(o.scheme, "https" | "tls"),
        Carries::Tcp => o.scheme == "tcp",
    };
    let same: Vec<_> = opened.iter().filter(fits).collect();
    let server_ports: BTreeSet<u16> = same.iter().map(|o| o.server_port).collect();
    let by_server_port = same.iter().find(|o| o.server_port == request.port);
    let by_local_port = same.iter().find(|o| o.key.port == request.port);
    let only_one = same.first().filter(|_| server_ports.len() == 1 && !request.names_port);
    let reached =
        |o: &Opened, is_assumed| Reached { listener: o.key, server_port: o.server_port, is_assumed };
    let asked = by_server_port.or(by_local_port).map(|o| reached(o, false));
    asked.or_else(|| only_one.map(|o| reached(o, true))).ok_or_else(|| unserved(request, &all))
}

/// A server, and the listener that leads to it.
struct Opened {
    key: ListenerKey,
    server_port: u16,
    scheme: &'static str,
}

/// The server ports of tables and listeners.
struct Ports<'b> {
    tables: BTreeMap<&'b TableName, u16>,
    tcp: BTreeMap<ListenerKey, u16>,
}

impl<'b> Ports<'b> {
    fn new(bindings: &'b BTreeMap<Arc<str>, Binding>, only: Option<&'b Binding>) -> Self {
        let all = || bindings.values().filter(|b| only.is_none_or(|only| std::ptr::eq(*b, only)));
        let tables = all().flat_map(|b| &b.tables).map(|(port, name)| (name, *port)).collect();
        let tcp = all().flat_map(|b| &b.tcp).map(|(port, key)| (*key, *port)).collect();
        Ports { tables, tcp }
    }

    fn of_table(&self, name: &TableName, model: &Model) -> Option<u16> {
        let bound = *self.tables.get(name)?;
        Some(model.route_tables.get(name).map_or(bound, |table| table.server_port))
    }

    fn of_tcp(&self, key: ListenerKey) -> Option<u16> {
        self.tcp.get(&key).copied()
    }
}

fn unserved(request: &Request, there_are: &BTreeSet<String>) -> String {
    if there_are.is_empty() {
        return "no listener is open: no Gateway with a usable server selects this gateway; compare its selector with \
                --label"
            .to_owned();
    }
    let there_are: Vec<_> = there_are.iter().map(String::as_str).collect();
    let scheme = request.carries.scheme();
    format!("nothing serves {scheme} on port {}; there is {}", request.port, there_are.join(", "))
}
