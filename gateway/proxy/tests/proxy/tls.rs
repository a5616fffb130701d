use crate::support::*;
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, HandshakeKind, SignatureScheme};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tidegate_model::{ListenerProtocol, Model, Secret, TlsVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Accepts every certificate: these tests look at which one came.
#[derive(Debug)]
struct Anything(Vec<SignatureScheme>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

/// A client that accepts every certificate, and may have one of its own.
pub(crate) fn unauthenticated(schemes: &[SignatureScheme]) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything(schemes.to_vec())))
}

pub(crate) fn client(alpn: &[&str], schemes: &[SignatureScheme]) -> ClientConfig {
    let mut config = unauthenticated(schemes).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    config
}

pub(crate) const BOTH: &[SignatureScheme] =
    &[SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PSS_SHA256];

pub(crate) async fn connect(
    address: SocketAddr,
    name: &str,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(config).connect(name, stream).await
}

fn leaf(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn sni_chooses_the_server_and_nothing_else_does() {
    let proxy = start();
    let mut model = Model::default();
    let exact = secret(&mut model, "exact", &["a.example.com"], &PKCS_ECDSA_P256_SHA256);
    let wild = secret(&mut model, "wild", &["*.example.com"], &PKCS_ECDSA_P256_SHA256);
    let wilder = secret(&mut model, "wilder", &["*.com"], &PKCS_ECDSA_P256_SHA256);
    let any = secret(&mut model, "any", &["*"], &PKCS_ECDSA_P256_SHA256);
    let servers: [(&str, &[&str], &[&str]); 5] = [
        ("https.wilder", &["*.com"], &["wilder"]),
        ("https.wild", &["*.Example.com"], &["wild"]),
        ("https.exact", &["a.example.com"], &["exact"]),
        ("https.late", &["a.example.com"], &["any"]),
        ("https.broken", &["broken.example.com"], &["missing"]),
    ];
    tls(&mut model, key(1), &servers);
    tls(&mut model, key(2), &[("https.any", &["*"], &["any"])]);
    let applied = proxy.apply(model);
    assert!(
        applied.diagnostics.is_empty(),
        "what is missing is its maker's to say: {:?}",
        applied.diagnostics
    );

    let (strict, open) = (address(&proxy, key(1)), address(&proxy, key(2)));
    type Case<'a> = (SocketAddr, &'a str, Result<&'a [u8], &'a str>);
    let cases: [Case<'_>; 10] = [
        (strict, "a.example.com", Ok(&exact)),
        (strict, "A.EXAMPLE.com", Ok(&exact)),
        (strict, "b.example.com", Ok(&wild)),
        (strict, "c.b.example.com", Ok(&wild)),
        (strict, "example.com", Ok(&wilder)),
        (strict, "example.org", Err("UnrecognisedName")),
        (strict, "com", Err("UnrecognisedName")),
        (strict, "broken.example.com", Err("HandshakeFailure")),
        (strict, "127.0.0.1", Err("UnrecognisedName")), // no SNI is sent
        (open, "127.0.0.1", Ok(&any)),
    ];
    let config = Arc::new(client(&["h2", "http/1.1"], BOTH));
    for (address, name, expect) in cases {
        match (connect(address, name, config.clone()).await, expect) {
            (Ok(stream), Ok(certificate)) => assert!(leaf(&stream) == certificate, "{name}: certificate"),
            (Err(e), Err(alert)) => assert!(e.to_string().contains(alert), "{name}: {e}"),
            (got, expect) => panic!("{name}: {got:?}, expected {}", expect.is_ok()),
        }
    }
    eventually("failures are counted", async || {
        let failed = async |why| {
            metric(&proxy, &format!("tidegate_tls_handshake_failures_total{{reason=\"{why}\"}}")).await
        };
        (failed("no_server").await, failed("no_certificate").await) == (3, 1)
    })
    .await;
}

