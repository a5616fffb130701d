use super::super::testing::{cluster, end, endpoint, model, pick, pools};
use super::super::{Clusters, Pool, Registry, SystemResolver};
use super::*;
use bytes::Bytes;
use std::sync::Arc;
use tidegate_model::{ConnectionLimits, LoadBalancer, UpstreamProtocol};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};

type Begun = JoinHandle<Result<Place, ConnectError>>;

/// Two workers' pools and a cluster with two endpoints that speak HTTP/2.
struct Bench {
    pools: [Rc<Pool>; 2],
    cluster: Arc<Cluster>,
    registry: Registry,
    endpoints: [tidegate_model::Endpoint; 2],
    clusters: Clusters,
}

impl Bench {
    async fn new(limits: ConnectionLimits) -> Bench {
        let endpoints = [serve().await, serve().await];
        let mut registry = Registry::new(tokio::runtime::Handle::current(), SystemResolver::default(), &[]);
        let config = config(limits);
        let name = config.name.clone();
        let clusters = registry.apply(&model(&[(config, endpoints.to_vec())]));
        let cluster = clusters.get(&name).unwrap().clone();
        Bench { pools: pools(), cluster, registry, endpoints, clusters }
    }

    fn pick(&self, which: usize) -> Pick {
        pick(&self.cluster, which)
    }

    /// A request that begins on a worker for an endpoint.
    fn begin(&self, worker: usize, which: usize) -> Begun {
        let (pool, cluster, pick) = (self.pools[worker].clone(), self.cluster.clone(), self.pick(which));
        spawn_local(async move { pool.place(&cluster, &pick, &TransportOptions::default()).await })
    }

    /// A place on a connection whose endpoint has said how many it takes.
    async fn place(&self, worker: usize, which: usize) -> Place {
        let place = end(self.begin(worker, which)).await.unwrap();
        place.takes_websockets().await;
        place
    }

    /// A request that begins and finds no room.
    async fn waits(&self, worker: usize, which: usize) -> Begun {
        let pending = || self.cluster.usage().counts()[1];
        let before = pending();
        let begun = self.begin(worker, which);
        for _ in 0..1000 {
            if pending() != before {
                break;
            }
            yield_now().await;
        }
        pause().await;
        assert!(!begun.is_finished());
        begun
    }
}

/// An endpoint that takes whatever comes.
async fn serve() -> tidegate_model::Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            spawn_local(async move {
                let shaken = h2::server::Builder::new().handshake::<_, Bytes>(stream).await;
                // an error is a client who went away
                let Ok(mut connection) = shaken else { return };
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

/// Lets whatever can go on do so.
async fn pause() {
    for _ in 0..100 {
        yield_now().await;
    }
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

        // the same among those who waited for room on a connection that takes no more
        let max_requests_per_connection = Some(2);
        let limits = ConnectionLimits { max_requests_per_connection, ..limited(Some(1), 3) };
        let bench = Bench::new(limits).await;
        let first = bench.place(0, 0).await;
        let [second, third, fourth] =
            [bench.waits(0, 0).await, bench.waits(0, 0).await, bench.waits(0, 0).await];
        drop(first);
        drop(end(second).await.unwrap());
        yield_now().await;
        third.abort();
        drop(end(fourth).await.unwrap());
    });
}

#[test]
fn a_connection_that_fails_fails_all_who_wait_for_it() {
    run(async {
        let mut bench = Bench::new(limited(None, 10)).await;
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let endpoints = vec![endpoint(&closed.to_string())];
        bench.clusters = bench.registry.apply(&model(&[(config(limited(None, 10)), endpoints)]));
        for begun in [bench.begin(0, 0), bench.begin(0, 0), bench.begin(0, 0)] {
            assert!(matches!(end(begun).await, Err(ConnectError::Refused)));
        }
        assert_eq!(bench.cluster.usage().counts()[1], 0);
    });
}

