use std::borrow::Cow;
use tidegate_model::HeaderName;

/// The claims of a token, by name.
pub type Claims = serde_json::Map<String, serde_json::Value>;

/// A header's value: borrowed, or joined with `,` when the header was repeated.
pub type HeaderValue<'a> = Cow<'a, [u8]>;

/// The scheme of a request as the gateway sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// Over TLS, or said so by a trusted proxy.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// 80 or 443.
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// What routing, policy and telemetry see of a request, the same for HTTP/1 and HTTP/2.
pub trait RequestView {
    /// The method, as sent.
    fn method(&self) -> &[u8];
    /// The effective scheme.
    fn scheme(&self) -> Scheme;
    /// `Host` or `:authority` as sent, with its port; empty when there is none.
    fn authority(&self) -> &[u8];
    /// What `Host` says where the request's target names another authority, which counts instead (RFC 9112 3.2.2).
    fn ignored_host(&self) -> Option<&[u8]> {
        None
    }
    /// The canonical path, without query.
    fn path(&self) -> &[u8];
    /// The query, without its `?`; `None` when there is no `?`.
    fn query(&self) -> Option<&[u8]>;
    /// A header's value; repeated lines are joined with `,`, which is for what writes it down: conditions and policies
    /// look at each value. Pseudo headers are not asked for here.
    fn header(&self, name: &HeaderName) -> Option<HeaderValue<'_>>;
    /// Each value of a header by itself, in order: one per line, what conditions and policies look at.
    fn each_value(&self, name: &HeaderName, value: &mut dyn FnMut(&[u8]));
    /// Each value of headers whose names differ from this one by `_` for `-`, or the other way round: upstreams of the
    /// CGI kind do not tell them apart.
    fn each_alias(&self, name: &HeaderName, value: &mut dyn FnMut(&[u8]));
    /// The claims of the request's verified token; never those of one that was not verified.
    fn claims(&self) -> Option<&Claims> {
        None
    }
}
