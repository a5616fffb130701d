//! The spans of a request that has ended, with the names and tags that Istio and Envoy give them.

use super::context::{SpanContext, Traced, Try};
use super::otlp::{Code, KeyValue, Kind, Span, Status};
use crate::server::Identity;
use crate::telemetry::{Record, render_tag};
use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};
use tidegate_model::{Action, HeaderName, PathMatch, Tracing};

/// Bytes of what a client wrote that a span keeps of each thing but the path.
const MAX_TEXT: usize = 256;

/// Makes the span of a request.
pub(super) fn of_request(traced: Traced<'_>, record: &Record<'_>, identity: &Identity) -> Span {
    let context = traced.context;
    // what never was answered, or badly, is an error
    let failed = record.status == 0 || record.status >= 500;
    let mut span = Span {
        trace_id: context.trace.to_be_bytes().into(),
        span_id: context.span.to_be_bytes().into(),
        parent_span_id: context.parent.map_or_else(Vec::new, |p| p.to_be_bytes().into()),
        name: name(context, record),
        kind: Kind::Server.into(),
        attributes: attributes(traced, record, identity, failed),
        status: failed.then(|| Status { code: Code::Error.into() }),
        ..Span::default()
    };
    during(&mut span, record, Duration::ZERO, record.duration);
    span
}

/// Makes the span of the `n`th try of a request, counting from 0, with the name and tags that Envoy gives it.
pub(super) fn of_try(
    one: &Try,
    n: usize,
    is_last: bool,
    traced: Traced<'_>,
    record: &Record<'_>,
    identity: &Identity,
) -> Span {
    let (context, tracing) = (traced.context, traced.tracing);
    let failed = one.status == 0 || one.status >= 500;
    let cluster = record.cluster_name;
    let mut all = vec![
        KeyValue::new("component", "proxy"),
        KeyValue::new("http.protocol", record.protocol),
        KeyValue::new("upstream_cluster", cluster),
        KeyValue::new("upstream_cluster.name", cluster),
        KeyValue::new("http.status_code", one.status.to_string()),
    ];
    if let Some(host) = one.host {
        all.push(KeyValue::new("upstream_address", host.to_string()));
        all.push(KeyValue::new("peer.address", host.to_string()));
    }
    if is_last {
        all.push(KeyValue::new("response_flags", flags(record)));
    }
    if n > 0 {
        all.push(KeyValue::new("retry.count", n.to_string()));
    }
    if failed {
        all.push(KeyValue::new("error", "true"));
    }
    own_tags(tracing, record, identity, &mut all);
    let mut span = Span {
        trace_id: context.trace.to_be_bytes().into(),
        span_id: one.span.to_be_bytes().into(),
        parent_span_id: context.span.to_be_bytes().into(),
        name: format!("router {cluster} egress"),
        kind: Kind::Client.into(),
        attributes: all,
        status: failed.then(|| Status { code: Code::Error.into() }),
        ..Span::default()
    };
    // the last one that was answered goes on until its response is through
    let ended = one.ended.filter(|_| !is_last || one.status == 0);
    during(&mut span, record, one.began, ended.unwrap_or(record.duration));
    span
}

/// When a span begins and ends, from the request's beginning.
fn during(span: &mut Span, record: &Record<'_>, began: Duration, ended: Duration) {
    let start = record.start.duration_since(UNIX_EPOCH).unwrap_or_default();
    span.start_time_unix_nano = nanoseconds(start + began);
    span.end_time_unix_nano = nanoseconds(start + ended.max(began));
}

fn flags(record: &Record<'_>) -> String {
    let mut flags = Vec::new();
    record.flags.write(&mut flags);
    text(&flags, MAX_TEXT)
}

/// The tags that say who made a span, and those of users.
fn own_tags(tracing: &Tracing, record: &Record<'_>, identity: &Identity, all: &mut Vec<KeyValue>) {
    let Identity { workload, namespace } = identity;
    if tracing.istio_tags {
        all.extend([
            KeyValue::new("istio.canonical_service", workload.as_str()),
            KeyValue::new("istio.canonical_revision", "latest"),
            KeyValue::new("istio.namespace", namespace.as_str()),
            KeyValue::new("istio.mesh_id", "unknown"),
            KeyValue::new("istio.cluster_id", "unknown"),
        ]);
    }
    for tag in &tracing.tags {
        let value = render_tag(&tag.value, record);
        let value = if value.is_empty() { tag.default.to_string() } else { value };
        if !value.is_empty() {
            all.push(KeyValue::new(&tag.name, value));
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Istio's: the destination, or the VirtualService where there are several, its port, and the path of
/// the rule. `egress` is what Istio calls all that leaves a gateway.
fn name(context: &SpanContext, record: &Record<'_>) -> String {
    let Some(route) = record.route else { return format!("egress {}", text(record.authority, MAX_TEXT)) };
    let path = match &route.matches.path {
        PathMatch::Any => "/*".into(),
        PathMatch::Exact(path) | PathMatch::Regex(path) => path.to_string(),
        PathMatch::Prefix(path) => format!("{path}*"),
    };
    match (&*route.action, record.cluster) {
        (Action::Forward(forward), Some(cluster)) if forward.destinations.len() == 1 => {
            format!("{}:{}{path}", cluster.host, cluster.port)
        }
        _ => format!("{}:{}{path}", route.rule.object.name, context.port),
    }
}

fn attributes(traced: Traced<'_>, record: &Record<'_>, identity: &Identity, failed: bool) -> Vec<KeyValue> {
    static SCHEME: LazyLock<HeaderName> = LazyLock::new(|| HeaderName::new(":scheme"));
    let Identity { workload, namespace } = identity;
    let mut scheme = String::new();
    record.headers.request(&SCHEME, &mut |s| scheme = text(s, MAX_TEXT));
    let authority = text(record.authority, MAX_TEXT);
    let url = format!("{scheme}://{authority}{}", text(record.path, traced.tracing.max_path));
    let ip = record.downstream_local.ip().to_canonical();
    let own_node = format!("router~{ip}~{workload}.{namespace}~{namespace}.svc.cluster.local");
    let mut all = vec![
        KeyValue::new("component", "proxy"),
        KeyValue::new("node_id", own_node),
        KeyValue::new("guid:x-request-id", text(record.request_id, MAX_TEXT)),
        KeyValue::new("http.url", url),
        KeyValue::new("http.method", text(record.method, MAX_TEXT)),
        KeyValue::new("http.protocol", record.protocol),
        KeyValue::new("http.status_code", record.status.to_string()),
        KeyValue::new("response_flags", flags(record)),
        KeyValue::new("request_size", record.bytes_received.to_string()),
        KeyValue::new("response_size", record.bytes_sent.to_string()),
        KeyValue::new("user_agent", text(record.user_agent, MAX_TEXT)),
        KeyValue::new("downstream_cluster", "-"),
        KeyValue::new("peer.address", record.downstream_direct.ip().to_canonical().to_string()),
    ];
    if !record.cluster_name.is_empty() {
        all.push(KeyValue::new("upstream_cluster", record.cluster_name));
        all.push(KeyValue::new("upstream_cluster.name", record.cluster_name));
    }
    if let Some(host) = record.upstream_host {
        all.push(KeyValue::new("upstream_address", host.to_string()));
    }
    if failed {
        all.push(KeyValue::new("error", "true"));
    }
    own_tags(traced.tracing, record, identity, &mut all);
    all
}

/// Bytes of a client's as text; what is too long is cut.
fn text(bytes: &[u8], limit: usize) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(limit)]).into_owned()
}
