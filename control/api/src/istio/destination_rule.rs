use super::PortSelector;
use crate::decode::{fields, names};
use std::collections::BTreeMap;
use std::time::Duration;

fields! {
    /// What happens to requests after they were routed to a host.
    pub struct DestinationRule {
        /// The host; short names are in the object's namespace.
        "host" => host: String,
        /// Policy for all of it.
        "trafficPolicy" => traffic_policy: Option<TrafficPolicy>,
        /// Named parts of it.
        "subsets" => subsets: Vec<Subset>,
        /// Namespaces that see it.
        "exportTo" => export_to: Vec<String>,
        /// Clients that it applies to.
        "workloadSelector" => workload_selector: Option<LabelSelector>,
    }

    /// Labels of workloads.
    pub struct LabelSelector {
        /// All of these.
        "matchLabels" => match_labels: BTreeMap<String, String>,
    }

    /// A named part of a service's endpoints.
    pub struct Subset {
        /// Its name.
        "name" => name: String,
        /// Labels that its endpoints have; empty is all of them.
        "labels" => labels: BTreeMap<String, String>,
        /// Policy that overrides the rule's.
        "trafficPolicy" => traffic_policy: Option<TrafficPolicy>,
    }

    /// Policy towards a service.
    pub struct TrafficPolicy {
        /// How an endpoint is picked.
        "loadBalancer" => load_balancer: Option<LoadBalancerSettings>,
        /// Limits of connections.
        "connectionPool" => connection_pool: Option<ConnectionPoolSettings>,
        /// When an endpoint is left out.
        "outlierDetection" => outlier_detection: Option<OutlierDetection>,
        /// TLS towards it.
        "tls" => tls: Option<ClientTlsSettings>,
        /// Policy by port.
        "portLevelSettings" => port_level_settings: Vec<PortTrafficPolicy>,
        /// Tunnel through another host.
        "tunnel" => tunnel: Option<TunnelSettings>,
        /// Send the PROXY protocol.
        "proxyProtocol" => proxy_protocol: Option<ProxyProtocol>,
        /// How many retries may be under way.
        "retryBudget" => retry_budget: Option<RetryBudget>,
    }

    /// Policy towards one port of a service.
    pub struct PortTrafficPolicy {
        /// The port.
        "port" => port: Option<PortSelector>,
        /// How an endpoint is picked.
        "loadBalancer" => load_balancer: Option<LoadBalancerSettings>,
        /// Limits of connections.
        "connectionPool" => connection_pool: Option<ConnectionPoolSettings>,
        /// When an endpoint is left out.
        "outlierDetection" => outlier_detection: Option<OutlierDetection>,
        /// TLS towards it.
        "tls" => tls: Option<ClientTlsSettings>,
    }

    /// A tunnel through another host.
    pub struct TunnelSettings {
        /// CONNECT or POST.
        "protocol" => protocol: Option<String>,
        /// Where the tunnel ends.
        "targetHost" => target_host: String,
        /// Its port there.
        "targetPort" => target_port: u32,
    }

    /// The PROXY protocol.
    pub struct ProxyProtocol {
        /// Its version; V1 when absent.
        "version" => version: Option<ProxyProtocolVersion>,
    }

    /// How many retries may be under way.
    pub struct RetryBudget {
        /// Percentage of active requests.
        "percent" => percent: Option<f64>,
        /// How many are always allowed.
        "minRetryConcurrency" => min_retry_concurrency: Option<u32>,
        /// The time that is looked back.
        "budgetInterval" => budget_interval: Option<Duration>,
    }

    /// How an endpoint is picked.
    pub struct LoadBalancerSettings one_of ["simple", "consistentHash", "backendUtilization"] {
        /// By a simple rule.
        "simple" => simple: Option<SimpleLb>,
        /// By a hash of the request.
        "consistentHash" => consistent_hash: Option<ConsistentHashLb>,
        /// By the load that backends report.
        "backendUtilization" => backend_utilization: Option<BackendUtilizationLb>,
        /// By locality first.
        "localityLbSetting" => locality_lb_setting: Option<LocalityLoadBalancerSetting>,
        /// By zone first.
        "zoneAwareLbSetting" => zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting>,
        /// Ramp-up of new endpoints (deprecated form).
        "warmupDurationSecs" => warmup_duration_secs: Option<Duration>,
        /// Ramp-up of new endpoints.
        "warmup" => warmup: Option<WarmupConfiguration>,
    }

    /// By the load that backends report.
    pub struct BackendUtilizationLb {
        /// Penalty of errors, in percent.
        "errorUtilizationPenaltyPercent" => error_utilization_penalty_percent: Option<u32>,
        /// Metrics that count.
        "metricNamesForComputingUtilization" => metric_names_for_computing_utilization: Vec<String>,
        /// How long a weight is valid.
        "weightExpirationPeriod" => weight_expiration_period: Option<Duration>,
        /// How long weights settle.
        "weightStabilizationPeriod" => weight_stabilization_period: Option<Duration>,
        /// How often weights change.
        "weightUpdatePeriod" => weight_update_period: Option<Duration>,
    }

    /// By a hash of the request.
    pub struct ConsistentHashLb
        one_of ["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"]
        one_of ["ringHash", "maglev"]
    {
        /// Of this header.
        "httpHeaderName" => http_header_name: Option<String>,
        /// Of this cookie, made when there is none.
        "httpCookie" => http_cookie: Option<HttpCookie>,
        /// Of the client's address.
        "useSourceIp" => use_source_ip: Option<bool>,
        /// Of this query parameter.
        "httpQueryParameterName" => http_query_parameter_name: Option<String>,
        /// Smallest size of the ring (deprecated form).
        "minimumRingSize" => minimum_ring_size: Option<u64>,
        /// By a ring.
        "ringHash" => ring_hash: Option<RingHash>,
        /// By a Maglev table.
        "maglev" => maglev: Option<MagLev>,
    }

    /// A cookie for session affinity.
    pub struct HttpCookie {
        /// Its name.
        "name" => name: String,
        /// Its path.
        "path" => path: Option<String>,
        /// Its lifetime; 0 is a session cookie, absent is never made.
        "ttl" => ttl: Option<Duration>,
        /// More attributes.
        "attributes" => attributes: Vec<HttpCookieAttribute>,
    }

    /// An attribute of a cookie.
    pub struct HttpCookieAttribute {
        /// Its name.
        "name" => name: String,
        /// Its value.
        "value" => value: Option<String>,
    }

    /// A hash ring.
    pub struct RingHash {
        /// Smallest size.
        "minimumRingSize" => minimum_ring_size: Option<u64>,
    }

    /// A Maglev table.
    pub struct MagLev {
        /// Its size.
        "tableSize" => table_size: Option<u64>,
    }

    /// By locality first.
    pub struct LocalityLoadBalancerSetting {
        /// Shares by locality of the client.
        "distribute" => distribute: Vec<LocalityDistribute>,
        /// Where to when a locality fails.
        "failover" => failover: Vec<LocalityFailover>,
        /// Labels by which endpoints are ranked.
        "failoverPriority" => failover_priority: Vec<String>,
        /// Whether it is on.
        "enabled" => enabled: Option<bool>,
    }

    /// Shares by locality of the client.
    pub struct LocalityDistribute {
        /// The client's locality.
        "from" => from: Option<String>,
        /// Percent by locality.
        "to" => to: BTreeMap<String, u32>,
    }

    /// Where to when a locality fails.
    pub struct LocalityFailover {
        /// The region that fails.
        "from" => from: Option<String>,
        /// The region in its place.
        "to" => to: Option<String>,
    }

    /// By zone first.
    pub struct ZoneAwareLoadBalancerSetting {
        /// Whether it is on.
        "enabled" => enabled: Option<bool>,
        /// Where to when a locality fails.
        "failover" => failover: Vec<LocalityFailover>,
        /// Labels by which endpoints are ranked.
        "failoverPriority" => failover_priority: Vec<String>,
        /// Fewest endpoints for it to apply.
        "minClusterSize" => min_cluster_size: Option<u32>,
    }

    /// Ramp-up of new endpoints.
    pub struct WarmupConfiguration {
        /// How long.
        "duration" => duration: Duration,
        /// The share that they start with, in percent.
        "minimumPercent" => minimum_percent: Option<f64>,
        /// How fast it grows.
        "aggression" => aggression: Option<f64>,
    }

    /// Limits of connections.
    pub struct ConnectionPoolSettings {
        /// Of TCP.
        "tcp" => tcp: Option<TcpSettings>,
        /// Of HTTP.
        "http" => http: Option<HttpSettings>,
    }

    /// Limits of TCP.
    pub struct TcpSettings {
        /// How many connections.
        "maxConnections" => max_connections: Option<i32>,
        /// How long a connect may take; 10 s when absent.
        "connectTimeout" => connect_timeout: Option<Duration>,
        /// Keepalive of the socket.
        "tcpKeepalive" => tcp_keepalive: Option<TcpKeepalive>,
        /// How long a connection may live.
        "maxConnectionDuration" => max_connection_duration: Option<Duration>,
        /// How long a connection may be idle.
        "idleTimeout" => idle_timeout: Option<Duration>,
    }

    /// Keepalive of a socket.
    pub struct TcpKeepalive {
        /// How many probes are lost before the connection is.
        "probes" => probes: Option<u32>,
        /// Idle time before the first.
        "time" => time: Option<Duration>,
        /// Time between them.
        "interval" => interval: Option<Duration>,
    }

    /// Limits of HTTP.
    pub struct HttpSettings {
        /// How many requests may wait for a connection.
        "http1MaxPendingRequests" => http1_max_pending_requests: Option<i32>,
        /// How many requests may be active.
        "http2MaxRequests" => http2_max_requests: Option<i32>,
        /// How many requests a connection carries.
        "maxRequestsPerConnection" => max_requests_per_connection: Option<i32>,
        /// How many retries may be under way.
        "maxRetries" => max_retries: Option<i32>,
        /// How long a connection may be idle.
        "idleTimeout" => idle_timeout: Option<Duration>,
        /// Whether HTTP/1.1 becomes HTTP/2.
        "h2UpgradePolicy" => h2_upgrade_policy: Option<H2UpgradePolicy>,
        /// Whether the client's protocol is kept.
        "useClientProtocol" => use_client_protocol: Option<bool>,
        /// How many streams on one HTTP/2 connection.
        "maxConcurrentStreams" => max_concurrent_streams: Option<i32>,
        /// Pings on HTTP/2 connections.
        "http2KeepAlive" => http2_keep_alive: Option<Http2KeepAlive>,
    }

    /// Pings on HTTP/2 connections.
    pub struct Http2KeepAlive {
        /// Time between them.
        "interval" => interval: Option<Duration>,
        /// Time to wait for the answer.
        "timeout" => timeout: Option<Duration>,
    }

    /// When an endpoint is left out.
    pub struct OutlierDetection {
        /// Errors in a row (deprecated).
        "consecutiveErrors" => consecutive_errors: Option<i32>,
        /// Whether local errors are counted apart.
        "splitExternalLocalOriginErrors" => split_external_local_origin_errors: Option<bool>,
        /// Local errors in a row.
        "consecutiveLocalOriginFailures" => consecutive_local_origin_failures: Option<u32>,
        /// 502, 503 and 504 in a row.
        "consecutiveGatewayErrors" => consecutive_gateway_errors: Option<u32>,
        /// 5xx in a row; 5 when absent.
        "consecutive5xxErrors" => consecutive_5xx_errors: Option<u32>,
        /// Time between looks.
        "interval" => interval: Option<Duration>,
        /// Shortest time that an endpoint is left out.
        "baseEjectionTime" => base_ejection_time: Option<Duration>,
        /// Most endpoints that may be left out, in percent.
        "maxEjectionPercent" => max_ejection_percent: Option<i32>,
        /// Fewest healthy endpoints for it to apply, in percent.
        "minHealthPercent" => min_health_percent: Option<i32>,
        /// Status codes that count as errors.
        "outlierDetectionHttpErrorCodes" => outlier_detection_http_error_codes: Vec<u32>,
    }

    /// TLS towards a service.
    pub struct ClientTlsSettings {
        /// Whether and how; DISABLE when absent.
        "mode" => mode: Option<ClientTlsMode>,
        /// File of the client's certificate.
        "clientCertificate" => client_certificate: Option<String>,
        /// File of the client's key.
        "privateKey" => private_key: Option<String>,
        /// File of the authorities.
        "caCertificates" => ca_certificates: Option<String>,
        /// Secret that holds them.
        "credentialName" => credential_name: Option<String>,
        /// Names that the server's certificate may have.
        "subjectAltNames" => subject_alt_names: Vec<String>,
        /// The server name to ask for.
        "sni" => sni: Option<String>,
        /// Accept a certificate that does not verify.
        "insecureSkipVerify" => insecure_skip_verify: Option<bool>,
        /// File of the revocation list.
        "caCrl" => ca_crl: Option<String>,
    }
}

