use super::CustomTag;
use crate::decode::{fields, names};
use crate::value::Value;
use std::collections::BTreeMap;
use std::time::Duration;

fields! {
    /// Traces of a proxy.
    pub struct ProxyTracing {
        /// Percentage of requests that are sampled; 1 when absent.
        "sampling" => sampling: Option<f64>,
        /// Bytes of a path that a span keeps.
        "maxPathTagLength" => max_path_tag_length: Option<u32>,
        /// Further tags.
        "customTags" => custom_tags: BTreeMap<String, CustomTag>,
        /// Whether spans have Istio's own tags.
        "enableIstioTags" => enable_istio_tags: Option<bool>,
        /// TLS to the collector.
        "tlsSettings" => tls_settings: Option<Value>,
        /// Zipkin (deprecated).
        "zipkin" => zipkin: Option<Value>,
        /// Lightstep (deprecated).
        "lightstep" => lightstep: Option<Value>,
        /// Datadog (deprecated).
        "datadog" => datadog: Option<Value>,
        /// Google Cloud (deprecated).
        "stackdriver" => stackdriver: Option<Value>,
        /// OpenCensus (deprecated).
        "openCensusAgent" => open_census_agent: Option<Value>,
    }

    /// Settings of a proxy.
    pub struct ProxyConfig {
        /// Worker threads; 0 is as many as cores.
        "concurrency" => concurrency: Option<i32>,
        /// How long connections drain when config changes.
        "drainDuration" => drain_duration: Option<Duration>,
        /// How long connections drain at the end.
        "terminationDrainDuration" => termination_drain_duration: Option<Duration>,
        /// Who stands in front of a gateway.
        "gatewayTopology" => gateway_topology: Option<Topology>,
        /// Headers that a proxy adds.
        "proxyHeaders" => proxy_headers: Option<ProxyHeaders>,
        /// Limits of connections.
        "connectionSettings" => connection_settings: Option<ConnectionSettings>,
        /// Environment, such as `ISTIO_META_HTTP10`.
        "proxyMetadata" => proxy_metadata: BTreeMap<String, String>,
        /// Traces.
        "tracing" => tracing: Option<ProxyTracing>,
        /// Which statistics are kept.
        "proxyStatsMatcher" => proxy_stats_matcher: Option<Value>,
        /// Further labels of statistics.
        "extraStatTags" => extra_stat_tags: Vec<String>,
        /// Whether statistics are compressed.
        "statsCompression" => stats_compression: Option<bool>,
        /// Port of health and metrics.
        "statusPort" => status_port: Option<i32>,
        /// Port of the admin page.
        "proxyAdminPort" => proxy_admin_port: Option<i32>,
        /// Address of the control plane.
        "discoveryAddress" => discovery_address: Option<String>,
        /// Whether the application waits for the proxy.
        "holdApplicationUntilProxyStarts" => hold_application_until_proxy_starts: Option<bool>,
        /// How a sidecar captures traffic.
        "interceptionMode" => interception_mode: Option<Value>,
        /// How long access logs may be held back.
        "fileFlushInterval" => file_flush_interval: Option<Duration>,
        /// How much of an access log may be held back, in KiB.
        "fileFlushMinSizeKb" => file_flush_min_size_kb: Option<u32>,
        /// Where the access log goes by gRPC.
        "envoyAccessLogService" => envoy_access_log_service: Option<Value>,
        /// Where metrics go by gRPC.
        "envoyMetricsService" => envoy_metrics_service: Option<Value>,
        /// Where metrics go by gRPC (deprecated form).
        "envoyMetricsServiceAddress" => envoy_metrics_service_address: Option<Value>,
        /// Envoy's runtime.
        "runtimeValues" => runtime_values: BTreeMap<String, String>,
        /// Who holds private keys.
        "privateKeyProvider" => private_key_provider: Option<Value>,
        /// Further authorities.
        "caCertificatesPem" => ca_certificates_pem: Vec<String>,
        /// The image of a sidecar.
        "image" => image: Option<Value>,
        /// Readiness of a virtual machine.
        "readinessProbe" => readiness_probe: Option<Value>,
        /// The mesh's name.
        "meshId" => mesh_id: Option<String>,
        /// Where Envoy's config is kept.
        "configPath" => config_path: Option<Value>,
        /// Where Envoy is.
        "binaryPath" => binary_path: Option<Value>,
        /// Name in traces.
        "serviceCluster" => service_cluster: Option<Value>,
        /// Name in traces.
        "tracingServiceName" => tracing_service_name: Option<Value>,
        /// How often the control plane is asked (deprecated).
        "discoveryRefreshDelay" => discovery_refresh_delay: Option<Value>,
        /// Address of Zipkin (deprecated).
        "zipkinAddress" => zipkin_address: Option<Value>,
        /// Address of statsd.
        "statsdUdpAddress" => statsd_udp_address: Option<Value>,
        /// Availability zone.
        "availabilityZone" => availability_zone: Option<Value>,
        /// How the control plane is authenticated.
        "controlPlaneAuthPolicy" => control_plane_auth_policy: Option<Value>,
        /// Envoy's own config.
        "customConfigFile" => custom_config_file: Option<Value>,
        /// Longest name in statistics.
        "statNameLength" => stat_name_length: Option<Value>,
        /// Template of Envoy's config.
        "proxyBootstrapTemplatePath" => proxy_bootstrap_template_path: Option<Value>,
        /// Secret discovery (deprecated).
        "sds" => sds: Option<Value>,
    }

    /// Who stands in front of a gateway.
    pub struct Topology {
        /// How many trusted proxies, for X-Forwarded-For.
        "numTrustedProxies" => num_trusted_proxies: Option<u32>,
        /// What becomes of X-Forwarded-Client-Cert.
        "forwardClientCertDetails" => forward_client_cert_details: Option<ForwardClientCertDetails>,
        /// Whether the PROXY protocol is accepted: there or not.
        "proxyProtocol" => proxy_protocol: Option<Value>,
    }

    /// Headers that a proxy adds.
    pub struct ProxyHeaders {
        /// `server`.
        "server" => server: Option<ServerHeader>,
        /// `x-request-id`.
        "requestId" => request_id: Option<DisabledHeader>,
        /// `x-envoy-attempt-count`.
        "attemptCount" => attempt_count: Option<DisabledHeader>,
        /// `x-envoy-upstream-service-time` and its like.
        "envoyDebugHeaders" => envoy_debug_headers: Option<DisabledHeader>,
        /// `x-envoy-peer-metadata`.
        "metadataExchangeHeaders" => metadata_exchange_headers: Option<MetadataExchangeHeaders>,
        /// `x-forwarded-client-cert`.
        "forwardedClientCert" => forwarded_client_cert: Option<ForwardClientCertDetails>,
        /// What that header says.
        "setCurrentClientCertDetails" => set_current_client_cert_details: Option<SetCurrentClientCertDetails>,
        /// Whether names of HTTP/1 headers keep their case.
        "preserveHttp1HeaderCase" => preserve_http1_header_case: Option<bool>,
        /// `x-forwarded-host`.
        "xForwardedHost" => x_forwarded_host: Option<EnabledHeader>,
        /// `x-forwarded-port`.
        "xForwardedPort" => x_forwarded_port: Option<EnabledHeader>,
    }

    /// The `server` header.
    pub struct ServerHeader {
        /// Whether it is left as the upstream sets it.
        "disabled" => disabled: Option<bool>,
        /// Its value.
        "value" => value: Option<String>,
    }

    /// A header that is on by default.
    pub struct DisabledHeader {
        /// Whether it is off.
        "disabled" => disabled: Option<bool>,
    }

    /// A header that is off by default.
    pub struct EnabledHeader {
        /// Whether it is on.
        "enabled" => enabled: Option<bool>,
    }

    /// Headers about the peer.
    pub struct MetadataExchangeHeaders {
        /// `UNDEFINED` or `IN_MESH`.
        "mode" => mode: Option<MetadataExchangeMode>,
    }

    /// What `x-forwarded-client-cert` says.
    pub struct SetCurrentClientCertDetails {
        /// The subject.
        "subject" => subject: Option<bool>,
        /// The certificate.
        "cert" => cert: Option<bool>,
        /// The chain.
        "chain" => chain: Option<bool>,
        /// The DNS names.
        "dns" => dns: Option<bool>,
        /// The URIs.
        "uri" => uri: Option<bool>,
    }

    /// Limits of connections.
    pub struct ConnectionSettings {
        /// Which set of defaults.
        "profile" => profile: Option<ConnectionProfile>,
        /// Buffer of a downstream connection, in bytes.
        "listenerPerConnectionBufferLimitBytes" => listener_per_connection_buffer_limit_bytes: Option<i32>,
        /// Buffer of an upstream connection, in bytes.
        "clusterPerConnectionBufferLimitBytes" => cluster_per_connection_buffer_limit_bytes: Option<i32>,
        /// How long a downstream connection may be idle.
        "httpIdleTimeout" => http_idle_timeout: Option<Duration>,
        /// How long a downstream connection may live.
        "httpMaxConnectionDuration" => http_max_connection_duration: Option<Duration>,
        /// How long a connection drains.
        "httpDrainTimeout" => http_drain_timeout: Option<Duration>,
        /// How long a request may take to arrive.
        "httpRequestTimeout" => http_request_timeout: Option<Duration>,
        /// How long a head may take to arrive.
        "httpRequestHeadersTimeout" => http_request_headers_timeout: Option<Duration>,
        /// How long a stream may be idle.
        "httpStreamIdleTimeout" => http_stream_idle_timeout: Option<Duration>,
        /// How long a stream may live.
        "httpMaxStreamDuration" => http_max_stream_duration: Option<Duration>,
        /// How many streams on a connection.
        "httpMaxConcurrentStreams" => http_max_concurrent_streams: Option<i32>,
        /// HTTP/2 window of a stream, in bytes.
        "http2InitialStreamWindowSize" => http2_initial_stream_window_size: Option<i32>,
        /// HTTP/2 window of a connection, in bytes.
        "http2InitialConnectionWindowSize" => http2_initial_connection_window_size: Option<i32>,
        /// What becomes of header names with underscores.
        "httpHeadersWithUnderscoresAction" => http_headers_with_underscores_action:
            Option<HeadersWithUnderscoresAction>,
        /// Whether slashes of the path are merged.
        "httpMergeSlashes" => http_merge_slashes: Option<bool>,
        /// What becomes of escaped slashes in the path.
        "httpPathWithEscapedSlashesAction" => http_path_with_escaped_slashes_action:
            Option<PathWithEscapedSlashesAction>,
        /// How many connections a listener has.
        "listenerConnectionLimit" => listener_connection_limit: Option<i32>,
        /// How many connections the process has.
        "globalDownstreamConnectionLimit" => global_downstream_connection_limit: Option<i32>,
    }
}

