//! Copies of requests: what arrives at mirrors, and that nobody waits for them.

use super::super::testing::retries;
use super::http2_upstream::{Server, connect, speak, text};
use super::*;
use crate::telemetry::MirrorCount;
use crate::worker::Worker;
use std::rc::Rc;
use std::sync::Arc;
use tidegate_model::{Address, ClusterName, Mirror, RetryCondition, Share, UpstreamProtocol};

const UNAVAILABLE: &str = "HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno";

/// Plays with a mirror for each of these percentages; the protocol is that of all mirrors.
fn mirrored<F: Future<Output = ()>, const N: usize>(
    percentages: [f64; N],
    protocol: UpstreamProtocol,
    http2: bool,
    edit: impl FnOnce(&mut Model),
    act: impl FnOnce(Stage, [TcpListener; N]) -> F,
) {
    let listeners = percentages.map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let at = listeners.each_ref().map(|l| l.local_addr().unwrap());
    let mirrors = |model: &mut Model| {
        edit(model);
        let service = ClusterName::outbound(80, "", "service");
        for (at, percentage) in at.into_iter().zip(percentages) {
            let name = ClusterName::outbound(80, "", &format!("mirror-{}", at.port()));
            let mut cluster = (*model.clusters[&service]).clone();
            (cluster.name, cluster.protocol) = (name.clone(), protocol);
            let mut endpoints = (*model.endpoints[&service]).clone();
            endpoints.cluster = name.clone();
            endpoints.endpoints[0].address = Address::Socket(at);
            model.clusters.insert(name.clone(), Arc::new(cluster));
            model.endpoints.insert(name.clone(), Arc::new(endpoints));
            let mirror = Mirror { cluster: name, share: Share::percent(percentage) };
            change(model, "*", |f| f.mirrors.push(mirror));
        }
    };
    play(mirrors, http2, |s| {
        act(
            s,
            listeners.map(|l| {
                l.set_nonblocking(true).unwrap();
                TcpListener::from_std(l).unwrap()
            }),
        )
    });
}

fn played() -> Rc<Worker> {
    PLAYED.with_borrow(|worker| worker.clone().unwrap())
}

