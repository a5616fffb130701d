//! The access log, in text and in JSON.

use crate::reload::{Site, forward_to};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};
use tidegate_tests::{Backend, Gateway, Net, Request, Start, exchange, get, workspace};

/// How soon a line must be there.
const SOON: Duration = Duration::from_millis(400);

const FIELDS: [&str; 21] = [
    "start_time",
    "method",
    "path",
    "protocol",
    "response_code",
    "response_flags",
    "response_code_details",
    "bytes_received",
    "bytes_sent",
    "duration",
    "upstream_service_time",
    "x_forwarded_for",
    "user_agent",
    "request_id",
    "authority",
    "upstream_host",
    "upstream_cluster",
    "upstream_local_address",
    "downstream_local_address",
    "downstream_remote_address",
    "requested_server_name",
];

async fn logged(gateway: &Gateway, path: &str) -> Result<Value> {
    let is_it = |l: &str| serde_json::from_str::<Value>(l).is_ok_and(|v| v["path"] == path);
    let line = gateway.log.find(0, SOON, is_it).await;
    let line = line.with_context(|| format!("no line for {path}: {}", gateway.log.tail()))?;
    Ok(serde_json::from_str(&line)?)
}

#[tokio::test]
async fn json_has_istios_fields() -> Result<()> {
    let net = Net::reserve()?;
    let gateway = Start::with(workspace().join("deploy/samples/bookinfo")).arg("--echo").start(&net).await?;
    let mut request =
        Request::to(gateway.at(8443)).host("bookinfo.example.com").path("/catalog/7?q=1").method("POST");
    request = request.header("user-agent", "a \"test\"").tls("bookinfo.example.com");
    request.body = Some(b"12345".to_vec());
    let answer = exchange(&request).await?;
    let line = logged(&gateway, "/catalog/7?q=1").await?;
    for field in FIELDS.iter().chain(&["route_name"]) {
        assert!(line.get(*field).is_some(), "no {field} in {line}");
    }
    for (field, want) in [
        ("method", "POST"),
        ("protocol", "HTTP/1.1"),
        ("response_flags", "-"),
        ("user_agent", "a \"test\""),
        ("authority", "bookinfo.example.com"),
        ("requested_server_name", "bookinfo.example.com"),
        ("route_name", "catalog-is-details"),
    ] {
        assert_eq!(line[field], want, "{field} in {line}");
    }
    assert_eq!(line["response_code"], 200, "{line}");
    assert_eq!(line["bytes_received"], 5, "{line}");
    assert_eq!(line["bytes_sent"], answer.body.len(), "{line}");
    assert!(
        line["upstream_cluster"].as_str().is_some_and(|c| c.contains("details.default.svc.cluster.local")),
        "{line}"
    );
    assert!(line["upstream_host"].as_str().is_some_and(|a| a.parse::<SocketAddr>().is_ok()), "{line}");
    Ok(())
}

#[tokio::test]
async fn text_is_istios_default_format() -> Result<()> {
    let net = Net::reserve()?;
    let start = Start::with(workspace().join("deploy/samples/bookinfo")).arg("--echo").access_log("text");
    let gateway = start.start(&net).await?;
    let request = Request::to(gateway.at(8080)).host("shop.example").path("/productpage");
    exchange(&request.header("user-agent", "tester")).await?;
    let line = gateway.log.find(0, SOON, |l| l.contains("/productpage")).await.context("no line")?;
    assert!(line.starts_with("[20"), "{line}");
    assert!(line.contains("Z] \"GET /productpage HTTP/1.1\" 200 - via_upstream - \"-\" 0 "), "{line}");
    assert!(line.contains("\"tester\"") && line.contains("\"shop.example\""), "{line}");
    assert!(line.contains("outbound|9080||productpage.default.svc.cluster.local"), "{line}");
    Ok(())
}

