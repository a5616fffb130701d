use crate::{
    Authentication, Authorities, Authorization, Cluster, ClusterName, EndpointSet, Listener, ListenerKey,
    MeshSettings, RouteTable, Secret, SecretKey, TableName, VirtualHost, VirtualHostKey,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Everything the data plane is told. Resources refer to each other by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Model {
    /// Listening sockets.
    #[serde(serialize_with = "values")]
    pub listeners: BTreeMap<ListenerKey, Arc<Listener>>,
    /// Route tables.
    #[serde(serialize_with = "values")]
    pub route_tables: BTreeMap<TableName, Arc<RouteTable>>,
    /// Virtual hosts.
    #[serde(serialize_with = "values")]
    pub virtual_hosts: BTreeMap<VirtualHostKey, Arc<VirtualHost>>,
    /// Clusters.
    #[serde(serialize_with = "values")]
    pub clusters: BTreeMap<ClusterName, Arc<Cluster>>,
    /// Endpoints by cluster.
    #[serde(serialize_with = "values")]
    pub endpoints: BTreeMap<ClusterName, Arc<EndpointSet>>,
    /// Certificates of servers and towards upstreams.
    #[serde(serialize_with = "values")]
    pub secrets: BTreeMap<SecretKey, Arc<Secret>>,
    /// Who signs the certificates of clients and upstreams.
    #[serde(serialize_with = "values")]
    pub authorities: BTreeMap<SecretKey, Arc<Authorities>>,
    /// Settings for everything.
    pub mesh: Arc<MeshSettings>,
    /// Whose tokens are accepted.
    pub authentication: Arc<Authentication>,
    /// Who may send what.
    pub authorization: Arc<Authorization>,
}

fn values<K, V: Serialize, S: serde::Serializer>(m: &BTreeMap<K, V>, s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(m.values())
}

/// One resource that came, changed (`Some`) or went (`None`).
pub type Change<K, V> = (K, Option<Arc<V>>);

/// The difference between two models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Listening sockets.
    pub listeners: Vec<Change<ListenerKey, Listener>>,
    /// Route tables.
    pub route_tables: Vec<Change<TableName, RouteTable>>,
    /// Virtual hosts.
    pub virtual_hosts: Vec<Change<VirtualHostKey, VirtualHost>>,
    /// Clusters.
    pub clusters: Vec<Change<ClusterName, Cluster>>,
    /// Endpoints by cluster.
    pub endpoints: Vec<Change<ClusterName, EndpointSet>>,
    /// Certificates of servers and towards upstreams.
    pub secrets: Vec<Change<SecretKey, Secret>>,
    /// Who signs the certificates of clients and upstreams.
    pub authorities: Vec<Change<SecretKey, Authorities>>,
    /// Settings for everything, when they changed.
    pub mesh: Option<Arc<MeshSettings>>,
    /// Whose tokens are accepted, when that changed.
    pub authentication: Option<Arc<Authentication>>,
    /// Who may send what, when that changed.
    pub authorization: Option<Arc<Authorization>>,
}

impl Changes {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
            && self.route_tables.is_empty()
            && self.virtual_hosts.is_empty()
            && self.clusters.is_empty()
            && self.endpoints.is_empty()
            && self.secrets.is_empty()
            && self.authorities.is_empty()
            && self.mesh.is_none()
            && self.authentication.is_none()
            && self.authorization.is_none()
    }
}

impl Model {
    /// Takes from `old` what is equal, so that what did not change is in memory once, whoever holds either of them.
    pub fn share(&mut self, old: &Model) {
        share(&mut self.listeners, &old.listeners);
        share(&mut self.route_tables, &old.route_tables);
        share(&mut self.virtual_hosts, &old.virtual_hosts);
        share(&mut self.clusters, &old.clusters);
        share(&mut self.endpoints, &old.endpoints);
        share(&mut self.secrets, &old.secrets);
        share(&mut self.authorities, &old.authorities);
        share_one(&mut self.mesh, &old.mesh);
        share_one(&mut self.authentication, &old.authentication);
        share_one(&mut self.authorization, &old.authorization);
    }

    /// What must change in `old` to make it this model.
    pub fn diff(&self, old: &Model) -> Changes {
        Changes {
            listeners: diff(&old.listeners, &self.listeners),
            route_tables: diff(&old.route_tables, &self.route_tables),
            virtual_hosts: diff(&old.virtual_hosts, &self.virtual_hosts),
            clusters: diff(&old.clusters, &self.clusters),
            endpoints: diff(&old.endpoints, &self.endpoints),
            secrets: diff(&old.secrets, &self.secrets),
            authorities: diff(&old.authorities, &self.authorities),
            mesh: (self.mesh != old.mesh).then(|| self.mesh.clone()),
            authentication: (self.authentication != old.authentication).then(|| self.authentication.clone()),
            authorization: (self.authorization != old.authorization).then(|| self.authorization.clone()),
        }
    }
}

fn share<K: Ord, V: PartialEq>(new: &mut BTreeMap<K, Arc<V>>, old: &BTreeMap<K, Arc<V>>) {
    for (key, value) in new {
        if let Some(old) = old.get(key) {
            share_one(value, old);
        }
    }
}

fn share_one<V: PartialEq>(new: &mut Arc<V>, old: &Arc<V>) {
    if new == old {
        new.clone_from(old);
    }
}

fn diff<K: Ord + Clone, V: PartialEq>(
    old: &BTreeMap<K, Arc<V>>,
    new: &BTreeMap<K, Arc<V>>,
) -> Vec<Change<K, V>> {
    let same = |a: &Arc<V>, b: &Arc<V>| Arc::ptr_eq(a, b) || a == b;
    let gone = old.keys().filter(|k| !new.contains_key(*k)).map(|k| (k.clone(), None));
    let came = new
        .iter()
        .filter(|(k, v)| !old.get(*k).is_some_and(|o| same(o, v)))
        .map(|(k, v)| (k.clone(), Some(v.clone())));
    gone.chain(came).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, port: u16) -> (TableName, Arc<RouteTable>) {
        let name: TableName = name.into();
        (name.clone(), Arc::new(RouteTable { name, server_port: port, tls: false }))
    }

    #[test]
    fn diff_names_what_came_changed_and_went() {
        let old = Model {
            route_tables: [table("kept", 1), table("changed", 2), table("gone", 3)].into(),
            ..Model::default()
        };
        let new = Model {
            route_tables: [table("kept", 1), table("changed", 20), table("came", 4)].into(),
            ..Model::default()
        };
        let changes = new.diff(&old);
        let seen: Vec<_> = changes
            .route_tables
            .iter()
            .map(|(k, v)| (k.as_ref(), v.as_ref().map(|t| t.server_port)))
            .collect();
        assert_eq!(seen, [("gone", None), ("came", Some(4)), ("changed", Some(20))]);
        assert!(new.diff(&new).is_empty());
        assert!(!changes.is_empty());
    }

    #[test]
    fn what_is_equal_is_shared_and_nothing_else_changes() {
        let model = |port| Model {
            route_tables: [table("kept", 1), table("changed", port)].into(),
            ..Model::default()
        };
        let (old, mut new) = (model(2), model(20));
        new.share(&old);
        assert_eq!(new, model(20));
        let same = |name: &str| {
            let name: TableName = name.into();
            Arc::ptr_eq(&old.route_tables[&name], &new.route_tables[&name])
        };
        assert!(same("kept") && !same("changed"));
        assert!(Arc::ptr_eq(&old.mesh, &new.mesh));
    }
}
