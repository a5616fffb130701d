use super::cluster::Cluster;
use super::transport::{Key, Way};
use super::usage::InUse;
use crate::tls::{Inside, OriginateError};
use pingora::ErrorType;
use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::protocols::Stream;
use pingora::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora::upstreams::peer::{BasicPeer, PeerOptions};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tidegate_model::{ConnectionLimits, TcpKeepalive};
use tokio::sync::Notify;

/// An upstream connection. Boxed wherever it goes, since requests hold connections, and there are many requests.
pub(crate) struct UpstreamConnection {
    /// The bytes.
    pub(crate) stream: Stream,
    /// Whether it served a request before: a failure before the first response byte may then be
    /// staleness and not the endpoint's fault.
    pub(crate) reused: bool,
    /// Our address towards the endpoint.
    pub(crate) local: Option<SocketAddr>,
    /// When it was made.
    pub(super) born: Instant,
    /// Requests that it has carried.
    pub(super) served: u32,
    /// How often in a row it went from one request to one that waited for it.
    pub(super) handed_on: u8,
    /// Counts it among those of its cluster.
    pub(crate) in_use: InUse,
    /// Where it leads, and for whom.
    pub(super) way: Way,
    /// What TLS said when it ended.
    pub(crate) fault: Option<Box<str>>,
}

impl UpstreamConnection {
    /// The address that it leads to.
    pub(crate) fn remote(&self) -> Option<SocketAddr> {
        self.stream.get_socket_digest()?.peer_addr()?.as_inet().copied()
    }

    /// What it may be used for.
    pub(super) fn key(&self) -> Key {
        self.way.key()
    }

    /// Whether it has carried as many requests as it may, or is as old as it may be.
    pub(super) fn is_spent(&self, limits: &ConnectionLimits) -> bool {
        limits.max_requests_per_connection.is_some_and(|most| self.served >= most)
            || limits.max_connection_duration.is_some_and(|most| self.born.elapsed() >= most)
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// The cluster has as many connections, and requests that wait for one, as it may have.
    #[error("overflow")]
    Overflow,
    /// The cluster's connect timeout passed.
    #[error("connect timeout")]
    Timeout,
    /// The endpoint did not take what comes before TLS.
    #[error("connect failed: {0}")]
    Header(Arc<std::io::Error>),
    /// There is no TLS with it.
    #[error("{0}")]
    Tls(#[from] OriginateError),
    /// Anything else the network said.
    #[error("connect failed: {}", cause(.0))]
    Other(Arc<pingora::Error>),
}

impl ConnectError {
    /// Whether another try could come to anything else.
    pub(crate) fn may_pass(&self) -> bool {
        !matches!(
            self,
            ConnectError::Overflow | ConnectError::Tls(OriginateError::Unusable(_) | OriginateError::NoName)
        )
    }
}

/// An endpoint as Pingora's connector wants it.
pub(super) struct Peer(BasicPeer);

impl Peer {
    pub(super) fn new(address: SocketAddr) -> Self {
        let address = PingoraAddr::Inet(address);
        Peer(BasicPeer { _address: address, sni: String::new(), options: PeerOptions::new() })
    }

    /// The same with probes.
    fn probed(&self, keepalive: TcpKeepalive) -> Self {
        let BasicPeer { _address, sni, options } = &self.0;
        let mut options = options.clone();
        options.tcp_keepalive = Some(pingora::protocols::TcpKeepalive {
            idle: keepalive.time,
            interval: keepalive.interval,
            count: keepalive.probes as usize,
            user_timeout: Duration::ZERO,
        });
        Peer(BasicPeer { _address: _address.clone(), sni: sni.clone(), options })
    }
}

/// Pingora's connector, one for all workers.
#[derive(Clone)]
pub(crate) struct Connector {
    transport: Arc<TransportConnector>,
    /// How the pools of all workers are asked to give up connections that a cluster needs.
    pools: Arc<Mutex<Vec<Weak<Notify>>>>,
}

impl Connector {
    /// A connector. The process's TLS provider must be installed before, or Pingora installs its own.
    pub(crate) fn new() -> Self {
        let mut options = ConnectorOptions::new(1);
        // Only its TCP half is used: no reason to read (and to fail on) the system's certificates.
        options.ca_file = Some("/dev/null".to_string());
        Connector { transport: Arc::new(TransportConnector::new(Some(options))), pools: Arc::default() }
    }

    /// What one more pool is asked by.
    pub(super) fn join(&self) -> Arc<Notify> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = Arc::default();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(&asked));
        asked
    }

