//! A table of a realistic size: a hundred hosts with nine prefixes each.

use super::{SPANS, WEBSOCKET};
use crate::{Identity, objects};
use std::fmt::Write as _;
use std::net::SocketAddr;

/// Virtual hosts.
pub const HOSTS: usize = 100;
/// Prefixes of each beside `/`.
pub const PREFIXES: usize = 8;

/// The virtual host whose origin speaks gRPC.
pub const GRPC_HOST: &str = "grpc.bench.example";
/// What the paths that are denied begin with.
pub const CLOSED: &str = "/admin";
/// A network that is denied.
pub const BANNED: &str = "203.0.113.0/24";
/// The networks that are admitted.
pub const ADMITTED: [&str; 2] = ["127.0.0.0/8", "10.0.0.0/8"];
/// The methods that are allowed.
pub const METHODS: [&str; 2] = ["GET", "POST"];
/// What the paths that are allowed begin with.
pub const OPEN: [&str; 3] = ["/svc", WEBSOCKET, "/bench.Echo/"];

/// The name of a virtual host; requests go to the first.
pub fn host(n: usize) -> String {
    if n == 0 { "bench.example".to_owned() } else { format!("h{n}.bench.example") }
}

/// What every rule of [`featured_site`] has beside its route.
const FEATURES: &str = r#"    timeout: 15s
    retries: {attempts: 3, perTryTimeout: 5s, retryOn: "5xx,reset,connect-failure"}
    headers:
      request: {set: {x-request: "%REQ(x-request-id)%"}, add: {x-hop: tidegate}, remove: [x-internal]}
      response: {set: {x-frame-options: DENY}, add: {vary: Origin}, remove: [x-powered-by]}
"#;

/// The config of the gateway: listeners on the ports 8080 and, with a certificate, 8443.
pub fn site(origins: &[SocketAddr], tls: Option<&Identity>) -> String {
    of_rules(origins, tls, "")
}

/// More for [`site`]: on port 8081, an origin that is spoken to over TLS, verified by an authority (a file), with a new
/// connection for each request.
pub fn tls_upstream(origin: SocketAddr, authority: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: secure, namespace: bench}}\n\
         spec:\n  hosts: [secure.example]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n\
         \x20 ports: [{{number: 80, name: http, protocol: HTTP}}]\n\
         \x20 endpoints: [{{address: {}, ports: {{http: {}}}}}]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: secure, namespace: bench}}\n\
         spec:\n  host: secure.example\n  trafficPolicy:\n    tls: {{mode: SIMPLE, sni: {}, caCertificates: {authority}}}\n\
         \x20   connectionPool: {{http: {{maxRequestsPerConnection: 1}}}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: secure, namespace: bench}}\nspec:\n\
         \x20 selector: {{istio: ingressgateway}}\n  servers:\n\
         \x20 - port: {{number: 8081, name: http, protocol: HTTP}}\n    hosts: ['*']\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: secure, namespace: bench}}\nspec:\n\
         \x20 hosts: ['*']\n  gateways: [secure]\n  http:\n  - route:\n    - destination: {{host: secure.example}}\n\
         \x20     headers:\n        request: {{remove: [x-debug], set: {{x-edge: tidegate}}}}\n\
         \x20       response: {{set: {{x-served-by: edge}}}}\n",
        origin.ip(),
        origin.port(),
        host(0)
    )
}

/// More for [`site`]: a host whose origin speaks gRPC, in plaintext.
pub fn grpc_upstream(origin: SocketAddr) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: grpc, namespace: bench}}\n\
         spec:\n  hosts: [calls.example]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n\
         \x20 ports: [{{number: 80, name: grpc, protocol: GRPC}}]\n\
         \x20 endpoints: [{{address: {}, ports: {{grpc: {}}}}}]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: grpc, namespace: bench}}\nspec:\n\
         \x20 hosts: [{GRPC_HOST}]\n  gateways: [edge]\n  http:\n  - route:\n    - destination: {{host: calls.example}}\n\
         \x20     headers:\n        request: {{remove: [x-debug], set: {{x-edge: tidegate}}}}\n\
         \x20       response: {{set: {{x-served-by: edge}}}}\n",
        origin.ip(),
        origin.port(),
    )
}

