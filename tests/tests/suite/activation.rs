//! Sockets that the service manager made (sd_listen_fds(3)).

use crate::reload::Site;
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tidegate_tests::{Gateway, Net, Start, get, is_running, workspace};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a busy machine may take for what takes a moment.
const PATIENCE: Duration = Duration::from_secs(60);
const ROUTES: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: routes}\nspec:\n  \
                      hosts: [\"*\"]\n  gateways: [site]\n  http:\n  - directResponse: {status: 200, body: {string: one}}\n";

/// A Gateway with servers on these ports.
fn gateway(ports: &[u16]) -> String {
    let server =
        |port| format!("  - port: {{number: {port}, name: p{port}, protocol: HTTP}}\n    hosts: [\"*\"]\n");
    let servers: String = ports.iter().map(server).collect();
    let head = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: site}\nspec:\n";
    format!("{head}  selector: {{istio: ingressgateway}}\n  servers:\n{servers}")
}

/// The first line from `mark` on that has all of this.
async fn says(gateway: &Gateway, mark: usize, parts: &[&str]) -> Result<String> {
    let line =
        gateway.messages.find(mark, PATIENCE, |line| parts.iter().all(|part| line.contains(part))).await;
    line.with_context(|| format!("nothing is said with {parts:?}: {}", gateway.said()))
}

/// A connection on which a request was sent that nobody may have accepted yet.
async fn asks(at: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(at).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").await?;
    Ok(stream)
}

async fn is_answered(mut stream: TcpStream) -> Result<()> {
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.context("no answer")??;
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    Ok(())
}

#[tokio::test]
async fn sockets_of_the_service_manager_are_used_kept_and_passed_on() -> Result<()> {
    let (net, site, folder) = (Net::reserve()?, Site::new()?, tempfile::tempdir()?);
    site.replace("gateway.yaml", &gateway(&[8080]))?;
    site.write("routes.yaml", ROUTES)?;
    let address = net.gateway();
    let script = workspace().join("tests/files/python/activate.py").display().to_string();
    let mut under = vec!["python3".to_owned(), script];
    under.extend([8080, 8081, 15021].map(|port| format!("tcp:{address}:{port}")));
    under.extend([format!("udp:{address}:8080"), format!("unix:{}/socket", folder.path().display())]);
    under.push("--".into());
    let mut gateway_process = Start::with(site.path()).under(under).start(&net).await?;
    let gateway_at = |port| SocketAddr::from((address, port));

    // whoever else listened on these addresses would have been refused by the system
    ensure!(get(gateway_at(8080), "a.example", "/").await?.status == 200);
    for (parts, what) in [
        (&["\"number-3\"", "is closed here", "no TCP socket that listens"], "UDP"),
        (&["\"number-4\"", "is closed here", "no TCP socket that listens"], "UNIX"),
    ] {
        says(&gateway_process, 0, parts).await.context(what)?;
    }
    let kept = format!("{address}:8081 of the service manager is kept");
    says(&gateway_process, 0, &[&kept, "no Gateway listens there"]).await?;

    // who connects waits for a Gateway
    let waits = asks(gateway_at(8081)).await?;
    site.replace("gateway.yaml", &gateway(&[8080, 8081]))?;
    is_answered(waits).await.context("a listener comes")?;

    // what goes leaves the socket alone, over an upgrade too
    let mark = gateway_process.messages.count();
    site.replace("gateway.yaml", &gateway(&[8080]))?;
    says(&gateway_process, mark, &[&kept]).await?;
    wait_until_left(gateway_at(8081)).await?;
    let waits = asks(gateway_at(8081)).await?;
    let mark = gateway_process.messages.count();
    let old = gateway_process.upgrade().await?;
    let ended = Instant::now() + PATIENCE;
    while is_running(old) {
        ensure!(Instant::now() < ended, "the old process does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    says(&gateway_process, mark, &[&kept]).await.context("the new process does not know of it")?;
    let environment = std::fs::read(format!("/proc/{}/environ", gateway_process.id()))?;
    ensure!(!environment.windows(7).any(|w| w == b"LISTEN_"), "the new process sees the old one's variables");
    site.replace("gateway.yaml", &gateway(&[8080, 8081]))?;
    is_answered(waits).await.context("a listener comes after an upgrade")?;
    ensure!(get(gateway_at(8080), "a.example", "/").await?.status == 200);
    gateway_process.terminate()?;
    gateway_process.wait(PATIENCE).await?;
    Ok(())
}

/// Waits until nobody accepts at an address that is still listened on.
async fn wait_until_left(at: SocketAddr) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut stream = asks(at).await?;
        let mut answer = [0];
        let answered = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut answer)).await;
        if answered.is_err() {
            return Ok(());
        }
        ensure!(Instant::now() < end, "somebody still accepts at {at}");
    }
}
