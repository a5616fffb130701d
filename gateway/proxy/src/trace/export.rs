//! The way of spans to the collector: a queue with a bound, and one task that sends what is in it.

use super::context::Traced;
use super::otlp::{KeyValue, METHOD, Request, Resource, ResourceSpans, Response, Scope, ScopeSpans, Span};
use super::span;
use crate::server::Identity;
use crate::telemetry::{Record, render_constant};
use crate::tls::Inside;
use crate::upstream::{Cluster, ConnectError};
use arc_swap::ArcSwapOption;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderMap, StatusCode, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pingora::protocols::Stream;
use pingora::protocols::l4::stream::Stream as L4Stream;
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidegate_model::{FormatString, HeaderName, OtlpTransport, Tracing};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

/// Spans that wait; what comes beyond is dropped and counted.
const QUEUE: usize = 4096;
/// The most spans that are sent at once.
const BATCH: usize = 512;
/// How long spans wait for more to be sent with.
const PAUSE: Duration = Duration::from_secs(1);
/// The largest answer of a collector that is read.
const LARGEST: usize = 64 << 10;

/// Where spans go.
pub(crate) struct Target {
    /// The collector.
    pub(crate) cluster: Arc<Cluster>,
    /// How it is spoken to.
    pub(crate) tracing: Tracing,
}

/// What became of spans.
#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

/// A worker's way to the queue.
#[derive(Clone)]
pub(crate) struct Spans {
    queue: mpsc::Sender<Span>,
    counts: Arc<Counts>,
    identity: Arc<Identity>,
}

impl Spans {
    /// Hands over the spans of a request that has ended, where its trace is recorded. Never waits.
    pub(crate) fn finish(&self, traced: Traced<'_>, record: &Record<'_>) {
        if !traced.context.sampled {
            return;
        }
        self.send(|| span::of_request(traced, record, &self.identity));
        for (n, one) in traced.tries.iter().enumerate() {
            let is_last = n + 1 == traced.tries.len();
            self.send(|| span::of_try(one, n, is_last, traced, record, &self.identity));
        }
    }

