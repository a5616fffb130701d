//! Hostile HTTP/2 clients: what the gateway answers them, what it lets through, and what that costs it.

use super::script::{Heard, Item, frames, long_head, preface, whole_requests};
use super::{LANES, Lane, WAIT, start_lanes, upstream};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tidegate_tests::{Gateway, Lines, Start, get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long a client waits for something to judge by.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long it listens on after that.
const AFTER: Duration = Duration::from_secs(1);
/// How soon a line must be in the access log.
const LOGGED: Duration = Duration::from_secs(10);
/// The most requests of a connection that may be in hand.
const STREAMS: usize = 100;

/// Cases that are not held against us, and why.
const NOT_HELD: [(&str, &str); 2] = [
    ("preface-h1-request", "the port speaks HTTP/1 too, and it is a request of that: 200 is right"),
    (
        "extended-connect-not-enabled",
        "SETTINGS_ENABLE_CONNECT_PROTOCOL is sent (RFC 8441 3), so the request is one to pass on; the workload's \
         200 is no upgrade, and is not passed on as one",
    ),
];

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
enum Expected {
    Ok,
    Ignored,
    StreamError,
    ConnError,
    Reject,
    Limit,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    expected: Expected,
    strict: bool,
    frames: Vec<Item>,
    raw_preface: Option<String>,
    #[serde(default)]
    no_settings: bool,
    #[serde(default)]
    acceptable: Vec<Expected>,
    #[serde(default)]
    bound: String,
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Answered,
    /// An answer in HTTP/1.
    Http1,
    /// An answer of 400 or more.
    Refused,
    Reset,
    Ended,
    Silence,
    /// It should have been refused, and a whole request went upstream.
    Forwarded,
}

impl Outcome {
    fn of(heard: &Heard) -> Self {
        if let Some(status) = heard.http1 {
            return if status >= 400 { Outcome::Refused } else { Outcome::Http1 };
        }
        let refused = heard.statuses.iter().any(|s| *s >= 400);
        let only_answers = heard.statuses.iter().all(|s| *s == 200);
        match heard {
            Heard { goaway: Some(1..), .. } => Outcome::Ended,
            Heard { closed: true, resets: 0, statuses, .. } if statuses.is_empty() => Outcome::Ended,
            Heard { resets: 1.., .. } if only_answers => Outcome::Reset,
            _ if refused => Outcome::Refused,
            _ if heard.statuses.is_empty() => Outcome::Silence,
            _ => Outcome::Answered,
        }
    }

    fn is(self, expected: Expected) -> bool {
        use Outcome::{Answered, Ended, Refused, Reset, Silence};
        let outcomes: &[Outcome] = match expected {
            Expected::Ok => &[Answered],
            Expected::Ignored => &[Answered, Silence],
            Expected::StreamError => &[Reset, Ended],
            Expected::ConnError => &[Ended],
            Expected::Reject => &[Reset, Ended, Refused],
            Expected::Limit => &[Answered, Ended, Reset, Refused, Silence],
        };
        outcomes.contains(&self)
    }
}

struct Verdict {
    case: Case,
    outcome: Outcome,
    violated: Vec<String>,
}

impl Verdict {
    fn hit(&self) -> bool {
        self.outcome.is(self.case.expected) && self.violated.is_empty()
    }

    fn floor(&self) -> bool {
        let acceptable = if self.case.strict { &[] } else { self.case.acceptable.as_slice() };
        self.hit() || acceptable.iter().any(|e| self.outcome.is(*e))
    }

    fn held(&self) -> bool {
        !NOT_HELD.iter().any(|(name, _)| *name == self.case.name)
    }
}

/// The gateway's memory, in KiB.
pub(super) fn memory(gateway: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{gateway}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Sends bytes and listens until the connection ends, or is silent after something that can be judged, or for `silence`.
/// Also says how far the gateway's memory grew meanwhile, in KiB.
async fn talk(
    lane: &Lane,
    bytes: Vec<u8>,
    silence: Option<Duration>,
    gateway: u32,
) -> Result<(Heard, usize)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(lane.client, 0))?;
    let (mut from, mut to) = socket.connect(lane.gateway).await?.into_split();
    let (before, mut most) = (memory(gateway), 0);
    let sending = tokio::spawn(async move {
        // it may be cut off before it has sent all
        let _ = to.write_all(&bytes).await;
        to
    });
    let (mut heard, mut buffer, mut last) = (Heard::default(), vec![0; 64 << 10], Instant::now());
    loop {
        let usual = if heard.anything() { AFTER } else { PATIENCE };
        let patience = silence.unwrap_or(usual);
        let read = tokio::time::timeout(Duration::from_millis(100), from.read(&mut buffer)).await;
        most = most.max(memory(gateway));
        match read {
            Err(_) if last.elapsed() < patience => continue,
            Err(_) => break,
            Ok(Ok(0) | Err(_)) => {
                heard.closed = true;
                break;
            }
            Ok(Ok(n)) => heard.take(&buffer[..n]),
        }
        last = Instant::now();
    }
    sending.abort();
    Ok((heard, most.saturating_sub(before)))
}

