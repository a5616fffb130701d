//! The admin page, readiness and Prometheus: JSON over HTTP/1.1 on ports of their own.

mod guard;
mod metrics;
mod page;
mod pieces;
mod views;

use self::pieces::{Pieces, Rest};
use crate::listener::canonical;
use crate::server::{ExplainQuery, Phase, State};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use socket2::Socket;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// Connections to one of these servers at a time.
const CONNECTIONS: usize = 256;
const HEAD_TIME: Duration = Duration::from_secs(10);
const HEAD_BYTES: usize = 32 << 10;
/// A connection's whole life, so that nobody holds the places that probes need.
const LIFETIME: Duration = Duration::from_secs(30);
const BACK_OFF: Duration = Duration::from_millis(100);

/// Which of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// Everything, for whoever may log in to this machine.
    Admin,
    /// Readiness and metrics, for everybody.
    Status,
}

type Answer = Response<Either<Full<Bytes>, Pieces>>;

/// Accepts and serves, from when this process accepts until another does in its place, or the runtime ends.
pub(crate) async fn serve(socket: Socket, server: Server, state: Arc<State>) {
    let mut phase = state.phase.subscribe();
    // An error is the end of the state, which this task has a share in.
    let _ = phase.wait_for(|phase| *phase != Phase::Held).await;
    tokio::select! {
        () = accept(socket, server, &state) => {}
        _ = phase.wait_for(|phase| *phase == Phase::PassedOn) => {}
    }
}

