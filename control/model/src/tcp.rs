use crate::{ClusterName, ObjectRef, Origin, RuleRef};
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Where the bytes of a connection go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TcpRoute {
    /// The rule that says so; its index is one of `section`.
    pub rule: RuleRef,
    /// The list that the rule stands in.
    pub section: TcpSection,
    /// Where it was written.
    pub origin: Origin,
    /// At least one; a connection picks one of them by weight.
    pub destinations: Vec<TcpDestination>,
}

/// The list that a rule for connections stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TcpSection {
    /// `spec.tcp` of a VirtualService.
    Tcp,
    /// `spec.tls` of a VirtualService.
    Tls,
    /// `spec.servers` of a Gateway: AUTO_PASSTHROUGH needs no rules.
    Servers,
}

impl fmt::Display for TcpSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TcpSection::Tcp => "tcp",
            TcpSection::Tls => "tls",
            TcpSection::Servers => "servers",
        })
    }
}

impl TcpRoute {
    /// Whether AuthorizationPolicies are about its connections: not where AUTO_PASSTHROUGH passes the mesh's own TLS on,
    /// in Istio neither.
    pub fn has_policies(&self) -> bool {
        self.section != TcpSection::Servers
    }

    /// The object that it is written in.
    pub fn object(&self) -> &ObjectRef {
        &self.rule.object
    }
}

/// One weighted destination of connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TcpDestination {
    /// The cluster.
    pub cluster: ClusterName,
    /// Its share of the sum of all weights.
    pub weight: u32,
    /// How long nothing may move in either direction; `None` is for ever.
    pub idle_timeout: Option<Duration>,
}

/// A route of connections that ask for certain names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SniRoute {
    /// SNI patterns, as [`crate::TlsServer::hosts`].
    pub hosts: Vec<Arc<str>>,
    /// Where they go.
    pub route: Arc<TcpRoute>,
}
