//! ServiceEntries whose endpoints are names, with a real name server.

use crate::reload::Site;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tidegate_tests::{Backend, Gateway, NameServer, Net, Start, get};

const PORT: u16 = 7000;
const PATIENCE: Duration = Duration::from_secs(120);

/// A gateway that asks a name server of its own, and workloads that names may lead to.
struct World {
    _net: Net,
    site: Site,
    names: NameServer,
    _backend: Backend,
    workloads: [IpAddr; 3],
    gateway: Gateway,
}

/// Hosts, and how each is resolved.
const ENTRIES: [(&str, &str); 8] = [
    ("down.example", "DNS"),
    ("all.example", "DNS"),
    ("one.example", "DNS_ROUND_ROBIN"),
    ("*.wild.example", "DYNAMIC_DNS"),
    ("metadata.example", "DNS"),
    ("gone.example", "DNS"),
    ("old.example", "DNS"),
    ("new.example", "DNS"),
];

fn entries() -> String {
    let mut text = String::new();
    for (i, (host, resolution)) in ENTRIES.iter().enumerate() {
        let _ = write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e{i}}}\nspec:\n  hosts: \
             ['{host}']\n  resolution: {resolution}\n  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: \
             {PORT}}}]\n"
        );
    }
    text
}

/// Each host goes to the service of that name, but `moving.example` to another one.
fn routes(moving: &str) -> String {
    let mut text = String::new();
    let own = ENTRIES.iter().map(|(host, _)| (*host, *host));
    for (i, (host, to)) in own.chain([("moving.example", moving)]).enumerate() {
        let _ = write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v{i}}}\nspec:\n  hosts: \
             ['{host}']\n  gateways: [site]\n  http: [{{route: [{{destination: {{host: '{to}'}}}}], retries: {{attempts: \
             0}}}}]\n"
        );
    }
    text
}

impl World {
    async fn new() -> Result<World> {
        let (net, site, backend) = (Net::reserve()?, Site::new()?, Backend::default());
        let names = NameServer::start(net.next()?).await?;
        let workloads = [net.next()?, net.next()?, net.next()?].map(IpAddr::V4);
        for workload in workloads {
            backend.listen(SocketAddr::new(workload, PORT)).await?;
        }
        let [a, b, c] = workloads;
        names.answer("all.example", &[a, b]);
        names.answer("one.example", &[a, b]);
        names.answer("a.wild.example", &[a]);
        names.answer("b.wild.example", &[b]);
        names.answer("here.wild.example", &["169.254.169.254".parse()?]);
        names.answer("metadata.example", &["169.254.169.254".parse()?, "fd00:ec2::254".parse()?]);
        names.answer("down.example", &[net.next()?.into()]);
        names.answer("old.example", &[a]);
        names.answer("new.example", &[c]);
        site.write("entries.yaml", &entries())?;
        site.write("routes.yaml", &routes("old.example"))?;
        let start = Start::with(site.path()).arg("--dns-server").arg(&names.at().to_string());
        // one worker, so that requests one after the other have one connection
        let start = start.arg("--concurrency").arg("1");
        let gateway = start.arg("--allow-dns-answers").arg("127.0.0.0/8").start(&net).await?;
        Ok(World { _net: net, site, names, _backend: backend, workloads, gateway })
    }

    /// The status, and the workload that answered.
    async fn ask(&self, host: &str) -> Result<(u16, Option<IpAddr>)> {
        let answer = get(self.gateway.at(8080), host, "/").await?;
        let at = if answer.status == 200 { answer.json()["at"].as_str().map(str::to_owned) } else { None };
        let at = at.map(|at| at.parse::<SocketAddr>()).transpose()?;
        Ok((answer.status, at.map(|at| at.ip())))
    }