#[tokio::test]
async fn a_client_gets_the_certificate_that_it_can_verify() {
    let proxy = start();
    let mut model = Model::default();
    let rsa = secret(&mut model, "rsa", &["a.b"], &PKCS_RSA_SHA256);
    let ecdsa = secret(&mut model, "ecdsa", &["a.b"], &PKCS_ECDSA_P256_SHA256);
    tls(&mut model, key(1), &[("https.443", &["a.b"], &["rsa", "ecdsa"])]);
    proxy.apply(model);
    let cases: [(&[SignatureScheme], &[u8]); 3] = [
        (&[SignatureScheme::RSA_PSS_SHA256], &rsa),
        (&[SignatureScheme::ECDSA_NISTP256_SHA256], &ecdsa),
        (BOTH, &ecdsa),
    ];
    for (schemes, certificate) in cases {
        let config = Arc::new(client(&[], schemes));
        let stream = connect(address(&proxy, key(1)), "a.b", config).await.unwrap();
        assert!(leaf(&stream) == certificate, "{schemes:?}");
        assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    }
}

#[tokio::test]
async fn versions_and_alpn_are_kept_to() {
    let proxy = start();
    let mut model = Model::default();
    secret(&mut model, "s", &["a.b"], &PKCS_ECDSA_P256_SHA256);
    tls(&mut model, key(1), &[("https.443", &["a.b"], &["s"])]);
    let mut listener = (*model.listeners[&key(1)]).clone();
    if let ListenerProtocol::Tls(servers) = &mut listener.protocol {
        termination(&mut servers[0]).max_version = Some(TlsVersion::V1_2);
    }
    model.listeners.insert(key(1), Arc::new(listener));
    proxy.apply(model);
    for (offered, chosen) in
        [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)]
    {
        let stream = connect(address(&proxy, key(1)), "a.b", Arc::new(client(offered, BOTH))).await.unwrap();
        let session = stream.get_ref().1;
        assert_eq!(session.alpn_protocol(), chosen.map(str::as_bytes));
        assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
    }
}

/// Reads until a session ticket had time to come.
async fn settle(stream: &mut TlsStream<TcpStream>) {
    let _ = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut [0])).await;
}

#[tokio::test]
async fn sessions_resume_across_configs_until_the_certificate_changes() {
    let proxy = start();
    let mut model = Model::default();
    secret(&mut model, "s", &["a.b"], &PKCS_ECDSA_P256_SHA256);
    tls(&mut model, key(1), &[("https.443", &["a.b"], &["s"])]);
    proxy.apply(model.clone());
    let config = Arc::new(client(&[], BOTH));
    let kind = async |config: &Arc<ClientConfig>| {
        let mut stream = connect(address(&proxy, key(1)), "a.b", config.clone()).await.unwrap();
        settle(&mut stream).await;
        stream.get_ref().1.handshake_kind().unwrap()
    };
    assert_eq!(kind(&config).await, HandshakeKind::Full);
    // Another secret and another listener leave this server alone.
    secret(&mut model, "other", &["c.d"], &PKCS_ECDSA_P256_SHA256);
    plain(&mut model, key(2));
    assert_eq!(proxy.apply(model.clone()).generation, 2);
    assert_eq!(kind(&config).await, HandshakeKind::Resumed);
    secret(&mut model, "s", &["a.b"], &PKCS_ECDSA_P256_SHA256);
    proxy.apply(model);
    assert_eq!(kind(&config).await, HandshakeKind::Full);
}

#[tokio::test]
async fn what_is_not_tls_is_closed_and_so_is_who_stalls() {
    let proxy = start();
    let mut model = Model::default();
    secret(&mut model, "s", &["a.b"], &PKCS_ECDSA_P256_SHA256);
    tls(&mut model, key(1), &[("https.443", &["a.b"], &["s"])]);
    proxy.apply(model);
    let at = address(&proxy, key(1));
    assert_eq!(exchange(at, b"GET / HTTP/1.1\r\nHost: a.b\r\n\r\n").await, "");
    // A record that never ends.
    let start = std::time::Instant::now();
    assert_eq!(exchange(at, &[0x16, 3, 1, 2, 0, 1]).await, "");
    assert!(start.elapsed() >= options().limits.handshake_time);
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(&[0x16, 3, 1, 0, 4, 1, 0, 0, 0]).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer[0], 0x15, "an empty ClientHello gets an alert: {answer:?}");
}

