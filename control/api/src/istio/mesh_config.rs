use super::{
    ClientTlsSettings, ConnectionPoolSettings, HttpRetry, LocalityLoadBalancerSetting, OutlierDetection,
    ProxyConfig, TcpKeepalive, ZoneAwareLoadBalancerSetting,
};
use crate::decode::{fields, names};
use crate::value::Value;
use std::collections::BTreeMap;
use std::time::Duration;

fields! {
    /// Settings of the whole mesh: key `mesh` of the ConfigMap `istio`.
    ///
    /// What no gateway uses is kept as it was written.
    pub struct MeshConfig {
        /// Where the access log goes; empty is off.
        "accessLogFile" => access_log_file: Option<String>,
        /// Its format, in Envoy's format strings, or a JSON object of them.
        "accessLogFormat" => access_log_format: Option<String>,
        /// Text or JSON; TEXT when absent.
        "accessLogEncoding" => access_log_encoding: Option<AccessLogEncoding>,
        /// No access log for connections without a request.
        "disableEnvoyListenerLog" => disable_envoy_listener_log: Option<bool>,
        /// Send the access log by gRPC.
        "enableEnvoyAccessLogService" => enable_envoy_access_log_service: Option<bool>,
        /// Settings of every proxy.
        "defaultConfig" => default_config: Option<ProxyConfig>,
        /// How paths are normalized before matching.
        "pathNormalization" => path_normalization: Option<ProxyPathNormalization>,
        /// How long an upstream connect may take; 10 s when absent.
        "connectTimeout" => connect_timeout: Option<Duration>,
        /// How long to wait for a protocol to show.
        "protocolDetectionTimeout" => protocol_detection_timeout: Option<Duration>,
        /// Keepalive of upstream sockets.
        "tcpKeepalive" => tcp_keepalive: Option<TcpKeepalive>,
        /// How long HBONE connections may be idle.
        "hboneIdleTimeout" => hbone_idle_timeout: Option<Duration>,
        /// How often names are resolved when DNS fails.
        "dnsRefreshRate" => dns_refresh_rate: Option<Duration>,
        /// Whether HTTP/1.1 becomes HTTP/2 upstream.
        "h2UpgradePolicy" => h2_upgrade_policy: Option<MeshH2UpgradePolicy>,
        /// Retries where a route has none.
        "defaultHttpRetryPolicy" => default_http_retry_policy: Option<HttpRetry>,
        /// Policy where no DestinationRule has one.
        "defaultTrafficPolicy" => default_traffic_policy: Option<DefaultTrafficPolicy>,
        /// Locality load balancing where no DestinationRule has it.
        "localityLbSetting" => locality_lb_setting: Option<LocalityLoadBalancerSetting>,
        /// Zone-aware load balancing where no DestinationRule has it.
        "zoneAwareLbSetting" => zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting>,
        /// Who sees a Service whose annotation does not say it.
        "defaultServiceExportTo" => default_service_export_to: Vec<String>,
        /// Who sees a VirtualService that does not say it.
        "defaultVirtualServiceExportTo" => default_virtual_service_export_to: Vec<String>,
        /// Who sees a DestinationRule that does not say it.
        "defaultDestinationRuleExportTo" => default_destination_rule_export_to: Vec<String>,
        /// Namespace of mesh-wide policy; `istio-system` when absent.
        "rootNamespace" => root_namespace: Option<String>,
        /// SPIFFE trust domain; `cluster.local` when absent.
        "trustDomain" => trust_domain: Option<String>,
        /// Other names of it.
        "trustDomainAliases" => trust_domain_aliases: Vec<String>,
        /// TLS that is not the mesh's own.
        "tlsDefaults" => tls_defaults: Option<MeshTlsConfig>,
        /// The mesh's own TLS.
        "meshMTLS" => mesh_mtls: Option<MeshTlsConfig>,
        /// Whether clients use mutual TLS with workloads that have a proxy.
        "enableAutoMtls" => enable_auto_mtls: Option<bool>,
        /// Whether upstream certificates are checked when no authorities are named.
        "verifyCertificateAtClient" => verify_certificate_at_client: Option<bool>,
        /// What sidecars do with hosts that are unknown.
        "outboundTrafficPolicy" => outbound_traffic_policy: Option<OutboundTrafficPolicy>,
        /// Where sidecars send inbound traffic.
        "inboundTrafficPolicy" => inbound_traffic_policy: Option<Value>,
        /// Whether tracing is on.
        "enableTracing" => enable_tracing: Option<bool>,
        /// Providers of telemetry and authorization.
        "extensionProviders" => extension_providers: Vec<ExtensionProvider>,
        /// Which of them are used by default.
        "defaultProviders" => default_providers: Option<DefaultProviders>,
        /// Whether metrics of the application are merged.
        "enablePrometheusMerge" => enable_prometheus_merge: Option<bool>,
        /// Class of Ingress that is served; `istio` when absent.
        "ingressClass" => ingress_class: Option<String>,
        /// The Service of the Ingress gateway.
        "ingressService" => ingress_service: Option<String>,
        /// Label of the Ingress gateway.
        "ingressSelector" => ingress_selector: Option<String>,
        /// Which Ingresses are served; STRICT when absent.
        "ingressControllerMode" => ingress_controller_mode: Option<IngressControllerMode>,
        /// Names of upstream clusters in statistics.
        "outboundClusterStatName" => outbound_cluster_stat_name: Option<String>,
        /// Names of inbound clusters in statistics.
        "inboundClusterStatName" => inbound_cluster_stat_name: Option<String>,
        /// Settings by service.
        "serviceSettings" => service_settings: Vec<Value>,
        /// Scope by service.
        "serviceScopeConfigs" => service_scope_configs: Vec<Value>,
        /// Who sees ServiceEntries.
        "serviceEntryVisibility" => service_entry_visibility: Option<Value>,
        /// Namespaces that are watched.
        "discoverySelectors" => discovery_selectors: Vec<Value>,
        /// Further authorities.
        "caCertificates" => ca_certificates: Vec<Value>,
        /// An external authority.
        "ca" => ca: Option<Value>,
        /// Where config comes from.
        "configSources" => config_sources: Vec<Value>,
        /// Certificates of the control plane (deprecated).
        "certificates" => certificates: Vec<Value>,
        /// Outbound port of sidecars.
        "proxyListenPort" => proxy_listen_port: Option<i32>,
        /// Inbound port of sidecars.
        "proxyInboundListenPort" => proxy_inbound_listen_port: Option<i32>,
        /// HTTP proxy port of sidecars.
        "proxyHttpPort" => proxy_http_port: Option<i32>,
    }

    /// How paths are normalized.
    pub struct ProxyPathNormalization {
        /// How far.
        "normalization" => normalization: Option<NormalizationType>,
    }

    /// Policy where no DestinationRule has one.
    pub struct DefaultTrafficPolicy {
        /// Limits of connections.
        "connectionPool" => connection_pool: Option<ConnectionPoolSettings>,
        /// When an endpoint is left out.
        "outlierDetection" => outlier_detection: Option<OutlierDetection>,
    }

    /// TLS by default.
    pub struct MeshTlsConfig {
        /// The lowest version.
        "minProtocolVersion" => min_protocol_version: Option<MeshTlsProtocol>,
        /// Cipher suites of TLS 1.2.
        "cipherSuites" => cipher_suites: Vec<String>,
        /// Curves for the key exchange.
        "ecdhCurves" => ecdh_curves: Vec<String>,
    }

    /// What sidecars do with hosts that are unknown.
    pub struct OutboundTrafficPolicy {
        /// Let them through or not.
        "mode" => mode: Option<OutboundTrafficPolicyMode>,
        /// TLS towards them.
        "tls" => tls: Option<ClientTlsSettings>,
    }

    /// Providers that are used by default.
    pub struct DefaultProviders {
        /// For traces.
        "tracing" => tracing: Vec<String>,
        /// For metrics.
        "metrics" => metrics: Vec<String>,
        /// For access logs.
        "accessLogging" => access_logging: Vec<String>,
    }

    /// A provider of telemetry or authorization: one of its kinds.
    pub struct ExtensionProvider {
        /// Its name.
        "name" => name: Option<String>,
        /// Traces to an OTLP collector.
        "opentelemetry" => opentelemetry: Option<OpenTelemetryProvider>,
        /// Traces to Zipkin.
        "zipkin" => zipkin: Option<Value>,
        /// Traces to Lightstep.
        "lightstep" => lightstep: Option<Value>,
        /// Traces to Datadog.
        "datadog" => datadog: Option<Value>,
        /// Google Cloud's monitoring.
        "stackdriver" => stackdriver: Option<Value>,
        /// Traces to OpenCensus.
        "opencensus" => opencensus: Option<Value>,
        /// Traces to SkyWalking.
        "skywalking" => skywalking: Option<Value>,
        /// Metrics for Prometheus.
        "prometheus" => prometheus: Option<Value>,
        /// An access log in a file.
        "envoyFileAccessLog" => envoy_file_access_log: Option<FileAccessLogProvider>,
        /// An access log of requests by gRPC.
        "envoyHttpAls" => envoy_http_als: Option<Value>,
        /// An access log of connections by gRPC.
        "envoyTcpAls" => envoy_tcp_als: Option<Value>,
        /// An access log in OTLP.
        "envoyOtelAls" => envoy_otel_als: Option<Value>,
        /// Authorization by HTTP.
        "envoyExtAuthzHttp" => envoy_ext_authz_http: Option<ExtAuthzHttpProvider>,
        /// Authorization by gRPC.
        "envoyExtAuthzGrpc" => envoy_ext_authz_grpc: Option<ExtAuthzGrpcProvider>,
        /// Secret discovery.
        "sds" => sds: Option<Value>,
    }

    /// Authorization by HTTP: the request's head is sent on, and a 200 lets it pass.
    pub struct ExtAuthzHttpProvider {
        /// Its host, perhaps with the namespace in front.
        "service" => service: Option<String>,
        /// Its port.
        "port" => port: Option<u32>,
        /// The time for one answer; 10 minutes when absent.
        "timeout" => timeout: Option<Duration>,
        /// What stands before the path.
        "pathPrefix" => path_prefix: Option<String>,
        /// Requests pass when it does not answer.
        "failOpen" => fail_open: Option<bool>,
        /// Whether what it changes counts for routing.
        "clearRouteCache" => clear_route_cache: Option<bool>,
        /// The status when it does not answer; 403 when absent.
        "statusOnError" => status_on_error: Option<String>,
        /// Headers that it gets (deprecated form).
        "includeHeadersInCheck" => include_headers_in_check: Vec<String>,
        /// Headers that it gets.
        "includeRequestHeadersInCheck" => include_request_headers_in_check: Vec<String>,
        /// Further headers that it gets.
        "includeAdditionalHeadersInCheck" => include_additional_headers_in_check: BTreeMap<String, String>,
        /// Whether it gets the body.
        "includeRequestBodyInCheck" => include_request_body_in_check: Option<ExtAuthzBody>,
        /// Headers of its answer that the upstream gets.
        "headersToUpstreamOnAllow" => headers_to_upstream_on_allow: Vec<String>,
        /// Headers of its answer that the client gets with its refusal.
        "headersToDownstreamOnDeny" => headers_to_downstream_on_deny: Vec<String>,
        /// Headers of its answer that the client gets with the upstream's.
        "headersToDownstreamOnAllow" => headers_to_downstream_on_allow: Vec<String>,
    }

    /// Authorization by gRPC (`envoy.service.auth.v3`).
    pub struct ExtAuthzGrpcProvider {
        /// Its host, perhaps with the namespace in front.
        "service" => service: Option<String>,
        /// Its port.
        "port" => port: Option<u32>,
        /// The time for one answer; 10 minutes when absent.
        "timeout" => timeout: Option<Duration>,
        /// Requests pass when it does not answer.
        "failOpen" => fail_open: Option<bool>,
        /// Whether what it changes counts for routing.
        "clearRouteCache" => clear_route_cache: Option<bool>,
        /// The status when it does not answer; 403 when absent.
        "statusOnError" => status_on_error: Option<String>,
        /// Whether it gets the body.
        "includeRequestBodyInCheck" => include_request_body_in_check: Option<ExtAuthzBody>,
    }

    /// How much of a body is sent to be checked.
    pub struct ExtAuthzBody {
        /// The most bytes; larger ones are refused with 413, or cut.
        "maxRequestBytes" => max_request_bytes: Option<u32>,
        /// Whether a part of it will do.
        "allowPartialMessage" => allow_partial_message: Option<bool>,
        /// By gRPC as bytes and not as text.
        "packAsBytes" => pack_as_bytes: Option<bool>,
    }

    /// An OTLP collector.
    pub struct OpenTelemetryProvider {
        /// Its host, perhaps with the namespace in front: `observability/collector.observability.svc.cluster.local`.
        "service" => service: Option<String>,
        /// Its port.
        "port" => port: Option<u32>,
        /// Bytes of a path that a span keeps; 256 when absent.
        "maxTagLength" => max_tag_length: Option<u32>,
        /// By HTTP instead of gRPC.
        "http" => http: Option<OpenTelemetryHttp>,
        /// How gRPC is spoken.
        "grpc" => grpc: Option<OpenTelemetryGrpc>,
        /// Where attributes of the resource come from.
        "resourceDetectors" => resource_detectors: Option<Value>,
        /// A sampler.
        "dynatraceSampler" => dynatrace_sampler: Option<Value>,
    }

    /// OTLP by HTTP.
    pub struct OpenTelemetryHttp {
        /// The path.
        "path" => path: Option<String>,
        /// How long the collector may take.
        "timeout" => timeout: Option<Duration>,
        /// Further headers.
        "headers" => headers: Vec<ProviderHeader>,
    }

    /// OTLP by gRPC.
    pub struct OpenTelemetryGrpc {
        /// How long the collector may take.
        "timeout" => timeout: Option<Duration>,
        /// Further headers.
        "initialMetadata" => initial_metadata: Vec<ProviderHeader>,
    }

    /// A header for a collector.
    pub struct ProviderHeader one_of ["value", "envName"] {
        /// Its name.
        "name" => name: String,
        /// Its value.
        "value" => value: Option<String>,
        /// The variable of the process that has its value.
        "envName" => env_name: Option<String>,
    }

    /// An access log in a file.
    pub struct FileAccessLogProvider {
        /// The file; `/dev/stdout` when absent.
        "path" => path: Option<String>,
        /// Its format; Istio's default text when absent.
        "logFormat" => log_format: Option<LogFormat>,
        /// Whether values that are absent are left out.
        "omitEmptyValues" => omit_empty_values: Option<bool>,
    }

    /// The format of an access log.
    pub struct LogFormat one_of ["text", "labels"] {
        /// Lines of text.
        "text" => text: Option<String>,
        /// JSON objects with these keys; Istio's default ones when there are none.
        "labels" => labels: Option<BTreeMap<String, Value>>,
    }

    /// A tag of spans: one of its kinds.
    pub struct CustomTag one_of ["literal", "environment", "header", "formatter"] {
        /// Always the same.
        "literal" => literal: Option<LiteralTag>,
        /// A variable of the process.
        "environment" => environment: Option<NamedTag>,
        /// A header of the request.
        "header" => header: Option<NamedTag>,
        /// What a format string says.
        "formatter" => formatter: Option<LiteralTag>,
    }

    /// A tag by its text.
    pub struct LiteralTag {
        /// The text.
        "value" => value: String,
    }

    /// A tag by the name of what has its text.
    pub struct NamedTag {
        /// The name.
        "name" => name: String,
        /// What it is when there is no such thing.
        "defaultValue" => default_value: Option<String>,
    }
}

