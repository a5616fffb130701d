use crate::{ClusterName, Share};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// Traces of requests (Istio 2.19): the caller's is continued by W3C Trace Context, and spans go to a collector in
/// OTLP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tracing {
    /// Where spans go.
    pub collector: ClusterName,
    /// How.
    pub transport: OtlpTransport,
    /// How long the collector may take for a batch.
    pub timeout: Duration,
    /// Which part of the requests is sampled whose caller has not decided.
    pub sampling: Share,
    /// Bytes of a path that a span keeps.
    pub max_path: usize,
}

/// How OTLP is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OtlpTransport {
    /// gRPC in plaintext.
    Grpc,
    /// Protobuf in HTTP/1.1 `POST`s to this path.
    Http(Arc<str>),
}
