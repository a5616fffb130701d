//! Connections whose bytes go on: opaque TCP, TLS that is passed on, TLS that ends here.

use crate::support::*;
use crate::tls::{BOTH, client, connect};
use rcgen::PKCS_ECDSA_P256_SHA256;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_model::*;
use tidegate_proxy::{Limits, Options, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// An upstream that greets, reads to the end, and then answers with what it read.
async fn patient() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = Vec::new();
                let _ = stream.write_all(b"hello ").await;
                let _ = stream.read_to_end(&mut read).await;
                let _ = stream.write_all(&read).await;
            });
        }
    });
    address
}

/// An upstream with a certificate of its own, which it gives back, that echoes once.
async fn tls_upstream(names: &[&str]) -> (SocketAddr, Vec<u8>) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let certificate = made.cert.der().to_vec();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(certificate.clone())], key)
            .unwrap();
    config.alpn_protocols = vec![b"istio".to_vec(), b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut read = [0; 64];
                while let Ok(n @ 1..) = stream.read(&mut read).await {
                    let _ = stream.write_all(&read[..n]).await;
                }
            });
        }
    });
    (address, certificate)
}

/// A data plane that logs JSON into a file.
fn logging(folder: &Path, limits: Limits) -> Proxy {
    let file = folder.join("log").to_str().unwrap().into();
    let log = AccessLog { file, format: AccessLogFormat::DefaultJson, filter: None };
    Proxy::start(Options { access_log: Some(log), limits, ..options() }).unwrap()
}

