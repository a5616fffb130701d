use crate::{
    ClaimPath, ClusterName, Cors, Fault, FormatString, HIDDEN, HeaderName, HeaderOp, ObjectRef, Origin,
    RetryPolicy, Share, TableName, is_secret,
};
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Which authorities a virtual host serves. Lower case, without port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub enum HostPattern {
    /// `a.example.com`
    Exact(Arc<str>),
    /// `*.example.com`, kept as `.example.com`; also `*-x.example.com` kept as `-x.example.com`.
    /// At least one character stands for the star.
    Suffix(Arc<str>),
    /// `*`
    Any,
}

impl HostPattern {
    /// Reads `a.b`, `*.b`, `*b` or `*`, lower-casing it.
    pub fn parse(s: &str) -> Self {
        match s.strip_prefix('*') {
            None => HostPattern::Exact(s.to_ascii_lowercase().into()),
            Some("") => HostPattern::Any,
            Some(rest) => HostPattern::Suffix(rest.to_ascii_lowercase().into()),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(h) => f.write_str(h),
            HostPattern::Suffix(s) => write!(f, "*{s}"),
            HostPattern::Any => f.write_str("*"),
        }
    }
}

impl From<HostPattern> for String {
    fn from(h: HostPattern) -> Self {
        h.to_string()
    }
}

/// What identifies a virtual host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct VirtualHostKey {
    /// Its route table.
    pub table: TableName,
    /// Its domain.
    pub domain: HostPattern,
}

/// The rules for one domain of one route table, merged from all the objects that claim it and
/// already in rank order: the first that matches decides, and there is no fall-through to a
/// less specific domain (Istio 2.1.5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VirtualHost {
    /// Table and domain.
    pub key: VirtualHostKey,
    /// The rules by rank.
    pub routes: Vec<Arc<Route>>,
    /// Answer 301 to https for every request that is not https (Istio 2.9 `httpsRedirect`).
    pub https_redirect: bool,
}

/// Which rule of which object this is, for logs and explanations.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct RuleRef {
    /// The object; for a delegate, the delegate itself.
    pub object: ObjectRef,
    /// Index in `spec.http`.
    pub index: usize,
    /// Index in `match`, or `None` for a rule without match blocks.
    pub match_index: Option<usize>,
    /// For a delegate: the rule of the root that delegated to it.
    pub root: Option<Box<(ObjectRef, usize)>>,
}

/// One match block with what happens to the requests that it accepts. A rule with several
/// blocks becomes several routes that share their action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Istio's route name (`name` or `name.matchName`), as the access log prints it; may be empty.
    pub name: Arc<str>,
    /// Where it was written.
    pub rule: RuleRef,
    /// Source position of the rule.
    pub origin: Origin,
    /// What a request must look like.
    pub matches: RouteMatch,
    /// What pages of other origins may do.
    pub cors: Option<Arc<Cors>>,
    /// What happens then.
    pub action: Arc<Action>,
}

/// The conditions of one block, all of which must hold. What depends on the listener alone
/// (gateways, port, source labels) was decided by the translator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RouteMatch {
    /// The path without query.
    pub path: PathMatch,
    /// `exact` and `prefix` of the path compare ASCII case-insensitively.
    pub ignore_path_case: bool,
    /// The method, case-sensitive.
    pub method: Option<StringMatch>,
    /// `http` or `https`.
    pub scheme: Option<StringMatch>,
    /// The authority as sent, with its port.
    pub authority: Option<StringMatch>,
    /// Header conditions.
    pub headers: Vec<HeaderMatch>,
    /// Query conditions.
    pub query: Vec<QueryMatch>,
    /// Conditions on the claims of a verified token.
    pub claims: Vec<ClaimMatch>,
}

/// A condition on the path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathMatch {
    /// Every path.
    #[default]
    Any,
    /// The whole path.
    Exact(Arc<str>),
    /// A raw string prefix: `/foo` accepts `/foobar` (Istio 2.3).
    Prefix(Arc<str>),
    /// RE2, the whole path.
    Regex(Arc<str>),
}

/// Istio's StringMatch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StringMatch {
    /// The whole value.
    Exact(Arc<str>),
    /// The beginning.
    Prefix(Arc<str>),
    /// RE2, the whole value.
    Regex(Arc<str>),
}

/// A condition on a value that may be absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueMatch {
    /// There, with any value, the empty one included.
    Present,
    /// There, and like this.
    Value(StringMatch),
}

impl StringMatch {
    /// The same kind of match without its text.
    pub fn hidden(&self) -> StringMatch {
        match self {
            StringMatch::Exact(_) => StringMatch::Exact(HIDDEN.into()),
            StringMatch::Prefix(_) => StringMatch::Prefix(HIDDEN.into()),
            StringMatch::Regex(_) => StringMatch::Regex(HIDDEN.into()),
        }
    }
}

impl ValueMatch {
    /// As it may be shown for a header or query parameter of this name: without what may be a credential.
    pub fn shown(&self, name: &str) -> Cow<'_, ValueMatch> {
        match self {
            ValueMatch::Value(value) if is_secret(name) => Cow::Owned(ValueMatch::Value(value.hidden())),
            _ => Cow::Borrowed(self),
        }
    }
}

/// A condition on a header. Each of its lines is compared by itself.
///
/// Serialized, it does not show a value that may be a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// The header's name, or one of `:method`, `:path`, `:authority`, `:scheme`.
    pub name: HeaderName,
    /// What it must look like.
    pub value: ValueMatch,
    /// From `withoutHeaders`: the condition must not hold, and an absent header counts as the
    /// empty string unless the condition is [`ValueMatch::Present`] (Istio 2.3).
    pub invert: bool,
}

