//! Connections that are no requests, and certificates that are files: from YAML to the wire.

use crate::reload::Site;
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tidegate_tests::{Authority, Backend, Connection, Gateway, Identity, Net, Request, Start, exchange};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn gateway(name: &str, server: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec:\n  selector: \
         {{istio: ingressgateway}}\n  servers:\n  - {server}\n"
    )
}

/// Waits until a server shows a certificate.
async fn shown(gateway: &Gateway, expected: &Identity) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    let request = Request::to(gateway.at(8443)).host("a.example").tls("a.example");
    loop {
        let answer = exchange(&request).await;
        if answer.as_ref().is_ok_and(|a| a.certificate.as_ref() == Some(&expected.der)) {
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "another certificate: {:?}; {}",
            answer.map(|a| a.status),
            gateway.said()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn certificates_in_files_are_followed_and_a_broken_one_changes_nothing() -> Result<()> {
    let (net, site) = (Net::reserve()?, Site::new()?);
    let keys = tempfile::tempdir()?;
    let path = |name: &str| keys.path().join(name);
    let authority = Authority::new("files")?;
    let issue = || authority.issue("a.example", &["a.example".to_owned()]);
    let write = |identity: &Identity| -> Result<()> {
        std::fs::write(path("cert.pem"), &identity.certificate)?;
        Ok(std::fs::write(path("key.pem"), &identity.key)?)
    };
    let (first, second) = (issue()?, issue()?);
    write(&first)?;
    let server = format!(
        "{{port: {{number: 8443, name: https, protocol: HTTPS}}, hosts: ['*'], tls: {{mode: SIMPLE, \
         serverCertificate: '{}', privateKey: '{}'}}}}",
        path("cert.pem").display(),
        path("key.pem").display()
    );
    site.write("files.yaml", &gateway("files", &server))?;
    let gateway = Start::with(site.path()).start(&net).await?;
    shown(&gateway, &first).await?;
    let generation = gateway.generation().await?;
    write(&second)?;
    shown(&gateway, &second).await?;
    // A certificate without its key is a change, and serves nobody.
    let generation = gateway.wait_for_generation_after(generation).await?;
    std::fs::write(path("cert.pem"), &first.certificate)?;
    gateway.wait_for_generation_after(generation).await?;
    shown(&gateway, &second).await?;
    let end = Instant::now() + Duration::from_secs(10);
    while !gateway.said().contains("the last good version keeps serving") {
        ensure!(Instant::now() < end, "{}", gateway.said());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_tcp_route_and_a_tls_route_are_served_and_explained() -> Result<()> {
    let (net, site) = (Net::reserve()?, Site::new()?);
    let backend = Backend::default();
    let at = SocketAddr::new(net.next()?.into(), 7000);
    backend.listen(at).await?;
    let mut text = gateway("tcp", "{port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}");
    text += &gateway(
        "tls",
        "{port: {number: 9443, name: tls, protocol: TLS}, hosts: ['*'], tls: {mode: PASSTHROUGH}}",
    );
    text += &format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: s}}\nspec:\n  hosts: \
         [s.example]\n  resolution: STATIC\n  ports: [{{number: 1, name: tcp, protocol: TCP}}]\n  endpoints: \
         [{{address: {}, ports: {{tcp: {}}}}}]\n",
        at.ip(),
        at.port()
    );
    text += "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec:\n  hosts: \
             ['*']\n  gateways: [tcp, tls]\n  tcp: [{route: [{destination: {host: s.example}}]}]\n  tls: [{match: \
             [{sniHosts: [a.example]}], route: [{destination: {host: s.example}}]}]\n";
    site.write("connections.yaml", &text)?;
    let gateway = Start::with(site.path()).start(&net).await?;
    let mut connection = Connection::open(&Request::to(gateway.at(9000))).await?;
    ensure!(connection.echo(b"no request\n").await? == b"no request\n");
    let page = gateway.page("/explain?method=GET&url=https://a.example:9443/").await?;
    ensure!(page["cluster"] == "outbound|1||s.example" && page["rule"]["section"] == "tls", "{page}");
    // Nothing answers what is not TLS, and nothing of it reaches the workload.
    let hits = backend.hits().len();
    let mut stream = TcpStream::connect(gateway.at(9443)).await?;
    stream.write_all(b"no TLS either\n").await?;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer))
        .await
        .context("open")?;
    ensure!(answer.is_empty() && backend.hits().len() == hits, "{answer:?}");
    Ok(())
}