    /// Asks all pools to give up connections that others wait for.
    pub(super) fn ask(&self) {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.iter().filter_map(Weak::upgrade).for_each(|pool| pool.notify_one());
    }

    /// A new connection, with TCP_NODELAY and as the cluster's config has it, for what is spoken `inside` of its TLS.
    pub(super) async fn connect(
        &self,
        cluster: &Cluster,
        way: Way,
        inside: Inside,
        in_use: InUse,
    ) -> Result<Box<UpstreamConnection>, ConnectError> {
        let config = cluster.config();
        // Boxed: the state of connecting must not sit in every connection that waits for a request.
        let connecting = Box::pin(tokio::time::timeout(config.connect_timeout, async {
            let peer = &way.endpoint.peer;
            let stream = match config.limits.tcp_keepalive {
                None => self.transport.new_stream(&peer.0).await,
                Some(keepalive) => self.transport.new_stream(&peer.probed(keepalive).0).await,
            };
            way.transport.begin(stream?, &way.options, inside).await
        }));
        let stream = match connecting.await {
            Ok(connected) => connected?,
            Err(_) => return Err(ConnectError::Timeout),
        };
        let digest = stream.get_socket_digest();
        let local = digest.as_ref().and_then(|d| d.local_addr()?.as_inet().copied());
        Ok(Box::new(UpstreamConnection {
            stream,
            reused: false,
            local,
            born: Instant::now(),
            served: 0,
            handed_on: 0,
            in_use,
            way,
            fault: None,
        }))
    }
}

/// What the system said, without the layers through which it came: they print the whole peer.
fn cause(error: &pingora::Error) -> String {
    let root = error.root_cause();
    match root.downcast_ref::<pingora::Error>() {
        Some(error) => error.etype().as_str().to_string(),
        None => root.source().map_or_else(|| root.to_string(), ToString::to_string),
    }
}

impl From<std::io::Error> for ConnectError {
    fn from(error: std::io::Error) -> Self {
        ConnectError::Header(error.into())
    }
}

impl From<Box<pingora::Error>> for ConnectError {
    fn from(error: Box<pingora::Error>) -> Self {
        match error.etype() {
            ErrorType::ConnectRefused => ConnectError::Refused,
            ErrorType::ConnectTimedout => ConnectError::Timeout,
            _ => ConnectError::Other(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::endpoint::Endpoint;
    use super::super::state::ClusterState;
    use super::super::testing::cluster;
    use super::super::transport::Transport;
    use super::super::usage::Usage;
    use super::*;
    use crate::tls::Credentials;
    use std::net::TcpListener;

    /// Connects; our own address when it worked.
    fn connect(address: SocketAddr, limit: Duration) -> Result<Option<SocketAddr>, ConnectError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config = tidegate_model::Cluster { connect_timeout: limit, ..cluster("a") };
        let transport = Transport::build(&config, &Credentials::default(), None);
        let cluster = Cluster::new(config.into(), ClusterState::new(), transport.clone());
        let in_use = Arc::new(Usage::default()).connection().unwrap();
        let way = Way { endpoint: Endpoint::new(address), transport, options: Default::default() };
        let connecting = async { Connector::new().connect(&cluster, way, Inside::Http1, in_use).await };
        let connected = runtime.block_on(connecting)?;
        assert!(!connected.reused);
        Ok(connected.local)
    }

    #[test]
    fn connects_and_knows_both_addresses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let local = connect(address, Duration::from_secs(5)).unwrap();
        let (_stream, peer) = listener.accept().unwrap();
        assert_eq!(local, Some(peer));
    }

    #[test]
    fn refused() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = connect(address, Duration::from_secs(5)).unwrap_err();
        assert!(matches!(error, ConnectError::Refused), "{error}");
    }

    #[test]
    fn a_failure_says_what_the_system_said_and_no_more() {
        // Broadcast needs an option that TCP does not have.
        let address = "255.255.255.255:80".parse().unwrap();
        let error = connect(address, Duration::from_secs(5)).unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, ConnectError::Other(_)), "{said}");
        assert!(said.starts_with("connect failed: ") && said.ends_with(')'), "{said}");
        assert!(said.contains("os error") && !said.contains("255"), "{said}");
        assert!(said.len() < 80, "{said}");
    }

    #[test]
    fn timeout() {
        // A listener whose queue is full answers no SYN.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut full = Vec::new();
        while let Ok(s) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            full.push(s);
            assert!(full.len() < 64, "the queue never fills");
        }
        let begun = std::time::Instant::now();
        let error = connect(address, Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, ConnectError::Timeout), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}
