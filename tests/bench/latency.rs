//! Latencies at a fixed rate, the same for every proxy, from when each request was due.

use crate::proxies::{Proxy, Started};
use crate::table::{median, say, shuffled};
use crate::{Arguments, connections, measure, named, part};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::time::Duration;
use tidegate_tests::load::{Latencies, Shape};

/// The shapes whose requests can be sent at a rate.
const SHAPES: [Shape; 4] = [Shape::Get, Shape::Post, Shape::Large, Shape::TlsGet];

/// What is asked for.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Requests a second; half of what nginx (else the first proxy) can do with the shape when it is not given
    #[arg(long)]
    rate: Option<f64>,
}

/// One load of one proxy, in milliseconds.
struct Sample {
    proxy: Proxy,
    latencies: [f64; 4],
    busy: f64,
}

/// Measures every shape that is asked for, and prints a table of each.
pub(crate) fn run(arguments: &Arguments, options: &Options, started: &[Started]) -> Result<()> {
    let shapes: Vec<Shape> = match arguments.shapes.is_empty() {
        true => vec![Shape::Get, Shape::TlsGet],
        false => arguments.shapes.iter().map(|s| named(s)).collect::<Result<_>>()?,
    };
    for shape in shapes {
        ensure!(SHAPES.contains(&shape), "{} cannot be sent at a rate", shape.name());
        let rate = match options.rate {
            Some(rate) => rate,
            None => half_load(arguments, shape, started)?,
        };
        let mut samples = Vec::new();
        for round in 0..arguments.rounds {
            for proxy in shuffled(started) {
                samples.push(sample(arguments, shape, proxy, rate)?);
            }
            say(&format!("{} round {} of {}\n", shape.name(), round + 1, arguments.rounds));
        }
        say(&table(shape, rate, &samples));
    }
    Ok(())
}

/// Half of the requests a second that nginx answers when it is asked as fast as it can: the median of three loads.
fn half_load(arguments: &Arguments, shape: Shape, started: &[Started]) -> Result<f64> {
    let nginx = started.iter().find(|s| s.proxy == Proxy::Nginx).or(started.first()).context("no proxy")?;
    let rates = (0..3).map(|_| Ok(measure(arguments, nginx, shape, arguments.seconds)?.rate));
    Ok((median(rates.collect::<Result<_>>()?) / 2.0).round())
}

fn sample(arguments: &Arguments, shape: Shape, proxy: &Started, rate: f64) -> Result<Sample> {
    let (to, rate, seconds) = (proxy.at(shape).to_string(), rate.to_string(), arguments.seconds.to_string());
    let before = proxy.cpu_time()?;
    let ran = part(arguments.load_cpu, &["rated", &to, shape.name(), &rate, &seconds])?.output()?;
    let said = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "{} {}: {said}", proxy.proxy.name(), shape.name());
    let spent = proxy.cpu_time()?.checked_sub(before).context("CPU time went back")?;
    let printed = String::from_utf8(ran.stdout)?;
    let found: Vec<f64> = printed.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let latencies = found.try_into().ok().with_context(|| format!("not four latencies: {printed:?}"))?;
    Ok(Sample { proxy: proxy.proxy, latencies, busy: spent.as_secs_f64() / arguments.seconds })
}

/// What the process that sends prints.
pub(crate) fn printed(latencies: &Latencies) -> String {
    let Latencies { median, p99, p999, most } = latencies;
    [median, p99, p999, most].map(|latency| milliseconds(*latency).to_string()).join(" ")
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn table(shape: Shape, rate: f64, samples: &[Sample]) -> String {
    let mut text = format!(
        "\n{} at {rate:.0} requests a second over {} connections, ms (median of rounds; least-most)\n\n\
         | proxy | p50 | p99 | p99.9 | longest | busy |\n|---|---|---|---|---|---|\n",
        shape.name(),
        connections(shape)
    );
    for proxy in Proxy::ALL {
        let of: Vec<&Sample> = samples.iter().filter(|s| s.proxy == proxy).collect();
        if of.is_empty() {
            continue;
        }
        let _ = write!(text, "| {} |", proxy.name());
        for which in 0..4 {
            let values: Vec<f64> = of.iter().map(|s| s.latencies[which]).collect();
            let least = values.iter().copied().fold(f64::MAX, f64::min);
            let most = values.iter().copied().fold(0.0, f64::max);
            let _ = write!(text, " {:.2} ({least:.2}-{most:.2}) |", median(values));
        }
        let _ = writeln!(text, " {:.0} % |", median(of.iter().map(|s| s.busy).collect()) * 100.0);
    }
    text
}