names! {
    /// Form of the access log.
    pub enum AccessLogEncoding {
        /// Lines of text.
        "TEXT" => Text,
        /// Lines of JSON.
        "JSON" => Json,
    }

    /// How far paths are normalized.
    pub enum NormalizationType {
        /// As BASE.
        "DEFAULT" => Default,
        /// Not at all.
        "NONE" => None,
        /// RFC 3986: dot segments, backslashes.
        "BASE" => Base,
        /// BASE, and double slashes.
        "MERGE_SLASHES" => MergeSlashes,
        /// MERGE_SLASHES, and escaped slashes.
        "DECODE_AND_MERGE_SLASHES" => DecodeAndMergeSlashes,
    }

    /// Whether HTTP/1.1 becomes HTTP/2 upstream.
    pub enum MeshH2UpgradePolicy {
        /// No.
        "DO_NOT_UPGRADE" => DoNotUpgrade,
        /// Yes.
        "UPGRADE" => Upgrade,
    }

    /// A version of TLS.
    pub enum MeshTlsProtocol {
        /// The default.
        "TLS_AUTO" => Auto,
        /// TLS 1.2.
        "TLSV1_2" => Tls12,
        /// TLS 1.3.
        "TLSV1_3" => Tls13,
    }

    /// What sidecars do with hosts that are unknown.
    pub enum OutboundTrafficPolicyMode {
        /// Refused.
        "REGISTRY_ONLY" => RegistryOnly,
        /// Let through.
        "ALLOW_ANY" => AllowAny,
        /// Let through, resolved by the request's host.
        "ALLOW_ANY_DYNAMIC_DNS" => AllowAnyDynamicDns,
    }

    /// Which Ingresses are served.
    pub enum IngressControllerMode {
        /// The default.
        "UNSPECIFIED" => Unspecified,
        /// None.
        "OFF" => Off,
        /// Those without a class too.
        "DEFAULT" => Default,
        /// Those of the class.
        "STRICT" => Strict,
    }
}
