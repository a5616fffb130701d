use super::balance;
use super::budget::{Retries, RetryPermit};
use super::dns::{Name, Watcher};
use super::endpoint::{Endpoint, EndpointId, EndpointTable, Member, Pick};
use crate::telemetry::Workload;
use ahash::{AHashMap, AHashSet};
use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tidegate_model::{Address, ClusterName, EndpointSet};

/// How often a retry draws before it takes whatever was not tried (Istio: 5 times more than once).
const SELECTIONS: usize = 6;

/// The running clusters of one snapshot, by name.
#[derive(Clone, Default)]
pub(crate) struct Clusters(pub(super) Arc<AHashMap<ClusterName, Arc<Cluster>>>);

impl Clusters {
    /// A cluster by name, in O(1).
    pub(crate) fn get(&self, name: &ClusterName) -> Option<&Arc<Cluster>> {
        self.0.get(name)
    }
}

/// A running cluster, shared by all workers: one version of its config over state that outlives it.
pub(crate) struct Cluster {
    config: Arc<tidegate_model::Cluster>,
    pub(super) state: Arc<ClusterState>,
}

impl Cluster {
    pub(super) fn new(config: Arc<tidegate_model::Cluster>, state: Arc<ClusterState>) -> Arc<Self> {
        Arc::new(Cluster { config, state })
    }

    /// What the model says about it.
    pub(crate) fn config(&self) -> &Arc<tidegate_model::Cluster> {
        &self.config
    }

    /// Picks an endpoint by the cluster's policy, or `None` when there is none (503, flag UH).
    /// `dice` is uniformly random. The pick counts as an active request until it is dropped.
    pub(crate) fn pick(self: &Arc<Self>, dice: u64) -> Option<Pick> {
        let table = self.state.endpoints.load();
        let index = balance::pick(self.config.load_balancer, &table, &self.state.turn, dice)?;
        Some(table.take(index))
    }

    /// Picks an endpoint for a retry: like [`Cluster::pick`], but none of `tried` while there is
    /// another one. The last pick may be among them.
    pub(crate) fn pick_other(self: &Arc<Self>, tried: &[EndpointId]) -> Option<Pick> {
        let table = self.state.endpoints.load();
        let is_new = |index: &usize| !tried.contains(&table.id(*index));
        let mut drawn = None;
        for _ in 0..SELECTIONS {
            let dice = fastrand::u64(..);
            drawn = balance::pick(self.config.load_balancer, &table, &self.state.turn, dice);
            if drawn.as_ref().is_none_or(is_new) {
                return drawn.map(|index| table.take(index));
            }
        }
        // where the load decides, it may well stand against those that are left
        let start = fastrand::usize(..table.len());
        let other = (0..table.len()).map(|i| (start + i) % table.len()).find(is_new);
        other.or(drawn).map(|index| table.take(index))
    }

    /// Counts a request for the retry budget, where that needs it.
    pub(crate) fn count_request(&self, now: Instant) {
        self.state.retries.count_request(self.config.retry_budget, now);
    }

    /// Begins a retry of a request that has an endpoint, unless the cluster has too many.
    pub(crate) fn begin_retry(&self, now: Instant) -> Option<RetryPermit> {
        self.state.retries.begin(self.config.retry_budget, now, || self.state.endpoints.load().requests())
    }

    /// The addresses that requests may go to now: the ready endpoints, names resolved.
    #[cfg(test)]
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.state.endpoints.load().members().iter().map(|m| m.endpoint.address()).collect()
    }
}

/// What a cluster keeps from one config to the next, shared by the snapshots that know it.
pub(super) struct ClusterState {
    endpoints: ArcSwap<EndpointTable>,
    /// The round robin's counter, begun anywhere so that gateways do not walk in step.
    turn: AtomicU64,
    retries: Arc<Retries>,
    source: Mutex<Source>,
}

/// What the endpoints are made from. Locked only while they are made.
#[derive(Default)]
struct Source {
    set: Option<Arc<EndpointSet>>,
    names: AHashMap<Arc<str>, Arc<Name>>,
}

impl ClusterState {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(ClusterState {
            endpoints: ArcSwap::default(),
            turn: AtomicU64::new(fastrand::u64(..)),
            retries: Arc::default(),
            source: Mutex::default(),
        })
    }

    /// Whether its endpoints are made from this set already.
    pub(super) fn is_made_from(&self, set: Option<&Arc<EndpointSet>>) -> bool {
        match (&self.source.lock().unwrap_or_else(PoisonError::into_inner).set, set) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a.endpoints == b.endpoints,
            _ => false,
        }
    }

    /// Swaps the endpoints for those of `set`; `names` are the DNS names in it.
    pub(super) fn set_endpoints(&self, set: Option<Arc<EndpointSet>>, names: AHashMap<Arc<str>, Arc<Name>>) {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        *source = Source { set, names };
        self.rebuild(&source);
    }

    /// Makes the table again. An endpoint whose address stays keeps its counters and connections.
    fn rebuild(&self, source: &Source) {
        let old = self.endpoints.load_full();
        let mut kept: AHashMap<SocketAddr, Arc<Endpoint>> =
            old.members().iter().map(|m| (m.endpoint.address(), m.endpoint.clone())).collect();
        let mut seen = AHashSet::new();
        let mut members = Vec::new();
        for described in source.set.iter().flat_map(|s| &s.endpoints) {
            let workload = Arc::new(Workload::new(&described.workload, &described.labels));
            for address in source.resolve(&described.address) {
                if seen.insert(address) {
                    members.push(Member {
                        endpoint: kept.remove(&address).unwrap_or_else(|| Endpoint::new(address)),
                        weight: described.weight.max(1),
                        workload: workload.clone(),
                    });
                }
            }
        }
        self.endpoints.store(Arc::new(EndpointTable::new(members)));
        kept.values().for_each(|endpoint| endpoint.remove());
    }
}

impl Watcher for ClusterState {
    fn resolved(&self) {
        self.rebuild(&self.source.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for ClusterState {
    fn drop(&mut self) {
        self.endpoints.load().members().iter().for_each(|m| m.endpoint.remove());
    }
}

impl Source {
    fn resolve(&self, address: &Address) -> Vec<SocketAddr> {
        match address {
            Address::Socket(address) => vec![*address],
            Address::Dns(name, port) => {
                let name = self.names.get(name).map(|n| n.addresses());
                name.iter().flat_map(|a| a.iter()).map(|ip| SocketAddr::new(*ip, *port)).collect()
            }
        }
    }
}
