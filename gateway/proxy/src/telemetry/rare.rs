//! Operators of format strings that no default format has: kept apart from those on the way of every request.

use super::format::{Value, environment};
use super::metrics::grpc_status;
use super::{Record, time};
use crate::tls::{ClientCertificate, NameKind};
use std::sync::LazyLock;
use std::time::SystemTime;
use tidegate_model::{Field, GrpcStatusForm, HeaderName, Operator};

/// The statuses of gRPC by their numbers.
const GRPC_STATUSES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// Writes what an operator stands for, if there is anything.
#[cold]
pub(super) fn operator(operator: &Operator, record: &Record<'_>, out: &mut Value<'_>) {
    match operator {
        Operator::Environment(name) => out.piece(environment(name).as_bytes()),
        Operator::GrpcStatus(form) => grpc_status(record).into_iter().for_each(|status| {
            let names = GRPC_STATUSES.get(usize::from(status)).filter(|_| *form != GrpcStatusForm::Number);
            match (names, form) {
                (Some((name, _)), GrpcStatusForm::Camel) | (Some((_, name)), _) => out.piece(name.as_bytes()),
                (None, _) => out.number(status),
            }
        }),
        Operator::RequestWithoutQuery(name, alternative) => {
            if !without_query(name, record, out)
                && let Some(name) = alternative
            {
                without_query(name, record, out);
            }
        }
        Operator::StartTime(Some(format)) => out.short(|w| time::write_format(format, record.start, w)),
        Operator::Field(named) => field(*named, record, out),
        _ => {}
    }
}

/// Writes a request header up to its first `?`; whether there is one.
fn without_query(name: &HeaderName, record: &Record<'_>, out: &mut Value<'_>) -> bool {
    let mut any = false;
    let mut write = |value: &[u8]| {
        any |= !value.is_empty();
        out.piece(value.split(|c| *c == b'?').next().unwrap_or_default());
    };
    match name.as_str() {
        ":path" | "x-envoy-original-path" => write(record.path),
        _ => record.headers.request(name, &mut write),
    }
    any
}

fn field(field: Field, record: &Record<'_>, out: &mut Value<'_>) {
    let certificate = record.tls.and_then(|tls| tls.client.as_ref());
    match field {
        Field::ResponseFlagsLong => out.own(|out| record.flags.write_words(out)),
        Field::ConnectionId => out.number(record.connection_id),
        Field::StreamId => out.piece(record.request_id),
        Field::Hostname => out.piece(HOSTNAME.as_bytes()),
        Field::TraceId => record.traced.iter().for_each(|traced| out.piece(&traced.context.trace_id())),
        Field::SpanId => record.traced.iter().for_each(|traced| out.piece(&traced.context.span_id())),
        Field::DownstreamTlsVersion => out.piece(record.tls.map_or("", |tls| tls.version).as_bytes()),
        Field::DownstreamTlsCipher => out.piece(record.tls.map_or("", |tls| tls.cipher).as_bytes()),
        _ => certificate.into_iter().for_each(|certificate| of_certificate(field, certificate, out)),
    }
}

fn of_certificate(field: Field, certificate: &ClientCertificate, out: &mut Value<'_>) {
    let mut moment = |time: Option<SystemTime>| {
        time.into_iter().for_each(|time| out.own(|out| time::write_iso(time, out)));
    };
    let text = match field {
        Field::DownstreamPeerValidFrom => return moment(certificate.validity().map(|(from, _)| from)),
        Field::DownstreamPeerValidUntil => return moment(certificate.validity().map(|(_, until)| until)),
        Field::DownstreamPeerSubject => certificate.subject(),
        Field::DownstreamPeerIssuer => certificate.issuer(),
        Field::DownstreamPeerUriSan => certificate.names(NameKind::Uri),
        Field::DownstreamPeerDnsSan => certificate.names(NameKind::Dns),
        Field::DownstreamPeerIpSan => certificate.names(NameKind::Ip),
        Field::DownstreamPeerEmailSan => certificate.names(NameKind::Email),
        Field::DownstreamPeerSerial => certificate.serial(),
        Field::DownstreamPeerFingerprint => certificate.fingerprint(),
        _ => return,
    };
    out.piece(text.as_bytes());
}

