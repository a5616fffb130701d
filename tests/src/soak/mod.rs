//! Reloads under load: routes, weights, certificates, ports and endpoints change in every way that files change, while
//! clients of every kind send requests. Every request that was taken must be answered, by a single version of the
//! config, and every change must be live soon after its write.

mod clients;
mod site;

use crate::{Authority, Connection, Failure, Gateway, Net, Request, Start, Version, exchange};
use anyhow::{Context, Result, bail, ensure};
use clients::{Client, Passing};
use site::{CERTIFICATES, Change, INSTANCES, Site, Style, WEIGHTS, WORKLOADS, host};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many reloads.
    pub reloads: usize,
    /// How long a change may take from before its write until it is seen.
    pub live_within: Duration,
    /// Whether files that are written in place are truncated first, as most editors do. One that a busy machine
    /// leaves empty for more than 100 ms is read empty.
    pub truncates: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Reloads, each with its change and style, and how long it took to be live.
    reloads: Vec<(&'static str, &'static str, Duration)>,
    took: Duration,
    answered: u64,
    connections: u64,
    goodbyes: u64,
    refused: u64,
    silent: u64,
}

/// What the clients count.
pub(crate) struct Tally {
    begun: Instant,
    answered: AtomicU64,
    connections: AtomicU64,
    goodbyes: AtomicU64,
    refused: AtomicU64,
    silent: AtomicU64,
}

impl Tally {
    fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// The workloads' instances by what they answer.
pub(crate) struct Instances(BTreeMap<String, (usize, usize)>);

impl Instances {
    /// Which workload, and which of its instances.
    fn named(&self, text: &str) -> Result<(usize, usize)> {
        self.0.get(text).copied().with_context(|| format!("no workload says {text:?}"))
    }
}

/// Runs it.
///
/// # Errors
/// At the first request that fails, and when a change is not live in time.
pub async fn run(plan: Plan) -> Result<Figures> {
    let (net, folder) = (Net::reserve()?, tempfile::tempdir()?);
    let authority = Authority::new("soak")?;
    let mut origins = JoinSet::new();
    let mut names = BTreeMap::new();
    let mut sites = Vec::new();
    for style in Style::ALL {
        let mut addresses = Vec::new();
        for (n, workload) in WORKLOADS.iter().enumerate() {
            for instance in 0..INSTANCES {
                let at = SocketAddr::new(net.next()?.into(), 8080);
                let name = format!("{workload} {instance} of {}", style.name());
                origins.spawn(serve(TcpListener::bind(at).await?, name.clone()));
                names.insert(name, (n, instance));
                addresses.push(at);
            }
        }
        let issue = |_| authority.issue("soak", &[host(style)]);
        let identities = (0..CERTIFICATES).map(issue).collect::<Result<_>>()?;
        sites.push(Site::new(folder.path(), style, &plan, addresses, identities)?);
    }
    let gateway = Start::with(folder.path()).access_log("off").start(&net).await?;
    let tally = Arc::new(Tally {
        begun: Instant::now(),
        answered: AtomicU64::new(0),
        connections: AtomicU64::new(0),
        goodbyes: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        silent: AtomicU64::new(0),
    });
    let mut soak = Soak {
        plan,
        gateway,
        ip: net.gateway().into(),
        sites,
        passing: Style::ALL.map(|_| Arc::default()),
        instances: Arc::new(Instances(names)),
        tally,
        reloads: Vec::new(),
    };
    let done = soak.run().await;
    done.with_context(|| {
        format!("after {} reloads; the gateway said: {}", soak.reloads.len(), soak.gateway.said())
    })?;
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    let Tally { begun, answered, connections, goodbyes, refused, silent } = &*soak.tally;
    Ok(Figures {
        reloads: soak.reloads,
        took: begun.elapsed(),
        answered: count(answered),
        connections: count(connections),
        goodbyes: count(goodbyes),
        refused: count(refused),
        silent: count(silent),
    })
}

struct Soak {
    plan: Plan,
    gateway: Gateway,
    ip: IpAddr,
    sites: Vec<Site>,
    passing: [Arc<Passing>; Style::ALL.len()],
    instances: Arc<Instances>,
    tally: Arc<Tally>,
    reloads: Vec<(&'static str, &'static str, Duration)>,
}

impl Soak {
    async fn run(&mut self) -> Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for (site, passing) in self.sites.iter().zip(&self.passing) {
            passing.opened();
            let at = (site.style, site.ports());
            for client in Client::all(self.ip, at, passing, &self.instances, (&self.tally, &stop)) {
                clients.spawn(client.run());
            }
        }
        let first = self.gateway.generation().await?;
        for n in 0..self.plan.reloads {
            // every change in every style, in an order in which neighbours differ in both
            let (style, change) = (n % Style::ALL.len(), n % Change::ALL.len());
            tokio::select! {
                biased;
                Some(ended) = clients.join_next() => bail!("a client ended: {:?}", ended?),
                reloaded = self.reload(style, Change::ALL[change]) => reloaded.with_context(|| {
                    format!("reload {n}: {}, {}", Change::ALL[change].name(), Style::ALL[style].name())
                })?,
            }
            let wanted = first + u64::try_from(n)? + 1;
            let now = self.gateway.wait_for_generation_after(wanted - 1).await?;
            ensure!(
                now == wanted,
                "generation {now} instead of {wanted} after reload {n}: a change was seen in parts"
            );
        }
        stop.store(true, Ordering::Relaxed);
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Writes a change, and waits until it is seen.
    async fn reload(&mut self, n: usize, change: Change) -> Result<()> {
        let site = &mut self.sites[n];
        if change == Change::Ports && site.open {
            self.passing[n].closes();
        }
        let begun = Instant::now();
        site.change(change)?;
        while !self.is_live(n, change).await? {
            ensure!(begun.elapsed() < self.plan.live_within, "not live after {:?}", begun.elapsed());
            sleep(Duration::from_millis(2)).await;
        }
        let (took, most) = (begun.elapsed(), self.plan.live_within);
        ensure!(took < most, "live only after {took:?}");
        if change == Change::Ports && self.sites[n].open {
            self.passing[n].opened();
        }
        self.reloads.push((change.name(), self.sites[n].style.name(), took));
        Ok(())
    }

