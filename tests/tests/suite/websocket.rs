//! WebSocket through the gateway, between clients and servers in Python: over HTTP/1.1 (websockets)
//! and over HTTP/2 (Niquests to Hypercorn), in every pairing.

use crate::reload::Site;
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tidegate_tests::python::{Python, call};
use tidegate_tests::{Net, Start};

const CONFIG: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gateway}
spec:
  servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: routes}
spec:
  hosts: [http1.example, http2.example]
  gateways: [gateway]
  http:
  - match: [{authority: {exact: http2.example}}]
    route: [{destination: {host: http2.example}}]
  - route: [{destination: {host: http1.example}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: http1}
spec:
  hosts: [http1.example]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: ADDRESS, ports: {http: 9001}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: http2}
spec:
  hosts: [http2.example]
  resolution: STATIC
  ports: [{number: 80, name: http2, protocol: HTTP2}]
  endpoints: [{address: ADDRESS, ports: {http2: 9002}}]
";

#[tokio::test]
async fn ten_thousand_messages_go_both_ways() -> Result<()> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (net, site) = (Net::reserve()?, Site::new()?);
    let address = net.next()?.to_string();
    site.write("routes.yaml", &CONFIG.replace("ADDRESS", &address))?;
    let serve =
        async |version, port| Python::serve(folder, "websocket_peers.py", &[version, &address, port]).await;
    let _one = serve("http1", "9001").await?;
    let _two = serve("http2", "9002").await?;
    let gateway = Start::with(site.path()).start(&net).await?;
    let (host, port) = (gateway.at(8080).ip().to_string(), gateway.at(8080).port().to_string());
    for (from, to, messages) in [
        ("http1", "http1.example", "10000"),
        ("http2", "http1.example", "10000"),
        ("http1", "http2.example", "500"),
        ("http2", "http2.example", "500"),
    ] {
        let arguments = [from, &host, &port, to, messages];
        call(folder, "websocket_peers.py", &arguments).await.with_context(|| format!("{from} to {to}"))?;
        let protocol = if from == "http1" { "HTTP/1.1" } else { "HTTP/2" };
        let is_it = |line: &str| {
            serde_json::from_str::<Value>(line).is_ok_and(|line| {
                line["protocol"] == protocol
                    && line["authority"] == to
                    && line["method"] == "GET"
                    && line["response_code"] == 101
                    && line["bytes_sent"].as_u64() > Some(1000)
            })
        };
        let line = gateway.log.find(0, Duration::from_secs(10), is_it).await;
        line.with_context(|| format!("no line for {from} to {to}: {}", gateway.log.tail()))?;
    }
    Ok(())
}