static HOSTNAME: LazyLock<String> = LazyLock::new(|| {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname");
    kernel.map_or_else(|_| environment("HOSTNAME").to_string(), |name| name.trim().to_string())
});

#[cfg(test)]
mod tests {
    use super::super::testing::{Lists, cluster, forwarded, tls, tracing, unrouted, workload};
    use super::super::{Flag, render_tag};
    use crate::trace::{SpanContext, Traced};
    use tidegate_model::FormatString;

    #[test]
    fn every_operator_has_its_value() {
        let headers = Lists {
            request: vec![("x-a", b"1?2".to_vec())],
            trailers: vec![("grpc-status", b"5".to_vec())],
            ..Lists::default()
        };
        let (cluster, workload, tls) = (cluster(), workload(), tls());
        let (context, tracing) = (SpanContext::testing(0xab), tracing());
        let mut record = forwarded(&cluster, &workload, &headers);
        record.grpc = true;
        record.tls = Some(&tls);
        record.traced = Some(Traced { context: &context, tries: &[], tracing: &tracing });
        record.flags.set(Flag::RetryLimit);
        record.flags.set(Flag::UpstreamConnectFailure);
        let fingerprint = tls.client.as_ref().unwrap().fingerprint();
        for (format, expected) in [
            ("%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH)%", "/reviews/0"),
            ("%REQ_WITHOUT_QUERY(x-b?:path):2% %REQ_WITHOUT_QUERY(x-b?x-a)%", "/r 1"),
            ("%GRPC_STATUS% %GRPC_STATUS(CAMEL_STRING)%", "NotFound NotFound"),
            ("%GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)%", "NOT_FOUND 5"),
            ("%RESPONSE_FLAGS_LONG%", "UpstreamConnectionFailure,UpstreamRetryLimitExceeded"),
            ("%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %UPSTREAM_LOCAL_PORT%", "10.0.0.1 40000"),
            ("%CONNECTION_ID% %STREAM_ID%", "7 6e3d0d0a-0b3c-4c0e-9d0f-7f4a5c1b2d3e"),
            ("%TRACE_ID% %SPAN_ID%", "000000000000000000000000000000ab 0000000000000001"),
            ("%DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER%", "TLSv1.3 TLS_AES_128_GCM_SHA256"),
            ("%DOWNSTREAM_PEER_SUBJECT%", "CN=client,O=Miller\\, Sons"),
            ("%DOWNSTREAM_PEER_ISSUER%", "CN=client,O=Miller\\, Sons"),
            ("%DOWNSTREAM_PEER_URI_SAN%", "spiffe://cluster.local/ns/a/sa/b"),
            ("%DOWNSTREAM_PEER_DNS_SAN% %DOWNSTREAM_PEER_IP_SAN%", "client.example 10.0.0.1"),
            ("%DOWNSTREAM_PEER_EMAIL_SAN% %DOWNSTREAM_PEER_SERIAL%", "a@b.example 0aff"),
            ("%DOWNSTREAM_PEER_FINGERPRINT_256%", &fingerprint),
            ("%DOWNSTREAM_PEER_CERT_V_START%", "2024-02-29T00:00:00.000Z"),
            ("%DOWNSTREAM_PEER_CERT_V_END%", "2034-01-01T00:00:00.000Z"),
            ("%FILTER_STATE(a)%%UPSTREAM_TLS_VERSION%", ""),
        ] {
            assert_eq!(render_tag(&FormatString::parse(format).unwrap(), &record), expected, "{format}");
        }
        let nothing = Lists::default();
        let text = "%GRPC_STATUS%%REQ_WITHOUT_QUERY(x?y)%%DOWNSTREAM_PEER_SUBJECT%%TRACE_ID%";
        assert_eq!(render_tag(&FormatString::parse(text).unwrap(), &unrouted(&nothing)), "");
    }
}
