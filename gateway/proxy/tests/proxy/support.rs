//! Models, clients and upstreams for these tests.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_model::*;
use tidegate_proxy::{Dns, Identity, Inherited, KeyFetching, Limits, Options, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A data plane on loopback with two workers, without access log.
pub(crate) fn options() -> Options {
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    Options {
        bind: Some(any.ip()),
        concurrency: 2,
        limits: Limits {
            drain: Duration::from_secs(5),
            head_time: Duration::from_secs(2),
            handshake_time: Duration::from_secs(1),
            ..Limits::default()
        },
        admin: any,
        status: any,
        access_log: Some(AccessLog { file: "".into(), format: AccessLogFormat::DefaultText, filter: None }),
        explain_errors: true,
        proxy_protocol_from: vec!["127.0.0.0/8".parse().unwrap()],
        identity: Identity { workload: "test".into(), namespace: "test".into() },
        dns: Dns::default(),
        keys: KeyFetching { allowed: vec!["127.0.0.0/8".parse().unwrap()], ..KeyFetching::default() },
        explain: Arc::new(|query, _| match query.url.as_str() {
            "bad" => Err("url is not absolute".into()),
            url => Ok(json!({ "url": url, "method": query.method, "headers": query.headers })),
        }),
        inherited: Inherited::default(),
    }
}

/// So many requests at once use up what the runtime lets a connection do at a time, or a little less or more.
pub(crate) const TURN: std::ops::RangeInclusive<usize> = 120..=132;

pub(crate) fn start() -> Proxy {
    Proxy::start(options()).unwrap()
}

/// A listener's key; 127.0.0.`n` and a port that the system chooses.
pub(crate) fn key(n: u8) -> ListenerKey {
    ListenerKey { bind: Bind::Ip(IpAddr::V4(Ipv4Addr::new(127, 0, 0, n))), port: 0 }
}

pub(crate) fn address(proxy: &Proxy, key: ListenerKey) -> SocketAddr {
    proxy.addresses().into_iter().find(|(k, _)| *k == key).expect("the listener is open").1
}

/// Adds a plain listener with a route table named `http.N`, and gives back the table's name.
pub(crate) fn plain(model: &mut Model, key: ListenerKey) -> TableName {
    let table: TableName = format!("http.{key}").into();
    add_table(model, &table, false);
    listen(model, key, ListenerProtocol::Http(table.clone()));
    table
}

/// Adds a TLS listener with servers of `(table, hosts, secrets)`.
pub(crate) fn tls(model: &mut Model, key: ListenerKey, servers: &[(&str, &[&str], &[&str])]) {
    let servers = servers.iter().map(|(table, hosts, secrets)| {
        add_table(model, &(*table).into(), true);
        TlsServer {
            table: (*table).into(),
            hosts: hosts.iter().map(|h| (*h).into()).collect(),
            action: TlsAction::Http(TlsTermination {
                certificates: secrets.iter().map(|s| secret_key(s)).collect(),
                ..TlsTermination::default()
            }),
            owner: ObjectRef::new("Gateway", "test", "gateway"),
            index: 2,
            origin: origin(7),
        }
    });
    let servers = servers.collect();
    listen(model, key, ListenerProtocol::Tls(servers));
}

/// Adds a listener with these TLS servers.
pub(crate) fn tls_actions(model: &mut Model, key: ListenerKey, servers: Vec<(&str, &[&str], TlsAction)>) {
    let servers = servers.into_iter().map(|(table, hosts, action)| {
        if matches!(action, TlsAction::Http(_)) {
            add_table(model, &table.into(), true);
        }
        TlsServer {
            table: table.into(),
            hosts: hosts.iter().map(|h| (*h).into()).collect(),
            action,
            owner: ObjectRef::new("Gateway", "test", "gateway"),
            index: 2,
            origin: origin(7),
        }
    });
    let servers = servers.collect();
    listen(model, key, ListenerProtocol::Tls(servers));
}

/// Adds a listener whose connections go to a destination.
pub(crate) fn tcp(model: &mut Model, key: ListenerKey, route: Arc<TcpRoute>) {
    listen(model, key, ListenerProtocol::Tcp(route));
}

/// A route of connections to a cluster, which may stand still for so long.
pub(crate) fn tcp_route(cluster: ClusterName, idle_timeout: Option<Duration>) -> Arc<TcpRoute> {
    Arc::new(TcpRoute {
        rule: RuleRef {
            object: ObjectRef::new("VirtualService", "test", "tcp"),
            index: 0,
            match_index: None,
            root: None,
        },
        section: TcpSection::Tcp,
        origin: Origin::default(),
        destinations: vec![TcpDestination { cluster, weight: 1, idle_timeout }],
    })
}

/// Adds a cluster of these endpoints.
pub(crate) fn cluster(model: &mut Model, name: &str, endpoints: &[SocketAddr]) -> ClusterName {
    forward(model, name, endpoints);
    ClusterName::outbound(80, "", name)
}

/// How a server of [`tls`] terminates, to change it.
pub(crate) fn termination(server: &mut TlsServer) -> &mut TlsTermination {
    let TlsAction::Http(termination) = &mut server.action else { panic!("not terminated for HTTP") };
    termination
}

fn add_table(model: &mut Model, name: &TableName, tls: bool) {
    let table = RouteTable { name: name.clone(), server_port: if tls { 443 } else { 80 }, tls };
    model.route_tables.insert(name.clone(), Arc::new(table));
}

fn listen(model: &mut Model, key: ListenerKey, protocol: ListenerProtocol) {
    let owners = vec![ObjectRef::new("Gateway", "test", "gateway"), ObjectRef::new("Gateway", "b", "other")];
    let listener = Listener { key, protocol, owners, index: 1, origin: origin(3) };
    model.listeners.insert(key, Arc::new(listener));
}

/// A place in the file of the test's Gateway.
fn origin(line: u32) -> Origin {
    Origin { file: "gateway.yaml".into(), line, column: 5 }
}

pub(crate) fn secret_key(name: &str) -> SecretKey {
    SecretKey { namespace: "test".into(), name: name.into() }
}

/// Adds a self-signed certificate for `names`, and gives back its DER form.
pub(crate) fn secret(
    model: &mut Model,
    name: &str,
    names: &[&str],
    alg: &'static SignatureAlgorithm,
) -> Vec<u8> {
    let pair = KeyPair::generate_for(alg).unwrap();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&pair).unwrap();
    let secret = Secret {
        key: secret_key(name),
        certificate_chain: certificate.pem().into_bytes().into(),
        private_key: pair.serialize_pem().into_bytes().into(),
    };
    model.secrets.insert(secret.key.clone(), Arc::new(secret));
    certificate.der().to_vec()
}

