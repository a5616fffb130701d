use crate::support::*;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tidegate_model::{
    Action, Diagnostic, FormatString, HeaderMatch, HeaderName, HeaderOp, Model, Origin, QueryMatch, Secret,
    Severity, StringMatch, ValueMatch,
};
use tidegate_proxy::{Options, Proxy, Report, StartError};

#[tokio::test]
async fn generation_and_readiness_follow_the_config() {
    let proxy = start();
    let (admin, status) = (proxy.admin_address(), proxy.status_address());
    let ready = async || get(status, "/healthz/ready").await.0;
    proxy.set_ready(true);
    assert_eq!(ready().await, 503, "no config yet");
    assert_eq!(get_json(admin, "/generation").await["live_since"], serde_json::Value::Null);
    proxy.apply(Model::default());
    assert_eq!(ready().await, 200);
    let generation = get_json(admin, "/generation").await;
    assert_eq!(generation["generation"], 1);
    let since = generation["live_since"].as_str().unwrap();
    assert!(since.ends_with('Z') && since.as_bytes()[10] == b'T', "{since}");
    proxy.set_ready(false);
    assert_eq!(ready().await, 503);
    assert_eq!(metric(&proxy, "tidegate_config_generation").await, 1);
}

#[tokio::test]
async fn config_and_table_show_everything_but_keys() {
    let proxy = start();
    let mut model = Model::default();
    secret(&mut model, "s", &["a.b"], &rcgen::PKCS_ECDSA_P256_SHA256);
    let broken = Secret { key: secret_key("broken"), ..(*model.secrets[&secret_key("s")]).clone() };
    let broken = Secret { certificate_chain: b"".as_slice().into(), ..broken };
    model.secrets.insert(broken.key.clone(), broken.into());
    tls(&mut model, key(2), &[("https.443", &["a.b"], &["s", "broken"])]);
    let table = plain(&mut model, key(1));
    host(&mut model, &table, "<b>.example.com", vec![respond("hello")]);
    proxy.apply(model);
    let said = Diagnostic {
        severity: Severity::Warning,
        origin: Origin { file: "a.yaml".into(), line: 3, column: 5 },
        object: None,
        field: "spec.<script>".into(),
        text: "odd".into(),
        advice: "do otherwise".into(),
        code: "odd-thing",
    };
    proxy.publish(Report {
        objects: Arc::new(|| vec![serde_json::json!({"kind": "Gateway"})]),
        restored: 1,
        diagnostics: vec![said],
        kept: Some(Arc::new(AtomicBool::new(false))),
    });
    let end = "tidegate_certificate_not_after_seconds{secret=\"test/s\"}";
    for (name, value) in [
        ("tidegate_config_diagnostics{severity=\"error\"}", 1),
        ("tidegate_config_diagnostics{severity=\"warning\"}", 1),
        ("tidegate_config_diagnostics{severity=\"note\"}", 0),
        // the last day that a certificate can say, which it has where nobody says another
        (end, 67_090_118_400),
        ("tidegate_listeners_failed", 0),
        ("tidegate_state_kept", 0),
    ] {
        assert_eq!(metric(&proxy, name).await, value, "{name}");
    }

    let config = get_json(proxy.admin_address(), "/config").await;
    assert_eq!(config["objects"][0]["kind"], "Gateway");
    let diagnostics = config["diagnostics"].as_array().unwrap();
    assert_eq!(diagnostics.len(), 2, "what was published, and what applying found: {diagnostics:?}");
    assert_eq!((&diagnostics[0]["file"], &diagnostics[0]["line"]), (&"a.yaml".into(), &3.into()));
    assert_eq!(diagnostics[1]["code"], "certificate-unusable");

    let table = get_json(proxy.admin_address(), "/config/table").await;
    assert_eq!(table["listening"].as_array().unwrap().len(), 2);
    assert_eq!(table["virtual_hosts"][0]["key"]["domain"], "<b>.example.com");
    for (path, expect) in [("/config", 200), ("/config/table", 200), ("/", 200), ("/style.css", 200)] {
        let (status, body) = get(proxy.admin_address(), path).await;
        assert_eq!(status, expect, "{path}");
        assert!(!body.contains("PRIVATE KEY") && !body.contains("BEGIN"), "{path} shows key material");
        assert!(!body.contains("<script>") || path != "/", "{path} is not escaped");
    }
    let page = get(proxy.admin_address(), "/").await.1;
    assert!(page.contains("spec.&lt;script&gt;") && page.contains("Generation 1"), "{page}");
}

