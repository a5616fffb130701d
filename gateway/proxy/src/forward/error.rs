//! The errors of a request: one table from kind to status, response flag, details and body.

use crate::auth::Denial;
use crate::telemetry::Flag;
use crate::tls::OriginateError;
use crate::upstream::{ConnectError, NoHost};
use std::time::Duration;

/// What went wrong, and so who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The client's head breaks the rules: status and why.
    BadRequest(u16, &'static str),
    /// The path cannot be made canonical.
    BadPath,
    /// The client's body breaks the rules.
    BadBody,
    /// A limit of the gateway's own.
    Limit(Limit),
    /// The client's trailers have fields that frame or route a message.
    BadTrailers,
    /// The client broke the rules in its stream, which is reset for it.
    BadStream,
    /// What came is not HTTP.
    NotHttp,
    /// HTTP/1.0 without Host where no `*` virtual host is.
    NoHost,
    /// The head did not come in time.
    HeadTimeout,
    /// Its token is not accepted.
    Denied(Denial),
    /// The policies do not let it through.
    Forbidden,
    /// No rule for it.
    NoRoute,
    /// Its connection is not for its authority.
    Misdirected,
    /// The rule names a cluster that does not exist.
    NoCluster,
    /// The cluster has no endpoint.
    NoEndpoint,
    /// The request's host is none that the cluster goes to.
    ForeignHost,
    /// The request's host has no address.
    NoAddress,
    /// The cluster has as many requests, or as many that wait for a connection, as it may have.
    Overflow,
    /// The endpoint does not listen.
    ConnectRefused,
    /// The endpoint does not answer the connection.
    ConnectTimeout,
    /// Connecting failed otherwise.
    ConnectFailed,
    /// The endpoint is not who it should be, or speaks no TLS.
    HandshakeFailed,
    /// The cluster's TLS cannot be spoken, for this request or for all.
    NoTls,
    /// The upstream ended the connection before its response.
    UpstreamClosed,
    /// The upstream reset the stream.
    UpstreamReset,
    /// The upstream's response breaks the rules.
    UpstreamMalformed,
    /// The upstream speaks HTTP/2 and takes no WebSocket in it.
    NoWebSocket,
    /// The route's timeout passed.
    Timeout,
    /// The time for one try passed.
    TryTimeout,
    /// The request's body stood still for too long.
    Idle,
    /// Nothing came from the upstream for too long.
    Stalled,
    /// The client went away.
    ClientGone,
    /// The process ended before it.
    Cut,
    /// A defect of ours.
    Defect,
}

/// A limit that protects the gateway, and what is beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// The request's body is too large.
    Body,
    /// It comes too slowly.
    Upload,
    /// The client takes its response too slowly.
    Download,
    /// The process has too much memory.
    Memory,
}

impl Limit {
    fn row(self) -> Row {
        let (status, flag, details) = match self {
            Limit::Body => (413, None, "request_payload_too_large"),
            Limit::Upload => (408, None, "request_too_slow"),
            Limit::Download => (0, Some(Flag::LocalReset), "response_taken_too_slowly"),
            Limit::Memory => (503, Some(Flag::OverloadManager), "overload"),
        };
        let body = if status == 0 { "" } else { reason_phrase(status) };
        Row { status, flag, details, bodies: [body; 2] }
    }
}

impl From<ConnectError> for Kind {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Refused => Kind::ConnectRefused,
            ConnectError::Overflow => Kind::Overflow,
            ConnectError::Timeout => Kind::ConnectTimeout,
            ConnectError::Tls(OriginateError::Handshake(_)) => Kind::HandshakeFailed,
            ConnectError::Tls(OriginateError::Unusable(_) | OriginateError::NoName) => Kind::NoTls,
            ConnectError::Header(_) | ConnectError::Other(_) => Kind::ConnectFailed,
        }
    }
}

