use super::format::{self, Form, MAX_VALUE, Reader, Style};
use super::source::{self, Sources, sources};
use super::{Record, escape};
use crate::block;
use std::sync::LazyLock;
use tidegate_model::{AccessLogFormat, FormatPart, FormatString, Operator};

/// A line is cut in its values when it comes to be longer than this.
const MAX_LINE: usize = 64 << 10;

/// Istio's default text line (Istio 2.17).
const DEFAULT_TEXT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% ",
    "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% ",
    "\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% ",
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% ",
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n",
);

/// Istio's default JSON keys (Istio 2.17).
const DEFAULT_JSON: &[(&str, &str)] = &[
    ("start_time", "%START_TIME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("route_name", "%ROUTE_NAME%"),
];

/// An access log's format, compiled: one call writes one line.
pub(super) struct LineFormat {
    values: Vec<Placed>,
    end: Literal,
}

/// A value, and the text between the one before and itself.
struct Placed {
    before: Literal,
    operator: Operator,
    sources: Sources,
    form: Form,
    /// What stands for a value that is absent.
    absent: &'static [u8],
}

/// How many bytes of a literal are copied at once.
const BLOCK: usize = 48;

/// Bytes as they stand, escaped already: a block, and what does not fit in it.
struct Literal {
    block: [u8; BLOCK],
    length: usize,
    rest: Vec<u8>,
}

impl Literal {
    fn new(bytes: &[u8]) -> Self {
        let (first, rest) = bytes.split_at(bytes.len().min(BLOCK));
        let mut block = [0; BLOCK];
        block[..first.len()].copy_from_slice(first);
        Literal { block, length: first.len(), rest: rest.to_vec() }
    }

    #[inline]
    fn write(&self, out: &mut Vec<u8>) {
        block::append(&self.block, self.length, out);
        if !self.rest.is_empty() {
            out.extend_from_slice(&self.rest);
        }
    }
}

/// A format that is being compiled: text gathers until a value follows.
#[derive(Default)]
struct Parts {
    values: Vec<Placed>,
    text: Vec<u8>,
}

impl Parts {
    fn value(&mut self, operator: &Operator, limit: Option<usize>, (style, absent): Column) {
        let before = Literal::new(&std::mem::take(&mut self.text));
        let (operator, sources) = (operator.clone(), sources(operator, Reader::Log));
        let form = Form { style, limit: limit.map_or(MAX_VALUE, |n| n.min(MAX_VALUE)) };
        self.values.push(Placed { before, operator, sources, form, absent });
    }

    fn is_empty(&self) -> bool {
        self.values.is_empty() && self.text.is_empty()
    }

    fn end(self) -> LineFormat {
        LineFormat { values: self.values, end: Literal::new(&self.text) }
    }
}

/// How a value is written, and what stands for one that is absent.
type Column = (Style, &'static [u8]);

/// In a text line.
const TEXT: Column = (Style { escape: escape::text, quoted: false }, b"-");
/// In a text line between blanks: it must not hold one.
const COLUMN: Column = (Style { escape: escape::bare, quoted: false }, b"-");
/// A JSON number.
const NUMBER: Column = (Style { escape: escape::json, quoted: false }, b"null");
/// A JSON string of its own.
const STRING: Column = (Style { escape: escape::json, quoted: true }, b"null");
/// Inside a JSON string.
const INSIDE: Column = (Style { escape: escape::json, quoted: false }, b"-");

impl LineFormat {
    pub(super) fn compile(format: &AccessLogFormat) -> Self {
        static TEXT: LazyLock<FormatString> = LazyLock::new(|| constant(DEFAULT_TEXT));
        match format {
            AccessLogFormat::DefaultText => LineFormat::text(&TEXT, true),
            AccessLogFormat::Text(format) => LineFormat::text(format, false),
            AccessLogFormat::DefaultJson => {
                LineFormat::json(DEFAULT_JSON.iter().map(|(key, format)| (*key, constant(format))))
            }
            AccessLogFormat::Json(keys) => {
                LineFormat::json(keys.iter().map(|(key, format)| (&**key, format.clone())))
            }
        }
    }

    /// Line breaks of the format are blanks but for the one at its end: one line per request.
    /// With `columns`, values outside of quotes hold no blanks, so that columns can be counted.
    fn text(format: &FormatString, columns: bool) -> Self {
        let mut parts = Parts::default();
        let mut quoted = false;
        for part in format.parts() {
            match part {
                FormatPart::Literal(text) => {
                    quoted ^= text.matches('"').count() % 2 == 1;
                    parts
                        .text
                        .extend(text.bytes().map(|b| if matches!(b, b'\r' | b'\n') { b' ' } else { b }));
                }
                FormatPart::Operator(operator, limit) => {
                    parts.value(operator, *limit, if columns && !quoted { COLUMN } else { TEXT });
                }
            }
        }
        while format.as_str().ends_with(['\r', '\n']) && parts.text.last() == Some(&b' ') {
            parts.text.pop();
        }
        parts.text.push(b'\n');
        parts.end()
    }

    fn json<'a>(keys: impl Iterator<Item = (&'a str, FormatString)>) -> Self {
        let mut parts = Parts::default();
        for (i, (key, format)) in keys.enumerate() {
            parts.text.extend(if i == 0 { b"{\"" } else { b",\"" });
            escape::json(key.as_bytes(), &mut parts.text);
            parts.text.extend(b"\":");
            match format.parts() {
                [FormatPart::Operator(operator, limit)] => {
                    let style = if format::is_number(operator) { NUMBER } else { STRING };
                    parts.value(operator, *limit, style);
                }
                pieces => {
                    parts.text.push(b'"');
                    for piece in pieces {
                        match piece {
                            FormatPart::Literal(text) => escape::json(text.as_bytes(), &mut parts.text),
                            FormatPart::Operator(operator, limit) => parts.value(operator, *limit, INSIDE),
                        }
                    }
                    parts.text.push(b'"');
                }
            }
        }
        parts.text.extend(if parts.is_empty() { &b"{}\n"[..] } else { b"}\n" });
        parts.end()
    }

    /// Appends the line of a request.
    pub(super) fn write(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        let begin = out.len();
        for Placed { before, operator, sources, form, absent } in &self.values {
            before.write(out);
            let limit = if out.len() - begin > MAX_LINE { 0 } else { form.limit };
            if !source::write(operator, *sources, record, Form { limit, ..*form }, out) {
                out.extend_from_slice(absent);
            }
        }
        self.end.write(out);
    }
}

