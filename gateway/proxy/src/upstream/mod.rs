//! Upstream clusters: their endpoints, how one is picked, connections and pools.

use pingora::protocols::Stream;
use std::net::SocketAddr;
use std::sync::Arc;
use tidegate_model::{ClusterName, Model};

/// The running clusters of one snapshot, by name.
pub(crate) struct Clusters {}

impl Clusters {
    /// A cluster by name, in O(1).
    pub(crate) fn get(&self, _name: &ClusterName) -> Option<&Arc<Cluster>> {
        unimplemented!()
    }
}

/// Keeps the state of clusters across snapshots, keyed by name: endpoint churn swaps endpoints,
/// an unchanged cluster keeps its counters, a removed one is dropped when its last request ends.
pub(crate) struct Registry {}

impl Registry {
    /// An empty registry. Names of DNS endpoints are resolved on `runtime`.
    pub(crate) fn new(_runtime: tokio::runtime::Handle) -> Self {
        unimplemented!()
    }

    /// The clusters of a model, sharing the state of those that were there before.
    pub(crate) fn apply(&mut self, _model: &Model) -> Clusters {
        unimplemented!()
    }
}

/// A running cluster, shared by all workers.
pub(crate) struct Cluster {}

impl Cluster {
    /// What the model says about it.
    pub(crate) fn config(&self) -> &Arc<tidegate_model::Cluster> {
        unimplemented!()
    }

    /// Picks an endpoint by the cluster's policy, or `None` when there is none (503, flag UH).
    /// `dice` is uniformly random. The pick counts as an active request until it is dropped.
    pub(crate) fn pick(self: &Arc<Self>, _dice: u64) -> Option<Pick> {
        unimplemented!()
    }
}

/// A picked endpoint, counted as active while it lives.
pub(crate) struct Pick {
    /// The endpoint's address (resolved).
    pub(crate) address: SocketAddr,
}

/// A worker's idle upstream connections, by endpoint. No lock: one worker, one thread.
pub(crate) struct Pool {}

/// An upstream connection.
pub(crate) struct UpstreamConnection {
    /// The bytes.
    pub(crate) stream: Stream,
    /// Whether it served a request before: a failure before the first response byte may then be
    /// staleness and not the endpoint's fault.
    pub(crate) reused: bool,
    /// Our address towards the endpoint.
    pub(crate) local: Option<SocketAddr>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// The cluster's connect timeout passed.
    #[error("connect timeout")]
    Timeout,
    /// Anything else the network said.
    #[error("connect failed: {0}")]
    Other(Box<pingora::Error>),
}

impl Pool {
    /// A connection to the endpoint: an idle one that is still open, else (or when `fresh`) a new one.
    pub(crate) async fn get(
        &self,
        _cluster: &Cluster,
        _pick: &Pick,
        _fresh: bool,
    ) -> Result<UpstreamConnection, ConnectError> {
        unimplemented!()
    }

    /// Gives back a connection on which request and response both ended cleanly.
    pub(crate) fn put(&self, _cluster: &Cluster, _pick: &Pick, _connection: UpstreamConnection) {
        unimplemented!()
    }
}
