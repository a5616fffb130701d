use super::locate::is_same;
use super::rule::Accepted;
use crate::forward::edits::{Edits, line};
use std::sync::Arc;
use tidegate_engine::Claims;
use tidegate_model::HeaderName;

/// Who a request is from: the tokens that verified.
#[derive(Debug)]
pub(crate) struct Verified {
    /// At least one; the first is at the first location of its rule.
    pub(super) tokens: Vec<Arc<Accepted>>,
    /// Headers that tokens gave and that are not theirs any more.
    dropped: Vec<HeaderName>,
}

impl Verified {
    pub(super) fn new(tokens: Vec<Arc<Accepted>>) -> Self {
        Verified { tokens, dropped: Vec::new() }
    }

    /// Takes a header back that tokens gave; their claims stay.
    pub(crate) fn drop_header(&mut self, name: &HeaderName) {
        if self.names().any(|given| is_same(given.as_bytes(), name.as_str().as_bytes())) {
            self.dropped.push(name.clone());
        }
    }

    /// The claims that count, with issuer and subject among them.
    pub(crate) fn claims(&self) -> Option<&Claims> {
        self.tokens.first().map(|token| &token.claims)
    }

    /// The values of a header that tokens gave.
    pub(crate) fn values<'a, 'n>(&'a self, name: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.headers().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The headers that tokens gave.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().flat_map(|t| &t.headers).map(|(name, _)| name.as_str()).filter(|n| self.gives(n))
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
        let headers = tokens.flat_map(|t| &t.headers).filter(|(name, _)| self.gives(name.as_str()));
        headers.map(|(name, value)| (name.as_str().as_bytes(), &**value))
    }

    fn gives(&self, name: &str) -> bool {
        !self.dropped.iter().any(|dropped| is_same(dropped.as_str().as_bytes(), name.as_bytes()))
    }
}
