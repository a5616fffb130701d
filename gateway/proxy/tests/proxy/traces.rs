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

type Seen = Arc<Mutex<Vec<(String, Bytes)>>>;

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
    let kind = request.headers().get("content-type").cloned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
    let (content, trailers) = match path.as_str() {
        GRPC => (Bytes::from_static(&[0; 5]), Some(Ok(trailers))),
        "/v1/traces" => (Bytes::new(), None),
        _ => return Ok(Response::new(Full::from(head).boxed())),
    };
    seen.lock().unwrap().push((format!("{path} {}", kind.unwrap().to_str().unwrap()), body));
    Ok(Response::new(Full::from(content).with_trailers(async { trailers }).boxed()))
}

fn tracing(transport: OtlpTransport) -> Tracing {
    Tracing {
        collector: ClusterName::outbound(80, "", "collector"),
        transport,
        timeout: Duration::from_secs(20),
        sampling: Share::all(),
        max_path: 7,
    }
}

/// A gateway that sends everything to one address, and spans to another.
fn gateway(to: SocketAddr, tracing: Option<Tracing>, collectors: &[SocketAddr]) -> (Proxy, SocketAddr) {
    let mut model = Model::default();
    let table = plain(&mut model, key(1));
    let route = forward(&mut model, "service", &[to]);
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
        (OtlpTransport::Http("/v1/traces".into()), "/v1/traces application/x-protobuf".to_owned()),
        (OtlpTransport::Grpc, format!("{GRPC} application/grpc")),
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
        eventually("they are counted", async || metric(&proxy, name).await == 1).await;
        let (how, message) = seen.lock().unwrap()[0].clone();
        assert_eq!(how, method);
        let message = if how.starts_with(GRPC) {
            assert_eq!(message[..5], (message.len() as u64 - 5).to_be_bytes()[3..]);
            message.slice(5..)
        } else {
            message
        };
        assert_eq!(attribute(&find(&message, &[1, 1])[0], 1, "service.name").unwrap(), "test.test");
        let spans = find(&message, &[1, 2, 2]);
        let [span] = spans.as_slice() else { panic!("one span and not {}", spans.len()) };
        let ids = [1, 2, 4].map(|n| hex(&find(span, &[n])[0]));
        let parts: Vec<_> = sampled("traceparent").unwrap().split('-').map(str::to_owned).collect();
        assert_eq!([&*ids[0], &ids[1], &ids[2]], [TRACE, &parts[2], PARENT]);
        assert_eq!((&*parts[1], &*parts[3]), (TRACE, "01"));
        assert_eq!((text(span, &[5]), find(span, &[6])), ("service:80/*".to_owned(), vec![vec![2]]));
        let [start, end] =
            [7, 8].map(|n| u64::from_le_bytes(find(span, &[n])[0].clone().try_into().unwrap()));
        assert!(start > 1_600_000_000_000_000_000 && end >= start, "{start} {end}");
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
            assert_eq!(attribute(span, 9, key).as_deref(), Some(value), "{key}");
        }
        assert_eq!(attribute(span, 9, "error"), None);
        proxy.drain();
    }
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
    // the collector has no endpoint, which no request notices
    let name = "tidegate_trace_spans_total{result=\"failed\"}";
    eventually("they are counted", async || metric(&proxy, name).await == 4).await;
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