    /// A queue that is full is looked at first: a span is some work to make.
    fn send(&self, make: impl FnOnce() -> Span) {
        if self.queue.try_reserve().map(|room| room.send(make())).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The queue of the process.
pub(crate) struct Exporter {
    spans: Spans,
    waiting: std::sync::Mutex<Option<mpsc::Receiver<Span>>>,
    target: ArcSwapOption<Target>,
    stop: Notify,
}

impl Exporter {
    pub(crate) fn new(identity: &Identity) -> Arc<Self> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let spans = Spans { queue, counts: Arc::default(), identity: Arc::new(identity.clone()) };
        let waiting = std::sync::Mutex::new(Some(waiting));
        Arc::new(Exporter { spans, waiting, target: ArcSwapOption::empty(), stop: Notify::new() })
    }

    /// A worker's part.
    pub(crate) fn worker(&self) -> Spans {
        self.spans.clone()
    }

    /// Spans go there from now on.
    pub(crate) fn set_target(&self, target: Option<Target>) {
        self.target.store(target.map(Arc::new));
    }

    /// What became of spans so far, in a word each.
    pub(crate) fn counts(&self) -> [(&'static str, u64); 3] {
        let Counts { sent, dropped, failed } = &*self.spans.counts;
        [("sent", sent), ("queue_full", dropped), ("failed", failed)]
            .map(|(what, n)| (what, n.load(Ordering::Relaxed)))
    }

    /// Sends spans until [`Exporter::stop`], and then what is left in the queue.
    pub(crate) async fn run(&self) {
        let Some(mut waiting) = crate::lock::lock(&self.waiting).take() else { return };
        let mut batch = Vec::new();
        let mut failing = false;
        loop {
            let stopped = tokio::select! {
                () = self.fill(&mut waiting, &mut batch) => false,
                () = self.stop.notified() => true,
            };
            if stopped {
                waiting.close();
                while batch.len() < QUEUE
                    && let Ok(span) = waiting.try_recv()
                {
                    batch.push(span);
                }
            }
            self.send(&mut batch, &mut failing).await;
            if stopped {
                return;
            }
        }
    }

    /// Sends what is left and ends. To be called when requests have ended.
    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }

    /// Until there are enough spans, or the first of them has waited long enough.
    async fn fill(&self, waiting: &mut mpsc::Receiver<Span>, batch: &mut Vec<Span>) {
        if batch.is_empty() && waiting.recv_many(batch, 1).await == 0 {
            return std::future::pending().await;
        }
        let due = Instant::now() + PAUSE;
        while batch.len() < BATCH {
            match timeout_at(due, waiting.recv_many(batch, BATCH - batch.len())).await {
                Ok(n) if n > 0 => {}
                _ => return,
            }
        }
    }

    /// Sends a batch and forgets it. Says once that this fails, and once that it works again.
    async fn send(&self, batch: &mut Vec<Span>, failing: &mut bool) {
        let spans = std::mem::take(batch);
        let count = spans.len() as u64;
        // None is there no more: the config changed while spans were waiting
        let Some(target) = self.target.load_full().filter(|_| count > 0) else {
            self.spans.counts.failed.fetch_add(count, Ordering::Relaxed);
            return;
        };
        let message = request(&self.spans.identity, spans).encode_to_vec();
        let sent = timeout(target.tracing.timeout, post(&target, message)).await;
        let rejected = match sent.unwrap_or(Err(ExportError::Time(target.tracing.timeout))) {
            Ok(response) => {
                if std::mem::take(failing) {
                    tracing::info!("spans reach their collector again");
                }
                let partial = response.partial_success.unwrap_or_default();
                u64::try_from(partial.rejected_spans).unwrap_or(0).min(count)
            }
            Err(error) => {
                if !std::mem::replace(failing, true) {
                    let cluster = &target.tracing.collector;
                    tracing::warn!(%error, %cluster, "spans cannot be sent to their collector and are dropped");
                }
                count
            }
        };
        self.spans.counts.failed.fetch_add(rejected, Ordering::Relaxed);
        self.spans.counts.sent.fetch_add(count - rejected, Ordering::Relaxed);
    }
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("it has no endpoint")]
    NoEndpoint,
    #[error("{0}")]
    Connect(#[from] std::io::Error),
    #[error("{0}")]
    Tls(#[from] ConnectError),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("its path or host cannot be sent: {0}")]
    Request(#[from] http::Error),
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("it answers with gRPC status {0}")]
    Grpc(String),
    #[error("its answer is cut off, too large or no OTLP")]
    Body,
    #[error("no answer within {0:?}")]
    Time(Duration),
}

/// Of this process, named as Istio names services: `workload.namespace`.
fn request(identity: &Identity, spans: Vec<Span>) -> Request {
    let service = format!("{}.{}", identity.workload, identity.namespace);
    let resource = Resource { attributes: vec![KeyValue::new("service.name", service)] };
    let scope = Scope { name: "tidegate".into(), version: env!("CARGO_PKG_VERSION").into() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
    Request { resource_spans: vec![ResourceSpans { resource: Some(resource), scope_spans }] }
}

async fn post(target: &Target, message: Vec<u8>) -> Result<Response, ExportError> {
    let pick = target.cluster.pick(fastrand::u64(..)).ok_or(ExportError::NoEndpoint)?;
    let inside = match &target.tracing.transport {
        OtlpTransport::Grpc => Inside::Http2,
        OtlpTransport::Http(_) => Inside::Http1,
    };
    let plain = L4Stream::from(TcpStream::connect(pick.address).await?);
    let stream = target.cluster.transport().begin_own(Box::new(plain), inside).await?;
    let config = target.cluster.config();
    let authority = format!("{}:{}", config.host, config.port);
    let headers = &target.tracing.headers;
    match &target.tracing.transport {
        OtlpTransport::Grpc => grpc(stream, &authority, headers, &message).await,
        OtlpTransport::Http(path) => http(stream, &authority, path, headers, message).await,
    }
}

async fn http(
    stream: Stream,
    authority: &str,
    path: &str,
    headers: &[(HeaderName, FormatString)],
    message: Vec<u8>,
) -> Result<Response, ExportError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // ends with the response, or when that is dropped
    tokio::spawn(async move { drop(connection.await) });
    let request =
        post_of(path, "application/x-protobuf", headers)
            .header(HOST, authority)
            .body(Full::<Bytes>::from(message))?;
    let response = sender.send_request(request).await?;
    if !response.status().is_success() {
        return Err(ExportError::Status(response.status()));
    }
    let (body, _) = read(response.into_body()).await?;
    Response::decode(body).map_err(|_| ExportError::Body)
}

/// One call, as gRPC puts it on HTTP/2.
async fn grpc(
    stream: Stream,
    authority: &str,
    headers: &[(HeaderName, FormatString)],
    message: &[u8],
) -> Result<Response, ExportError> {
    const PREFIX: usize = 5;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(async move { drop(connection.await) });
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).map_err(|_| ExportError::Body)?);
    frame.put_slice(message);
    let request = post_of(&format!("http://{authority}{METHOD}"), "application/grpc", headers)
        .version(Version::HTTP_2)
        .header(TE, "trailers")
        .body(Full::<Bytes>::from(frame.freeze()))?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(ExportError::Status(response.status()));
    }
    let headers = response.headers().clone();
    let (body, trailers) = read(response.into_body()).await?;
    let said = trailers.get("grpc-status").or(headers.get("grpc-status"));
    match said.map(|status| status.as_bytes()) {
        Some(b"0") => {}
        Some(status) => return Err(ExportError::Grpc(String::from_utf8_lossy(status).into_owned())),
        None => return Err(ExportError::Body),
    }
    Response::decode(body.get(PREFIX..).unwrap_or_default()).map_err(|_| ExportError::Body)
}

fn post_of(
    target: &str,
    content_type: &'static str,
    headers: &[(HeaderName, FormatString)],
) -> http::request::Builder {
    let request = http::Request::post(target)
        .header(CONTENT_TYPE, content_type)
        .header(USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")));
    headers
        .iter()
        .fold(request, |request, (name, value)| request.header(name.as_str(), render_constant(value)))
}

/// An answer's content and trailers.
async fn read(body: Incoming) -> Result<(Bytes, HeaderMap), ExportError> {
    let read = Limited::new(body, LARGEST).collect().await.map_err(|_| ExportError::Body)?;
    let trailers = read.trailers().cloned().unwrap_or_default();
    Ok((read.to_bytes(), trailers))
}