impl Serialize for HeaderMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("HeaderMatch", 3)?;
        fields.serialize_field("name", &self.name)?;
        fields.serialize_field("value", &*self.value.shown(self.name.as_str()))?;
        fields.serialize_field("invert", &self.invert)?;
        fields.end()
    }
}

/// A condition on a query parameter: the first value of a repeated key, not percent-decoded.
///
/// Serialized, it does not show a value that may be a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    /// The key, compared as it stands in the query.
    pub name: Arc<str>,
    /// What its value must look like.
    pub value: ValueMatch,
}

impl Serialize for QueryMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("QueryMatch", 2)?;
        fields.serialize_field("name", &self.name)?;
        fields.serialize_field("value", &*self.value.shown(&self.name))?;
        fields.end()
    }
}

/// A condition on a claim of a verified token. It holds where the claim is text like this, or a list with such a text
/// in it; [`ValueMatch::Present`] holds where the claim is there. Without a verified token there are no claims.
///
/// Serialized, it does not show a value that may be a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimMatch {
    /// Which claim.
    pub path: ClaimPath,
    /// What it must look like.
    pub value: ValueMatch,
    /// From `withoutHeaders`: the condition must not hold.
    pub invert: bool,
}

impl Serialize for ClaimMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let path = self.path.to_string();
        let mut fields = serializer.serialize_struct("ClaimMatch", 3)?;
        fields.serialize_field("path", &path)?;
        fields.serialize_field("value", &*self.value.shown(&path))?;
        fields.serialize_field("invert", &self.invert)?;
        fields.end()
    }
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is sent on.
    Forward(Forward),
    /// It is sent elsewhere by a `Location`.
    Redirect(Redirect),
    /// It is answered here.
    DirectResponse(DirectResponse),
}

/// Sending a request on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Forward {
    /// Where to, by weight. Never empty; weights add up to more than 0.
    pub destinations: Vec<Destination>,
    /// How the path changes.
    pub path_rewrite: Option<PathRewrite>,
    /// The time for the whole request, retries included; `None` is no limit (Istio 2.7).
    pub timeout: Option<Duration>,
    /// How it is tried again; `None` is not at all.
    pub retries: Option<RetryPolicy>,
    /// Faults to inject before anything is sent.
    pub fault: Fault,
    /// Where copies go whose answers nobody waits for (Istio 2.7).
    pub mirrors: Vec<Mirror>,
}

/// Copies of requests to a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mirror {
    /// The cluster.
    pub cluster: ClusterName,
    /// How many of the requests are copied.
    pub share: Share,
}

/// One weighted destination with the header operations of all levels merged in the order in
/// which they are applied (Istio 2.6), so that a request needs no merging.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Destination {
    /// The cluster.
    pub cluster: ClusterName,
    /// Its share of the sum of all weights.
    pub weight: u32,
    /// Replaces the authority, already resolved between rewrite, route and destination.
    pub authority: Option<FormatString>,
    /// Operations on the request's headers.
    pub request_headers: Vec<HeaderOp>,
    /// Operations on the response's headers.
    pub response_headers: Vec<HeaderOp>,
}

/// How a path changes; the query stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathRewrite {
    /// Replaces the prefix that the route's own [`PathMatch::Prefix`] matched, as text; with
    /// [`PathMatch::Any`] the leading `/` (Istio 2.5).
    Prefix(Arc<str>),
    /// Replaces the whole path.
    Full(Arc<str>),
    /// Replaces every match of an RE2 pattern; `\1` names a group. An empty result is no rewrite.
    Regex {
        /// The pattern, not anchored.
        pattern: Arc<str>,
        /// The substitution.
        substitution: Arc<str>,
    },
}

/// A redirect (Istio 2.5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// `http` or `https`; `None` keeps the request's.
    pub scheme: Option<Arc<str>>,
    /// `None` keeps the request's host.
    pub authority: Option<Arc<str>>,
    /// The port of the new location.
    pub port: RedirectPort,
    /// How the path changes; the query is kept unless the new path has one.
    pub path: Option<RedirectPath>,
    /// Operations on the response's headers.
    pub response_headers: Vec<HeaderOp>,
}

/// The port in a redirect's location.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RedirectPort {
    /// What the request said, unless the scheme changes and it was the old scheme's default.
    Keep,
    /// This one; as [`RedirectPort::Keep`] where it is the default of the redirect's scheme, or without one of the
    /// route table's.
    Number(u16),
    /// The route table's server port, as a number.
    FromRequestPort,
}

/// How a redirect changes the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RedirectPath {
    /// Replaces the whole path.
    Full(Arc<str>),
    /// Replaces the matched prefix as text.
    Prefix(Arc<str>),
}

/// An answer given by the gateway itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DirectResponse {
    /// The status.
    pub status: u16,
    /// The body; empty for none.
    #[serde(serialize_with = "as_length")]
    pub body: Arc<[u8]>,
    /// Operations on the response's headers.
    pub response_headers: Vec<HeaderOp>,
    /// Said in the access log as `response_code_details`; `direct_response` where a user asked
    /// for it, else why the rule fails closed.
    pub details: Arc<str>,
}

fn as_length<S: Serializer>(b: &Arc<[u8]>, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u64(b.len() as u64)
}