/// Adds a virtual host for `domain` with these routes.
pub(crate) fn host(model: &mut Model, table: &TableName, domain: &str, routes: Vec<Route>) {
    let key = VirtualHostKey { table: table.clone(), domain: HostPattern::parse(domain) };
    let routes = routes.into_iter().map(Arc::new).collect();
    model.virtual_hosts.insert(key.clone(), Arc::new(VirtualHost { key, routes, https_redirect: false }));
}

/// A route that answers 200 with a text.
pub(crate) fn respond(text: &str) -> Route {
    route(Action::DirectResponse(DirectResponse {
        status: 200,
        body: text.as_bytes().into(),
        response_headers: Vec::new(),
        details: "direct_response".into(),
    }))
}

/// A route that sends everything to a cluster of these endpoints, which it adds to the model.
pub(crate) fn forward(model: &mut Model, name: &str, endpoints: &[SocketAddr]) -> Route {
    let cluster = ClusterName::outbound(80, "", name);
    let config = Cluster {
        name: cluster.clone(),
        host: name.into(),
        port: 80,
        subset: "".into(),
        service_name: name.into(),
        service_namespace: "test".into(),
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
    let endpoint = |address: &SocketAddr| Endpoint {
        address: Address::Socket(*address),
        weight: 1,
        workload: name.into(),
        labels: Arc::default(),
        locality: Locality::default(),
        priority: 0,
        locality_weight: None,
    };
    let endpoints = endpoints.iter().map(endpoint).collect();
    model.clusters.insert(cluster.clone(), Arc::new(config));
    model.endpoints.insert(cluster.clone(), Arc::new(EndpointSet { cluster: cluster.clone(), endpoints }));
    route(Action::Forward(Forward {
        destinations: vec![Destination {
            cluster,
            weight: 1,
            authority: None,
            request_headers: Vec::new(),
            response_headers: Vec::new(),
        }],
        ..Forward::default()
    }))
}

/// An upstream that answers with method, path and body, `/slow` after a while.
pub(crate) async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(async |request: http::Request<Incoming>| {
                if request.uri().path() == "/slow" {
                    tokio::time::sleep(SLOW).await;
                }
                let line = format!("{} {} ", request.method(), request.uri());
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let answer = [line.as_bytes(), &body].concat();
                Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(answer))))
            });
            let connection = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

/// What `/slow` takes.
pub(crate) const SLOW: Duration = Duration::from_millis(400);

fn route(action: Action) -> Route {
    Route {
        name: "".into(),
        rule: RuleRef {
            object: ObjectRef::new("VirtualService", "test", "test"),
            index: 0,
            match_index: None,
            root: None,
        },
        origin: Origin::default(),
        matches: RouteMatch::default(),
        cors: None,
        action: Arc::new(action),
    }
}

/// Sends bytes and reads until the other side closes, at most three seconds.
pub(crate) async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    read_to_end(&mut stream).await
}

pub(crate) async fn read_to_end<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut read = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(3), stream.read_to_end(&mut read)).await;
    String::from_utf8_lossy(&read).into_owned()
}

/// GET of the admin or status server: status and body.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let answer = exchange(address, request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0), body.to_owned())
}

pub(crate) async fn get_json(address: SocketAddr, path: &str) -> Value {
    serde_json::from_str(&get(address, path).await.1).unwrap()
}

/// A metric's value, with its labels as written.
pub(crate) async fn metric(proxy: &Proxy, name: &str) -> u64 {
    let text = get(proxy.status_address(), "/stats/prometheus").await.1;
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no metric {name} in:\n{text}")).parse().unwrap()
}

/// Waits until something is true, at most thirty seconds.
pub(crate) async fn eventually<F: AsyncFn() -> bool>(what: &str, condition: F) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < Duration::from_secs(30), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