#[tokio::test]
async fn credentials_in_rules_are_not_shown() {
    let proxy = start();
    let mut model = Model::default();
    let table = plain(&mut model, key(1));
    let mut route = respond("hello");
    let secret = |s: &str| ValueMatch::Value(StringMatch::Exact(s.into()));
    for (name, value) in [("authorization", "Bearer s3cret"), ("x-user", "jason")] {
        route.matches.headers.push(HeaderMatch {
            name: HeaderName::new(name),
            value: secret(value),
            invert: false,
        });
    }
    route.matches.query.push(QueryMatch { name: "access_token".into(), value: secret("s3cret") });
    if let Action::DirectResponse(response) = Arc::make_mut(&mut route.action) {
        let set = |name, value| HeaderOp::Set(HeaderName::new(name), FormatString::parse(value).unwrap());
        response.response_headers = vec![set("set-cookie", "s3cret"), set("x-a", "b")];
    }
    host(&mut model, &table, "a.b", vec![route]);
    proxy.apply(model);
    let (_, body) = get(proxy.admin_address(), "/config/table").await;
    assert!(!body.contains("s3cret"), "{body}");
    let shown = get_json(proxy.admin_address(), "/config/table").await;
    let route = &shown["virtual_hosts"][0]["routes"][0];
    assert_eq!(
        route["matches"]["headers"],
        serde_json::json!([
            {"name": "authorization", "value": {"value": {"exact": "(hidden)"}}, "invert": false},
            {"name": "x-user", "value": {"value": {"exact": "jason"}}, "invert": false},
        ])
    );
    assert_eq!(
        route["action"]["direct_response"]["response_headers"],
        serde_json::json!([{"set": ["set-cookie", "(hidden)"]}, {"set": ["x-a", "b"]}])
    );
}

#[tokio::test]
async fn explain_answers_or_says_what_is_wrong() {
    let proxy = start();
    let admin = proxy.admin_address();
    let answer = get_json(admin, "/explain?method=PUT&url=http://a.b/c&header=x:y&header=z:1").await;
    assert_eq!((&answer["method"], &answer["url"]), (&"PUT".into(), &"http://a.b/c".into()));
    assert_eq!(answer["headers"], serde_json::json!([["x", "y"], ["z", "1"]]));
    for query in ["", "?url=bad", "?url=http://a/&header=nocolon", "?url=http://a/&hedaer=a:b"] {
        let (status, body) = get(admin, &format!("/explain{query}")).await;
        assert_eq!(status, 400, "{query}");
        assert!(body.contains("\"error\""), "{query}: {body}");
    }
}

