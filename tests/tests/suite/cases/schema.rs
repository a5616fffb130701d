//! The case files, read strictly: a key that nothing here knows is an error of that case.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use tidegate_tests::Behaviour;

/// `mesh-cases/v1`: config, requests and what must come of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "features")]
    _features: Vec<String>,
    #[serde(rename = "basis")]
    _basis: String,
    #[serde(rename = "source")]
    _source: Vec<String>,
    #[serde(rename = "vantage")]
    _vantage: String,
    #[serde(rename = "note")]
    _note: Option<String>,
    #[serde(rename = "optional")]
    _optional: Option<bool>,
    #[serde(rename = "variant")]
    _variant: Option<String>,
    pub(super) config: Vec<Value>,
    pub(super) mesh_config: Option<Value>,
    #[serde(default)]
    pub(super) secrets: Vec<SecretSpec>,
    #[serde(default)]
    pub(super) upstream: BTreeMap<String, UpstreamSpec>,
    pub(super) steps: Vec<Step>,
}

/// How many workloads a host has, and what is wrong with them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamSpec {
    pub(super) endpoints: Option<usize>,
    #[serde(default)]
    pub(super) refuse_connections: bool,
    pub(super) failing: Option<Failing>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Failing {
    /// Counted from 1.
    pub(super) endpoint: usize,
    pub(super) status: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SecretSpec {
    pub(super) secret: String,
    pub(super) namespace: String,
    pub(super) keys: Vec<String>,
    pub(super) certificate_for: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) request: RequestSpec,
    pub(super) expect: Expect,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestSpec {
    #[serde(default = "port_80")]
    pub(super) port: u16,
    pub(super) pod_port: Option<u16>,
    pub(super) method: Option<String>,
    pub(super) scheme: Option<String>,
    pub(super) path: Option<String>,
    pub(super) host: Option<String>,
    /// Values are texts, or lists of texts for repeated lines.
    #[serde(default)]
    pub(super) headers: serde_json::Map<String, Value>,
    pub(super) body: Option<String>,
    pub(super) http_version: Option<String>,
    pub(super) sni: Option<String>,
    pub(super) tls_version: Option<String>,
    pub(super) client_cert: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) payload: Option<String>,
    pub(super) jwt: Option<Jwt>,
    pub(super) peer_address: Option<std::net::IpAddr>,
    pub(super) count: Option<usize>,
    #[serde(default)]
    pub(super) cookie_jar: bool,
    pub(super) upstream_response: Option<Behaviour>,
}

/// A bearer token to sign.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Jwt {
    pub(super) claims: serde_json::Map<String, Value>,
    #[serde(default)]
    pub(super) expired: bool,
}

fn port_80() -> u16 {
    80
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// Answered by a workload.
    Forwarded,
    /// Answered by the gateway.
    LocalReply,
    /// Answered by the gateway with a place to go.
    Redirect,
    /// Refused below HTTP.
    ConnectionClosed,
    /// Nothing listens.
    NoListener,
    /// Shares of several of these.
    Mixed,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expect {
    pub(super) outcome: Outcome,
    #[serde(rename = "route")]
    _route: Option<String>,
    #[serde(rename = "why")]
    _why: Option<String>,
    pub(super) status: Option<u16>,
    pub(super) location: Option<String>,
    pub(super) destination: Option<Place>,
    #[serde(default)]
    pub(super) split: Vec<Share>,
    #[serde(default = "five")]
    pub(super) tolerance_percent: f64,
    #[serde(default)]
    pub(super) per_destination: Vec<PerDestination>,
    pub(super) mirrors: Option<Vec<Mirror>>,
    pub(super) upstream_request: Option<UpstreamRequest>,
    pub(super) upstream_attempts: Option<usize>,
    pub(super) response: Option<ResponseSpec>,
    pub(super) min_latency: Option<String>,
    pub(super) max_latency: Option<String>,
    pub(super) response_flags: Option<String>,
    #[serde(default)]
    pub(super) response_flags_include: Vec<String>,
    pub(super) endpoints_hit: Option<usize>,
    #[serde(default)]
    pub(super) endpoint_labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) statuses: Vec<StatusShare>,
    pub(super) served_certificate: Option<String>,
}

fn five() -> f64 {
    5.0
}

fn hundred() -> f64 {
    100.0
}

/// Where a request went; what is absent is not compared.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    pub(super) host: String,
    pub(super) port: Option<u16>,
    pub(super) subset: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Share {
    pub(super) host: String,
    pub(super) port: Option<u16>,
    pub(super) subset: Option<String>,
    pub(super) percent: f64,
    pub(super) tolerance_percent: Option<f64>,
}

impl Share {
    pub(super) fn place(&self) -> Place {
        Place { host: self.host.clone(), port: self.port, subset: self.subset.clone() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusShare {
    pub(super) status: u16,
    pub(super) percent: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PerDestination {
    pub(super) destination: Place,
    pub(super) upstream_request: Option<UpstreamRequest>,
    pub(super) response: Option<ResponseSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mirror {
    pub(super) host: String,
    pub(super) port: Option<u16>,
    pub(super) subset: Option<String>,
    #[serde(default = "hundred")]
    pub(super) percent: f64,
    pub(super) upstream_request: Option<UpstreamRequest>,
}

impl Mirror {
    pub(super) fn place(&self) -> Place {
        Place { host: self.host.clone(), port: self.port, subset: self.subset.clone() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamRequest {
    pub(super) path: Option<String>,
    #[serde(default)]
    pub(super) path_one_of: Vec<String>,
    pub(super) authority: Option<String>,
    pub(super) method: Option<String>,
    pub(super) body: Option<String>,
    pub(super) http_version: Option<String>,
    #[serde(default)]
    pub(super) headers: serde_json::Map<String, Value>,
    #[serde(default)]
    pub(super) headers_present: Vec<String>,
    #[serde(default)]
    pub(super) headers_absent: Vec<String>,
    pub(super) xff_entries: Option<usize>,
    #[serde(default)]
    pub(super) xff_prefix: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResponseSpec {
    #[serde(default)]
    pub(super) headers: serde_json::Map<String, Value>,
    #[serde(default)]
    pub(super) headers_present: Vec<String>,
    #[serde(default)]
    pub(super) headers_absent: Vec<String>,
    pub(super) body: Option<String>,
    pub(super) connection: Option<String>,
    pub(super) set_cookie: Option<String>,
    pub(super) grpc_status: Option<u32>,
}

/// A header's value in a case, as the texts of its lines.
pub(super) fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(list) => list.iter().flat_map(texts).collect(),
        Value::String(text) => vec![text.clone()],
        other => vec![other.to_string()],
    }
}
