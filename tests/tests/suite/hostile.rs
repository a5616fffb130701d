//! Hostile HTTP/1 requests: what the gateway answers, and what it lets through to a workload.

mod http2;
mod paths;
mod script;
mod upstream;
mod windows;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_tests::{Gateway, Net, Recorder, Start, workspace};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Cases played at once, besides those that wait.
const LANES: usize = 24;
/// How long a case waits that is about a timeout; longer than the gateway's header timeout.
const WAIT: Duration = Duration::from_secs(35);
/// The first port of the gateway's listeners, one for each lane.
const PORT: u16 = 20000;

#[derive(Deserialize, Clone, Copy, PartialEq, Debug)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Reject,
    Normalize,
    Forward,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    expected: Expected,
    strict: bool,
    bytes_b64: String,
    #[serde(default)]
    acceptable: Vec<Expected>,
    #[serde(default)]
    must_close: bool,
    invariants: Vec<String>,
    max_upstream_requests: usize,
    timing: Option<String>,
}

impl Case {
    fn bytes(&self) -> Result<Vec<u8>> {
        STANDARD.decode(&self.bytes_b64).with_context(|| self.name.clone())
    }
}

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Outcome {
    Rejected,
    /// Rejected on a connection that should have ended with it.
    LeftOpen,
    /// Rejected, but a whole request had gone upstream.
    TooLate,
    Passed,
    AnsweredHere,
    Hung,
}

impl Outcome {
    fn is(self, expected: Expected) -> bool {
        match expected {
            Expected::Reject => self == Outcome::Rejected,
            Expected::Normalize | Expected::Forward => {
                matches!(self, Outcome::Passed | Outcome::AnsweredHere)
            }
        }
    }
}

struct Verdict {
    case: Case,
    outcome: Outcome,
    statuses: Vec<u16>,
    violated: Vec<String>,
}

impl Verdict {
    fn hit(&self) -> bool {
        self.outcome.is(self.case.expected)
    }

    fn floor(&self) -> bool {
        let acceptable = if self.case.strict { &[] } else { self.case.acceptable.as_slice() };
        self.hit() || acceptable.iter().any(|e| self.outcome.is(*e))
    }
}

/// A listener of the gateway, and the workload behind it.
struct Lane {
    gateway: SocketAddr,
    client: IpAddr,
    workload: Recorder,
}

/// Sends bytes and reads until the connection ends or stays silent: the answer, and whether it ended.
async fn talk(lane: &Lane, bytes: &[u8], slow: bool) -> Result<(Vec<u8>, bool)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(lane.client, 0))?;
    let (mut from, mut to) = socket.connect(lane.gateway).await?.into_split();
    let bytes = bytes.to_vec();
    // the gateway may refuse before it has read all
    let sending = tokio::spawn(async move {
        let _ = to.write_all(&bytes).await;
        to
    });
    let began = Instant::now();
    let limit = if slow { WAIT } else { Duration::from_secs(6) };
    let (mut got, mut buffer) = (Vec::new(), [0; 16 << 10]);
    let mut patience = if slow { WAIT } else { Duration::from_secs(2) };
    let ended = loop {
        let left = limit.saturating_sub(began.elapsed());
        match tokio::time::timeout(patience.min(left), from.read(&mut buffer)).await {
            Err(_) => break false,
            Ok(Ok(0) | Err(_)) => break true,
            Ok(Ok(n)) => got.extend_from_slice(&buffer[..n]),
        }
        if !slow {
            let refused = upstream::statuses(&got).last().is_some_and(|s| *s >= 400);
            patience = Duration::from_millis(if refused { 3000 } else { 700 });
        }
    };
    sending.abort();
    Ok((got, ended))
}

async fn play(lane: &Lane, case: Case) -> Result<Verdict> {
    lane.workload.reset();
    let sent = case.bytes()?;
    let (got, closed) = talk(lane, &sent, case.timing.is_some()).await?;
    lane.workload.settled().await;
    let reached = lane.workload.connections();
    let statuses = upstream::statuses(&got);
    let refused = statuses.iter().any(|s| *s >= 400);
    let proxied = upstream::contains(&got.to_ascii_lowercase(), b"x-recorder: 1");
    let ends = closed || !case.must_close;
    let outcome = if reached.is_empty() {
        match (refused || closed, statuses.is_empty()) {
            (true, _) if ends => Outcome::Rejected,
            (true, _) => Outcome::LeftOpen,
            (false, false) => Outcome::AnsweredHere,
            (false, true) => Outcome::Hung,
        }
    } else if refused && !proxied || statuses.is_empty() && closed {
        let complete = reached.iter().any(|r| upstream::complete(r).0 > 0);
        if complete || !ends { Outcome::TooLate } else { Outcome::Rejected }
    } else {
        Outcome::Passed
    };
    let owned = case.invariants.iter().any(|i| i.starts_with("proxy-owned value"));
    let mut violated = upstream::violations(&reached, case.max_upstream_requests);
    if owned {
        violated.extend(upstream::taken_over(&sent, &reached));
    }
    Ok(Verdict { case, outcome, statuses, violated })
}

