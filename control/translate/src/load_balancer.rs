//! How an endpoint is picked, from a DestinationRule.

use std::fmt::Write;
use std::time::Duration;
use tidegate_api::istio::{ConsistentHashLb, HttpCookie, LoadBalancerSettings, SimpleLb};
use tidegate_model::{AffinityCookie, ConsistentHash, HashKey, HashTable, HeaderName, LoadBalancer};

/// Points of a ring when nothing is said.
const RING: u64 = 1024;
/// Size of Maglev's table when nothing is said.
const MAGLEV: u64 = 65_537;

/// The policy that these settings ask for.
pub(crate) fn load_balancer(settings: Option<&LoadBalancerSettings>) -> LoadBalancer {
    let Some(settings) = settings else { return LoadBalancer::default() };
    if let Some(hash) = &settings.consistent_hash {
        return consistent_hash(hash);
    }
    match settings.simple {
        Some(SimpleLb::RoundRobin) => LoadBalancer::RoundRobin,
        Some(SimpleLb::Random) => LoadBalancer::Random,
        Some(
            SimpleLb::LeastConn | SimpleLb::LeastRequest | SimpleLb::Passthrough | SimpleLb::Unspecified,
        )
        | None => LoadBalancer::LeastRequest,
    }
}

/// Without a key, a hash is any number: so does Envoy pick then.
fn consistent_hash(hash: &ConsistentHashLb) -> LoadBalancer {
    let Some(key) = key(hash) else { return LoadBalancer::Random };
    let ring = hash.ring_hash.as_ref().and_then(|ring| ring.minimum_ring_size).or(hash.minimum_ring_size);
    let table = match &hash.maglev {
        Some(maglev) => HashTable::Maglev { size: number(maglev.table_size, MAGLEV) },
        None => HashTable::Ring { minimum: number(ring, RING) },
    };
    LoadBalancer::ConsistentHash(ConsistentHash { key, table })
}

/// Zero is not written, in Istio.
fn number(written: Option<u64>, default: u64) -> u32 {
    let number = written.filter(|n| *n > 0).unwrap_or(default);
    u32::try_from(number).unwrap_or(HashTable::LARGEST_RING)
}

/// What is hashed, if that is said.
pub(crate) fn key(hash: &ConsistentHashLb) -> Option<HashKey> {
    let header = hash.http_header_name.as_deref().filter(|name| !name.is_empty());
    let parameter = hash.http_query_parameter_name.as_deref().filter(|name| !name.is_empty());
    header
        .map(|name| HashKey::Header(HeaderName::new(name)))
        .or_else(|| hash.http_cookie.as_ref().map(|c| HashKey::Cookie(cookie(c))))
        .or_else(|| (hash.use_source_ip == Some(true)).then_some(HashKey::SourceIp))
        .or_else(|| parameter.map(|name| HashKey::QueryParameter(name.into())))
}

fn cookie(cookie: &HttpCookie) -> AffinityCookie {
    let mut attributes = String::new();
    let ttl = cookie.ttl.map(|ttl| Duration::from_secs(ttl.as_secs()));
    // writing to a string cannot fail
    if let Some(ttl) = ttl.filter(|ttl| !ttl.is_zero()) {
        let _ = write!(attributes, "; Max-Age={}", ttl.as_secs());
    }
    if let Some(path) = cookie.path.as_deref().filter(|path| !path.is_empty()) {
        let _ = write!(attributes, "; Path={path}");
    }
    for attribute in &cookie.attributes {
        let _ = match attribute.value.as_deref().filter(|value| !value.is_empty()) {
            Some(value) => write!(attributes, "; {}={value}", attribute.name),
            None => write!(attributes, "; {}", attribute.name),
        };
    }
    attributes.push_str("; HttpOnly");
    AffinityCookie { name: cookie.name.as_str().into(), ttl, attributes: attributes.into() }
}
