use crate::RequestView;
use crate::matcher::Test;
use crate::pattern::Patterns;
use std::sync::{Arc, LazyLock};
use tidegate_model::{Cors, HeaderName, HeaderOp, InvalidPattern};

static ORIGIN: LazyLock<HeaderName> = LazyLock::new(|| HeaderName::new("origin"));
static REQUEST_METHOD: LazyLock<HeaderName> =
    LazyLock::new(|| HeaderName::new("access-control-request-method"));

/// A [`Cors`], compiled.
#[derive(Debug)]
pub(crate) struct CompiledCors {
    source: Arc<Cors>,
    origins: Box<[Test]>,
}

/// What a request asks of CORS.
pub(crate) enum Asked<'t> {
    /// Nothing, or not for an origin that is allowed.
    Nothing,
    /// An answer with these headers, instead of the upstream's.
    Preflight(&'t [HeaderOp]),
    /// These headers on whatever response there will be.
    Response(&'t [HeaderOp]),
}

impl CompiledCors {
    pub(crate) fn compile(
        source: &Arc<Cors>,
        patterns: &mut Patterns,
        refused: &mut Vec<InvalidPattern>,
    ) -> Self {
        let origins = source.allow_origins.iter().map(|o| Test::text(o, patterns, refused)).collect();
        CompiledCors { source: source.clone(), origins }
    }

    /// What the request asks (Istio 2.14): a preflight is OPTIONS with an origin and the method that is to follow.
    pub(crate) fn asked<R: RequestView + ?Sized>(&self, request: &R) -> Asked<'_> {
        let there = |name| request.header(name).filter(|v| !v.is_empty());
        let Some(origin) = there(&ORIGIN) else { return Asked::Nothing };
        let allowed = self.origins.iter().any(|test| test.holds(b"*") || test.holds(&origin));
        let preflight = request.method() == b"OPTIONS" && there(&REQUEST_METHOD).is_some();
        match (allowed, preflight, &self.source.unmatched_headers) {
            (true, true, _) => Asked::Preflight(&self.source.preflight_headers),
            (true, false, _) => Asked::Response(&self.source.response_headers),
            (false, true, Some(headers)) => Asked::Preflight(headers),
            (false, ..) => Asked::Nothing,
        }
    }
}