/// Plays a case; `gateway` is its process, `log` its access log.
async fn play(lane: &Lane, case: Case, gateway: u32, log: &Lines) -> Result<Verdict> {
    let mut bytes = preface(case.raw_preface.as_deref(), !case.no_settings)?;
    bytes.extend(frames(&case.frames, 0)?);
    lane.workload.reset();
    let logged = log.count();
    let ends = case.bound.starts_with("closed");
    let (heard, _) = talk(lane, bytes, ends.then_some(WAIT), gateway).await?;
    lane.workload.settled().await;
    let reached = lane.workload.connections();
    let mut outcome = Outcome::of(&heard);
    let one = whole_requests(&case.frames) <= 1;
    if case.expected == Expected::Reject
        && one
        && outcome != Outcome::Answered
        && reached.iter().any(|r| upstream::complete(r).0 > 0)
    {
        outcome = Outcome::Forwarded;
    }
    let mut violated = upstream::violations(&reached, usize::MAX);
    let peak = lane.workload.most_open();
    if peak > STREAMS {
        violated.push(format!("{peak} requests in hand at once"));
    }
    if ends && !matches!(outcome, Outcome::Ended | Outcome::Reset | Outcome::Refused) {
        violated.push("neither closed nor reset".to_owned());
    }
    if matches!(outcome, Outcome::Ended | Outcome::Reset | Outcome::Refused) {
        let port = format!(":{}\"", lane.gateway.port());
        if log.find(logged, LOGGED, |l| l.contains(&port)).await.is_none() {
            violated.push("no line in the access log".to_owned());
        }
    }
    Ok(Verdict { case, outcome, violated })
}

/// Plays the cases side by side.
async fn play_all(cases: Vec<Case>, lanes: Vec<Lane>, gateway: &Gateway) -> Result<Vec<Verdict>> {
    let free = Arc::new(Mutex::new(lanes));
    let turns = Arc::new(Semaphore::new(LANES));
    let (process, log) = (gateway.id(), gateway.log.clone());
    let mut tasks = JoinSet::new();
    for case in cases {
        let (free, turns, log) = (free.clone(), turns.clone(), log.clone());
        tasks.spawn(async move {
            let _turn = turns.acquire_owned().await?;
            let lane = free.lock().unwrap_or_else(PoisonError::into_inner).pop().context("no free lane")?;
            let verdict = play(&lane, case, process, &log).await;
            free.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
            verdict
        });
    }
    tasks.join_all().await.into_iter().collect()
}

/// The MiB that a bound allows the gateway's memory to grow by.
fn allowed(bound: &str) -> Option<usize> {
    let (_, rest) = bound.split_once("RSS growth < ")?;
    rest.split_once(" MiB")?.0.parse().ok()
}

/// Resident memory grows by whole huge pages, in KiB.
const HUGE_PAGE: usize = 2 << 10;

