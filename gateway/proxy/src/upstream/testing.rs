//! Models and patience for the tests of this room.

use crate::upstream::{self, Connector, Pick, Pool};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_model::{
    Address, Cluster, ClusterName, ConnectionLimits, Endpoint, EndpointSet, LoadBalancer, Locality, Model,
    RetryBudget, UpstreamProtocol,
};
use tokio::task::JoinHandle;

pub(super) fn cluster(host: &str) -> Cluster {
    Cluster {
        name: ClusterName::outbound(80, "", host),
        host: host.into(),
        port: 80,
        subset: "".into(),
        service_name: host.into(),
        service_namespace: "default".into(),
        protocol: UpstreamProtocol::Http1,
        load_balancer: LoadBalancer::LeastRequest,
        outlier_detection: None,
        warmup: None,
        limits: ConnectionLimits::default(),
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(60),
        retry_budget: RetryBudget::default(),
        tls: None,
        proxy_protocol: None,
    }
}

pub(super) fn endpoint(address: &str) -> Endpoint {
    at(Address::Socket(address.parse().unwrap()))
}

pub(super) fn named(host: &str, port: u16) -> Endpoint {
    at(Address::Dns(host.into(), port))
}

pub(super) fn in_turns(host: &str, port: u16) -> Endpoint {
    at(Address::DnsInTurns(host.into(), port))
}

pub(super) fn asked_for(pattern: &str, port: u16) -> Endpoint {
    at(Address::RequestHost(pattern.into(), port))
}

fn at(address: Address) -> Endpoint {
    Endpoint {
        address,
        weight: 1,
        workload: "w".into(),
        labels: Arc::new(BTreeMap::new()),
        locality: Locality::default(),
        priority: 0,
        locality_weight: None,
    }
}

pub(super) fn model(clusters: &[(Cluster, Vec<Endpoint>)]) -> Model {
    let mut model = Model::default();
    for (cluster, endpoints) in clusters {
        let name = cluster.name.clone();
        let set = EndpointSet { cluster: name.clone(), endpoints: endpoints.clone() };
        model.clusters.insert(name.clone(), Arc::new(cluster.clone()));
        model.endpoints.insert(name, Arc::new(set));
    }
    model
}

/// The pools of two workers, on this thread.
pub(super) fn pools() -> [Rc<Pool>; 2] {
    let connector = Connector::new();
    let pools = [0, 1].map(|_| Rc::new(Pool::new(connector.clone())));
    for pool in pools.clone() {
        tokio::task::spawn_local(async move { pool.expire().await });
    }
    pools
}

/// A pick of this endpoint of a cluster that picks at random.
pub(super) fn pick(cluster: &upstream::Cluster, which: usize) -> Pick {
    let address = cluster.addresses()[which];
    let mut picks = (0..64u64).filter_map(|dice| cluster.pick(dice << 58));
    picks.find(|pick| pick.address == address).unwrap()
}

/// What a task came to, which does not wait for ever.
pub(super) async fn end<T>(begun: JoinHandle<T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), begun).await.expect("it waits for ever").unwrap()
}

/// Waits for something that happens on another thread.
pub(super) fn until(mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it never happened");
        std::thread::sleep(Duration::from_millis(5));
    }
}
