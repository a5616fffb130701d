//! Who sent a request, as the upstream is told: `x-forwarded-for`, `x-forwarded-proto`,
//! `x-forwarded-client-cert`, `x-envoy-external-address` and `x-request-id`, by Istio's rules for a gateway.

use crate::address;
use crate::h1::field::Known;
use crate::h1::head::Head;
use crate::tls::ClientCertificate;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tidegate_engine::Scheme;
use tidegate_model::ForwardClientCert;
use wide::u8x16;

/// Bytes of a request id: a UUID in text.
const ID: usize = 36;

/// The identity of one request.
pub(crate) struct Identity {
    /// `x-forwarded-for` as sent upstream: what came, with the peer appended.
    pub(crate) forwarded_for: Vec<u8>,
    /// The client as trusted hops say.
    pub(crate) client: SocketAddr,
    /// Whether proxies in front are trusted, so that the client need not be the peer.
    pub(crate) trusted: bool,
    /// The effective scheme.
    pub(crate) scheme: Scheme,
    /// What is said of the client's certificate.
    pub(crate) client_cert: ClientCert,
    /// A fresh `x-request-id`; an edge gateway does not take over the client's.
    pub(crate) request_id: [u8; ID],
}

/// What is sent as `x-forwarded-client-cert`: first what the client said of it, then what we do.
#[derive(Default)]
pub(crate) struct ClientCert {
    /// Whether what the client said stays.
    pub(crate) keeps: bool,
    /// What its connection's certificate adds.
    pub(crate) adds: Option<Arc<str>>,
}

impl ClientCert {
    /// Whether the lines of the client are sent as they are.
    pub(crate) fn passes(&self) -> bool {
        self.keeps && self.adds.is_none()
    }
}

impl Default for Identity {
    fn default() -> Self {
        Identity {
            forwarded_for: Vec::with_capacity(64),
            client: SocketAddr::from(([0, 0, 0, 0], 0)),
            trusted: false,
            scheme: Scheme::Http,
            client_cert: ClientCert::default(),
            request_id: [0; ID],
        }
    }
}

impl Identity {
    /// Works it out. `trusted` is how many proxies in front may write `X-Forwarded-*`: with none
    /// the scheme is the connection's and the client is the peer.
    pub(crate) fn establish(&mut self, head: &Head, buf: &[u8], peer: SocketAddr, tls: bool, trusted: u32) {
        self.forwarded_for.clear();
        for value in head.known(buf, Known::ForwardedFor).filter(|v| !v.is_empty()) {
            self.separate();
            self.forwarded_for.extend_from_slice(value);
        }
        self.client = match trusted {
            0 => peer,
            n => from_the_right(&self.forwarded_for, n).map_or(peer, |ip| SocketAddr::new(ip, 0)),
        };
        self.trusted = trusted > 0;
        self.separate();
        address::write_ip(peer.ip(), &mut self.forwarded_for);
        let mut said = head.known(buf, Known::ForwardedProto).filter(|_| trusted > 0);
        self.scheme = match said.next().filter(|_| said.next().is_none()) {
            Some(s) if s.eq_ignore_ascii_case(b"https") => Scheme::Https,
            Some(s) if s.eq_ignore_ascii_case(b"http") => Scheme::Http,
            _ if tls => Scheme::Https,
            _ => Scheme::Http,
        };
        self.request_id = uuid(fastrand::u128(..));
    }

    /// What becomes of `x-forwarded-client-cert`, by the certificate that the client showed, if any.
    pub(crate) fn certify(&mut self, mode: ForwardClientCert, shown: Option<&ClientCertificate>) {
        let (keeps, adds) = match (mode, shown) {
            (ForwardClientCert::AlwaysForwardOnly, _) => (true, None),
            (ForwardClientCert::Sanitize, _) | (_, None) => (false, None),
            (ForwardClientCert::ForwardOnly, Some(_)) => (true, None),
            (ForwardClientCert::AppendForward, Some(shown)) => (true, Some(shown)),
            (ForwardClientCert::SanitizeSet, Some(shown)) => (false, Some(shown)),
        };
        self.client_cert = ClientCert { keeps, adds: adds.map(|shown| shown.forwarded.clone()) };
    }

