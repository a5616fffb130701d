//! Addresses in text. Every request writes some, so IPv4 costs a tenth of what its `Display` does.
//! Addresses of IPv4 in IPv6, as sockets of both families see them, are shown as IPv4.

use crate::{block, scatter};
use std::cell::RefCell;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

/// Bytes of the longest IPv4 address in text with a dot after it.
const LONGEST: usize = "255.255.255.255.".len();

/// Appends an IP address.
pub(crate) fn write_ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => write_ipv4(ip, out),
        // writing to memory does not fail
        ip => drop(write!(out, "{ip}")),
    }
}

/// Appends address and port, as `192.0.2.1:80` or `[2001:db8::1]:80`.
pub(crate) fn write(address: SocketAddr, out: &mut Vec<u8>) {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => write_ipv4_with_port(SocketAddrV4::new(ip, address.port()), out),
        ip => drop(write!(out, "[{ip}]:{}", address.port())),
    }
}

/// Bytes of the longest IPv4 address with its port.
const LONGEST_WITH_PORT: usize = "255.255.255.255:65535".len();
/// How many texts a thread remembers, as two to the power of this.
const REMEMBERED: u32 = 8;

/// An address with its port, and the text of it.
#[derive(Clone, Copy)]
struct Text {
    of: SocketAddrV4,
    text: [u8; LONGEST_WITH_PORT],
    length: usize,
}

/// The log says four addresses of each request, and nearly all of them were said before: those of connections and
/// endpoints that live longer than a request.
fn write_ipv4_with_port(address: SocketAddrV4, out: &mut Vec<u8>) {
    const NONE: Text =
        Text { of: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), text: [0; LONGEST_WITH_PORT], length: 0 };
    thread_local! {
        static TEXTS: RefCell<[Text; 1 << REMEMBERED]> = const { RefCell::new([NONE; 1 << REMEMBERED]) };
    }
    let key = u64::from(address.ip().to_bits()) << 16 | u64::from(address.port());
    TEXTS.with_borrow_mut(|texts| {
        let known = &mut texts[scatter::place(key, REMEMBERED)];
        if known.of != address || known.length == 0 {
            let from = out.len();
            write_ipv4(*address.ip(), out);
            out.push(b':');
            out.extend_from_slice(itoa::Buffer::new().format(address.port()).as_bytes());
            (known.of, known.length) = (address, out.len() - from);
            known.text[..known.length].copy_from_slice(&out[from..]);
        } else {
            block::append(&known.text, known.length, out);
        }
    });
}

fn write_ipv4(ip: Ipv4Addr, out: &mut Vec<u8>) {
    let mut text = [b'.'; LONGEST];
    let mut end = 0;
    for octet in ip.octets() {
        let [digits @ .., length] = OCTETS[usize::from(octet)];
        text[end..end + 3].copy_from_slice(&digits);
        end += usize::from(length);
        text[end] = b'.';
        end += 1;
    }
    block::append(&text, end - 1, out);
}

/// The digits of each octet, and how many there are.
static OCTETS: [[u8; 4]; 256] = {
    let mut table = [[b'0', 0, 0, 1]; 256];
    let mut n = 1;
    while n < 256 {
        // by the entry of what stands before the last digit
        let [first, second, _, length] = if n < 10 { [0; 4] } else { table[n / 10] };
        let last = b'0' + (n % 10) as u8;
        table[n] = match length {
            0 => [last, 0, 0, 1],
            1 => [first, last, 0, 2],
            _ => [first, second, last, 3],
        };
        n += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_octet() {
        for n in 0..=255 {
            let ip = Ipv4Addr::new(n, 255 - n, 0, n);
            assert_eq!(text(|out| write_ip(ip.into(), out)), ip.to_string());
            assert_eq!(text(|out| write_ip(ip.to_ipv6_mapped().into(), out)), ip.to_string());
        }
    }

    #[test]
    fn what_is_remembered_is_not_mixed_up() {
        for port in (0..4000).chain(65_000..=65_535).chain(0..4000) {
            let address = SocketAddr::from(([10, 0, (port / 256) as u8, 1], port));
            assert_eq!(text(|out| write(address, out)), address.to_string());
        }
    }

    #[test]
    fn with_ports() {
        let v6: Ipv6Addr = "2001:db8::1".parse().unwrap();
        for (ip, port) in [(IpAddr::from([203, 0, 113, 7]), 0), (IpAddr::from(v6), 65535)] {
            let address = SocketAddr::new(ip, port);
            for _ in 0..2 {
                assert_eq!(text(|out| write(address, out)), address.to_string());
            }
            assert_eq!(text(|out| write_ip(ip, out)), ip.to_string());
        }
    }
}
