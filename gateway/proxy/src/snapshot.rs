use crate::auth::Authenticator;
use crate::connection::Connection;
use crate::tls::{ServerConfigs, TlsFacts};
use crate::upstream::Clusters;
use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tidegate_engine::{RouteTableView, Table};
use tidegate_model::{MeshSettings, TableName};

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
    /// Whose tokens are accepted; `None` where tokens mean nothing.
    pub(crate) authentication: Option<Arc<Authenticator>>,
}

impl Snapshot {
    /// What the requests of a connection are routed by; `None` when its listener is gone. A TLS
    /// server that went under its name may live on under another, for instance in another
    /// Gateway: then a connection goes where a new one with its SNI would.
    pub(crate) fn routes(&self, connection: &Connection) -> Option<RouteTableView<'_>> {
        match &connection.tls {
            None => self.table.listener_routes(&connection.listener),
            Some(tls) => self.table.route_table(self.server_name(connection, tls)?),
        }
    }

    /// The TLS server of a connection, by the name that it has now.
    pub(crate) fn server_name<'a>(
        &'a self,
        connection: &Connection,
        tls: &'a TlsFacts,
    ) -> Option<&'a TableName> {
        if self.table.route_table(&tls.table).is_some() {
            return Some(&tls.table);
        }
        self.table.listener(&connection.listener)?.tls_server(tls.sni.as_deref())
    }
}

/// The last snapshot in which a listener was, known from the moment that the listener goes. It
/// is what the requests of the listener's connections go by from then on: one that is read while
/// a config without the listener is made live still finds its routes.
#[derive(Clone, Default)]
pub(crate) struct LastSnapshot(Arc<OnceLock<Arc<Snapshot>>>);

impl LastSnapshot {
    /// The listener goes. To be called before that is told to the connections.
    pub(crate) fn set(&self, snapshot: Arc<Snapshot>) {
        // A listener goes once; a second time would change nothing.
        let _ = self.0.set(snapshot);
    }

    /// `None` while the listener is there.
    pub(crate) fn get(&self) -> Option<&Arc<Snapshot>> {
        self.0.get()
    }
}

/// The snapshot that is live, and its number beside it so that looking whether it changed is
/// one plain load.
pub(crate) struct Live {
    generation: AtomicU64,
    snapshot: ArcSwap<Snapshot>,
}

impl Live {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        Live { generation: AtomicU64::new(snapshot.generation), snapshot: ArcSwap::from_pointee(snapshot) }
    }

    /// The number of the live snapshot.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The live snapshot: at least as new as what [`Live::generation`] said before.
    pub(crate) fn load(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Makes a snapshot the live one.
    pub(crate) fn swap(&self, snapshot: Snapshot) {
        let generation = snapshot.generation;
        self.snapshot.store(Arc::new(snapshot));
        self.generation.store(generation, Ordering::Release);
    }
}