    /// Says in the request's id that it is traced, as Istio does: the version of the UUID is then 9.
    pub(crate) fn mark_traced(&mut self) {
        const VERSION: usize = 14;
        self.request_id[VERSION] = b'9';
    }

    fn separate(&mut self) {
        if !self.forwarded_for.is_empty() {
            self.forwarded_for.push(b',');
        }
    }
}

/// The `n`th address from the right, counting from 1.
fn from_the_right(list: &[u8], n: u32) -> Option<IpAddr> {
    let nth = list.rsplit(|c| *c == b',').nth(usize::try_from(n).ok()? - 1)?;
    let text = std::str::from_utf8(nth).ok()?.trim();
    text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|a| a.ip()))
}

/// A random UUID (RFC 9562 version 4) in text.
fn uuid(random: u128) -> [u8; ID] {
    let bits = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    const LOW: u128 = u128::from_ne_bytes([15; 16]);
    let [high, low] = [bits >> 4, bits].map(|nibbles| {
        let n = u8x16::new((nibbles & LOW).to_be_bytes());
        let is_number = n.min(u8x16::splat(9)).simd_eq(n);
        n + u8x16::splat(b'0') + (!is_number & u8x16::splat(b'a' - b'9' - 1))
    });
    let mut digits = [0; 32];
    digits[..16].copy_from_slice(&u8x16::unpack_low(high, low).to_array());
    digits[16..].copy_from_slice(&u8x16::unpack_high(high, low).to_array());
    let mut text = [b'-'; ID];
    for (at, from, length) in [(0, 0, 8), (9, 8, 4), (14, 12, 4), (19, 16, 4), (24, 20, 12)] {
        text[at..at + length].copy_from_slice(&digits[from..from + length]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::head::HeadLimits;

    fn establish(fields: &str, trusted: u32) -> (String, String, &'static str) {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let mut head = Head::default();
        let limits = HeadLimits { bytes: 4096, fields: 20, target: 100 };
        assert!(head.parse_request(text.as_bytes(), limits).unwrap());
        let mut id = Identity::default();
        id.establish(&head, text.as_bytes(), "[::ffff:192.0.2.9]:1234".parse().unwrap(), false, trusted);
        let forwarded = String::from_utf8(id.forwarded_for.clone()).unwrap();
        (forwarded, id.client.ip().to_canonical().to_string(), id.scheme.as_str())
    }

    #[test]
    fn forwarded_headers_are_believed_only_from_trusted_proxies() {
        let said =
            "X-Forwarded-For: 1.1.1.1, 2.2.2.2\r\nx-forwarded-for: 3.3.3.3\r\nX-Forwarded-Proto: https\r\n";
        let all = "1.1.1.1, 2.2.2.2,3.3.3.3,192.0.2.9";
        for (fields, trusted, forwarded, client, scheme) in [
            ("", 0, "192.0.2.9", "192.0.2.9", "http"),
            ("", 1, "192.0.2.9", "192.0.2.9", "http"),
            (said, 0, all, "192.0.2.9", "http"),
            (said, 1, all, "3.3.3.3", "https"),
            (said, 2, all, "2.2.2.2", "https"),
            (said, 4, all, "192.0.2.9", "https"),
            ("X-Forwarded-For: <x>\r\nX-Forwarded-Proto: ftp\r\n", 1, "<x>,192.0.2.9", "192.0.2.9", "http"),
        ] {
            let expected = (forwarded.to_string(), client.to_string(), scheme);
            assert_eq!(establish(fields, trusted), expected, "{fields} {trusted}");
        }
    }

    #[test]
    fn request_ids_are_version_4_uuids() {
        assert_eq!(uuid(0), *b"00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid(u128::MAX), *b"ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef), *b"01234567-89ab-4def-8123-456789abcdef");
    }
}
