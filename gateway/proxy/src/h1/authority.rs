//! `uri-host [":" port]` as it may stand in `Host`, `:authority` and absolute targets.

use std::net::Ipv6Addr;

/// Longest DNS name.
const NAME: usize = 253;

/// Whether this is a host name, an IPv4 address or an IPv6 address in brackets, with an optional
/// port. Stricter than RFC 3986: no percent-encoding, no user information, no empty port.
pub(crate) fn is_valid(authority: &[u8]) -> bool {
    if let Some(rest) = authority.strip_prefix(b"[") {
        let Some(end) = rest.iter().position(|c| *c == b']') else { return false };
        let address = std::str::from_utf8(&rest[..end]).ok().and_then(|s| s.parse::<Ipv6Addr>().ok());
        return address.is_some() && is_port(&rest[end + 1..]);
    }
    let end = authority.iter().position(|c| !NAMED[usize::from(*c)]).unwrap_or(authority.len());
    let (host, port) = authority.split_at(end);
    !host.is_empty() && host.len() <= NAME + 1 && host[0] != b'.' && is_port(port)
}

/// The bytes that names and IPv4 addresses are made of.
static NAMED: [bool; 256] = {
    let mut table = [false; 256];
    let mut c = 0u8;
    while c < 128 {
        table[c as usize] = c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_' | b'~');
        c += 1;
    }
    table
};

/// Nothing, or `:` and a number of at most 65535.
fn is_port(port: &[u8]) -> bool {
    match port {
        [] => true,
        [b':', digits @ ..] => {
            (1..=5).contains(&digits.len())
                && digits.iter().all(u8::is_ascii_digit)
                && digits.iter().fold(0u32, |n, d| n * 10 + u32::from(d - b'0')) <= 65535
        }
        _ => false,
    }
}

/// The host without its port.
pub(crate) fn host(authority: &[u8]) -> &[u8] {
    let from = authority.iter().rposition(|c| *c == b']').unwrap_or(0);
    let end = authority[from..].iter().position(|c| *c == b':').map_or(authority.len(), |i| from + i);
    &authority[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_hosts_and_refuses_everything_else() {
        for good in [
            "a",
            "a.example",
            "A.EXAMPLE:80",
            "a.example.",
            "my_app-1:65535",
            "10.0.0.1",
            "[::1]",
            "[2001:db8::1]:443",
        ] {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            ".",
            "a:",
            "a:b",
            "a:-1",
            "a:65536",
            "a:80:80",
            "a b",
            "a\tb",
            "u@a",
            "a/x",
            "a?x",
            "a#x",
            "a\\x",
            "a%2fx",
            "a;x",
            "\"a\"",
            "<a>",
            "é.example",
            "[::1",
            "::1",
            "[::1]x",
            "[a]",
            "[]",
            "a\0",
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
        assert!(!is_valid(&[b'a'; 4096]));
    }

    #[test]
    fn cuts_the_port() {
        for (authority, expected) in
            [("a.b:80", "a.b"), ("a", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("", "")]
        {
            assert_eq!(host(authority.as_bytes()), expected.as_bytes());
        }
    }
}
