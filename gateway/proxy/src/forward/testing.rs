//! A worker with a config made by hand, for tests of the codecs and of the forwarding.

use crate::auth::{Authenticator, HttpFetch, KeyFetching, KeyStore, TokenCache};
use crate::connection::Connection;
use crate::forward::mirror::Mirrors;
use crate::forward::pace::Rates;
use crate::h2::Tasks;
use crate::limits::Limits;
use crate::overload::Overload;
use crate::resting::Resting;
use crate::server::Identity;
use crate::snapshot::{LastSnapshot, Live, Snapshot};
use crate::telemetry::Telemetry;
use crate::tls::{Credentials, ServerConfigs};
use crate::upstream::{Connector, Pool, Registry, SystemResolver};
use crate::worker::{Cut, SnapshotCache, Worker};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tidegate_engine::Table;
use tidegate_model::*;
use tokio::task::coop::poll_proceed;

/// The key of the one listener.
pub(crate) const KEY: ListenerKey = ListenerKey { bind: Bind::Default, port: 80 };

/// A model with one plain listener whose virtual host `*` sends everything to `upstream`.
pub(crate) fn model(upstream: SocketAddr) -> Model {
    let mut model = Model::default();
    let table: TableName = "http.80".into();
    let listener = Listener {
        key: KEY,
        protocol: ListenerProtocol::Http(table.clone()),
        owners: vec![],
        index: 0,
        origin: Origin::default(),
    };
    model.listeners.insert(KEY, Arc::new(listener));
    let routes = RouteTable { name: table.clone(), server_port: 80, tls: false };
    model.route_tables.insert(table, Arc::new(routes));
    let cluster = Cluster {
        name: ClusterName::outbound(80, "", "service"),
        host: "service".into(),
        port: 80,
        subset: "".into(),
        service_name: "service".into(),
        service_namespace: "default".into(),
        protocol: UpstreamProtocol::Http1,
        load_balancer: LoadBalancer::RoundRobin,
        outlier_detection: None,
        warmup: None,
        limits: ConnectionLimits::default(),
        connect_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(60),
        retry_budget: RetryBudget::default(),
        tls: None,
        proxy_protocol: None,
    };
    let endpoint = Endpoint {
        address: Address::Socket(upstream),
        weight: 1,
        workload: "service".into(),
        labels: Arc::default(),
        locality: Locality::default(),
        priority: 0,
        locality_weight: None,
    };
    let name = cluster.name.clone();
    let endpoints = EndpointSet { cluster: name.clone(), endpoints: vec![endpoint] };
    model.clusters.insert(name.clone(), Arc::new(cluster));
    model.endpoints.insert(name.clone(), Arc::new(endpoints));
    let destination = Destination {
        cluster: name,
        weight: 1,
        authority: None,
        request_headers: vec![],
        response_headers: vec![],
    };
    host(&mut model, "*", forward(destination));
    model
}

/// Sends everything to one destination.
pub(crate) fn forward(destination: Destination) -> Action {
    Action::Forward(Forward { destinations: vec![destination], ..Forward::default() })
}

/// A policy that tries twice more under these conditions, and does not wait.
pub(crate) fn retries(on: &[RetryCondition]) -> Option<RetryPolicy> {
    Some(RetryPolicy {
        attempts: 2,
        per_try_timeout: None,
        on: on.iter().copied().collect(),
        statuses: vec![],
        backoff: Duration::ZERO,
        max_backoff: Duration::ZERO,
        avoid_previous_hosts: None,
    })
}

/// Gives a domain one rule.
pub(crate) fn host(model: &mut Model, domain: &str, action: Action) {
    let key = VirtualHostKey { table: "http.80".into(), domain: HostPattern::parse(domain) };
    let rule = RuleRef {
        object: ObjectRef::new("VirtualService", "default", "test"),
        index: 0,
        match_index: None,
        root: None,
    };
    let route = Route {
        name: "".into(),
        rule,
        origin: Origin::default(),
        matches: RouteMatch::default(),
        cors: None,
        action: Arc::new(action),
    };
    let host = VirtualHost { key: key.clone(), routes: vec![Arc::new(route)], https_redirect: false };
    model.virtual_hosts.insert(key, Arc::new(host));
}

/// The first rule's action, to change it.
pub(crate) fn change(model: &mut Model, domain: &str, f: impl FnOnce(&mut Forward)) {
    let key = VirtualHostKey { table: "http.80".into(), domain: HostPattern::parse(domain) };
    let host = Arc::make_mut(model.virtual_hosts.get_mut(&key).unwrap());
    let route = Arc::make_mut(&mut host.routes[0]);
    let Action::Forward(forward) = Arc::make_mut(&mut route.action) else { panic!("not a forward") };
    f(forward);
}

/// A worker on which the model is live. Must be made in a runtime.
pub(crate) fn worker(model: &Model, limits: Limits) -> Rc<Worker> {
    crate::tls::install_provider();
    let mut registry = Registry::new(tokio::runtime::Handle::current(), SystemResolver::default(), &[]);
    let fetch = HttpFetch::new(&KeyFetching::default()).unwrap();
    let mut keys = KeyStore::over_network(tokio::runtime::Handle::current(), fetch);
    let snapshot = Snapshot {
        generation: 1,
        table: Table::compile(model).table,
        clusters: registry.update(model, &Credentials::load(model, &Credentials::default())),
        tls: ServerConfigs::default(),
        mesh: model.mesh.clone(),
        authentication: Authenticator::build(&model.authentication, None, &mut keys).0.map(Arc::new),
    };
    let identity = Identity { workload: "test".into(), namespace: "test".into() };
    Rc::new(Worker {
        rates: Rates::of(&limits),
        limits,
        pool: Pool::new(Connector::new()),
        streams: Tasks::default(),
        telemetry: Telemetry::new(&identity).worker(),
        draining: Arc::default(),
        cut: Cut::default(),
        explain_errors: true,
        proxy_protocol_from: Vec::new(),
        mirrors: Mirrors::default(),
        checks: Default::default(),
        tokens: TokenCache::default(),
        overload: Arc::new(Overload::new(None)),
        resting: Resting::default(),
        cache: SnapshotCache::new(Arc::new(Live::new(snapshot))),
    })
}

/// A connection on the listener.
pub(crate) fn connection() -> Rc<Connection> {
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Rc::new(Connection {
        id: 1,
        listener: KEY,
        local: at(80),
        peer: at(40000),
        proxy: None,
        tls: None,
        passed_sni: None,
        last: LastSnapshot::default(),
        requests: Default::default(),
        rest: Default::default(),
        began: crate::l4::Began::now(),
    })
}

/// What is left of the turn that the runtime gives to the task.
pub(crate) fn spend_budget(cx: &mut Context<'_>) {
    while let Poll::Ready(turn) = poll_proceed(cx) {
        turn.made_progress();
    }
}
