//! Which HTTP a connection speaks, told by its first bytes.

use pingora::server::ShutdownWatch;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep_until};

/// What a client with prior knowledge of HTTP/2 sends first (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Enough for most heads, so that the codec needs no read of its own for the first request.
const FIRST_READ: usize = 4096;
/// How long a connection without a request in hand may live on when its listener goes: one may be
/// on its way, and its answer says that the connection ends.
pub(crate) const LAST_CALL: Duration = Duration::from_secs(1);

/// An HTTP version by its framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http {
    /// HTTP/1.x.
    One,
    /// HTTP/2.
    Two,
}

/// Reads until HTTP/2's preface is there or cannot come any more, and gives back what was read.
/// `None` when the client said nothing: it closed, or `time` passed.
///
/// # Errors
/// When reading fails.
pub(crate) async fn sniff<S: AsyncRead + Unpin>(
    stream: &mut S,
    time: Duration,
    shutdown: &ShutdownWatch,
) -> io::Result<Option<(Http, Vec<u8>)>> {
    let mut deadline = Instant::now() + time;
    let mut shutdown = shutdown.clone();
    let mut going = false;
    let mut read = Vec::with_capacity(FIRST_READ);
    loop {
        let n = tokio::select! {
            biased;
            n = stream.read_buf(&mut read) => n?,
            _ = shutdown.wait_for(|gone| *gone), if !going => {
                going = true;
                deadline = deadline.min(Instant::now() + LAST_CALL);
                continue;
            }
            () = sleep_until(deadline) => 0,
        };
        match verdict(&read) {
            Some(http) => return Ok(Some((http, read))),
            None if n > 0 => {}
            None if read.is_empty() => return Ok(None),
            // Half a preface and no more to come: the HTTP/1 codec says what is wrong with it.
            None => return Ok(Some((Http::One, read))),
        }
    }
}

fn verdict(read: &[u8]) -> Option<Http> {
    let n = read.len().min(PREFACE.len());
    if read[..n] != PREFACE[..n] {
        Some(Http::One)
    } else if n == PREFACE.len() {
        Some(Http::Two)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    async fn sniffed(parts: &[&[u8]]) -> Option<(Http, Vec<u8>)> {
        let (mut client, mut server) = tokio::io::duplex(256);
        let (_keep, shutdown) = tokio::sync::watch::channel(false);
        let writes = async {
            for part in parts {
                client.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            client
        };
        let (_client, result) =
            tokio::join!(writes, sniff(&mut server, Duration::from_millis(200), &shutdown));
        result.unwrap()
    }

    #[tokio::test]
    async fn decides_at_the_first_differing_byte() {
        type Case = (&'static [&'static [u8]], Option<Http>, &'static str);
        let cases: [Case; 8] = [
            (&[b"GET / HTTP/1.0\r\n\r\n"], Some(Http::One), "shorter than the preface"),
            (&[b"G"], Some(Http::One), "one byte that differs"),
            (&[b"P", b"RI * HTTP/2.0\r\n\r\nSM\r\n", b"\r\nrest"], Some(Http::Two), "preface in pieces"),
            (&[b"P", b"OST / HTTP/1.1\r\n"], Some(Http::One), "POST begins like PRI"),
            (&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX"], Some(Http::One), "differs in its last byte"),
            (&[b"PRI * HTTP/2.0\r\n"], Some(Http::One), "half a preface, then silence"),
            (&[PREFACE], Some(Http::Two), "nothing after it"),
            (&[], None, "silence"),
        ];
        for (parts, expect, what) in cases {
            let got = sniffed(parts).await;
            assert_eq!(got.as_ref().map(|(h, _)| *h), expect, "{what}");
            let sent = parts.concat();
            assert!(sent.starts_with(&got.map(|(_, b)| b).unwrap_or_default()), "{what}: bytes");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_ends_soon_after_its_listener_goes() {
        let (_client, mut server) = tokio::io::duplex(16);
        let (tx, shutdown) = tokio::sync::watch::channel(false);
        let start = Instant::now();
        let ends = sniff(&mut server, Duration::from_secs(10), &shutdown);
        let (got, _) = tokio::join!(ends, async { tx.send(true).unwrap() });
        assert_eq!(got.unwrap(), None);
        assert!(start.elapsed() <= LAST_CALL + Duration::from_millis(10));
    }
}