#[tokio::test]
async fn a_broken_secret_is_named_without_its_key() {
    let proxy = start();
    let mut model = Model::default();
    secret(&mut model, "a", &["a.b"], &PKCS_ECDSA_P256_SHA256);
    secret(&mut model, "b", &["a.b"], &PKCS_ECDSA_P256_SHA256);
    let (a, b) = (model.secrets[&secret_key("a")].clone(), model.secrets[&secret_key("b")].clone());
    let broken: [(&str, Secret); 3] = [
        ("mismatch", Secret { private_key: b.private_key.clone(), ..(*a).clone() }),
        (
            "nokey",
            Secret {
                private_key: b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n".as_slice().into(),
                ..(*a).clone()
            },
        ),
        ("nochain", Secret { certificate_chain: b"".as_slice().into(), ..(*a).clone() }),
    ];
    for (name, secret) in broken {
        let secret = Secret { key: secret_key(name), ..secret };
        model.secrets.insert(secret.key.clone(), Arc::new(secret));
        tls(&mut model, key(1), &[("https.1", &["a.b"], &["a"]), ("https.2", &["c.d"], &[name])]);
        let applied = proxy.apply(model.clone());
        let [diagnostic] = applied.diagnostics.as_slice() else {
            panic!("{name}: {:?}", applied.diagnostics)
        };
        let text = diagnostic.to_string();
        assert!(text.contains(&format!("test/{name}")), "{text}");
        let begins = "error gateway.yaml:7:5 Gateway/test/gateway spec.servers[2].tls: ";
        assert!(text.starts_with(begins), "{text}");
        assert!(!text.contains("c2VjcmV0"), "{text}");
        connect(address(&proxy, key(1)), "a.b", Arc::new(client(&[], BOTH))).await.unwrap();
    }
}

/// What the client's socket did not take is sent once it does, also while the upstream has nothing more to say.
#[tokio::test]
async fn a_slow_client_gets_all_that_came_so_far() {
    let upstream = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = start();
    let mut model = Model::default();
    secret(&mut model, "s", &["a.x"], &PKCS_ECDSA_P256_SHA256);
    tls(&mut model, key(1), &[("a", &["a.x"], &["s"])]);
    let route = forward(&mut model, "u", &[upstream.local_addr().unwrap()]);
    host(&mut model, &"a".into(), "a.x", vec![route]);
    proxy.apply(model);
    let at = address(&proxy, key(1));
    let connector = TlsConnector::from(Arc::new(client(&["http/1.1"], BOTH)));
    // less than TLS holds; where the sockets are full is the system's matter
    const PIECE: usize = 48 << 10;
    for pieces in 20..=90 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 << 10).unwrap();
        let stream = socket.connect(at).await.unwrap();
        let mut client = connector.connect(ServerName::try_from("a.x").unwrap(), stream).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a.x\r\n\r\n").await.unwrap();
        let (mut up, _) = upstream.accept().await.unwrap();
        assert!(up.read(&mut [0; 1024]).await.unwrap() > 0);
        up.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
        up.write_all(&vec![b'x'; pieces * PIECE]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let (mut came, mut read) = (0, vec![0; 64 << 10]);
        while came < pieces * PIECE {
            let next = tokio::time::timeout(Duration::from_secs(20), client.read(&mut read)).await;
            let n = next.unwrap_or_else(|_| panic!("{came} bytes came of {pieces} pieces")).unwrap();
            came += read[..n].iter().filter(|c| **c == b'x').count();
        }
    }
}
