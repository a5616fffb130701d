//! The admin pages, and `explain` beside them.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tidegate_tests::{Gateway, Net, Request, Start, check, exchange, get, workspace};

fn sample() -> PathBuf {
    workspace().join("deploy/samples/bookinfo")
}

async fn start(net: &Net) -> Result<Gateway> {
    Start::with(sample()).arg("--echo").start(net).await
}

/// Keeps letters and digits, escapes the rest.
fn escaped(text: &str) -> String {
    let escape =
        |b: u8| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(escape).collect()
}

fn explain_page(url: &str, header: Option<&str>) -> String {
    let header = header.map(|h| format!("&header={}", escaped(h))).unwrap_or_default();
    format!("/explain?method=GET&url={}{header}", escaped(url))
}

fn explain_command(url: &str, header: Option<&str>) -> Result<Value> {
    let sample = sample();
    let mut arguments = vec!["explain".into(), "--echo".into(), "GET".into(), url.to_owned()];
    if let Some(header) = header {
        arguments.extend(["-H".into(), header.to_owned()]);
    }
    arguments.extend(["-o".into(), "json".into(), "--config".into(), sample.display().to_string()]);
    let out = check(&arguments)?;
    ensure!(out.status.success(), "explain: {} {}", out.status, String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).context("explain said no JSON")
}

#[tokio::test]
async fn pages_have_their_shapes() -> Result<()> {
    let net = Net::reserve()?;
    let gateway = start(&net).await?;
    let generation = gateway.page("/generation").await?;
    assert!(generation["generation"].is_u64() && !generation["live_since"].is_null(), "{generation}");
    let config = gateway.page("/config").await?;
    assert_eq!(config["generation"], generation["generation"]);
    assert!(config["diagnostics"].is_array(), "{config}");
    let objects = config["objects"].as_array().context("objects")?;
    assert!(!objects.is_empty());
    let table = gateway.page("/config/table").await?.to_string();
    for part in ["reviews", "productpage", "bookinfo.example.com", "8443"] {
        assert!(table.contains(part), "no {part} in {table}");
    }
    let stats =
        exchange(&Request::to(gateway.admin()).host("localhost:15000").path("/stats/prometheus")).await?;
    assert_eq!(stats.status, 200);
    Ok(())
}

