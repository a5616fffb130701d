//! Thousands of changes of the config under load. See README.md.

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use std::io::Write as _;
use std::time::Duration;
use tidegate_tests::{churn, life, soak};

/// Changes the config again and again under load.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// One change after the other, each in every way that files change; fails at the first request that does, and at
    /// the first change that takes too long
    Reloads {
        /// Reloads
        #[arg(long, default_value_t = 2000)]
        reloads: usize,
        /// Milliseconds from before a write until the change must be live
        #[arg(long, default_value_t = 1000)]
        live_within: u64,
    },
    /// Routes, subsets, services, endpoints and certificates in random order; counts requests that fail or go astray
    Changes {
        /// Writes
        #[arg(long, default_value_t = 10_000)]
        changes: usize,
        /// Milliseconds between two writes, at most
        #[arg(long, default_value_t = 30)]
        pause: u64,
        /// What the order comes from; random if not given
        #[arg(long)]
        seed: Option<u64>,
        /// Milliseconds for which an endpoint that was taken out may still get requests
        #[arg(long, default_value_t = 1000)]
        lag: u64,
    },
    /// New processes take the place of the one that serves, by SIGUSR2; fails when a request does, or what is held open
    Upgrades {
        /// Upgrades
        #[arg(long, default_value_t = 20)]
        upgrades: usize,
    },
    /// Two gateways are stopped and started in turns; fails when a request does
    Restarts {
        /// Restarts
        #[arg(long, default_value_t = 20)]
        restarts: usize,
    },
    /// Endpoints of one cluster, a share of them every second
    Endpoints {
        /// Endpoints
        #[arg(long, default_value_t = 200)]
        endpoints: usize,
        /// How many are replaced each second
        #[arg(long, default_value_t = 20)]
        replaced: usize,
        /// For how long
        #[arg(long, default_value_t = 120)]
        seconds: usize,
        /// Milliseconds for which an endpoint that was taken out may still get requests
        #[arg(long, default_value_t = 1000)]
        lag: u64,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let (plan, lag) = match Arguments::parse().what {
        What::Reloads { reloads, live_within } => {
            let live_within = Duration::from_millis(live_within);
            let figures = soak::run(soak::Plan { reloads, live_within, truncates: true }).await?;
            return Ok(write!(std::io::stdout(), "{figures}")?);
        }
        What::Upgrades { upgrades } => return lives(life::Plan::Upgrades(upgrades)).await,
        What::Restarts { restarts } => return lives(life::Plan::Restarts(restarts)).await,
        What::Changes { changes, pause, seed, lag } => {
            let seed = seed.unwrap_or_else(|| fastrand::u64(..));
            writeln!(std::io::stdout(), "--seed {seed}")?;
            (churn::Plan::Anything { changes, pause: Duration::from_millis(pause), seed }, lag)
        }
        What::Endpoints { endpoints, replaced, seconds, lag } => {
            (churn::Plan::Endpoints { endpoints, replaced, seconds }, lag)
        }
    };
    let figures = churn::run(plan, Duration::from_millis(lag)).await?;
    write!(std::io::stdout(), "{figures}")?;
    ensure!(figures.failed + figures.wrong == 0, "requests failed or went astray");
    Ok(())
}

async fn lives(plan: life::Plan) -> Result<()> {
    Ok(write!(std::io::stdout(), "{}", life::run(plan).await?)?)
}
