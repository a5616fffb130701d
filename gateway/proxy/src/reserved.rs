//! Addresses that a name from outside must not lead to: of this machine, its link, and the cloud's metadata.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses of the services that tell machines in clouds who they are, outside the link-local networks.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Whether a name that others answer for may lead to an address: not to this machine, its link or the cloud's metadata,
/// unless `allowed` has it. To be asked of the very address that is connected to.
pub(crate) fn is_allowed(address: IpAddr, allowed: &[IpNet]) -> bool {
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
