use crate::HeaderName;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// How an endpoint is picked. Weights of the endpoints are respected by all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LoadBalancer {
    /// The less loaded of two random endpoints: Istio's default.
    #[default]
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// The same one for the same key, as long as it is there.
    ConsistentHash(ConsistentHash),
}

/// How a key leads to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConsistentHash {
    /// What of a request is hashed.
    pub key: HashKey,
    /// What the hash is looked up in.
    pub table: HashTable,
}

/// What of a request is hashed. One that has no such thing goes to any endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// A header's value.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(AffinityCookie),
    /// The client's address, without its port.
    SourceIp,
    /// The first value of a query parameter, as it was sent.
    QueryParameter(Arc<str>),
}

/// A cookie by which a client comes back to its endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AffinityCookie {
    /// Its name.
    pub name: Arc<str>,
    /// How long a client that came without it keeps the one that it is given, in whole seconds; zero is as long as
    /// its session. `None`: it is given none.
    pub ttl: Option<Duration>,
    /// What follows name and value in `Set-Cookie`: `; Max-Age=60; Path=/; HttpOnly`.
    pub attributes: Arc<str>,
}

/// What a hash is looked up in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HashTable {
    /// A ring, on which every endpoint has many points.
    Ring {
        /// The fewest points in all (Istio: 1024), at most [`HashTable::LARGEST_RING`].
        minimum: u32,
    },
    /// A table of Maglev.
    Maglev {
        /// Its size, a prime number (Istio: 65537), at most [`HashTable::LARGEST_MAGLEV`].
        size: u32,
    },
}

impl HashTable {
    /// The most points that a ring may have, as in Envoy.
    pub const LARGEST_RING: u32 = 8 << 20;
    /// The largest table of Maglev, as in Envoy.
    pub const LARGEST_MAGLEV: u32 = 5_000_011;
}
