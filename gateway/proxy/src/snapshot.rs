use crate::tls::ServerConfigs;
use crate::upstream::Clusters;
use std::sync::Arc;
use tidegate_engine::Table;
use tidegate_model::MeshSettings;

/// Everything one request needs to know, swapped whole. A request pins one for its whole life.
pub(crate) struct Snapshot {
    /// Grows by one for each config made live.
    pub(crate) generation: u64,
    /// Routing.
    pub(crate) table: Table,
    /// Running clusters by name. Their state (health, pools, counters) outlives snapshots.
    pub(crate) clusters: Clusters,
    /// Certificates and TLS policy by listener.
    pub(crate) tls: ServerConfigs,
    /// Mesh-wide settings.
    pub(crate) mesh: Arc<MeshSettings>,
}
