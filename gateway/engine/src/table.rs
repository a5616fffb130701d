use crate::RouteTableView;
use crate::authorization::Authorizer;
use crate::connection::ListenerView;
use crate::host_index::HostIndex;
use crate::pattern::Patterns;
use crate::redirect::Origin;
use crate::sni_index::SniIndex;
use crate::virtual_host::CompiledHost;
use ahash::AHashMap;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidegate_model::{
    Changes, Cluster, ClusterName, Listener, ListenerKey, ListenerProtocol, Model, RouteTable, RuleRef,
    TableName, VirtualHost, VirtualHostKey,
};

/// An immutable, compiled snapshot of the whole model. Cheap to share, swapped whole.
///
/// Serialized, it is what it was compiled from: listeners, route tables with their virtual hosts,
/// clusters.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// In the order of their keys.
    listeners: Arc<[Arc<Listener>]>,
    /// Them by key, compiled.
    links: AHashMap<ListenerKey, Link>,
    routes: Arc<AHashMap<TableName, Arc<CompiledTable>>>,
    clusters: Arc<AHashMap<ClusterName, Arc<Cluster>>>,
    patterns: Arc<Patterns>,
    refused: Arc<BTreeMap<VirtualHostKey, Vec<(RuleRef, String)>>>,
    authorizer: Option<Arc<Authorizer>>,
}

/// A listener with what its protocol needs.
#[derive(Clone, Debug)]
struct Link {
    listener: Arc<Listener>,
    http: Option<Arc<CompiledTable>>,
    names: Option<Arc<SniIndex>>,
}

/// A route table with its virtual hosts. Either may be there before the other.
#[derive(Clone, Debug, Default)]
struct CompiledTable {
    source: Option<Arc<RouteTable>>,
    hosts: HostIndex,
}

/// The outcome of a compilation: the table, and what of the model it refused.
#[derive(Debug)]
pub struct Compiled {
    /// The new table.
    pub table: Table,
    /// Rules that do not compile (a regex over its limits, say): the rule answers 500, named here.
    /// Those of virtual hosts that did not change are named again.
    pub refused: Vec<(RuleRef, String)>,
}

impl Table {
    /// Compiles a model from nothing.
    pub fn compile(model: &Model) -> Compiled {
        Table::default().apply(model, &model.diff(&Model::default()))
    }

    /// Compiles only what changed and shares the rest. `model` is the whole new model, `changes`
    /// what differs from the model of this table. The result equals [`Table::compile`] of `model`.
    pub fn apply(&self, model: &Model, changes: &Changes) -> Compiled {
        let mut table = self.clone();
        if !changes.route_tables.is_empty() || !changes.virtual_hosts.is_empty() {
            table.apply_routes(changes);
        }
        if !changes.clusters.is_empty() {
            let clusters = Arc::make_mut(&mut table.clusters);
            for (name, change) in &changes.clusters {
                match change {
                    Some(cluster) => clusters.insert(name.clone(), cluster.clone()),
                    None => clusters.remove(name),
                };
            }
        }
        if let Some(authorization) = &changes.authorization {
            table.authorizer = Authorizer::compile(authorization).map(Arc::new);
        }
        table.listeners = model.listeners.values().cloned().collect();
        let link = |l: &Arc<Listener>| (l.key, table.link(l, self.links.get(&l.key)));
        table.links = table.listeners.iter().map(link).collect();
        let refused = table.refused.values().flatten().cloned().collect();
        Compiled { table, refused }
    }

    fn apply_routes(&mut self, changes: &Changes) {
        let patterns = Arc::make_mut(&mut self.patterns);
        let mut compiler = Compiler { patterns, refused: Arc::make_mut(&mut self.refused) };
        let routes = Arc::make_mut(&mut self.routes);
        for (name, source) in &changes.route_tables {
            let table = Arc::make_mut(routes.entry(name.clone()).or_default());
            let old = table.origin();
            table.source.clone_from(source);
            if table.origin() != old {
                compiler.recompile(table);
            }
        }
        for (key, source) in &changes.virtual_hosts {
            let table = Arc::make_mut(routes.entry(key.table.clone()).or_default());
            match source {
                Some(source) => compiler.compile(table, key, source),
                None => {
                    table.hosts.remove(&key.domain);
                    compiler.refused.remove(key);
                }
            }
        }
        routes.retain(|_, table| table.source.is_some() || !table.hosts.is_empty());
        compiler.patterns.sweep();
    }

