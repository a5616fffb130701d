//! Metrics as Prometheus' own tool sees them, and spans as the mesh config asks for them.

use crate::reload::{Site, forward_to};
use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tidegate_tests::{Backend, Net, Request, Start, exchange, get, workspace};

/// What there is to say about a scrape: nothing but that Istio's own names are not in base units.
fn promtool(scrape: &[u8]) -> Result<Vec<String>> {
    let mut tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("promtool cannot be started; it is in Debian's package prometheus")?;
    tool.stdin.take().context("no stdin")?.write_all(scrape)?;
    let out = tool.wait_with_output()?;
    let said = String::from_utf8(out.stderr)? + std::str::from_utf8(&out.stdout)?;
    Ok(said.lines().map(str::to_owned).collect())
}

#[tokio::test]
async fn prometheus_finds_no_fault_with_the_metrics() -> Result<()> {
    let net = Net::reserve()?;
    let gateway = Start::with(workspace().join("deploy/samples/bookinfo")).arg("--echo").start(&net).await?;
    for (host, path) in [("shop.example", "/productpage"), ("nowhere.example", "/")] {
        get(gateway.at(8080), host, path).await?;
    }
    // a request is counted when its answer has gone
    let names = ["istio_requests_total{", "istio_request_bytes_bucket{", "istio_response_bytes_bucket{"];
    let patience = Instant::now() + Duration::from_secs(30);
    let text = loop {
        let text = get(gateway.status(), "status", "/stats/prometheus").await?.text();
        if names.iter().all(|name| text.contains(name)) {
            break text;
        }
        ensure!(Instant::now() < patience, "{names:?} are not all in {text}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let lint = "istio_request_duration_milliseconds use base unit \"seconds\" instead of \"milliseconds\"";
    assert_eq!(promtool(text.as_bytes())?, [lint]);
    let wrong = promtool(b"# TYPE things counter\nthings 1\n")?;
    assert!(wrong.len() >= 2, "it finds what is wrong: {wrong:?}");
    Ok(())
}

/// The config of a collector at this address, which is the provider `otel`.
fn collector_at(collector: SocketAddr) -> String {
    let mut text =
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: collector}\nspec:\n\
        \x20 hosts: [collector.example]\n  resolution: STATIC\n\
        \x20 ports: [{number: 4318, name: http, protocol: HTTP}]\n"
            .to_owned();
    text += &format!("  endpoints: [{{address: {}}}]\n", collector.ip());
    text += "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n";
    text += "data:\n  mesh: |\n    defaultProviders: {tracing: [otel]}\n    extensionProviders:\n    - name: otel\n";
    text += "      opentelemetry: {service: collector.example, port: 4318, http: {path: /v1/traces}}\n";
    text
}

#[tokio::test]
async fn requests_are_traced_as_mesh_config_and_telemetries_say() -> Result<()> {
    let (net, backend, site) = (Net::reserve()?, Backend::default(), Site::new()?);
    let workload = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
    let collector = SocketAddr::new(IpAddr::V4(net.next()?), 4318);
    backend.listen(workload).await?;
    backend.listen(collector).await?;
    let mut text = forward_to(&[workload]) + &collector_at(collector);
    text += "---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: t, namespace: istio-system}\n";
    text += "spec:\n  tracing:\n  - randomSamplingPercentage: 100\n";
    text += "    customTags: {user: {header: {name: x-user, defaultValue: nobody}}}\n";
    site.write("routes.yaml", &text)?;
    let gateway = Start::with(site.path()).start(&net).await?;
    let at = |at| backend.hits().into_iter().filter(|hit| hit.at == at).collect::<Vec<_>>();
    let (trace, parent) = ("80f198ee56343ba864fe8b2a57d3eff7", "e457b5a2e4d86bd1");
    let request = Request::to(gateway.at(8080)).host("a.example").path("/traced").header("x-user", "ann");
    let request = request.header("x-b3-traceid", trace).header("x-b3-spanid", parent);
    exchange(&request.header("b3", "not one")).await?;
    let served = at(workload);
    let value = |name: &str| served.first()?.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let traceparent = value("traceparent").context("the workload is told no trace")?;
    let parts: Vec<_> = traceparent.split('-').collect();
    assert_eq!((parts[1], parts[3]), (trace, "01"), "{traceparent}");
    assert_eq!(value("x-b3-traceid").as_deref(), Some(trace));
    assert_eq!(value("x-b3-spanid").as_deref(), Some(parts[2]));
    assert_eq!(value("x-b3-sampled").as_deref(), Some("1"));
    assert_eq!(value("b3"), None, "what is malformed goes nowhere");
    let above = value("x-b3-parentspanid").context("no parent")?;
    assert!(above != parent && above != parts[2], "the gateway's own span is between: {above}");
    let patience = Instant::now() + Duration::from_secs(30);
    let sent = || at(collector).into_iter().map(|hit| hit.body).collect::<String>();
    let id = value("x-request-id").context("no id")?;
    let router = "router outbound|80||workloads.example egress";
    let wanted = ["workloads.example:80/*", router, &id, "user", "ann"];
    while wanted.iter().any(|text| !sent().contains(text)) {
        assert!(Instant::now() < patience, "no such spans came: {:?} {}", sent(), gateway.said());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let hit = &at(collector)[0];
    assert_eq!((&*hit.method, &*hit.path), ("POST", "/v1/traces"));
    Ok(())
}
