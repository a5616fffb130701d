//! What a DestinationRule's policy makes of a cluster.

use super::clusters::routed;
use std::time::Duration;
use tidegate_model::{AffinityCookie, ConsistentHash, HashKey, HashTable, HeaderName, LoadBalancer};

#[test]
fn keys_of_consistent_hashes() {
    let ring = |minimum| HashTable::Ring { minimum };
    let cookie = |ttl: Option<u64>, attributes: &str| {
        let (name, ttl) = ("s".into(), ttl.map(Duration::from_secs));
        HashKey::Cookie(AffinityCookie { name, ttl, attributes: attributes.into() })
    };
    for (written, key, table) in [
        ("useSourceIp: true", HashKey::SourceIp, ring(1024)),
        ("useSourceIp: true, minimumRingSize: 7", HashKey::SourceIp, ring(7)),
        ("useSourceIp: true, minimumRingSize: 7, ringHash: {minimumRingSize: 9}", HashKey::SourceIp, ring(9)),
        ("useSourceIp: true, maglev: {}", HashKey::SourceIp, HashTable::Maglev { size: 65_537 }),
        ("useSourceIp: true, maglev: {tableSize: 101}", HashKey::SourceIp, HashTable::Maglev { size: 101 }),
        ("httpHeaderName: X-User", HashKey::Header(HeaderName::new("x-user")), ring(1024)),
        ("httpQueryParameterName: q", HashKey::QueryParameter("q".into()), ring(1024)),
        ("httpCookie: {name: s}", cookie(None, "; HttpOnly"), ring(1024)),
        ("httpCookie: {name: s, ttl: 0s}", cookie(Some(0), "; HttpOnly"), ring(1024)),
        (
            "httpCookie: {name: s, ttl: 1h, path: /a, attributes: [{name: SameSite, value: Lax}, {name: Secure}]}",
            cookie(Some(3600), "; Max-Age=3600; Path=/a; SameSite=Lax; Secure; HttpOnly"),
            ring(1024),
        ),
    ] {
        let rule = format!(
            "DestinationRule default/a: {{host: a, trafficPolicy: {{loadBalancer: {{consistentHash: {{{written}}}}}}}}}"
        );
        let (_, cluster, _, said) = routed("host: a", &rule);
        let expected = LoadBalancer::ConsistentHash(ConsistentHash { key, table });
        assert_eq!(cluster.unwrap().load_balancer, expected, "{written}");
        assert_eq!(said, [""; 0], "{written}");
    }
}
