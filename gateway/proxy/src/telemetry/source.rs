//! Where the values of operators come from.

use super::format::{Form, Reader, Value};
use super::metrics::grpc_status;
use super::{Record, rare, time};
use crate::address;
use std::net::SocketAddr;
use std::time::Duration;
use tidegate_model::{Field, HeaderName, Operator};

/// What gives a value.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// Text of the record; empty where it is absent.
    Text(for<'r> fn(&'r Record<'_>) -> &'r [u8]),
    Number(fn(&Record<'_>) -> Option<u64>),
    Address(fn(&Record<'_>) -> Option<SocketAddr>),
    /// An address without its port.
    Ip(fn(&Record<'_>) -> Option<SocketAddr>),
    Start,
    Flags,
    /// Headers or trailers of the operator's name.
    Named,
    /// What no default format has.
    Rare,
    Nothing,
}

/// Of an operator's name, and of its alternative.
pub(super) type Sources = [Source; 2];

/// What gives the values of an operator: to be found out once, since it takes comparing texts.
pub(super) fn sources(operator: &Operator, reader: Reader) -> Sources {
    let both = |name, of: fn(&HeaderName, Reader) -> Source, other: &Option<HeaderName>| {
        [of(name, reader), other.as_ref().map_or(Source::Nothing, |other| of(other, reader))]
    };
    match operator {
        Operator::Request(name, other) => both(name, of_request, other),
        Operator::Response(name, other) => both(name, of_response, other),
        Operator::Trailer(name, other) => both(name, |_, _| Source::Named, other),
        Operator::StartTime(None) => [Source::Start, Source::Nothing],
        Operator::Field(field) => [of_field(*field), Source::Nothing],
        _ => [Source::Rare, Source::Nothing],
    }
}

/// What the record holds of the request itself is never taken from headers, which a client may have sent under the
/// same names.
fn of_request(name: &HeaderName, reader: Reader) -> Source {
    match name.as_str() {
        ":method" => Source::Text(|r| r.method),
        ":path" | "x-envoy-original-path" => Source::Text(|r| r.path),
        ":authority" | "host" if reader == Reader::Log => {
            Source::Text(|r| if r.upstream_authority.is_empty() { r.authority } else { r.upstream_authority })
        }
        ":authority" | "host" => Source::Text(|r| r.authority),
        "x-forwarded-for" => Source::Text(|r| r.forwarded_for),
        "user-agent" => Source::Text(|r| r.user_agent),
        "x-request-id" => Source::Text(|r| r.request_id),
        _ => Source::Named,
    }
}

fn of_response(name: &HeaderName, _: Reader) -> Source {
    match name.as_str() {
        ":status" => Source::Number(|r| Some(r.status.into()).filter(|status| *status > 0)),
        "x-envoy-upstream-service-time" => Source::Number(|r| r.upstream_service_time.map(milliseconds)),
        _ => Source::Named,
    }
}

fn of_field(field: Field) -> Source {
    match field {
        Field::Protocol => Source::Text(|r| r.protocol.as_bytes()),
        Field::ResponseCode => Source::Number(|r| Some(r.status.into())),
        Field::ResponseFlags => Source::Flags,
        Field::ResponseCodeDetails => Source::Text(|r| r.details.as_bytes()),
        Field::UpstreamTransportFailureReason => Source::Text(|r| r.transport_failure.as_bytes()),
        Field::BytesReceived => Source::Number(|r| Some(r.bytes_received)),
        Field::BytesSent => Source::Number(|r| Some(r.bytes_sent)),
        Field::Duration => Source::Number(|r| Some(milliseconds(r.duration))),
        Field::ResponseDuration => Source::Number(|r| r.upstream_service_time.map(milliseconds)),
        Field::RequestDuration => Source::Number(|r| r.request_duration.map(milliseconds)),
        Field::UpstreamCluster | Field::UpstreamClusterRaw => Source::Text(|r| r.cluster_name.as_bytes()),
        Field::RequestedServerName => Source::Text(|r| r.sni.as_bytes()),
        Field::RouteName => Source::Text(|r| r.route.map_or("", |r| &r.name).as_bytes()),
        Field::GrpcStatusNumber => Source::Number(|r| grpc_status(r).map(u64::from)),
        Field::UpstreamRequestAttemptCount => Source::Number(|r| Some(r.attempts.into())),
        // Neither a network policy that ends connections nor virtual clusters exist here.
        Field::ConnectionTerminationDetails | Field::VirtualClusterName => Source::Nothing,
        _ => of_address(field),
    }
}

fn of_address(field: Field) -> Source {
    fn port(address: SocketAddr) -> u64 {
        address.port().into()
    }
    match field {
        Field::UpstreamHost | Field::UpstreamRemoteAddress => Source::Address(|r| r.upstream_host),
        Field::UpstreamRemoteAddressWithoutPort => Source::Ip(|r| r.upstream_host),
        Field::UpstreamRemotePort => Source::Number(|r| r.upstream_host.map(port)),
        Field::UpstreamLocalAddress => Source::Address(|r| r.upstream_local),
        Field::UpstreamLocalAddressWithoutPort => Source::Ip(|r| r.upstream_local),
        Field::UpstreamLocalPort => Source::Number(|r| r.upstream_local.map(port)),
        Field::DownstreamLocalAddress => Source::Address(|r| Some(r.downstream_local)),
        Field::DownstreamLocalAddressWithoutPort => Source::Ip(|r| Some(r.downstream_local)),
        Field::DownstreamLocalPort => Source::Number(|r| Some(port(r.downstream_local))),
        Field::DownstreamRemoteAddress => Source::Address(|r| Some(r.downstream_remote)),
        Field::DownstreamRemoteAddressWithoutPort => Source::Ip(|r| Some(r.downstream_remote)),
        Field::DownstreamRemotePort => Source::Number(|r| Some(port(r.downstream_remote))),
        Field::DownstreamDirectRemoteAddress => Source::Address(|r| Some(r.downstream_direct)),
        Field::DownstreamDirectRemoteAddressWithoutPort => Source::Ip(|r| Some(r.downstream_direct)),
        Field::DownstreamDirectRemotePort => Source::Number(|r| Some(port(r.downstream_direct))),
        _ => Source::Rare,
    }
}

/// Whole ones.
fn milliseconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1000).saturating_add(duration.subsec_millis().into())
}

/// Writes what an operator stands for; whether there is anything.
// Always: what it is told of style and limit stays in registers where the log's loop has it inlined.
#[inline(always)]
pub(super) fn write(
    operator: &Operator,
    [first, other]: Sources,
    record: &Record<'_>,
    form: Form,
    out: &mut Vec<u8>,
) -> bool {
    one(operator, first, 0, record, form, out)
        || (!matches!(other, Source::Nothing) && alternative(operator, other, record, form, out))
}

/// Nearly every operator has the value of its name.
#[inline(never)]
fn alternative(
    operator: &Operator,
    other: Source,
    record: &Record<'_>,
    form: Form,
    out: &mut Vec<u8>,
) -> bool {
    one(operator, other, 1, record, form, out)
}

#[inline(always)]
fn one(
    operator: &Operator,
    source: Source,
    which: usize,
    record: &Record<'_>,
    form: Form,
    out: &mut Vec<u8>,
) -> bool {
    match source {
        Source::Text(text) => form.text(text(record), out),
        Source::Number(number) => number(record).is_some_and(|n| form.number(n, out)),
        Source::Address(address) => {
            address(record).is_some_and(|a| form.own(out, |out| address::write(a, out)))
        }
        Source::Ip(address) => {
            address(record).is_some_and(|a| form.own(out, |out| address::write_ip(a.ip(), out)))
        }
        Source::Start => form.own(out, |out| time::write_iso(record.start, out)),
        Source::Flags => form.own(out, |out| record.flags.write(out)),
        Source::Named => form.pieces(out, |value| named(operator, which, record, value)),
        Source::Rare => form.pieces(out, |value| rare::operator(operator, record, value)),
        Source::Nothing => false,
    }
}

/// Writes the headers or trailers of an operator's name, or of its alternative.
fn named(operator: &Operator, which: usize, record: &Record<'_>, out: &mut Value<'_>) {
    let (Operator::Request(name, other) | Operator::Response(name, other) | Operator::Trailer(name, other)) =
        operator
    else {
        return;
    };
    let Some(name) = [Some(name), other.as_ref()][which] else { return };
    let headers = record.headers;
    let mut write = |value: &[u8]| out.piece(value);
    match operator {
        Operator::Request(..) => headers.request(name, &mut write),
        Operator::Response(..) => headers.response(name, &mut write),
        _ => headers.trailer(name, &mut write),
    }
}
