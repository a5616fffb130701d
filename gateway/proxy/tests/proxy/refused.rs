//! What is refused before it is a request has a line in the access log, and is counted.

use crate::logged::{HEAD_TIME, start_logged};
use crate::support::*;
use crate::tls::{BOTH, client, connect};
use bytes::Bytes;
use http::Request;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tidegate_model::Model;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

async fn two(at: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let (send, connection) = h2::client::handshake(TcpStream::connect(at).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    send.ready().await.unwrap()
}

#[tokio::test]
async fn header_lists_that_are_too_large_are_requests_of_http2() {
    let (proxy, log) = start_logged();
    let mut model = Model::default();
    plain(&mut model, key(1));
    proxy.apply(model);
    let mut client = two(address(&proxy, key(1))).await;
    // with a body the stream is reset behind the answer
    for (bytes, end) in [(33_000, true), (33_000, false), (70_000, true)] {
        let request = Request::get("http://a.b/").header("x", "x".repeat(bytes)).body(()).unwrap();
        let (answer, _body) = client.send_request(request, end).unwrap();
        assert_eq!(answer.await.unwrap().status(), 431, "{bytes} bytes");
    }
    for line in log.lines(3).await {
        for (key, value) in [
            ("response_code", 431.into()),
            ("protocol", "HTTP/2".into()),
            ("response_flags", "DPE".into()),
            ("response_code_details", Value::from("header_list_too_large")),
        ] {
            assert_eq!(line[key], value, "{line}");
        }
    }
    let text = get(proxy.status_address(), "/stats/prometheus").await.1;
    let counted = text.lines().find(|l| l.starts_with("istio_requests_total{")).unwrap();
    assert!(counted.contains("response_code=\"431\"") && counted.ends_with(" 3"), "{counted}");
    assert!(!text.contains("tidegate_http2_refused_total{"), "{text}");
    let most = Request::get("http://a.b/").header("x", "x".repeat(140_000)).body(()).unwrap();
    client.send_request(most, true).unwrap().0.await.unwrap_err();
    let lines = log.lines(4).await;
    assert_eq!(lines[3]["response_code_details"], "http2.enhance_your_calm", "{lines:?}");
}

/// A client that trusts nobody.
fn suspicious() -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

#[tokio::test]
async fn connections_without_tls_are_logged_and_counted_by_reason() {
    let (proxy, log) = start_logged();
    let mut model = Model::default();
    secret(&mut model, "s", &["a.b"], &rcgen::PKCS_ECDSA_P256_SHA256);
    tls(&mut model, key(1), &[("https", &["a.b"], &["s"]), ("broken", &["broken.b"], &["missing"])]);
    proxy.apply(model);
    let at = address(&proxy, key(1));
    // a health check
    drop(TcpStream::connect(at).await.unwrap());
    for (n, (bytes, flags, said)) in [
        (&b"GET / HTTP/1.1\r\nHost: a.b\r\n\r\n"[..], "DPE", "the client does not speak TLS"),
        (b"\x16\x03\x01\x00\x04\x02\0\0\0", "DPE", "invalid ClientHello: "),
        (b"\x16\x03\x01\x00", "DC", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let line = log.lines(n + 1).await.remove(n);
        assert_eq!((&line["response_flags"], &line["protocol"]), (&flags.into(), &Value::Null), "{line}");
        let details = line["response_code_details"].as_str().unwrap();
        assert!(details.starts_with(&format!("tls_handshake_failed{{{said}")), "{line}");
    }
    for (n, (name, config, flags, said)) in [
        ("a.b", suspicious(), Some("DPE"), "received fatal alert: UnknownCA"),
        ("broken.b", Arc::new(client(&[], BOTH)), None, "the TLS server broken has no usable certificate"),
    ]
    .into_iter()
    .enumerate()
    {
        connect(at, name, config).await.unwrap_err();
        let line = log.lines(n + 4).await.remove(n + 3);
        assert_eq!(line["response_flags"].as_str(), flags.or(Some("-")), "{line}");
        assert_eq!(line["response_code_details"], format!("tls_handshake_failed{{{said}}}"));
        assert_eq!(line["requested_server_name"], name);
    }
    for reason in ["not_tls", "invalid_hello", "closed", "alert", "no_certificate"] {
        let name = format!("tidegate_tls_handshake_failures_total{{reason=\"{reason}\"}}");
        assert_eq!(metric(&proxy, &name).await, 1, "{reason}");
    }
}

#[tokio::test]
async fn what_is_refused_as_a_request_is_logged_as_far_as_it_came() {
    let (proxy, log) = start_logged();
    let mut model = Model::default();
    plain(&mut model, key(1));
    proxy.apply(model);
    let at = address(&proxy, key(1));
    let fields = "Host: a.b\r\nUser-Agent: some client\r\n";
    let long = format!("/{}", "x".repeat(10_000));
    for (n, (method, path, rest, status)) in [
        ("GET", "/a?b", "Expect: more\r\n\r\n", 417),
        ("GET", "/a\u{e9}", "\r\n", 400),
        ("CONNECT", "a.b:80", "\r\n", 405),
        ("GET", &*long, "\r\n", 414),
        // and no more
        ("GET", "/late", "X: ", 408),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = exchange(at, format!("{method} {path} HTTP/1.1\r\n{fields}{rest}").as_bytes()).await;
        assert_eq!(answer.get(9..12), Some(&*status.to_string()), "{answer}");
        let line = log.lines(n + 1).await.remove(n);
        assert_eq!((&line["response_code"], &line["method"]), (&status.into(), &method.into()), "{line}");
        let kept = if status == 414 { &path[..256] } else { path };
        assert_eq!((&line["path"], &line["authority"]), (&kept.into(), &"a.b".into()), "{line}");
        assert_eq!(line["user_agent"], "some client", "{line}");
        let took = Duration::from_millis(line["duration"].as_u64().unwrap());
        assert!(status != 408 || took >= HEAD_TIME, "{line}");
    }
    let request = Request::put("http://a.b/a").header("user-agent", "some client").header("host", "c.d");
    let mut client = two(at).await;
    let (answer, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 400);
    let line = log.lines(6).await.remove(5);
    assert_eq!((&line["method"], &line["path"]), (&"PUT".into(), &"/a".into()), "{line}");
    assert_eq!((&line["authority"], &line["user_agent"]), (&"a.b".into(), &"some client".into()), "{line}");
}
