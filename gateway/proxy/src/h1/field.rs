//! The field names that the codec and the gateway itself act on.

use memchr::memchr;

/// What a field name means to the gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Known {
    /// Nothing: end to end.
    Other,
    /// `Host`.
    Host,
    /// `Content-Length`.
    ContentLength,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Connection`.
    Connection,
    /// `Keep-Alive`, `Proxy-Connection`, `HTTP2-Settings`: for this hop alone.
    HopByHop,
    /// For this hop alone: named by `Connection`, taken off the request by who read it here, or told from a name of
    /// these only by `_` for `-`.
    Nominated,
    /// `Upgrade`.
    Upgrade,
    /// `TE`.
    Te,
    /// `Expect`.
    Expect,
    /// `User-Agent`.
    UserAgent,
    /// `Content-Type`.
    ContentType,
    /// `X-Forwarded-For`.
    ForwardedFor,
    /// `X-Forwarded-Proto`.
    ForwardedProto,
    /// `X-Request-Id`.
    RequestId,
    /// `X-Envoy-*` and `X-Istio-Attributes`: proxies alone may say them.
    Internal,
    /// `X-Forwarded-Client-Cert`.
    ClientCert,
    /// `Forwarded`, `X-Real-IP`, `X-Forwarded-Host`, `X-Forwarded-Port`: claims about the client's
    /// request that only a trusted proxy in front may make.
    Claim,
    /// `X-Envoy-Upstream-Service-Time`.
    ServiceTime,
    /// `X-Envoy-RateLimited`, of responses.
    RateLimited,
    /// `Grpc-Status`.
    GrpcStatus,
    /// `Grpc-Timeout`.
    GrpcTimeout,
    /// `Sec-WebSocket-Key`.
    WebSocketKey,
    /// `Sec-WebSocket-Accept`.
    WebSocketAccept,
    /// `Traceparent`.
    TraceParent,
    /// `Tracestate`.
    TraceState,
    /// `B3`, `X-B3-TraceId` and its like.
    B3,
    /// `Server`.
    Server,
    /// `Date`.
    Date,
}

impl Known {
    /// A bit for each; none for what is not known.
    pub(crate) fn bit(self) -> u32 {
        if self == Known::Other { 0 } else { 1 << self as u32 }
    }

    /// Whether it says something of the client that a proxy in front may say.
    fn is_claim(self) -> bool {
        use Known::{Claim, ClientCert, ForwardedFor, ForwardedProto, Internal};
        matches!(self, Claim | ClientCert | ForwardedFor | ForwardedProto | Internal)
    }

    /// Whether it says where the message ends or goes: nobody but the codec writes or removes it.
    pub(crate) fn is_framing(self) -> bool {
        matches!(
            self,
            Known::Host
                | Known::ContentLength
                | Known::TransferEncoding
                | Known::Connection
                | Known::HopByHop
                | Known::Upgrade
                | Known::Te
        )
    }
}

/// Names of this length and longer ones are told apart by how they begin.
const LONGEST: usize = 31;

/// Looks a field name up, in any case. Its length and first letter say of most names that they mean nothing.
///
/// Upstreams of the CGI kind do not tell `_` from `-`: a name that only this keeps from being one that the gateway
/// acts on is for this hop alone, so it is taken off.
#[inline]
pub(crate) fn known(name: &[u8]) -> Known {
    let lengths = name.first().map_or(0, |c| LENGTHS[usize::from(*c)]);
    if lengths >> name.len().min(LONGEST) & 1 == 0 { Known::Other } else { look_up(name) }
}

// Not inlined: what it needs would be loaded for every name, and most names never come here.
#[inline(never)]
fn look_up(name: &[u8]) -> Known {
    let found = written(name);
    if found != Known::Other || memchr(b'_', name).is_none() {
        return found;
    }
    let mut meant = [0; LONGEST];
    for (to, from) in meant.iter_mut().zip(name) {
        *to = hyphened(*from);
    }
    match written(&meant[..name.len().min(LONGEST)]) {
        Known::Other | Known::UserAgent | Known::ContentType | Known::GrpcStatus | Known::GrpcTimeout => {
            Known::Other
        }
        // over HTTP/2 that is refused: it says who asked, or where a message ends
        known if known.is_framing() || known.is_claim() => Known::HopByHop,
        _ => Known::Nominated,
    }
}

/// Looks a name up as it is written, but for case.
fn written(name: &[u8]) -> Known {
    match (name.len(), name.first().map_or(0, u8::to_ascii_lowercase)) {
        (2, b't') if begins(name, b"te") => Known::Te,
        (2, b'b') if begins(name, b"b3") => Known::B3,
        (4, b'h') if begins(name, b"host") => Known::Host,
        (4, b'd') if begins(name, b"date") => Known::Date,
        (6, b'e') if begins(name, b"expect") => Known::Expect,
        (6, b's') if begins(name, b"server") => Known::Server,
        (7, b'u') if begins(name, b"upgrade") => Known::Upgrade,
        (9, b'f') if begins(name, b"forwarded") => Known::Claim,
        (9, b'x') if begins(name, b"x-real-ip") => Known::Claim,
        (10, b'c') if begins(name, b"connection") => Known::Connection,
        (10, b'k') if begins(name, b"keep-alive") => Known::HopByHop,
        (10, b'u') if begins(name, b"user-agent") => Known::UserAgent,
        (10, b't') if begins(name, b"tracestate") => Known::TraceState,
        (10, b'x') if begins(name, b"x-b3-flags") => Known::B3,
        (11, b'x') if begins(name, b"x-b3-spanid") => Known::B3,
        (11, b't') if begins(name, b"traceparent") => Known::TraceParent,
        (11, b'g') if begins(name, b"grpc-status") => Known::GrpcStatus,
        (12, b'g') if begins(name, b"grpc-timeout") => Known::GrpcTimeout,
        (12, b'c') if begins(name, b"content-type") => Known::ContentType,
        (12, b'x') if begins(name, b"x-request-id") => Known::RequestId,
        (12, b'x') if begins(name, b"x-b3-traceid") || begins(name, b"x-b3-sampled") => Known::B3,
        (14, b'c') if begins(name, b"content-length") => Known::ContentLength,
        (14, b'h') if begins(name, b"http2-settings") => Known::HopByHop,
        (15, b'x') if begins(name, b"x-forwarded-for") => Known::ForwardedFor,
        (16, b'x') if begins(name, b"x-forwarded-host") || begins(name, b"x-forwarded-port") => Known::Claim,
        (16, b'p') if begins(name, b"proxy-connection") => Known::HopByHop,
        (17, b't') if begins(name, b"transfer-encoding") => Known::TransferEncoding,
        (17, b's') if begins(name, b"sec-websocket-key") => Known::WebSocketKey,
        (17, b'x') if begins(name, b"x-forwarded-proto") => Known::ForwardedProto,
        (17, b'x') if begins(name, b"x-b3-parentspanid") => Known::B3,
        (18, b'x') if begins(name, b"x-istio-attributes") => Known::Internal,
        (19, b'x') if begins(name, b"x-envoy-ratelimited") => Known::RateLimited,
        (20, b's') if begins(name, b"sec-websocket-accept") => Known::WebSocketAccept,
        (23, b'x') if begins(name, b"x-forwarded-client-cert") => Known::ClientCert,
        (29, b'x') if begins(name, b"x-envoy-upstream-service-time") => Known::ServiceTime,
        (9.., b'x') if begins(name, b"x-envoy-") => Known::Internal,
        _ => Known::Other,
    }
}

/// Whether a token begins like this, in any case. Looks at all of it rather than at each byte up to the first that
/// differs: of a length that is known beforehand that takes a few instructions.
#[inline(always)]
fn begins<const N: usize>(token: &[u8], with: &[u8; N]) -> bool {
    let Some(token) = token.first_chunk::<N>() else { return false };
    let mut same = true;
    for (c, of) in token.iter().zip(with) {
        same &= c | 0x20 == *of;
    }
    same
}

/// A byte of a name with `-` for `_`, which upstreams of the CGI kind do not tell apart.
#[inline]
pub(crate) fn hyphened(c: u8) -> u8 {
    if c == b'_' { b'-' } else { c }
}

/// Whether a trailer of this name could change what was already decided: framing, routing,
/// identity, credentials or how the content is read (RFC 9110 6.5.1).
pub(crate) fn forbidden_in_trailers(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 13] = [
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-range",
        b"cookie",
        b"max-forwards",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"range",
        b"set-cookie",
        b"trailer",
        b"via",
        b"www-authenticate",
    ];
    match known(name) {
        Known::Other => NAMES.iter().any(|n| name.eq_ignore_ascii_case(n)),
        Known::Date | Known::Server | Known::UserAgent | Known::GrpcStatus => false,
        _ => true,
    }
}

/// A token (RFC 9110 5.6.2).
pub(crate) fn is_token(b: &[u8]) -> bool {
    !b.is_empty() && b.iter().all(|c| is_token_char(*c))
}

/// A character of a token.
#[inline]
pub(crate) fn is_token_char(c: u8) -> bool {
    TOKEN[usize::from(c)]
}

/// By first letter, the lengths that names known here have, a bit each; the last one is for all from 31 on.
static LENGTHS: [u32; 256] = {
    let mut table = [0; 256];
    let letters: [(u8, &[u32]); 13] = [
        (b'b', &[2]),
        (b'c', &[10, 12, 14]),
        (b'd', &[4]),
        (b'e', &[6]),
        (b'f', &[9]),
        (b'g', &[11, 12]),
        (b'h', &[4, 14]),
        (b'k', &[10]),
        (b'p', &[16]),
        (b's', &[6, 17, 20]),
        (b't', &[2, 10, 11, 17]),
        (b'u', &[7, 10]),
        (b'x', &[9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31]),
    ];
    let mut i = 0;
    while i < letters.len() {
        let (letter, mut lengths) = letters[i];
        while let [length, rest @ ..] = lengths {
            table[letter as usize] |= 1 << *length;
            lengths = rest;
        }
        table[letter.to_ascii_uppercase() as usize] = table[letter as usize];
        i += 1;
    }
    table
};

/// Which bytes a token may have.
static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut c = 0u8;
    while c < 128 {
        table[c as usize] = c.is_ascii_alphanumeric();
        c += 1;
    }
    let mut others: &[u8] = b"!#$%&'*+-.^_`|~";
    while let [c, rest @ ..] = others {
        table[*c as usize] = true;
        others = rest;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_about_traces() {
        for (names, expected) in [
            (&["traceparent", "Traceparent"][..], Known::TraceParent),
            (&["tracestate"], Known::TraceState),
            (&["b3", "B3", "X-B3-TraceId", "x-b3-spanid", "X-B3-ParentSpanId"], Known::B3),
            (&["x-b3-sampled", "x-b3-flags"], Known::B3),
            (&["b", "b4", "baggage", "x-b3", "x-b3-traceid2"], Known::Other),
        ] {
            assert!(names.iter().all(|name| known(name.as_bytes()) == expected), "{names:?}");
        }
    }

    #[test]
    fn every_name_is_found_in_any_case() {
        for (name, expected) in [
            ("te", Known::Te),
            ("host", Known::Host),
            ("date", Known::Date),
            ("expect", Known::Expect),
            ("server", Known::Server),
            ("upgrade", Known::Upgrade),
            ("forwarded", Known::Claim),
            ("x-real-ip", Known::Claim),
            ("connection", Known::Connection),
            ("keep-alive", Known::HopByHop),
            ("user-agent", Known::UserAgent),
            ("grpc-status", Known::GrpcStatus),
            ("grpc-timeout", Known::GrpcTimeout),
            ("content-type", Known::ContentType),
            ("x-request-id", Known::RequestId),
            ("content-length", Known::ContentLength),
            ("http2-settings", Known::HopByHop),
            ("x-forwarded-for", Known::ForwardedFor),
            ("x-forwarded-host", Known::Claim),
            ("proxy-connection", Known::HopByHop),
            ("transfer-encoding", Known::TransferEncoding),
            ("sec-websocket-key", Known::WebSocketKey),
            ("x-forwarded-proto", Known::ForwardedProto),
            ("x-istio-attributes", Known::Internal),
            ("x-envoy-ratelimited", Known::RateLimited),
            ("sec-websocket-accept", Known::WebSocketAccept),
            ("x-forwarded-client-cert", Known::ClientCert),
            ("x-envoy-upstream-service-time", Known::ServiceTime),
            ("x-envoy-upstream-rq-per-try-timeout-ms", Known::Internal),
        ] {
            for name in [name.to_owned(), name.to_uppercase()] {
                assert_eq!(known(name.as_bytes()), expected, "{name}");
                assert_eq!(known(&name.as_bytes()[1..]), Known::Other, "{name}");
            }
        }
    }

    #[test]
    fn underscores_hide_no_name() {
        for name in [
            "X_Real_IP",
            "x-forwarded_for",
            "X_Forwarded_Client_Cert",
            "x_request_id",
            "X_Envoy_Retry_On",
            "x_envoy_upstream_rq_per_try_timeout_ms",
            "Content_Length",
            "Transfer_Encoding",
        ] {
            let is_harmless = name.starts_with("x_r");
            let expected = if is_harmless { Known::Nominated } else { Known::HopByHop };
            assert_eq!(known(name.as_bytes()), expected, "{name}");
            assert!(forbidden_in_trailers(name.as_bytes()), "{name}");
        }
        for name in
            ["x_custom", "_", "x_", "user_agent", "x_real_ip_2", "a_name_that_is_longer_than_any_known_one"]
        {
            assert_eq!(known(name.as_bytes()), Known::Other, "{name}");
        }
    }
}
