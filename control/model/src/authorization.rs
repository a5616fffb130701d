use crate::{ClaimPath, ClusterName, FormatString, HeaderName, ObjectRef, Origin};
use ipnet::IpNet;
use serde::{Serialize, Serializer};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Who may send what through this gateway (Istio's AuthorizationPolicy).
///
/// A request is checked by a provider where a rule of [`PolicyAction::Custom`] matches it, then refused where one of
/// [`PolicyAction::Deny`] does, and, where there is any policy of [`PolicyAction::Allow`], refused unless one of these
/// matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Authorization {
    /// The policies that select the gateway, by namespace and name: the order in which they are asked.
    pub policies: Vec<Arc<Policy>>,
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Which.
    pub object: ObjectRef,
    /// Where it was written.
    pub origin: Origin,
    /// What happens to what a rule matches.
    pub action: PolicyAction,
    /// It is decided and counted, and nothing happens.
    pub dry_run: bool,
    /// One of them must match; without any, none does.
    pub rules: Vec<PolicyRule>,
}

/// What happens to a request that a policy matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyAction {
    /// It passes, and what no policy of this kind matches does not.
    Allow,
    /// It is refused.
    Deny,
    /// It is noted.
    Audit,
    /// A provider decides; one that cannot be asked, for this reason, refuses.
    Custom(Result<Arc<ExternalAuthorizer>, Arc<str>>),
}

impl PolicyAction {
    /// As it is written in a policy.
    pub fn as_str(&self) -> &'static str {
        match self {
            PolicyAction::Allow => "ALLOW",
            PolicyAction::Deny => "DENY",
            PolicyAction::Audit => "AUDIT",
            PolicyAction::Custom(_) => "CUSTOM",
        }
    }
}

/// A rule: one of its sources, one of its operations, and all of its conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PolicyRule {
    /// Who sends: of each, all clauses must hold. Empty is anyone.
    pub sources: Vec<Vec<Clause>>,
    /// What is sent: of each, all clauses must hold. Empty is anything.
    pub operations: Vec<Vec<Clause>>,
    /// What else.
    pub conditions: Vec<Clause>,
}

/// What one attribute must be, and must not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Clause {
    /// What is looked at.
    pub attribute: Attribute,
    /// It must be one of these; empty asks for nothing.
    pub values: Vec<Expected>,
    /// It must be none of these.
    pub not_values: Vec<Expected>,
}

/// What a policy can look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Attribute {
    /// The address of the peer.
    SourceIp,
    /// The address of the client, as trusted proxies say.
    RemoteIp,
    /// Our address.
    DestinationIp,
    /// Our port.
    DestinationPort,
    /// The name that the client asked for by TLS.
    Sni,
    /// The peer's identity by its certificate, or a part of it.
    Peer(PeerPart),
    /// Metadata of a filter of Envoy, of which there are none here.
    Filter(Arc<str>),
    /// Issuer and subject of a verified token, joined by `/`.
    RequestPrincipal,
    /// The audiences of a verified token.
    Audiences,
    /// The party that a verified token was issued to (`azp`).
    Presenter,
    /// A claim of a verified token.
    Claim(ClaimPath),
    /// A header, or a pseudo header.
    Header(HeaderName),
    /// The authority, with its port.
    Host,
    /// The method.
    Method,
    /// The canonical path, without query.
    Path,
}

impl Attribute {
    /// Whether connections without requests have it too.
    pub fn is_of_connections(&self) -> bool {
        use Attribute::{DestinationIp, DestinationPort, Filter, Peer, RemoteIp, Sni, SourceIp};
        matches!(self, SourceIp | RemoteIp | DestinationIp | DestinationPort | Sni | Peer(_) | Filter(_))
    }

    /// Whether only a verified token has it. Providers are asked before tokens are verified, so for policies that ask
    /// them nothing has it.
    pub fn is_of_tokens(&self) -> bool {
        matches!(self, Self::RequestPrincipal | Self::Audiences | Self::Presenter | Self::Claim(_))
    }
}

/// A part of an identity in the mesh: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerPart {
    /// All of it.
    Principal,
    /// The namespace.
    Namespace,
    /// Namespace and service account.
    ServiceAccount,
    /// The trust domain.
    TrustDomain,
}

/// By its key in a condition, or its field in a rule.
impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Attribute::SourceIp => "source.ip",
            Attribute::RemoteIp => "remote.ip",
            Attribute::DestinationIp => "destination.ip",
            Attribute::DestinationPort => "destination.port",
            Attribute::Sni => "connection.sni",
            Attribute::Peer(PeerPart::Principal) => "source.principal",
            Attribute::Peer(PeerPart::Namespace) => "source.namespace",
            Attribute::Peer(PeerPart::ServiceAccount) => "source.serviceAccount",
            Attribute::Peer(PeerPart::TrustDomain) => "source.trustDomain",
            Attribute::Filter(key) => key,
            Attribute::RequestPrincipal => "request.auth.principal",
            Attribute::Audiences => "request.auth.audiences",
            Attribute::Presenter => "request.auth.presenter",
            Attribute::Claim(path) => {
                f.write_str("request.auth.claims")?;
                return path.names().iter().try_for_each(|name| write!(f, "[{name}]"));
            }
            Attribute::Header(name) => return write!(f, "request.headers[{name}]"),
            Attribute::Host => "host",
            Attribute::Method => "method",
            Attribute::Path => "path",
        })
    }
}

