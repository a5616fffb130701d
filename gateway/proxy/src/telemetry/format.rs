//! What the operators of format strings stand for.

use super::source::{self, Sources, sources};
use super::{Record, escape};
use ahash::AHashMap;
use std::io::Cursor;
use std::sync::LazyLock;
use tidegate_model::{Field, FormatPart, FormatString, GrpcStatusForm, Operator};

/// No value is longer, whatever a client sends.
pub(super) const MAX_VALUE: usize = 8 << 10;

/// Nor any of a span's tag.
const MAX_TAG: usize = 256;

/// Who reads a value: a log sees the authority that was sent upstream, a header operation the one
/// that came (Istio 2.5).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    Log,
    HeaderOperation,
}

/// Renders a format string that a header operation adds, with what is known so far.
/// Absent values render as nothing, and so do bytes that no header value may have.
pub(crate) fn render_header(format: &FormatString, record: &Record<'_>, out: &mut Vec<u8>) {
    const STYLE: Style = Style { escape: escape::header, quoted: false };
    for part in format.parts() {
        match part {
            FormatPart::Literal(text) => escape::header(text.as_bytes(), out),
            FormatPart::Operator(operator, limit) => {
                let limit = limit.map_or(MAX_VALUE, |n| n.min(MAX_VALUE));
                let form = Form { style: STYLE, limit };
                source::write(operator, sources(operator, Reader::HeaderOperation), record, form, out);
            }
        }
    }
}