/// The lines of the log once there are so many.
async fn lines(folder: &Path, count: usize) -> Vec<Value> {
    let read = || {
        let text = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect::<Vec<Value>>()
    };
    eventually("log lines", async || read().len() >= count).await;
    read()
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = logging(folder.path(), options().limits);
    let mut model = Model::default();
    let to = cluster(&mut model, "patient", &[patient().await]);
    tcp(&mut model, key(1), tcp_route(to, None));
    proxy.apply(model);
    let at = address(&proxy, key(1));
    let mut stream = TcpStream::connect(at).await.unwrap();
    let mut greeting = [0; 6];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"hello ", "who says the first word does not matter");
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let (mut read, mut write) = stream.split();
    let mut got = Vec::new();
    let (wrote, _) = tokio::join!(
        async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await
        },
        async { read.read_to_end(&mut got).await.unwrap() }
    );
    wrote.unwrap();
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    let line = &lines(folder.path(), 1).await[0];
    assert_eq!((&line["bytes_received"], &line["bytes_sent"]), (&3_000_000.into(), &3_000_006.into()));
    assert_eq!((&line["response_code"], &line["response_flags"]), (&0.into(), &"-".into()));
    assert_eq!(line["upstream_cluster"], "outbound|80||patient");
    assert_eq!(line["downstream_remote_address"], stream.local_addr().unwrap().to_string());
    let page = get(proxy.status_address(), "/stats/prometheus").await.1;
    for (name, value) in [
        ("connections_opened", "1"),
        ("connections_closed", "1"),
        ("received_bytes", "3000000"),
        ("sent_bytes", "3000006"),
    ] {
        let name = format!("istio_tcp_{name}_total{{");
        let line = page.lines().find(|l| l.starts_with(&name)).unwrap_or_else(|| panic!("{name} in {page}"));
        assert!(
            line.contains("destination_service=\"patient\"") && line.ends_with(&format!(" {value}")),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_connection_that_goes_nowhere_is_closed_and_logged() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = logging(folder.path(), options().limits);
    let mut model = Model::default();
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let refusing = cluster(&mut model, "refusing", &[nobody]);
    let empty = cluster(&mut model, "empty", &[]);
    let slow = cluster(&mut model, "slow", &[patient().await]);
    let absent = ClusterName::outbound(1, "", "absent");
    let idle = Some(Duration::from_millis(1500));
    for (n, to) in (1..).zip([&refusing, &empty, &absent, &slow]) {
        tcp(&mut model, key(n), tcp_route(to.clone(), idle));
    }
    proxy.apply(model);
    for (n, flags, said) in [(1, "UF", ""), (2, "UH", ""), (3, "NC", ""), (4, "SI", "hello ")] {
        let mut stream = TcpStream::connect(address(&proxy, key(n))).await.unwrap();
        assert_eq!(read_to_end(&mut stream).await, said, "{flags}");
        let lines = lines(folder.path(), usize::from(n)).await;
        assert_eq!(lines[usize::from(n) - 1]["response_flags"], flags);
    }
}

/// Sends a ClientHello for `name` in single bytes, and says what comes back first.
async fn first_answer(at: SocketAddr, name: &str) -> u8 {
    let config = Arc::new(client(&["istio"], BOTH));
    let server = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut session = rustls::ClientConnection::new(config, server).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in hello {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.read_u8().await.unwrap()
}

/// Servers of every kind: `a.x` and below it and `m.x` are passed on, `t.x` ends here, `r.x` is refused.
fn servers(
    passed: &Arc<TcpRoute>,
    plain: Arc<TcpRoute>,
) -> Vec<(&'static str, &'static [&'static str], TlsAction)> {
    let sni = |hosts: &[&str]| SniRoute {
        hosts: hosts.iter().map(|h| (*h).into()).collect(),
        route: passed.clone(),
    };
    let passthrough = |routes, protocols: &[&str]| TlsAction::Passthrough {
        routes,
        protocols: protocols.iter().map(|p| (*p).into()).collect(),
    };
    let termination = TlsTermination { certificates: vec![secret_key("s")], ..TlsTermination::default() };
    vec![
        ("passed", &["*.x"], passthrough(vec![sni(&["*.a.x", "a.x"])], &[])),
        ("mesh", &["m.x"], passthrough(vec![sni(&["m.x"])], &["istio"])),
        ("ended", &["t.x"], TlsAction::Tcp(termination, plain)),
        ("refused", &["r.x"], TlsAction::Refuse("no identity".into())),
    ]
}

#[tokio::test]
async fn tls_is_passed_on_by_sni_or_ends_here() {
    let folder = tempfile::tempdir().unwrap();
    // A hello in single bytes takes its time on a busy machine.
    let limits = Limits { handshake_time: Duration::from_secs(20), ..options().limits };
    let proxy = logging(folder.path(), limits);
    let mut model = Model::default();
    secret(&mut model, "s", &["*.x"], &PKCS_ECDSA_P256_SHA256);
    let (upstream, certificate) = tls_upstream(&["a.x"]).await;
    let passed = tcp_route(cluster(&mut model, "tls", &[upstream]), None);
    let plain = tcp_route(cluster(&mut model, "plain", &[patient().await]), None);
    let servers = servers(&passed, plain);
    tls_actions(&mut model, key(1), servers);
    assert!(proxy.apply(model).diagnostics.is_empty());
    let at = address(&proxy, key(1));
    for (name, alpn) in [("a.x", "h2"), ("b.a.x", "h2"), ("m.x", "istio")] {
        let mut stream = connect(at, name, Arc::new(client(&[alpn], BOTH))).await.unwrap();
        assert!(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec() == certificate, "{name}");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn.as_bytes()), "{name}");
        stream.write_all(b"ping").await.unwrap();
        let mut got = [0; 4];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ping", "{name}");
    }
    assert_eq!(first_answer(at, "a.x").await, 22, "a hello in pieces is answered by the upstream");
    let mut ended = connect(at, "t.x", Arc::new(client(&["unknown"], BOTH))).await.unwrap();
    ended.write_all(b"inside").await.unwrap();
    ended.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut ended).await, "hello inside");
    for (name, alpn, alert) in [
        ("m.x", "h2", "NoApplicationProtocol"),
        ("r.x", "h2", "HandshakeFailure"),
        ("c.x", "h2", "UnrecognisedName"),
    ] {
        let error = connect(at, name, Arc::new(client(&[alpn], BOTH))).await.unwrap_err();
        assert!(error.to_string().contains(alert), "{name}: {error}");
    }
    let lines = lines(folder.path(), 8).await;
    // How a client leaves that just drops its connection is not said here.
    let of = |name: &str, refused: bool| {
        let same =
            |l: &&Value| l["requested_server_name"] == name && (l["response_flags"] == "NR") == refused;
        lines.iter().find(same).unwrap_or_else(|| panic!("{name} in {lines:?}")).clone()
    };
    assert_eq!(of("b.a.x", false)["upstream_cluster"], "outbound|80||tls");
    assert_eq!(of("t.x", false)["bytes_received"], 6);
    for (name, reason) in [("c.x", "no TLS server"), ("m.x", "ALPN"), ("r.x", "no identity")] {
        let details = of(name, true)["response_code_details"].to_string();
        assert!(details.starts_with("\"filter_chain_not_found{") && details.contains(reason), "{details}");
    }
}

