//! What a request costs, in exact counts that do not depend on how busy the machine is, against `budgets/budgets.json`.
//!
//! The gateway is built with the release profile, runs one worker, and has everything on: a table of a hundred
//! hosts with nine prefixes, header operations, request ids, a JSON access log and metrics, and towards its upstreams
//! least request among three endpoints, outlier detection and limits.

use crate::say;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tidegate_tests::load::{self, Counts, Profile, Shape, Until};
use tidegate_tests::{Authority, Gateway, Net, Start, release_gateway_binary, workspace};
use tokio::net::TcpListener;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Budgets {
    /// How far a count may be above its figure, as a share of it.
    tolerance: f64,
    /// By the name of the shape.
    requests: BTreeMap<String, Budget>,
    /// Instructions of a `get` whose route has a timeout, retries, more header operations and is traced, as a multiple
    /// of those of a plain one, by how much is sampled.
    featured: BTreeMap<String, f64>,
    /// Instructions of a `get` with a table of so many routes, as a multiple of those with one route.
    routes: BTreeMap<String, f64>,
    /// MiB of anonymous memory with two workers and so many routes, once started.
    memory: BTreeMap<String, f64>,
    /// Bytes of memory of an idle connection, by the shape of its first request.
    idle: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    instructions: f64,
    system_calls: f64,
    allocations: f64,
}

/// What is measured, and what it runs beside: an origin on a thread of its own.
struct Bench {
    net: Net,
    folder: tempfile::TempDir,
    origins: Vec<SocketAddr>,
}

impl Bench {
    async fn new() -> Result<Bench> {
        let (net, folder) = (Net::reserve()?, tempfile::tempdir()?);
        let mut origins = Vec::new();
        let mut listeners = Vec::new();
        for _ in 0..ENDPOINTS {
            let at = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
            let listener = std::net::TcpListener::bind(at)?;
            listener.set_nonblocking(true)?;
            origins.push(at);
            listeners.push(listener);
        }
        std::thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let listeners = listeners.into_iter().map(TcpListener::from_std);
                let listeners = listeners.collect::<std::io::Result<Vec<_>>>()?;
                load::serve_origins(listeners).await
            })
        });
        let identity = Authority::new("budgets")?.issue("edge", &[load::host(0)])?;
        let config = load::site(&origins, Some(&identity));
        let bench = Bench { net, folder, origins };
        bench.write([("site.yaml", config)])?;
        Ok(bench)
    }

    /// The files of the config that is measured from now on.
    fn write<N: AsRef<Path>>(&self, files: impl IntoIterator<Item = (N, String)>) -> Result<()> {
        let folder = self.file("config");
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir(&folder)?;
        for (name, text) in files {
            std::fs::write(folder.join(name), text)?;
        }
        Ok(())
    }

    fn gateway(&self, workers: usize) -> Result<Start> {
        let start = Start::with(self.folder.path().join("config")).binary(release_gateway_binary()?);
        Ok(start.arg("--concurrency").arg(&workers.to_string()))
    }

    async fn start(&self, shapes: &[Shape], under: &[String]) -> Result<Gateway> {
        let gateway = self.gateway(1)?.under(under.iter().cloned()).start(&self.net).await?;
        for shape in shapes {
            // buffers, pools and tables are as large then as they get
            send(&gateway, *shape, 1000).await?;
        }
        Ok(gateway)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Endpoints of the origin.
const ENDPOINTS: usize = 3;
/// What is measured of the plain site.
const MEASURED: [Shape; 5] = [Shape::Get, Shape::Post, Shape::Large, Shape::TlsGet, Shape::Http2Get];

/// Sends so many requests, and waits until their connections are gone from the gateway.
async fn send(gateway: &Gateway, shape: Shape, requests: u64) -> Result<()> {
    let to = gateway.at(if shape.is_tls() { 8443 } else { 8080 });
    let connections = if shape == Shape::Http2Get { 8 } else { 64 };
    load::run(to, shape, connections, Until::Requests(requests)).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    Ok(())
}

/// What a request of each shape costs, by callgrind: so slow that load and origin are always done before it, however
/// busy the machine is.
async fn counts(bench: &Bench, shapes: &[Shape]) -> Result<Vec<(Shape, Counts)>> {
    const FEW: u64 = 300;
    const MANY: u64 = 1500;
    let out = bench.file("callgrind");
    let tool = [
        "valgrind".to_owned(),
        "--tool=callgrind".to_owned(),
        "--compress-strings=no".to_owned(),
        "--compress-pos=no".to_owned(),
        "--collect-systime=yes".to_owned(),
        // a start is long, and of no interest
        "--instr-atstart=no".to_owned(),
        format!("--callgrind-out-file={}", out.display()),
        format!("--log-file={}", bench.file("valgrind.log").display()),
    ];
    let gateway = bench.start(shapes, &tool).await.context("under valgrind")?;
    let ask = |words: &[&str]| {
        let process = format!("--pid={}", gateway.id());
        run("vgdb", &[&[&*process], words].concat())
    };
    ask(&["instrumentation", "on"])?;
    let mut dumps = 0;
    let mut dump = || -> Result<Profile> {
        dumps += 1;
        ask(&["dump"])?;
        let path = bench.file(&format!("callgrind.{dumps}"));
        Profile::parse(&std::fs::read_to_string(&path).with_context(|| path.display().to_string())?)
    };
    let mut counted = Vec::new();
    for &shape in shapes {
        // what is kept for reuse is as it is left by a load like the next ones
        send(&gateway, shape, FEW).await?;
        dump()?;
        send(&gateway, shape, FEW).await?;
        let fewer = dump()?;
        send(&gateway, shape, MANY).await?;
        counted.push((shape, dump()?.since(&fewer, MANY - FEW)));
    }
    Ok(counted)
}

/// Bytes of memory that one more idle connection takes.
async fn idle_bytes(gateway: &Gateway, shape: Shape) -> Result<f64> {
    const CONNECTIONS: usize = 1000;
    let to = gateway.at(if shape.is_tls() { 8443 } else { 8080 });
    let _first = load::idle(to, shape, CONNECTIONS).await?;
    let before = anonymous_bytes(gateway.id())?;
    let _second = load::idle(to, shape, CONNECTIONS).await?;
    Ok((anonymous_bytes(gateway.id())? - before) / CONNECTIONS as f64)
}

fn anonymous_bytes(process: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).context("no RssAnon")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024.0)
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let done =
        Command::new(program).args(arguments).stdin(Stdio::null()).output().context(program.to_owned())?;
    ensure!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

