use crate::HeaderName;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// A parsed Istio/Envoy format string: literal text with `%OPERATOR(argument):length%` in it.
///
/// Used by header operations and by access log formats. `%%` is a literal percent sign.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FormatString {
    source: Arc<str>,
    parts: Box<[FormatPart]>,
}

/// A piece of a [`FormatString`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FormatPart {
    /// Text as it stands.
    Literal(Arc<str>),
    /// A value of the request; the number cuts it to that many bytes.
    Operator(Operator, Option<usize>),
}

/// What an operator stands for. Values that are absent print as `-` in logs and as nothing in headers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `REQ(name?alternative)`: a request header; pseudo headers allowed.
    Request(HeaderName, Option<HeaderName>),
    /// `RESP(name?alternative)`: a response header.
    Response(HeaderName, Option<HeaderName>),
    /// `TRAILER(name?alternative)`: a response trailer.
    Trailer(HeaderName, Option<HeaderName>),
    /// `START_TIME(format)`: when the request began; without a format ISO 8601 with milliseconds.
    StartTime(Option<Arc<str>>),
    /// `REQ_WITHOUT_QUERY(name?alternative)`: a request header up to its first `?`.
    RequestWithoutQuery(HeaderName, Option<HeaderName>),
    /// `GRPC_STATUS(form)`: the status of gRPC.
    GrpcStatus(GrpcStatusForm),
    /// `ENVIRONMENT(NAME)`: a variable of the process, read once.
    Environment(Arc<str>),
    /// An operator without argument.
    Field(Field),
    /// One that Envoy knows and that stands for nothing here, as it was written.
    Absent(Arc<str>),
}

/// How the status of gRPC is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GrpcStatusForm {
    /// `NotFound`.
    Camel,
    /// `NOT_FOUND`.
    Snake,
    /// `5`.
    Number,
}

/// Envoy's operators that stand for nothing here: what they are about does not exist, or is not kept.
const ABSENT: &[&str] = &[
    "ACCESS_LOG_TYPE",
    "CEL",
    "CLUSTER_METADATA",
    "COMMON_DURATION",
    "DOWNSTREAM_DETECTED_CLOSE_TYPE",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS",
    "DOWNSTREAM_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_HEADER_BYTES_SENT",
    "DOWNSTREAM_LOCAL_CLOSE_REASON",
    "DOWNSTREAM_LOCAL_DNS_SAN",
    "DOWNSTREAM_LOCAL_EMAIL_SAN",
    "DOWNSTREAM_LOCAL_IP_SAN",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
    "DOWNSTREAM_PEER_CHAIN_SERIALS",
    "DOWNSTREAM_PEER_FINGERPRINT_1",
    "DOWNSTREAM_PEER_OTHERNAME_SAN",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "DOWNSTREAM_WIRE_BYTES_RECEIVED",
    "DOWNSTREAM_WIRE_BYTES_SENT",
    "DYNAMIC_METADATA",
    "EMIT_TIME",
    "FILTER_CHAIN_NAME",
    "FILTER_STATE",
    "LOCAL_REPLY_BODY",
    "METADATA",
    "PATH",
    "QUERY_PARAM",
    "QUERY_PARAMS",
    "REQUEST_HEADERS_BYTES",
    "REQUEST_TX_DURATION",
    "RESPONSE_HEADERS_BYTES",
    "RESPONSE_TRAILERS_BYTES",
    "RESPONSE_TX_DURATION",
    "ROUNDTRIP_DURATION",
    "START_TIME_LOCAL",
    "TLS_JA3_FINGERPRINT",
    "TLS_JA4_FINGERPRINT",
    "UNIQUE_ID",
    "UPSTREAM_CLUSTER_METADATA",
    "UPSTREAM_CONNECTION_ID",
    "UPSTREAM_CONNECTION_POOL_READY_DURATION",
    "UPSTREAM_DETECTED_CLOSE_TYPE",
    "UPSTREAM_FILTER_STATE",
    "UPSTREAM_HEADER_BYTES_RECEIVED",
    "UPSTREAM_HEADER_BYTES_SENT",
    "UPSTREAM_HOSTS_ATTEMPTED",
    "UPSTREAM_HOST_IDS_ATTEMPTED",
    "UPSTREAM_HOST_NAME",
    "UPSTREAM_HOST_NAMES_ATTEMPTED",
    "UPSTREAM_HOST_NAME_WITHOUT_PORT",
    "UPSTREAM_LOCAL_DNS_SAN",
    "UPSTREAM_LOCAL_IP_SAN",
    "UPSTREAM_LOCAL_SUBJECT",
    "UPSTREAM_LOCAL_URI_SAN",
    "UPSTREAM_METADATA",
    "UPSTREAM_PEER_CERT",
    "UPSTREAM_PEER_CERT_V_END",
    "UPSTREAM_PEER_CERT_V_START",
    "UPSTREAM_PEER_DNS_SAN",
    "UPSTREAM_PEER_IP_SAN",
    "UPSTREAM_PEER_ISSUER",
    "UPSTREAM_PEER_SUBJECT",
    "UPSTREAM_PEER_URI_SAN",
    "UPSTREAM_PROTOCOL",
    "UPSTREAM_TLS_CIPHER",
    "UPSTREAM_TLS_SESSION_ID",
    "UPSTREAM_TLS_VERSION",
    "UPSTREAM_WIRE_BYTES_RECEIVED",
    "UPSTREAM_WIRE_BYTES_SENT",
    "VIRTUAL_HOST_METADATA",
];

