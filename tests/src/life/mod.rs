//! Gateways that come and go under load: upgrades of one in place, and restarts of two in turns. Every request that was
//! taken must be answered, readiness must never fail where it is not meant to, and what is held open goes on.

mod clients;
mod held;

use crate::{Authority, Backend, Gateway, Net, Start, is_running, objects};
use anyhow::{Context, Result, ensure};
use clients::{Client, Tally};
use held::Held;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub enum Plan {
    /// So many upgrades of one gateway, each with a WebSocket and a stream held open on the process before it.
    Upgrades(usize),
    /// So many restarts of two gateways in turns, for clients that go to whichever accepts.
    Restarts(usize),
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Figures {
    plan: Plan,
    /// How long each took until the new process served.
    times: Vec<Duration>,
    took: Duration,
    /// Requests that were answered.
    pub answered: u64,
    connections: u64,
    goodbyes: u64,
    silent: u64,
    refused: u64,
    probes: u64,
}

/// The host that is served.
const HOST: &str = "life.example";
/// How long a process may take to end once nothing is left to it.
const END: Duration = Duration::from_secs(60);
/// Load between two of them, before the first and after the last.
const QUIET: Duration = Duration::from_millis(300);

/// Runs it.
///
/// # Errors
/// At the first request that fails, and when something does not come about.
pub async fn run(plan: Plan) -> Result<Figures> {
    let (net, backend) = (Net::reserve()?, Backend::default());
    let other = Net::reserve()?;
    let workload = SocketAddr::new(net.next()?.into(), 8080);
    let streams = SocketAddr::new(net.next()?.into(), 8080);
    backend.listen(workload).await?;
    let folder = site(workload, streams)?;
    let (tally, mut tasks) = (Arc::new(Tally::default()), JoinSet::new());
    tasks.spawn(held::streams(tokio::net::TcpListener::bind(streams).await?));
    let nets: &[&Net] = match plan {
        Plan::Upgrades(_) => &[&net],
        Plan::Restarts(_) => &[&net, &other],
    };
    let mut life = Life { gateways: Vec::new(), start: start(folder.path()), times: Vec::new() };
    for net in nets {
        life.gateways.push(life.start.start(net).await?);
    }
    let begun = Instant::now();
    let to: Vec<_> = nets.iter().map(|net| net.gateway().into()).collect();
    Client::all(&to, &tally).into_iter().for_each(|client| _ = tasks.spawn(client.run()));
    let done = async {
        sleep(QUIET).await;
        match plan {
            Plan::Upgrades(n) => {
                tasks.spawn(clients::probe(life.gateways[0].status(), tally.clone()));
                life.upgrades(n).await?;
            }
            Plan::Restarts(n) => life.restarts(n, nets).await?,
        }
        anyhow::Ok(())
    };
    let done = done.await;
    let said: Vec<String> = life.gateways.iter().map(Gateway::said).collect();
    tally.stop.store(true, Ordering::Relaxed);
    // the server of streams goes on
    let failed = tally.failed();
    done.with_context(|| format!("{failed:?}; the gateways said {said:?}"))?;
    ensure!(failed.is_empty(), "{failed:?}; the gateways said {said:?}");
    let count = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
    Ok(Figures {
        plan,
        times: life.times,
        took: begun.elapsed(),
        answered: count(&tally.answered),
        connections: count(&tally.connections),
        goodbyes: count(&tally.goodbyes),
        silent: count(&tally.silent),
        refused: count(&tally.refused),
        probes: count(&tally.probes),
    })
}

struct Life {
    gateways: Vec<Gateway>,
    start: Start,
    times: Vec<Duration>,
}

impl Life {
    async fn upgrades(&mut self, n: usize) -> Result<()> {
        for i in 0..n {
            let gateway = &mut self.gateways[0];
            let mut held =
                Held::open(gateway.at(8080)).await.with_context(|| format!("before upgrade {i}"))?;
            let begun = Instant::now();
            let old = gateway.upgrade().await.with_context(|| format!("upgrade {i}"))?;
            self.times.push(begun.elapsed());
            held.check().await.with_context(|| format!("held open across upgrade {i}"))?;
            ensure!(is_running(old), "upgrade {i}: the old process did not wait for what was held open");
            held.close().await.with_context(|| format!("held open across upgrade {i}"))?;
            let patience = Instant::now() + END;
            while is_running(old) {
                ensure!(Instant::now() < patience, "upgrade {i}: the old process does not end");
                sleep(Duration::from_millis(10)).await;
            }
            let gateway = &mut self.gateways[0];
            ensure!(gateway.ended().is_none(), "upgrade {i}: the new process ended");
            sleep(QUIET).await;
        }
        Ok(())
    }

    async fn restarts(&mut self, n: usize, nets: &[&Net]) -> Result<()> {
        for i in 0..n {
            let at = i % self.gateways.len();
            self.gateways[at].terminate()?;
            let status = self.gateways[at].wait(END).await.with_context(|| format!("restart {i}"))?;
            ensure!(status.success(), "restart {i}: it ended with {status}");
            let begun = Instant::now();
            self.gateways[at] = self.start.start(nets[at]).await.with_context(|| format!("restart {i}"))?;
            self.times.push(begun.elapsed());
            sleep(QUIET).await;
        }
        Ok(())
    }
}

fn start(folder: &Path) -> Start {
    Start::with(folder).access_log("off")
}

/// A folder with a Gateway in plaintext and with TLS, in front of a workload and of a server of streams.
fn site(workload: SocketAddr, streams: SocketAddr) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let identity = Authority::new("life")?.issue("site", &[HOST.to_owned()])?;
    let routes = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: routes}\nspec:\n\
                  \x20 hosts: ['*']\n  gateways: [site]\n  http:\n\
                  \x20 - match: [{uri: {prefix: /stream}}]\n    route: [{destination: {host: streams.example}}]\n\
                  \x20 - route: [{destination: {host: workload.example}}]\n";
    let (gateway, secret) = (objects::gateway("site", [8080, 8443]), objects::secret("site", &identity));
    let mut text = [&gateway, routes, &secret].join("---\n");
    for (name, protocol, at) in [("workload", "HTTP", workload), ("streams", "GRPC", streams)] {
        let _ = write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n\
             \x20 hosts: [{name}.example]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n\
             \x20 ports: [{{number: 80, name: port, protocol: {protocol}}}]\n\
             \x20 endpoints: [{{address: {}, ports: {{port: {}}}}}]\n",
            at.ip(),
            at.port()
        );
    }
    std::fs::write(folder.path().join("site.yaml"), text)?;
    Ok(folder)
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.plan {
            Plan::Upgrades(_) => "upgrades",
            Plan::Restarts(_) => "restarts",
        };
        let seconds = self.took.as_secs_f64();
        let rate = Duration::from_secs(1).mul_f64(self.answered as f64 / seconds).as_secs();
        let n = self.times.len();
        writeln!(f, "{n} {what} in {seconds:.1} s; {} requests ({rate}/s), 0 failed", self.answered)?;
        writeln!(
            f,
            "{} connections; {} goodbyes, {} silent connections closed, {} refused and sent elsewhere; {} probes",
            self.connections, self.goodbyes, self.silent, self.refused, self.probes
        )?;
        let mut times = self.times.clone();
        times.sort_unstable();
        let ms = |time: Option<&Duration>| time.map_or(0, Duration::as_millis);
        writeln!(
            f,
            "the new process served after {} ms (median), {} ms (most)",
            ms(times.get(n / 2)),
            ms(times.last())
        )
    }
}
