//! WebSocket through the gateway, between a client and a server in Python.

use crate::reload::{Site, forward_to};
use anyhow::Result;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use tidegate_tests::python::{Python, call};
use tidegate_tests::{Net, Start};

#[tokio::test]
async fn ten_thousand_messages_go_both_ways() -> Result<()> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (net, site) = (Net::reserve()?, Site::new()?);
    let server = SocketAddr::new(IpAddr::V4(net.next()?), 9000);
    site.write("routes.yaml", &forward_to(&[server]))?;
    let (host, port) = (server.ip().to_string(), server.port().to_string());
    let _server = Python::serve(folder, "websocket_peers.py", &[&host, &port]).await?;
    let gateway = Start::with(site.path()).start(&net).await?;
    let at = gateway.at(8080);
    call(folder, "websocket_peers.py", &[&at.ip().to_string(), &at.port().to_string(), "a.example"]).await
}
