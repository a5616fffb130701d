//! gRPC through the gateway, between Google's own client and server in Python: unary calls, streams
//! in either and in both directions, errors without messages, cancellation, deadlines.

use crate::reload::Site;
use anyhow::Result;
use std::path::Path;
use tidegate_tests::python::{Python, call};
use tidegate_tests::{Net, Start, get};

const CONFIG: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gateway}
spec:
  servers: [{port: {number: 8080, name: grpc, protocol: GRPC}, hosts: ['*']}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: routes}
spec:
  hosts: [peer.example, down.example]
  gateways: [gateway]
  http:
  - match: [{authority: {exact: down.example}}]
    route: [{destination: {host: down.example}}]
  - route: [{destination: {host: peer.example}}]
    # a server that is busy still counts streams that have ended, and refuses the next ones for that
    retries: {attempts: 20, retryOn: refused-stream}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: down}
spec:
  hosts: [down.example]
  resolution: STATIC
  ports: [{number: 80, name: grpc, protocol: GRPC}]
  endpoints: [{address: ADDRESS, ports: {grpc: 1}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: peer}
spec:
  hosts: [peer.example]
  resolution: STATIC
  ports: [{number: 80, name: grpc, protocol: GRPC}]
  endpoints: [{address: ADDRESS, ports: {grpc: 50051}}]
";

#[tokio::test]
async fn every_kind_of_call_goes_through() -> Result<()> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (net, site) = (Net::reserve()?, Site::new()?);
    let address = net.next()?.to_string();
    site.write("grpc.yaml", &CONFIG.replace("ADDRESS", &address))?;
    let _server = Python::serve(folder, "grpc_peers.py", &[&format!("{address}:50051")]).await?;
    let start = Start::with(site.path()).arg("--no-default-retry-budget");
    let gateway = start.start(&net).await?;
    call(folder, "grpc_peers.py", &[&gateway.at(8080).to_string(), "peer.example"]).await?;
    let metrics = get(gateway.status(), "localhost", "/stats/prometheus").await?.text();
    for (service, code, status) in [
        ("peer.example", "200", "0"),
        // NOT_FOUND and UNIMPLEMENTED of the server
        ("peer.example", "200", "5"),
        ("peer.example", "200", "12"),
        // of the gateway: no route, no connection
        ("unknown", "200", "12"),
        ("down.example", "200", "14"),
    ] {
        let counted = metrics.lines().any(|line| {
            line.starts_with("istio_requests_total{")
                && line.contains("request_protocol=\"grpc\"")
                && line.contains(&format!("destination_service=\"{service}\""))
                && line.contains(&format!("response_code=\"{code}\""))
                && line.contains(&format!("grpc_response_status=\"{status}\""))
        });
        assert!(counted, "{service} {code} {status} in {metrics}");
    }
    Ok(())
}
