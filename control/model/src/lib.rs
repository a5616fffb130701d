//! The neutral, validated model between what users write and what the data plane compiles.
//!
//! Every resource is immutable behind an `Arc` and has a stable key, so that two models can be
//! compared cheaply ([`Model::diff`]) and only what changed is compiled again.
//! Nothing here knows whether a rule came from a VirtualService, an Ingress or an HTTPRoute.

mod authentication;
mod authorization;
mod balance;
mod changes;
mod cluster;
mod cors;
mod diagnostic;
mod fault;
mod format;
mod header;
mod health;
mod limits;
mod listener;
mod log_filter;
mod mesh;
mod object;
mod pattern;
mod re2;
mod retry;
mod route;
mod secret;
mod tcp;
mod tls;
mod tracing;
mod upstream_tls;

pub use authentication::{
    Authentication, ClaimHeader, ClaimPath, KeyLocation, KeySource, TokenLocation, TokenRule,
};
pub use authorization::{
    Attribute, Authorization, CheckProtocol, CheckedBody, Clause, Expected, ExternalAuthorizer, HttpCheck,
    InvalidTemplate, PathTemplate, PeerPart, Policy, PolicyAction, PolicyRule, PrincipalPattern,
    TemplateSegment, TextPattern,
};
pub use balance::{AffinityCookie, ConsistentHash, HashKey, HashTable, LoadBalancer};
pub use changes::{Change, Changes, Model};
pub use cluster::{Address, Cluster, ClusterName, Endpoint, EndpointSet, Locality, UpstreamProtocol};
pub use cors::Cors;
pub use diagnostic::{Diagnostic, Severity};
pub use fault::{Abort, AbortStatus, Delay, Fault, Share};
pub use format::{Field, FormatPart, FormatString, GrpcStatusForm, InvalidFormat, Operator};
pub use header::{HIDDEN, HeaderName, HeaderOp, is_secret};
pub use health::{OutlierDetection, Warmup};
pub use limits::{ConnectionLimits, Http2Keepalive, TcpKeepalive};
pub use listener::{Bind, Listener, ListenerKey, ListenerProtocol, RouteTable, TableName, TlsServer};
pub use log_filter::{Comparison, LogCondition, LogFilter, TextTest};
pub use mesh::{AccessLog, AccessLogFormat, ForwardClientCert, MeshSettings, PathNormalization};
pub use object::{ObjectRef, Origin};
pub use pattern::{Anchoring, Groups, InvalidPattern, Pattern};
pub use retry::{RetryBudget, RetryCondition, RetryOn, RetryPolicy};
pub use route::{
    Action, ClaimMatch, Destination, DirectResponse, Forward, HeaderMatch, HostPattern, Mirror, PathMatch,
    PathRewrite, QueryMatch, Redirect, RedirectPath, RedirectPort, Route, RouteMatch, RuleRef, StringMatch,
    ValueMatch, VirtualHost, VirtualHostKey,
};
pub use secret::{Authorities, Secret, SecretKey};
pub use tcp::{SniRoute, TcpDestination, TcpRoute, TcpSection};
pub use tls::{CipherSuite, ClientVerification, KeyExchange, Pin, TlsAction, TlsTermination, TlsVersion};
pub use tracing::{OtlpTransport, SpanTag, Tracing};
pub use upstream_tls::{ProxyProtocol, ServerAuthorities, UpstreamTls};
