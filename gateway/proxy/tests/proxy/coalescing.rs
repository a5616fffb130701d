//! Which server's routes a request gets on a connection of another one, and which connections outlive a change of TLS.

use crate::clients::{Authority, terminated, verification};
use crate::requests::Client;
use crate::support::*;
use crate::tls::{BOTH, client, connect};
use http::Version;
use rcgen::PKCS_ECDSA_P256_SHA256;
use rustls::ClientConfig;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_model::*;

fn simple(secret: &str) -> TlsAction {
    TlsAction::Http(TlsTermination { certificates: vec![secret_key(secret)], ..TlsTermination::default() })
}

async fn open(at: SocketAddr, sni: &str, version: Version, config: &ClientConfig) -> Client {
    let mut config = config.clone();
    let alpn: &[u8] = if version == Version::HTTP_2 { b"h2" } else { b"http/1.1" };
    config.alpn_protocols = vec![alpn.to_vec()];
    Client::over(connect(at, sni, config.into()).await.unwrap(), version).await
}

/// Servers of which each answers with its name, and the authority of those that check clients.
fn servers() -> (Model, Authority) {
    let mut model = Model::default();
    secret(&mut model, "s", &["*.x"], &PKCS_ECDSA_P256_SHA256);
    secret(&mut model, "t", &["*.x"], &PKCS_ECDSA_P256_SHA256);
    let authority = Authority::new();
    authority.add(&mut model, "ca", None);
    let newer = TlsAction::Http(TlsTermination {
        certificates: vec![secret_key("s")],
        min_version: Some(TlsVersion::V1_3),
        ..TlsTermination::default()
    });
    let servers: Vec<(&str, &[&str], TlsAction)> = vec![
        ("a", &["a.x"], simple("s")),
        ("b", &["b.x"], simple("s")),
        ("wide", &["*.x"], simple("s")),
        ("other", &["other.x"], simple("t")),
        ("newer", &["newer.x"], newer),
        ("mutual", &["m.x"], terminated(verification("ca"))),
        ("mutual2", &["m2.x"], terminated(verification("ca"))),
        ("refused", &["refused.x"], TlsAction::Refuse("for this test".into())),
    ];
    for (table, hosts, _) in &servers {
        host(&mut model, &(*table).into(), hosts[0], vec![respond(table)]);
    }
    tls_actions(&mut model, key(1), servers);
    (model, authority)
}

#[tokio::test]
async fn a_request_for_another_server_is_served_where_the_same_tls_covers_it() {
    let proxy = start();
    let (model, authority) = servers();
    assert_eq!(proxy.apply(model).diagnostics.len(), 0);
    let at = address(&proxy, key(1));
    let known = authority.client(1, "one");
    let unknown = client(&[], BOTH);
    let nobody = 404;
    // SNI, whether the client has a certificate, authority, over HTTP/1.1, over HTTP/2
    for (sni, has, authority, one, two) in [
        ("a.x", false, "a.x", Ok("a"), Ok("a")),
        ("a.x", false, "A.X.:8443", Ok("a"), Ok("a")),
        ("a.x", false, "b.x", Err(nobody), Ok("b")),
        ("a.x", false, "B.x:443", Err(nobody), Ok("b")),
        ("a.x", false, "c.x", Err(nobody), Ok("wide")),
        ("a.x", false, "other.x", Err(nobody), Err(421)),
        ("a.x", false, "newer.x", Err(nobody), Err(421)),
        ("a.x", false, "refused.x", Err(nobody), Err(421)),
        ("a.x", false, "unknown.y", Err(nobody), Err(nobody)),
        ("a.x", false, "m.x", Err(nobody), Err(421)),
        // what a wider server has too is served by it over HTTP/1.1, but for what is behind a certificate
        ("c.x", false, "d.x", Ok("wide"), Ok("wide")),
        ("c.x", false, "a.x", Ok("wide"), Ok("a")),
        ("c.x", false, "other.x", Ok("wide"), Err(421)),
        ("c.x", false, "m.x", Err(nobody), Err(421)),
        ("c.x", false, "m.x.:443", Err(nobody), Err(421)),
        ("m.x", true, "m.x", Ok("mutual"), Ok("mutual")),
        ("m.x", true, "m2.x", Err(nobody), Ok("mutual2")),
        ("m.x", true, "a.x", Err(nobody), Err(421)),
    ] {
        let config = if has { &*known } else { &unknown };
        for (version, expected) in [(Version::HTTP_11, one), (Version::HTTP_2, two)] {
            let mut client = open(at, sni, version, config).await;
            let (status, body) = client.post_to("https", authority, "/", "").await.unwrap();
            match expected {
                Ok(server) => assert_eq!((status, &*body), (200, server), "{sni} {authority} {version:?}"),
                Err(error) => assert_eq!(status, error, "{sni} {authority} {version:?} {body}"),
            }
            // what a connection is not for does not end it
            let (status, _) = client.post_to("https", sni, "/", "").await.unwrap();
            assert_eq!(status, 200, "{sni} after {authority} {version:?}");
        }
    }
}

#[tokio::test]
async fn another_kind_of_tls_ends_the_connections_of_its_server_alone() {
    let proxy = start();
    let mut model = Model::default();
    secret(&mut model, "s", &["*.x"], &PKCS_ECDSA_P256_SHA256);
    let authority = Authority::new();
    authority.add(&mut model, "ca", None);
    tls_actions(&mut model, key(1), vec![("a", &["a.x"], simple("s")), ("b", &["b.x"], simple("s"))]);
    for table in ["a", "b"] {
        host(&mut model, &table.into(), "*", vec![respond(table)]);
    }
    proxy.apply(model.clone());
    let at = address(&proxy, key(1));
    let unknown = client(&[], BOTH);
    let mut connections = Vec::new();
    for sni in ["a.x", "b.x"] {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            connections.push((sni, version, open(at, sni, version, &unknown).await));
        }
    }
    // a certificate that is replaced ends nothing
    secret(&mut model, "s", &["*.x"], &PKCS_ECDSA_P256_SHA256);
    proxy.apply(model.clone());
    for (sni, version, client) in &mut connections {
        assert_eq!(client.post_to("https", sni, "/", "").await.unwrap().0, 200, "{sni} {version:?}");
    }
    let stricter = vec![("a", &["a.x"][..], terminated(verification("ca"))), ("b", &["b.x"], simple("s"))];
    tls_actions(&mut model, key(1), stricter);
    proxy.apply(model);
    let begun = Instant::now();
    for (sni, version, client) in &mut connections {
        if *sni == "b.x" {
            for _ in 0..3 {
                assert_eq!(client.post_to("https", sni, "/", "").await.unwrap().0, 200, "{version:?}");
            }
            continue;
        }
        // whatever is still answered is answered whole, and then it is over
        while let Ok((status, body)) = client.post_to("https", sni, "/", "").await {
            assert_eq!((status, &*body), (200, "a"), "{version:?}");
            assert!(begun.elapsed() < Duration::from_secs(30), "{version:?} goes on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    open(at, "a.x", Version::HTTP_11, &authority.client(1, "one")).await;
    let mut anonymous = connect(at, "a.x", Arc::new(unknown)).await.unwrap();
    assert_eq!(read_to_end(&mut anonymous).await, "", "it has no certificate");
}