    /// Asks until this holds for what was answered.
    async fn until(&self, host: &str, holds: impl Fn(u16, Option<IpAddr>) -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let (status, at) = self.ask(host).await?;
            if holds(status, at) {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "{host} is still answered {status} by {at:?}: {}",
                self.gateway.said()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn explain(&self, host: &str) -> Result<Value> {
        self.gateway.page(&format!("/explain?method=GET&url=http://{host}:8080/")).await
    }

    /// The line of the access log of a host's last request, once it is there.
    async fn logged(&self, host: &str) -> Result<Value> {
        let end = Instant::now() + PATIENCE;
        loop {
            let lines = self.gateway.log.since(0);
            let mut lines = lines.iter().rev().filter_map(|l| serde_json::from_str::<Value>(l).ok());
            if let Some(line) = lines.find(|l| l["authority"] == host) {
                return Ok(line);
            }
            ensure!(Instant::now() < end, "{host} is not in the log");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_resolved_as_their_service_entry_says() -> Result<()> {
    let mut world = World::new().await?;
    addresses(&world).await?;
    failures(&world).await?;
    changes(&mut world).await
}

async fn addresses(world: &World) -> Result<()> {
    let [a, b, _] = world.workloads;
    // it was not ready before the first answers, so that no request finds a name without address
    for host in ["all.example", "one.example", "old.example"] {
        ensure!(world.ask(host).await?.0 == 200, "{host}: {}", world.gateway.said());
    }
    let end = Instant::now() + PATIENCE;
    let mut seen = BTreeSet::new();
    while seen.len() < 2 {
        seen.extend(world.ask("all.example").await?.1);
        ensure!(Instant::now() < end, "all.example was answered by {seen:?} alone");
    }
    ensure!(seen == [a, b].into(), "{seen:?}");
    // the connection that was made goes on to where it leads, new ones go to each address in turn
    let first = world.ask("one.example").await?;
    let mut turns = BTreeSet::new();
    while turns.len() < 2 {
        let standings = world.explain("one.example").await?["endpoint_standings"].clone();
        ensure!(standings.as_array().is_some_and(|s| s.len() == 1), "{standings}");
        ensure!(standings[0]["name"] == "one.example", "{standings}");
        turns.insert(standings[0]["address"].to_string());
        ensure!(world.ask("one.example").await? == first, "another connection than {first:?}");
        ensure!(Instant::now() < end, "one.example is always {turns:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let standings = world.explain("all.example").await?["endpoint_standings"].clone();
    ensure!(
        standings.as_array().is_some_and(|s| s.len() == 2 && s[0]["name"] == "all.example"),
        "{standings}"
    );

    // whatever a request asks for
    for (host, expected) in [("a.wild.example", a), ("B.wild.example", b), ("a.wild.example:8080", a)] {
        ensure!(world.ask(host).await? == (200, Some(expected)), "{host}: {}", world.gateway.said());
    }
    Ok(())
}

async fn failures(world: &World) -> Result<()> {
    let [a, ..] = world.workloads;
    for (host, flag, details) in [
        ("no.wild.example", "DF", "dns_resolution_failure"),
        ("here.wild.example", "DF", "dns_resolution_failure"),
        ("metadata.example", "UH", "no_healthy_upstream"),
        ("gone.example", "UH", "no_healthy_upstream"),
        (
            "down.example",
            "UF",
            "upstream_reset_before_response_started{remote_connection_failure|connection_refused}",
        ),
    ] {
        ensure!(world.ask(host).await?.0 == 503, "{host}");
        let line = world.logged(host).await?;
        ensure!(line["response_flags"] == flag && line["response_code_details"] == details, "{line}");
    }
    // what one host is like says nothing of the others
    let page = world.explain("c.wild.example").await?;
    ensure!(page["reason"].is_null() && page["endpoint"] == "*.wild.example:7000", "{page}");
    let standings = page["endpoint_standings"].as_array().context("no standings")?.clone();
    let of = |name: &str| standings.iter().find(|s| s["name"] == name).cloned().unwrap_or_default();
    ensure!(of("a.wild.example")["address"] == format!("{a}:{PORT}"), "{page}");
    ensure!(of("here.wild.example")["healthy"] == false, "{page}");
    let why = world.logged("here.wild.example").await?["upstream_transport_failure_reason"].to_string();
    ensure!(why.contains("refused: 169.254.169.254"), "{why}");
    for (host, why) in [("metadata.example", "refused"), ("gone.example", "the last lookup failed")] {
        let page = world.explain(host).await?;
        let reason = page["endpoint_standings"][0]["reason"].as_str().context("no reason")?.to_owned();
        ensure!(reason.contains("no addresses") && reason.contains(why), "{page}");
        ensure!(page["reason"].as_str().is_some_and(|r| r.starts_with("503")), "{page}");
    }
    let page = world.explain("down.example").await?;
    let last = page["endpoint_standings"][0]["last_failure"].as_str();
    ensure!(last.is_some_and(|l| l.starts_with("connection refused, ")), "{page}");
    let said = world.gateway.messages.since(0);
    let refused = said.iter().find(|line| line.contains("DNS answer is refused")).context("not reported")?;
    ensure!(refused.contains("169.254.169.254") && refused.contains("--allow-dns-answers"), "{refused}");

    Ok(())
}

async fn changes(world: &mut World) -> Result<()> {
    let [a, _, c] = world.workloads;
    // another answer is followed, and the last one stays when nobody answers any more
    world.names.answer("all.example", &[c]);
    world.until("all.example", |_, at| at == Some(c)).await?;
    world.names.die();
    let asked = world.names.asked("all.example");
    for _ in 0..50 {
        ensure!(world.ask("all.example").await? == (200, Some(c)));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.names.answer("all.example", &[a]);
    world.names.revive().await?;
    world.until("all.example", |_, at| at == Some(a)).await?;
    ensure!(world.names.asked("all.example") > asked);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_moves_to_a_name_when_that_has_its_first_answer() -> Result<()> {
    let world = World::new().await?;
    let [a, _, c] = world.workloads;
    // one that nobody has asked for yet
    world.names.answer("fresh.example", &[c]);
    world.names.withhold("fresh.example");
    let entry = entries().replace("new.example", "fresh.example");
    let generation = world.gateway.generation().await?;
    world.site.write("entries.yaml", &entry)?;
    world.site.write("routes.yaml", &routes("fresh.example").replace("new.example", "fresh.example"))?;
    let began = Instant::now();
    let end = began + PATIENCE;
    while world.names.asked("fresh.example") == 0 {
        ensure!(world.ask("moving.example").await? == (200, Some(a)), "{}", world.gateway.said());
        ensure!(Instant::now() < end, "nobody asks for the new name: {}", world.gateway.said());
    }
    world.names.release();
    while world.ask("moving.example").await? != (200, Some(c)) {
        let (status, at) = world.ask("moving.example").await?;
        // a config waits for five seconds and no longer
        let late = began.elapsed() > Duration::from_secs(4);
        ensure!(status == 200 || late, "{status} by {at:?}: {}", world.gateway.said());
        ensure!(Instant::now() < end, "it never moves: {}", world.gateway.said());
    }
    world.gateway.wait_for_generation_after(generation).await?;
    Ok(())
}