/// More for [`site`]: who may do what. Denied are a path and a network that never come; allowed is what the load does, by
/// path and method, from loopback and another network.
pub fn policies() -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: closed, namespace: istio-system}}\n\
         spec:\n  action: DENY\n  rules:\n\
         \x20 - to: [{{operation: {{paths: [{CLOSED}*]}}}}]\n\
         \x20 - from: [{{source: {{ipBlocks: [{BANNED}]}}}}]\n---\n\
         apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: open, namespace: istio-system}}\n\
         spec:\n  action: ALLOW\n  rules:\n\
         \x20 - from: [{{source: {{ipBlocks: [{}]}}}}]\n\
         \x20   to: [{{operation: {{methods: [{}], paths: [{}]}}}}]\n",
        ADMITTED.join(", "),
        METHODS.join(", "),
        OPEN.map(|prefix| format!("{prefix}*")).join(", ")
    )
}

/// More for [`site`]: the access log, as JSON on stdout, or none.
pub fn access_log(on: bool) -> String {
    let log =
        if on { "{accessLogFile: /dev/stdout, accessLogEncoding: JSON}" } else { "{accessLogFile: ''}" };
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\n\
         data:\n  mesh: \"{log}\"\n"
    )
}

/// The same without TLS, where every rule has a timeout, retries and more header operations, and requests are traced:
/// so many percent are sampled, whose spans go to the origin.
pub fn featured_site(origins: &[SocketAddr], sampled: u32) -> String {
    let mut text = of_rules(origins, None, FEATURES);
    text += "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n";
    text += "data:\n  mesh: |\n    defaultProviders: {tracing: [collector]}\n";
    let _ =
        writeln!(text, "    defaultConfig: {{tracing: {{sampling: {sampled}}}}}\n    extensionProviders:");
    let provider = format!("{{service: origin.example, port: 80, http: {{path: {SPANS}}}}}");
    let _ = writeln!(text, "    - {{name: collector, opentelemetry: {provider}}}");
    text
}

fn of_rules(origins: &[SocketAddr], tls: Option<&Identity>, features: &str) -> String {
    let hosts = (0..HOSTS).map(|n| virtual_service(n, 0..=PREFIXES, features));
    hosts.fold(base(origins, tls), |text, host| text + "---\n" + &host)
}

/// All but the rules.
pub(super) fn base(origins: &[SocketAddr], tls: Option<&Identity>) -> String {
    let endpoints: Vec<_> =
        origins.iter().map(|o| format!("{{address: {}, ports: {{http: {}}}}}", o.ip(), o.port())).collect();
    let mut text = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: origin, namespace: bench}}\n\
         spec:\n  hosts: [origin.example]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n\
         \x20 ports: [{{number: 80, name: http, protocol: HTTP}}]\n\
         \x20 endpoints: [{}]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: origin, namespace: bench}}\nspec:\n\
         \x20 host: origin.example\n  trafficPolicy:\n\
         \x20   loadBalancer: {{simple: LEAST_REQUEST}}\n\
         \x20   outlierDetection: {{consecutive5xxErrors: 5}}\n\
         \x20   connectionPool:\n      tcp: {{maxConnections: 1000}}\n\
         \x20     http: {{http1MaxPendingRequests: 1000, http2MaxRequests: 1000}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: bench}}\nspec:\n\
         \x20 selector: {{istio: ingressgateway}}\n  servers:\n\
         \x20 - port: {{number: 8080, name: http, protocol: HTTP}}\n    hosts: ['*']\n",
        endpoints.join(", ")
    );
    if let Some(identity) = tls {
        text += "  - port: {number: 8443, name: https, protocol: HTTPS}\n    hosts: ['*']\n";
        text += "    tls: {mode: SIMPLE, credentialName: edge}\n";
        text += "---\n";
        text += &objects::secret("edge", identity);
    }
    text
}

/// The rules of a host: one for each of these prefixes, of which the last, [`PREFIXES`], stands for `/`.
pub(super) fn virtual_service(n: usize, prefixes: impl IntoIterator<Item = usize>, features: &str) -> String {
    let mut text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\n".to_owned();
    let _ = writeln!(text, "metadata: {{name: h{n}, namespace: bench}}\nspec:\n  hosts: [{}]", host(n));
    text += "  gateways: [edge]\n  http:\n";
    for prefix in prefixes {
        if prefix == PREFIXES {
            text += "  - route:\n";
        } else {
            let _ = writeln!(text, "  - match: [{{uri: {{prefix: /svc{prefix}/}}}}]\n    route:");
        }
        text += "    - destination: {host: origin.example}\n      headers:\n";
        text += "        request: {remove: [x-debug], set: {x-edge: tidegate}}\n";
        text += "        response: {set: {x-served-by: edge}}\n";
        text += features;
    }
    text
}
