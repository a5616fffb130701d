//! Traces: what an upstream is told, and what a collector gets. Messages are read by their field
//! numbers, as OTLP 1 has them, and not by the types that wrote them.

use crate::support::*;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidegate_model::*;
use tidegate_proxy::Proxy;
use tokio::net::TcpListener;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const GRPC: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// The fields of a message that have a length, with their numbers; of others the eight bytes of a fixed64.
fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(message: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = message[0];
            *message = &message[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut all = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let length = match key & 7 {
            0 => {
                all.push((key >> 3, vec![varint(&mut message) as u8]));
                continue;
            }
            1 => 8,
            2 => varint(&mut message) as usize,
            kind => panic!("wire type {kind}"),
        };
        let (value, rest) = message.split_at(length);
        all.push((key >> 3, value.to_vec()));
        message = rest;
    }
    all
}

/// The values of the fields that this path of numbers leads to.
fn find(message: &[u8], path: &[u64]) -> Vec<Vec<u8>> {
    let [number, rest @ ..] = path else { return vec![message.to_vec()] };
    let fields = fields(message).into_iter().filter(|(n, _)| n == number);
    fields.flat_map(|(_, value)| find(&value, rest)).collect()
}

fn text(message: &[u8], path: &[u64]) -> String {
    let found = find(message, path);
    String::from_utf8(found.into_iter().next().unwrap_or_default()).unwrap()
}

/// Attributes under this field number.
fn attribute(message: &[u8], number: u64, key: &str) -> Option<String> {
    let all = find(message, &[number]);
    all.iter().find(|a| text(a, &[1]) == key).map(|a| text(a, &[2, 1]))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What the collector was sent: method or path, content type and the header `x-team`; and the message.
type Seen = Arc<Mutex<Vec<(String, Bytes)>>>;

/// The messages of either kind.
fn messages(seen: &Seen) -> Vec<Bytes> {
    let all = seen.lock().unwrap().clone();
    let message = |(how, bytes): (String, Bytes)| {
        if !how.starts_with(GRPC) {
            return bytes;
        }
        assert_eq!(bytes[..5], (bytes.len() as u64 - 5).to_be_bytes()[3..]);
        bytes.slice(5..)
    };
    all.into_iter().map(message).collect()
}

/// A span as the collector has it.
struct Collected {
    bytes: Vec<u8>,
    trace: String,
    id: String,
    parent: String,
    name: String,
    /// 2 is a server, 3 a client.
    kind: u8,
    start: u64,
    end: u64,
}

impl Collected {
    fn tag(&self, key: &str) -> Option<String> {
        attribute(&self.bytes, 9, key)
    }
}

/// The spans so far, by when they began and then by kind.
fn spans(seen: &Seen) -> Vec<Collected> {
    let all = messages(seen).into_iter().flat_map(|message| find(&message, &[1, 2, 2]));
    let span = |bytes: Vec<u8>| {
        let [trace, id, parent] =
            [1, 2, 4].map(|n| find(&bytes, &[n]).first().map(|id| hex(id)).unwrap_or_default());
        let [start, end] =
            [7, 8].map(|n| u64::from_le_bytes(find(&bytes, &[n])[0].clone().try_into().unwrap()));
        let (name, kind) = (text(&bytes, &[5]), find(&bytes, &[6])[0][0]);
        Collected { trace, id, parent, name, kind, start, end, bytes }
    };
    let mut spans: Vec<_> = all.map(span).collect();
    spans.sort_by_key(|span| (span.kind, span.start));
    spans
}

/// An upstream that answers with the head that it got, and a collector of both kinds.
async fn serve(seen: Seen) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = seen.clone();
            let service = service_fn(move |request: Request<Incoming>| answer(request, seen.clone()));
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

async fn answer(request: Request<Incoming>, seen: Seen) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let lines = request.headers().iter().map(|(n, v)| format!("{n}: {}\n", v.to_str().unwrap()));
    let head: String = lines.collect();
    let said = |name| request.headers().get(name).map_or("-", |v| v.to_str().unwrap()).to_owned();
    let how = format!("{path} {} {}", said("content-type"), said("x-team"));
    let again = said("x-envoy-attempt-count") == "1" && path == "/again";
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
    let (content, trailers) = match path.as_str() {
        GRPC => (Bytes::from_static(&[0; 5]), Some(Ok(trailers))),
        "/v1/traces" => (Bytes::new(), None),
        _ => {
            let status = if again { 503 } else { 200 };
            return Ok(Response::builder().status(status).body(Full::from(head).boxed()).unwrap());
        }
    };
    seen.lock().unwrap().push((how, body));
    Ok(Response::new(Full::from(content).with_trailers(async { trailers }).boxed()))
}