/// A value that an attribute may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expected {
    /// A text.
    Text(TextPattern),
    /// A path with `{*}` or `{**}` in it.
    Template(PathTemplate),
    /// Whom a token is of.
    Principal(PrincipalPattern),
    /// An address within this.
    Network(IpNet),
    /// A port.
    Port(u16),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expected::Text(pattern) => pattern.fmt(f),
            Expected::Template(template) => template.fmt(f),
            Expected::Principal(principal) => f.write_str(&principal.written),
            Expected::Network(net) => net.fmt(f),
            Expected::Port(port) => port.fmt(f),
        }
    }
}

/// As it was written.
impl Serialize for Expected {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text with perhaps a wildcard at its beginning or end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TextPattern {
    /// `*`: any that is not empty; of a header, any.
    Any,
    /// It as a whole.
    Exact(Arc<str>),
    /// What it begins with: `abc*`.
    Prefix(Arc<str>),
    /// What it ends with: `*abc`.
    Suffix(Arc<str>),
}

impl TextPattern {
    /// A pattern as Istio reads it: only the first or the last `*` is a wildcard.
    pub fn parse(text: &str) -> Self {
        match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(""), _) => TextPattern::Any,
            (Some(suffix), _) => TextPattern::Suffix(suffix.into()),
            (None, Some(prefix)) => TextPattern::Prefix(prefix.into()),
            (None, None) => TextPattern::Exact(text.into()),
        }
    }
}

impl fmt::Display for TextPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TextPattern::Any => f.write_str("*"),
            TextPattern::Exact(text) => f.write_str(text),
            TextPattern::Prefix(text) => write!(f, "{text}*"),
            TextPattern::Suffix(text) => write!(f, "*{text}"),
        }
    }
}

/// As it was written.
impl Serialize for TextPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Issuer and subject of a token, each by itself: what one issuer says of its subjects must not look like another
/// issuer's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PrincipalPattern {
    /// The `iss`.
    pub issuer: TextPattern,
    /// The `sub`.
    pub subject: TextPattern,
    written: Arc<str>,
}

impl PrincipalPattern {
    /// `ISSUER/SUBJECT` as istiod 1.29 reads it: the last `/` is between them, a `*` at the beginning belongs to the issuer,
    /// one at the end to the subject. Without a `/` the part with the `*` is all that is asked for.
    pub fn parse(text: &str) -> Self {
        let exact = |text: &str| TextPattern::Exact(text.into());
        let prefix = |text: &str| match text.strip_suffix('*') {
            None | Some("") => TextPattern::Any,
            Some(begin) => TextPattern::Prefix(begin.into()),
        };
        let (issuer, subject) = match text.rsplit_once('/') {
            Some((issuer, subject)) if text.starts_with('*') => (TextPattern::parse(issuer), exact(subject)),
            Some((issuer, subject)) if text.ends_with('*') => (exact(issuer), prefix(subject)),
            Some((issuer, subject)) => (exact(issuer), exact(subject)),
            None if text.starts_with('*') => (TextPattern::Any, TextPattern::parse(text)),
            None if text.ends_with('*') => (prefix(text), TextPattern::Any),
            None => (exact(text), exact("")),
        };
        PrincipalPattern { issuer, subject, written: text.into() }
    }
}

/// A path in which segments may be anything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathTemplate {
    /// Between slashes: the first is what is before the first slash.
    segments: Arc<[TemplateSegment]>,
}

/// A part of a path between slashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TemplateSegment {
    /// This.
    Literal(Arc<str>),
    /// `{*}`: anything but nothing.
    One,
    /// `{**}`: anything, also several segments or none; there is at most one.
    Many,
}

/// Why a path is no template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// Braces otherwise.
    #[error("braces stand only around * and **, as a whole segment")]
    Braces,
    /// A wildcard beside templates.
    #[error("a * beside {{*}} and {{**}} is not a wildcard")]
    Wildcard,
    /// Something behind `{**}` that varies.
    #[error("{{**}} must be the last of the operators")]
    NotLast,
}

impl PathTemplate {
    /// Whether a path is meant as one.
    pub fn is_meant(path: &str) -> bool {
        path.contains("{*}") || path.contains("{**}")
    }

    /// Reads one.
    ///
    /// # Errors
    /// When it is none that Istio takes.
    pub fn parse(path: &str) -> Result<Self, InvalidTemplate> {
        let mut segments = Vec::new();
        for segment in path.split('/') {
            let ended = segments.contains(&TemplateSegment::Many);
            segments.push(match segment {
                "{*}" | "{**}" if ended => return Err(InvalidTemplate::NotLast),
                "{*}" => TemplateSegment::One,
                "{**}" => TemplateSegment::Many,
                _ if segment.contains(['{', '}']) => return Err(InvalidTemplate::Braces),
                _ if segment.contains('*') => return Err(InvalidTemplate::Wildcard),
                _ => TemplateSegment::Literal(segment.into()),
            });
        }
        Ok(PathTemplate { segments: segments.into() })
    }

