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
    parts: Vec<FormatPart>,
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
    /// `ENVIRONMENT(NAME)`: a variable of the process, read once.
    Environment(Arc<str>),
    /// An operator without argument, or one whose argument is kept as it is.
    Field(Field),
}

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
    /// Istio's route name.
    RouteName = "ROUTE_NAME",
    /// The virtual host's name.
    VirtualClusterName = "VIRTUAL_CLUSTER_NAME",
    /// The host name of this process.
    Hostname = "HOSTNAME",
    /// The id of the trace that the request belongs to.
    TraceId = "TRACE_ID",
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
        if !text.is_empty() {
            parts.push(FormatPart::Literal(text.into()));
        }
        Ok(FormatString { source: source.into(), parts })
    }

    /// The pieces in order.
    pub fn parts(&self) -> &[FormatPart] {
        &self.parts
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// The text, when there is no operator in it: then it need not be rendered per request.
    pub fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
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
        "TRAILER" => header().map(|(a, b)| Operator::Trailer(a, b))?,
        "START_TIME" => Operator::StartTime(argument.filter(|a| !a.is_empty()).map(Into::into)),
        "ENVIRONMENT" => Operator::Environment(argument.filter(|a| !a.is_empty()).ok_or_else(wrong)?.into()),
        _ => match Field::ALL.iter().find(|(n, _)| *n == name) {
            Some((_, field)) if argument.is_none() => Operator::Field(*field),
            Some(_) => return Err(wrong()),
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
    }

    #[test]
    fn refuses_stray_percent_signs_and_unknown_operators() {
        assert_eq!(FormatString::parse("50% off"), Err(InvalidFormat::StrayPercent(2)));
        assert_eq!(FormatString::parse("%NOPE%"), Err(InvalidFormat::Unknown("NOPE".into())));
        for bad in ["%REQ%", "%REQ()%", "%REQ(a?)%", "%PROTOCOL(x)%", "%REQ(a):x%", "%REQ(a)b%"] {
            assert!(matches!(FormatString::parse(bad), Err(InvalidFormat::Argument(_))), "{bad}");
        }
    }
}
