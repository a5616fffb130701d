use super::cluster::Cluster;
use super::connect::{ConnectError, Connector, UpstreamConnection};
use super::endpoint::{Endpoint, EndpointId, Pick};
use super::sessions::Sessions;
use crate::h2::Place;
use ahash::AHashMap;
use pingora::protocols::Stream;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, ReadBuf};

/// Idle connections that one worker keeps to one endpoint.
const PER_ENDPOINT: usize = 1024;
/// Idle connections that one worker keeps in all.
const IN_ALL: usize = 8192;
/// How often idle connections are looked through; an idle timeout may be late by as much.
const SWEEP: Duration = Duration::from_secs(1);

/// A worker's upstream connections, by endpoint: idle ones of HTTP/1, and shared ones of HTTP/2. No lock: one worker, one thread.
///
/// A connection to an endpoint that its cluster no longer has is neither kept nor taken, even
/// when the same address came back. [`Pool::expire`] must run beside it on the same worker.
pub(crate) struct Pool {
    connector: Connector,
    idle: RefCell<IdleConnections>,
    sessions: Sessions,
}

#[derive(Default)]
struct IdleConnections {
    /// By the endpoint's id, which belongs to one address in one cluster.
    slots: AHashMap<EndpointId, Slot>,
    count: usize,
}

/// The idle connections to one endpoint, the one that was used last at the end.
struct Slot {
    endpoint: Arc<Endpoint>,
    idle_timeout: Duration,
    connections: VecDeque<Idle>,
}

struct Idle {
    stream: Stream,
    local: Option<SocketAddr>,
    since: Instant,
}

impl Pool {
    /// An empty pool.
    pub(crate) fn new(connector: Connector) -> Self {
        Pool { connector, idle: RefCell::default(), sessions: Sessions::new() }
    }

    /// A connection to the endpoint: an idle one that is still open, else (or when `fresh`) a new one.
    ///
    /// # Errors
    /// When a new one cannot be made within the cluster's connect timeout.
    pub(crate) async fn get(
        &self,
        cluster: &Cluster,
        pick: &Pick,
        fresh: bool,
    ) -> Result<UpstreamConnection, ConnectError> {
        if !fresh && let Some(Idle { stream, local, .. }) = self.idle.borrow_mut().take(pick.endpoint().id) {
            return Ok(UpstreamConnection { stream, reused: true, local });
        }
        self.connector.connect(pick.endpoint(), cluster.config().connect_timeout).await
    }

    /// A place for a request on an HTTP/2 connection to the endpoint.
    ///
    /// # Errors
    /// When there is none with room and a new one cannot be made within the cluster's connect timeout.
    pub(crate) async fn place(&self, cluster: &Cluster, pick: &Pick) -> Result<Place, ConnectError> {
        self.sessions.get(&self.connector, cluster, pick).await
    }

    /// Gives back a connection on which request and response both ended cleanly.
    pub(crate) fn put(&self, cluster: &Cluster, pick: &Pick, connection: UpstreamConnection) {
        let mut idle = self.idle.borrow_mut();
        if pick.endpoint().is_removed() || idle.count >= IN_ALL {
            return;
        }
        let slot = idle.slots.entry(pick.endpoint().id).or_insert_with(|| Slot {
            endpoint: pick.endpoint().clone(),
            idle_timeout: Duration::ZERO,
            connections: VecDeque::new(),
        });
        slot.idle_timeout = cluster.config().idle_timeout;
        if slot.connections.len() < PER_ENDPOINT {
            let UpstreamConnection { stream, local, .. } = connection;
            slot.connections.push_back(Idle { stream, local, since: Instant::now() });
            idle.count += 1;
        }
    }

    /// Closes idle connections whose time is over, which their endpoint closed, or whose endpoint
    /// is gone, for as long as it is polled.
    pub(crate) async fn expire(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.idle.borrow_mut().sweep(Instant::now());
            self.sessions.sweep(Instant::now());
        }
    }

    /// How many idle connections there are.
    #[cfg(test)]
    fn idle(&self) -> usize {
        self.idle.borrow().count
    }
}

impl IdleConnections {
    /// The connection that was used last and is still open.
    fn take(&mut self, endpoint: EndpointId) -> Option<Idle> {
        let slot = self.slots.get_mut(&endpoint)?;
        while let Some(mut idle) = slot.connections.pop_back() {
            self.count -= 1;
            if is_open(&mut idle.stream) {
                return Some(idle);
            }
        }
        None
    }

    fn sweep(&mut self, now: Instant) {
        self.slots.retain(|_, slot| {
            let limit = slot.idle_timeout;
            slot.connections
                .retain_mut(|c| now.saturating_duration_since(c.since) < limit && is_open(&mut c.stream));
            !slot.endpoint.is_removed() && !slot.connections.is_empty()
        });
        self.count = self.slots.values().map(|s| s.connections.len()).sum();
    }
}

