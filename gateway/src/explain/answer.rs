//! What is said about a request, for programs (JSON) and for people (text).

use serde::Serialize;
use std::fmt;
use tidegate_engine::Considered;
use tidegate_model::{
    ClusterName, LoadBalancer, ObjectRef, Origin, ProxyProtocol, Route, RuleRef, TcpRoute, UpstreamTls,
};
use tidegate_proxy::EndpointStanding;

/// What happens to a request, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Answer {
    /// The config that was asked.
    pub(super) generation: u64,
    /// `forward`, `redirect`, `direct_response`, `deny` or `no_route`.
    pub(super) outcome: &'static str,
    /// The status that was decided; `None` for a forward, where it is the endpoint's.
    pub(super) status: Option<u16>,
    /// Why, where it is not that a rule says so; for a forward, why it fails.
    pub(super) reason: Option<String>,
    /// What the question leaves open, as it was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) assumed: Option<String>,
    /// The rule that decided.
    pub(super) rule: Option<Rule>,
    pub(super) route_table: Option<String>,
    pub(super) virtual_host: Option<String>,
    pub(super) cluster: Option<String>,
    #[serde(skip)]
    pub(super) cluster_name: Option<ClusterName>,
    /// The cluster's subset of its service.
    pub(super) subset: Option<String>,
    /// How its endpoints are picked.
    pub(super) load_balancer: Option<LoadBalancer>,
    /// How TLS is spoken to them.
    pub(super) tls: Option<UpstreamTls>,
    /// What each connection to them begins with.
    pub(super) proxy_protocol: Option<ProxyProtocol>,
    /// One of the endpoints.
    pub(super) endpoint: Option<String>,
    pub(super) endpoints: Vec<String>,
    /// Each of them with its health, its share, and why that is nothing.
    #[serde(rename = "endpoint_standings")]
    pub(super) standings: Vec<EndpointStanding>,
    /// All the weighted destinations of the rule.
    pub(super) destinations: Vec<Share>,
    /// What is sent to the endpoint.
    pub(super) rewritten: Option<Rewritten>,
    /// Where a redirect leads.
    pub(super) location: Option<String>,
    /// The rules of authorization policies in the order in which they are asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) policies: Vec<PolicyRuleAnswer>,
    /// The rules that were looked at, in order; the last has not lost if one decided.
    pub(super) considered: Vec<Lost>,
}

/// A rule by object and index, and where it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Rule {
    kind: String,
    namespace: String,
    name: String,
    index: usize,
    #[serde(rename = "match")]
    matched: Option<usize>,
    file: String,
    line: u32,
    /// The list in which the index counts, where that is not `http`.
    #[serde(skip_serializing_if = "Option::is_none")]
    section: Option<String>,
    /// The rule that delegated to this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<Root>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Root {
    kind: String,
    namespace: String,
    name: String,
    index: usize,
}

/// A destination and its part of the requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Share {
    pub(super) cluster: String,
    pub(super) weight: u32,
    pub(super) percent: f64,
}

/// What is sent to the endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Rewritten {
    pub(super) authority: String,
    pub(super) path: String,
}

/// A rule that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Lost {
    rule: Rule,
    lost_by: Option<String>,
}

/// A rule of a policy, and whether it matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct PolicyRuleAnswer {
    pub(super) rule: Rule,
    pub(super) action: &'static str,
    pub(super) dry_run: bool,
    pub(super) lost_by: Option<String>,
}

impl Rule {
    pub(super) fn new(rule: &RuleRef, origin: &Origin) -> Rule {
        let ObjectRef { kind, namespace, name } = &rule.object;
        Rule {
            kind: kind.to_string(),
            namespace: namespace.to_string(),
            name: name.to_string(),
            index: rule.index,
            matched: rule.match_index,
            file: origin.file.to_string(),
            line: origin.line,
            section: None,
            root: rule.root.as_deref().map(|(object, index)| Root {
                kind: object.kind.to_string(),
                namespace: object.namespace.to_string(),
                name: object.name.to_string(),
                index: *index,
            }),
        }
    }

    pub(super) fn of(route: &Route) -> Rule {
        Rule::new(&route.rule, &route.origin)
    }

