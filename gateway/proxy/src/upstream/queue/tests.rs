use super::super::connect::ConnectError;
use super::super::testing::{cluster, end, endpoint, model, pick, pools};
use super::super::{Clusters, Pick, Registry, SystemResolver, TransportOptions};
use super::*;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_model::{ConnectionLimits, LoadBalancer};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};

/// Two workers' pools and a cluster with two endpoints that accept whatever comes.
struct Bench {
    pools: [Rc<Pool>; 2],
    cluster: Arc<Cluster>,
    registry: Registry,
    listeners: [TcpListener; 2],
    _clusters: Clusters,
}

impl Bench {
    async fn new(limits: ConnectionLimits) -> Bench {
        let listener = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listeners = [listener().await, listener().await];
        let mut registry = Registry::new(tokio::runtime::Handle::current(), SystemResolver::default(), &[]);
        let clusters = apply(&mut registry, &listeners, limits);
        let cluster = clusters.get(&cluster("a").name).unwrap().clone();
        Bench { pools: pools(), cluster, registry, listeners, _clusters: clusters }
    }

    /// Has other limits from now on, by which those go who begin after that.
    fn limit(&mut self, limits: ConnectionLimits) {
        let clusters = apply(&mut self.registry, &self.listeners, limits);
        self.cluster = clusters.get(&self.cluster.config().name).unwrap().clone();
    }

    /// A pick of the first or the second endpoint.
    fn pick(&self, which: usize) -> Pick {
        pick(&self.cluster, which)
    }

    /// A request that begins on a worker for an endpoint.
    fn begin(
        &self,
        worker: usize,
        which: usize,
    ) -> JoinHandle<Result<Box<UpstreamConnection>, ConnectError>> {
        let (pool, cluster, pick) = (self.pools[worker].clone(), self.cluster.clone(), self.pick(which));
        spawn_local(async move { pool.get(&cluster, &pick, &TransportOptions::default(), false).await })
    }

    async fn get(&self, worker: usize, which: usize) -> Box<UpstreamConnection> {
        end(self.begin(worker, which)).await.unwrap()
    }

    async fn waits(&self, begun: &JoinHandle<Result<Box<UpstreamConnection>, ConnectError>>, waiting: u32) {
        while self.cluster.usage().waiting() != waiting {
            yield_now().await;
        }
        assert!(!begun.is_finished());
    }

    fn put(&self, worker: usize, connection: Box<UpstreamConnection>) {
        self.pools[worker].put(&self.cluster, connection, Instant::now());
    }
}

fn apply(registry: &mut Registry, listeners: &[TcpListener; 2], limits: ConnectionLimits) -> Clusters {
    let endpoints = listeners.each_ref().map(|l| endpoint(&l.local_addr().unwrap().to_string()));
    let config = tidegate_model::Cluster { limits, load_balancer: LoadBalancer::Random, ..cluster("a") };
    registry.apply(&model(&[(config, endpoints.to_vec())]))
}

fn limited(connections: u32, pending: Option<u32>) -> ConnectionLimits {
    let (max_connections, max_pending_requests) = (Some(connections), pending);
    ConnectionLimits { max_connections, max_pending_requests, ..ConnectionLimits::default() }
}

fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn a_request_at_the_limit_gets_the_connection_that_another_is_done_with() {
    run(async {
        let bench = Bench::new(limited(1, None)).await;
        let first = bench.get(0, 0).await;
        let local = first.local;
        let second = bench.begin(0, 0);
        bench.waits(&second, 1).await;
        bench.put(0, first);
        let handed = end(second).await.unwrap();
        assert!(handed.reused && handed.local == local);
        assert_eq!(bench.cluster.usage().counts(), [1, 0, 0, 0]);
        drop(handed);
        assert_eq!(bench.cluster.usage().counts(), [0; 4]);
    });
}

#[test]
fn idle_connections_of_the_worker_and_of_others_give_way() {
    run(async {
        let bench = Bench::new(limited(1, None)).await;
        // idle towards one endpoint, wanted towards the other
        let first = bench.get(0, 0).await;
        bench.put(0, first);
        let other = bench.get(0, 1).await;
        assert!(!other.reused);
        bench.put(0, other);
        // idle on one worker, wanted on the other
        let elsewhere = bench.get(1, 1).await;
        assert!(!elsewhere.reused);
        assert_eq!(bench.cluster.usage().counts(), [1, 0, 0, 0]);
        // in use on one, awaited on the other
        let waits = bench.begin(0, 0);
        bench.waits(&waits, 1).await;
        bench.put(1, elsewhere);
        assert!(!end(waits).await.unwrap().reused);
        assert_eq!(bench.cluster.usage().counts(), [0; 4]);
    });
}