async fn accept(socket: Socket, server: Server, state: &Arc<State>) {
    let listener = match TcpListener::from_std(socket.into()) {
        Ok(listener) => listener,
        Err(e) => {
            tracing::error!(?server, "cannot accept: {e}");
            return;
        }
    };
    let mut places = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if !make_room(&mut places) {
                    continue;
                }
                let busy = Arc::new(AtomicBool::new(false));
                let task =
                    tokio::spawn(serve_connection(stream, server, Open::new(state.clone()), busy.clone()));
                places.push_back(Place { busy, task: task.abort_handle() });
            }
            Err(e) => {
                tracing::warn!(?server, "cannot accept, trying again: {e}");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

/// An open connection.
struct Place {
    /// Whether a request is being answered.
    busy: Arc<AtomicBool>,
    task: AbortHandle,
}

/// Whether there is a place for one more. When all are taken, the oldest connection that waits
/// for a request has to go: silent ones must not keep probes out.
fn make_room(places: &mut VecDeque<Place>) -> bool {
    if places.len() >= CONNECTIONS {
        places.retain(|p| !p.task.is_finished());
    }
    if places.len() < CONNECTIONS {
        return true;
    }
    let idle = places.iter().position(|p| !p.busy.load(Ordering::Relaxed));
    let oldest = idle.and_then(|i| places.remove(i));
    oldest.inspect(|p| p.task.abort()).is_some()
}

/// Counts a connection while it is open.
struct Open(Arc<State>);

impl Open {
    fn new(state: Arc<State>) -> Open {
        state.asked_by.fetch_add(1, Ordering::SeqCst);
        Open(state)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.asked_by.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve_connection(stream: TcpStream, server: Server, open: Open, busy: Arc<AtomicBool>) {
    let state = &open.0;
    let Ok(local) = stream.local_addr().map(canonical) else { return };
    let service = service_fn(|request| {
        let (state, busy) = (state.clone(), busy.clone());
        async move {
            busy.store(true, Ordering::Relaxed);
            let mut answer = answer(&request, server, local, state.clone()).await;
            if state.is_passed_on() {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            busy.store(false, Ordering::Relaxed);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(e)) = tokio::time::timeout(LIFETIME, connection).await {
        tracing::debug!(?server, "connection ended: {e}");
    }
}

async fn answer(request: &Request<Incoming>, server: Server, local: SocketAddr, state: Arc<State>) -> Answer {
    if server == Server::Admin && !guard::is_ours(request, local) {
        return error(StatusCode::FORBIDDEN, "the admin page answers only at its own address or localhost");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    let path = request.uri().path();
    match (server, path) {
        (_, "/stats/prometheus") => scrape(state, pieces::takes_gzip(request.headers())).await,
        (Server::Status, "/healthz/ready") => readiness(&state),
        (Server::Status, _) => error(StatusCode::NOT_FOUND, "try /healthz/ready or /stats/prometheus"),
        (Server::Admin, "/") => text("text/html; charset=utf-8", page::page(&state)),
        (Server::Admin, "/style.css") => text("text/css", page::STYLE.into()),
        (Server::Admin, "/generation") => json_answer(StatusCode::OK, &views::generation(&state)),
        (Server::Admin, "/config") => {
            aside(move || json_answer(StatusCode::OK, &views::config(&state))).await
        }
        (Server::Admin, "/config/table") => {
            aside(move || json_answer(StatusCode::OK, &views::table(&state))).await
        }
        (Server::Admin, "/explain") => explain(request.uri().query().unwrap_or_default(), state).await,
        (Server::Admin, _) => error(StatusCode::NOT_FOUND, "no such page; / lists them"),
    }
}

fn readiness(state: &State) -> Answer {
    let Err(why) = state.readiness() else {
        return text("text/plain", "ready\n".into());
    };
    let mut answer = text("text/plain", format!("not ready: {why}\n"));
    *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    answer
}

async fn explain(query: &str, state: Arc<State>) -> Answer {
    let query = match explain_query(query) {
        Ok(query) => query,
        Err(e) => return error(StatusCode::BAD_REQUEST, &e),
    };
    let asked = tokio::task::spawn_blocking(move || {
        let live = state.live.load();
        (state.explain)(&query, &|name| live.clusters.get(name).map(|cluster| cluster.standings()))
    });
    match asked.await {
        Ok(Ok(value)) => json_answer(StatusCode::OK, &value),
        Ok(Err(e)) => error(StatusCode::BAD_REQUEST, &e),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "a defect of the gateway; see its log"),
    }
}

fn explain_query(query: &str) -> Result<ExplainQuery, String> {
    let mut asked = ExplainQuery { method: "GET".into(), ..ExplainQuery::default() };
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match key.as_ref() {
            "method" if !value.is_empty() => asked.method = value.into_owned(),
            "url" => asked.url = value.into_owned(),
            // A form sends its empty fields, too.
            "method" | "gateway" | "header" | "claims" | "client" if value.is_empty() => {}
            "claims" => {
                let claims = serde_json::from_str(&value).map_err(|_| "claims is not a JSON object")?;
                asked.claims = Some(claims);
            }
            "client" => {
                asked.client = Some(value.parse().map_err(|_| format!("client {value:?} is no IP address"))?);
            }
            "gateway" => asked.gateway = Some(value.into_owned()),
            "header" => {
                let (name, value) =
                    value.split_once(':').ok_or_else(|| format!("header {value:?} is not NAME:VALUE"))?;
                asked.headers.push((name.trim().into(), value.trim().into()));
            }
            other => return Err(format!("unknown parameter {other:?}")),
        }
    }
    if asked.url.is_empty() {
        return Err("url is missing; give an absolute one, such as http://example.com/path".into());
    }
    Ok(asked)
}

/// Makes a large answer on another thread: names are resolved on this one.
async fn aside(make: impl FnOnce() -> Answer + Send + 'static) -> Answer {
    match tokio::task::spawn_blocking(make).await {
        Ok(answer) => answer,
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "a defect of the gateway; see its log"),
    }
}

/// The metrics, in pieces where they are large.
async fn scrape(state: Arc<State>, gzip: bool) -> Answer {
    let Ok((first, rest)) = pieces::render(state.clone(), Rest::all(gzip)).await else {
        return error(StatusCode::INTERNAL_SERVER_ERROR, "a defect of the gateway; see its log");
    };
    let mut answer = text("text/plain; version=0.0.4", String::new());
    answer.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if gzip {
        answer.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    answer.map(|_| match rest {
        None => Either::Left(Full::new(first)),
        Some(rest) => Either::Right(Pieces::new(first, rest, state)),
    })
}

fn error(status: StatusCode, text: &str) -> Answer {
    json_answer(status, &json!({ "error": text }))
}

fn json_answer(status: StatusCode, value: &Value) -> Answer {
    let mut answer = text("application/json", format!("{value}\n"));
    *answer.status_mut() = status;
    answer
}

fn text(content_type: &'static str, body: String) -> Answer {
    const HEADERS: [(header::HeaderName, &str); 5] = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    let mut answer = Response::new(Either::Left(Full::new(Bytes::from(body))));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explain_queries_are_decoded() {
        let q = explain_query(
            "method=POST&url=http%3A%2F%2Fa.b%2Fx%3Fy%3D1&header=X-A:+b:c&header=&gateway=ns/gw&claims=%7B%22a%22:1%7D&client=192.0.2.1",
        )
        .unwrap();
        assert_eq!((q.method.as_str(), q.url.as_str()), ("POST", "http://a.b/x?y=1"));
        assert_eq!(q.headers, [("X-A".to_owned(), "b:c".to_owned())]);
        assert_eq!(q.gateway.as_deref(), Some("ns/gw"));
        assert_eq!(q.client, Some([192, 0, 2, 1].into()));
        assert_eq!(q.claims.unwrap()["a"], 1);
        let q = explain_query("method=&url=http://a/&gateway=").unwrap();
        assert_eq!((q.method.as_str(), q.gateway), ("GET", None));
        for bad in [
            "",
            "url=",
            "url=http://a/&header=x",
            "url=http://a/&claims=[]",
            "url=http://a/&hedaer=a:b",
            "url=http://a/&client=x",
        ] {
            explain_query(bad).unwrap_err();
        }
    }
}