#[test]
fn no_worker_and_no_endpoint_waits_for_the_connections_of_another() {
    run(async {
        let bench = Bench::new(limited(None, 1)).await;
        let mut held = Vec::new();
        for (worker, which) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            held.push(bench.place(worker, which).await);
        }
        // nor does HTTP/1, which has a limit of its own
        let (pick, options) = (bench.pick(0), TransportOptions::default());
        let get = bench.pools[0].get(&bench.cluster, &pick, &options, true);
        let got = tokio::time::timeout(Duration::from_secs(20), get).await;
        drop(got.expect("it waits for ever").unwrap());
        drop(held);
    });
}

#[test]
fn who_finds_no_room_waits_for_its_turn() {
    run(async {
        let bench = Bench::new(limited(Some(1), 3)).await;
        let first = bench.place(0, 0).await;
        let local = first.local();
        let waiting = [bench.waits(0, 0).await, bench.waits(0, 0).await, bench.waits(0, 0).await];
        assert!(overflows(end(bench.begin(0, 0)).await), "one too many");
        let [second, gone, third] = waiting;
        drop(first);
        // who comes now is behind those who wait
        let late = bench.begin(0, 0);
        let second = end(second).await.unwrap();
        pause().await;
        assert!(!third.is_finished() && !late.is_finished());
        // who was told and goes away before it looks leaves its turn to the next
        drop(second);
        gone.abort();
        let third = end(third).await.unwrap();
        assert!(third.local() == local && !late.is_finished());
        drop(third);
        drop(end(late).await.unwrap());
        assert_eq!(bench.cluster.usage().counts()[1], 0);
    });
}

#[test]
fn no_connection_has_more_streams_than_its_window_is_for() {
    run(async {
        let bench = Bench::new(limited(None, 10)).await;
        let mut held = Vec::new();
        for _ in 0..100 {
            held.push(bench.place(0, 0).await);
        }
        let [one, two] = [bench.waits(0, 0).await, bench.waits(0, 0).await];
        held.truncate(98);
        let (one, two) = (end(one).await.unwrap(), end(two).await.unwrap());
        assert!(one.local() == held[0].local() && two.local() == held[0].local());
    });
}

#[test]
fn within_the_limit_a_full_connection_gets_company() {
    run(async {
        let mut bench = Bench::new(limited(Some(1), 3)).await;
        let first = bench.place(0, 0).await;
        let waiting = bench.waits(0, 0).await;
        // two more may be made now, by those who come and by those who wait already
        let limits = ConnectionLimits { max_connections: Some(3), ..limited(Some(1), 3) };
        bench.clusters = bench.registry.apply(&model(&[(config(limits), bench.endpoints.to_vec())]));
        bench.cluster = bench.clusters.get(&bench.cluster.config().name).unwrap().clone();
        let second = bench.place(0, 0).await;
        let third = end(waiting).await.unwrap();
        let locals = [&first, &second, &third].map(|place| place.local());
        assert!(locals[0] != locals[1] && locals[1] != locals[2] && locals[0] != locals[2], "{locals:?}");
    });
}

#[test]
fn nobody_is_forgotten_whoever_goes_away_and_whatever_ends() {
    for seed in 0..8 {
        run(async {
            let mut random = fastrand::Rng::with_seed(seed);
            let max_requests_per_connection = Some(5);
            let limits = ConnectionLimits { max_requests_per_connection, ..limited(Some(2), 1000) };
            let bench = Bench::new(limits).await;
            let (mut begun, mut held): (Vec<Begun>, Vec<Place>) = Default::default();
            for _ in 0..300 {
                match random.u8(..10) {
                    0..5 => begun.push(bench.begin(0, 0)),
                    5 if !begun.is_empty() => begun.swap_remove(random.usize(..begun.len())).abort(),
                    6..8 if !held.is_empty() => drop(held.swap_remove(random.usize(..held.len()))),
                    8 => pause().await,
                    _ => yield_now().await,
                }
                for done in begun.extract_if(.., |begun| begun.is_finished()) {
                    held.push(done.await.unwrap().unwrap());
                }
            }
            drop(held);
            let all_end = async {
                while !begun.is_empty() {
                    begun.retain(|begun| !begun.is_finished());
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let ended = tokio::time::timeout(Duration::from_secs(20), all_end).await;
            assert!(ended.is_ok(), "{} wait for ever, seed {seed}", begun.len());
            assert_eq!(bench.cluster.usage().counts()[1], 0, "seed {seed}");
        });
    }
}
