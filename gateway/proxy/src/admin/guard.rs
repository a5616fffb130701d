//! Who may ask: a page in a browser must not read the admin page of the machine it runs on, nor
//! reach it by a name that resolves to it (DNS rebinding).

use http::uri::Authority;
use http::{Request, header};
use std::net::{IpAddr, SocketAddr};

/// Whether a request names the address it came to (or localhost), and comes from no other origin.
pub(super) fn is_ours<B>(request: &Request<B>, local: SocketAddr) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Some(host) = authority(host.as_bytes()) else { return false };
    if request.uri().authority().is_some_and(|a| *a != host) {
        return false;
    }
    let same_origin = |origin: &http::HeaderValue| {
        origin.as_bytes().strip_prefix(b"http://").and_then(authority).is_some_and(|o| o == host)
    };
    is_local(&host, local) && request.headers().get_all(header::ORIGIN).iter().all(same_origin)
}

fn authority(bytes: &[u8]) -> Option<Authority> {
    Authority::try_from(bytes).ok().filter(|a| !a.as_str().contains('@'))
}

fn is_local(host: &Authority, local: SocketAddr) -> bool {
    let name = host.host();
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let ip = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    ip.is_ok_and(|ip| ip.to_canonical().is_loopback() || ip.to_canonical() == local.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_hosts_and_origins_are_refused() {
        let cases: [(&str, &[&str], &[&str], bool); 17] = [
            ("/", &["localhost:15000"], &[], true),
            ("/", &["LOCALHOST"], &[], true),
            ("/", &["127.0.0.1:15000"], &[], true),
            ("/", &["127.1.2.3"], &[], true),
            ("/", &["[::1]:15000"], &[], true),
            ("/", &["10.0.0.7:15000"], &[], true),
            ("/", &["10.0.0.8:15000"], &[], false),
            ("/", &["evil.example:15000"], &[], false),
            ("/", &["localhost.evil.example"], &[], false),
            ("/", &["localhost@evil.example"], &[], false),
            ("/", &[], &[], false),
            ("/", &["localhost", "localhost"], &[], false),
            ("http://evil.example/", &["localhost"], &[], false),
            ("/", &["localhost:15000"], &["http://localhost:15000"], true),
            ("/", &["localhost:15000"], &["http://localhost:8080"], false),
            ("/", &["localhost:15000"], &["null"], false),
            ("/", &["localhost:15000"], &["http://localhost:15000", "http://evil.example"], false),
        ];
        for (uri, hosts, origins, expect) in cases {
            let mut request = Request::builder().uri(uri);
            for host in hosts {
                request = request.header(header::HOST, *host);
            }
            for origin in origins {
                request = request.header(header::ORIGIN, *origin);
            }
            let request = request.body(()).unwrap();
            let local = "10.0.0.7:15000".parse().unwrap();
            assert_eq!(is_ours(&request, local), expect, "{uri} {hosts:?} {origins:?}");
        }
    }
}