/// Whether a connection without a request is quiet: neither closed nor saying what nobody asked for.
fn is_open(stream: &mut Stream) -> bool {
    let mut byte = [0u8; 1];
    let mut context = Context::from_waker(Waker::noop());
    Pin::new(stream).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_pending()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{cluster, endpoint, model};
    use super::super::{Clusters, Registry};
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    struct Bench {
        registry: Registry,
        clusters: Clusters,
        listener: TcpListener,
        pool: Pool,
    }

    impl Bench {
        async fn new(idle_timeout: Duration) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut bench = Bench {
                registry: Registry::new(tokio::runtime::Handle::current()),
                clusters: Clusters::default(),
                listener,
                pool: Pool::new(Connector::new()),
            };
            bench.apply(true, idle_timeout);
            bench
        }

        fn apply(&mut self, present: bool, idle_timeout: Duration) {
            let address = self.listener.local_addr().unwrap().to_string();
            let mut cluster = cluster("a");
            cluster.idle_timeout = idle_timeout;
            let endpoints = if present { vec![endpoint(&address)] } else { vec![] };
            self.clusters = self.registry.apply(&model(&[(cluster, endpoints)]));
        }

        fn cluster(&self) -> Arc<Cluster> {
            self.clusters.get(&cluster("a").name).unwrap().clone()
        }

        fn pick(&self) -> Pick {
            self.cluster().pick(0).unwrap()
        }

        async fn get(&self, fresh: bool) -> UpstreamConnection {
            self.pool.get(&self.cluster(), &self.pick(), fresh).await.unwrap()
        }

        async fn connect(&self) -> (UpstreamConnection, TcpStream) {
            let connection = self.get(true).await;
            (connection, self.listener.accept().await.unwrap().0)
        }

        fn put(&self, connection: UpstreamConnection) {
            self.pool.put(&self.cluster(), &self.pick(), connection);
        }
    }

    const LONG: Duration = Duration::from_secs(60);
    /// Time for the runtime to hear of what the peer did.
    const MOMENT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn reuses_the_last_used_unless_fresh_is_asked_for() {
        let bench = Bench::new(LONG).await;
        let (a, _peer_a) = bench.connect().await;
        let (b, mut peer_b) = bench.connect().await;
        let last = b.local;
        bench.put(a);
        bench.put(b);
        assert_eq!(bench.pool.idle(), 2);
        assert!(!bench.get(true).await.reused);
        let mut again = bench.get(false).await;
        assert!(again.reused);
        assert_eq!(again.local, last);
        peer_b.write_all(b"x").await.unwrap();
        assert_eq!(again.stream.read_u8().await.unwrap(), b'x');
        assert_eq!(bench.pool.idle(), 1);
    }

    #[tokio::test]
    async fn closed_and_talking_connections_are_not_reused() {
        let bench = Bench::new(LONG).await;
        let (closed, peer) = bench.connect().await;
        let (talking, mut talker) = bench.connect().await;
        bench.put(closed);
        bench.put(talking);
        drop(peer);
        talker.write_all(b"HTTP/1.1 408\r\n").await.unwrap();
        tokio::time::sleep(MOMENT).await;
        assert!(!bench.get(false).await.reused);
        assert_eq!(bench.pool.idle(), 0);
    }

    #[tokio::test]
    async fn idle_time_and_closing_by_the_endpoint_end_connections() {
        let bench = Bench::new(Duration::from_millis(10)).await;
        let (old, mut peer) = bench.connect().await;
        bench.put(old);
        tokio::time::sleep(MOMENT).await;
        bench.pool.idle.borrow_mut().sweep(Instant::now());
        assert_eq!(bench.pool.idle(), 0);
        assert_eq!(peer.read(&mut [0]).await.unwrap(), 0, "closed towards the endpoint");

        let bench = Bench::new(LONG).await;
        let (kept, _peer) = bench.connect().await;
        let (closed, peer) = bench.connect().await;
        bench.put(kept);
        bench.put(closed);
        drop(peer);
        let expire = async { tokio::time::timeout(SWEEP * 2, bench.pool.expire()).await };
        assert!(expire.await.is_err());
        assert_eq!(bench.pool.idle(), 1);
    }

    #[tokio::test]
    async fn an_endpoint_that_went_and_came_back_is_another() {
        let mut bench = Bench::new(LONG).await;
        let (kept, _peer) = bench.connect().await;
        bench.put(kept);
        let (late, _late_peer) = bench.connect().await;
        let (old, pick) = (bench.cluster(), bench.pick());
        bench.apply(false, LONG);
        bench.pool.put(&old, &pick, late);
        assert_eq!(bench.pool.idle(), 1, "not kept once the endpoint is gone");
        bench.apply(true, LONG);
        assert!(!bench.get(false).await.reused);
        bench.pool.idle.borrow_mut().sweep(Instant::now());
        assert_eq!(bench.pool.idle(), 0);
    }

    #[tokio::test]
    async fn the_pool_is_bounded() {
        let bench = Bench::new(LONG).await;
        bench.pool.idle.borrow_mut().count = IN_ALL;
        let (one, _peer) = bench.connect().await;
        bench.put(one);
        assert!(bench.pool.idle.borrow().slots.is_empty());
    }
}