    /// Its parts between slashes.
    pub fn segments(&self) -> &[TemplateSegment] {
        &self.segments
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.segments.iter().enumerate() {
            f.write_str(if i > 0 { "/" } else { "" })?;
            f.write_str(match segment {
                TemplateSegment::Literal(text) => text,
                TemplateSegment::One => "{*}",
                TemplateSegment::Many => "{**}",
            })?;
        }
        Ok(())
    }
}

/// A service that decides about requests (`envoyExtAuthzHttp`, `envoyExtAuthzGrpc`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExternalAuthorizer {
    /// The provider's name.
    pub name: Arc<str>,
    /// Where it is.
    pub cluster: ClusterName,
    /// The time for its answer.
    pub timeout: Duration,
    /// Requests pass when it does not answer. What the gateway itself has no room to ask about never does.
    pub fail_open: bool,
    /// The status of requests that it failed to decide on.
    pub status_on_error: u16,
    /// What it changes counts for routing.
    pub clear_route_cache: bool,
    /// How much of the body it gets; `None` is nothing.
    pub body: Option<CheckedBody>,
    /// What is spoken.
    pub protocol: CheckProtocol,
}

/// How much of a body is sent to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CheckedBody {
    /// The most bytes.
    pub most: usize,
    /// The first of them will do for a longer one, which is refused with 413 otherwise.
    pub partial: bool,
    /// By gRPC as bytes and not as text.
    pub as_bytes: bool,
}

/// What an external authorizer speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckProtocol {
    /// `envoy.service.auth.v3.Authorization/Check`.
    Grpc,
    /// A request like the one that is checked.
    Http(HttpCheck),
}

/// What a check by HTTP sends and takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HttpCheck {
    /// What stands before the path.
    pub path_prefix: Arc<str>,
    /// The request's headers that it gets.
    pub request_headers: Vec<TextPattern>,
    /// Further headers that it gets, unless their value is empty.
    pub additional_headers: Vec<(HeaderName, FormatString)>,
    /// Headers of its answer that the upstream gets in place of the client's.
    pub upstream_on_allow: Vec<TextPattern>,
    /// Headers of its answer that the client gets beside the upstream's.
    pub downstream_on_allow: Vec<TextPattern>,
    /// Headers of its answer that the client gets with its refusal; empty is all.
    pub downstream_on_deny: Vec<TextPattern>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_as_istio_reads_them() {
        for (text, pattern) in [
            ("*", TextPattern::Any),
            ("a", TextPattern::Exact("a".into())),
            ("a*", TextPattern::Prefix("a".into())),
            ("*a", TextPattern::Suffix("a".into())),
            ("*a*", TextPattern::Suffix("a*".into())),
            ("a*b", TextPattern::Exact("a*b".into())),
            ("**", TextPattern::Suffix("*".into())),
        ] {
            assert_eq!(TextPattern::parse(text), pattern, "{text}");
            assert_eq!(pattern.to_string(), text);
        }
    }

    #[test]
    fn principals_are_an_issuer_and_a_subject() {
        use TextPattern::{Any, Exact, Prefix, Suffix};
        for (text, issuer, subject) in [
            ("*", Any, Any),
            ("https://a.b/c", Exact("https://a.b".into()), Exact("c".into())),
            ("https://a.b/*", Exact("https://a.b".into()), Any),
            ("https://a.b/c*", Exact("https://a.b".into()), Prefix("c".into())),
            ("*/c", Any, Exact("c".into())),
            ("*.b/c", Suffix(".b".into()), Exact("c".into())),
            ("*c", Any, Suffix("c".into())),
            ("https:*", Prefix("https:".into()), Any),
            ("a", Exact("a".into()), Exact("".into())),
        ] {
            let read = PrincipalPattern::parse(text);
            assert_eq!((read.issuer, read.subject), (issuer, subject), "{text}");
        }
    }

    #[test]
    fn templates() {
        use InvalidTemplate::{Braces, NotLast, Wildcard};
        for (path, expected) in [
            ("/a/{*}/b", Ok(())),
            ("/{**}/path/template", Ok(())),
            ("/{*}/{*}/{**}", Ok(())),
            ("/{**}/{*}", Err(NotLast)),
            ("/{**}/{**}", Err(NotLast)),
            ("/a{*}", Err(Braces)),
            ("/{a}/{*}", Err(Braces)),
            ("/{*}/*", Err(Wildcard)),
        ] {
            assert!(PathTemplate::is_meant(path));
            let parsed = PathTemplate::parse(path);
            assert_eq!(parsed.as_ref().map(|_| ()).map_err(|e| *e), expected, "{path}");
            assert!(parsed.is_err() || parsed.unwrap().to_string() == path);
        }
    }
}
