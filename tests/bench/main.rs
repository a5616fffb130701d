//! CPU time a request of Tidegate, nginx, HAProxy and Envoy, each one worker on a CPU of its own. See README.md.

mod checks;
mod configs;
mod idle;
mod latency;
mod namespace;
mod proxies;
mod routes;
mod table;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use configs::Site;
use proxies::{Proxy, Started};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use table::{Line, Logs, Sample};
use tidegate_tests::load::{self, Shape, Until};
use tidegate_tests::{Authority, Identity, Net};
use tokio::net::{TcpListener, TcpStream};

/// Compares CPU time a request with other proxies, on this machine's loopback.
#[derive(Parser)]
struct Arguments {
    /// Rounds, each with every proxy and shape
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Seconds of each load
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Shapes to measure: get, post-10k, get-100k, get-1m, post-1m, tls-get, h2-get, tls-new, up-tls, grpc, ws
    #[arg(long, value_delimiter = ',')]
    shapes: Vec<String>,
    /// Proxies to measure: tidegate, nginx, haproxy, envoy; those that are not installed are left out
    #[arg(long, value_delimiter = ',')]
    proxies: Vec<String>,
    /// Whether requests are logged
    #[arg(long, value_enum, default_value_t = Logs::Both)]
    logs: Logs,
    /// The CPU of the proxies
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    /// The CPU of load and origin
    #[arg(long, default_value_t = 1)]
    load_cpu: usize,
    /// Measure in the machine's network and not in a namespace of the bench's own
    #[arg(long)]
    host_network: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What else it can measure, and what it runs as processes of their own.
#[derive(Subcommand)]
enum Part {
    /// Compares latencies at a fixed rate
    Latency(latency::Options),
    /// Compares what idle connections take
    Idle(idle::Options),
    /// What many routes cost, and a change of one
    Routes(routes::Options),
    #[command(hide = true)]
    Origin { at: SocketAddr },
    #[command(hide = true)]
    TlsOrigin { at: SocketAddr, chain: PathBuf, key: PathBuf },
    #[command(hide = true)]
    Load { to: SocketAddr, shape: String, seconds: f64 },
    #[command(hide = true)]
    Rated { to: SocketAddr, shape: String, rate: f64, seconds: f64 },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.part {
        None | Some(Part::Latency(_) | Part::Idle(_)) => compare(&arguments).await,
        Some(Part::Routes(options)) => routes::run(&arguments, options).await,
        Some(Part::Origin { at }) => load::serve_origins(vec![TcpListener::bind(at).await?]).await,
        Some(Part::TlsOrigin { at, chain, key }) => {
            let (chain, key) = (std::fs::read(chain)?, std::fs::read(key)?);
            load::serve_tls_origin(TcpListener::bind(at).await?, &chain, &key).await
        }
        Some(Part::Load { to, shape, seconds }) => {
            let until = Until::Time(Instant::now() + Duration::from_secs_f64(*seconds));
            let shape = named(shape)?;
            table::say(&load::run(*to, shape, connections(shape), until).await?.to_string());
            Ok(())
        }
        Some(Part::Rated { to, shape, rate, seconds }) => {
            let (shape, time) = (named(shape)?, Duration::from_secs_f64(*seconds));
            let latencies = load::run_at(*to, shape, connections(shape), *rate, time).await?;
            table::say(&latency::printed(&latencies));
            Ok(())
        }
    }
}

fn named(shape: &str) -> Result<Shape> {
    Shape::named(shape).with_context(|| format!("no shape {shape}"))
}

fn connections(shape: Shape) -> usize {
    match shape {
        Shape::Http2Get | Shape::Grpc | Shape::Download | Shape::Upload => 16,
        Shape::NewTls => 8,
        _ => 64,
    }
}

/// A process that ends with the bench.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This program again, on the load's CPU.
fn part(cpu: usize, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new("taskset");
    command.args(["-c", &cpu.to_string()]).arg(std::env::current_exe()?).args(arguments);
    command.stdin(Stdio::null());
    Ok(command)
}

async fn compare(arguments: &Arguments) -> Result<()> {
    if !arguments.host_network {
        namespace::enter()?;
    }
    let shapes: Vec<Shape> = match arguments.shapes.is_empty() {
        true => Shape::ALL.to_vec(),
        false => arguments.shapes.iter().map(|s| named(s)).collect::<Result<_>>()?,
    };
    let (net, folder) = (Net::reserve()?, tempfile::tempdir()?);
    let at = SocketAddr::new(net.next()?.into(), 8080);
    let origin = part(arguments.load_cpu, &["origin", &at.to_string()])?.spawn()?;
    let _origin = Ends(origin);
    proxies::reachable(at).await?;
    let authority = Authority::new("bench")?;
    let identity = authority.issue("edge", &[load::host(0), load::GRPC_HOST.to_owned()])?;
    let (secure, _secure) = tls_origin(arguments, &net, folder.path(), &identity).await?;
    let authority = authority.certificate();
    let logs = match (&arguments.part, arguments.logs) {
        (Some(_), Logs::Both) => Logs::On,
        (_, logs) => logs,
    };
    let lines = logs.lines(&shapes);
    let mut started = Vec::new();
    for proxy in Proxy::ALL {
        if !arguments.proxies.is_empty() && !arguments.proxies.iter().any(|p| p == proxy.name()) {
            continue;
        }
        let Some(program) = proxy.program() else {
            table::say(&format!("{} is not installed: {}\n", proxy.name(), proxy.how_to_install()));
            continue;
        };
        for logs in [true, false].into_iter().filter(|logs| lines.iter().any(|line| line.logs == *logs)) {
            let home = folder.path().join(format!("{}-{logs}", proxy.name()));
            std::fs::create_dir(&home)?;
            let (home, ip, authority, identity) = (&home, net.next()?, &authority, &identity);
            let site = Site { home, ip, origin: at, secure, authority, identity, logs };
            let on = proxy.start(&program, &site, arguments.cpu).await;
            let on = on.with_context(|| format!("{} does not start", proxy.name()))?;
            checks::does_the_same(&on).await?;
            started.push(on);
        }
    }
    ensure!(!started.is_empty(), "nothing to measure");
    match &arguments.part {
        Some(Part::Latency(options)) => return latency::run(arguments, options, &started),
        Some(Part::Idle(options)) => return idle::run(arguments, options, &started).await,
        _ => {}
    }
    let samples = rounds(arguments, &lines, &started)?;
    table::print(&samples, &lines);
    Ok(())
}

/// The origin that speaks TLS, with the certificate that the proxies have too.
async fn tls_origin(
    arguments: &Arguments,
    net: &Net,
    folder: &Path,
    identity: &Identity,
) -> Result<(SocketAddr, Ends)> {
    let at = SocketAddr::new(net.next()?.into(), 8443);
    let (chain, key) = (folder.join("origin.pem"), folder.join("origin.key"));
    std::fs::write(&chain, &identity.certificate)?;
    std::fs::write(&key, &identity.key)?;
    let mut origin = part(arguments.load_cpu, &["tls-origin", &at.to_string()])?;
    let origin = Ends(origin.arg(chain).arg(key).spawn()?);
    proxies::reachable(at).await?;
    Ok((at, origin))
}

fn rounds(arguments: &Arguments, lines: &[Line], started: &[Started]) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for proxy in started {
        for line in lines.iter().filter(|line| proxy.is_for(**line)) {
            measure(arguments, proxy, line.shape, 0.5)?; // warms up
        }
    }
    for round in 0..arguments.rounds {
        for line in lines {
            for proxy in table::shuffled(started).into_iter().filter(|proxy| proxy.is_for(*line)) {
                let mut sample = measure(arguments, proxy, line.shape, arguments.seconds)?;
                sample.round = round;
                samples.push(sample);
            }
        }
        table::say(&format!("round {} of {}\n", round + 1, arguments.rounds));
    }
    Ok(samples)
}

fn measure(arguments: &Arguments, proxy: &Started, shape: Shape, seconds: f64) -> Result<Sample> {
    let to = proxy.at(shape);
    let (before, begun) = (proxy.cpu_time()?, Instant::now());
    let ran =
        part(arguments.load_cpu, &["load", &to.to_string(), shape.name(), &seconds.to_string()])?.output()?;
    if !ran.status.success() {
        bail!("{} {}: {}", proxy.proxy.name(), shape.name(), String::from_utf8_lossy(&ran.stderr));
    }
    let requests: f64 = String::from_utf8(ran.stdout)?.trim().parse()?;
    let spent = proxy.cpu_time()?.checked_sub(before).context("CPU time went back")?;
    Ok(Sample {
        proxy: proxy.proxy,
        line: Line { shape, logs: proxy.logs },
        round: 0,
        micros: spent.as_secs_f64() * 1e6 / requests,
        busy: spent.as_secs_f64() / begun.elapsed().as_secs_f64(),
        rate: requests / seconds,
    })
}

/// Waits until an address accepts.
async fn accepts(at: SocketAddr) -> bool {
    TcpStream::connect(at).await.is_ok()
}