#[tokio::test]
async fn a_tunnel_lives_on_while_its_listener_drains_and_no_longer() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { drain: Duration::from_millis(2500), ..options().limits };
    let proxy = logging(folder.path(), limits.clone());
    let mut model = Model::default();
    let to = cluster(&mut model, "patient", &[patient().await]);
    tcp(&mut model, key(1), tcp_route(to, None));
    proxy.apply(model);
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address(&proxy, key(1))).await.unwrap();
        stream.read_exact(&mut [0; 6]).await.unwrap();
        streams.push(stream);
    }
    let gone = Instant::now();
    proxy.apply(Model::default());
    let mut ends = streams.pop().unwrap();
    ends.write_all(b"still here").await.unwrap();
    ends.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut ends).await, "still here");
    assert_eq!(read_to_end(&mut streams[0]).await, "");
    assert!(gone.elapsed() >= limits.drain, "{:?}", gone.elapsed());
    let lines = lines(folder.path(), 2).await;
    let mut flags: Vec<_> = lines.iter().map(|l| l["response_flags"].as_str().unwrap()).collect();
    flags.sort_unstable();
    assert_eq!(flags, ["-", "LR"]);
}

#[tokio::test]
async fn proxy_headers_of_trusted_peers_name_the_client() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = logging(folder.path(), options().limits);
    let mesh = MeshSettings { proxy_protocol: true, ..MeshSettings::default() };
    let mut model = Model { mesh: mesh.into(), ..Model::default() };
    let table = plain(&mut model, key(1));
    host(&mut model, &table, "*", vec![respond("yes")]);
    let to = cluster(&mut model, "patient", &[patient().await]);
    tcp(&mut model, key(2), tcp_route(to, None));
    proxy.apply(model.clone());
    let (http, tcp) = (address(&proxy, key(1)), address(&proxy, key(2)));
    let get = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x0a\0\0\x01\x04\xd2\x01\xbb";
    let answer = exchange(http, format!("PROXY TCP4 192.0.2.9 10.0.0.1 1 443\r\n{get}").as_bytes()).await;
    assert!(answer.ends_with("yes"), "{answer}");
    assert!(exchange(http, &[v2, get.as_bytes()].concat()).await.ends_with("yes"));
    assert_eq!(exchange(http, get.as_bytes()).await, "", "a trusted peer must say it");
    let mut stream = TcpStream::connect(tcp).await.unwrap();
    stream.write_all(b"PROXY TCP6 2001:db8::1 2001:db8::2 5 6\r\nbytes").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, "hello bytes");
    // Workers log each for itself, in no common order.
    let lines = lines(folder.path(), 4).await;
    for client in ["192.0.2.9:1", "192.0.2.7:1234", "[2001:db8::1]:5"] {
        assert!(lines.iter().any(|l| l["downstream_remote_address"] == client), "{client}: {lines:?}");
    }
    let refused = lines.iter().find(|l| l["response_flags"] == "DPE").unwrap();
    assert!(refused["response_code_details"].as_str().unwrap().starts_with("proxy_protocol{"), "{refused}");
    // Of others, a header is what it looks like: bytes.
    let trusting = Options { proxy_protocol_from: vec!["192.0.2.0/24".parse().unwrap()], ..options() };
    let other = Proxy::start(trusting).unwrap();
    other.apply(model);
    let http = address(&other, key(1));
    assert!(exchange(http, get.as_bytes()).await.ends_with("yes"));
    let answer = exchange(http, format!("PROXY TCP4 192.0.2.9 10.0.0.1 1 443\r\n{get}").as_bytes()).await;
    assert_eq!(answer, "", "no request of HTTP, so nothing that HTTP would answer");
}
