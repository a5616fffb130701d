use super::{CustomTag, LabelSelector, PolicyTarget};
use crate::decode::{fields, names};
use std::collections::BTreeMap;
use std::time::Duration;

fields! {
    /// Traces, metrics and access logs of some workloads (`telemetry.istio.io`).
    pub struct Telemetry = default {
        /// The workloads; without selector and targets all of the namespace.
        "selector" => selector: Option<LabelSelector>,
        /// The resource that it is attached to (deprecated form).
        "targetRef" => target_ref: Option<PolicyTarget>,
        /// The resources that it is attached to.
        "targetRefs" => target_refs: Vec<PolicyTarget>,
        /// Traces.
        "tracing" => tracing: Vec<TracingSettings>,
        /// Metrics.
        "metrics" => metrics: Vec<MetricsSettings>,
        /// Access logs.
        "accessLogging" => access_logging: Vec<AccessLogging>,
    }

    /// How requests are traced.
    pub struct TracingSettings {
        /// For which direction.
        "match" => matches: Option<DirectionSelector>,
        /// Where spans go, by the names of the mesh config; the first counts.
        "providers" => providers: Vec<ProviderRef>,
        /// Percentage of the requests that are sampled whose caller has not decided.
        "randomSamplingPercentage" => random_sampling_percentage: Option<f64>,
        /// No spans.
        "disableSpanReporting" => disable_span_reporting: Option<bool>,
        /// Upstreams are not told of traces.
        "disableContextPropagation" => disable_context_propagation: Option<bool>,
        /// Further tags.
        "customTags" => custom_tags: BTreeMap<String, CustomTag>,
        /// Whether spans have Istio's own tags; true when absent.
        "enableIstioTags" => enable_istio_tags: Option<bool>,
        /// Whether the request's id says whether it is sampled.
        "useRequestIdForTraceSampling" => use_request_id_for_trace_sampling: Option<bool>,
    }

    /// How requests are counted.
    pub struct MetricsSettings {
        /// Who counts, by the names of the mesh config.
        "providers" => providers: Vec<ProviderRef>,
        /// What is changed of the standard metrics.
        "overrides" => overrides: Vec<MetricsOverrides>,
        /// How often connections that go on are counted.
        "reportingInterval" => reporting_interval: Option<Duration>,
    }

    /// What is changed of metrics.
    pub struct MetricsOverrides {
        /// Which.
        "match" => matches: Option<MetricSelector>,
        /// They are left out.
        "disabled" => disabled: Option<bool>,
        /// Their labels.
        "tagOverrides" => tag_overrides: BTreeMap<String, TagOverride>,
    }

    /// Some metrics.
    pub struct MetricSelector one_of ["metric", "customMetric"] {
        /// A standard one.
        "metric" => metric: Option<IstioMetric>,
        /// One by its name.
        "customMetric" => custom_metric: Option<String>,
        /// Of which direction.
        "mode" => mode: Option<WorkloadMode>,
    }

    /// What is changed of a label.
    pub struct TagOverride {
        /// Whether it is set or removed.
        "operation" => operation: Option<TagOperation>,
        /// What it is set to, in CEL.
        "value" => value: Option<String>,
    }

    /// How requests are logged.
    pub struct AccessLogging {
        /// For which direction.
        "match" => matches: Option<DirectionSelector>,
        /// Where to, by the names of the mesh config.
        "providers" => providers: Vec<ProviderRef>,
        /// Not at all.
        "disabled" => disabled: Option<bool>,
        /// Which of them.
        "filter" => filter: Option<AccessLogFilter>,
    }

    /// Which requests are logged.
    pub struct AccessLogFilter {
        /// A condition in CEL.
        "expression" => expression: Option<String>,
    }

    /// Traffic of one direction.
    pub struct DirectionSelector {
        /// The direction.
        "mode" => mode: Option<WorkloadMode>,
    }

    /// A provider of the mesh config.
    pub struct ProviderRef {
        /// Its name.
        "name" => name: String,
    }
}

names! {
    /// A direction of traffic, seen from the workload. A gateway is a client.
    pub enum WorkloadMode {
        /// Both.
        "CLIENT_AND_SERVER" => ClientAndServer,
        /// Outbound.
        "CLIENT" => Client,
        /// Inbound.
        "SERVER" => Server,
    }

    /// What happens to a label.
    pub enum TagOperation {
        /// It is set.
        "UPSERT" => Upsert,
        /// It is removed.
        "REMOVE" => Remove,
    }

    /// A standard metric.
    pub enum IstioMetric {
        /// All of them.
        "ALL_METRICS" => AllMetrics,
        /// `istio_requests_total`.
        "REQUEST_COUNT" => RequestCount,
        /// `istio_request_duration_milliseconds`.
        "REQUEST_DURATION" => RequestDuration,
        /// `istio_request_bytes`.
        "REQUEST_SIZE" => RequestSize,
        /// `istio_response_bytes`.
        "RESPONSE_SIZE" => ResponseSize,
        /// `istio_tcp_connections_opened_total`.
        "TCP_OPENED_CONNECTIONS" => TcpOpenedConnections,
        /// `istio_tcp_connections_closed_total`.
        "TCP_CLOSED_CONNECTIONS" => TcpClosedConnections,
        /// `istio_tcp_sent_bytes_total`.
        "TCP_SENT_BYTES" => TcpSentBytes,
        /// `istio_tcp_received_bytes_total`.
        "TCP_RECEIVED_BYTES" => TcpReceivedBytes,
        /// `istio_request_messages_total`.
        "GRPC_REQUEST_MESSAGES" => GrpcRequestMessages,
        /// `istio_response_messages_total`.
        "GRPC_RESPONSE_MESSAGES" => GrpcResponseMessages,
    }
}
