//! Access log, metrics and the record of one request that both are made from.

mod workload;

pub(crate) use workload::Workload;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};
use tidegate_model::{FormatString, HeaderName, Route};

/// Istio's response flags, several of which may be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(u32);

/// One response flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Flag {
    /// NR: no route.
    NoRoute = 1,
    /// NC: no such cluster.
    NoCluster = 1 << 1,
    /// UH: no healthy endpoint.
    NoHealthyUpstream = 1 << 2,
    /// UF: connecting failed.
    UpstreamConnectFailure = 1 << 3,
    /// UC: the upstream ended the connection.
    UpstreamTermination = 1 << 4,
    /// UT: the request's time was up.
    UpstreamTimeout = 1 << 5,
    /// UPE: the upstream broke the protocol.
    UpstreamProtocolError = 1 << 6,
    /// DC: the client went away.
    DownstreamTermination = 1 << 7,
    /// DPE: the client broke the protocol.
    DownstreamProtocolError = 1 << 8,
    /// SI: the stream stood still too long.
    StreamIdleTimeout = 1 << 9,
    /// URX: retries used up.
    RetryLimit = 1 << 10,
    /// UO: a limit of the cluster was reached.
    Overflow = 1 << 11,
}

impl Flags {
    /// Sets a flag.
    pub(crate) fn set(&mut self, flag: Flag) {
        self.0 |= flag as u32;
    }

    /// Whether a flag is set.
    pub(crate) fn has(self, flag: Flag) -> bool {
        self.0 & flag as u32 != 0
    }
}

/// Looks up headers for format strings, while the buffers of the request still live.
pub(crate) trait Headers {
    /// A request header as the client sent it (pseudo headers included), joined when repeated.
    fn request(&self, name: &HeaderName, f: &mut dyn FnMut(&[u8]));
    /// A response header as the client gets it.
    fn response(&self, name: &HeaderName, f: &mut dyn FnMut(&[u8]));
    /// A response trailer as the client gets it; nothing where trailers were not kept.
    fn trailer(&self, _name: &HeaderName, _f: &mut dyn FnMut(&[u8])) {}
}

/// Everything that is known about a request when it has ended.
pub(crate) struct Record<'a> {
    /// When its head was complete.
    pub(crate) start: SystemTime,
    /// From then to the last byte sent.
    pub(crate) duration: Duration,
    /// Until the upstream's response head, if one came.
    pub(crate) upstream_service_time: Option<Duration>,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub(crate) protocol: &'static str,
    /// The method as sent.
    pub(crate) method: &'a [u8],
    /// Path and query as the client sent them.
    pub(crate) path: &'a [u8],
    /// Authority as the client sent it.
    pub(crate) authority: &'a [u8],
    /// Authority and path as sent upstream.
    pub(crate) upstream_authority: &'a [u8],
    /// Until the last byte of the request was read, if it was.
    pub(crate) request_duration: Option<Duration>,
    /// How often the request was sent upstream; 0 when it was not.
    pub(crate) attempts: u32,
    /// Why there was no upstream connection ([`crate::upstream::ConnectError`] in words); empty for none.
    pub(crate) transport_failure: &'a str,
    /// The downstream TLS version, such as `TLSv1.3`; empty for plaintext.
    pub(crate) tls_version: &'a str,
    /// The status sent; 0 when none was.
    pub(crate) status: u16,
    /// Flags.
    pub(crate) flags: Flags,
    /// `response_code_details`: `via_upstream`, `route_not_found`, ... and for us also why.
    pub(crate) details: &'a str,
    /// Body bytes from the client.
    pub(crate) bytes_received: u64,
    /// Body bytes to the client.
    pub(crate) bytes_sent: u64,
    /// `x-forwarded-for` as sent upstream.
    pub(crate) forwarded_for: &'a [u8],
    /// `user-agent`.
    pub(crate) user_agent: &'a [u8],
    /// `x-request-id`.
    pub(crate) request_id: &'a [u8],
    /// The rule, if one matched.
    pub(crate) route: Option<&'a Route>,
    /// The cluster, if one was chosen and exists.
    pub(crate) cluster: Option<&'a tidegate_model::Cluster>,
    /// The cluster's name even where it does not exist; empty for none.
    pub(crate) cluster_name: &'a str,
    /// The workload behind the endpoint ([`crate::upstream::Pick::workload`]), once one was picked.
    pub(crate) workload: Option<&'a Workload>,
    /// The endpoint.
    pub(crate) upstream_host: Option<SocketAddr>,
    /// Our address towards it.
    pub(crate) upstream_local: Option<SocketAddr>,
    /// Our address towards the client.
    pub(crate) downstream_local: SocketAddr,
    /// The client, as trusted hops say.
    pub(crate) downstream_remote: SocketAddr,
    /// The peer of the connection.
    pub(crate) downstream_direct: SocketAddr,
    /// SNI, lower case; empty for none.
    pub(crate) sni: &'a str,
    /// Whether this is gRPC (content-type).
    pub(crate) grpc: bool,
    /// Header lookups.
    pub(crate) headers: &'a dyn Headers,
}

/// The telemetry of the process: the parts of all workers together.
pub(crate) struct Telemetry {}

impl Telemetry {
    /// For a gateway of this identity.
    pub(crate) fn new(_identity: &crate::server::Identity) -> std::sync::Arc<Self> {
        std::sync::Arc::new(Telemetry {})
    }

    /// A worker's part.
    pub(crate) fn worker(&self) -> WorkerTelemetry {
        WorkerTelemetry {}
    }

    /// Logs like this from now on.
    pub(crate) fn set_access_log(&self, _log: &tidegate_model::AccessLog) {}

    /// Everything in Prometheus' text format.
    pub(crate) fn prometheus(&self) -> String {
        String::new()
    }

    /// Writes out what is buffered.
    pub(crate) fn flush(&self) {}
}

/// A worker's part of the telemetry: its log buffer and its counters.
pub(crate) struct WorkerTelemetry {}

impl WorkerTelemetry {
    /// Counts and logs a request that has ended.
    pub(crate) fn finish(&self, _record: &Record<'_>) {
        unimplemented!()
    }
}

/// Renders a format string that a header operation adds, with what is known so far.
/// Absent values render as nothing.
pub(crate) fn render_header(_format: &FormatString, _record: &Record<'_>, _out: &mut Vec<u8>) {
    unimplemented!()
}
