use super::budget::RetryPermit;
use super::connect::ConnectError;
use super::endpoint::{EndpointId, Pick};
use super::hosts::RequestHosts;
use super::outlier::Seen;
use super::standing::{self, EndpointStanding};
use super::state::ClusterState;
use super::transport::{Key, Transport, TransportOptions, Way, key};
use super::usage::{InUse, Usage};
use ahash::AHashMap;
use std::sync::Arc;
use std::time::Instant;
use tidegate_model::{ClusterName, Diagnostic, HashKey, LoadBalancer, Origin, Severity};

/// The running clusters of one snapshot, by name.
#[derive(Clone, Default)]
pub(crate) struct Clusters(pub(super) Arc<AHashMap<ClusterName, Arc<Cluster>>>);

impl Clusters {
    /// A cluster by name, in O(1).
    pub(crate) fn get(&self, name: &ClusterName) -> Option<&Arc<Cluster>> {
        self.0.get(name)
    }

    /// What is wrong with those to which no connection can be made.
    pub(crate) fn unusable(&self) -> Vec<Diagnostic> {
        let all = self.0.iter().filter_map(|(name, cluster)| Some((name, cluster.transport.unusable()?)));
        let say = |(name, why): (&ClusterName, &str)| Diagnostic {
            severity: Severity::Error,
            origin: Origin::default(),
            object: None,
            field: "".into(),
            text: format!("TLS to {name} is not possible: {why}; its requests are answered with 503"),
            advice: "put what its DestinationRule names into the gateway's namespace, or where its paths say"
                .into(),
            code: "certificate-unusable",
        };
        all.map(say).collect()
    }
}

/// A running cluster, shared by all workers: one version of its config over state that outlives it.
pub(crate) struct Cluster {
    pub(super) config: Arc<tidegate_model::Cluster>,
    pub(super) state: Arc<ClusterState>,
    pub(super) transport: Arc<Transport>,
}

impl Cluster {
    pub(super) fn new(
        config: Arc<tidegate_model::Cluster>,
        state: Arc<ClusterState>,
        transport: Arc<Transport>,
    ) -> Arc<Self> {
        Arc::new(Cluster { config, state, transport })
    }

    /// How its connections begin.
    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// What connections to an endpoint of it may be used for.
    pub(super) fn key(&self, pick: &Pick, options: &TransportOptions) -> Key {
        key(pick.endpoint(), &self.transport, options)
    }

    /// The way that connections take to an endpoint.
    pub(super) fn way(&self, pick: &Pick, options: &TransportOptions) -> Way {
        let (endpoint, transport) = (pick.endpoint().clone(), self.transport.clone());
        Way { endpoint, transport, options: options.clone() }
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
    pub(crate) fn pick_other(&self, dice: u64, tried: &[EndpointId]) -> Option<Pick> {
        self.state.endpoints.load().pick_other(&self.state.turn, dice, tried)
    }

    /// Where endpoints are what requests ask for: then no other way of picking finds one.
    pub(crate) fn hosts(&self) -> Option<Arc<RequestHosts>> {
        self.state.endpoints.load().hosts().cloned()
    }

    /// What of a request its endpoint is picked by, if anything.
    pub(crate) fn hash_key(&self) -> Option<&HashKey> {
        match &self.config.load_balancer {
            LoadBalancer::ConsistentHash(hash) => Some(&hash.key),
            LoadBalancer::LeastRequest | LoadBalancer::RoundRobin | LoadBalancer::Random => None,
        }
    }

    /// What is to be said of its endpoints.
    pub(crate) fn standings(&self) -> Vec<EndpointStanding> {
        standing::running(&self.config, &self.state)
    }

    /// Counts a request for the retry budget, where that needs it.
    pub(crate) fn count_request(&self, now: Instant) {
        self.state.retries.count_request(self.config.retry_budget, now);
    }

    /// Begins a retry of a request that has an endpoint, unless the cluster has too many.
    pub(crate) fn begin_retry(&self, now: Instant) -> Option<RetryPermit> {
        self.state.retries.begin(self.config.retry_budget, now, || self.state.endpoints.load().requests())
    }

    /// Lets a request in; `None` inside where requests are not counted.
    ///
    /// # Errors
    /// When the cluster has as many requests as it may have.
    pub(crate) fn admit(&self) -> Result<Option<InUse>, ConnectError> {
        let Some(most) = self.config.limits.max_requests else { return Ok(None) };
        self.usage().request(most).map(Some).ok_or(ConnectError::Overflow)
    }

    pub(super) fn usage(&self) -> &Arc<Usage> {
        &self.state.usage
    }

    /// Counts a request that has no connection yet, where such are counted.
    pub(super) fn pend(&self) -> Result<Option<InUse>, ConnectError> {
        let Some(most) = self.config.limits.max_pending_requests else { return Ok(None) };
        self.usage().pending(most).map(Some).ok_or(ConnectError::Overflow)
    }

    /// Whether it is of interest what comes of tries.
    pub(crate) fn observes(&self) -> bool {
        self.config.outlier_detection.is_some()
    }

    /// Counts what came of a try, for the health of its endpoint.
    pub(crate) fn observe(&self, pick: &Pick, seen: Seen) {
        if let Some(rule) = &self.config.outlier_detection
            && let Some(cause) = pick.endpoint().health.count(rule, seen)
        {
            let state =
                self.hosts().map_or_else(|| Some(self.state.clone()), |hosts| hosts.state(pick.name()?));
            if let Some(state) = state {
                state.eject(&self.config.name, pick.endpoint(), rule, cause);
            }
        }
    }

    /// The addresses that requests may go to now: the ready endpoints, names resolved.
    #[cfg(test)]
    pub(super) fn addresses(&self) -> Vec<std::net::SocketAddr> {
        self.state.endpoints.load().members().iter().map(|m| m.endpoint.address()).collect()
    }
}