    /// Whether what was written last is seen from outside.
    async fn is_live(&self, n: usize, change: Change) -> Result<bool> {
        let site = &self.sites[n];
        let [plain, tls] = site.ports().staying;
        let ask = Request::to((self.ip, plain).into()).host(&host(site.style));
        match change {
            Change::Route => {
                let answer = answered(&ask.path(&format!("/routes/{}", site.routes))).await?;
                Ok(answer.text() == format!("route {}", site.routes))
            }
            Change::Weights => {
                let (red, blue) = WEIGHTS[site.weights];
                let now = format!("{} {red} {blue}", site.weighed);
                Ok(answered(&ask).await?.header("x-weights") == Some(&now))
            }
            Change::Endpoints => {
                let (_, instance) = self.instances.named(&answered(&ask).await?.text())?;
                Ok(instance == site.instance)
            }
            Change::Certificate => {
                let request = Request { to: (self.ip, tls).into(), ..ask }.version(Version::Http11);
                let answer = answered(&request.tls(&host(site.style))).await?;
                Ok(answer.certificate.as_ref() == Some(&site.identities[site.certificate].der))
            }
            Change::Ports => {
                for port in site.ports().passing {
                    if accepts((self.ip, port).into()).await? != site.open {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }
}

/// The answer to a request of our own, which must be 200 as well.
async fn answered(request: &Request) -> Result<crate::Answer> {
    let answer = exchange(request).await?;
    ensure!(answer.status == 200, "{} got {}: {}", request.path, answer.status, answer.text());
    Ok(answer)
}

/// Whether something listens there. While a socket is closing it says neither.
async fn accepts(to: SocketAddr) -> Result<bool> {
    match timeout(Duration::from_millis(20), Connection::open(&Request::to(to))).await {
        Ok(Err(Failure::Refused)) => Ok(false),
        Ok(Err(e)) => Err(e.into()),
        Ok(Ok(_)) | Err(_) => Ok(true),
    }
}

/// A workload that answers every request with its name.
async fn serve(listener: TcpListener, name: String) {
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
    let answer: Arc<str> = answer.into();
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(converse(stream, answer.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn converse(mut stream: TcpStream, answer: Arc<str>) {
    let _ = stream.set_nodelay(true);
    let mut read = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut read).await {
        // one request at a time, without body
        if read.ends_with(b"\r\n\r\n") {
            read.clear();
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

impl Figures {
    /// Requests that were answered.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Connections and requests that were told to go elsewhere by listeners that went.
    pub fn goodbyes(&self) -> u64 {
        self.goodbyes
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (n, seconds) = (self.reloads.len(), self.took.as_secs_f64());
        let rate = Duration::from_secs(1).mul_f64(self.answered as f64 / seconds).as_secs();
        writeln!(f, "{n} reloads in {seconds:.1} s; {} requests ({rate}/s), 0 failed", self.answered)?;
        writeln!(
            f,
            "{} connections; of listeners that went: {} goodbyes, {} silent connections closed, {} refused",
            self.connections, self.goodbyes, self.silent, self.refused
        )?;
        writeln!(f, "live after, in ms:      reloads  median     p99     max")?;
        let all = self.reloads.iter().map(|r| r.2);
        line(f, "all", all.collect())?;
        for style in Style::ALL {
            let mine = self.reloads.iter().filter(|r| r.1 == style.name());
            line(f, style.name(), mine.map(|r| r.2).collect())?;
        }
        for change in Change::ALL {
            let mine = self.reloads.iter().filter(|r| r.0 == change.name());
            line(f, change.name(), mine.map(|r| r.2).collect())?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, mut times: Vec<Duration>) -> fmt::Result {
    times.sort_unstable();
    let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1)));
    let ms = |share: usize| at(share).map_or(0.0, |t| t.as_secs_f64() * 1000.0);
    writeln!(f, "  {name:<20} {:>9} {:>7.0} {:>7.0} {:>7.0}", times.len(), ms(50), ms(99), ms(100))
}
