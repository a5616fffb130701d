//! What idle keep-alive connections take of memory, and what they cost while nothing happens.

use crate::Arguments;
use crate::proxies::{Started, kib};
use crate::table::say;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::time::Duration;
use tidegate_tests::load::{Shape, idle};

/// How long after the last request connections count as idle.
const SETTLED: Duration = Duration::from_secs(3);

/// What is asked for.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many connections are held
    #[arg(long, default_value_t = 2000)]
    connections: usize,
}

/// Holds connections to each proxy, in plaintext and with TLS, and prints a table.
pub(crate) async fn run(arguments: &Arguments, options: &Options, started: &[Started]) -> Result<()> {
    let Options { connections } = *options;
    let mut text = format!(
        "\n{connections} idle keep-alive connections, each after one request\n\n\
         | connections | proxy | RSS before | RSS with them | bytes a connection | CPU while idle |\n\
         |---|---|---|---|---|---|\n"
    );
    // those of before stay, so that what they took is not taken again
    let mut all = Vec::new();
    for (shape, name) in [(Shape::Get, "plaintext"), (Shape::TlsGet, "TLS 1.3")] {
        for proxy in started {
            // buffers and tables that a first request needs are no connection's
            drop(idle(proxy.at(shape), shape, 1).await?);
            let before = proxy.memory()?;
            all.push(idle(proxy.at(shape), shape, connections).await?);
            // logs are written, and whatever else follows requests
            tokio::time::sleep(SETTLED).await;
            let with = proxy.memory()?;
            let (cpu, time) = (proxy.cpu_time()?, Duration::from_secs_f64(arguments.seconds));
            tokio::time::sleep(time).await;
            let spent = proxy.cpu_time()?.checked_sub(cpu).context("CPU time went back")?;
            let each = (with.saturating_sub(before) * 1024) as f64 / connections as f64;
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {} | {each:.0} | {:.2} ms/s |",
                proxy.proxy.name(),
                kib(before),
                kib(with),
                spent.as_secs_f64() * 1e3 / arguments.seconds
            );
        }
    }
    say(&text);
    Ok(())
}
