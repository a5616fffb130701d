//! What a ClientHello says before anything is answered (RFC 8446 4.1.2, RFC 6066 3, RFC 7301 3.1).
//!
//! Read by itself and not by a TLS library: connections that are not terminated here may be of
//! versions and with extensions that no library of ours knows.

use std::net::IpAddr;
use std::sync::Arc;

/// What of a connection's beginning is looked at. More than any client sends.
const MAX_BYTES: usize = 80 << 10;
/// The longest ClientHello; with post-quantum key shares they have about 2 KiB.
const MAX_MESSAGE: usize = 64 << 10;
/// The longest record: 2^14 bytes of content (RFC 8446 5.1).
const MAX_RECORD: usize = 1 << 14;
/// The longest DNS name.
const MAX_NAME: usize = 253;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const HOST_NAME: u8 = 0;

/// What routing needs of a ClientHello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientHello {
    /// The name that the client asks for, lower case. An IP address is none (RFC 6066 3).
    pub(crate) sni: Option<Arc<str>>,
    /// The protocols that it offers, the preferred first.
    pub(crate) protocols: Vec<Vec<u8>>,
}

/// Why there is no ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidHello {
    #[error("the client does not speak TLS")]
    NotTls,
    #[error("the ClientHello is too large")]
    TooLarge,
    #[error("invalid ClientHello: {0}")]
    Malformed(&'static str),
}

use InvalidHello::{Malformed, NotTls, TooLarge};

/// Puts a ClientHello together that may come in many pieces and records.
#[derive(Default)]
pub(crate) struct HelloReader {
    /// The handshake message so far.
    message: Vec<u8>,
    /// Where the next record begins.
    next: usize,
}

impl HelloReader {
    /// Looks at all that has been read of a connection so far; `None` asks for more. The verdict is
    /// the same however the bytes arrive.
    ///
    /// # Errors
    /// When they are no ClientHello, or too many.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<Option<ClientHello>, InvalidHello> {
        loop {
            let rest = bytes.get(self.next..).unwrap_or_default();
            if rest.first().is_some_and(|kind| *kind != HANDSHAKE) || rest.get(1).is_some_and(|v| *v != 3) {
                return Err(if self.next == 0 { NotTls } else { Malformed("another record within it") });
            }
            let Some((header, rest)) = rest.split_at_checked(5) else { return Ok(None) };
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            if length == 0 || length > MAX_RECORD {
                return Err(Malformed("a record of no valid length"));
            }
            if self.next + 5 + length > MAX_BYTES {
                return Err(TooLarge);
            }
            let Some(fragment) = rest.get(..length) else { return Ok(None) };
            self.message.extend_from_slice(fragment);
            self.next += 5 + length;
            if let Some(body) = self.body()? {
                return parse(body).map(Some);
            }
        }
    }

    /// The body of the message once it is whole.
    fn body(&self) -> Result<Option<&[u8]>, InvalidHello> {
        if self.message[0] != CLIENT_HELLO {
            return Err(Malformed("another message in its place"));
        }
        let Some((header, rest)) = self.message.split_at_checked(4) else { return Ok(None) };
        let length = usize::from(header[1]) << 16 | usize::from(header[2]) << 8 | usize::from(header[3]);
        if length > MAX_MESSAGE {
            return Err(TooLarge);
        }
        match rest.len() {
            n if n < length => Ok(None),
            n if n == length => Ok(Some(rest)),
            _ => Err(Malformed("more behind it in its record")),
        }
    }
}

