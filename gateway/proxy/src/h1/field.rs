//! The field names that the codec and the gateway itself act on.

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
    /// Named by `Connection`, so for this hop alone.
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
    /// `X-Forwarded-Client-Cert`, `X-Envoy-*` and `X-Istio-Attributes`: proxies alone may say them.
    Internal,
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
    /// `Server`.
    Server,
    /// `Date`.
    Date,
}

/// Looks a field name up, in any case.
pub(crate) fn known(name: &[u8]) -> Known {
    let is = |s: &[u8]| name.eq_ignore_ascii_case(s);
    match name.len() {
        2 if is(b"te") => Known::Te,
        4 if is(b"host") => Known::Host,
        4 if is(b"date") => Known::Date,
        6 if is(b"expect") => Known::Expect,
        6 if is(b"server") => Known::Server,
        7 if is(b"upgrade") => Known::Upgrade,
        9 if is(b"forwarded") || is(b"x-real-ip") => Known::Claim,
        10 if is(b"connection") => Known::Connection,
        10 if is(b"keep-alive") => Known::HopByHop,
        10 if is(b"user-agent") => Known::UserAgent,
        11 if is(b"grpc-status") => Known::GrpcStatus,
        12 if is(b"grpc-timeout") => Known::GrpcTimeout,
        12 if is(b"content-type") => Known::ContentType,
        12 if is(b"x-request-id") => Known::RequestId,
        14 if is(b"content-length") => Known::ContentLength,
        14 if is(b"http2-settings") => Known::HopByHop,
        15 if is(b"x-forwarded-for") => Known::ForwardedFor,
        16 if is(b"x-forwarded-host") || is(b"x-forwarded-port") => Known::Claim,
        16 if is(b"proxy-connection") => Known::HopByHop,
        17 if is(b"transfer-encoding") => Known::TransferEncoding,
        17 if is(b"x-forwarded-proto") => Known::ForwardedProto,
        18 if is(b"x-istio-attributes") => Known::Internal,
        19 if is(b"x-envoy-ratelimited") => Known::RateLimited,
        23 if is(b"x-forwarded-client-cert") => Known::Internal,
        29 if is(b"x-envoy-upstream-service-time") => Known::ServiceTime,
        n if n > 8 && name[..8].eq_ignore_ascii_case(b"x-envoy-") => Known::Internal,
        _ if name.contains(&b'_') => alias(name),
        _ => Known::Other,
    }
}

/// The longest known name, and with it all that is looked at of an alias.
const LONGEST: usize = 29;

/// A name with `_`, which upstreams of the CGI kind do not tell from `-`: where that would make
/// it a name that the gateway acts on, it is taken off.
fn alias(name: &[u8]) -> Known {
    let mut folded = [0; LONGEST + 1];
    let n = name.len().min(folded.len());
    for (to, from) in folded.iter_mut().zip(name) {
        *to = if *from == b'_' { b'-' } else { *from };
    }
    match known(&folded[..n]) {
        Known::Other
        | Known::UserAgent
        | Known::ContentType
        | Known::Date
        | Known::Server
        | Known::Expect
        | Known::GrpcStatus
        | Known::GrpcTimeout => Known::Other,
        _ => Known::HopByHop,
    }
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
pub(crate) fn is_token_char(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(known(name.as_bytes()), Known::HopByHop, "{name}");
            assert!(forbidden_in_trailers(name.as_bytes()), "{name}");
        }
        for name in
            ["x_custom", "_", "x_", "user_agent", "x_real_ip_2", "a_name_that_is_longer_than_any_known_one"]
        {
            assert_eq!(known(name.as_bytes()), Known::Other, "{name}");
        }
    }
}
