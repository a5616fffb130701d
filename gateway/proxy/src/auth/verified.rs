use super::rule::Accepted;
use crate::forward::edits::{Edits, line};
use std::sync::Arc;
use tidegate_engine::Claims;

/// Who a request is from: the tokens that verified.
#[derive(Debug)]
pub(crate) struct Verified {
    /// At least one; the first is at the first location of its rule.
    pub(super) tokens: Vec<Arc<Accepted>>,
}

impl Verified {
    pub(super) fn new(tokens: Vec<Arc<Accepted>>) -> Self {
        Verified { tokens }
    }

    /// The claims that count, with issuer and subject among them.
    pub(crate) fn claims(&self) -> Option<&Claims> {
        self.tokens.first().map(|token| &token.claims)
    }

    /// The values of a header that tokens gave.
    pub(crate) fn values<'a, 'n>(&'a self, name: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.headers().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Writes the headers that tokens gave. They count as sent by the client: operations apply to them.
    pub(crate) fn write(&self, out: &mut Vec<u8>, edits: Edits<'_>) {
        for (name, value) in self.headers().filter(|(name, _)| edits.keeps(name)) {
            line(out, name, value);
        }
    }

    fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        // the last one was verified first, and so was heard first
        let tokens = self.tokens.iter().rev();
        tokens.flat_map(|t| &t.headers).map(|(name, value)| (name.as_str().as_bytes(), &**value))
    }
}
