use crate::{ObjectRef, Origin, TcpRoute, TlsAction};
use serde::Serialize;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// The address part of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bind {
    /// The process's `--bind`, by default `[::]` dual stack.
    Default,
    /// An address named by `servers[].bind`.
    Ip(IpAddr),
}

/// What identifies a listener: where it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ListenerKey {
    /// The address.
    pub bind: Bind,
    /// The local port, after `--port` and Service target ports.
    pub port: u16,
}

impl fmt::Display for ListenerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bind {
            Bind::Default => write!(f, "*:{}", self.port),
            Bind::Ip(ip) => write!(f, "{}", std::net::SocketAddr::new(ip, self.port)),
        }
    }
}

/// A listening socket and what is spoken on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// Where it listens.
    pub key: ListenerKey,
    /// What is spoken.
    pub protocol: ListenerProtocol,
    /// Who asked for it, oldest first: the Gateways that are named when the port is taken.
    pub owners: Vec<ObjectRef>,
    /// The index of the oldest server on it in its Gateway's `spec.servers`.
    pub index: usize,
    /// Where that names its port.
    pub origin: Origin,
}

/// What a listener speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerProtocol {
    /// Plain text HTTP/1.x and HTTP/2 by prior knowledge; every request uses this route table.
    Http(TableName),
    /// TLS; the server is chosen by SNI: exact, then the longest wildcard, then `*`. No match
    /// closes the connection, never a default certificate (Istio 2.9).
    Tls(Vec<TlsServer>),
    /// Bytes of whatever protocol; every connection takes this route.
    Tcp(Arc<TcpRoute>),
}

/// One TLS server of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsServer {
    /// The name of its own route table, which also identifies the server.
    pub table: TableName,
    /// SNI patterns: `a.example.com`, `*.example.com` or `*`, lower case, without namespace prefix.
    pub hosts: Vec<Arc<str>>,
    /// What happens to its connections.
    pub action: TlsAction,
    /// Who asked for it.
    pub owner: ObjectRef,
    /// Its index in the Gateway's `spec.servers`.
    pub index: usize,
    /// Where its TLS settings stand.
    pub origin: Origin,
}

/// The name of a route table in Istio's form: `http.8080`, or
/// `https.443.https-port-name.gateway.namespace` for a TLS server.
pub type TableName = Arc<str>;

/// What the requests of one plain port, or of one TLS server, are routed by.
///
/// The virtual hosts are resources of their own ([`crate::VirtualHost`]), keyed by table and domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteTable {
    /// Its name.
    pub name: TableName,
    /// The Gateway's server port number, which redirects with `FROM_REQUEST_PORT` print.
    pub server_port: u16,
    /// Whether the requests came over TLS: their scheme.
    pub tls: bool,
}