/// Routes every lane's listener to its recorder.
fn config(lanes: &[(u16, SocketAddr)]) -> String {
    let mut text = String::new();
    for (port, workload) in lanes {
        let _ = write!(
            text,
            r#"apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: lane-{port}}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: {port}, name: http, protocol: HTTP}}
    hosts: ["*"]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: lane-{port}}}
spec:
  hosts: ["*"]
  gateways: [lane-{port}]
  http:
  - match: [{{headers: {{x-pad: {{}}}}}}]
    fault: {{delay: {{percentage: {{value: 100}}, fixedDelay: 60s}}}}
    route: [{{destination: {{host: lane-{port}.example}}}}]
  - route: [{{destination: {{host: lane-{port}.example}}}}]
    retries: {{attempts: 0}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: lane-{port}}}
spec:
  hosts: [lane-{port}.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: {}, ports: {{http: {}}}}}]
---
"#,
            workload.ip(),
            workload.port()
        );
    }
    text
}

/// Plays all cases: those that wait each on a lane of its own, the others on [`LANES`] of them.
async fn play_all(cases: Vec<Case>, lanes: Vec<Lane>) -> Result<Vec<Verdict>> {
    let (slow, quick): (Vec<_>, Vec<_>) = cases.into_iter().partition(|c| c.timing.is_some());
    let mut lanes = lanes.into_iter();
    let mut tasks = JoinSet::new();
    for case in slow {
        let lane = lanes.next().context("too few lanes")?;
        tasks.spawn(async move { play(&lane, case).await });
    }
    let free = Arc::new(std::sync::Mutex::new(lanes.collect::<Vec<_>>()));
    let turns = Arc::new(Semaphore::new(LANES));
    for case in quick {
        let (free, turns) = (free.clone(), turns.clone());
        tasks.spawn(async move {
            let _turn = turns.acquire_owned().await?;
            let lane = free.lock().ok().and_then(|mut f| f.pop()).context("no free lane")?;
            let verdict = play(&lane, case).await;
            free.lock().ok().context("lanes")?.push(lane);
            verdict
        });
    }
    tasks.join_all().await.into_iter().collect()
}

/// Starts a gateway with that many listeners, and a workload behind each.
async fn start_lanes(net: &Net, folder: &Path, count: usize, start: Start) -> Result<(Vec<Lane>, Gateway)> {
    let client = IpAddr::V4(net.next()?);
    let (mut lanes, mut plan) = (Vec::new(), Vec::new());
    for port in PORT..PORT + u16::try_from(count)? {
        let at = SocketAddr::new(net.next()?.into(), 8080);
        let gateway = SocketAddr::new(Ipv4Addr::into(net.gateway()), port);
        lanes.push(Lane { gateway, client, workload: Recorder::start(at).await? });
        plan.push((port, at));
    }
    std::fs::write(folder.join("lanes.yaml"), config(&plan))?;
    let gateway = start.start(net).await?;
    Ok((lanes, gateway))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_requests_are_refused_or_made_canonical() -> Result<()> {
    let corpus = std::fs::read_to_string(workspace().join("tests/hostile/http1.jsonl"))?;
    let cases: Vec<Case> = corpus.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(cases.len() >= 256, "the corpus lost cases: {}", cases.len());
    let count = LANES + cases.iter().filter(|c| c.timing.is_some()).count();
    let (net, folder) = (Net::reserve()?, tempfile::tempdir()?);
    let (lanes, mut gateway) =
        start_lanes(&net, folder.path(), count, Start::with(folder.path()).access_log("off")).await?;
    let began = Instant::now();
    let verdicts = play_all(cases, lanes).await?;
    ensure!(gateway.ended().is_none(), "the gateway ended: {}", gateway.said());
    report(&verdicts, began.elapsed())
}

/// Names every miss, and holds the figures against the passing mark.
fn report(verdicts: &[Verdict], took: Duration) -> Result<()> {
    let mut text = String::new();
    for v in verdicts.iter().filter(|v| !v.hit() || !v.violated.is_empty()) {
        let kind = match (v.case.strict, v.floor()) {
            (true, _) => "strict",
            (_, true) => "target",
            (_, false) => "floor",
        };
        let _ = writeln!(
            text,
            "hostile {}: {kind}: want {:?}, got {:?} {:?} {}",
            v.case.name,
            v.case.expected,
            v.outcome,
            v.statuses,
            v.violated.join("; ")
        );
    }
    let count = |f: &dyn Fn(&Verdict) -> bool| verdicts.iter().filter(|v| f(v)).count();
    let (strict_hit, strict) = (count(&|v| v.case.strict && v.hit()), count(&|v| v.case.strict));
    let (target_hit, target) = (count(&|v| !v.case.strict && v.hit()), count(&|v| !v.case.strict));
    let floor = count(&Verdict::floor);
    let violated = count(&|v| !v.violated.is_empty());
    let _ = writeln!(
        text,
        "hostile: strict {strict_hit}/{strict}, floor {floor}/{}, invariants violated {violated}, \
         target {target_hit}/{target}, in {:.0} s",
        verdicts.len(),
        took.as_secs_f64()
    );
    super::say(&text);
    ensure!(strict_hit == strict, "strict cases missed");
    ensure!(floor == verdicts.len(), "outcomes below the floor");
    ensure!(violated == 0, "invariants violated");
    ensure!(target_hit * 100 >= target * 95, "less than 95 % of the target");
    Ok(())
}
