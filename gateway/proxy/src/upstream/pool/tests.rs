use super::super::testing::{cluster, endpoint, model};
use super::super::{Clusters, Registry, SystemResolver};
use super::*;
use crate::forward::testing::spend_budget;
use std::task::Poll;
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
            registry: Registry::new(tokio::runtime::Handle::current(), SystemResolver::default(), &[]),
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

    async fn get(&self, fresh: bool) -> Box<UpstreamConnection> {
        self.pool.get(&self.cluster(), &self.pick(), &TransportOptions::default(), fresh).await.unwrap()
    }

    async fn connect(&self) -> (Box<UpstreamConnection>, TcpStream) {
        let connection = self.get(true).await;
        (connection, self.listener.accept().await.unwrap().0)
    }

    fn put(&self, connection: Box<UpstreamConnection>) {
        self.pool.put(&self.cluster(), connection, Instant::now());
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
async fn a_closed_connection_is_known_by_a_task_whose_turn_is_over() {
    let bench = Bench::new(LONG).await;
    let (mut connection, peer) = bench.connect().await;
    drop(peer);
    tokio::time::sleep(MOMENT).await;
    let looks_open = poll_fn(|cx| {
        spend_budget(cx);
        Poll::Ready(is_open(&mut connection.stream))
    });
    assert!(!looks_open.await);
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
    let old = bench.cluster();
    bench.apply(false, LONG);
    bench.pool.put(&old, late, Instant::now());
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