/// Waits until this many copies came to that.
async fn counted(what: MirrorCount, n: u64) {
    while played().telemetry.mirror_count(what) < n {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(played().telemetry.mirror_count(what), n, "{what:?}");
}

#[test]
fn a_mirror_gets_what_the_upstream_gets_once() {
    let edit = |m: &mut Model| {
        change(m, "*", |f| {
            f.retries = retries(&[RetryCondition::ServerError]);
            f.destinations[0].request_headers = vec![set("x-a", "1")];
        });
    };
    mirrored([100.0, 100.0], UpstreamProtocol::Http1, false, edit, |mut s, mirrors| async move {
        let (mut streams, mut answered) = (Vec::new(), 0);
        for (framing, pieces, end) in [
            ("Content-Length: 6", &["abc", "def"][..], "abcdef"),
            (
                "Transfer-Encoding: chunked",
                &["3;x=y\r\nab", "c\r\n3\r\ndef\r\n0\r\nx-t: 1\r\n\r\n"],
                "abcdef\r\n0\r\nx-t: 1\r\n\r\n",
            ),
            ("X-None: 1", &[], "\r\n\r\n"),
        ] {
            s.send(&format!("POST /a?{} HTTP/1.1\r\nHost: a.b\r\n{framing}\r\n\r\n", pieces.len())).await;
            let (mut up, head) = s.accept().await;
            assert_eq!((header(&head, "host"), header(&head, "x-a")), (Some("a.b"), Some("1")));
            for piece in pieces {
                s.send(piece).await;
                if !framing.starts_with("Transfer") {
                    read_until(&mut up, piece).await;
                }
            }
            for (i, mirror) in mirrors.iter().enumerate() {
                if streams.len() < mirrors.len() {
                    streams.push(mirror.accept().await.unwrap().0);
                }
                // the connection is used again, and its answer is neither passed on nor tried again
                assert_eq!(read_until(&mut streams[i], "\r\n\r\n").await, head);
                let body = match framing {
                    "X-None: 1" => String::new(),
                    _ => read_until(&mut streams[i], end).await,
                };
                let framed = framing.starts_with("Transfer").then(|| format!("6\r\n{end}"));
                assert_eq!(body, framed.unwrap_or_else(|| body.clone()));
                streams[i].write_all(UNAVAILABLE.as_bytes()).await.unwrap();
            }
            answered += 2;
            counted(MirrorCount::Answered, answered).await;
            up.write_all(OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
            assert!(s.read_until("ok").await.starts_with("HTTP/1.1 200 OK\r\n"));
        }
        assert_eq!(played().mirrors.held(), (0, 0));
    });
}

#[test]
fn a_copy_is_said_in_the_mirrors_protocol() {
    mirrored(
        [100.0],
        UpstreamProtocol::Http2,
        false,
        |_| {},
        |mut s, [mirror]| async move {
            s.send("POST / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
            let (mut up, _) = s.accept().await;
            s.send("2\r\nde\r\n0\r\nx-t: 1\r\n\r\n").await;
            read_until(&mut up, "x-t: 1\r\n\r\n").await;
            let mut server = Server::accept_as(&mirror, &::h2::server::Builder::new()).await;
            let (mut request, mut respond) = server.next().await;
            assert_eq!(request.uri().to_string(), "http://a.b/");
            assert_eq!(text(request.body_mut()).await, b"abcde");
            assert_eq!(request.body_mut().trailers().await.unwrap().unwrap()["x-t"], "1");
            respond.send_response(http::Response::new(()), true).unwrap();
            counted(MirrorCount::Answered, 1).await;
        },
    );
    mirrored(
        [100.0],
        UpstreamProtocol::Http1,
        true,
        speak(UpstreamProtocol::Http2),
        |s, [mirror]| async move {
            let Stage { client, upstream, shutdown: _open } = s;
            let mut client = connect(client).await;
            let request = http::Request::post("http://a.b/").body(()).unwrap();
            let (_response, mut body) = client.send_request(request, false).unwrap();
            body.send_data("abc".into(), false).unwrap();
            let mut server = Server::accept_as(&upstream, &::h2::server::Builder::new()).await;
            let (mut request, _respond) = server.next().await;
            body.send_data("de".into(), false).unwrap();
            body.send_trailers(http::HeaderMap::from_iter([(
                http::HeaderName::from_static("x-t"),
                "1".parse().unwrap(),
            )]))
            .unwrap();
            assert_eq!(text(request.body_mut()).await, b"abcde");
            let mut copy = mirror.accept().await.unwrap().0;
            let head = read_until(&mut copy, "\r\n\r\n").await;
            assert!(
                head.starts_with("POST / HTTP/1.1\r\n") && header(&head, "host") == Some("a.b"),
                "{head}"
            );
            assert_eq!(read_until(&mut copy, "\r\n\r\n").await, "5\r\nabcde\r\n0\r\nx-t: 1\r\n\r\n");
            // a response without end is read until its connection ends
            copy.write_all(b"HTTP/1.1 200 OK\r\n\r\nany").await.unwrap();
            drop(copy);
            counted(MirrorCount::Answered, 1).await;
        },
    );
}

#[test]
fn mirrors_get_their_shares() {
    mirrored(
        [0.0, 100.0],
        UpstreamProtocol::Http1,
        false,
        |_| {},
        |mut s, [none, all]| async move {
            s.send(GET).await;
            let mut up = s.accept().await.0;
            up.write_all(OK.as_bytes()).await.unwrap();
            s.read_until("ok").await;
            let mut copies = all.accept().await.unwrap().0;
            read_until(&mut copies, "\r\n\r\n").await;
            copies.write_all(OK.as_bytes()).await.unwrap();
            counted(MirrorCount::Answered, 1).await;
            for n in 2..50 {
                s.send(GET).await;
                read_until(&mut up, "\r\n\r\n").await;
                up.write_all(OK.as_bytes()).await.unwrap();
                s.read_until("ok").await;
                read_until(&mut copies, "\r\n\r\n").await;
                copies.write_all(OK.as_bytes()).await.unwrap();
                counted(MirrorCount::Answered, n).await;
            }
            assert!(tokio::time::timeout(Duration::from_millis(20), none.accept()).await.is_err());
        },
    );
}

#[test]
fn a_mirror_that_hangs_holds_no_request_and_a_bounded_number_of_copies() {
    let patient = |m: &mut Model| change(m, "*", |f| f.timeout = Some(Duration::from_secs(3600)));
    mirrored([100.0], UpstreamProtocol::Http1, false, patient, |mut s, [mirror]| async move {
        tokio::task::spawn_local(async move {
            let mut hanging = Vec::new();
            while let Ok(accepted) = mirror.accept().await {
                hanging.push(accepted);
            }
        });
        let post = "POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 4\r\n\r\nbody";
        s.send(post).await;
        let mut up = s.accept().await.0;
        read_until(&mut up, "body").await;
        up.write_all(OK.as_bytes()).await.unwrap();
        s.read_until("ok").await;
        for _ in 1..266 {
            s.send(post).await;
            read_until(&mut up, "body").await;
            up.write_all(OK.as_bytes()).await.unwrap();
            s.read_until("ok").await;
        }
        counted(MirrorCount::Busy, 10).await;
        let (copies, bytes) = played().mirrors.held();
        assert!(copies == 256 && bytes < 256 << 10, "{copies} copies hold {bytes} bytes");
    });
}

#[test]
fn a_mirror_that_hangs_is_given_up_when_the_rules_time_is_up() {
    let short = |m: &mut Model| change(m, "*", |f| f.timeout = Some(Duration::from_millis(100)));
    mirrored([100.0], UpstreamProtocol::Http1, false, short, |mut s, [_mirror]| async move {
        s.send(GET).await;
        s.read_until("timeout").await;
        counted(MirrorCount::Failed, 1).await;
        assert_eq!(played().mirrors.held(), (0, 0));
    });
}

#[test]
fn what_cannot_be_copied_is_counted_and_served() {
    const LARGE: usize = (1 << 20) + 1;
    mirrored(
        [100.0],
        UpstreamProtocol::Http1,
        false,
        |_| {},
        |mut s, [_mirror]| async move {
            let chunk = format!("{LARGE:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(LARGE));
            for (n, framing, body) in [
                (1, format!("Content-Length: {LARGE}"), "x".repeat(LARGE)),
                (2, "Transfer-Encoding: chunked".to_owned(), chunk),
            ] {
                s.send(&format!("POST / HTTP/1.1\r\nHost: a.b\r\n{framing}\r\n\r\n")).await;
                let mut up = s.accept().await.0;
                let mut got = vec![0; body.len()];
                tokio::join!(s.send(&body), async { up.read_exact(&mut got).await.unwrap() });
                assert!(got == body.as_bytes());
                counted(MirrorCount::Body, n).await;
                up.write_all(OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes())
                    .await
                    .unwrap();
                s.read_until("ok").await;
            }
            s.send("GET / HTTP/1.1\r\nHost: a.b\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
            let mut up = s.accept().await.0;
            up.write_all(OK.as_bytes()).await.unwrap();
            s.read_until("ok").await;
            counted(MirrorCount::Upgrade, 1).await;
            s.send("POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 4\r\n\r\nbo").await;
            read_until(&mut up, "bo").await;
            assert_eq!(played().mirrors.held().0, 1);
            drop(s.client);
            counted(MirrorCount::Incomplete, 1).await;
            assert_eq!(played().mirrors.held(), (0, 0));
        },
    );
}

#[test]
fn a_mirror_without_cluster_or_listener_is_harmless() {
    let edit = |m: &mut Model| {
        let mirror = Mirror { cluster: ClusterName::outbound(80, "", "none"), share: Share::all() };
        change(m, "*", |f| f.mirrors.push(mirror));
    };
    mirrored([100.0], UpstreamProtocol::Http1, false, edit, |mut s, mirrors| async move {
        drop(mirrors);
        s.send(GET).await;
        s.accept().await.0.write_all(OK.as_bytes()).await.unwrap();
        assert!(s.read_until("ok").await.starts_with("HTTP/1.1 200 OK\r\n"));
        counted(MirrorCount::NoCluster, 1).await;
        counted(MirrorCount::Failed, 1).await;
    });
}
