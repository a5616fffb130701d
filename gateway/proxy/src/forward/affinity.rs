//! What of a request its endpoint is picked by, where that is not chance or load.

use super::buffers::Work;
use super::record::Site;
use super::view::View;
use crate::upstream::{Cluster, hash};
use memchr::memchr;
use std::net::IpAddr;
use tidegate_model::{AffinityCookie, HashKey};

/// What an endpoint is picked by.
pub(crate) struct Affinity {
    /// The hash of the request's key; `None` where it has none, or the cluster hashes nothing.
    pub(crate) hash: Option<u64>,
    /// The value of `Set-Cookie` by which the client comes back.
    pub(crate) cookie: Option<Box<str>>,
}

impl Affinity {
    /// That of a request for `cluster`. A `copy` has no client that could keep a cookie.
    pub(crate) fn of(cluster: &Cluster, w: &Work, site: Site<'_>, copy: bool) -> Self {
        let Some(key) = cluster.hash_key() else { return Affinity { hash: None, cookie: None } };
        let found = match key {
            HashKey::SourceIp if copy => Some(of_ip(site.connection.peer.ip())),
            HashKey::SourceIp => Some(of_ip(w.identity.client.ip())),
            HashKey::Header(name) if copy => View::of(w).values(name.as_str().as_bytes()).next().map(hash),
            HashKey::Header(name) => View::of(w).value(name.as_str().as_bytes()).map(|value| hash(&value)),
            HashKey::QueryParameter(name) => {
                View::of(w).raw_query().and_then(|q| parameter(q, name)).map(hash)
            }
            HashKey::Cookie(AffinityCookie { name, .. }) => {
                // an empty one is none, as in Envoy
                let found = View::of(w).values(b"cookie").find_map(|line| cookie(line, name));
                found.filter(|value| !value.is_empty()).map(hash)
            }
        };
        match (found, key) {
            (None, HashKey::Cookie(AffinityCookie { name, ttl: Some(_), attributes })) if !copy => {
                let value = format!("{:016x}", fastrand::u64(..));
                let cookie = format!("{name}=\"{value}\"{attributes}").into();
                Affinity { hash: Some(hash(value.as_bytes())), cookie: Some(cookie) }
            }
            _ => Affinity { hash: found, cookie: None },
        }
    }
}

/// The hash of an address, the same for both ways of writing one of IPv4.
pub(crate) fn of_ip(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => hash(&ip.octets()),
        IpAddr::V6(ip) => hash(&ip.octets()),
    }
}

/// The first value of a query parameter.
fn parameter<'a>(query: &'a [u8], name: &str) -> Option<&'a [u8]> {
    query.split(|c| *c == b'&').find_map(|pair| {
        let (key, value) = memchr(b'=', pair).map_or((pair, &b""[..]), |at| (&pair[..at], &pair[at + 1..]));
        (key == name.as_bytes()).then_some(value)
    })
}

/// A cookie's value, without quotes (RFC 6265 4.1.1).
fn cookie<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    line.split(|c| *c == b';').find_map(|pair| {
        let pair = pair.trim_ascii();
        let at = memchr(b'=', pair)?;
        let value = pair[at + 1..].trim_ascii();
        let bare = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
        (pair[..at].trim_ascii_end() == name.as_bytes()).then_some(bare)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_and_parameters_are_found() {
        for (line, expected) in [
            ("s=1", Some("1")),
            ("a=b; s=\"x y\"; s=2", Some("x y")),
            (" s = 3 ;t=4", Some("3")),
            ("s=", Some("")),
            ("ss=1; S=2; s", None),
            ("", None),
        ] {
            assert_eq!(cookie(line.as_bytes(), "s"), expected.map(str::as_bytes), "{line}");
        }
        for (query, expected) in [
            ("s=1", Some("1")),
            ("a&s=%20&s=2", Some("%20")),
            ("s", Some("")),
            ("s=a=b", Some("a=b")),
            ("as=1&sa=2", None),
            ("", None),
        ] {
            assert_eq!(parameter(query.as_bytes(), "s"), expected.map(str::as_bytes), "{query}");
        }
    }

    #[test]
    fn an_address_is_one_however_it_is_written() {
        let hash = |ip: &str| of_ip(ip.parse().unwrap());
        assert_eq!(hash("192.0.2.1"), hash("::ffff:192.0.2.1"));
        assert_ne!(hash("192.0.2.1"), hash("192.0.2.2"));
        assert_ne!(hash("2001:db8::1"), hash("2001:db8::2"));
    }
}
