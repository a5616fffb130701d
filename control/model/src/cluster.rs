use crate::{
    ConnectionLimits, LoadBalancer, OutlierDetection, ProxyProtocol, RetryBudget, UpstreamTls, Warmup,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A cluster's name in Istio's form, which dashboards parse: `outbound|PORT|SUBSET|HOST`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ClusterName(Arc<str>);

impl ClusterName {
    /// `outbound|port|subset|host`; no subset is the empty string.
    pub fn outbound(port: u16, subset: &str, host: &str) -> Self {
        ClusterName(format!("outbound|{port}|{subset}|{host}").into())
    }

    /// `outbound_.port_.subset_.host`: the name by which clients of another network ask for it in
    /// their SNI. Its endpoints are those of workloads that speak mesh TLS themselves.
    pub fn by_sni(port: u16, subset: &str, host: &str) -> Self {
        ClusterName(format!("outbound_.{port}_.{subset}_.{host}").into())
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A destination that routes name: a service's port, or a subset of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// The service's host, such as `reviews.default.svc.cluster.local`.
    pub host: Arc<str>,
    /// The service's port.
    pub port: u16,
    /// The subset; empty for none.
    pub subset: Arc<str>,
    /// The service's short name, for metrics.
    pub service_name: Arc<str>,
    /// The service's namespace, for metrics.
    pub service_namespace: Arc<str>,
    /// What the endpoints speak.
    pub protocol: UpstreamProtocol,
    /// TLS around it; `None` is plain text.
    pub tls: Option<UpstreamTls>,
    /// What each connection begins with; `None` is nothing.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How an endpoint is picked.
    pub load_balancer: LoadBalancer,
    /// When an endpoint that fails is left out; `None` is never.
    pub outlier_detection: Option<OutlierDetection>,
    /// How new endpoints come to their full weight; `None` is at once.
    pub warmup: Option<Warmup>,
    /// How much of it may be in use, and how its connections are kept.
    pub limits: ConnectionLimits,
    /// Limit for establishing a connection (Istio: 10 s).
    pub connect_timeout: Duration,
    /// How long a connection without a request is kept; `Duration::MAX` is for ever.
    pub idle_timeout: Duration,
    /// How many retries it takes.
    pub retry_budget: RetryBudget,
}

/// What an upstream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 by prior knowledge, or by ALPN where it is in TLS.
    Http2,
    /// What the client of the request speaks.
    Client,
}

/// The endpoints of one cluster. They change on their own, without compiling a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndpointSet {
    /// Whose endpoints.
    pub cluster: ClusterName,
    /// The ready ones; none answers 503 with flag UH.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// Its weight, at least 1.
    pub weight: u32,
    /// The workload (Deployment or other owner) behind it, for metrics; empty when unknown.
    pub workload: Arc<str>,
    /// The workload's labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Where it runs.
    pub locality: Locality,
    /// Its priority for this gateway, 0 being the highest: others get requests as those before them fail.
    pub priority: u32,
    /// What its locality weighs among those of the same priority, where they have shares of their own: in all,
    /// however many endpoints it has. 0 is nothing.
    pub locality_weight: Option<u32>,
}

/// Where an endpoint listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    /// A socket address.
    Socket(SocketAddr),
    /// A name resolved by DNS while running, and a port: all its addresses.
    Dns(Arc<str>, u16),
    /// The same, one address at a time, another with each answer; connections to those before stay.
    DnsInTurns(Arc<str>, u16),
    /// Whatever host a request asks for, resolved by DNS when it comes, and a port. It must be one of these: a name, or
    /// `*.` and the end of names.
    RequestHost(Arc<str>, u16),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Socket(a) => a.fmt(f),
            Address::Dns(h, p) | Address::DnsInTurns(h, p) | Address::RequestHost(h, p) => {
                write!(f, "{h}:{p}")
            }
        }
    }
}

/// `region/zone/subzone`; empty parts are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Locality {
    /// The region.
    pub region: Arc<str>,
    /// The zone.
    pub zone: Arc<str>,
    /// The subzone.
    pub subzone: Arc<str>,
}