fn tracing(transport: OtlpTransport) -> Tracing {
    Tracing {
        collector: ClusterName::outbound(80, "", "collector"),
        transport,
        headers: vec![(
            HeaderName::new("X-Team"),
            FormatString::parse("%ENVIRONMENT(CARGO_PKG_NAME)%!").unwrap(),
        )],
        timeout: Duration::from_secs(20),
        sampling: Share::all(),
        propagates: true,
        max_path: 7,
        istio_tags: true,
        tags: Vec::new(),
    }
}

/// A gateway that sends everything to one address, and spans to another.
fn gateway(to: SocketAddr, tracing: Option<Tracing>, collectors: &[SocketAddr]) -> (Proxy, SocketAddr) {
    let mut model = Model::default();
    let table = plain(&mut model, key(1));
    let mut route = forward(&mut model, "service", &[to]);
    let Action::Forward(action) = &mut *Arc::get_mut(&mut route.action).unwrap() else { unreachable!() };
    action.retries = Some(RetryPolicy {
        attempts: 2,
        per_try_timeout: None,
        on: [RetryCondition::ServerError].into_iter().collect(),
        statuses: vec![],
        backoff: Duration::ZERO,
        max_backoff: Duration::ZERO,
        avoid_previous_hosts: Some(false),
    });
    host(&mut model, &table, "*", vec![route]);
    cluster(&mut model, "collector", collectors);
    model.mesh = Arc::new(MeshSettings { tracing, ..MeshSettings::default() });
    let proxy = start();
    assert!(proxy.apply(model).diagnostics.is_empty());
    let address = address(&proxy, key(1));
    (proxy, address)
}