#[test]
fn no_worker_keeps_a_connection_for_itself() {
    run(async {
        let bench = Bench::new(limited(1, None)).await;
        let mut held = bench.get(0, 0).await;
        let elsewhere = bench.begin(1, 0);
        bench.waits(&elsewhere, 1).await;
        // the own worker always has somebody who waits
        let mut rounds = 0;
        while !elsewhere.is_finished() {
            let next = bench.begin(0, 0);
            while bench.cluster.usage().waiting() < 2 && !elsewhere.is_finished() {
                yield_now().await;
            }
            bench.put(0, held);
            rounds += 1;
            if rounds > usize::from(HANDED_ON) {
                drop(end(elsewhere).await.unwrap());
                drop(end(next).await.unwrap());
                break;
            }
            held = end(next).await.unwrap();
        }
        assert!(rounds <= usize::from(HANDED_ON) + 1, "{rounds}");
    });
}

#[test]
fn who_would_be_one_too_many_to_wait_is_told_at_once() {
    run(async {
        let bench = Bench::new(limited(1, Some(2))).await;
        let held = bench.get(0, 0).await;
        let waits = [bench.begin(0, 0), bench.begin(1, 0)];
        bench.waits(&waits[0], 2).await;
        let refused = end(bench.begin(1, 1)).await.err().unwrap();
        assert!(matches!(refused, ConnectError::Overflow), "{refused}");
        assert_eq!(bench.cluster.usage().counts(), [1, 2, 0, 2]);
        // who goes away makes room
        let [one, two] = waits;
        one.abort();
        assert!(one.await.is_err());
        assert_eq!(bench.cluster.usage().counts(), [1, 1, 0, 1]);
        drop(held);
        drop(end(two).await.unwrap());
        assert_eq!(bench.cluster.usage().counts(), [0; 4]);
    });
}

#[test]
fn bytes_do_not_wait() {
    run(async {
        let bench = Bench::new(limited(1, None)).await;
        let idle = bench.get(0, 0).await;
        bench.put(0, idle);
        let (pick, pool) = (bench.pick(1), &bench.pools[0]);
        let first = pool.get_for_bytes(&bench.cluster, &pick, &TransportOptions::default()).await.unwrap();
        let second = pool.get_for_bytes(&bench.cluster, &pick, &TransportOptions::default()).await;
        assert!(matches!(second.err(), Some(ConnectError::Overflow)));
        drop(first);
        assert!(pool.get_for_bytes(&bench.cluster, &pick, &TransportOptions::default()).await.is_ok());
    });
}

#[test]
fn requests_are_counted_where_they_have_a_limit() {
    run(async {
        let bench =
            Bench::new(ConnectionLimits { max_requests: Some(2), ..ConnectionLimits::default() }).await;
        let admitted = [bench.cluster.admit().unwrap(), bench.cluster.admit().unwrap()];
        assert!(matches!(bench.cluster.admit().err(), Some(ConnectError::Overflow)));
        drop(admitted);
        assert!(bench.cluster.admit().unwrap().is_some());
    });
}

#[test]
fn a_connection_carries_so_many_requests_for_so_long() {
    run(async {
        let two = ConnectionLimits { max_requests_per_connection: Some(2), ..ConnectionLimits::default() };
        let bench = Bench::new(two).await;
        for expected in [false, true, false, true, false] {
            let connection = bench.get(0, 0).await;
            assert_eq!(connection.reused, expected);
            bench.put(0, connection);
        }
        let at_once =
            ConnectionLimits { max_connection_duration: Some(Duration::ZERO), ..ConnectionLimits::default() };
        let bench = Bench::new(at_once).await;
        for _ in 0..2 {
            let connection = bench.get(0, 0).await;
            assert!(!connection.reused);
            bench.put(0, connection);
        }
        assert_eq!(bench.cluster.usage().counts(), [0; 4]);
    });
}

#[test]
fn a_limit_that_is_raised_lets_those_in_who_wait() {
    run(async {
        let mut bench = Bench::new(limited(1, None)).await;
        let first = bench.get(0, 0).await;
        let waits = [bench.begin(0, 0), bench.begin(1, 0), bench.begin(1, 1)];
        bench.waits(&waits[0], 3).await;
        let [one, two, three] = waits;
        let mut held = vec![first];
        bench.limit(limited(2, None));
        held.push(end(one).await.unwrap());
        bench.waits(&two, 2).await;
        // another config may come before who is told has looked
        bench.limit(limited(3, None));
        bench.limit(ConnectionLimits::default());
        held.extend([end(two).await.unwrap(), end(three).await.unwrap()]);
        assert!(held.iter().all(|connection| !connection.reused));
    });
}