names! {
    /// What becomes of `x-forwarded-client-cert`.
    pub enum ForwardClientCertDetails {
        /// The default.
        "UNDEFINED" => Undefined,
        /// Removed.
        "SANITIZE" => Sanitize,
        /// Forwarded under mutual TLS.
        "FORWARD_ONLY" => ForwardOnly,
        /// Appended to under mutual TLS.
        "APPEND_FORWARD" => AppendForward,
        /// Replaced under mutual TLS.
        "SANITIZE_SET" => SanitizeSet,
        /// Forwarded always.
        "ALWAYS_FORWARD_ONLY" => AlwaysForwardOnly,
    }

    /// When headers about the peer are sent.
    pub enum MetadataExchangeMode {
        /// Always.
        "UNDEFINED" => Undefined,
        /// Inside the mesh.
        "IN_MESH" => InMesh,
    }

    /// A set of defaults.
    pub enum ConnectionProfile {
        /// For clients that are trusted.
        "SIDECAR" => Sidecar,
        /// For clients that are not.
        "EDGE" => Edge,
    }

    /// What becomes of header names with underscores.
    pub enum HeadersWithUnderscoresAction {
        /// The default.
        "HEADERS_WITH_UNDERSCORES_UNSPECIFIED" => Unspecified,
        /// They pass.
        "HEADERS_WITH_UNDERSCORES_ALLOW" => Allow,
        /// The request is rejected.
        "HEADERS_WITH_UNDERSCORES_REJECT_REQUEST" => RejectRequest,
        /// The header is dropped.
        "HEADERS_WITH_UNDERSCORES_DROP_HEADER" => DropHeader,
    }

    /// What becomes of escaped slashes in the path.
    pub enum PathWithEscapedSlashesAction {
        /// The default.
        "PATH_WITH_ESCAPED_SLASHES_UNSPECIFIED" => Unspecified,
        /// They stay.
        "KEEP_UNCHANGED" => KeepUnchanged,
        /// The request is rejected.
        "REJECT_REQUEST" => RejectRequest,
        /// They are decoded, and the client is redirected there.
        "UNESCAPE_AND_REDIRECT" => UnescapeAndRedirect,
        /// They are decoded.
        "UNESCAPE_AND_FORWARD" => UnescapeAndForward,
    }
}