impl From<NoHost> for Kind {
    fn from(error: NoHost) -> Self {
        match error {
            NoHost::Foreign(_) => Kind::ForeignHost,
            NoHost::TooMany => Kind::Overflow,
            NoHost::NoAddress(_) => Kind::NoAddress,
        }
    }
}

/// What came before the response, in Envoy's words.
macro_rules! before {
    ($what:literal) => {
        concat!("upstream_reset_before_response_started{", $what, "}")
    };
}

/// A row for a request that an upstream ended before its response: in the log's words, and in those that the client
/// gets, after one try and after more.
macro_rules! unanswered {
    ($status:literal, $flag:ident, $details:literal, $why:literal) => {
        Row {
            status: $status,
            flag: Some(Flag::$flag),
            details: before!($details),
            bodies: [unanswered!("", $why), unanswered!("retried and the latest ", $why)],
        }
    };
    ($tries:literal, $why:literal) => {
        concat!("upstream connect error or disconnect/reset before headers. ", $tries, "reset reason: ", $why)
    };
}

/// The same where there was no connection.
macro_rules! unconnected {
    ($details:literal) => {
        unconnected!($details, "remote connection failure")
    };
    ($details:literal, $why:literal) => {
        unanswered!(503, UpstreamConnectFailure, $details, $why)
    };
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// The status to answer; 0 where nobody is there to answer.
    pub(crate) status: u16,
    /// The flag in log and metrics.
    pub(crate) flag: Option<Flag>,
    /// `response_code_details`, in Envoy's words.
    pub(crate) details: &'static str,
    /// One generic line for the client: after one try, and after more.
    bodies: [&'static str; 2],
}

impl Row {
    /// What the client is told after so many tries.
    pub(crate) fn body(&self, attempts: u32) -> &'static str {
        self.bodies[usize::from(attempts > 1)]
    }
}

const NO_ADDRESS: &str = "the name of the upstream does not resolve";
const NO_HOST: &str = "no Host header, and no virtual host for requests without one";

fn denied(denial: Denial) -> Row {
    let (status, body, details) = denial.row();
    Row { status, flag: None, details, bodies: [body; 2] }
}

impl Kind {
    /// Whether no other request may follow on the connection: after one that breaks the rules, the next one is not to be
    /// trusted; and where there is too much memory, that of the connection is to be free again.
    pub(crate) fn ends_connection(self) -> bool {
        self.row().status == 400 || self == Kind::Limit(Limit::Memory)
    }

    /// Whether it says something about the health of the endpoint that was tried.
    pub(crate) fn blames_endpoint(self) -> bool {
        match self {
            Kind::ConnectRefused
            | Kind::ConnectTimeout
            | Kind::ConnectFailed
            | Kind::HandshakeFailed
            | Kind::UpstreamClosed
            | Kind::UpstreamReset
            | Kind::UpstreamMalformed
            | Kind::Timeout
            | Kind::TryTimeout => true,
            Kind::BadRequest(..)
            | Kind::BadPath
            | Kind::BadBody
            | Kind::Limit(_)
            | Kind::BadTrailers
            | Kind::BadStream
            | Kind::NotHttp
            | Kind::NoHost
            | Kind::Misdirected
            | Kind::HeadTimeout
            | Kind::Denied(_)
            | Kind::Forbidden
            | Kind::NoRoute
            | Kind::NoCluster
            | Kind::NoEndpoint
            | Kind::ForeignHost
            | Kind::NoAddress
            | Kind::Overflow
            | Kind::NoTls
            | Kind::NoWebSocket
            | Kind::Idle
            | Kind::Stalled
            | Kind::ClientGone
            | Kind::Cut
            | Kind::Defect => false,
        }
    }

