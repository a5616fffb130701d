use super::super::fetch::{Fetch, FetchError, HttpFetch, InvalidRoots, KeyFetching};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const TIME: Duration = Duration::from_secs(20);

fn fetch(allowed: &[&str], roots: &str) -> HttpFetch {
    let allowed = allowed.iter().map(|net| net.parse().unwrap()).collect();
    HttpFetch::new(&KeyFetching { allowed, roots: roots.as_bytes().to_vec() }).unwrap()
}

/// Answers requests with what is there for their path, one connection after the other.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, base: &str) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let redirect = |to: &str| format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
    let answer = match path {
        "/keys?a=b" => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nkeys".to_owned(),
        "/relative" => redirect("/keys?a=b"),
        "/absolute" => redirect(&format!("{base}/keys?a=b")),
        "/inward" => redirect("http://169.254.169.254/latest"),
        "/file" => redirect("file:///etc/passwd"),
        "/loop" => redirect("/loop"),
        "/large" => format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(2 << 20)),
        "/short" => "HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\nx".to_owned(),
        "/silent" => return std::future::pending().await,
        "/garbage" => "SSH-2.0-x\r\n\r\n".to_owned(),
        _ => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
    };
    // who hangs up has seen enough
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// A server on loopback; its URL.
async fn server(tls: Option<TlsAcceptor>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let base = format!("{scheme}://{}", listener.local_addr().unwrap());
    let url = base.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (base, tls) = (base.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => answer(stream, &base).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            answer(stream, &base).await;
                        }
                    }
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn documents_are_fetched_within_bounds() {
    let base = server(None).await;
    let fetch = fetch(&["127.0.0.0/8"], "");
    for path in ["/keys?a=b", "/relative", "/absolute"] {
        assert_eq!(fetch.get(&format!("{base}{path}"), TIME).await.unwrap(), "keys", "{path}");
    }
    let failed = async |path: &str| fetch.get(&format!("{base}{path}"), TIME).await.unwrap_err();
    assert!(matches!(failed("/none").await, FetchError::Status(s) if s == 404));
    assert!(matches!(failed("/inward").await, FetchError::Local(_)));
    assert!(matches!(failed("/file").await, FetchError::Target(_)));
    assert!(matches!(failed("/loop").await, FetchError::Redirects));
    assert!(matches!(failed("/large").await, FetchError::Body));
    assert!(matches!(failed("/short").await, FetchError::Body));
    assert!(matches!(failed("/garbage").await, FetchError::Http(_)));
    let late = fetch.get(&format!("{base}/silent"), Duration::from_millis(50)).await;
    assert!(matches!(late, Err(FetchError::Time(_))), "{late:?}");
}

#[tokio::test]
async fn local_addresses_are_not_connected_to() {
    let base = server(None).await;
    let url = format!("{base}/keys?a=b");
    assert!(matches!(fetch(&[], "").get(&url, TIME).await, Err(FetchError::Local(_))));
    let other = fetch(&["169.254.0.0/16", "::1/128"], "").get(&url, TIME).await;
    assert!(matches!(other, Err(FetchError::Local(_))), "{other:?}");
    // by a name, too: what it resolves to counts
    let named = url.replace("127.0.0.1", "localhost");
    let by_name = fetch(&[], "").get(&named, TIME).await;
    assert!(matches!(by_name, Err(FetchError::Local(_) | FetchError::Name(_))), "{by_name:?}");
    let mapped = url.replace("127.0.0.1", "[::ffff:127.0.0.1]");
    assert!(matches!(fetch(&[], "").get(&mapped, TIME).await, Err(FetchError::Local(_))));
}

#[tokio::test]
async fn servers_are_verified() {
    crate::tls::install_provider();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&leaf_key, &issuer).unwrap();
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], private)
        .unwrap();
    let base = server(Some(TlsAcceptor::from(Arc::new(config)))).await;
    let url = format!("{base}/keys?a=b");
    let net = ["127.0.0.0/8"];
    assert_eq!(fetch(&net, &root.pem()).get(&url, TIME).await.unwrap(), "keys");
    assert!(matches!(fetch(&net, "").get(&url, TIME).await, Err(FetchError::Tls(_))));
    let elsewhere = url.replace("127.0.0.1", "127.0.0.2");
    let refused = fetch(&net, &root.pem()).get(&elsewhere, TIME).await;
    assert!(matches!(refused, Err(FetchError::Tls(_) | FetchError::Connect(..))), "{refused:?}");
}

#[test]
fn authorities_must_be_certificates() {
    let with = |roots: &str| {
        let roots = roots.as_bytes().to_vec();
        HttpFetch::new(&KeyFetching { roots, ..KeyFetching::default() }).err()
    };
    assert_eq!(with(""), None);
    assert_eq!(with("no PEM"), Some(InvalidRoots::Empty));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(with(broken), Some(InvalidRoots::Certificate(_))));
}
