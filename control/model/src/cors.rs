use crate::{HeaderOp, StringMatch};
use serde::Serialize;

/// Cross-origin resource sharing (Istio 2.14). Requests are never refused by it: what a page of another
/// origin may not do is kept from it by the browser, which sees these headers or does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cors {
    /// Origins that are allowed. One that accepts `*` itself accepts every origin, as in Envoy.
    pub allow_origins: Vec<StringMatch>,
    /// The answer to a preflight of an allowed origin.
    pub preflight_headers: Vec<HeaderOp>,
    /// The answer to a preflight of another origin; `None` sends it on.
    pub unmatched_headers: Option<Vec<HeaderOp>>,
    /// What every other response to an allowed origin gets.
    pub response_headers: Vec<HeaderOp>,
}
