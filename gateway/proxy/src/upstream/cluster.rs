use super::budget::{Retries, RetryPermit};
use super::dns::{Name, Watcher};
use super::endpoint::{Endpoint, EndpointId, Pick};
use super::table::{EndpointTable, Member};
use crate::telemetry::Workload;
use ahash::{AHashMap, AHashSet};
use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tidegate_model::{Address, ClusterName, EndpointSet, HashKey, LoadBalancer};

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
    pub(super) config: Arc<tidegate_model::Cluster>,
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
    /// `dice` is uniformly random, or the hash of the request's key where the policy hashes one.
    /// The pick counts as an active request until it is dropped.
    pub(crate) fn pick(&self, dice: u64) -> Option<Pick> {
        self.state.endpoints.load().pick(&self.state.turn, dice)
    }

    /// Picks an endpoint for a retry: like [`Cluster::pick`], but none of `tried` while there is
    /// another one. The last pick may be among them.
    pub(crate) fn pick_other(&self, tried: &[EndpointId]) -> Option<Pick> {
        self.state.endpoints.load().pick_other(&self.state.turn, tried)
    }

    /// What of a request its endpoint is picked by, if anything.
    pub(crate) fn hash_key(&self) -> Option<&HashKey> {
        match &self.config.load_balancer {
            LoadBalancer::ConsistentHash(hash) => Some(&hash.key),
            LoadBalancer::LeastRequest | LoadBalancer::RoundRobin | LoadBalancer::Random => None,
        }
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
    /// The newest config: who still has an older one finds the endpoints picked by this one's policy.
    config: Option<Arc<tidegate_model::Cluster>>,
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

    /// Whether its endpoints are made from this config and this set already.
    pub(super) fn is_made_from(
        &self,
        config: &tidegate_model::Cluster,
        set: Option<&Arc<EndpointSet>>,
    ) -> bool {
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let same_set = match (&source.set, set) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a.endpoints == b.endpoints,
            _ => false,
        };
        same_set && source.config.as_ref().is_some_and(|made| made.load_balancer == config.load_balancer)
    }

    /// Swaps the endpoints for those of `set`, picked by the policy of `config`; `names` are the DNS names in it.
    pub(super) fn set_endpoints(
        &self,
        config: Arc<tidegate_model::Cluster>,
        set: Option<Arc<EndpointSet>>,
        names: AHashMap<Arc<str>, Arc<Name>>,
    ) {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        *source = Source { config: Some(config), set, names };
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
        let policy = source.config.as_ref().map(|config| config.load_balancer.clone()).unwrap_or_default();
        self.endpoints.store(Arc::new(EndpointTable::new(members, &policy)));
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