    /// A listener compiled; the names of one that did not change are shared with `old`.
    fn link(&self, listener: &Arc<Listener>, old: Option<&Link>) -> Link {
        let same = old.filter(|old| Arc::ptr_eq(&old.listener, listener) || old.listener == *listener);
        let (http, names) = match &listener.protocol {
            ListenerProtocol::Http(name) => (self.routes.get(name).cloned(), None),
            ListenerProtocol::Tls(servers) => {
                let names = same.and_then(|old| old.names.clone());
                (None, Some(names.unwrap_or_else(|| Arc::new(SniIndex::new(servers)))))
            }
            ListenerProtocol::Tcp(_) => (None, None),
        };
        Link { listener: listener.clone(), http, names }
    }

    /// Who may send what; `None` where nobody said it.
    pub fn authorizer(&self) -> Option<&Authorizer> {
        self.authorizer.as_deref()
    }

    /// The listeners in the order of their keys, for the accept side.
    pub fn listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners.iter()
    }

    /// A cluster by name.
    pub fn cluster(&self, name: &ClusterName) -> Option<&Arc<Cluster>> {
        self.clusters.get(name)
    }

    /// A listener by key, in O(1): the entry to decisions about its connections.
    pub fn listener(&self, key: &ListenerKey) -> Option<ListenerView<'_>> {
        let link = self.links.get(key)?;
        Some(ListenerView {
            protocol: &link.listener.protocol,
            http: link.http.as_ref().and_then(|table| table.view()),
            names: link.names.as_deref(),
        })
    }

    /// The route table of a plain listener, in O(1).
    pub fn listener_routes(&self, key: &ListenerKey) -> Option<RouteTableView<'_>> {
        self.links.get(key)?.http.as_ref()?.view()
    }

    /// A route table by name, in O(1).
    pub fn route_table(&self, name: &TableName) -> Option<RouteTableView<'_>> {
        self.routes.get(name)?.view()
    }
}

impl CompiledTable {
    fn origin(&self) -> Origin {
        let source = self.source.as_ref();
        Origin { port: source.map_or(0, |s| s.server_port), tls: source.is_some_and(|s| s.tls) }
    }

    fn view(&self) -> Option<RouteTableView<'_>> {
        Some(RouteTableView { source: self.source.as_ref()?, hosts: &self.hosts })
    }
}

/// What compiling virtual hosts shares.
struct Compiler<'c> {
    patterns: &'c mut Patterns,
    refused: &'c mut BTreeMap<VirtualHostKey, Vec<(RuleRef, String)>>,
}

impl Compiler<'_> {
    fn compile(&mut self, table: &mut CompiledTable, key: &VirtualHostKey, source: &Arc<VirtualHost>) {
        let (host, refused) = CompiledHost::compile(source, table.origin(), self.patterns);
        table.hosts.insert(&key.domain, Arc::new(host));
        if refused.is_empty() {
            self.refused.remove(key);
        } else {
            self.refused.insert(key.clone(), refused);
        }
    }

    /// Compiles every virtual host again, for an origin that changed.
    fn recompile(&mut self, table: &mut CompiledTable) {
        let sources: Vec<_> = table.hosts.hosts().map(|host| host.source().clone()).collect();
        for source in sources {
            self.compile(table, &source.key, &source);
        }
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tables: BTreeMap<_, _> = self.routes.iter().collect();
        let tables: Vec<_> = tables.into_values().map(TablePage::new).collect();
        let clusters: BTreeMap<_, _> = self.clusters.iter().collect();
        let clusters: Vec<_> = clusters.into_values().collect();
        let mut page = serializer.serialize_struct("Table", 3)?;
        page.serialize_field("listeners", &self.listeners)?;
        page.serialize_field("route_tables", &tables)?;
        page.serialize_field("clusters", &clusters)?;
        page.end()
    }
}

/// A route table as the admin page shows it.
#[derive(Serialize)]
struct TablePage<'t> {
    #[serde(flatten)]
    source: &'t Option<Arc<RouteTable>>,
    virtual_hosts: Vec<&'t Arc<VirtualHost>>,
}

impl<'t> TablePage<'t> {
    fn new(table: &'t Arc<CompiledTable>) -> Self {
        let mut virtual_hosts: Vec<_> = table.hosts.hosts().map(|host| host.source()).collect();
        virtual_hosts.sort_by_key(|host| &host.key);
        TablePage { source: &table.source, virtual_hosts }
    }
}
