//! The PROXY protocol, versions 1 and 2, as a receiver: who a client is, said by a trusted proxy in
//! front before the client's own bytes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, its end included.
const LINE: usize = 107;
/// Addresses and extensions of version 2. Proxies add at most some hundred bytes of them.
const MAX_BODY: usize = 4 << 10;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxied {
    /// The proxy speaks for itself, or knows no address: that of the connection counts.
    Local,
    /// Whom the client is, and which address it asked for.
    Client { source: SocketAddr, destination: SocketAddr },
}

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidHeader {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the connection ended within the PROXY header")]
    Ended,
    #[error("no valid PROXY header: {0}")]
    Malformed(&'static str),
}

use InvalidHeader::{Ended, Malformed};

/// Reads a header. What was read beyond it comes back, too.
///
/// # Errors
/// When something else comes. The connection is of no use then: who the client is, is not known.
pub(crate) async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(Proxied, Vec<u8>), InvalidHeader> {
    let mut bytes = Vec::with_capacity(256);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(Ended);
        }
        if let Some((proxied, length)) = parse(&bytes)? {
            bytes.drain(..length);
            return Ok((proxied, bytes));
        }
    }
}

/// The header that `bytes` begin with, and its length; `None` asks for more. The verdict is the same
/// however the bytes arrive.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Proxied, usize)>, InvalidHeader> {
    let n = bytes.len().min(SIGNATURE.len());
    if bytes[..n] == SIGNATURE[..n] {
        return version_2(bytes);
    }
    version_1(bytes)
}

fn version_1(bytes: &[u8]) -> Result<Option<(Proxied, usize)>, InvalidHeader> {
    const PREFIX: &[u8] = b"PROXY ";
    let n = bytes.len().min(PREFIX.len());
    if bytes[..n] != PREFIX[..n] {
        return Err(Malformed("it begins with neither version"));
    }
    let line = &bytes[..bytes.len().min(LINE)];
    let Some(end) = line.windows(2).position(|w| w == b"\r\n") else {
        return if line.len() == LINE { Err(Malformed("the line is too long")) } else { Ok(None) };
    };
    let text = std::str::from_utf8(&line[PREFIX.len()..end]).map_err(|_| Malformed("it is no text"))?;
    Ok(Some((addresses(text)?, end + 2)))
}