macro_rules! fields {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),* $(,)?) => {
        /// The operators without argument.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Field { $($(#[$doc])* $variant),* }

        impl Field {
            /// Every field with the name that format strings use.
            pub const ALL: &'static [(&'static str, Field)] = &[$(($name, Field::$variant)),*];
        }
    };
}

fields! {
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    Protocol = "PROTOCOL",
    /// The status sent; 0 when none was.
    ResponseCode = "RESPONSE_CODE",
    /// Istio's letters, joined by commas.
    ResponseFlags = "RESPONSE_FLAGS",
    /// The same in words.
    ResponseFlagsLong = "RESPONSE_FLAGS_LONG",
    /// Why this status.
    ResponseCodeDetails = "RESPONSE_CODE_DETAILS",
    /// Why the connection was ended by the gateway.
    ConnectionTerminationDetails = "CONNECTION_TERMINATION_DETAILS",
    /// Why the upstream's TLS failed.
    UpstreamTransportFailureReason = "UPSTREAM_TRANSPORT_FAILURE_REASON",
    /// Body bytes from the client.
    BytesReceived = "BYTES_RECEIVED",
    /// Body bytes to the client.
    BytesSent = "BYTES_SENT",
    /// Milliseconds from first to last byte.
    Duration = "DURATION",
    /// Milliseconds until the upstream's response head.
    ResponseDuration = "RESPONSE_DURATION",
    /// Milliseconds until the request was read whole.
    RequestDuration = "REQUEST_DURATION",
    /// Address of the endpoint.
    UpstreamHost = "UPSTREAM_HOST",
    /// Address of the endpoint, as the connection has it.
    UpstreamRemoteAddress = "UPSTREAM_REMOTE_ADDRESS",
    /// The same without port.
    UpstreamRemoteAddressWithoutPort = "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    /// The port alone.
    UpstreamRemotePort = "UPSTREAM_REMOTE_PORT",
    /// Name of the cluster.
    UpstreamCluster = "UPSTREAM_CLUSTER",
    /// Name of the cluster.
    UpstreamClusterRaw = "UPSTREAM_CLUSTER_RAW",
    /// Our address towards the endpoint.
    UpstreamLocalAddress = "UPSTREAM_LOCAL_ADDRESS",
    /// The same without port.
    UpstreamLocalAddressWithoutPort = "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    /// The port alone.
    UpstreamLocalPort = "UPSTREAM_LOCAL_PORT",
    /// Our address towards the client.
    DownstreamLocalAddress = "DOWNSTREAM_LOCAL_ADDRESS",
    /// The same without port.
    DownstreamLocalAddressWithoutPort = "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    /// The port alone.
    DownstreamLocalPort = "DOWNSTREAM_LOCAL_PORT",
    /// The client's address, as trusted hops say.
    DownstreamRemoteAddress = "DOWNSTREAM_REMOTE_ADDRESS",
    /// The same without port.
    DownstreamRemoteAddressWithoutPort = "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    /// The port alone.
    DownstreamRemotePort = "DOWNSTREAM_REMOTE_PORT",
    /// The peer's address.
    DownstreamDirectRemoteAddress = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    /// The same without port.
    DownstreamDirectRemoteAddressWithoutPort = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    /// The port alone.
    DownstreamDirectRemotePort = "DOWNSTREAM_DIRECT_REMOTE_PORT",
    /// Status of gRPC, as a number.
    GrpcStatusNumber = "GRPC_STATUS_NUMBER",
    /// SNI.
    RequestedServerName = "REQUESTED_SERVER_NAME",
    /// The downstream TLS version.
    DownstreamTlsVersion = "DOWNSTREAM_TLS_VERSION",
    /// The downstream cipher suite, as OpenSSL calls it.
    DownstreamTlsCipher = "DOWNSTREAM_TLS_CIPHER",
    /// The subject of the client's certificate (RFC 2253).
    DownstreamPeerSubject = "DOWNSTREAM_PEER_SUBJECT",
    /// Its issuer (RFC 2253).
    DownstreamPeerIssuer = "DOWNSTREAM_PEER_ISSUER",
    /// Its alternative names that are URIs, joined by commas.
    DownstreamPeerUriSan = "DOWNSTREAM_PEER_URI_SAN",
    /// Those that are DNS names.
    DownstreamPeerDnsSan = "DOWNSTREAM_PEER_DNS_SAN",
    /// Those that are IP addresses.
    DownstreamPeerIpSan = "DOWNSTREAM_PEER_IP_SAN",
    /// Those that are e-mail addresses.
    DownstreamPeerEmailSan = "DOWNSTREAM_PEER_EMAIL_SAN",
    /// Its serial number in hexadecimal digits.
    DownstreamPeerSerial = "DOWNSTREAM_PEER_SERIAL",
    /// Its SHA-256 in hexadecimal digits.
    DownstreamPeerFingerprint = "DOWNSTREAM_PEER_FINGERPRINT_256",
    /// From when it is valid.
    DownstreamPeerValidFrom = "DOWNSTREAM_PEER_CERT_V_START",
    /// Until when it is valid.
    DownstreamPeerValidUntil = "DOWNSTREAM_PEER_CERT_V_END",
    /// The number of the client's connection in this process.
    ConnectionId = "CONNECTION_ID",
    /// The id of the request.
    StreamId = "STREAM_ID",
    /// Istio's route name.
    RouteName = "ROUTE_NAME",
    /// The virtual host's name.
    VirtualClusterName = "VIRTUAL_CLUSTER_NAME",
    /// The host name of this process.
    Hostname = "HOSTNAME",
    /// The id of the trace that the request belongs to.
    TraceId = "TRACE_ID",
    /// The id of the request's span.
    SpanId = "SPAN_ID",
    /// How often the request was sent upstream.
    UpstreamRequestAttemptCount = "UPSTREAM_REQUEST_ATTEMPT_COUNT",
}