/// Waits until a file has so many lines.
async fn lines(path: &Path, count: usize) -> Result<Vec<String>> {
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        if lines.len() >= count {
            return Ok(lines);
        }
        ensure!(Instant::now() < patience, "{} lines in {}: {text}", lines.len(), path.display());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_file_in_the_mesh_configs_format_is_opened_again_by_a_signal() -> Result<()> {
    let (net, backend, site, folder) =
        (Net::reserve()?, Backend::default(), Site::new()?, tempfile::tempdir()?);
    let workload = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
    backend.listen(workload).await?;
    let [file, renamed] = ["log", "log.1"].map(|name| folder.path().join(name));
    let mut text = forward_to(&[workload]);
    text += "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n";
    text += "    accessLogFormat: \"%REQ_WITHOUT_QUERY(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS_LONG% %DOWNSTREAM_TLS_CIPHER% \\\n";
    text += "      %CONNECTION_ID% %START_TIME(%Y)%\\n\"\n    extensionProviders:\n";
    text += &format!("    - {{name: envoy, envoyFileAccessLog: {{path: {}}}}}\n", file.display());
    text += "---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: log, namespace: istio-system}\nspec:\n";
    text += "  accessLogging:\n  - providers: [{name: envoy}]\n";
    text += "    filter: {expression: \"request.url_path != '/quiet' && response.code < 500\"}\n";
    site.write("routes.yaml", &text)?;
    let gateway = Start::with(site.path()).access_log_of_config().start(&net).await?;
    get(gateway.at(8080), "a.example", "/quiet").await?;
    get(gateway.at(8080), "a.example", "/one?q=1").await?;
    let first = lines(&file, 1).await?;
    let words: Vec<_> = first[0].split(' ').collect();
    assert_eq!(words[..4], ["/one", "200", "-", "-"], "{first:?}");
    assert!(words[4].parse::<u64>().is_ok_and(|id| id > 0) && words[5].starts_with("20"), "{first:?}");
    std::fs::rename(&file, &renamed)?;
    gateway.signal("USR1")?;
    let said = gateway.messages.find(0, Duration::from_secs(30), |l| l.contains("SIGUSR1")).await;
    let said = said.with_context(|| format!("nothing was said: {}", gateway.said()))?;
    assert!(said.contains("the access log is opened again"), "{said}");
    get(gateway.at(8080), "a.example", "/two").await?;
    assert!(lines(&file, 1).await?[0].starts_with("/two "));
    assert_eq!(lines(&renamed, 1).await?, first);
    assert_eq!(gateway.generation().await?, 1, "the config was not read again");
    Ok(())
}

#[tokio::test]
async fn off_means_silence() -> Result<()> {
    let net = Net::reserve()?;
    let start = Start::with(workspace().join("deploy/samples/bookinfo")).arg("--echo").access_log("off");
    let gateway = start.start(&net).await?;
    get(gateway.at(8080), "a", "/productpage").await?;
    assert!(gateway.log.find(0, SOON, |_| true).await.is_none(), "{}", gateway.log.tail());
    Ok(())
}

#[tokio::test]
async fn flags_say_who_is_at_fault() -> Result<()> {
    let (net, backend, site) = (Net::reserve()?, Backend::default(), Site::new()?);
    let closed = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
    let open = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
    backend.listen(open).await?;
    let mut text = forward_to(&[open]).replacen(
        "  - route:",
        concat!(
            "  - match: [{uri: {prefix: /refused}}]\n    route: [{destination: {host: closed.example}}]\n",
            "  - match: [{uri: {prefix: /empty}}]\n    route: [{destination: {host: empty}}]\n",
            "  - match: [{uri: {prefix: /dangling}}]\n    route: [{destination: {host: nowhere}}]\n",
            "  - match: [{uri: {prefix: /fine}}]\n    route:",
        ),
        1,
    );
    text += "---\napiVersion: v1\nkind: Service\nmetadata: {name: empty}\nspec:\n";
    text += "  selector: {app: empty}\n  ports: [{name: http, port: 80}]\n";
    text += "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: closed}\nspec:\n";
    text += "  hosts: [closed.example]\n  resolution: STATIC\n  ports: [{number: 80, name: http, protocol: HTTP}]\n";
    text += &format!("  endpoints: [{{address: {}, ports: {{http: {}}}}}]\n", closed.ip(), closed.port());
    site.write("routes.yaml", &text)?;
    let gateway = Start::with(site.path()).start(&net).await?;
    for (path, status, flag) in [
        ("/fine", 200, "-"),
        ("/other", 404, "NR"),
        ("/empty", 503, "UH"),
        ("/refused", 503, "UF"),
        ("/dangling", 503, "NC"),
    ] {
        assert_eq!(get(gateway.at(8080), "a.example", path).await?.status, status, "{path}");
        let line = logged(&gateway, path).await?;
        let flags = line["response_flags"].as_str().unwrap_or_default();
        assert!(flags.split(',').any(|f| f == flag), "{path}: {line}");
        assert!(line["response_code_details"].as_str().is_some_and(|d| d.len() > 1), "{path}: {line}");
    }
    Ok(())
}
