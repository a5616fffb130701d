use super::{Flags, Workload};
use crate::tls::TlsFacts;
use crate::trace::Traced;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};
use tidegate_model::{HeaderName, Route};

/// Looks up headers for format strings, while the buffers of the request still live.
pub(crate) trait Headers {
    /// A request header as the client sent it (pseudo headers included), joined when repeated.
    fn request(&self, name: &HeaderName, f: &mut dyn FnMut(&[u8]));
    /// A response header as the client gets it.
    fn response(&self, name: &HeaderName, f: &mut dyn FnMut(&[u8]));
    /// A response trailer as the client gets it; nothing where trailers were not kept.
    fn trailer(&self, _name: &HeaderName, _f: &mut dyn FnMut(&[u8])) {}
}

/// The headers of what has none.
pub(crate) struct NoHeaders;

impl Headers for NoHeaders {
    fn request(&self, _: &HeaderName, _: &mut dyn FnMut(&[u8])) {}

    fn response(&self, _: &HeaderName, _: &mut dyn FnMut(&[u8])) {}
}

/// Everything that is known about a request when it has ended, or about a connection without any.
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
    /// The downstream TLS that ends here; `None` for plaintext.
    pub(crate) tls: Option<&'a TlsFacts>,
    /// The number of the connection in this process.
    pub(crate) connection_id: u64,
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
    /// Its spans, where requests are traced.
    pub(crate) traced: Option<Traced<'a>>,
    /// Header lookups.
    pub(crate) headers: &'a dyn Headers,
}
