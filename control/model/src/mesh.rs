use crate::{FormatString, LogFilter, Tracing};
use serde::Serialize;
use std::sync::Arc;

/// What MeshConfig says that the data plane needs (Istio 1.13, 1.14).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MeshSettings {
    /// The access log as MeshConfig wants it; `None` where it says nothing.
    pub access_log: Option<AccessLog>,
    /// How paths are made canonical before matching, policy and forwarding.
    pub path_normalization: PathNormalization,
    /// Paths that some server may read otherwise than this gateway are refused.
    pub strict_paths: bool,
    /// The `server` header of responses; `None` sends none of ours and leaves the upstream's.
    pub server_header: Option<Arc<str>>,
    /// How many proxies in front of the gateway are trusted to write X-Forwarded-*.
    pub trusted_proxies: u32,
    /// What becomes of `x-forwarded-client-cert`.
    pub client_certificates: ForwardClientCert,
    /// Whether connections from trusted peers begin with a PROXY header that names the client.
    pub proxy_protocol: bool,
    /// Whether and how requests are traced.
    pub tracing: Option<Tracing>,
}

impl Default for MeshSettings {
    fn default() -> Self {
        MeshSettings {
            access_log: None,
            path_normalization: PathNormalization::Base,
            strict_paths: false,
            server_header: Some("tidegate".into()),
            trusted_proxies: 0,
            client_certificates: ForwardClientCert::default(),
            proxy_protocol: false,
            tracing: None,
        }
    }
}

/// What becomes of `x-forwarded-client-cert`: Istio's `forwardClientCertDetails`, which is Envoy's. Without a
/// client's certificate on the connection all but the last take the header off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ForwardClientCert {
    /// It is taken off.
    Sanitize,
    /// It stays as the client sent it.
    ForwardOnly,
    /// It stays, and the client's certificate is appended.
    AppendForward,
    /// It says the client's certificate and nothing else.
    #[default]
    SanitizeSet,
    /// It stays as anybody sent it, also without TLS.
    AlwaysForwardOnly,
}

/// Where and how requests are logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccessLog {
    /// The file, `/dev/stdout` for standard output; empty is off.
    pub file: Arc<str>,
    /// Text lines or JSON objects.
    pub format: AccessLogFormat,
    /// Which of them; `None` is all.
    pub filter: Option<LogFilter>,
}

/// An access log's format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessLogFormat {
    /// Istio's default text line.
    DefaultText,
    /// Istio's default JSON object.
    DefaultJson,
    /// A text line of its own; the newline is part of the format.
    Text(FormatString),
    /// JSON keys with their formats, in order.
    Json(Vec<(Arc<str>, FormatString)>),
}

/// Istio's `pathNormalization`, each stricter than the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PathNormalization {
    /// Paths stay as they are.
    None,
    /// RFC 3986: dot segments resolved, backslashes made slashes.
    #[default]
    Base,
    /// And repeated slashes merged.
    MergeSlashes,
    /// And `%2F`, `%5C` decoded first.
    DecodeAndMergeSlashes,
}
