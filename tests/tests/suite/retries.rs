//! Retries and timeouts towards workloads that misbehave: what the log says of each, how much load
//! retries add where everything fails, and how exact a timeout is.

use crate::reload::Site;
use crate::say;
use anyhow::{Context, Result, ensure};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidegate_tests::{Connection, Failure, Gateway, Net, Request, Start, exchange, get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(20);

/// How a workload answers a request.
#[derive(Clone, Copy)]
pub(crate) enum Manner {
    /// With 503, after a while.
    Unavailable,
    /// Not at all.
    Silent,
    /// With 200, later than anyone waits.
    Late,
}

/// When those answer who are late.
const LATE: Duration = Duration::from_secs(20);

/// Counts the requests that come to an address.
pub(crate) async fn workload(
    at: SocketAddr,
    manner: Manner,
    tasks: &mut JoinSet<()>,
) -> Result<Arc<AtomicUsize>> {
    let listener = TcpListener::bind(at).await?;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tasks.spawn(async move {
        let mut serving = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            serving.spawn(serve(stream, manner, counted.clone()));
        }
    });
    Ok(count)
}

async fn serve(mut stream: TcpStream, manner: Manner, count: Arc<AtomicUsize>) {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await {
            Ok(n) if n > 0 => seen.extend_from_slice(&buffer[..n]),
            _ => return,
        }
        // bodies are of no interest: what they are made of ends no head
        while let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
            seen.drain(..end + 4);
            count.fetch_add(1, Ordering::Relaxed);
            let (after, status) = match manner {
                Manner::Unavailable => (Duration::from_millis(2), "503 Service Unavailable"),
                Manner::Late => (LATE, "200 OK"),
                Manner::Silent => continue,
            };
            tokio::time::sleep(after).await;
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// A rule for a path, and what it has beside its destination.
pub(crate) fn rule(path: &str, host: &str, more: &str) -> String {
    format!(
        "  - {{match: [{{uri: {{prefix: {path}}}}}], route: [{{destination: {{host: {host}.example}}}}], {more}}}\n"
    )
}

pub(crate) fn entry(host: &str, at: SocketAddr) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {host}}}\nspec:\n  \
         hosts: [{host}.example]\n  resolution: STATIC\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  \
         endpoints: [{{address: {}, ports: {{http: {}}}}}]\n",
        at.ip(),
        at.port()
    )
}

struct World {
    _net: Net,
    _site: Site,
    gateway: Gateway,
    failing: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl World {
    async fn new() -> Result<World> {
        let (net, site, mut tasks) = (Net::reserve()?, Site::new()?, JoinSet::new());
        let at = || anyhow::Ok(SocketAddr::new(IpAddr::V4(net.next()?), PORT));
        let (down, failing_at, silent_at) = (at()?, at()?, at()?);
        let failing = workload(failing_at, Manner::Unavailable, &mut tasks).await?;
        workload(silent_at, Manner::Silent, &mut tasks).await?;
        let rules = [
            rule("/load", "failing", "retries: {attempts: 2, retryOn: '503'}"),
            rule("/failing", "failing", "retries: {attempts: 1, backoff: 1ms, retryOn: '503'}"),
            rule("/none", "failing", "retries: {attempts: 0}"),
            rule("/down", "down", "timeout: 30s"),
            rule("/slow", "silent", "timeout: 100ms"),
            rule("/try", "silent", "retries: {attempts: 1, perTryTimeout: 50ms, retryOn: reset}"),
        ];
        let routes = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: routes}\nspec:\n  \
            hosts: ['*']\n  gateways: [site]\n  http:\n";
        let entries =
            [("down", down), ("failing", failing_at), ("silent", silent_at)].map(|(h, at)| entry(h, at));
        site.write("routes.yaml", &(routes.to_owned() + &rules.concat() + &entries.concat()))?;
        let start = Start::with(site.path()).access_log("json").arg("--retry-body").arg("1000");
        let gateway = start.start(&net).await?;
        Ok(World { _net: net, _site: site, gateway, failing, _tasks: tasks })
    }