#[tokio::test]
async fn requests_are_counted() -> Result<()> {
    let net = Net::reserve()?;
    let gateway = start(&net).await?;
    for _ in 0..3 {
        assert_eq!(get(gateway.at(8080), "a", "/productpage").await?.status, 200);
    }
    // a request is counted when its log line is written, which may be after its answer was read
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        let stats = get(gateway.status(), "a", "/stats/prometheus").await?.text();
        let line = |name: &str| {
            let mut lines = stats.lines().filter(|l| l.starts_with(name) && l.contains("productpage"));
            lines.next().unwrap_or_default()
        };
        let total = line("istio_requests_total");
        let counts = [total, line("istio_request_duration_milliseconds_count")];
        if counts.iter().all(|l| l.ends_with(" 3")) {
            assert!(total.contains("response_code=\"200\""), "{total}");
            return Ok(());
        }
        ensure!(Instant::now() < patience, "3 requests, but {counts:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn explain_agrees_with_what_is_served() -> Result<()> {
    let net = Net::reserve()?;
    let gateway = start(&net).await?;
    for (path, header, status, rule, subset) in [
        ("/reviews/1", Some("end-user: jason"), 200, Some(0), Some("v2")),
        ("/reviews/1", None, 200, Some(1), None),
        ("/catalog/7?q=1", None, 200, Some(2), Some("v1")),
        ("/", None, 302, Some(3), None),
        ("/hours", None, 200, Some(4), None),
        ("/productpage", None, 200, Some(5), None),
        ("/nowhere", None, 404, None, None),
    ] {
        let url = format!("http://shop.example:8080{path}");
        let page = gateway.page(&explain_page(&url, header)).await?;
        let command = explain_command(&url, header)?;
        for key in ["outcome", "status", "reason", "rule", "rewritten", "considered"] {
            assert_eq!(page[key], command[key], "{path} {key}");
        }
        let mut request = Request::to(gateway.at(8080)).host("shop.example:8080").path(path);
        request.headers.extend(header.and_then(|h| h.split_once(": ")).map(|(k, v)| (k.into(), v.into())));
        let served = exchange(&request).await?;
        assert_eq!(served.status, status, "{path}");
        assert_eq!(page["rule"]["index"].as_u64(), rule, "{path}: {page}");
        if page["outcome"] == "forward" {
            let arrived = served.json();
            assert_eq!(arrived["path"], page["rewritten"]["path"], "{path}: {page}");
            assert_eq!(arrived["authority"], page["rewritten"]["authority"], "{path}: {page}");
            if let Some(subset) = subset {
                assert_eq!(arrived["subset"], subset, "{path}");
                assert!(page["cluster"].to_string().contains(subset), "{path}: {page}");
            }
        } else {
            assert_eq!(page["status"], status, "{path}: {page}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn explain_says_why_others_lost() -> Result<()> {
    let net = Net::reserve()?;
    let gateway = start(&net).await?;
    let page = gateway.page(&explain_page("http://shop.example:8080/nowhere", None)).await?;
    assert_eq!((&page["outcome"], &page["status"]), (&"no_route".into(), &404.into()), "{page}");
    let considered = page["considered"].as_array().context("considered")?;
    assert!(!considered.is_empty(), "{page}");
    for one in considered {
        assert!(!one["rule"].is_null() && !one["lost_by"].is_null(), "{one}");
    }
    Ok(())
}

#[tokio::test]
async fn foreign_hosts_and_origins_are_refused() -> Result<()> {
    let net = Net::reserve()?;
    let gateway = start(&net).await?;
    let own = gateway.admin().to_string();
    let page = |host: &str| Request::to(gateway.admin()).path("/config").host(host);
    for request in [
        page("evil.example"),
        page("evil.example:15000"),
        page("127.0.0.1.evil.example"),
        page(&own).header("Origin", "http://evil.example"),
        page(&own).header("Origin", "null"),
    ] {
        let answer = exchange(&request).await?;
        assert!((400..500).contains(&answer.status), "{request:?} got {}", answer.status);
        assert!(!answer.text().contains("VirtualService"), "{request:?} got the config");
    }
    for request in
        [page(&own), page("localhost:15000"), page(&own).header("Origin", &format!("http://{own}"))]
    {
        assert_eq!(exchange(&request).await?.status, 200, "{request:?}");
    }
    Ok(())
}

#[tokio::test]
async fn no_private_key_is_ever_shown() -> Result<()> {
    let net = Net::reserve()?;
    let gateway = start(&net).await?;
    let secret: Value = serde_yaml::from_str(&std::fs::read_to_string(sample().join("certificate.yaml"))?)?;
    let encoded = secret["data"]["tls.key"].as_str().context("tls.key")?.to_owned();
    use base64::Engine as _;
    let pem = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(&encoded)?)?;
    let body = pem.lines().nth(1).context("a key in PEM")?;
    let mut shown = String::new();
    let explain = explain_page("http://shop.example:8080/", None);
    for path in ["/", "/generation", "/config", "/config/table", &explain, "/stats/prometheus"] {
        shown += &exchange(&Request::to(gateway.admin()).host("localhost").path(path)).await?.text();
    }
    let out = check(["--check".as_ref(), "--config".as_ref(), sample().as_os_str()])?;
    shown += &String::from_utf8_lossy(&[out.stdout, out.stderr].concat());
    shown += &gateway.messages.since(0).join("\n");
    shown += &gateway.log.since(0).join("\n");
    assert!(shown.contains("bookinfo-sample-certificate"), "the Secret itself is named");
    for (what, part) in [("the key", &encoded[..40]), ("the key", body), ("a key", "PRIVATE KEY")] {
        assert!(!shown.contains(part), "{what} is shown");
    }
    Ok(())
}
