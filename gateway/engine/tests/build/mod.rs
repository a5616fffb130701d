//! Models in few words.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::sync::Arc;
use tidegate_model::*;

/// A header condition with an exact value.
pub(crate) fn header(name: &str, value: &str) -> HeaderMatch {
    let value = ValueMatch::Value(StringMatch::Exact(value.into()));
    HeaderMatch { name: HeaderName::new(name), value, invert: false }
}

pub(crate) fn destination(host: &str, weight: u32) -> Destination {
    Destination {
        cluster: ClusterName::outbound(80, "", host),
        weight,
        authority: None,
        request_headers: Vec::new(),
        response_headers: Vec::new(),
    }
}

pub(crate) fn forward(path_rewrite: Option<PathRewrite>) -> Action {
    Action::Forward(Forward { destinations: vec![destination("b", 1)], path_rewrite, ..Forward::default() })
}

/// A redirect that changes nothing yet.
pub(crate) fn redirect() -> Redirect {
    Redirect {
        status: 301,
        scheme: None,
        authority: None,
        port: RedirectPort::Keep,
        path: None,
        response_headers: Vec::new(),
    }
}

pub(crate) fn route(index: usize, matches: RouteMatch, action: Action) -> Arc<Route> {
    Arc::new(Route {
        name: "".into(),
        rule: RuleRef {
            object: ObjectRef::new("VirtualService", "default", "vs"),
            index,
            match_index: Some(0),
            root: None,
        },
        origin: Origin::default(),
        matches,
        cors: None,
        action: Arc::new(action),
    })
}

pub(crate) const TABLE: &str = "http.8080";

/// A listener that nobody in particular asks for.
pub(crate) fn listener(key: ListenerKey, protocol: ListenerProtocol) -> Listener {
    Listener { key, protocol, owners: Vec::new(), index: 0, origin: Origin::default() }
}

pub(crate) fn virtual_host(table: &str, domain: &str, routes: Vec<Arc<Route>>) -> VirtualHost {
    let key = VirtualHostKey { table: table.into(), domain: HostPattern::parse(domain) };
    VirtualHost { key, routes, https_redirect: false }
}

pub(crate) fn route_table(name: &str, server_port: u16) -> RouteTable {
    RouteTable { name: name.into(), server_port, tls: false }
}

pub(crate) fn add_host(model: &mut Model, host: VirtualHost) {
    model.virtual_hosts.insert(host.key.clone(), Arc::new(host));
}

pub(crate) fn add_table(model: &mut Model, table: RouteTable) {
    model.route_tables.insert(table.name.clone(), Arc::new(table));
}

/// A model with one table, of server port 8080, with these virtual hosts.
pub(crate) fn model(hosts: impl IntoIterator<Item = VirtualHost>) -> Model {
    let mut model = Model::default();
    add_table(&mut model, route_table(TABLE, 8080));
    for host in hosts {
        add_host(&mut model, host);
    }
    model
}