/// Plays cases whose bound is one of memory again, one by one: what stays after the first time is what counts,
/// since the process may keep what it has used.
async fn measure(cases: &[Case], lane: &Lane, gateway: &Gateway) -> Result<String> {
    let mut too_much = String::new();
    for case in cases {
        let Some(most) = allowed(&case.bound) else { continue };
        let mut bytes = preface(case.raw_preface.as_deref(), !case.no_settings)?;
        bytes.extend(frames(&case.frames, 0)?);
        let mut grown = usize::MAX;
        for _ in 0..3 {
            grown = grown.min(talk(lane, bytes.clone(), None, gateway.id()).await?.1);
            if grown <= (most << 10) + HUGE_PAGE {
                break;
            }
        }
        if grown > (most << 10) + HUGE_PAGE {
            let _ = writeln!(too_much, "{}: memory grew by {grown} KiB, not {most} MiB", case.name);
        }
    }
    Ok(too_much)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_clients_of_http2_are_refused_within_bounds() -> Result<()> {
    let (net, folder) = (tidegate_tests::Net::reserve()?, tempfile::tempdir()?);
    let cases = read()?;
    ensure!(cases.len() >= 120, "the corpus lost cases: {}", cases.len());
    let (lanes, mut gateway) =
        start_lanes(&net, folder.path(), LANES + 1, Start::with(folder.path()).access_log("json")).await?;
    let began = Instant::now();
    let mut lanes = lanes;
    let alone = lanes.pop().context("no lanes")?;
    let verdicts = play_all(cases, lanes, &gateway).await?;
    let too_much = measure(&read()?, &alone, &gateway).await?;
    heads_have_a_budget(&alone, &gateway).await?;
    ensure!(gateway.ended().is_none(), "the gateway ended: {}", gateway.said());
    report(&verdicts, began.elapsed())?;
    refusals_are_counted(&gateway).await?;
    ensure!(too_much.is_empty(), "{too_much}");
    Ok(())
}

/// A client that opens many streams with long heads, none of which is answered soon, is told that they are too much, and
/// the gateway does not hold them all.
async fn heads_have_a_budget(lane: &Lane, gateway: &Gateway) -> Result<()> {
    const STREAMS: u32 = 90;
    const LONG: usize = 30 << 10;
    let mut bytes = preface(None, true)?;
    for n in 0..STREAMS {
        bytes.extend(long_head(2 * n + 1, LONG));
    }
    let logged = gateway.log.count();
    let (heard, _) = talk(lane, bytes, Some(PATIENCE), gateway.id()).await?;
    let refused = heard.statuses.iter().filter(|s| **s == 431).count();
    let held = STREAMS as usize - refused;
    ensure!(refused > 0 && held * LONG <= 1 << 20, "{refused} of {STREAMS} were refused: {heard:?}");
    let line = gateway.log.find(logged, LOGGED, |l| l.contains("connection_header_memory")).await;
    ensure!(line.is_some(), "what was refused is not logged");
    Ok(())
}

fn read() -> Result<Vec<Case>> {
    let corpus = std::fs::read_to_string(tidegate_tests::workspace().join("tests/hostile/http2.jsonl"))?;
    Ok(corpus.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// What was refused before it was a request is in the metrics and in the log, with its reason.
async fn refusals_are_counted(gateway: &Gateway) -> Result<()> {
    let text = get(gateway.status(), "status", "/stats/prometheus").await?.text();
    let series: HashMap<_, _> = text.lines().filter_map(|l| l.rsplit_once(' ')).collect();
    for (what, code) in [
        ("stream", "PROTOCOL_ERROR"),
        ("stream", "REFUSED_STREAM"),
        ("connection", "PROTOCOL_ERROR"),
        ("connection", "FRAME_SIZE_ERROR"),
        ("connection", "ENHANCE_YOUR_CALM"),
    ] {
        let name = |a: &str, b: &str| format!("tidegate_http2_refused_total{{{a},{b}}}");
        let (code, what) = (format!("code=\"{code}\""), format!("what=\"{what}\""));
        let count = series.get(&*name(&code, &what)).or(series.get(&*name(&what, &code)));
        ensure!(count.is_some_and(|n| *n != "0"), "no {what} {code} in the metrics: {text}");
    }
    let lines = gateway.log.since(0);
    for why in
        ["no_settings", "pseudo_field_in_trailers", "forbidden_trailer", "http2.frame_size_error", "not_http"]
    {
        ensure!(lines.iter().any(|l| l.contains(why) && l.contains("\"DPE\"")), "no {why} in the access log");
    }
    Ok(())
}

/// Names every miss, and holds the figures against the passing mark.
fn report(verdicts: &[Verdict], took: Duration) -> Result<()> {
    let mut text = String::new();
    for v in verdicts.iter().filter(|v| !v.hit()) {
        let kind = match (v.held(), v.case.strict, v.floor()) {
            (false, ..) => "not held",
            (_, true, _) => "strict",
            (_, _, true) => "target",
            (_, _, false) => "floor",
        };
        let said = v.violated.join("; ");
        let _ = writeln!(
            text,
            "hostile http2 {}: {kind}: want {:?}, got {:?} {said}",
            v.case.name, v.case.expected, v.outcome
        );
    }
    let count = |f: &dyn Fn(&Verdict) -> bool| verdicts.iter().filter(|v| v.held()).filter(|v| f(v)).count();
    let (strict_hit, strict) = (count(&|v| v.case.strict && v.hit()), count(&|v| v.case.strict));
    let (target_hit, target) = (count(&|v| !v.case.strict && v.hit()), count(&|v| !v.case.strict));
    let (floor, all) = (count(&Verdict::floor), count(&|_| true));
    let violated = count(&|v| !v.violated.is_empty());
    let _ = writeln!(
        text,
        "hostile http2: strict {strict_hit}/{strict}, floor {floor}/{all}, invariants violated {violated}, \
         target {target_hit}/{target}, in {:.0} s",
        took.as_secs_f64()
    );
    crate::say(&text);
    ensure!(strict_hit == strict, "strict cases missed");
    ensure!(floor == all, "outcomes below the floor");
    ensure!(violated == 0, "invariants violated");
    ensure!(target_hit * 100 >= target * 95, "less than 95 % of the target");
    Ok(())
}