/// What the upstream was told, by the name of the header.
async fn told(gateway: SocketAddr, path: &str, headers: &str) -> impl Fn(&str) -> Option<String> + use<> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a.b\r\n{headers}Connection: close\r\n\r\n");
    let answer = exchange(gateway, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    move |name| Some(answer.lines().find_map(|l| l.strip_prefix(&format!("{name}: ")))?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_the_spans_of_sampled_requests() {
    for (transport, method) in [
        (
            OtlpTransport::Http("/v1/traces".into()),
            "/v1/traces application/x-protobuf tidegate-proxy!".to_owned(),
        ),
        (OtlpTransport::Grpc, format!("{GRPC} application/grpc tidegate-proxy!")),
    ] {
        let seen = Seen::default();
        let to = serve(seen.clone()).await;
        let (proxy, at) = gateway(to, Some(tracing(transport)), &[to]);
        let sent = |flags| format!("traceparent: 00-{TRACE}-{PARENT}-{flags}\r\ntracestate: a=b\r\n");
        let unsampled = told(at, "/", &sent("00")).await;
        let passed = unsampled("traceparent").unwrap();
        assert!(passed.starts_with(&format!("00-{TRACE}-")) && passed.ends_with("-00"), "{passed}");
        assert_eq!(unsampled("x-request-id").unwrap().as_bytes()[14], b'4');
        let sampled = told(at, "/longer?than=that", &sent("01")).await;
        assert_eq!(sampled("tracestate").as_deref(), Some("a=b"));
        let id = sampled("x-request-id").unwrap();
        assert_eq!(id.as_bytes()[14], b'9', "{id}");
        eventually("spans arrive", async || !seen.lock().unwrap().is_empty()).await;
        let name = "tidegate_trace_spans_total{result=\"sent\"}";
        eventually("they are counted", async || metric(&proxy, name).await == 2).await;
        assert_eq!(seen.lock().unwrap()[0].0, method);
        assert_eq!(
            attribute(&find(&messages(&seen)[0], &[1, 1])[0], 1, "service.name").unwrap(),
            "test.test"
        );
        let all = spans(&seen);
        let [server, client] = all.as_slice() else { panic!("two spans and not {}", all.len()) };
        assert_eq!([&server.trace, &server.parent], [TRACE, PARENT]);
        assert_eq!([&client.trace, &client.parent], [TRACE, &server.id]);
        assert_eq!(sampled("traceparent").unwrap(), format!("00-{TRACE}-{}-01", client.id));
        assert_eq!((&*server.name, server.kind), ("service:80/*", 2));
        assert_eq!((&*client.name, client.kind), ("router outbound|80||service egress", 3));
        assert!(server.start > 1_600_000_000_000_000_000 && server.start <= client.start);
        assert!(client.start <= client.end && client.end <= server.end);
        for (key, value) in [
            ("component", "proxy"),
            ("http.method", "GET"),
            ("http.url", "http://a.b/longer"),
            ("http.status_code", "200"),
            ("response_flags", "-"),
            ("guid:x-request-id", &id),
            ("upstream_cluster", "outbound|80||service"),
            ("peer.address", "127.0.0.1"),
            ("istio.canonical_service", "test"),
        ] {
            assert_eq!(server.tag(key).as_deref(), Some(value), "{key}");
        }
        for (key, value) in [("upstream_address", &*to.to_string()), ("http.status_code", "200")] {
            assert_eq!(client.tag(key).as_deref(), Some(value), "{key}");
        }
        assert_eq!((server.tag("error"), client.tag("error")), (None, None));
        proxy.drain();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_try_is_a_span_whose_child_the_upstreams_is() {
    let seen = Seen::default();
    let to = serve(seen.clone()).await;
    let tag = |name: &str, value: &str, default: &str| SpanTag {
        name: name.into(),
        value: FormatString::parse(value).unwrap(),
        default: default.into(),
    };
    let tags = vec![
        tag("status", "%RESPONSE_CODE%/%REQ(x-user)%", ""),
        tag("absent", "%REQ(x-absent)%", ""),
        tag("default", "%REQ(x-absent)%", "nobody"),
    ];
    let tracing = Tracing { tags, istio_tags: false, ..tracing(OtlpTransport::Http("/v1/traces".into())) };
    let (proxy, at) = gateway(to, Some(tracing), &[to]);
    let sent = format!("b3: {TRACE}-{PARENT}-1\r\nx-user: ann\r\n");
    let told = told(at, "/again", &sent).await;
    eventually("all spans arrive", async || spans(&seen).len() == 3).await;
    let all = spans(&seen);
    let [server, first, second] = all.as_slice() else { panic!("three") };
    assert_eq!([&server.trace, &server.parent], [TRACE, PARENT]);
    assert_eq!([&first.parent, &second.parent], [&server.id; 2]);
    assert_eq!(told("b3").unwrap(), format!("{TRACE}-{}-1-{}", second.id, server.id));
    assert_eq!(told("traceparent").unwrap(), format!("00-{TRACE}-{}-01", second.id));
    assert!(first.id != second.id && first.end <= second.start && second.end <= server.end);
    let seen_of = |span: &Collected| ["http.status_code", "error", "retry.count"].map(|key| span.tag(key));
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(seen_of(first), [some("503"), some("true"), None]);
    assert_eq!(seen_of(second), [some("200"), None, some("1")]);
    for span in &all {
        let tags = ["status", "absent", "default", "istio.namespace"].map(|key| span.tag(key));
        assert_eq!(tags, [some("200/ann"), None, some("nobody"), None]);
    }
    proxy.drain();
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_begin_here_where_nobody_called() {
    let to = serve(Seen::default()).await;
    let (proxy, at) = gateway(to, Some(tracing(OtlpTransport::Grpc)), &[]);
    for headers in ["", "traceparent: 00-bad\r\ntracestate: a=b\r\n", "Connection: traceparent\r\n"] {
        let told = told(at, "/", headers).await;
        let passed = told("traceparent").unwrap();
        assert!(passed.len() == 55 && passed.ends_with("-01"), "{passed}");
        assert_eq!(told("tracestate"), None, "of another trace");
    }
    let twice = format!("traceparent: 00-{TRACE}-{PARENT}-01\r\n").repeat(2);
    assert!(!told(at, "/", &twice).await("traceparent").unwrap().contains(TRACE));
    let hostile = "b3: <b>\r\nx-b3-traceid: 0\r\nX-B3-Sampled: maybe\r\nX_B3_SpanId: 1\r\n";
    let told = told(at, "/", hostile).await;
    for name in ["b3", "x-b3-traceid", "x-b3-sampled", "x_b3_spanid"] {
        assert_eq!(told(name), None, "{name}");
    }
    // the collector has no endpoint, which no request notices
    let name = "tidegate_trace_spans_total{result=\"failed\"}";
    eventually("they are counted", async || metric(&proxy, name).await == 10).await;
    proxy.drain();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tracing_headers_pass_untouched() {
    let to = serve(Seen::default()).await;
    let (proxy, at) = gateway(to, None, &[]);
    let told = told(at, "/", "traceparent: 00-whatever\r\ntracestate: a=b\r\nb3: 0\r\n").await;
    for (name, value) in [("traceparent", "00-whatever"), ("tracestate", "a=b"), ("b3", "0")] {
        assert_eq!(told(name).as_deref(), Some(value));
    }
    proxy.drain();
}