/// `TCP4 source destination port port`, or `UNKNOWN` and whatever.
fn addresses(text: &str) -> Result<Proxied, InvalidHeader> {
    let mut words = text.split(' ');
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(Proxied::Local);
    }
    let ip = |word: Option<&str>| -> Option<IpAddr> {
        match (family?, word?) {
            ("TCP4", word) => word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            ("TCP6", word) => word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let port =
        |word: Option<&str>| word.filter(|w| w.bytes().all(|b| b.is_ascii_digit()))?.parse::<u16>().ok();
    let (source, destination) = (ip(words.next()), ip(words.next()));
    let ports = (port(words.next()), port(words.next()));
    match (source, destination, ports, words.next()) {
        (Some(source), Some(destination), (Some(from), Some(to)), None) => Ok(Proxied::Client {
            source: SocketAddr::new(source, from),
            destination: SocketAddr::new(destination, to),
        }),
        _ => Err(Malformed("its addresses or ports are none")),
    }
}

fn version_2(bytes: &[u8]) -> Result<Option<(Proxied, usize)>, InvalidHeader> {
    let Some((header, rest)) = bytes.split_at_checked(16) else { return Ok(None) };
    if header[12] >> 4 != 2 {
        return Err(Malformed("it is of no version that is known"));
    }
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if length > MAX_BODY {
        return Err(Malformed("it is too long"));
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let proxied = match (header[12] & 0xf, header[13]) {
        (0, _) => Proxied::Local,
        (1, 0x11) => inet(body, |b: [u8; 4]| b.into())?,
        (1, 0x21) => inet(body, |b: [u8; 16]| b.into())?,
        // Datagrams, Unix sockets and what is not said: a TCP client has no address of them.
        (1, _) => Proxied::Local,
        _ => return Err(Malformed("it is of no command that is known")),
    };
    Ok(Some((proxied, 16 + length)))
}

/// Source, destination and their ports, before any extensions.
fn inet<const N: usize>(body: &[u8], ip: impl Fn([u8; N]) -> IpAddr) -> Result<Proxied, InvalidHeader> {
    let short = || Malformed("its addresses are cut off");
    let address = |at: usize| body.get(at..at + N).and_then(|b| b.try_into().ok()).ok_or_else(short);
    let port = |at: usize| match body.get(at..at + 2) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => Err(short()),
    };
    let at = |from: usize, port_at: usize| -> Result<SocketAddr, InvalidHeader> {
        Ok(SocketAddr::new(ip(address(from)?), port(port_at)?))
    };
    Ok(Proxied::Client { source: at(0, 2 * N)?, destination: at(N, 2 * N + 2)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(source: &str, destination: &str) -> Option<Proxied> {
        Some(Proxied::Client { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[0x20 | command, family], &length, body].concat()
    }

    #[test]
    fn headers_of_both_versions() {
        let four = [&[192, 0, 2, 1, 10, 0, 0, 1][..], &1234u16.to_be_bytes(), &443u16.to_be_bytes()].concat();
        let six = [&[0x20, 1][..], &[0; 13], &[1, 0x20, 1], &[0; 13], &[2], &[0, 1, 0, 2]].concat();
        let with_more = [&four[..], &[0xEA, 0, 1, 0]].concat();
        let v4 = client("192.0.2.1:1234", "10.0.0.1:443");
        let v6 = client("[2001::1]:1", "[2001::2]:2");
        for (bytes, expected) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 1234 443\r\n".to_vec(), v4),
            (b"PROXY TCP6 2001::1 2001::2 1 2\r\n".to_vec(), v6),
            (b"PROXY UNKNOWN\r\n".to_vec(), Some(Proxied::Local)),
            (b"PROXY UNKNOWN ffff::1 whatever 1 2\r\n".to_vec(), Some(Proxied::Local)),
            (v2(1, 0x11, &four), v4),
            (v2(1, 0x11, &with_more), v4),
            (v2(1, 0x21, &six), v6),
            (v2(0, 0x11, &four), Some(Proxied::Local)),
            (v2(0, 0, &[]), Some(Proxied::Local)),
            (v2(1, 0x31, &[0; 216]), Some(Proxied::Local)),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 1234\r\n".to_vec(), None),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 1234 443 1\r\n".to_vec(), None),
            (b"PROXY TCP4 2001::1 10.0.0.1 1234 443\r\n".to_vec(), None),
            (b"PROXY TCP4 192.0.2.1  10.0.0.1 1234 443\r\n".to_vec(), None),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 +1234 443\r\n".to_vec(), None),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 70000 443\r\n".to_vec(), None),
            (b"PROXY TCP5 192.0.2.1 10.0.0.1 1 443\r\n".to_vec(), None),
            (b"GET / HTTP/1.1\r\n".to_vec(), None),
            ([b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat(), None),
            (v2(2, 0x11, &four), None),
            (v2(1, 0x11, &four[..11]), None),
            (v2(1, 0x21, &four), None),
            ([&SIGNATURE[..], &[0x11, 0x11, 0, 0]].concat(), None),
            ([&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat(), None),
        ] {
            let more = [&bytes[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
            let shown = String::from_utf8_lossy(&bytes).into_owned();
            match (parse(&more), expected) {
                (Ok(Some((got, length))), Some(expected)) => {
                    assert_eq!((got, length), (expected, bytes.len()), "{shown:?}");
                    for end in 0..bytes.len() {
                        assert!(matches!(parse(&bytes[..end]), Ok(None)), "{shown:?} {end}");
                    }
                }
                (Err(Malformed(_)), None) => {}
                (got, _) => panic!("{shown:?}: {got:?}"),
            }
        }
    }

    #[tokio::test]
    async fn what_follows_a_header_is_kept() {
        let (proxied, rest) = read(&mut &b"PROXY UNKNOWN\r\nhello"[..]).await.unwrap();
        assert_eq!((proxied, rest.as_slice()), (Proxied::Local, &b"hello"[..]));
        assert!(matches!(read(&mut &b"PROXY UNK"[..]).await, Err(Ended)));
        assert!(matches!(read(&mut &b"\x16\x03\x01"[..]).await, Err(Malformed(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_break_a_promise(bytes in prop::collection::vec(any::<u8>(), 0..300), start in 0usize..3) {
            let begins = [&b""[..], b"PROXY ", SIGNATURE][start];
            crate::fuzzing::proxy_header(&[begins, &bytes].concat());
        }
    }
}