/// A cursor over bytes; everything it reads is there or an error.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], InvalidHello> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Malformed("it ends early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, InvalidHello> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, InvalidHello> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A vector with a length of one byte in front.
    fn short(&mut self) -> Result<&'a [u8], InvalidHello> {
        let length = usize::from(self.u8()?);
        self.take(length)
    }

    /// A vector with a length of two bytes in front.
    fn long(&mut self) -> Result<&'a [u8], InvalidHello> {
        let length = usize::from(self.u16()?);
        self.take(length)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn parse(body: &[u8]) -> Result<ClientHello, InvalidHello> {
    let mut body = Cursor(body);
    // Version and random.
    body.take(2 + 32)?;
    if body.short()?.len() > 32 {
        return Err(Malformed("a session of no valid length"));
    }
    let suites = body.long()?;
    if suites.is_empty() || suites.len() % 2 != 0 || body.short()?.is_empty() {
        return Err(Malformed("no cipher suite or no compression method"));
    }
    let mut hello = ClientHello::default();
    if body.is_empty() {
        return Ok(hello);
    }
    let mut extensions = Cursor(body.long()?);
    if !body.is_empty() {
        return Err(Malformed("more behind its extensions"));
    }
    let (mut named, mut offered) = (false, false);
    while !extensions.is_empty() {
        let (kind, content) = (extensions.u16()?, extensions.long()?);
        let seen = match kind {
            SERVER_NAME => &mut named,
            ALPN => &mut offered,
            _ => continue,
        };
        if std::mem::replace(seen, true) {
            return Err(Malformed("an extension twice"));
        }
        match kind {
            SERVER_NAME => hello.sni = server_name(content)?,
            _ => hello.protocols = protocols(content)?,
        }
    }
    Ok(hello)
}

fn server_name(content: &[u8]) -> Result<Option<Arc<str>>, InvalidHello> {
    let mut content = Cursor(content);
    let mut list = Cursor(content.long()?);
    if list.is_empty() || !content.is_empty() {
        return Err(Malformed("a list of server names of no valid length"));
    }
    let mut host = None;
    while !list.is_empty() {
        let (kind, name) = (list.u8()?, list.long()?);
        if kind == HOST_NAME && host.replace(name).is_some() {
            return Err(Malformed("several server names"));
        }
    }
    host.map_or(Ok(None), dns_name)
}

fn dns_name(name: &[u8]) -> Result<Option<Arc<str>>, InvalidHello> {
    let text = std::str::from_utf8(name).map_err(|_| Malformed("a server name that is none"))?;
    if text.parse::<IpAddr>().is_ok() {
        return Ok(None);
    }
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if text.len() > MAX_NAME || !text.split('.').all(label) {
        return Err(Malformed("a server name that is none"));
    }
    Ok(Some(text.to_ascii_lowercase().into()))
}

