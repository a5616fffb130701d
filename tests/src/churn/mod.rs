//! Changes of everything in every order, under load: routes, subsets, services and endpoints come and go, each write
//! at a random time after the one before it. No request may fail, and none may reach a workload that it was not
//! meant for.

mod clients;
mod workloads;
mod world;

use crate::{Authority, Gateway, Net, Start};
use anyhow::{Context, Result};
use clients::Tally;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::sleep;
use workloads::{Counts, Workload};
use world::{PATHS, PORTS, Transition, World, host};

/// Hosts, each with clients of its own.
const HOSTS: usize = 4;
/// Certificates that take turns.
const CERTIFICATES: usize = 3;

/// How the world changes.
#[derive(Clone, Copy, Debug)]
pub enum Plan {
    /// So many writes, up to so long after one another.
    Anything {
        /// The writes.
        changes: usize,
        /// The longest pause between two of them.
        pause: Duration,
        /// What the order of everything comes from.
        seed: u64,
    },
    /// A cluster of so many endpoints, of which some are replaced every second.
    Endpoints {
        /// How many there are.
        endpoints: usize,
        /// How many are replaced each second.
        replaced: usize,
        /// For how long.
        seconds: usize,
    },
}

/// What came of it.
#[derive(Debug)]
pub struct Figures {
    changes: usize,
    took: Duration,
    /// Requests that were answered with 200.
    pub answered: u64,
    late: Duration,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that reached a workload that they were not meant for.
    pub wrong: u64,
    said: Vec<String>,
}

/// Runs it. A workload may get requests for `lag` after it was taken out.
///
/// # Errors
/// When the gateway does not start, or ends.
pub async fn run(plan: Plan, lag: Duration) -> Result<Figures> {
    let (net, folder) = (Net::reserve()?, tempfile::tempdir()?);
    let (mut tasks, counts, tally) =
        (JoinSet::new(), Arc::new(Counts::default()), Arc::new(Tally::default()));
    let workloads = match plan {
        Plan::Anything { .. } => 60,
        Plan::Endpoints { endpoints, .. } => endpoints * 2,
    };
    let world = world(&net, &folder, plan, start(&net, workloads, lag, &counts, &mut tasks).await?)?;
    let gateway = Start::with(folder.path()).access_log("off").start(&net).await?;
    for n in 0..HOSTS {
        clients::start(net.gateway().into(), PORTS, &host(n), &PATHS, &tally, &mut tasks);
    }
    let begun = Instant::now();
    let changed = change(plan, world, lag).await;
    tally.stop.store(true, Ordering::Relaxed);
    let changes = changed.with_context(|| gateway.said())?;
    ended(&gateway).await?;
    let mut said = tally.said.lock().unwrap_or_else(PoisonError::into_inner).clone();
    said.extend(counts.said.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
    Ok(Figures {
        changes,
        took: begun.elapsed(),
        answered: tally.answered.load(Ordering::Relaxed),
        late: Duration::from_millis(counts.late.load(Ordering::Relaxed)),
        failed: tally.failed.load(Ordering::Relaxed),
        wrong: counts.wrong.load(Ordering::Relaxed),
        said,
    })
}

/// That it is still there.
async fn ended(gateway: &Gateway) -> Result<()> {
    gateway.generation().await.with_context(|| gateway.said()).map(|_| ())
}

async fn start(
    net: &Net,
    count: usize,
    lag: Duration,
    counts: &Arc<Counts>,
    tasks: &mut JoinSet<()>,
) -> Result<Vec<Arc<Workload>>> {
    const ADDRESSES: usize = 100;
    let addresses = (0..ADDRESSES).map(|_| net.next()).collect::<Result<Vec<_>>>()?;
    let mut workloads = Vec::new();
    for n in 0..count {
        let port = 8081 + u16::try_from(n / ADDRESSES)?;
        let at = SocketAddr::new(addresses[n % ADDRESSES].into(), port);
        workloads.push(Workload::start(at, lag, counts, tasks).await?);
    }
    Ok(workloads)
}

fn world(net: &Net, folder: &TempDir, plan: Plan, workloads: Vec<Arc<Workload>>) -> Result<World> {
    let authority = Authority::new("churn")?;
    let names: Vec<String> = (0..HOSTS).map(host).collect();
    let identities = (0..CERTIFICATES).map(|_| authority.issue("churn", &names)).collect::<Result<_>>()?;
    let seed = match plan {
        Plan::Anything { seed, .. } => seed,
        Plan::Endpoints { .. } => u64::from(net.gateway().to_bits()),
    };
    let mut world = World::new(folder.path().to_owned(), seed, HOSTS, workloads, identities)?;
    if let Plan::Endpoints { endpoints, .. } = plan {
        world.one_service(endpoints)?;
    }
    Ok(world)
}

/// Makes all changes; how many that were.
async fn change(plan: Plan, mut world: World, lag: Duration) -> Result<usize> {
    let mut written = 0;
    match plan {
        Plan::Anything { changes, pause, seed } => {
            let mut rng = fastrand::Rng::with_seed(!seed);
            while written < changes {
                let transition = world.change();
                for file in &transition.writes {
                    world.write(*file)?;
                    written += 1;
                    sleep(pause.mul_f64(rng.f64())).await;
                }
                world.done(&transition);
            }
        }
        Plan::Endpoints { replaced, seconds, .. } => {
            for _ in 0..seconds {
                let transition: Transition = world.replace_endpoints(replaced);
                for file in &transition.writes {
                    world.write(*file)?;
                }
                world.done(&transition);
                written += replaced;
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
    // the last change is seen, too
    sleep(lag.min(Duration::from_secs(2))).await;
    Ok(written)
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { changes, took, answered, late, failed, wrong, said } = self;
        let rate = Duration::from_secs(1).mul_f64(*answered as f64 / took.as_secs_f64()).as_secs();
        writeln!(
            f,
            "{changes} changes in {:.1} s; {answered} requests ({rate}/s), {failed} failed, {wrong} reached a wrong \
             workload; the last to one that was taken out came {} ms after",
            took.as_secs_f64(),
            late.as_millis()
        )?;
        said.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}
