use super::super::connect::Connector;
use super::super::testing::{cluster, endpoint, model};
use super::super::{Clusters, Registry, SystemResolver};
use super::*;
use bytes::Bytes;
use tidegate_model::{ConnectionLimits, LoadBalancer, UpstreamProtocol};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};

type Begun = JoinHandle<Result<Place, ConnectError>>;

/// Two workers' pools and a cluster with two endpoints that speak HTTP/2.
struct Bench {
    pools: [Rc<Pool>; 2],
    cluster: Arc<Cluster>,
    _clusters: Clusters,
}

impl Bench {
    async fn new(limits: ConnectionLimits) -> Bench {
        let connector = Connector::new();
        let pools = [0, 1].map(|_| Rc::new(Pool::new(connector.clone())));
        for pool in pools.clone() {
            spawn_local(async move { pool.expire().await });
        }
        let endpoints = [serve().await, serve().await];
        let mut registry = Registry::new(tokio::runtime::Handle::current(), SystemResolver::default(), &[]);
        let config = config(limits);
        let name = config.name.clone();
        let clusters = registry.apply(&model(&[(config, endpoints.to_vec())]));
        let cluster = clusters.get(&name).unwrap().clone();
        Bench { pools, cluster, _clusters: clusters }
    }

    fn pick(&self, which: usize) -> Pick {
        let address = self.cluster.addresses()[which];
        let mut picks = (0..64u64).filter_map(|dice| self.cluster.pick(dice << 58));
        picks.find(|pick| pick.address == address).unwrap()
    }

    /// A request that begins on a worker for an endpoint.
    fn begin(&self, worker: usize, which: usize) -> Begun {
        let (pool, cluster, pick) = (self.pools[worker].clone(), self.cluster.clone(), self.pick(which));
        spawn_local(async move { pool.place(&cluster, &pick, &TransportOptions::default()).await })
    }

    async fn place(&self, worker: usize, which: usize) -> Place {
        end(self.begin(worker, which)).await.unwrap()
    }
}

/// An endpoint that takes whatever comes.
async fn serve() -> tidegate_model::Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            spawn_local(async move {
                let mut connection: h2::server::Connection<_, Bytes> =
                    h2::server::handshake(stream).await.unwrap();
                while let Some(Ok(_)) = connection.accept().await {}
            });
        }
    });
    endpoint(&address)
}

fn config(limits: ConnectionLimits) -> tidegate_model::Cluster {
    let (protocol, load_balancer) = (UpstreamProtocol::Http2, LoadBalancer::Random);
    tidegate_model::Cluster { limits, protocol, load_balancer, ..cluster("a") }
}

/// One connection, so many streams on it, and so many who wait.
fn limited(streams: Option<u32>, pending: u32) -> ConnectionLimits {
    ConnectionLimits {
        max_connections: Some(1),
        max_concurrent_streams: streams,
        max_pending_requests: Some(pending),
        ..ConnectionLimits::default()
    }
}

async fn end<T>(begun: JoinHandle<T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), begun).await.expect("it waits for ever").unwrap()
}

fn overflows(result: Result<Place, ConnectError>) -> bool {
    matches!(result, Err(ConnectError::Overflow))
}

fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn who_may_not_wait_leaves_nothing_behind() {
    run(async {
        let bench = Bench::new(limited(None, 1)).await;
        let another = bench.cluster.usage().pending(1).unwrap();
        assert!(overflows(end(bench.begin(0, 0)).await));
        drop(another);
        drop(bench.place(0, 0).await);
        assert_eq!(bench.cluster.usage().counts()[1], 0);
    });
}

#[test]
fn who_connects_and_goes_away_leaves_it_to_the_next() {
    run(async {
        let bench = Bench::new(limited(None, 2)).await;
        let first = bench.begin(0, 0);
        yield_now().await;
        let second = bench.begin(0, 0);
        yield_now().await;
        first.abort();
        drop(end(second).await.unwrap());
        assert_eq!(bench.cluster.usage().counts()[1], 0);
    });
}
