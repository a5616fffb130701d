use crate::{HeaderName, ObjectRef, Origin};
use serde::{Serialize, Serializer};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How requests of this gateway are authenticated by the tokens that they bring (Istio's RequestAuthentication).
///
/// Without rules, tokens mean nothing. With rules, a request without a token passes as nobody's, and one whose token
/// does not verify is refused. With several rules, the first whose tokens verify counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Authentication {
    /// The rules of all policies that select the gateway, by issuer as Istio sorts them.
    pub rules: Vec<Arc<TokenRule>>,
}

/// One issuer whose tokens are accepted (`jwtRules[]`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenRule {
    /// The policy.
    pub object: ObjectRef,
    /// Index in `spec.jwtRules`.
    pub index: usize,
    /// Where the rule was written.
    pub origin: Origin,
    /// What `iss` must be; `None` is anything.
    pub issuer: Option<Arc<str>>,
    /// One of these must be in `aud`; empty asks for none.
    pub audiences: Vec<Arc<str>>,
    /// The keys that signatures are verified with.
    pub keys: KeySource,
    /// Where tokens are looked for; each that is found must verify.
    pub locations: Vec<TokenLocation>,
    /// A request without a token is refused too.
    pub required: bool,
    /// A verified token goes upstream as it came; else it is taken off headers and query.
    pub forward: bool,
    /// The header that gets the token's payload as it is encoded in the token.
    pub payload_header: Option<HeaderName>,
    /// The headers that get claims.
    pub claim_headers: Vec<ClaimHeader>,
    /// Top-level claims whose text is a list, separated by spaces.
    pub space_delimited: Vec<Arc<str>>,
}

/// A claim that is copied to a header (`outputClaimToHeaders[]`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClaimHeader {
    /// The header. What clients send under this name is removed.
    pub header: HeaderName,
    /// The claim; names within objects are joined by `.`.
    pub claim: Arc<str>,
}

/// Where the keys of an issuer are.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum KeySource {
    /// A JSON Web Key Set (RFC 7517) as text.
    Inline(Arc<str>),
    /// At a URL.
    Remote {
        /// Which.
        location: KeyLocation,
        /// The time for one request to it.
        timeout: Duration,
    },
}

/// The URL that leads to a key set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyLocation {
    /// Of the key set.
    KeySet(Arc<str>),
    /// Of an issuer, whose `/.well-known/openid-configuration` names it (OpenID Connect Discovery 4).
    Issuer(Arc<str>),
}

/// Without the keys, which may be symmetric or private by mistake.
impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::Inline(_) => f.write_str("Inline"),
            KeySource::Remote { location, timeout } => write!(f, "Remote({location:?}, {timeout:?})"),
        }
    }
}

impl Serialize for KeySource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            KeySource::Inline(_) => serializer.serialize_str("inline"),
            KeySource::Remote { location, .. } => location.serialize(serializer),
        }
    }
}

/// Where in a request a token is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenLocation {
    /// In each line of a header, behind this text; empty for a line that is the token.
    Header(HeaderName, Arc<str>),
    /// In the first query parameter of this name.
    Param(Arc<str>),
    /// In the first cookie of this name.
    Cookie(Arc<str>),
}

/// Which claim of a token: its name, and the names within objects below it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ClaimPath(Arc<[Box<str>]>);

impl ClaimPath {
    /// What claims are called among headers in matches.
    pub const PREFIX: &str = "@request.auth.claims";

    /// The claim that a name among headers means: `@request.auth.claims.a.b`, or `@request.auth.claims[a][b]` for
    /// names with dots in them. Names are case-sensitive, the prefix is not. `None` for any other header.
    pub fn parse(header: &str) -> Option<ClaimPath> {
        let start = header.get(..Self::PREFIX.len())?;
        if !start.eq_ignore_ascii_case(Self::PREFIX) {
            return None;
        }
        let rest = &header[Self::PREFIX.len()..];
        let names: Vec<Box<str>> = match rest.strip_prefix('.') {
            Some(names) if !names.is_empty() => names.split('.').map(Into::into).collect(),
            Some(_) => return None,
            None => {
                let names = rest.strip_prefix('[')?.strip_suffix(']').filter(|names| !names.is_empty())?;
                names.split("][").map(Into::into).collect()
            }
        };
        Some(ClaimPath(names.into()))
    }

    /// The names, from the outermost.
    pub fn names(&self) -> &[Box<str>] {
        &self.0
    }
}

/// With brackets, which every name can be written in.
impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::PREFIX)?;
        self.0.iter().try_for_each(|name| write!(f, "[{name}]"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_named_with_dots_or_brackets() {
        let table: [(&str, Option<&[&str]>); 14] = [
            ("@request.auth.claims.key1", Some(&["key1"])),
            ("@request.auth.claims.key1.KEY2", Some(&["key1", "KEY2"])),
            ("@REQUEST.auth.Claims.key1-key2", Some(&["key1-key2"])),
            ("@request.auth.claims[a]", Some(&["a"])),
            ("@request.auth.claims[a.b/c][d]", Some(&["a.b/c", "d"])),
            ("@request.auth.claims", None),
            ("@request.auth.claims.", None),
            ("@request.auth.claims-", None),
            ("@request.auth.claims[]", None),
            ("@request.auth.claims[", None),
            ("@request.auth.claims[a", None),
            ("@request.auth.claimsä", None),
            ("request.auth.claims.a", None),
            ("x-other", None),
        ];
        for (header, expected) in table {
            let found = ClaimPath::parse(header);
            let names = found.as_ref().map(|path| path.names().iter().map(|n| &**n).collect::<Vec<_>>());
            assert_eq!(names.as_deref(), expected, "{header}");
            if let Some(path) = found {
                assert_eq!(ClaimPath::parse(&path.to_string()), Some(path), "{header}");
            }
        }
    }

    #[test]
    fn keys_are_never_shown() {
        let source = KeySource::Inline(r#"{"keys":[{"kty":"oct","k":"secret"}]}"#.into());
        assert_eq!(format!("{source:?}"), "Inline");
    }
}
