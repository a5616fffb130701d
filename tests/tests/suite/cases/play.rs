//! The steps of a case, sent over real sockets.

use super::check::{Check, Seen};
use super::schema::{Case, Expect, RequestSpec, Step, texts};
use super::world::World;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tidegate_tests::{Answer, Connection, Failure, Host, Request, SynCounter, Tls, Version, exchange};

/// Plays a case; says what did not hold.
pub(super) async fn play(case: &Value) -> Result<(), Vec<String>> {
    let case: Case =
        serde_json::from_value(case.clone()).map_err(|e| vec![format!("not understood: {e}")])?;
    if case.steps.is_empty() {
        return Err(vec!["no steps".into()]);
    }
    let mut world = World::start(&case).await.map_err(|e| vec![format!("{e:#}")])?;
    let mut failures = Vec::new();
    let mut jar = BTreeMap::new();
    for step in &case.steps {
        match play_step(&mut world, step, &mut jar).await {
            Ok(bad) => failures.extend(bad.iter().map(|b| format!("{}: {b}", step.name))),
            Err(e) => failures.push(format!("{}: {e:#}", step.name)),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

async fn play_step(
    world: &mut World,
    step: &Step,
    jar: &mut BTreeMap<String, String>,
) -> Result<Vec<String>> {
    let expect = &step.expect;
    let behaviour = step.request.upstream_response.clone().unwrap_or_default();
    world.backend.begin(&behaviour, &world.failing);
    let mut attempts = match (world.refusing.as_slice(), expect.upstream_attempts) {
        ([one], Some(_)) => Some(SynCounter::new(*one)?),
        ([_, ..], Some(_)) => bail!("attempts are counted at one refusing endpoint only"),
        _ => None,
    };
    let logged = expect.response_flags.is_some() || !expect.response_flags_include.is_empty();
    let mark = if logged { world.gateway.log.settled(Duration::from_millis(250)).await } else { 0 };
    let wanted = sample_size(expect, step.request.count.unwrap_or(1));
    let mut results = Vec::new();
    // one request without an answer decides the step
    while results.len() < wanted && !matches!(results.last(), Some(Err(_))) {
        results.push(send(world, &step.request, jar).await?);
    }
    if let Some(mirrors) = &expect.mirrors {
        let whole = mirrors.iter().filter(|m| m.percent >= 100.0).count();
        await_copies(world, wanted * (1 + whole)).await;
    }
    let flags = if logged { Some(log_lines(world, mark, results.len()).await) } else { None };
    if let Some(status) = world.gateway.ended() {
        bail!("the gateway ended with {status}: {}", world.gateway.said());
    }
    let seen = Seen {
        results,
        hits: world.backend.hits(),
        flags,
        refused_attempts: attempts.as_mut().map(SynCounter::count),
    };
    Check::new(world, &step.request, expect, &seen).run()
}

/// At least as many requests as make the tolerance four standard deviations wide.
fn sample_size(expect: &Expect, count: usize) -> usize {
    let tolerance = expect.tolerance_percent;
    let split = expect.split.iter().map(|s| (s.percent, s.tolerance_percent.unwrap_or(tolerance)));
    let statuses = expect.statuses.iter().map(|s| (s.percent, tolerance));
    let mirrors = expect.mirrors.iter().flatten().map(|m| (m.percent, tolerance));
    let random = split.chain(statuses).chain(mirrors).filter(|(p, _)| *p > 0.0 && *p < 100.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few thousand at most")]
    let needed = random.map(|(p, t)| (p * (100.0 - p) * (4.0 / t).powi(2)).ceil() as usize);
    needed.chain([count]).max().unwrap_or(count)
}

/// Copies come after the answer; the last wait is for those that should not.
async fn await_copies(world: &World, wanted: usize) {
    let end = Instant::now() + Duration::from_secs(2);
    while world.backend.hits().len() < wanted && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
}

async fn log_lines(world: &World, mark: usize, wanted: usize) -> Vec<Value> {
    let end = Instant::now() + Duration::from_secs(3);
    loop {
        let lines = world.gateway.log.since(mark);
        let lines = lines.iter().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        let lines: Vec<_> = lines.filter(|l| l.get("response_flags").is_some()).collect();
        if lines.len() >= wanted || Instant::now() > end {
            return lines;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

type Sent = Result<Answer, Failure>;

async fn send(world: &World, spec: &RequestSpec, jar: &mut BTreeMap<String, String>) -> Result<Sent> {
    let request = request(world, spec, jar)?;
    let payload = spec.payload.as_deref().unwrap_or("ping\n").as_bytes();
    let sent = match spec.protocol.as_deref() {
        None | Some("http" | "h2c" | "grpc") => exchange(&request).await,
        Some("raw") => {
            let method =
                spec.payload.as_deref().and_then(|p| p.split(' ').next()).context("raw without payload")?;
            let talk = async { Connection::open(&request).await?.send_raw(payload, method, true).await };
            in_time(talk).await
        }
        Some("tcp" | "tls") => {
            let talk = async {
                let body = Connection::open(&request).await?.echo(payload).await?;
                Ok(Answer { body, ..Answer::default() })
            };
            in_time(talk).await
        }
        Some(other) => bail!("this runner speaks no {other}"),
    };
    if let (Ok(answer), true) = (&sent, spec.cookie_jar) {
        for (_, cookie) in answer.headers.iter().filter(|(k, _)| k == "set-cookie") {
            let pair = cookie.split(';').next().and_then(|c| c.split_once('='));
            jar.extend(pair.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
    }
    Ok(sent)
}

async fn in_time(talk: impl Future<Output = Sent>) -> Sent {
    tokio::time::timeout(Duration::from_secs(10), talk).await.unwrap_or(Err(Failure::Timeout))
}

fn request(world: &World, spec: &RequestSpec, jar: &BTreeMap<String, String>) -> Result<Request> {
    let grpc = spec.protocol.as_deref() == Some("grpc");
    let version = match (spec.protocol.as_deref(), spec.http_version.as_deref()) {
        (Some("h2c" | "grpc"), _) | (_, Some("2")) => Version::Http2,
        (_, Some("1.0")) => Version::Http10,
        (_, None | Some("1.1")) => Version::Http11,
        (_, Some(v)) => bail!("this runner speaks no HTTP/{v}"),
    };
    let host = spec.host.clone().unwrap_or_else(|| "b.default.svc.cluster.local".into());
    let mut to = Request::to(world.gateway.at(spec.pod_port.unwrap_or(spec.port)));
    to.from = spec.peer_address;
    to.tls = tls(world, spec, &host, version)?;
    to.version = version;
    to.method = spec.method.clone().unwrap_or_else(|| if grpc { "POST" } else { "GET" }.into());
    to.path = spec.path.clone().unwrap_or_else(|| "/".into());
    to.host = Host::Named(host);
    to.headers = headers(spec, jar, grpc);
    if let Some(jwt) = &spec.jwt {
        let signer = world.tokens.as_ref().context("nobody signs tokens")?;
        to.headers
            .push(("authorization".into(), format!("Bearer {}", signer.sign(&jwt.claims, jwt.expired)?)));
    }
    // an empty gRPC message
    to.body = if grpc { Some(vec![0; 5]) } else { spec.body.clone().map(String::into_bytes) };
    Ok(to)
}

fn headers(spec: &RequestSpec, jar: &BTreeMap<String, String>, grpc: bool) -> Vec<(String, String)> {
    let asked = spec.headers.iter().flat_map(|(k, v)| texts(v).into_iter().map(move |v| (k.clone(), v)));
    let mut headers: Vec<(String, String)> = asked.collect();
    if grpc {
        headers
            .extend([("content-type".into(), "application/grpc".into()), ("te".into(), "trailers".into())]);
    }
    if spec.cookie_jar && !jar.is_empty() {
        let cookies: Vec<String> = jar.iter().map(|(k, v)| format!("{k}={v}")).collect();
        headers.push(("cookie".into(), cookies.join("; ")));
    }
    for (name, value) in [("accept", "*/*"), ("user-agent", "mesh-cases")] {
        if !headers.iter().any(|(k, _)| k.eq_ignore_ascii_case(name)) {
            headers.push((name.into(), value.into()));
        }
    }
    headers
}

fn tls(world: &World, spec: &RequestSpec, host: &str, version: Version) -> Result<Option<Tls>> {
    let raw = spec.protocol.as_deref() == Some("tls");
    match spec.scheme.as_deref() {
        Some("https") => {}
        None | Some("http") if raw => {}
        None | Some("http") => {
            ensure!(spec.client_cert.is_none() && spec.tls_version.is_none(), "TLS keys without https");
            return Ok(None);
        }
        Some(other) => bail!("this runner knows no scheme {other}"),
    }
    let identity = match spec.client_cert.as_deref() {
        None | Some("none") => None,
        Some("trusted-ca") => Some(world.clients.trusted.clone()),
        Some("other-ca") => Some(world.clients.other.clone()),
        Some(other) => bail!("this runner has no client certificate {other}"),
    };
    let alpn = match version {
        _ if raw => vec![],
        Version::Http2 => vec!["h2"],
        _ => vec!["http/1.1"],
    };
    let sni = spec.sni.clone().or_else(|| host.split(':').next().map(str::to_owned));
    let tls_version = spec.tls_version.as_deref().map(|v| v.trim_start_matches("TLSv").to_owned());
    Ok(Some(Tls { sni, alpn, version: tls_version, identity }))
}
