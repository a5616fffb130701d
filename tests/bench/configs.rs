//! What the other proxies are told: the same hundred hosts with nine prefixes, header operations, request ids, policies,
//! keep-alive on both sides and a JSON access log to nowhere, buffered where the proxy can.

use serde_json::{Value, json};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use tidegate_tests::Identity;
use tidegate_tests::load::{ADMITTED, BANNED, CLOSED, GRPC_HOST, HOSTS, METHODS, OPEN, PREFIXES, host};

/// Where a proxy lives.
pub(crate) struct Site<'a> {
    /// A folder of its own.
    pub(crate) home: &'a Path,
    /// An address of its own: plaintext on ports 8080 and 8081, TLS on 8443.
    pub(crate) ip: Ipv4Addr,
    pub(crate) origin: SocketAddr,
    /// The origin that wants TLS, and is verified by this authority.
    pub(crate) secure: SocketAddr,
    pub(crate) authority: &'a str,
    pub(crate) identity: &'a Identity,
    /// Whether requests are logged.
    pub(crate) logs: bool,
}

/// All but nginx's servers, and not closed.
pub(crate) fn nginx_base(site: &Site<'_>, workers: usize) -> String {
    let (origin, home) = (site.origin, site.home.display());
    let log = if site.logs { "/dev/null json buffer=64k flush=1s" } else { "off" };
    let (headers, grpc_headers) = (nginx_headers("proxy"), nginx_headers("grpc"));
    let admitted: String = ADMITTED.map(|network| format!("allow {network}; ")).concat();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary: String = temporary.iter().map(|t| format!(" {t}_temp_path {home}/{t};\n")).collect();
    format!(
        "user root; worker_processes {workers}; daemon off; pid {home}/pid; error_log stderr crit;
events {{ worker_connections 16000; }}
http {{
{temporary} log_format json escape=json '{{\"start_time\":\"$time_iso8601\",\"method\":\"$request_method\",\"path\":\"$request_uri\",\"protocol\":\"$server_protocol\",\"response_code\":$status,\"bytes_sent\":$body_bytes_sent,\"bytes_received\":$request_length,\"duration\":$request_time,\"upstream_service_time\":\"$upstream_response_time\",\"x_forwarded_for\":\"$proxy_add_x_forwarded_for\",\"user_agent\":\"$http_user_agent\",\"request_id\":\"$request_id\",\"authority\":\"$http_host\",\"upstream_host\":\"$upstream_addr\",\"downstream_remote_address\":\"$remote_addr:$remote_port\"}}';
 access_log {log};
 keepalive_requests 1000000000; keepalive_timeout 3600s; sendfile on; tcp_nodelay on;
 server_names_hash_max_size 65536; server_names_hash_bucket_size 128; variables_hash_max_size 2048;
 proxy_max_temp_file_size 0; client_body_buffer_size 16k; client_max_body_size 0; proxy_request_buffering off;
 upstream up {{ server {origin}; keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 3600s; }}
 upstream calls {{ server {origin}; keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 3600s; }}
 proxy_http_version 1.1; proxy_read_timeout 3600s; proxy_set_header Connection \"\"; {headers}
 {grpc_headers}
 deny {BANNED}; {admitted}deny all;
 add_header X-Served-By edge;
 ssl_certificate cert.pem; ssl_certificate_key key.pem; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets off;
"
    )
}

pub(crate) fn nginx(site: &Site<'_>) -> String {
    let ip = site.ip;
    let mut text = nginx_base(site, 1);
    let headers = nginx_headers("proxy");
    let [services, websocket, service] = OPEN;
    let methods = format!("limit_except {} {{ deny all; }}", METHODS.join(" "));
    let listen = format!("listen {ip}:8080; listen {ip}:8443 ssl http2;");
    let closed = format!("location {CLOSED} {{ deny all; proxy_pass http://up; }}");
    let websocket = format!(
        "location {websocket} {{ {methods} proxy_pass http://up; proxy_set_header Upgrade $http_upgrade; \
         proxy_set_header Connection upgrade; {headers} }}"
    );
    for n in 0..HOSTS {
        let _ = write!(text, " server {{ {listen} server_name {}; {closed} {websocket}", host(n));
        for prefix in 0..PREFIXES {
            let _ = write!(text, " location /svc{prefix}/ {{ {methods} proxy_pass http://up; }}");
        }
        text += " location / { deny all; proxy_pass http://up; } }\n";
    }
    let _ = writeln!(
        text,
        " server {{ {listen} server_name {GRPC_HOST}; location / {{ deny all; }} \
         location {service} {{ {methods} grpc_pass grpc://calls; }} }}"
    );
    let (secure, name) = (site.secure, host(0));
    let _ = writeln!(
        text,
        " server {{ listen {ip}:8081; {closed} location / {{ deny all; }} location {services} {{ {methods} \
         proxy_pass https://{secure}; proxy_ssl_verify on; \
         proxy_ssl_trusted_certificate ca.pem; proxy_ssl_name {name}; proxy_ssl_server_name on; \
         proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse off; }} }}"
    );
    text + "}\n"
}

/// What is sent on, by its `proxy` or its `grpc` module.
fn nginx_headers(module: &str) -> String {
    let fields = [
        ("Host", "$http_host"),
        ("X-Forwarded-For", "$proxy_add_x_forwarded_for"),
        ("X-Forwarded-Proto", "$scheme"),
        ("X-Debug", "\"\""),
        ("X-Edge", "edge"),
        ("X-Request-Id", "$request_id"),
    ];
    fields.map(|(name, value)| format!("{module}_set_header {name} {value};")).join(" ")
}

pub(crate) fn haproxy(site: &Site<'_>) -> String {
    let (ip, origin, home) = (site.ip, site.origin, site.home.display());
    let frontend = haproxy_frontend(site.logs);
    let (log_to, log) = if site.logs { ("log stdout format raw local0", "log global") } else { ("", "") };
    let mut text = format!(
        "global
  nbthread 1
  maxconn 9000
  {log_to}
  tune.ssl.cachesize 0
defaults
  mode http
  {log}
  option http-keep-alive
  http-reuse always
  timeout connect 5s
  timeout client 3600s
  timeout server 3600s
  timeout http-keep-alive 3600s
frontend f
  bind {ip}:8080
  bind {ip}:8443 ssl crt {home}/both.pem alpn h2,http/1.1 no-tls-tickets
{frontend}  use_backend %[req.hdr(host),field(1,:),lower,map({home}/hosts.map,none)]
backend none
  http-request deny deny_status 404
backend calls
  server s {origin} proto h2 pool-max-conn 1024 pool-purge-delay 3600s
"
    );
    for prefix in 0..=PREFIXES {
        let _ = writeln!(
            text,
            "backend up{prefix}\n  server s {origin} pool-max-conn 1024 pool-purge-delay 3600s"
        );
    }
    text = text.replace("  use_backend", &(prefixes() + "  use_backend"));
    let (secure, name) = (site.secure, host(0));
    let _ = write!(
        text,
        "frontend g
  bind {ip}:8081
{frontend}  default_backend secure
backend secure
  http-reuse never
  option http-server-close
  server s {secure} ssl verify required ca-file {home}/ca.pem sni str({name}) verifyhost {name} no-ssl-reuse ssl-min-ver TLSv1.3
"
    );
    text
}

/// What HAProxy does to each request, and logs of it.
fn haproxy_frontend(logs: bool) -> String {
    let mut text = format!(
        "  http-request deny if {{ path_beg {CLOSED} }} || {{ src {BANNED} }}
  http-request deny unless {{ src {} }} {{ method {} }} {{ path_beg {} }}
",
        ADMITTED.join(" "),
        METHODS.join(" "),
        OPEN.join(" ")
    );
    if logs {
        text += HAPROXY_LOG;
    }
    text + HAPROXY_HEADERS
}

const HAPROXY_LOG: &str = r#"  log-format '{"start_time":"%T","method":"%HM","path":"%HU","protocol":"%HV","response_code":%ST,"bytes_sent":%B,"bytes_received":%U,"duration":%Ta,"upstream_service_time":%Tr,"user_agent":"%[capture.req.hdr(0)]","request_id":"%ID","authority":"%[capture.req.hdr(1)]","upstream_host":"%si:%sp","downstream_remote_address":"%ci:%cp"}'
  capture request header User-Agent len 200
  capture request header Host len 100
"#;

const HAPROXY_HEADERS: &str = "  option forwardfor
  unique-id-format %[uuid()]
  unique-id-header X-Request-Id
  http-request set-header X-Forwarded-Proto http
  http-request del-header X-Debug
  http-request set-header X-Edge edge
  http-response set-header X-Served-By edge
";

/// HAProxy asks for the path first: a backend for each prefix of the known hosts.
fn prefixes() -> String {
    (0..PREFIXES).map(|p| format!("  use_backend up{p} if {{ path_beg /svc{p}/ }}\n")).collect()
}

pub(crate) fn haproxy_hosts() -> String {
    let hosts = (0..HOSTS).map(|n| format!("{} up{PREFIXES}\n", host(n)));
    hosts.chain([format!("{GRPC_HOST} calls\n")]).collect()
}

pub(crate) fn envoy(site: &Site<'_>) -> Value {
    let cluster = |name: &str| {
        json!({
            "name": name, "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}]},
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(site.origin)}}]}]},
        })
    };
    let mut calls = cluster("calls");
    calls["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }});
    let tls = json!({"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "disable_stateless_session_resumption": true,
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificates": [{
                "certificate_chain": {"filename": site.home.join("cert.pem")},
                "private_key": {"filename": site.home.join("key.pem")},
            }],
        },
    }});
    json!({"static_resources": {
        "clusters": [cluster("up"), calls],
        "listeners": [listener(site, 8080, None), listener(site, 8443, Some(tls))],
    }})
}

