//! The PROXY protocol as a sender: who the client is, said to an endpoint before anything else.

use std::net::{IpAddr, SocketAddr};
use tidegate_model::ProxyProtocol;

/// What version 2 begins with, its version and the command PROXY, or LOCAL.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const PROXY: u8 = 0x21;
const LOCAL: u8 = 0x20;

/// The header for a client, given by its address and the one that it asked for; `None` is nobody but ourselves.
pub(super) fn of(version: ProxyProtocol, client: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    match version {
        ProxyProtocol::V1 => text(client),
        ProxyProtocol::V2 => binary(client),
    }
}

fn text(client: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let Some((source, destination)) = client else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let (from, to) = same_family(source.ip(), destination.ip());
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

fn binary(client: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    let Some((source, destination)) = client else {
        header.extend([LOCAL, 0, 0, 0]);
        return header;
    };
    let (from, to) = same_family(source.ip(), destination.ip());
    let (kind, length) = if from.is_ipv4() { (0x11, 12) } else { (0x21, 36) };
    header.extend([PROXY, kind, 0, length]);
    for ip in [from, to] {
        match ip {
            IpAddr::V4(ip) => header.extend(ip.octets()),
            IpAddr::V6(ip) => header.extend(ip.octets()),
        }
    }
    header.extend(source.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
    header
}

/// Both addresses in the family that both have: IPv4 has a form in IPv6.
fn same_family(from: IpAddr, to: IpAddr) -> (IpAddr, IpAddr) {
    let wide = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        IpAddr::V6(_) => ip,
    };
    if from.is_ipv4() == to.is_ipv4() { (from, to) } else { (wide(from), wide(to)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::proxy_protocol::{Proxied, parse};
    use proptest::prelude::*;

    #[test]
    fn version_1_as_it_is_written() {
        let client = ("192.0.2.1:1234".parse().unwrap(), "198.51.100.1:443".parse().unwrap());
        let header = of(ProxyProtocol::V1, Some(client));
        assert_eq!(header, b"PROXY TCP4 192.0.2.1 198.51.100.1 1234 443\r\n");
        for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
            let header = of(version, None);
            assert_eq!(parse(&header).unwrap(), Some((Proxied::Local, header.len())), "{version:?}");
        }
    }

    proptest! {
        #[test]
        fn a_receiver_understands_it(source: SocketAddr, destination: SocketAddr, second: bool) {
            let version = if second { ProxyProtocol::V2 } else { ProxyProtocol::V1 };
            let header = of(version, Some((source, destination)));
            let (from, to) = same_family(source.ip(), destination.ip());
            let expected = Proxied::Client {
                source: SocketAddr::new(from, source.port()),
                destination: SocketAddr::new(to, destination.port()),
            };
            prop_assert_eq!(parse(&header).unwrap(), Some((expected, header.len())));
        }
    }
}
