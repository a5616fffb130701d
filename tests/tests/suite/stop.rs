//! SIGTERM: what is in flight ends well, nothing new comes in, the process ends with 0.

use crate::reload::{Site, forward_to};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tidegate_tests::{Backend, Behaviour, Connection, Net, Request, Start, Version, exchange};

#[tokio::test]
async fn a_request_in_flight_is_answered() -> Result<()> {
    for version in [Version::Http11, Version::Http2] {
        let (net, backend, site) = (Net::reserve()?, Backend::default(), Site::new()?);
        let workload = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
        backend.listen(workload).await?;
        let slow = Behaviour { delay: Some("800ms".into()), ..Behaviour::default() };
        backend.begin(&slow, &BTreeMap::new());
        site.write("routes.yaml", &forward_to(&[workload]))?;
        let mut gateway = Start::with(site.path()).start(&net).await?;
        let request = Request::to(gateway.at(8080)).version(version);
        let in_flight = tokio::spawn(async move { exchange(&request).await });
        arrived(&backend).await;
        gateway.terminate()?;
        let draining = Instant::now();
        while gateway.readiness().await != Some(503) {
            assert!(gateway.ended().is_none(), "ended with a request in flight: {}", gateway.said());
            assert!(draining.elapsed() < Duration::from_millis(600), "readiness does not say that it drains");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let answer = in_flight.await?.with_context(|| format!("{version:?}"))?;
        assert_eq!((answer.status, Backend::id_of(&answer.headers)), (200, Some(1)));
        assert_eq!(gateway.wait(Duration::from_secs(10)).await?.code(), Some(0));
    }
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
async fn a_request_that_never_ends_is_cut_at_the_drain_timeout() -> Result<()> {
    let (net, backend, site) = (Net::reserve()?, Backend::default(), Site::new()?);
    let workload = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
    backend.listen(workload).await?;
    let stuck = Behaviour { delay: Some("1h".into()), ..Behaviour::default() };
    backend.begin(&stuck, &BTreeMap::new());
    site.write("routes.yaml", &forward_to(&[workload]))?;
    let mut gateway = Start::with(site.path()).arg("--drain-timeout").arg("1s").start(&net).await?;
    let request = Request::to(gateway.at(8080));
    let in_flight = tokio::spawn(async move { exchange(&request).await });
    arrived(&backend).await;
    gateway.terminate()?;
    let begun = Instant::now();
    gateway.wait(Duration::from_secs(8)).await?;
    assert!(begun.elapsed() >= Duration::from_millis(900), "it did not wait: {:?}", begun.elapsed());
    assert!(!matches!(in_flight.await?, Ok(answer) if answer.status < 500), "nothing answered that request");
    Ok(())
}

/// Waits until the workload has a request.
async fn arrived(backend: &Backend) {
    let patience = Instant::now() + Duration::from_secs(5);
    while backend.hits().is_empty() && Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!backend.hits().is_empty(), "the request did not reach the workload");
}