fn address(at: SocketAddr) -> Value {
    json!({"socket_address": {"address": at.ip(), "port_value": at.port()}})
}

fn listener(site: &Site<'_>, port: u16, tls: Option<Value>) -> Value {
    let mut hosts: Vec<Value> = (0..HOSTS).map(virtual_host).collect();
    hosts.push(json!({"name": "calls", "domains": [GRPC_HOST], "routes": [route("/", "calls")]}));
    let header = |name: &str| json!({"key": name, "value": "edge"});
    let mut manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge", "codec_type": "AUTO", "use_remote_address": true, "normalize_path": true,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": [denied(), allowed(), {"name": "router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        }}],
        "route_config": {
            "name": "table", "virtual_hosts": hosts,
            "request_headers_to_remove": ["x-debug"],
            "request_headers_to_add": [{"header": header("x-edge"), "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
            "response_headers_to_add": [{"header": header("x-served-by"), "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
        },
    });
    if site.logs {
        manager["access_log"] = json!([{"name": "file", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": "/dev/null", "log_format": {"json_format": access_log()},
        }}]);
    }
    let mut chain = json!({"filters": [{"name": "http", "typed_config": manager}]});
    if let Some(tls) = tls {
        chain["transport_socket"] = tls;
    }
    json!({"name": format!("on-{port}"), "address": address(SocketAddr::new(site.ip.into(), port)), "filter_chains": [chain]})
}

fn virtual_host(n: usize) -> Value {
    let prefixes = (0..PREFIXES).map(|p| format!("/svc{p}/")).chain(["/".to_owned()]);
    let routes: Vec<Value> = prefixes.map(|prefix| route(&prefix, "up")).collect();
    json!({"name": host(n), "domains": [host(n)], "routes": routes})
}

fn route(prefix: &str, cluster: &str) -> Value {
    json!({"match": {"prefix": prefix}, "route": {"cluster": cluster, "timeout": "0s"}})
}

fn denied() -> Value {
    access_control(
        "DENY",
        &json!({
            "path": {"permissions": [path(CLOSED)], "principals": [{"any": true}]},
            "network": {"permissions": [{"any": true}], "principals": [network(BANNED)]},
        }),
    )
}

fn allowed() -> Value {
    let method = |method| json!({"header": {"name": ":method", "string_match": {"exact": method}}});
    let [methods, paths] = [METHODS.map(method).to_vec(), OPEN.map(path).to_vec()];
    let both =
        json!({"and_rules": {"rules": [{"or_rules": {"rules": methods}}, {"or_rules": {"rules": paths}}]}});
    access_control("ALLOW", &json!({"open": {"permissions": [both], "principals": ADMITTED.map(network)}}))
}

fn access_control(action: &str, policies: &Value) -> Value {
    json!({"name": action, "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": {"action": action, "policies": policies},
    }})
}

fn path(prefix: &str) -> Value {
    json!({"url_path": {"path": {"prefix": prefix}}})
}

fn network(cidr: &str) -> Value {
    let (address, length) = cidr.split_once('/').unwrap_or((cidr, "32"));
    json!({"direct_remote_ip": {"address_prefix": address, "prefix_len": length.parse::<u8>().unwrap_or(32)}})
}

fn access_log() -> Value {
    json!({
        "start_time": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
        "protocol": "%PROTOCOL%", "response_code": "%RESPONSE_CODE%", "response_flags": "%RESPONSE_FLAGS%",
        "response_code_details": "%RESPONSE_CODE_DETAILS%", "bytes_received": "%BYTES_RECEIVED%",
        "bytes_sent": "%BYTES_SENT%", "duration": "%DURATION%",
        "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%", "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
        "user_agent": "%REQ(USER-AGENT)%", "request_id": "%REQ(X-REQUEST-ID)%", "authority": "%REQ(:AUTHORITY)%",
        "upstream_host": "%UPSTREAM_HOST%", "upstream_cluster": "%UPSTREAM_CLUSTER%",
        "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
        "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
        "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
        "requested_server_name": "%REQUESTED_SERVER_NAME%", "route_name": "%ROUTE_NAME%",
    })
}
