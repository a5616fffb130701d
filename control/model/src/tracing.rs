use crate::{ClusterName, FormatString, HeaderName, Share};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// Traces of requests (Istio 2.19): the caller's is continued, by W3C Trace Context or B3, and spans go to a collector
/// in OTLP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tracing {
    /// Where spans go.
    pub collector: ClusterName,
    /// How.
    pub transport: OtlpTransport,
    /// What goes with them as headers or metadata: text and variables of the process. Never shown, since it may be a
    /// secret.
    #[serde(skip)]
    pub headers: Vec<(HeaderName, FormatString)>,
    /// How long the collector may take for a batch.
    pub timeout: Duration,
    /// Which part of the requests is sampled whose caller has not decided.
    pub sampling: Share,
    /// Whether upstreams are told of the trace; where not, what the client says of it stays as it is.
    pub propagates: bool,
    /// Bytes of a path that a span keeps.
    pub max_path: usize,
    /// Whether spans have the tags `istio.*`.
    pub istio_tags: bool,
    /// Further tags.
    pub tags: Vec<SpanTag>,
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

/// A tag that users give to spans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SpanTag {
    /// Its name.
    pub name: Arc<str>,
    /// What it says; a span without it has no such tag.
    pub value: FormatString,
    /// What it says where that is nothing.
    pub default: Arc<str>,
}
