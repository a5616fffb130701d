//! Mirrors that misbehave: requests neither wait for them nor fail, and what waits for them is bounded.

use crate::reload::Site;
use crate::retries::{entry, rule};
use crate::say;
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidegate_tests::{Connection, Gateway, Net, Request, Start, get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

const PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(30);

/// When a workload answers what came to it.
#[derive(Clone)]
enum Answers {
    AtOnce,
    /// Never, and it reads nothing either.
    Never,
    /// Not before it is told to.
    When(watch::Receiver<bool>),
}

/// Serves an address, and counts the requests that it answered.
async fn workload(at: SocketAddr, answers: Answers, tasks: &mut JoinSet<()>) -> Result<Arc<AtomicUsize>> {
    let listener = TcpListener::bind(at).await?;
    let count = Arc::<AtomicUsize>::default();
    let counted = count.clone();
    tasks.spawn(async move {
        let mut serving = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (answers, counted) = (answers.clone(), counted.clone());
            serving.spawn(async move {
                // whoever closes the connection has what it wants
                let _ = serve(stream, answers, &counted).await;
            });
        }
    });
    Ok(count)
}

async fn serve(mut stream: TcpStream, mut answers: Answers, count: &AtomicUsize) -> std::io::Result<()> {
    let mut seen = Vec::new();
    loop {
        if let Answers::Never = answers {
            return std::future::pending().await;
        }
        while !seen.windows(4).any(|w| w == b"\r\n\r\n") {
            if stream.read_buf(&mut seen).await? == 0 {
                return Ok(());
            }
        }
        let end = seen.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_default() + 4;
        let head = String::from_utf8_lossy(&seen[..end]).to_lowercase();
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.trim().parse().ok());
        let length: usize = length.unwrap_or(0);
        seen.drain(..end);
        while seen.len() < length {
            if stream.read_buf(&mut seen).await? == 0 {
                return Ok(());
            }
        }
        seen.drain(..length);
        if let Answers::When(told) = &mut answers {
            // an error is the end of the test
            let _ = told.wait_for(|now| *now).await;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// A gateway with one worker, and a rule for each kind of mirror.
struct World {
    _net: Net,
    _site: Site,
    gateway: Gateway,
    late: Arc<AtomicUsize>,
    release: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

/// Paths and their mirrors.
const MIRRORS: [(&str, &str); 4] = [
    ("/none", ""),
    ("/refuses", "mirror: {host: refuses.example}"),
    ("/hangs", "mirror: {host: hangs.example}"),
    ("/late", "mirror: {host: late.example}"),
];

impl World {
    async fn new() -> Result<World> {
        let (net, site, mut tasks) = (Net::reserve()?, Site::new()?, JoinSet::new());
        let at = || anyhow::Ok(SocketAddr::new(IpAddr::V4(net.next()?), PORT));
        let (main, refuses, hangs, late_at) = (at()?, at()?, at()?, at()?);
        let (release, told) = watch::channel(false);
        workload(main, Answers::AtOnce, &mut tasks).await?;
        workload(hangs, Answers::Never, &mut tasks).await?;
        let late = workload(late_at, Answers::When(told), &mut tasks).await?;
        let mut text = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: routes}\nspec:\n  \
            hosts: ['*']\n  gateways: [site]\n  http:\n"
            .to_owned();
        MIRRORS.iter().for_each(|(path, mirror)| text += &rule(path, "main", mirror));
        for (host, at) in [("main", main), ("refuses", refuses), ("hangs", hangs), ("late", late_at)] {
            text += &entry(host, at);
        }
        site.write("routes.yaml", &text)?;
        let gateway = Start::with(site.path()).arg("--concurrency").arg("1").start(&net).await?;
        Ok(World { _net: net, _site: site, gateway, late, release, _tasks: tasks })
    }

    fn request(&self, path: &str, body: usize) -> Request {
        let mut request =
            Request::to(self.gateway.at(PORT)).host("mirrors.example").path(path).method("POST");
        request.body = Some(vec![b'x'; body]);
        request
    }

    async fn metric(&self, line: &str) -> Result<u64> {
        let page = get(self.gateway.status(), "localhost", "/stats/prometheus").await;
        let page = page.map_err(|e| anyhow::anyhow!("{e}"))?.text();
        let value = page.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok());
        value.with_context(|| format!("no {line} in {page}"))
    }

    /// The most memory that the gateway has had, in KiB.
    fn peak(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.gateway.id()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_do_not_wait_for_mirrors() -> Result<()> {
    const ROUNDS: usize = 100;
    let world = World::new().await?;
    let requests = MIRRORS.map(|(path, _)| world.request(path, 2000));
    let mut connection = Connection::open(&requests[0]).await.map_err(|e| anyhow::anyhow!("{e}"))?;
    let mut took: [Vec<Duration>; MIRRORS.len()] = Default::default();
    // in turns, so that what the machine does meanwhile is the same for all of them
    for round in 0..ROUNDS {
        for (request, took) in requests.iter().zip(&mut took) {
            let began = Instant::now();
            let answer = connection.send(request).await.map_err(|e| anyhow::anyhow!("{round}: {e}"))?;
            ensure!(answer.status == 200, "{} in round {round}", answer.status);
            took.push(began.elapsed());
        }
    }
    // all of them were answered while two of the mirrors had answered nothing
    ensure!(world.late.load(Ordering::Relaxed) == 0);
    let mut report = format!("mirrors: {ROUNDS} requests each, median and worst:");
    let mut medians = Vec::new();
    for ((path, _), took) in MIRRORS.iter().zip(&mut took) {
        took.sort();
        medians.push(took[ROUNDS / 2]);
        let _ = write!(report, " {path} {:?} {:?};", took[ROUNDS / 2], took[ROUNDS - 1]);
    }
    say(&format!("{report}\n"));
    for median in &medians[1..] {
        ensure!(*median < medians[0] * 10 + Duration::from_secs(1), "{report}");
    }
    world.release.send_replace(true);
    let began = Instant::now();
    while world.late.load(Ordering::Relaxed) == 0 {
        ensure!(began.elapsed() < PATIENCE, "the copies never came");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ensure!(
        world.metric("tidegate_mirror_requests_total{result=\"failed\"} ").await? > 0,
        "none was refused"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_mirror_is_bounded() -> Result<()> {
    const CLIENTS: usize = 4;
    const EACH: usize = 200;
    const BODY: usize = 512 << 10;
    let world = World::new().await?;
    let send = async |path: &str, each: usize| {
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let request = world.request(path, BODY);
            clients.spawn(async move {
                let mut connection = Connection::open(&request).await.map_err(|e| anyhow::anyhow!("{e}"))?;
                for i in 0..each {
                    let answer = connection.send(&request).await.map_err(|e| anyhow::anyhow!("{i}: {e}"))?;
                    ensure!(answer.status == 200, "{} for request {i}", answer.status);
                }
                Ok(())
            });
        }
        clients.join_all().await.into_iter().collect::<Result<()>>()
    };
    send("/none", 10).await?;
    let before = world.peak()?;
    send("/hangs", EACH).await?;
    let grown = (world.peak()? - before) >> 10;
    let copied = (CLIENTS * EACH * BODY) >> 20;
    let dropped = world.metric("tidegate_mirror_dropped_total{reason=\"memory\"} ").await?;
    say(&format!("mirrors: {copied} MiB for one that hangs: {grown} MiB more, {dropped} copies not made\n"));
    ensure!(dropped > 0, "none was too much");
    // 64 MiB, and what growing and fragmented memory takes
    ensure!(grown < 200, "{grown} MiB");
    Ok(())
}
