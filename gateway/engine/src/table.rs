use crate::RequestView;
use serde::Serialize;
use std::sync::Arc;
use tidegate_model::{
    Changes, Cluster, ClusterName, Destination, DirectResponse, Forward, Listener, ListenerKey, Model,
    Redirect, Route, RuleRef, TableName,
};

/// An immutable, compiled snapshot of the whole model. Cheap to share, swapped whole.
#[derive(Debug, Default)]
pub struct Table {}

/// The outcome of a compilation: the table, and what of the model it refused.
#[derive(Debug)]
pub struct Compiled {
    /// The new table.
    pub table: Table,
    /// Rules that do not compile (a regex over its limits, say): the rule answers 500, named here.
    pub refused: Vec<(RuleRef, String)>,
}

impl Table {
    /// Compiles a model from nothing.
    pub fn compile(model: &Model) -> Compiled {
        Table::default().apply(model, &model.diff(&Model::default()))
    }

    /// Compiles only what changed and shares the rest. `model` is the whole new model, `changes`
    /// what differs from the model of this table. The result equals [`Table::compile`] of `model`.
    pub fn apply(&self, _model: &Model, _changes: &Changes) -> Compiled {
        unimplemented!()
    }

    /// The listeners, for the accept side.
    pub fn listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        std::iter::empty()
    }

    /// A cluster by name.
    pub fn cluster(&self, _name: &ClusterName) -> Option<&Arc<Cluster>> {
        None
    }

    /// The route table of a plain listener, in O(1).
    pub fn listener_routes(&self, _key: &ListenerKey) -> ListenerRoute<'_> {
        unimplemented!()
    }

    /// A route table by name, in O(1).
    pub fn route_table(&self, _name: &TableName) -> Option<RouteTableView<'_>> {
        None
    }
}

/// What a listener routes by.
#[derive(Clone, Copy, Debug)]
pub enum ListenerRoute<'t> {
    /// Plain text HTTP.
    Http(RouteTableView<'t>),
    /// TLS: the server that the SNI chose names the table.
    Tls,
    /// No such listener (any more).
    None,
}

/// One route table of a [`Table`]: the entry to [`Decision`]s.
#[derive(Clone, Copy, Debug)]
pub struct RouteTableView<'t> {
    _table: std::marker::PhantomData<&'t ()>,
}

impl<'t> RouteTableView<'t> {
    /// Decides a request. `dice` is a uniformly random number that picks among weights.
    pub fn decide<R: RequestView + ?Sized>(&self, _request: &R, _dice: u64) -> Decision<'t> {
        unimplemented!()
    }

    /// Decides by the same code and says which rules were considered and why they lost.
    pub fn explain<R: RequestView + ?Sized>(&self, _request: &R, _dice: u64) -> Explanation<'t> {
        unimplemented!()
    }
}

/// What happens to a request.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'t> {
    /// Send it on.
    Forward(ForwardDecision<'t>),
    /// Answer with a redirect; [`Decision::write_location`] gives its location.
    Redirect(&'t Route, &'t Redirect),
    /// Answer directly.
    DirectResponse(&'t Route, &'t DirectResponse),
    /// 301 to https, from `httpsRedirect` of a server of this virtual host.
    HttpsRedirect,
    /// 404, and why.
    NoRoute(NoRoute),
}

/// Where a request is sent.
#[derive(Clone, Copy, Debug)]
pub struct ForwardDecision<'t> {
    /// The rule that matched.
    pub route: &'t Route,
    /// Its action.
    pub forward: &'t Forward,
    /// The destination that the dice chose.
    pub destination: &'t Destination,
}

/// Why nothing matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoRoute {
    /// No virtual host of this listener serves the authority.
    NoVirtualHost,
    /// The virtual host has no rule that matches.
    NoRule,
}

impl Decision<'_> {
    /// Appends the request target to send upstream: the rewritten path, with the query as it was.
    pub fn write_target<R: RequestView + ?Sized>(&self, _request: &R, _out: &mut Vec<u8>) {
        unimplemented!()
    }

    /// Appends the value of `Location` of a redirect.
    pub fn write_location<R: RequestView + ?Sized>(&self, _request: &R, _out: &mut Vec<u8>) {
        unimplemented!()
    }
}

/// A decision with its reasons.
#[derive(Debug)]
pub struct Explanation<'t> {
    /// What happens.
    pub decision: Decision<'t>,
    /// The virtual host's domain that was chosen, if any.
    pub domain: Option<String>,
    /// Every rule of that virtual host in rank order up to and including the one that matched.
    pub considered: Vec<Considered>,
}

/// A rule that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Considered {
    /// The rule.
    pub rule: RuleRef,
    /// Which condition failed, in words with field and expectation; `None` for the rule that matched.
    pub lost_by: Option<String>,
}
