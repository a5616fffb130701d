//! Workloads that record what reaches them.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// The header that names a [`Hit`] in its answer.
const ID: &str = "x-echo-id";

/// One request, or one TCP connection, that reached a workload.
#[derive(Clone, Debug)]
pub struct Hit {
    /// The workload's address and port.
    pub at: SocketAddr,
    /// What `x-echo-id` of the answer says; 0 for a TCP connection.
    pub id: usize,
    /// `HTTP/1.0`, `HTTP/1.1`, `HTTP/2` or `TCP`.
    pub version: &'static str,
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// `Host`, or `:authority`.
    pub authority: Option<String>,
    /// Headers, names in lower case, lines in their order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// The status that it answered.
    pub status: u16,
}

/// What the workloads answer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Behaviour {
    /// The status; 200 by default.
    pub status: Option<u16>,
    /// One status after the other, the last one repeated.
    #[serde(default)]
    pub sequence: Vec<u16>,
    /// How long to wait before the answer, such as `2s`.
    pub delay: Option<String>,
    /// Headers to add.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// A time as the cases write it, such as `1.5s` or `200ms`.
pub fn seconds(text: &str) -> Result<Duration> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let (number, unit) = units
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
        .unwrap_or((text, 1.0));
    let number: f64 = number.parse().with_context(|| format!("no time: {text}"))?;
    Ok(Duration::from_secs_f64(number * unit))
}

#[derive(Default)]
struct State {
    hits: Vec<Hit>,
    answered: usize,
    behaviour: Behaviour,
    failing: BTreeMap<IpAddr, u16>,
}