/// Why a format string is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidFormat {
    /// A `%` that neither starts nor ends an operator.
    StrayPercent(usize),
    /// An operator that is not known.
    Unknown(String),
    /// An argument that is missing or makes no sense.
    Argument(String),
}

impl fmt::Display for InvalidFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidFormat::StrayPercent(at) => write!(f, "stray % at byte {at}; write %% for a percent sign"),
            InvalidFormat::Unknown(o) => write!(f, "unknown operator %{o}%"),
            InvalidFormat::Argument(o) => write!(f, "wrong or missing argument in %{o}%"),
        }
    }
}

impl std::error::Error for InvalidFormat {}

impl FormatString {
    /// Parses a format string.
    ///
    /// # Errors
    /// When a `%` is stray or an operator is unknown.
    pub fn parse(source: &str) -> Result<Self, InvalidFormat> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = source;
        while let Some(at) = rest.find('%') {
            text.push_str(&rest[..at]);
            let stray = InvalidFormat::StrayPercent(source.len() - rest.len() + at);
            let after = &rest[at + 1..];
            let end = operator_end(after).ok_or(stray)?;
            if end == 0 {
                text.push('%');
            } else {
                if !text.is_empty() {
                    parts.push(FormatPart::Literal(std::mem::take(&mut text).into()));
                }
                parts.push(operator(&after[..end])?);
            }
            rest = &after[end + 1..];
        }
        text.push_str(rest);
        let source: Arc<str> = source.into();
        if !text.is_empty() {
            // most are text alone, which is in memory once then
            let literal = if *text == *source { source.clone() } else { text.into() };
            parts.push(FormatPart::Literal(literal));
        }
        Ok(FormatString { source, parts: parts.into() })
    }

    /// The format that stands for this text, whatever is in it.
    pub fn of_text(text: &str) -> Self {
        let parts = (!text.is_empty()).then(|| FormatPart::Literal(text.into()));
        FormatString { source: text.replace('%', "%%").into(), parts: parts.into_iter().collect() }
    }

    /// The pieces in order.
    pub fn parts(&self) -> &[FormatPart] {
        &self.parts
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// The operators that stand for nothing, as they were written.
    pub fn absent(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            FormatPart::Operator(Operator::Absent(text), _) => Some(&**text),
            _ => None,
        })
    }

    /// The text, when there is no operator in it: then it need not be rendered per request.
    pub fn literal(&self) -> Option<&str> {
        match &*self.parts {
            [] => Some(""),
            [FormatPart::Literal(l)] => Some(l),
            _ => None,
        }
    }
}

impl Serialize for FormatString {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.source.serialize(s)
    }
}

/// Where the `%` is that ends an operator: not one inside its parentheses (`START_TIME(%s)`).
fn operator_end(s: &str) -> Option<usize> {
    match s.find(['%', '(']) {
        Some(at) if s.as_bytes()[at] == b'(' => {
            let close = at + s[at..].find(')')?;
            Some(close + s[close..].find('%')?)
        }
        found => found,
    }
}

