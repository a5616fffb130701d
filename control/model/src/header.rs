use crate::FormatString;
use serde::ser::SerializeTupleVariant;
use serde::{Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// A header name in lower case, as Istio and HTTP/2 write it.
///
/// Pseudo headers (`:method`, `:path`, `:authority`, `:scheme`) are legal in matches only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct HeaderName(Arc<str>);

impl HeaderName {
    /// The name, lower-cased. Validity is the translator's business.
    pub fn new(name: &str) -> Self {
        HeaderName(name.to_ascii_lowercase().into())
    }

    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What stands for a credential wherever one would be shown.
pub const HIDDEN: &str = "(hidden)";

/// Whether what has this name - a header, a query parameter, a field - may hold a credential, which no page, log or
/// explanation shows.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace(['-', '_'], "");
    matches!(&*name, "cookie" | "setcookie")
        || ["authorization", "apikey", "password", "privatekey", "secret", "token"]
            .iter()
            .any(|word| name.contains(word))
}

/// One header operation. Serialized, it does not show a value that may be a credential.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HeaderOp {
    /// Remove every value of the header.
    Remove(HeaderName),
    /// Replace every value by this one.
    Set(HeaderName, FormatString),
    /// Add one more value.
    Append(HeaderName, FormatString),
}

impl HeaderOp {
    /// The header's name.
    pub fn name(&self) -> &HeaderName {
        match self {
            HeaderOp::Remove(name) | HeaderOp::Set(name, _) | HeaderOp::Append(name, _) => name,
        }
    }
}

impl Serialize for HeaderOp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (index, variant, name, value) = match self {
            HeaderOp::Remove(name) => {
                return serializer.serialize_newtype_variant("HeaderOp", 0, "remove", name);
            }
            HeaderOp::Set(name, value) => (1, "set", name, value),
            HeaderOp::Append(name, value) => (2, "append", name, value),
        };
        let shown = if is_secret(name.as_str()) { HIDDEN } else { value.as_str() };
        let mut both = serializer.serialize_tuple_variant("HeaderOp", index, variant, 2)?;
        both.serialize_field(name)?;
        both.serialize_field(shown)?;
        both.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_credentials() {
        for name in ["Authorization", "proxy-authorization", "Cookie", "set-cookie", "X-Api-Key", "id_token"]
        {
            assert!(is_secret(name), "{name}");
        }
        for name in ["accept", "x-user", "httpCookie", "cookie-consent", ":authority", "end-user"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