    /// A rule of a policy.
    pub(super) fn of_policy(rule: &RuleRef, origin: &Origin) -> Rule {
        Rule { section: Some("rules".to_owned()), ..Rule::new(rule, origin) }
    }

    /// A rule for connections.
    pub(super) fn of_tcp(route: &TcpRoute) -> Rule {
        Rule { section: Some(route.section.to_string()), ..Rule::new(&route.rule, &route.origin) }
    }
}

impl Lost {
    /// The rule of `route`, which knows where it was written.
    pub(super) fn new(considered: Considered, route: &Route) -> Lost {
        Lost { rule: Rule::new(&considered.rule, &route.origin), lost_by: considered.lost_by }
    }

    /// A rule for connections.
    pub(super) fn of_tcp(route: &TcpRoute, lost_by: Option<String>) -> Lost {
        Lost { rule: Rule::of_tcp(route), lost_by }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let section = self.section.as_deref().unwrap_or("http");
        write!(f, "{}/{}/{} {section}[{}]", self.kind, self.namespace, self.name, self.index)?;
        if let Some(index) = self.matched {
            write!(f, ".match[{index}]")?;
        }
        if let Some(root) = &self.root {
            write!(f, ", delegated by {}/{}/{} http[{}]", root.kind, root.namespace, root.name, root.index)?;
        }
        if self.file.is_empty() { Ok(()) } else { write!(f, " ({}:{})", self.file, self.line) }
    }
}

/// Endpoints that are shown as text.
const SHOWN: usize = 8;

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.decision(f)?;
        let mut line = |name: &str, value: &dyn fmt::Display| writeln!(f, "  {name:<13}{value}");
        if let Some(reason) = &self.reason {
            line(if self.outcome == "forward" { "but" } else { "because" }, reason)?;
        }
        if let Some(assumed) = &self.assumed {
            line("assuming", assumed)?;
        }
        if let Some(rule) = &self.rule {
            line("rule", rule)?;
        }
        if let (Some(table), Some(host)) = (&self.route_table, &self.virtual_host) {
            line("virtual host", &format_args!("{host} of {table}"))?;
        } else if let Some(table) = &self.route_table {
            line("route table", table)?;
        }
        if self.destinations.len() > 1 {
            for share in &self.destinations {
                line("destination", &format_args!("{}% {}", share.percent, share.cluster))?;
            }
        }
        if let Some(rewritten) = &self.rewritten {
            line("sent as", &format_args!("{} {}", rewritten.authority, rewritten.path))?;
        }
        if let Some(tls) = &self.tls {
            line("TLS", tls)?;
        }
        if let Some(version) = self.proxy_protocol {
            line("begins with", &format_args!("a PROXY header, {version:?}"))?;
        }
        if !self.endpoints.is_empty() {
            let more = self.endpoints.len().saturating_sub(SHOWN);
            let shown = self.endpoints[..self.endpoints.len() - more].join(", ");
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            line("endpoints", &format_args!("{shown}{more}"))?;
        }
        let told = self.standings.iter().filter_map(|s| Some((&s.address, s.reason.as_ref()?)));
        for (address, reason) in told.take(SHOWN) {
            line("", &format_args!("{address}: {reason}"))?;
        }
        if !self.policies.is_empty() {
            writeln!(f, "policies, in order:")?;
        }
        for asked in &self.policies {
            let why = asked.lost_by.as_deref().unwrap_or("matches");
            let dry_run = if asked.dry_run { " (dry run)" } else { "" };
            writeln!(f, "  {} {}{dry_run}: {why}", asked.action, asked.rule)?;
        }
        if !self.considered.is_empty() {
            writeln!(f, "considered, in order:")?;
        }
        for lost in &self.considered {
            let why = lost.lost_by.as_deref().unwrap_or("matches");
            writeln!(f, "  {}: {why}", lost.rule)?;
        }
        Ok(())
    }
}

impl Answer {
    fn decision(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.outcome, self.status) {
            ("forward", _) => write!(f, "forward to")?,
            (outcome, Some(status)) => write!(f, "{outcome} {status}")?,
            (outcome, None) => write!(f, "{outcome}")?,
        }
        match (&self.cluster, &self.location) {
            (Some(cluster), _) => writeln!(f, " {cluster}"),
            (None, Some(location)) => writeln!(f, " {location}"),
            (None, None) => writeln!(f),
        }
    }
}