fn tools() -> Result<()> {
    for tool in ["valgrind", "vgdb"] {
        let found = std::env::var_os("PATH")
            .is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(tool).exists()));
        ensure!(found, "{tool} is missing; run: sudo apt-get install -y valgrind");
    }
    Ok(())
}

/// The figures side by side, and those above their budget.
struct Verdict {
    tolerance: f64,
    table: String,
    exceeded: Vec<String>,
}

impl Verdict {
    fn hold(&mut self, what: &str, count: f64, budget: f64) {
        // small counts vary by what happens once in a while, and grow by whole ones
        let bound = budget * (1.0 + self.tolerance) + 0.25;
        let _ = writeln!(self.table, "  {what:32} {count:>10.2} of {budget:>10.2}");
        if count > bound {
            self.exceeded.push(format!("{what}: {count:.2}, budget {budget:.2}"));
        }
    }

    /// A multiple of another request, which must not be exceeded at all.
    fn hold_ratio(&mut self, what: &str, ratio: f64, bound: f64) {
        let _ = writeln!(self.table, "  {what:32} {ratio:>9.3}x of {bound:>9.2}x");
        if ratio > bound {
            self.exceeded.push(format!("{what}: {ratio:.3} times, at most {bound:.2}"));
        }
    }
}

fn budgets(path: &Path) -> Result<Budgets> {
    serde_json::from_str(&std::fs::read_to_string(path)?).with_context(|| path.display().to_string())
}

