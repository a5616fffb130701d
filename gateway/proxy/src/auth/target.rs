//! Where keys may be fetched from.

use http::Uri;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A URL of `http` or `https`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) tls: bool,
    /// A name, or an address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Host and port as they stand in the URL.
    pub(super) authority: String,
    /// Path and query.
    pub(super) path: String,
}

/// Why a URL is not gone to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidTarget {
    #[error("is not a URL of http or https without a user in it")]
    Url,
    #[error("leads from https to http")]
    Downgrade,
}

impl Target {
    pub(super) fn parse(url: &str) -> Result<Self, InvalidTarget> {
        let uri: Uri = url.parse().map_err(|_| InvalidTarget::Url)?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(InvalidTarget::Url),
        };
        let authority = uri.authority().filter(|a| !a.as_str().contains('@')).ok_or(InvalidTarget::Url)?;
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if bare.is_empty() {
            return Err(InvalidTarget::Url);
        }
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        Ok(Target {
            tls,
            host: bare.to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
        })
    }

    /// Where a `Location` in its answer leads; never from https to http.
    pub(super) fn redirected(&self, location: &str) -> Result<Self, InvalidTarget> {
        if location.starts_with('/') && !location.starts_with("//") {
            let scheme = if self.tls { "https" } else { "http" };
            return Target::parse(&format!("{scheme}://{}{location}", self.authority));
        }
        let target = Target::parse(location)?;
        if self.tls && !target.tls { Err(InvalidTarget::Downgrade) } else { Ok(target) }
    }
}

/// Addresses of the services that tell machines in clouds who they are, outside the link-local networks.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Whether keys may be fetched from an address: not from this machine, its link or the cloud's metadata, unless
/// `allowed` has it. To be asked of the very address that is connected to.
pub(super) fn is_allowed(address: IpAddr, allowed: &[IpNet]) -> bool {
    let address = embedded(address);
    if allowed.iter().any(|net| net.contains(&address)) {
        return true;
    }
    let local = match address {
        IpAddr::V4(ip) => {
            ip.octets()[0] == 0
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
        }
        IpAddr::V6(ip) => {
            ip.is_unspecified() || ip.is_loopback() || ip.is_unicast_link_local() || ip.is_multicast()
        }
    };
    !local && !METADATA.contains(&address)
}

/// The IPv4 address that an IPv6 address stands for: mapped, translated (RFC 6052) or of 6to4 (RFC 3056).
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(ip) = address else { return address };
    let of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => of(high, low),
        // compatible (RFC 4291 2.5.5.1); :: and ::1 are their own
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => of(high, low),
        [0x2002, high, low, ..] => of(high, low),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let t = Target::parse("https://Keys.example.com/a?b=c").unwrap();
        assert_eq!((t.tls, &*t.host, t.port, &*t.path), (true, "Keys.example.com", 443, "/a?b=c"));
        let t = Target::parse("http://[::1]:8080").unwrap();
        assert_eq!(
            (t.tls, &*t.host, t.port, &*t.authority, &*t.path),
            (false, "::1", 8080, "[::1]:8080", "/")
        );
        for url in [
            "",
            "a",
            "/a",
            "ftp://a/",
            "file:///a",
            "http://",
            "http://u@a/",
            "https://u:p@a/",
            "http://a b/",
        ] {
            assert_eq!(Target::parse(url), Err(InvalidTarget::Url), "{url}");
        }
    }

    #[test]
    fn redirects() {
        let from = Target::parse("https://a:8443/x").unwrap();
        assert_eq!(from.redirected("/y?z"), Target::parse("https://a:8443/y?z"));
        assert_eq!(from.redirected("https://b/"), Target::parse("https://b/"));
        assert_eq!(from.redirected("http://a:8443/"), Err(InvalidTarget::Downgrade));
        for location in ["//b/", "y", "", "file:///etc/passwd"] {
            assert_eq!(from.redirected(location), Err(InvalidTarget::Url), "{location}");
        }
        let plain = Target::parse("http://a/").unwrap();
        assert_eq!(plain.redirected("https://a/"), Target::parse("https://a/"));
    }

    #[test]
    fn local_addresses_are_closed_in_every_spelling() {
        for (address, open) in [
            ("192.0.2.1", true),
            ("10.0.0.1", true),
            ("2001:db8::1", true),
            ("127.0.0.1", false),
            ("127.9.9.9", false),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("169.254.169.254", false),
            ("100.100.100.200", false),
            ("168.63.129.16", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("fe80::1", false),
            ("ff02::1", false),
            ("fd00:ec2::254", false),
            ("fd00:ec2::253", true),
            ("::ffff:127.0.0.1", false),
            ("::ffff:192.0.2.1", true),
            ("::127.0.0.1", false),
            ("64:ff9b::a9fe:a9fe", false),
            ("2002:a9fe:a9fe::1", false),
            ("2002:c000:201::1", true),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(is_allowed(address, &[]), open, "{address}");
            assert!(
                is_allowed(address, &["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]),
                "{address}"
            );
        }
        let allowed = ["127.0.0.0/8".parse().unwrap()];
        assert!(is_allowed("127.0.0.1".parse().unwrap(), &allowed));
        assert!(is_allowed("::ffff:127.0.0.1".parse().unwrap(), &allowed));
        assert!(!is_allowed("169.254.169.254".parse().unwrap(), &allowed));
    }
}
