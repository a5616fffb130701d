use serde::Serialize;
use std::time::Duration;

/// How much of a cluster may be in use at a time, by all workers together, and how its connections are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConnectionLimits {
    /// Connections of HTTP/1 and of plain TCP. A request beyond waits for one, a TCP connection is closed. Those of
    /// HTTP/2 are counted by themselves; each worker may have one to each endpoint in any case, as with Envoy, and a
    /// request waits for room on those that there are.
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection, one that is being made included, or for room on one. One more is answered
    /// with 503 (flag UO).
    pub max_pending_requests: Option<u32>,
    /// Requests that have not ended. One more is answered with 503 (flag UO).
    pub max_requests: Option<u32>,
    /// Requests that one connection carries, after which it is closed.
    pub max_requests_per_connection: Option<u32>,
    /// Requests at the same time on one connection of HTTP/2.
    pub max_concurrent_streams: Option<u32>,
    /// How long a connection is used: one of HTTP takes no more requests then, one of TCP is closed.
    pub max_connection_duration: Option<Duration>,
    /// Probes of connections that stand still; `None` is none.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Pings on connections of HTTP/2; `None` is none.
    pub http2_keepalive: Option<Http2Keepalive>,
}

/// Probes of a TCP connection that stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TcpKeepalive {
    /// How long it stands still before the first.
    pub time: Duration,
    /// The time between them.
    pub interval: Duration,
    /// So many without an answer end it.
    pub probes: u32,
}

/// Pings on a connection of HTTP/2 (RFC 9113 6.7), whether requests are on it or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Http2Keepalive {
    /// The time from an answer to the next one.
    pub interval: Duration,
    /// How long an answer may take; then the connection is closed.
    pub timeout: Duration,
}
