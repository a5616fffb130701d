//! What a client of HTTP/2 may do that costs us more than it: each has its limit.

use super::*;
use std::time::Instant;

/// A frame's bytes.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const UNKNOWN: u8 = 99;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// GET http a.b /
const GET: &[u8] = b"\x82\x86\x84\x01\x03a.b";
/// POST http a.b /
const POST: &[u8] = b"\x83\x86\x84\x01\x03a.b";
const CANCEL: &[u8] = &[0, 0, 0, 8];
const ENHANCE_YOUR_CALM: u32 = 11;

/// What the client sends, with the settings that begin it.
fn with_preface(frames: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    frames.into_iter().for_each(|f| bytes.extend(f));
    bytes
}

/// Streams of one client, each given frames by number.
fn streams(n: u32, frames: impl Fn(u32) -> Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    (0..n).flat_map(|i| frames(2 * i + 1)).collect()
}

/// Reads to the end; the code of the last GOAWAY.
async fn goaway(client: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<u32> {
    let mut code = None;
    let mut head = [0; 9];
    while client.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        if client.read_exact(&mut payload).await.is_err() {
            break;
        }
        if head[3] == 7 {
            code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
    }
    code
}

/// Plays bytes at the gateway, whose upstream never answers; what it ends with.
fn ends_with(bytes: Vec<u8>) -> Option<u32> {
    let (tell, told) = std::sync::mpsc::channel();
    play(
        |_| {},
        true,
        |s| async move {
            let Stage { client, upstream, shutdown: _shutdown } = s;
            let (mut from, mut to) = tokio::io::split(client);
            tokio::task::spawn_local(async move {
                let mut open = Vec::new();
                while let Ok((stream, _)) = upstream.accept().await {
                    open.push(stream);
                }
            });
            tokio::task::spawn_local(async move {
                // it is cut in the middle
                let _ = to.write_all(&bytes).await;
                std::future::pending::<()>().await;
            });
            tell.send(goaway(&mut from).await).unwrap();
        },
    );
    told.recv().unwrap()
}

#[test]
fn floods_are_told_to_calm_down() {
    let many = 40_000;
    let repeat = |f: Vec<u8>| vec![f; many];
    let open = || vec![frame(HEADERS, END_HEADERS, 1, POST)];
    for (what, frames) in [
        ("PING", repeat(frame(PING, 0, 0, &[0; 8]))),
        ("SETTINGS", repeat(frame(SETTINGS, 0, 0, &[]))),
        ("PRIORITY", repeat(frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 9]))),
        ("unknown frames", repeat(frame(UNKNOWN, 0, 0, &[]))),
        ("empty DATA", [open(), repeat(frame(DATA, 0, 1, &[]))].concat()),
        (
            "resets",
            streams(3_000, |id| {
                vec![frame(HEADERS, END_HEADERS | END_STREAM, id, GET), frame(RST_STREAM, 0, id, CANCEL)]
            }),
        ),
        (
            "resets that we make: a window too large",
            streams(3_000, |id| {
                vec![
                    frame(HEADERS, END_HEADERS | END_STREAM, id, GET),
                    frame(WINDOW_UPDATE, 0, id, &[0x7f, 0xff, 0xff, 0xff]),
                ]
            }),
        ),
        (
            "resets that we make: a stream that depends on itself",
            streams(3_000, |id| {
                vec![
                    frame(HEADERS, END_HEADERS | END_STREAM, id, GET),
                    frame(PRIORITY, 0, id, &[&id.to_be_bytes()[..], &[9]].concat()),
                ]
            }),
        ),
    ] {
        assert_eq!(ends_with(with_preface(frames)), Some(ENHANCE_YOUR_CALM), "{what}");
    }
}

#[test]
fn a_header_block_of_many_pieces_is_cut() {
    let pieces = (0..20_000).map(|_| frame(CONTINUATION, 0, 1, &[]));
    let began = Instant::now();
    let flood = with_preface([frame(HEADERS, 0, 1, GET)].into_iter().chain(pieces));
    assert_eq!(ends_with(flood), Some(ENHANCE_YOUR_CALM));
    // it is not the deadline of the block that ends it
    assert!(began.elapsed() < Duration::from_secs(4));
}

#[test]
fn what_is_not_abuse_is_left_alone() {
    play(
        |_| {},
        true,
        |s| async move {
            let Stage { client, upstream, shutdown: _shutdown } = s;
            let (mut from, mut to) = tokio::io::split(client);
            // keep-alive, a few streams that are given up, and one that is not
            let given_up = streams(80, |id| {
                vec![frame(HEADERS, END_HEADERS | END_STREAM, id, GET), frame(RST_STREAM, 0, id, CANCEL)]
            });
            let pings = vec![frame(PING, 0, 0, &[0; 8]); 5_000];
            let last = frame(HEADERS, END_HEADERS | END_STREAM, 201, GET);
            let bytes = with_preface(given_up.into_iter().chain(pings).chain([last]));
            let reading = tokio::task::spawn_local(async move { goaway(&mut from).await });
            to.write_all(&bytes).await.unwrap();
            let answered = async {
                loop {
                    let mut up = upstream.accept().await.unwrap().0;
                    tokio::task::spawn_local(async move {
                        let mut head = [0; 4096];
                        let read = up.read(&mut head).await.unwrap_or(0);
                        let _ = up.write_all(OK.as_bytes()).await;
                        read
                    });
                }
            };
            let end = async {
                tokio::time::sleep(Duration::from_millis(200)).await;
                to.shutdown().await.unwrap();
                reading.await.unwrap()
            };
            tokio::select! {
                code = end => assert_ne!(code, Some(ENHANCE_YOUR_CALM)),
                () = answered => {}
            }
        },
    );
}

#[test]
fn a_stream_whose_window_stays_shut_is_reset() {
    play(
        |_| {},
        true,
        |s| async move {
            let Stage { client, upstream, shutdown: _shutdown } = s;
            let (mut from, mut to) = tokio::io::split(client);
            // SETTINGS_INITIAL_WINDOW_SIZE 0
            let shut = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
            let get = frame(HEADERS, END_HEADERS | END_STREAM, 1, GET);
            to.write_all(&with_preface([shut, get])).await.unwrap();
            let mut up = upstream.accept().await.unwrap().0;
            read_until(&mut up, "\r\n\r\n").await;
            up.write_all(OK.as_bytes()).await.unwrap();
            let mut head = [0; 9];
            let reset = loop {
                from.read_exact(&mut head).await.unwrap();
                let mut payload = vec![0; usize::from(head[2])];
                from.read_exact(&mut payload).await.unwrap();
                if head[3] == RST_STREAM {
                    break payload;
                }
            };
            assert_ne!(reset, [0; 4]);
        },
    );
}