fn protocols(content: &[u8]) -> Result<Vec<Vec<u8>>, InvalidHello> {
    let mut content = Cursor(content);
    let mut list = Cursor(content.long()?);
    if list.is_empty() || !content.is_empty() {
        return Err(Malformed("a list of protocols of no valid length"));
    }
    let mut offered = Vec::new();
    while !list.is_empty() {
        match list.short()? {
            [] => return Err(Malformed("a protocol without a name")),
            protocol => offered.push(protocol.to_vec()),
        }
    }
    Ok(offered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustls::pki_types::ServerName;

    /// What a rustls client sends first.
    fn hello(name: &str, alpn: &[&str]) -> Vec<u8> {
        crate::tls::install_provider();
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same message in records of `size` bytes.
    fn records(hello: &[u8], size: usize) -> Vec<u8> {
        let fragment = |f: &[u8]| [&[HANDSHAKE, 3, 1, (f.len() >> 8) as u8, f.len() as u8], f].concat();
        hello[5..].chunks(size).flat_map(fragment).collect()
    }

    fn read(bytes: &[u8]) -> Result<Option<ClientHello>, InvalidHello> {
        HelloReader::default().read(bytes)
    }

    /// A message of a body with these extensions.
    fn with_extensions(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3; 34];
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let mut message = vec![CLIENT_HELLO, 0];
        message.extend((body.len() as u16).to_be_bytes());
        message.extend(body);
        records(&[&[0; 5], &*message].concat(), MAX_RECORD)
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes(), &(content.len() as u16).to_be_bytes(), content].concat()
    }

    fn names(names: &[(u8, &[u8])]) -> Vec<u8> {
        let list: Vec<u8> = names
            .iter()
            .flat_map(|(k, n)| [&[*k], &(n.len() as u16).to_be_bytes()[..], n].concat())
            .collect();
        extension(SERVER_NAME, &[&(list.len() as u16).to_be_bytes(), &*list].concat())
    }

    #[test]
    fn a_real_hello_says_the_same_in_any_records_and_pieces() {
        for (name, alpn, sni) in [
            ("A.Example.com", &["h2", "http/1.1"][..], Some("a.example.com")),
            ("outbound_.80_._.a.local", &["istio"], Some("outbound_.80_._.a.local")),
            ("127.0.0.1", &[], None),
        ] {
            let whole = hello(name, alpn);
            let expected = ClientHello {
                sni: sni.map(Into::into),
                protocols: alpn.iter().map(|p| p.as_bytes().to_vec()).collect(),
            };
            for size in [1, 7, 500, MAX_RECORD] {
                let bytes = records(&whole, size);
                let mut reader = HelloReader::default();
                for end in 0..bytes.len() {
                    assert_eq!(reader.read(&bytes[..end]), Ok(None), "{name} {size} {end}");
                }
                assert_eq!(reader.read(&bytes), Ok(Some(expected.clone())), "{name} {size}");
            }
        }
    }

    #[test]
    fn what_is_no_valid_hello_is_refused() {
        let hello = hello("a.example.com", &[]);
        let changed = |at: usize, to: u8| {
            let mut bytes = hello.clone();
            bytes[at] = to;
            bytes
        };
        let empty_list = extension(SERVER_NAME, &[0, 0]);
        let one = names(&[(0, b"a.b")]);
        let valid: [&[u8]; 4] =
            [&[], &one, &names(&[(7, b"\xff"), (0, b"a.b")]), &extension(0x0a0a, b"anything")];
        for extensions in valid {
            assert!(matches!(read(&with_extensions(extensions)), Ok(Some(_))), "{extensions:?}");
        }
        let malformed: [Vec<u8>; 13] = [
            changed(5, 2),
            changed(3, 0xff),
            with_extensions(&[one.clone(), one.clone()].concat()),
            with_extensions(&names(&[(0, b"a.b"), (0, b"c.d")])),
            with_extensions(&names(&[(0, b"a..b")])),
            with_extensions(&names(&[(0, b"a.b.")])),
            with_extensions(&names(&[(0, b"")])),
            with_extensions(&names(&[(0, b"a b")])),
            with_extensions(&names(&[(0, &[b'a'; 64])])),
            with_extensions(&empty_list),
            with_extensions(&one[..5]),
            with_extensions(&extension(ALPN, &[0, 1, 0])),
            [&records(&hello, 100)[..105], &[21, 3, 3]].concat(),
        ];
        for (i, bytes) in malformed.iter().enumerate() {
            assert!(matches!(read(bytes), Err(Malformed(_))), "{i}: {:?}", read(bytes));
        }
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x02", b"\x80\x2e\x01\x03", b"\0"] {
            assert_eq!(read(bytes), Err(NotTls), "{bytes:?}");
        }
    }

    #[test]
    fn a_hello_is_bounded_before_it_is_read() {
        let mut long = vec![HANDSHAKE, 3, 1, 0, 4, CLIENT_HELLO, 1, 0, 1];
        assert_eq!(read(&long), Err(TooLarge), "the length of the message");
        long[6] = 0;
        long[7] = 0xff;
        // Records of one byte each: the whole is bounded, too.
        while read(&long) == Ok(None) {
            long.extend([HANDSHAKE, 3, 1, 0, 1, 0]);
        }
        assert_eq!(read(&long), Err(TooLarge));
        assert!((MAX_BYTES..MAX_BYTES + 12).contains(&long.len()), "{}", long.len());
    }

    proptest! {
        #[test]
        fn no_bytes_break_a_promise(
            extensions in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            to in any::<u8>(),
        ) {
            let mut bytes = with_extensions(&extensions);
            let at = at.index(bytes.len());
            bytes[at] = to;
            crate::fuzzing::client_hello(&bytes);
            crate::fuzzing::client_hello(&extensions);
        }
    }
}
