use crate::FormatString;
use serde::Serialize;
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

/// One header operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeaderOp {
    /// Remove every value of the header.
    Remove(HeaderName),
    /// Replace every value by this one.
    Set(HeaderName, FormatString),
    /// Add one more value.
    Append(HeaderName, FormatString),
}