#[tokio::test]
async fn strangers_and_writers_are_refused() {
    let proxy = start();
    let (admin, status) = (proxy.admin_address(), proxy.status_address());
    let port = admin.port();
    let cases: [(&str, String, u16); 8] = [
        ("GET", format!("Host: localhost:{port}"), 200),
        ("HEAD", format!("Host: 127.0.0.1:{port}"), 200),
        ("GET", "Host: rebound.example".into(), 403),
        ("GET", format!("Host: localhost:{port}\r\nOrigin: http://evil.example"), 403),
        ("GET", "X: y".into(), 403),
        ("POST", format!("Host: localhost:{port}\r\nContent-Length: 0"), 405),
        ("DELETE", format!("Host: localhost:{port}"), 405),
        ("OPTIONS", format!("Host: localhost:{port}"), 405),
    ];
    for (method, headers, expect) in cases {
        let request = format!("{method} /generation HTTP/1.1\r\n{headers}\r\nConnection: close\r\n\r\n");
        let answer = exchange(admin, request.as_bytes()).await;
        assert_eq!(answer.get(9..12), Some(expect.to_string().as_str()), "{method} {headers}: {answer}");
        assert!(expect == 403 || answer.to_lowercase().contains("content-security-policy:"), "{answer}");
    }
    // Probes come by the pod's address or any name; they learn nothing but readiness and metrics.
    let request = "GET /stats/prometheus HTTP/1.1\r\nHost: pod.example\r\nConnection: close\r\n\r\n";
    assert!(exchange(status, request.as_bytes()).await.starts_with("HTTP/1.1 200"));
    assert_eq!(get(status, "/config").await.0, 404);
    let huge = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    assert!(exchange(admin, huge.as_bytes()).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn silent_connections_do_not_keep_probes_out() {
    let proxy = start();
    let status = proxy.status_address();
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(tokio::net::TcpStream::connect(status).await.unwrap());
    }
    assert_eq!(get(status, "/healthz/ready").await, (503, "not ready: no config is live yet\n".into()));
    assert_eq!(get(status, "/stats/prometheus").await.0, 200);
    // It was the first that had to go, and others stay.
    assert_eq!(read_to_end(&mut silent[0]).await, "");
    let last = silent.last_mut().unwrap();
    tokio::io::AsyncWriteExt::write_all(
        last,
        b"GET /healthz/ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    .await
    .unwrap();
    assert!(read_to_end(last).await.starts_with("HTTP/1.1 503"));
}

#[tokio::test]
async fn a_taken_admin_address_names_its_flag() {
    let proxy = start();
    let Err(e) = Proxy::start(Options { admin: proxy.admin_address(), ..options() }) else {
        panic!("started twice on one address")
    };
    assert!(matches!(e, StartError::Bind { .. }) && std::error::Error::source(&e).is_none());
    assert!(e.to_string().contains("--admin") && e.to_string().contains(&proxy.admin_address().to_string()));
}

/// The content of a body in chunks.
fn chunked(mut body: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let line = body.windows(2).position(|w| w == b"\r\n").unwrap();
        let size = usize::from_str_radix(str::from_utf8(&body[..line]).unwrap(), 16).unwrap();
        if size == 0 {
            return content;
        }
        content.extend_from_slice(&body[line + 2..][..size]);
        body = &body[line + 2 + size + 2..];
    }
}

fn inflated(gzip: &[u8]) -> String {
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(gzip), &mut text).unwrap();
    text
}

#[tokio::test]
async fn metrics_of_many_label_sets_are_streamed() {
    let proxy = start();
    let mut model = Model::default();
    let table = plain(&mut model, key(1));
    for status in 200..260 {
        let mut route = respond("");
        if let Action::DirectResponse(response) = Arc::make_mut(&mut route.action) {
            response.status = status;
        }
        host(&mut model, &table, &format!("{status}.b"), vec![route]);
    }
    proxy.apply(model);
    let mut client = tokio::net::TcpStream::connect(address(&proxy, key(1))).await.unwrap();
    for status in 200..260 {
        let last = if status == 259 { "Connection: close\r\n" } else { "" };
        let request = format!("HEAD / HTTP/1.1\r\nHost: {status}.b\r\n{last}\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut client, request.as_bytes()).await.unwrap();
    }
    assert_eq!(read_to_end(&mut client).await.matches("HTTP/1.1 2").count(), 60);
    eventually("all is counted and shown", async || {
        let text = get(proxy.status_address(), "/stats/prometheus").await.1;
        text.matches("\nistio_requests_total{").count() == 60
            && text.matches("\nistio_response_bytes_count{").count() == 60
            && text.contains("\ntidegate_config_generation 1\n")
            && text.ends_with("\r\n0\r\n\r\n")
    })
    .await;
    let status = proxy.status_address();
    let request = format!(
        "GET /stats/prometheus HTTP/1.1\r\nHost: {status}\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n"
    );
    let mut scraper = tokio::net::TcpStream::connect(status).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut scraper, request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut scraper, &mut answer).await.unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    assert!(head.contains("content-encoding: gzip\r\n"), "{head}");
    assert!(answer.len() < 300_000, "{} bytes", answer.len());
    let text = inflated(&chunked(&answer[end..]));
    assert_eq!(text.matches("\nistio_response_bytes_count{").count(), 60);
    assert!(text.contains("\ntidegate_config_generation 1\n"), "{text}");
}