    fn request(&self, path: &str) -> Request {
        Request::to(self.gateway.at(PORT)).host("retries.example").path(path)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_says_how_it_was_tried() -> Result<()> {
    let world = World::new().await?;
    let body = |size: usize| Some(vec![b'x'; size]);
    for (path, body, status, flags, details, attempts) in [
        ("/failing", None, 503, "URX", "via_upstream", 2),
        ("/failing/kept", body(900), 503, "URX", "via_upstream", 2),
        ("/failing/large", body(70_000), 503, "-", "via_upstream{not_retried:request_body_not_kept}", 1),
        ("/none", None, 503, "-", "via_upstream", 1),
        (
            "/down",
            None,
            503,
            "UF,URX",
            "upstream_reset_before_response_started{remote_connection_failure|connection_refused}",
            0,
        ),
        ("/slow", None, 504, "UT", "response_timeout", 0),
        ("/try", None, 504, "UT,URX", "upstream_per_try_timeout", 0),
    ] {
        let (before, mark) = (world.failing.load(Ordering::Relaxed), world.gateway.log.count());
        let mut request = world.request(path).method("POST");
        // what a client says about retries and time counts for nothing
        request = request.header("x-envoy-max-retries", "9").header("x-envoy-retry-on", "5xx");
        request = request.header("x-envoy-upstream-rq-timeout-ms", "1");
        request.body = body;
        let answer = exchange(&request).await.map_err(|e| anyhow::anyhow!("{path}: {e}"))?;
        ensure!(answer.status == status, "{path}: {}", answer.status);
        if status == 504 {
            ensure!(answer.text() == "upstream request timeout", "{path}: {}", answer.text());
        }
        if path == "/down" {
            let why = "headers. retried and the latest reset reason: remote connection failure";
            ensure!(answer.text().ends_with(why), "{path}: {}", answer.text());
        }
        let line = world.gateway.log.find(mark, PATIENCE, |l| l.contains(path)).await.context(path)?;
        let line: serde_json::Value = serde_json::from_str(&line)?;
        ensure!(
            line["response_flags"] == flags && line["response_code_details"] == details,
            "{path}: {line}"
        );
        let tried = world.failing.load(Ordering::Relaxed) - before;
        ensure!(tried == attempts, "{path}: {tried} tries, not {attempts}");
    }
    let metrics = get(world.gateway.status(), "localhost", "/stats/prometheus").await;
    let metrics = metrics.map_err(|e| anyhow::anyhow!("{e}"))?.text();
    for count in ["result=\"sent\"} 5", "result=\"retry_limit\"} 4", "result=\"request_body_not_kept\"} 1"] {
        let line = format!("tidegate_retries_total{{{count}\n");
        ensure!(metrics.contains(&line), "{line} is not in {metrics}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_add_little_to_an_upstream_that_fails_always() -> Result<()> {
    const CLIENTS: usize = 100;
    const EACH: usize = 30;
    let world = World::new().await?;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let request = world.request("/load");
        clients.spawn(async move {
            let mut connection = Connection::open(&request).await?;
            for _ in 0..EACH {
                connection.send(&request).await?;
            }
            Ok::<_, Failure>(())
        });
    }
    for sent in clients.join_all().await {
        sent.map_err(|e| anyhow::anyhow!("{e}"))?;
    }
    let came = world.failing.load(Ordering::Relaxed);
    let factor = came as f64 / (CLIENTS * EACH) as f64;
    say(&format!("retries: {CLIENTS} clients, all fails: {factor:.3} times the requests of the clients\n"));
    ensure!(factor > 1.0 && factor <= 1.2, "{came} requests for {}", CLIENTS * EACH);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_are_exact() -> Result<()> {
    const REQUESTS: usize = 200;
    let limit = Duration::from_millis(100);
    let world = World::new().await?;
    let mut late = Vec::new();
    for _ in 0..REQUESTS / 10 {
        let mut ten = JoinSet::new();
        for _ in 0..10 {
            let request = world.request("/slow");
            ten.spawn(async move {
                let mut connection = Connection::open(&request).await?;
                let began = Instant::now();
                let answer = connection.send(&request).await?;
                Ok::<_, Failure>((answer.status, began.elapsed()))
            });
        }
        for answered in ten.join_all().await {
            let (status, took) = answered.map_err(|e| anyhow::anyhow!("{e}"))?;
            ensure!(status == 504 && took >= limit, "{status} after {took:?}");
            late.push(took - limit);
        }
    }
    late.sort();
    let median = late[REQUESTS / 2];
    say(&format!("timeouts: {median:?} late in the median, {:?} at worst\n", late[REQUESTS - 1]));
    // what a busy machine adds is not the gateway's
    ensure!(median < Duration::from_secs(1), "{median:?} late");
    Ok(())
}
