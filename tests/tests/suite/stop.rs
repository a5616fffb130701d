//! SIGTERM: what is in flight ends well, nothing new comes in, the process ends with 0.

use crate::reload::{Site, forward_to};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tidegate_tests::{
    Authority, Backend, Behaviour, Connection, Failure, Gateway, Net, Request, Start, Version, exchange,
    objects, websocket,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_request_in_flight_is_answered() -> Result<()> {
    const VERSIONS: [Version; 2] = [Version::Http11, Version::Http2];
    let (net, backend, site) = (Net::reserve()?, Backend::default(), Site::new()?);
    let workload = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
    backend.listen(workload).await?;
    let slow = Behaviour { delay: Some("3s".into()), ..Behaviour::default() };
    backend.begin(&slow, &BTreeMap::new());
    site.write("routes.yaml", &forward_to(&[workload]))?;
    let mut gateway = Start::with(site.path()).start(&net).await?;
    let in_flight = VERSIONS.map(|version| {
        let request = Request::to(gateway.at(8080)).version(version);
        tokio::spawn(async move { exchange(&request).await })
    });
    arrived(&backend, VERSIONS.len()).await;
    gateway.terminate()?;
    not_ready(&mut gateway).await;
    for (answer, version) in in_flight.into_iter().zip(VERSIONS) {
        let answer = answer.await?.with_context(|| format!("{version:?}"))?;
        assert_eq!(answer.status, 200, "{version:?}: {}", answer.text());
        assert!(Backend::id_of(&answer.headers).is_some(), "{version:?}: the workload answered");
    }
    assert_eq!(gateway.wait(Duration::from_secs(15)).await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn an_idle_connection_holds_nothing_up() -> Result<()> {
    let (net, backend, site) = (Net::reserve()?, Backend::default(), Site::new()?);
    let workload = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
    backend.listen(workload).await?;
    site.write("routes.yaml", &forward_to(&[workload]))?;
    let mut gateway = Start::with(site.path()).start(&net).await?;
    let request = Request::to(gateway.at(8080));
    let mut idle = Connection::open(&request).await?;
    assert_eq!(idle.send(&request).await?.status, 200);
    gateway.terminate()?;
    assert_eq!(gateway.wait(Duration::from_secs(10)).await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn http2_clients_get_goaway_and_tunnels_go_on_until_they_end() -> Result<()> {
    let (net, backend, site) = (Net::reserve()?, Backend::default(), Site::new()?);
    let workload = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
    backend.listen(workload).await?;
    site.write("routes.yaml", &forward_to(&[workload]))?;
    let mut gateway = Start::with(site.path()).start(&net).await?;
    let request = Request::to(gateway.at(8080)).version(Version::Http2);
    let mut two = Connection::open(&request).await?;
    assert_eq!(two.send(&request).await?.status, 200);
    let mut tunnel = echoing(gateway.at(8080)).await?;
    gateway.terminate()?;
    not_ready(&mut gateway).await;
    // GOAWAY may come before the request or with its answer; after it nothing is sent
    let patience = Instant::now() + Duration::from_secs(30);
    while two.send(&request).await.err() != Some(Failure::Goodbye) {
        ensure!(Instant::now() < patience, "no GOAWAY comes");
    }
    echo(&mut tunnel, b"still there").await?;
    assert!(gateway.ended().is_none(), "ended with a tunnel open: {}", gateway.said());
    drop(tunnel);
    assert_eq!(gateway.wait(Duration::from_secs(15)).await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn what_does_not_end_in_time_gets_its_goodbye_and_a_line_in_the_log() -> Result<()> {
    let (net, backend, site) = (Net::reserve()?, Backend::default(), Site::new()?);
    let workload = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
    backend.listen(workload).await?;
    site.write("gateway.yaml", &with_tls()?)?;
    site.write("routes.yaml", &forward_to(&[workload]))?;
    let mut gateway = Start::with(site.path()).arg("--drain-timeout").arg("1s").start(&net).await?;
    let mut silent = websocket(gateway.at(8080), "a.example").await?;
    let mut tunnel = echoing(gateway.at(8080)).await?;
    backend.begin(&Behaviour { delay: Some("1h".into()), ..Behaviour::default() }, &BTreeMap::new());
    let (plain, tls) = (Request::to(gateway.at(8080)), Request::to(gateway.at(8443)));
    let two = tls.clone().version(Version::Http2).tls("a.example");
    let stuck = [plain.path("/plain"), tls.tls("a.example").path("/tls"), two.path("/h2")];
    let in_flight = stuck.map(|request| tokio::spawn(async move { exchange(&request).await }));
    arrived(&backend, 3).await;
    gateway.terminate()?;
    let begun = Instant::now();
    // the ends that each protocol has: FIN, close_notify, RST_STREAM
    let ends = ["no whole answer", "no whole answer", "stream no longer needed"];
    for (waits, end) in in_flight.into_iter().zip(ends) {
        let Err(Failure::Closed(why)) = waits.await? else { panic!("nothing answered that request") };
        assert!(why.contains(end), "{why:?} instead of {end:?}");
    }
    assert!(begun.elapsed() >= Duration::from_millis(900), "it did not wait: {:?}", begun.elapsed());
    assert_eq!(tunnel.read(&mut [0]).await?, 0, "a tunnel is closed, not reset");
    let mut goodbye = Vec::new();
    silent.read_to_end(&mut goodbye).await?;
    assert_eq!(goodbye, [0x88, 2, 0x03, 0xe9], "Close, 1001");
    assert_eq!(gateway.wait(Duration::from_secs(15)).await?.code(), Some(0));
    for (path, status) in [("/plain", 0), ("/tls", 0), ("/h2", 0), ("/ws", 101)] {
        let mine = |l: &str| l.contains(&format!("\"path\":\"{path}\""));
        let line = gateway.log.find(0, Duration::from_secs(30), mine).await;
        let line: serde_json::Value =
            serde_json::from_str(&line.with_context(|| format!("{path} is not logged"))?)?;
        let said = (&line["response_code"], &line["response_flags"], &line["response_code_details"]);
        assert_eq!(said, (&status.into(), &"LR".into(), &"drain_timeout".into()), "{line}");
    }
    Ok(())
}

#[tokio::test]
async fn a_stop_goes_on_accepting_for_its_delay_and_another_one_cuts_and_logs() -> Result<()> {
    let (net, backend, site) = (Net::reserve()?, Backend::default(), Site::new()?);
    let workload = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
    backend.listen(workload).await?;
    site.write("routes.yaml", &forward_to(&[workload]))?;
    let long = ["--drain-delay", "1h", "--drain-timeout", "1h"];
    let start = long.iter().fold(Start::with(site.path()), |start, argument| start.arg(argument));
    let mut gateway = start.start(&net).await?;
    let one = Request::to(gateway.at(8080)).version(Version::Http11);
    let two = one.clone().version(Version::Http2);
    let mut kept = Connection::open(&two).await?;
    assert_eq!(kept.send(&two).await?.status, 200);
    gateway.signal("QUIT")?;
    not_ready(&mut gateway).await;
    let answer = exchange(&one).await?;
    let closes = answer.headers.iter().any(|(name, value)| name == "connection" && value == "close");
    assert!(answer.status == 200 && closes, "a new client is served and goes elsewhere then: {answer:?}");
    assert_eq!(kept.send(&two).await?.status, 200, "connections of HTTP/2 go on");

    backend.begin(&Behaviour { delay: Some("1h".into()), ..Behaviour::default() }, &BTreeMap::new());
    let request = one.path("/stuck");
    let stuck = tokio::spawn(async move { exchange(&request).await });
    arrived(&backend, 1).await;
    gateway.terminate()?;
    assert!(stuck.await?.is_err(), "nothing answered that request");
    assert_eq!(gateway.wait(Duration::from_secs(60)).await?.code(), Some(1));
    let line = gateway.log.find(0, Duration::from_secs(30), |l| l.contains("\"path\":\"/stuck\"")).await;
    assert!(line.context("it is not logged")?.contains("drain_timeout"));
    Ok(())
}

/// A Gateway on port 8080 in plaintext and on port 8443 with TLS, with its certificate.
pub(crate) fn with_tls() -> Result<String> {
    let identity = Authority::new("stop")?.issue("site", &["a.example".to_owned()])?;
    Ok([objects::gateway("site", [8080, 8443]), objects::secret("site", &identity)].join("---\n"))
}

/// A WebSocket at the path `/ws` whose other end sends back what comes, after one round that is no
/// frame.
async fn echoing(to: SocketAddr) -> Result<TcpStream> {
    let mut stream = websocket(to, "a.example").await?;
    echo(&mut stream, b"hello").await?;
    Ok(stream)
}

/// Sends bytes, and reads them back.
async fn echo(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes).await?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).await?;
    ensure!(back == bytes, "{back:?} came back");
    Ok(())
}

/// Waits until readiness fails.
async fn not_ready(gateway: &mut Gateway) {
    let patience = Instant::now() + Duration::from_secs(30);
    while gateway.readiness().await != Some(503) {
        assert!(gateway.ended().is_none(), "it ended: {}", gateway.said());
        assert!(Instant::now() < patience, "readiness does not say that it drains");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the workload has so many requests.
async fn arrived(backend: &Backend, requests: usize) {
    let patience = Instant::now() + Duration::from_secs(15);
    while backend.hits().len() < requests {
        assert!(Instant::now() < patience, "the requests do not reach the workload");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
