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
        23 if is(b"x-forwarded-client-cert") => Known::Internal,
        29 if is(b"x-envoy-upstream-service-time") => Known::ServiceTime,
        n if n > 8 && name[..8].eq_ignore_ascii_case(b"x-envoy-") => Known::Internal,
        _ => Known::Other,
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
        Known::Date | Known::Server | Known::UserAgent => false,
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