/// A format of ours.
#[expect(clippy::expect_used, reason = "a constant of this file, which its tests compile")]
fn constant(format: &str) -> FormatString {
    FormatString::parse(format).expect("a format of our own is valid")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Lists, cluster, forwarded, unrouted, workload};
    use super::super::{Flag, Flags};
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    fn line(format: &AccessLogFormat, record: &Record<'_>) -> String {
        let mut out = Vec::new();
        LineFormat::compile(format).write(record, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn text(format: &str) -> AccessLogFormat {
        AccessLogFormat::Text(FormatString::parse(format).unwrap())
    }

    fn keys(keys: &[(&str, &str)]) -> AccessLogFormat {
        let parse = |(k, f): &(&str, &str)| ((*k).into(), FormatString::parse(f).unwrap());
        AccessLogFormat::Json(keys.iter().map(parse).collect())
    }

    #[test]
    fn istios_default_text() {
        let (cluster, workload, headers) = (cluster(), workload(), Lists::default());
        assert_eq!(
            line(&AccessLogFormat::DefaultText, &forwarded(&cluster, &workload, &headers)),
            "[2024-02-29T12:34:56.789Z] \"GET /reviews/0?u=1 HTTP/1.1\" 200 - via_upstream - \"-\" 0 358 7 6 \
             \"203.0.113.7\" \"curl/8.5.0\" \"6e3d0d0a-0b3c-4c0e-9d0f-7f4a5c1b2d3e\" \"reviews:9080\" \
             \"10.0.0.9:9080\" outbound|9080|v1|reviews.default.svc.cluster.local 10.0.0.1:40000 10.0.0.1:8443 \
             203.0.113.7:50000 bookinfo.example.com -\n"
        );
        let mut record = unrouted(&headers);
        record.status = 404;
        record.flags.set(Flag::NoRoute);
        record.details = "route_not_found{no host a.b}";
        record.path = b"/a\"b\n";
        assert_eq!(
            line(&AccessLogFormat::DefaultText, &record),
            "[1970-01-01T00:00:00.000Z] \"GET /a\\x22b\\x0a HTTP/1.0\" 404 NR route_not_found{no_host_a.b} - \
             \"-\" 0 0 0 - \"-\" \"-\" \"-\" \"-\" \"-\" - - 10.0.0.1:8080 10.0.0.2:50000 - -\n"
        );
    }

    #[test]
    fn istios_default_json() {
        let (cluster, workload, headers) = (cluster(), workload(), Lists::default());
        let text = line(&AccessLogFormat::DefaultJson, &forwarded(&cluster, &workload, &headers));
        assert!(text.starts_with("{\"start_time\":\"2024-02-29T12:34:56.789Z\",\"method\":\"GET\""));
        let read: Json = serde_json::from_str(&text).unwrap();
        let expected = json!({
            "start_time": "2024-02-29T12:34:56.789Z", "method": "GET", "path": "/reviews/0?u=1",
            "protocol": "HTTP/1.1", "response_code": 200, "response_flags": "-",
            "response_code_details": "via_upstream", "connection_termination_details": null,
            "upstream_transport_failure_reason": null, "bytes_received": 0, "bytes_sent": 358, "duration": 7,
            "upstream_service_time": "6", "x_forwarded_for": "203.0.113.7", "user_agent": "curl/8.5.0",
            "request_id": "6e3d0d0a-0b3c-4c0e-9d0f-7f4a5c1b2d3e", "authority": "reviews:9080",
            "upstream_host": "10.0.0.9:9080",
            "upstream_cluster": "outbound|9080|v1|reviews.default.svc.cluster.local",
            "upstream_local_address": "10.0.0.1:40000", "downstream_local_address": "10.0.0.1:8443",
            "downstream_remote_address": "203.0.113.7:50000",
            "requested_server_name": "bookinfo.example.com", "route_name": null,
        });
        assert_eq!(read, expected);
        let read: Json =
            serde_json::from_str(&line(&AccessLogFormat::DefaultJson, &unrouted(&headers))).unwrap();
        assert_eq!(read["upstream_host"], Json::Null);
        assert_eq!(read["response_code"], 0);
    }

    #[test]
    fn formats_of_users() {
        let headers = Lists { request: vec![("x-a", b"a b".to_vec())], ..Lists::default() };
        let record = unrouted(&headers);
        let cases = [
            (text("%REQ(X-A)% %REQ(x-b)%\n"), "a b -\n"),
            (text("no newline %PROTOCOL%"), "no newline HTTP/1.0\n"),
            (text("two\nlines\n\n"), "two lines\n"),
            (text(""), "\n"),
            (keys(&[]), "{}\n"),
            (
                keys(&[
                    ("k\"", "x"),
                    ("n", "%BYTES_SENT%"),
                    ("none", "%REQUEST_DURATION%"),
                    ("s", "%REQ(x-b)%"),
                ]),
                "{\"k\\\"\":\"x\",\"n\":0,\"none\":null,\"s\":null}\n",
            ),
            (
                keys(&[("mixed", "%REQ(x-a)%/%REQ(x-b)%\"%BYTES_SENT%"), ("cut", "%RESPONSE_CODE:0%")]),
                "{\"mixed\":\"a b/-\\\"0\",\"cut\":null}\n",
            ),
        ];
        for (format, expected) in cases {
            assert_eq!(line(&format, &record), expected);
        }
    }

    #[test]
    fn a_line_is_bounded() {
        let headers = Lists { request: vec![("x-a", vec![0; 2 * MAX_VALUE])], ..Lists::default() };
        let format: Vec<_> = (0..200).map(|i| (format!("k{i}"), "%REQ(x-a)%")).collect();
        let format: Vec<_> = format.iter().map(|(k, f)| (k.as_str(), *f)).collect();
        let text = line(&keys(&format), &unrouted(&headers));
        assert!(text.len() < 2 * MAX_LINE + 200 * 16, "{}", text.len());
        assert!(serde_json::from_str::<Json>(&text).is_ok());
    }

    proptest! {
        #[test]
        fn always_one_line(
            path: Vec<u8>, agent: Vec<u8>, header: Vec<u8>, details: String, sni: String, bits: u32
        ) {
            let headers = Lists { request: vec![("x-a", header)], ..Lists::default() };
            let mut record = unrouted(&headers);
            record.path = &path;
            record.user_agent = &agent;
            record.details = &details;
            record.sni = &sni;
            record.flags = Flags::testing(bits);
            for format in [AccessLogFormat::DefaultText, text("%REQ(x-a)% \"%REQ(:path)%\" %REQUESTED_SERVER_NAME%")] {
                let line = line(&format, &record);
                let body = line.strip_suffix('\n').unwrap();
                prop_assert!(body.bytes().all(|b| (0x20..0x7f).contains(&b)), "{line}");
            }
            let line_of = line(&AccessLogFormat::DefaultText, &record);
            let outside: String = line_of.split('"').step_by(2).collect();
            prop_assert_eq!(outside.split_whitespace().count(), 15, "columns: {}", line_of);
            let object = line(&AccessLogFormat::DefaultJson, &record);
            prop_assert_eq!(object.lines().count(), 1);
            let read: Json = serde_json::from_str(&object).unwrap();
            prop_assert_eq!(read.as_object().unwrap().len(), DEFAULT_JSON.len());
            if let Ok(path) = std::str::from_utf8(&path) && !path.is_empty() {
                prop_assert_eq!(&read["path"], path);
            }
        }
    }
}