names! {
    /// A simple rule for picking an endpoint.
    pub enum SimpleLb {
        /// The default: LEAST_REQUEST.
        "UNSPECIFIED" => Unspecified,
        /// Deprecated name of LEAST_REQUEST.
        "LEAST_CONN" => LeastConn,
        /// Any.
        "RANDOM" => Random,
        /// The address that the client asked for.
        "PASSTHROUGH" => Passthrough,
        /// One after the other.
        "ROUND_ROBIN" => RoundRobin,
        /// The less loaded of two.
        "LEAST_REQUEST" => LeastRequest,
    }

    /// Whether HTTP/1.1 becomes HTTP/2 towards a service.
    pub enum H2UpgradePolicy {
        /// As the mesh config says.
        "DEFAULT" => Default,
        /// No.
        "DO_NOT_UPGRADE" => DoNotUpgrade,
        /// Yes.
        "UPGRADE" => Upgrade,
    }

    /// A version of the PROXY protocol.
    pub enum ProxyProtocolVersion {
        /// Text.
        "V1" => V1,
        /// Binary.
        "V2" => V2,
    }

    /// TLS towards a service.
    pub enum ClientTlsMode {
        /// None.
        "DISABLE" => Disable,
        /// TLS.
        "SIMPLE" => Simple,
        /// TLS with a client certificate.
        "MUTUAL" => Mutual,
        /// TLS with the mesh's own certificate.
        "ISTIO_MUTUAL" => IstioMutual,
    }
}