/// Listeners on any number of addresses that share one record; HTTP/1, HTTP/2 with prior knowledge,
/// and other bytes, which they send back.
#[derive(Default)]
pub struct Backend {
    state: Arc<Mutex<State>>,
    listeners: Mutex<BTreeMap<SocketAddr, JoinHandle<()>>>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        for listener in lock(&self.listeners).values() {
            listener.abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backend {
    /// Listens on one more address.
    pub async fn listen(&self, at: SocketAddr) -> Result<()> {
        if lock(&self.listeners).contains_key(&at) {
            return Ok(());
        }
        let listener = TcpListener::bind(at).await.with_context(|| format!("a workload at {at}"))?;
        let state = self.state.clone();
        let task = tokio::spawn(async move {
            // connections end with the listener's task
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, at, state.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        lock(&self.listeners).insert(at, task);
        Ok(())
    }

    /// Stops to listen on an address and closes its connections.
    pub fn close(&self, at: SocketAddr) {
        if let Some(listener) = lock(&self.listeners).remove(&at) {
            listener.abort();
        }
    }

    /// Forgets what was recorded, and answers so from now on; `failing` answer that status always.
    pub fn begin(&self, behaviour: &Behaviour, failing: &BTreeMap<IpAddr, u16>) {
        let mut state = lock(&self.state);
        *state = State {
            hits: Vec::new(),
            answered: state.answered,
            behaviour: behaviour.clone(),
            failing: failing.clone(),
        };
    }

    /// What was recorded.
    pub fn hits(&self) -> Vec<Hit> {
        lock(&self.state).hits.clone()
    }

    /// The number that an answer carries, when a workload gave it.
    pub fn id_of(headers: &[(String, String)]) -> Option<usize> {
        headers.iter().find(|(k, _)| k == ID).and_then(|(_, v)| v.parse().ok())
    }
}

async fn serve(mut stream: TcpStream, at: SocketAddr, state: Arc<Mutex<State>>) {
    let _ = stream.set_nodelay(true);
    let mut first = [0; 3];
    loop {
        match stream.peek(&mut first).await {
            Ok(n) if n > 0 && first[..n].iter().all(u8::is_ascii_uppercase) => {
                if n == 3 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(0) | Err(_) => return,
            Ok(_) => return echo_bytes(&mut stream, at, &state).await,
        }
    }
    let service = service_fn(move |request| answer(request, at, state.clone()));
    let builder = auto::Builder::new(TokioExecutor::new());
    // a client that goes away is no news here
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

async fn echo_bytes(stream: &mut TcpStream, at: SocketAddr, state: &Mutex<State>) {
    let record = {
        let mut state = lock(state);
        state.hits.push(Hit {
            at,
            id: 0,
            version: "TCP",
            method: String::new(),
            path: String::new(),
            authority: None,
            headers: Vec::new(),
            body: String::new(),
            status: 0,
        });
        state.hits.len() - 1
    };
    let mut buffer = [0; 4096];
    while let Ok(n) = stream.read(&mut buffer).await {
        if n == 0 || stream.write_all(&buffer[..n]).await.is_err() {
            return;
        }
        if let Some(hit) = lock(state).hits.get_mut(record) {
            hit.body += &String::from_utf8_lossy(&buffer[..n]);
        }
    }
}

async fn answer(
    mut request: http::Request<Incoming>,
    at: SocketAddr,
    state: Arc<Mutex<State>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let upgrade = request.headers().get(header::UPGRADE).is_some_and(|v| v == "websocket");
    let upgraded = upgrade.then(|| hyper::upgrade::on(&mut request));
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let (hit, delay, extra) = record(&head, &body, at, &state);
    if let Some(delay) = delay {
        tokio::time::sleep(delay).await;
    }
    let text = serde_json::json!({
        "at": hit.at, "method": hit.method, "path": hit.path, "authority": hit.authority,
        "version": hit.version, "headers": hit.headers,
    });
    let mut response = Response::new(Full::from(text.to_string()));
    *response.status_mut() = StatusCode::from_u16(hit.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response.headers_mut().insert(ID, hit.id.into());
    for (name, value) in &extra {
        if let (Ok(name), Ok(value)) = (name.parse::<header::HeaderName>(), value.parse()) {
            response.headers_mut().append(name, value);
        }
    }
    if let (Some(upgraded), 200) = (upgraded, hit.status) {
        tokio::spawn(echo_upgraded(upgraded));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.body_mut() = Full::default();
        response.headers_mut().remove(header::CONTENT_TYPE);
        response.headers_mut().insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
        response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
    }
    Ok(response)
}

async fn echo_upgraded(upgraded: hyper::upgrade::OnUpgrade) {
    if let Ok(stream) = upgraded.await {
        let (mut from, mut to) = tokio::io::split(TokioIo::new(stream));
        let _ = tokio::io::copy(&mut from, &mut to).await;
    }
}

fn record(
    head: &http::request::Parts,
    body: &Bytes,
    at: SocketAddr,
    state: &Mutex<State>,
) -> (Hit, Option<Duration>, BTreeMap<String, String>) {
    let text = |v: &header::HeaderValue| v.as_bytes().iter().map(|b| char::from(*b)).collect::<String>();
    let mut state = lock(state);
    let behaviour = &state.behaviour;
    let turn = state.hits.len().min(behaviour.sequence.len().saturating_sub(1));
    let status = behaviour.sequence.get(turn).copied().or(behaviour.status).unwrap_or(200);
    let status = state.failing.get(&at.ip()).copied().unwrap_or(status);
    state.answered += 1;
    let hit = Hit {
        at,
        id: state.answered,
        version: match head.version {
            http::Version::HTTP_10 => "HTTP/1.0",
            http::Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        },
        method: head.method.to_string(),
        path: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        authority: head
            .headers
            .get(header::HOST)
            .map(text)
            .or_else(|| head.uri.authority().map(ToString::to_string)),
        headers: head.headers.iter().map(|(k, v)| (k.as_str().to_owned(), text(v))).collect(),
        body: String::from_utf8_lossy(body).into_owned(),
        status,
    };
    state.hits.push(hit.clone());
    let delay = state.behaviour.delay.as_deref().and_then(|d| seconds(d).ok());
    (hit, delay, state.behaviour.headers.clone())
}