/// Renders a format string for a tag of a span. Absent values render as nothing.
pub(crate) fn render_tag(format: &FormatString, record: &Record<'_>) -> String {
    const STYLE: Style = Style { escape: as_it_is, quoted: false };
    let mut out = Vec::new();
    for part in format.parts() {
        match part {
            FormatPart::Literal(text) => out.extend_from_slice(text.as_bytes()),
            FormatPart::Operator(operator, limit) => {
                let limit = limit.map_or(MAX_TAG, |n| n.min(MAX_TAG));
                let form = Form { style: STYLE, limit };
                source::write(operator, sources(operator, Reader::Log), record, form, &mut out);
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Appends what an operator stands for as it is; whether there is anything.
pub(super) fn render_value(
    operator: &Operator,
    sources: Sources,
    record: &Record<'_>,
    out: &mut Vec<u8>,
) -> bool {
    const STYLE: Style = Style { escape: as_it_is, quoted: false };
    source::write(operator, sources, record, Form { style: STYLE, limit: MAX_VALUE }, out)
}

fn as_it_is(piece: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(piece);
}

/// Renders a format string that is not about a request: operators that are stand for nothing.
pub(crate) fn render_constant(format: &FormatString) -> String {
    let text = |part: &FormatPart| match part {
        FormatPart::Literal(text) => text.to_string(),
        FormatPart::Operator(Operator::Environment(name), _) => environment(name).to_owned(),
        FormatPart::Operator(..) => String::new(),
    };
    format.parts().iter().map(text).collect()
}

/// How a value is written.
#[derive(Clone, Copy)]
pub(super) struct Style {
    /// What is done to bytes that others wrote.
    pub(super) escape: fn(&[u8], &mut Vec<u8>),
    /// Whether it stands in quotes.
    pub(super) quoted: bool,
}

/// How a value is written, and how long it may be before it is escaped.
#[derive(Clone, Copy)]
pub(super) struct Form {
    pub(super) style: Style,
    pub(super) limit: usize,
}

/// Each appends a value, if there is one that the limit leaves something of, and says whether.
impl Form {
    /// Text that others wrote; empty for none.
    #[inline(always)]
    pub(super) fn text(self, text: &[u8], out: &mut Vec<u8>) -> bool {
        let text = &text[..text.len().min(self.limit)];
        if text.is_empty() {
            return false;
        }
        self.quote(out);
        (self.style.escape)(text, out);
        self.quote(out);
        true
    }

    #[inline(always)]
    pub(super) fn number(self, number: u64, out: &mut Vec<u8>) -> bool {
        self.own(out, |out| out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()))
    }

    /// Text of our own, in which nothing is ever escaped.
    #[inline(always)]
    pub(super) fn own(self, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        if self.limit == 0 {
            return false;
        }
        self.quote(out);
        let most = out.len() + self.limit;
        write(out);
        out.truncate(most);
        self.quote(out);
        true
    }

    /// What comes in pieces.
    pub(super) fn pieces(self, out: &mut Vec<u8>, write: impl FnOnce(&mut Value<'_>)) -> bool {
        let mut value = Value { out, form: self, any: false };
        write(&mut value);
        let any = value.any;
        if any {
            self.quote(out);
        }
        any
    }

    #[inline(always)]
    fn quote(self, out: &mut Vec<u8>) {
        if self.style.quoted {
            out.push(b'"');
        }
    }
}

/// A value that comes in pieces.
pub(super) struct Value<'a> {
    out: &'a mut Vec<u8>,
    /// Its limit is what is left of it.
    form: Form,
    any: bool,
}

impl Value<'_> {
    /// A piece of the value. Further ones are further lines of a header (RFC 9110 5.3).
    pub(super) fn piece(&mut self, piece: &[u8]) {
        if piece.is_empty() || self.form.limit == 0 {
            return;
        }
        if self.any {
            self.form.limit -= 1;
            self.out.push(b',');
        } else {
            self.begin();
        }
        let piece = &piece[..piece.len().min(self.form.limit)];
        self.form.limit -= piece.len();
        (self.form.style.escape)(piece, self.out);
    }

    /// Text of our own, in which nothing is ever escaped.
    pub(super) fn own(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.form.limit == 0 {
            return;
        }
        self.begin();
        let from = self.out.len();
        write(self.out);
        self.out.truncate(from + self.form.limit);
    }

    fn begin(&mut self) {
        self.any = true;
        self.form.quote(self.out);
    }

    /// Text that is made on the spot and short; what does not fit is cut.
    pub(super) fn short(&mut self, write: impl FnOnce(&mut Cursor<&mut [u8]>) -> std::io::Result<()>) {
        let mut buffer = [0u8; 256];
        let mut cursor = Cursor::new(&mut buffer[..]);
        // The only error is a full buffer, and then it is cut.
        let _ = write(&mut cursor);
        let length = cursor.position() as usize;
        self.piece(&buffer[..length]);
    }

    pub(super) fn number(&mut self, number: impl itoa::Integer) {
        self.own(|out| out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()));
    }
}

/// Whether an operator stands for a number, which JSON logs print without quotes.
pub(super) fn is_number(operator: &Operator) -> bool {
    matches!(
        operator,
        Operator::Field(
            Field::ResponseCode
                | Field::BytesReceived
                | Field::BytesSent
                | Field::Duration
                | Field::ResponseDuration
                | Field::RequestDuration
                | Field::DownstreamLocalPort
                | Field::DownstreamRemotePort
                | Field::DownstreamDirectRemotePort
                | Field::UpstreamRemotePort
                | Field::UpstreamLocalPort
                | Field::ConnectionId
                | Field::GrpcStatusNumber
                | Field::UpstreamRequestAttemptCount
        ) | Operator::GrpcStatus(GrpcStatusForm::Number)
    )
}

/// A variable of the process, as it was when the first one was asked for.
pub(super) fn environment(name: &str) -> &'static str {
    static VARIABLES: LazyLock<AHashMap<String, String>> = LazyLock::new(|| {
        let text = |s: std::ffi::OsString| s.to_string_lossy().into_owned();
        std::env::vars_os().map(|(k, v)| (text(k), text(v))).collect()
    });
    VARIABLES.get(name).map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Lists, cluster, forwarded, unrouted, workload};
    use super::super::{Flag, Flags};
    use super::*;

    fn rendered(format: &str, record: &Record<'_>) -> String {
        let mut out = Vec::new();
        render_header(&FormatString::parse(format).unwrap(), record, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_operator_has_its_value() {
        let headers = Lists {
            request: vec![("x-a", b"1".to_vec()), ("x-a", b"2".to_vec()), (":scheme", b"https".to_vec())],
            response: vec![("server", b"nginx".to_vec())],
            trailers: vec![("grpc-status", b"0".to_vec())],
        };
        let (cluster, workload) = (cluster(), workload());
        let mut record = forwarded(&cluster, &workload, &headers);
        record.transport_failure = "connection refused";
        record.grpc = true;
        record.flags.set(Flag::RetryLimit);
        record.flags.set(Flag::UpstreamConnectFailure);
        let cases = [
            ("%REQ(x-a)%", "1,2"),
            ("%REQ(x-b?x-a)%", "1,2"),
            ("%REQ(x-a):2%", "1,"),
            ("%REQ(:scheme)% %REQ(:method)% %REQ(:path)%", "https GET /reviews/0?u=1"),
            ("%REQ(:authority)% %REQ(host)%", "bookinfo.example.com bookinfo.example.com"),
            ("%RESP(server)% %RESP(:status)% %RESP(x?server):3%", "nginx 200 ngi"),
            ("%TRAILER(x?grpc-status)%", "0"),
            ("%START_TIME% %START_TIME(%s)%", "2024-02-29T12:34:56.789Z 1709210096"),
            ("%PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS%", "HTTP/1.1 200 UF,URX"),
            ("%RESPONSE_CODE_DETAILS%", "via_upstream"),
            ("%UPSTREAM_TRANSPORT_FAILURE_REASON%", "connection refused"),
            ("%BYTES_RECEIVED% %BYTES_SENT%", "0 358"),
            ("%DURATION% %RESPONSE_DURATION% %REQUEST_DURATION%", "7 6 1"),
            ("%UPSTREAM_HOST% %UPSTREAM_LOCAL_ADDRESS%", "10.0.0.9:9080 10.0.0.1:40000"),
            ("%UPSTREAM_CLUSTER%", "outbound|9080|v1|reviews.default.svc.cluster.local"),
            ("%UPSTREAM_CLUSTER_RAW%", "outbound|9080|v1|reviews.default.svc.cluster.local"),
            ("%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_PORT%", "10.0.0.1:8443 8443"),
            (
                "%UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT%",
                "10.0.0.9:9080 10.0.0.9 9080",
            ),
            ("%DOWNSTREAM_REMOTE_PORT% %DOWNSTREAM_DIRECT_REMOTE_PORT%", "50000 50001"),
            ("%GRPC_STATUS_NUMBER%", "0"),
            ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "10.0.0.1"),
            ("%DOWNSTREAM_REMOTE_ADDRESS%", "203.0.113.7:50000"),
            ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "203.0.113.7"),
            ("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%", "[2001:db8::1]:50001"),
            ("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%", "2001:db8::1"),
            ("%REQUESTED_SERVER_NAME%", "bookinfo.example.com"),
            ("%UPSTREAM_REQUEST_ATTEMPT_COUNT%", "1"),
            ("100%% literal", "100% literal"),
        ];
        for (format, expected) in cases {
            assert_eq!(rendered(format, &record), expected, "{format}");
        }
        assert_eq!(rendered("%ENVIRONMENT(PATH)%", &record), std::env::var("PATH").unwrap());
        assert!(!rendered("%HOSTNAME%", &record).is_empty());
    }

    #[test]
    fn absent_values_render_as_nothing_in_headers() {
        let headers = Lists::default();
        let mut record = unrouted(&headers);
        record.flags = Flags::default();
        for (name, _) in Field::ALL {
            let field = format!("[%{name}%]");
            let text = rendered(&field, &record);
            let present = ["PROTOCOL", "RESPONSE", "BYTES", "DURATION", "DOWNSTREAM", "HOSTNAME", "ATTEMPT"];
            let absent = text == "[]";
            let present = ["CONNECTION_ID"].contains(name) || present.iter().any(|p| name.contains(p));
            let known = present && !name.contains("TLS") && !name.contains("PEER");
            let known =
                known && !["RESPONSE_DURATION", "REQUEST_DURATION", "RESPONSE_CODE_DETAILS"].contains(name);
            assert_eq!(absent, !known, "{name}: {text}");
        }
        assert_eq!(rendered("[%REQ(x)%%RESP(x)%%TRAILER(x)%%ENVIRONMENT(NO_SUCH_THING)%]", &record), "[]");
    }

    #[test]
    fn header_values_cannot_break_out() {
        let headers = Lists { request: vec![("x-a", b"1\r\nx: y".to_vec())], ..Lists::default() };
        assert_eq!(rendered("a\nb %REQ(x-a)%", &unrouted(&headers)), "ab 1x: y");
    }

    #[test]
    fn values_are_cut() {
        let headers = Lists { request: vec![("x-a", vec![b'x'; 2 * MAX_VALUE])], ..Lists::default() };
        assert_eq!(rendered("%REQ(x-a)%", &unrouted(&headers)).len(), MAX_VALUE);
        assert_eq!(rendered("%REQ(x-a):99999%", &unrouted(&headers)).len(), MAX_VALUE);
    }
}