    /// Its row.
    pub(crate) fn row(self) -> Row {
        let row = |status, flag, details, body| Row { status, flag: Some(flag), details, bodies: [body; 2] };
        let unflagged = |status, details, body| Row { status, flag: None, details, bodies: [body; 2] };
        let bad = |details, body| row(400, Flag::DownstreamProtocolError, details, body);
        match self {
            Kind::BadRequest(status, why) => {
                row(status, Flag::DownstreamProtocolError, why, reason_phrase(status))
            }
            Kind::BadPath => bad("path_normalization_failed", "Bad Request"),
            Kind::BadBody => bad("http1.codec_error", "Bad Request"),
            Kind::Limit(limit) => limit.row(),
            Kind::BadTrailers => bad("forbidden_trailer", "Bad Request"),
            Kind::BadStream => row(0, Flag::DownstreamProtocolError, "http2.stream_error", ""),
            Kind::NotHttp => row(0, Flag::DownstreamProtocolError, "not_http", ""),
            Kind::NoHost => bad("missing_host_header", NO_HOST),
            Kind::HeadTimeout => unflagged(408, "request_header_timeout", "Request Timeout"),
            Kind::Denied(denial) => denied(denial),
            Kind::Forbidden => unflagged(403, "rbac_access_denied", "RBAC: access denied"),
            Kind::NoRoute => row(404, Flag::NoRoute, "route_not_found", "no route for this request"),
            Kind::Misdirected => {
                row(421, Flag::NoRoute, "misdirected_request", "this connection is not for this host")
            }
            Kind::NoCluster => row(503, Flag::NoCluster, "cluster_not_found", "no such upstream cluster"),
            Kind::NoEndpoint => {
                row(503, Flag::NoHealthyUpstream, "no_healthy_upstream", "no healthy upstream")
            }
            Kind::ForeignHost => {
                row(503, Flag::NoHealthyUpstream, "host_not_of_service", "no healthy upstream")
            }
            Kind::NoAddress => row(503, Flag::DnsFailure, "dns_resolution_failure", NO_ADDRESS),
            Kind::Overflow => unanswered!(503, Overflow, "overflow", "overflow"),
            Kind::ConnectRefused => unconnected!("remote_connection_failure|connection_refused"),
            Kind::ConnectTimeout => unconnected!("connection_timeout", "connection timeout"),
            Kind::ConnectFailed => unconnected!("remote_connection_failure"),
            Kind::HandshakeFailed | Kind::NoTls => unconnected!("remote_connection_failure|TLS_error"),
            Kind::UpstreamClosed => {
                unanswered!(503, UpstreamTermination, "connection_termination", "connection termination")
            }
            Kind::UpstreamReset => unanswered!(503, UpstreamReset, "remote_reset", "remote reset"),
            Kind::UpstreamMalformed => {
                unanswered!(502, UpstreamProtocolError, "protocol_error", "protocol error")
            }
            Kind::NoWebSocket => row(
                502,
                Flag::UpstreamProtocolError,
                before!("extended_connect_not_supported"),
                "the upstream takes no WebSocket over HTTP/2",
            ),
            Kind::Timeout => row(504, Flag::UpstreamTimeout, "response_timeout", "upstream request timeout"),
            Kind::TryTimeout => {
                row(504, Flag::UpstreamTimeout, "upstream_per_try_timeout", "upstream request timeout")
            }
            Kind::Idle => row(408, Flag::StreamIdleTimeout, "stream_idle_timeout", "stream timeout"),
            Kind::Stalled => row(504, Flag::StreamIdleTimeout, "stream_idle_timeout", "stream timeout"),
            Kind::ClientGone => row(0, Flag::DownstreamTermination, "downstream_remote_disconnect", ""),
            Kind::Cut => row(0, Flag::LocalReset, "drain_timeout", ""),
            Kind::Defect => row(0, Flag::LocalReset, "internal_error", ""),
        }
    }
}

/// How long a client that was answered before its end may pause in sending before it is cut off.
pub(crate) const LINGER: Duration = Duration::from_secs(2);
/// How long it may go on sending in all. An nginx in front takes a cut for a failure of its upstream,
/// and does so itself only after as long.
pub(crate) const LINGER_IN_ALL: Duration = Duration::from_secs(30);

