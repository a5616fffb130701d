//! Endpoints that fail and clusters at their limits: what clients see of it, and what `explain` says.

use crate::reload::{ROUTES, Site};
use crate::retries::{Manner, workload};
use crate::say;
use anyhow::{Context, Result, ensure};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tidegate_tests::{Backend, Connection, Failure, Gateway, Net, Request, Start, exchange};
use tokio::task::JoinSet;

const PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(30);

fn failed(e: Failure) -> anyhow::Error {
    anyhow::anyhow!("{e}")
}

/// A service with these endpoints, a policy towards it, and a rule that sends its own path to it.
fn service(name: &str, endpoints: &[SocketAddr], policy: &str) -> String {
    let endpoints: Vec<String> = endpoints
        .iter()
        .map(|at| format!("{{address: {}, ports: {{http: {}}}}}", at.ip(), at.port()))
        .collect();
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n  hosts: \
         [{name}.example]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  ports: [{{number: 80, name: http, \
         protocol: HTTP}}]\n  endpoints: [{}]\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
         metadata: {{name: {name}}}\nspec: {{host: {name}.example, trafficPolicy: {{{policy}}}}}\n",
        endpoints.join(", ")
    )
}

fn rule(name: &str, more: &str) -> String {
    format!(
        "  - {{match: [{{uri: {{prefix: /{name}}}}}], route: [{{destination: {{host: {name}.example}}}}], {more}}}\n"
    )
}

/// What `explain` says of an endpoint behind a path.
async fn standing(gateway: &Gateway, path: &str, at: SocketAddr) -> Result<serde_json::Value> {
    let page = gateway.page(&format!("/explain?url=http://upstreams.example:{PORT}{path}")).await?;
    let all = page["endpoint_standings"].as_array().context(page.to_string())?;
    let found = all.iter().find(|s| s["address"] == at.to_string());
    found.cloned().with_context(|| page.to_string())
}

const OUTLIERS: &str = "outlierDetection: {consecutive5xxErrors: 2, consecutiveGatewayErrors: 0, interval: 1s, \
                        baseEjectionTime: 600s, maxEjectionPercent: 100}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_that_fails_is_left_out() -> Result<()> {
    let (net, site, backend, mut tasks) = (Net::reserve()?, Site::new()?, Backend::default(), JoinSet::new());
    let at = || anyhow::Ok(SocketAddr::new(IpAddr::V4(net.next()?), PORT));
    let (good, other, refusing, silent, late, failing) = (at()?, at()?, at()?, at()?, at()?, at()?);
    backend.listen(good).await?;
    backend.listen(other).await?;
    let hangs = workload(silent, Manner::Silent, &mut tasks).await?;
    let lags = workload(late, Manner::Late, &mut tasks).await?;
    let fails = workload(failing, Manner::Unavailable, &mut tasks).await?;
    let mut text = ROUTES.to_owned();
    // without retries, so that clients see every error that there is
    let bad = [("refusing", refusing), ("silent", silent), ("late", late), ("failing", failing)];
    for name in bad.map(|(name, _)| name).into_iter().chain(["down"]) {
        text += &rule(name, "timeout: 2s, retries: {attempts: 0}");
    }
    for (name, bad) in bad {
        text += &service(name, &[good, bad, other], OUTLIERS);
    }
    text += &service("down", &[refusing], OUTLIERS);
    site.write("routes.yaml", &text)?;
    let gateway = Start::with(site.path()).start(&net).await?;
    for (name, bad) in bad {
        let path = format!("/{name}");
        let request = Request::to(gateway.at(PORT)).host("upstreams.example").path(&path);
        let mut connection = Connection::open(&request).await.map_err(failed)?;
        let (end, mut errors) = (Instant::now() + PATIENCE, 0);
        while standing(&gateway, &path, bad).await?["healthy"] == true {
            ensure!(Instant::now() < end, "{name} is not left out after {errors} errors");
            errors += usize::from(connection.send(&request).await.map_err(failed)?.status != 200);
        }
        let said = standing(&gateway, &path, bad).await?;
        let reason = said["reason"].as_str().unwrap_or_default();
        ensure!(said["percent"] == 0.0 && reason.contains("outlier detection leaves it out"), "{said}");
        let reached = || [&hangs, &lags, &fails].map(|count| count.load(Ordering::Relaxed));
        let before = reached();
        for i in 0..200 {
            let status = connection.send(&request).await.map_err(failed)?.status;
            ensure!(status == 200, "{name}: {status} in request {i} after it was left out");
        }
        ensure!(before == reached(), "{name} got more");
        say(&format!(
            "outliers: {name} is left out after {errors} errors that clients saw; none in 200 after\n"
        ));
        ensure!(errors <= 4, "{errors} errors where two in a row are enough");
    }
    // with all of them down, the answer needs no connection
    let request = Request::to(gateway.at(PORT)).host("upstreams.example").path("/down");
    let mut connection = Connection::open(&request).await.map_err(failed)?;
    let mut took = Vec::new();
    for i in 0..103 {
        let began = Instant::now();
        let answer = connection.send(&request).await.map_err(failed)?;
        ensure!(answer.status == 503, "{}", answer.status);
        if i >= 3 {
            ensure!(answer.text() == "no healthy upstream", "{}", answer.text());
            took.push(began.elapsed());
        }
    }
    took.sort();
    say(&format!("outliers: with all down, 503 after {:?} in the median\n", took[50]));
    // what a busy machine adds is not the gateway's
    ensure!(took[50] < Duration::from_secs(1), "{took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_over_all_workers() -> Result<()> {
    let (net, site, mut tasks) = (Net::reserve()?, Site::new()?, JoinSet::new());
    let silent = SocketAddr::new(IpAddr::V4(net.next()?), PORT);
    let came = workload(silent, Manner::Silent, &mut tasks).await?;
    let limits = "connectionPool: {tcp: {maxConnections: 2}, http: {http1MaxPendingRequests: 3}}";
    let text = ROUTES.to_owned()
        + &rule("limited", "timeout: 20s, retries: {attempts: 0}")
        + &service("limited", &[silent], limits);
    site.write("routes.yaml", &text)?;
    let start = Start::with(site.path()).access_log("json").arg("--concurrency").arg("2");
    let gateway = start.start(&net).await?;
    let mark = gateway.log.count();
    let request = Request::to(gateway.at(PORT)).host("upstreams.example").path("/limited");
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        let request = request.clone();
        clients.spawn(async move { exchange(&request).await });
    }
    // two get a connection and at most three wait; the others are answered at once
    for _ in 0..15 {
        let answered = tokio::time::timeout(Duration::from_secs(15), clients.join_next()).await;
        let answer = answered.context("all are held")?.context("they ended")??;
        let answer = answer.map_err(failed)?;
        ensure!(
            answer.status == 503 && answer.header("x-envoy-overloaded") == Some("true"),
            "{}",
            answer.status
        );
    }
    let (end, reached) = (Instant::now() + PATIENCE, || came.load(Ordering::Relaxed));
    while reached() < 2 {
        ensure!(Instant::now() < end, "{} reached it", reached());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ensure!(reached() == 2, "{} reached it", reached());
    let line = gateway.log.find(mark, PATIENCE, |l| l.contains("\"UO\"")).await.context("no UO")?;
    let line: serde_json::Value = serde_json::from_str(&line)?;
    let details = "upstream_reset_before_response_started{overflow}";
    ensure!(line["response_flags"] == "UO" && line["response_code_details"] == details, "{line}");
    Ok(())
}
