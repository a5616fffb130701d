//! Thousands of reloads under load. See README.md.

use anyhow::Result;
use clap::Parser;
use std::io::Write as _;
use std::time::Duration;
use tidegate_tests::soak::{self, Plan};

/// Reloads the config again and again under load; fails at the first request that does, and at the first change that
/// takes too long.
#[derive(Parser)]
struct Arguments {
    /// Reloads
    #[arg(long, default_value_t = 2000)]
    reloads: usize,
    /// Milliseconds from before a write until the change must be live
    #[arg(long, default_value_t = 1000)]
    live_within: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { reloads, live_within } = Arguments::parse();
    let plan = Plan { reloads, live_within: Duration::from_millis(live_within), truncates: true };
    let figures = soak::run(plan).await?;
    Ok(write!(std::io::stdout(), "{figures}")?)
}
