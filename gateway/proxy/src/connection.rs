use std::net::SocketAddr;
use std::sync::Arc;
use tidegate_model::{ListenerKey, TableName};

/// What is known about a downstream connection once it is accepted (and its TLS is done).
pub(crate) struct Connection {
    /// The listener that took it.
    pub(crate) listener: ListenerKey,
    /// Our address.
    pub(crate) local: SocketAddr,
    /// The peer's address.
    pub(crate) peer: SocketAddr,
    /// TLS facts, when it is TLS.
    pub(crate) tls: Option<TlsFacts>,
}

/// What the handshake said.
pub(crate) struct TlsFacts {
    /// The name the client asked for, lower case.
    pub(crate) sni: Option<Arc<str>>,
    /// The route table of the server that the SNI chose.
    pub(crate) table: TableName,
    /// `TLSv1.2` or `TLSv1.3`.
    pub(crate) version: &'static str,
}
