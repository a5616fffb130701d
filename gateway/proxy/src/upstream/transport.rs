//! What lies between an endpoint and what is spoken to it: TLS, and who the client is.

use super::connect::ConnectError;
use super::endpoint::{Endpoint, EndpointId};
use super::proxy_header;
use crate::connection::Connection;
use crate::tls::{Credentials, Inside, OriginateError, Originated, Originator};
use pingora::protocols::Stream;
use rustls::pki_types::ServerName;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tidegate_model::{Cluster, ProxyProtocol};
use tokio::io::AsyncWriteExt;

/// How connections of a cluster begin: one version of that, which lasts while nothing of it changes.
pub(crate) struct Transport {
    id: TransportId,
    tls: Option<Arc<Originator>>,
    proxy_protocol: Option<ProxyProtocol>,
    /// Another one has taken its place: its connections end with the requests that have them.
    retired: AtomicBool,
}

/// Tells a transport from every other of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TransportId(u64);

impl Transport {
    /// That of a cluster; the same as before while nothing has changed of it, nor of its secrets.
    pub(super) fn build(
        config: &Cluster,
        credentials: &Credentials,
        previous: Option<&Arc<Transport>>,
    ) -> Arc<Transport> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let before = previous.and_then(|previous| previous.tls.as_ref());
        let tls = config.tls.as_ref().map(|tls| Originator::build(tls, &config.host, credentials, before));
        let proxy_protocol = config.proxy_protocol;
        let same = |old: &&Arc<Transport>| {
            old.tls.as_ref().map(Arc::as_ptr) == tls.as_ref().map(Arc::as_ptr)
                && old.proxy_protocol == proxy_protocol
        };
        if let Some(same) = previous.filter(same) {
            return same.clone();
        }
        let id = TransportId(NEXT.fetch_add(1, Ordering::Relaxed));
        Arc::new(Transport { id, tls, proxy_protocol, retired: AtomicBool::new(false) })
    }

    /// Why no connection of it comes about, if that is known.
    pub(super) fn unusable(&self) -> Option<&str> {
        self.tls.as_ref().and_then(|tls| tls.unusable())
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// What the connections of a request must agree in: nothing where all of the cluster are alike. `host` is the
    /// authority that a request is for, and `None` where what goes on is no request.
    ///
    /// # Errors
    /// When the host is no name that a server could be asked for.
    pub(crate) fn options(
        &self,
        host: Option<&[u8]>,
        client: &Rc<Connection>,
    ) -> Result<TransportOptions, ConnectError> {
        let by_host = host.filter(|_| self.tls.as_ref().is_some_and(|tls| tls.asks_for_hosts()));
        if by_host.is_none() && self.proxy_protocol.is_none() {
            return Ok(TransportOptions::default());
        }
        let server_name = by_host.map(|host| server_name(host).ok_or(OriginateError::NoName)).transpose()?;
        let client = self.proxy_protocol.map(|_| Client {
            id: client.id,
            source: client.peer,
            destination: client.local,
            connection: Rc::downgrade(client),
        });
        Ok(TransportOptions(Some(Rc::new(Options { server_name, client }))))
    }

    /// Makes of a TCP connection what the cluster speaks, for those who have these options.
    ///
    /// # Errors
    /// When the endpoint does not take it, or is not who it should be.
    pub(super) async fn begin(
        &self,
        stream: Stream,
        options: &TransportOptions,
        inside: Inside,
    ) -> Result<Stream, ConnectError> {
        let options = options.0.as_deref();
        let client = options.and_then(|options| options.client.as_ref());
        let host = options.and_then(|options| options.server_name.clone());
        self.open(stream, client.map(|c| (c.source, c.destination)), host, inside).await
    }

    /// The same for what this process has to say itself.
    ///
    /// # Errors
    /// When the endpoint does not take it, or is not who it should be.
    pub(crate) async fn begin_own(&self, stream: Stream, inside: Inside) -> Result<Stream, ConnectError> {
        self.open(stream, None, None, inside).await
    }

    /// Sends the PROXY header, and then begins TLS.
    async fn open(
        &self,
        mut stream: Stream,
        client: Option<(SocketAddr, SocketAddr)>,
        host: Option<ServerName<'static>>,
        inside: Inside,
    ) -> Result<Stream, ConnectError> {
        if let Some(version) = self.proxy_protocol {
            stream.write_all(&proxy_header::of(version, client)).await?;
            stream.flush().await?;
        }
        let Some(tls) = &self.tls else { return Ok(stream) };
        Ok(Box::new(Originated::new(tls.begin(stream, host.as_ref(), inside).await?)))
    }
}

/// What requests of a cluster may differ in, so that they cannot have each other's connections.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct TransportOptions(Option<Rc<Options>>);

#[derive(PartialEq, Eq, Hash)]
struct Options {
    /// Whom the server must be, where that is the host of the request.
    server_name: Option<ServerName<'static>>,
    /// Whom the endpoint is told of.
    client: Option<Client>,
}

/// The connection of a client.
struct Client {
    id: u64,
    source: SocketAddr,
    destination: SocketAddr,
    connection: Weak<Connection>,
}

impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Client {}

impl Hash for Client {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

/// What a connection may be used for: requests to one endpoint, by one transport, with the same options.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    endpoint: EndpointId,
    transport: TransportId,
    options: TransportOptions,
}

/// By which way connections lead to an endpoint.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) transport: Arc<Transport>,
    pub(super) options: TransportOptions,
}

impl Way {
    pub(super) fn key(&self) -> Key {
        key(&self.endpoint, &self.transport, &self.options)
    }

    /// Whether nobody will go it any more: its endpoint is gone, another transport has taken the place of its own, or
    /// the client that it was for has gone.
    pub(super) fn is_over(&self) -> bool {
        let client = self.options.0.as_ref().and_then(|options| options.client.as_ref());
        self.endpoint.is_removed()
            || self.transport.retired.load(Ordering::Relaxed)
            || client.is_some_and(|client| client.connection.strong_count() == 0)
    }
}

/// The key of connections to an endpoint.
pub(super) fn key(endpoint: &Endpoint, transport: &Transport, options: &TransportOptions) -> Key {
    Key { endpoint: endpoint.id, transport: transport.id, options: options.clone() }
}

/// The host of an authority, as a name that a server can be asked for.
fn server_name(authority: &[u8]) -> Option<ServerName<'static>> {
    let text = std::str::from_utf8(authority).ok()?;
    let host = match text.strip_prefix('[') {
        Some(literal) => literal.split_once(']')?.0,
        None => text.split(':').next()?,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    Some(ServerName::try_from(host).ok()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_server_is_its_host() {
        for (authority, name) in [
            ("a.example", Some("a.example")),
            ("A.example:8443", Some("a.example")),
            ("a.example.", Some("a.example")),
            ("10.0.0.1:443", Some("10.0.0.1")),
            ("[2001:db8::1]:443", Some("2001:db8::1")),
            ("[2001:db8::1", None),
            ("", None),
            ("a b", None),
            (":80", None),
        ] {
            let got = server_name(authority.as_bytes());
            let expected = name.map(|name| ServerName::try_from(name).unwrap());
            assert_eq!(got, expected, "{authority}");
        }
    }
}
