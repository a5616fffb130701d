//! The data plane: accept, TLS, HTTP, upstreams, telemetry and admin, on Pingora's transport.
//!
//! Kept from Pingora: the l4 streams with their socket digests, the TCP connector, the TLS
//! handshake wrappers and the shutdown watch. Ours: accept loop, HTTP/1 codec, forward loops,
//! pools and the driving of `h2`.

mod address;
#[cfg(test)]
mod allocations;
mod auth;
mod block;
mod connection;
mod forward;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod h1;
mod h2;
mod l4;
mod limits;
mod listener;
mod lock;
mod overload;
mod reserved;
mod resting;
mod scan;
mod scatter;
mod server;
mod snapshot;
mod telemetry;
mod tls;
mod trace;
mod upstream;
mod worker;

mod admin;

pub use auth::{InvalidRoots, KeyFetching, unusable_keys};
pub use forward::path::{ambiguity, canonical_path};
pub use limits::Limits;
pub use listener::{Inherited, Passed, Shared, Unusable};
pub use server::{
    Applied, Dns, ExplainQuery, Explainer, Hurry, Identity, NotReady, Options, Proxy, Pulse, Report,
    ShowObjects, Standings, StartError, refused,
};
pub use upstream::{EndpointStanding, standings};