#[tokio::test]
async fn a_request_costs_no_more_than_its_budget() -> Result<()> {
    tools()?;
    let path = workspace().join("tests/budgets/budgets.json");
    let budgets = budgets(&path)?;
    let bench = Bench::new().await?;
    let plain = counts(&bench, &MEASURED).await?;
    let mut verdict =
        Verdict { tolerance: budgets.tolerance, table: "budgets:\n".into(), exceeded: Vec::new() };
    for (shape, counts) in &plain {
        let name = shape.name();
        let budget = budgets.requests.get(name).with_context(|| format!("{name} has no budget"))?;
        verdict.hold(&format!("{name} instructions"), counts.instructions, budget.instructions);
        verdict.hold(&format!("{name} allocations"), counts.allocations, budget.allocations);
        verdict.hold(&format!("{name} system calls"), counts.working_calls(), budget.system_calls);
    }
    for shape in [Shape::Get, Shape::TlsGet] {
        let budget =
            budgets.idle.get(shape.name()).with_context(|| format!("{shape:?} has no idle budget"))?;
        let gateway = bench.start(&MEASURED, &[]).await?;
        let bytes = idle_bytes(&gateway, shape).await?;
        verdict.hold(&format!("{} idle connection, bytes", shape.name()), bytes, *budget);
    }
    let mut all = plain;
    for (sampled, budget) in &budgets.featured {
        bench.write([("site.yaml", load::featured_site(&bench.origins, sampled.parse()?))])?;
        let featured = counts(&bench, &[Shape::Get]).await?;
        let ratio = featured[0].1.instructions / all[0].1.instructions;
        verdict.hold_ratio(&format!("get with features, {sampled} % traced"), ratio, *budget);
        all.extend(featured);
    }
    all.extend(many_routes(&bench, &budgets, &mut verdict).await?);
    say(&verdict.table);
    if !verdict.exceeded.is_empty() || std::env::var_os("TIDEGATE_BUDGETS_DETAIL").is_some() {
        say(&detail(&all));
    }
    ensure!(
        verdict.exceeded.is_empty(),
        "over budget; make it cheaper, or change {} and say why: {}",
        path.display(),
        verdict.exceeded.join("; ")
    );
    Ok(())
}

/// What a table of many routes costs each request, and in memory.
async fn many_routes(
    bench: &Bench,
    budgets: &Budgets,
    verdict: &mut Verdict,
) -> Result<Vec<(Shape, Counts)>> {
    let (one, mut all) = (with_routes(bench, 1).await?, Vec::new());
    for (routes, budget) in &budgets.routes {
        let many = with_routes(bench, routes.parse()?).await?;
        let ratio = many.instructions / one.instructions;
        verdict.hold_ratio(&format!("get with {routes} routes, to one"), ratio, *budget);
        all.push((Shape::Get, many));
    }
    for (routes, budget) in &budgets.memory {
        bench.write(load::table_of(&bench.origins, routes.parse()?))?;
        let gateway = bench.gateway(2)?.start(&bench.net).await?;
        let bound = budget * f64::from(1 << 20);
        let (patience, mut bytes) = (Instant::now() + Duration::from_secs(20), f64::MAX);
        // what a start needs for a moment is given back after it is ready
        while bytes > bound && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(20)).await;
            bytes = anonymous_bytes(gateway.id())?;
        }
        verdict.hold(&format!("memory with {routes} routes, MiB"), bytes / f64::from(1 << 20), *budget);
    }
    Ok(all)
}

/// What a `get` costs with a table of so many routes.
async fn with_routes(bench: &Bench, routes: usize) -> Result<Counts> {
    bench.write(load::table_of(&bench.origins, routes))?;
    let counted = counts(bench, &[Shape::Get]).await?;
    counted.into_iter().next().map(|(_, counts)| counts).context("nothing was counted")
}

/// Where the instructions, allocations and system calls are.
fn detail(counts: &[(Shape, Counts)]) -> String {
    let mut text = String::new();
    for (shape, counts) in counts {
        let _ = writeln!(text, "{}: instructions a request, by function", shape.name());
        for (function, n) in counts.functions.iter().take(40) {
            let _ = writeln!(text, "  {n:>9.1} {function}");
        }
        for (function, n) in counts.allocating.iter().filter(|(_, n)| *n > 0.01) {
            let _ = writeln!(text, "  {n:>9.2} allocations by {function}");
        }
        for (name, n) in counts.system_calls.iter().filter(|(_, n)| *n > 0.005) {
            let _ = writeln!(text, "  {n:>9.2} calls of {name}");
        }
    }
    text
}