/// The reason phrase of a status that the gateway answers itself.
pub(crate) fn reason_phrase(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_status_and_flag() {
        for (kind, status, flag) in [
            (Kind::BadRequest(431, "head_too_large"), 431, Some(Flag::DownstreamProtocolError)),
            (Kind::Limit(Limit::Body), 413, None),
            (Kind::Limit(Limit::Upload), 408, None),
            (Kind::Limit(Limit::Download), 0, Some(Flag::LocalReset)),
            (Kind::Limit(Limit::Memory), 503, Some(Flag::OverloadManager)),
            (Kind::BadTrailers, 400, Some(Flag::DownstreamProtocolError)),
            (Kind::BadStream, 0, Some(Flag::DownstreamProtocolError)),
            (Kind::NotHttp, 0, Some(Flag::DownstreamProtocolError)),
            (Kind::HeadTimeout, 408, None),
            (Kind::NoRoute, 404, Some(Flag::NoRoute)),
            (Kind::Misdirected, 421, Some(Flag::NoRoute)),
            (Kind::NoCluster, 503, Some(Flag::NoCluster)),
            (Kind::NoEndpoint, 503, Some(Flag::NoHealthyUpstream)),
            (Kind::Overflow, 503, Some(Flag::Overflow)),
            (Kind::ConnectRefused, 503, Some(Flag::UpstreamConnectFailure)),
            (Kind::ConnectTimeout, 503, Some(Flag::UpstreamConnectFailure)),
            (Kind::HandshakeFailed, 503, Some(Flag::UpstreamConnectFailure)),
            (Kind::NoTls, 503, Some(Flag::UpstreamConnectFailure)),
            (Kind::UpstreamClosed, 503, Some(Flag::UpstreamTermination)),
            (Kind::UpstreamMalformed, 502, Some(Flag::UpstreamProtocolError)),
            (Kind::NoWebSocket, 502, Some(Flag::UpstreamProtocolError)),
            (Kind::Timeout, 504, Some(Flag::UpstreamTimeout)),
            (Kind::TryTimeout, 504, Some(Flag::UpstreamTimeout)),
            (Kind::Idle, 408, Some(Flag::StreamIdleTimeout)),
            (Kind::Stalled, 504, Some(Flag::StreamIdleTimeout)),
            (Kind::ClientGone, 0, Some(Flag::DownstreamTermination)),
            (Kind::Cut, 0, Some(Flag::LocalReset)),
            (Kind::Defect, 0, Some(Flag::LocalReset)),
        ] {
            assert_eq!((kind.row().status, kind.row().flag), (status, flag), "{kind:?}");
        }
        assert!(Kind::HandshakeFailed.blames_endpoint() && !Kind::NoTls.blames_endpoint());
    }

    #[test]
    fn a_body_says_why_and_whether_it_was_tried_again() {
        let reset = "upstream connect error or disconnect/reset before headers. ";
        for (kind, why) in [
            (Kind::Overflow, "overflow"),
            (Kind::ConnectRefused, "remote connection failure"),
            (Kind::ConnectFailed, "remote connection failure"),
            (Kind::HandshakeFailed, "remote connection failure"),
            (Kind::ConnectTimeout, "connection timeout"),
            (Kind::UpstreamClosed, "connection termination"),
            (Kind::UpstreamReset, "remote reset"),
            (Kind::UpstreamMalformed, "protocol error"),
        ] {
            for attempts in [0, 1] {
                assert_eq!(kind.row().body(attempts), format!("{reset}reset reason: {why}"));
            }
            let retried = format!("{reset}retried and the latest reset reason: {why}");
            assert_eq!(kind.row().body(2), retried);
        }
        for (kind, body) in [
            (Kind::BadRequest(431, "head_too_large"), "Request Header Fields Too Large"),
            (Kind::NoEndpoint, "no healthy upstream"),
            (Kind::Timeout, "upstream request timeout"),
            (Kind::ClientGone, ""),
        ] {
            assert_eq!([1, 2].map(|attempts| kind.row().body(attempts)), [body; 2]);
        }
    }
}