fn operator(s: &str) -> Result<FormatPart, InvalidFormat> {
    let wrong = || InvalidFormat::Argument(s.to_string());
    let (name, argument, tail) = match s.find('(') {
        Some(open) => {
            let close = s[open..].find(')').ok_or_else(wrong)? + open;
            (&s[..open], Some(&s[open + 1..close]), &s[close + 1..])
        }
        None => match s.find(':') {
            Some(colon) => (&s[..colon], None, &s[colon..]),
            None => (s, None, ""),
        },
    };
    let length = match tail.strip_prefix(':') {
        Some(n) => Some(n.parse().map_err(|_| wrong())?),
        None if tail.is_empty() => None,
        None => return Err(wrong()),
    };
    let header = || -> Result<(HeaderName, Option<HeaderName>), InvalidFormat> {
        let a = argument.filter(|a| !a.is_empty()).ok_or_else(wrong)?;
        let (first, second) = a.split_once('?').map_or((a, None), |(f, s)| (f, Some(s)));
        if first.is_empty() || second == Some("") {
            return Err(wrong());
        }
        Ok((HeaderName::new(first), second.map(HeaderName::new)))
    };
    let op = match name {
        "REQ" => header().map(|(a, b)| Operator::Request(a, b))?,
        "RESP" => header().map(|(a, b)| Operator::Response(a, b))?,
        "REQ_WITHOUT_QUERY" => header().map(|(a, b)| Operator::RequestWithoutQuery(a, b))?,
        "TRAILER" => header().map(|(a, b)| Operator::Trailer(a, b))?,
        "GRPC_STATUS" => Operator::GrpcStatus(match argument {
            None | Some("" | "CAMEL_STRING") => GrpcStatusForm::Camel,
            Some("SNAKE_STRING") => GrpcStatusForm::Snake,
            Some("NUMBER") => GrpcStatusForm::Number,
            Some(_) => return Err(wrong()),
        }),
        "START_TIME" => Operator::StartTime(argument.filter(|a| !a.is_empty()).map(Into::into)),
        "ENVIRONMENT" => Operator::Environment(argument.filter(|a| !a.is_empty()).ok_or_else(wrong)?.into()),
        _ => match Field::ALL.iter().find(|(n, _)| *n == name) {
            Some((_, field)) if argument.is_none() => Operator::Field(*field),
            Some(_) => return Err(wrong()),
            None if ABSENT.binary_search(&name).is_ok() => Operator::Absent(s.into()),
            None => return Err(InvalidFormat::Unknown(name.to_string())),
        },
    };
    Ok(FormatPart::Operator(op, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_operators_literals_and_percent_signs() {
        let f = FormatString::parse("a%%b %REQ(X-A?:PATH):10% %START_TIME(%s)% %PROTOCOL%").unwrap();
        assert_eq!(
            f.parts(),
            [
                FormatPart::Literal("a%b ".into()),
                FormatPart::Operator(
                    Operator::Request(HeaderName::new("x-a"), Some(HeaderName::new(":path"))),
                    Some(10)
                ),
                FormatPart::Literal(" ".into()),
                FormatPart::Operator(Operator::StartTime(Some("%s".into())), None),
                FormatPart::Literal(" ".into()),
                FormatPart::Operator(Operator::Field(Field::Protocol), None),
            ]
        );
        assert_eq!(f.literal(), None);
        assert_eq!(FormatString::parse("100%%").unwrap().literal(), Some("100%"));
        for text in ["", "100%", "%REQ(x)%"] {
            let format = FormatString::of_text(text);
            assert_eq!(
                (format.literal(), FormatString::parse(format.as_str())),
                (Some(text), Ok(format.clone()))
            );
        }
    }

    #[test]
    fn refuses_stray_percent_signs_and_unknown_operators() {
        assert_eq!(FormatString::parse("50% off"), Err(InvalidFormat::StrayPercent(2)));
        assert_eq!(FormatString::parse("%NOPE%"), Err(InvalidFormat::Unknown("NOPE".into())));
        let known = FormatString::parse("%FILTER_STATE(a:b)% %UPSTREAM_TLS_VERSION%:").unwrap();
        assert_eq!(known.absent().collect::<Vec<_>>(), ["FILTER_STATE(a:b)", "UPSTREAM_TLS_VERSION"]);
        assert!(ABSENT.is_sorted() && Field::ALL.iter().all(|(name, _)| !ABSENT.contains(name)));
        for bad in
            ["%REQ%", "%GRPC_STATUS(x)%", "%REQ()%", "%REQ(a?)%", "%PROTOCOL(x)%", "%REQ(a):x%", "%REQ(a)b%"]
        {
            assert!(matches!(FormatString::parse(bad), Err(InvalidFormat::Argument(_))), "{bad}");
        }
    }
}
