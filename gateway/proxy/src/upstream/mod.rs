//! Upstream clusters: their endpoints, how one is picked, connections and pools.

mod balance;
mod budget;
mod cluster;
mod connect;
mod dns;
mod endpoint;
mod hosts;
mod keeper;
mod outlier;
mod plan;
mod pool;
mod proxy_header;
mod queue;
mod registry;
mod resolver;
mod room;
mod sessions;
mod standing;
mod state;
mod table;
mod transport;
mod usage;

pub(crate) use balance::hash;
pub(crate) use budget::RetryPermit;
pub(crate) use cluster::{Cluster, Clusters};
pub(crate) use connect::{ConnectError, Connector, UpstreamConnection};
pub(crate) use endpoint::{EndpointId, Pick};
pub(crate) use hosts::NoHost;
pub(crate) use outlier::Seen;
pub(crate) use pool::Pool;
pub(crate) use registry::Registry;
pub(crate) use resolver::{Resolve, SystemResolver};
pub(crate) use room::Room;
pub use standing::{EndpointStanding, standings};
pub(crate) use transport::TransportOptions;
pub(crate) use usage::InUse;

#[cfg(test)]
mod testing;
