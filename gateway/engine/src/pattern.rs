use crate::re2;
use ahash::AHashMap;
use regex_automata::meta;
use regex_automata::{Input, Match, PatternID, util::primitives::NonMaxUsize};
use regex_syntax::hir::{self, Hir, Look};
use std::sync::{Arc, Weak};

/// Bytes that one compiled pattern may take.
const SIZE_LIMIT: usize = 1 << 20;
/// Bytes of lazily built states that one pattern may keep per thread.
const CACHE_LIMIT: usize = 1 << 18;

/// Why a pattern is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidPattern {
    /// Not RE2 syntax.
    #[error("regex {0:?} is not valid RE2: {1}")]
    Syntax(Arc<str>, String),
    /// Larger than [`SIZE_LIMIT`] when compiled.
    #[error(
        "regex {0:?} compiles to more than {SIZE_LIMIT} bytes: make it simpler or its repetitions smaller"
    )]
    TooLarge(Arc<str>),
}

/// Whether a pattern must match a whole value or is looked for within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Anchoring {
    /// As Istio's `regex` matches.
    Whole,
    /// As `uriRegexRewrite` replaces.
    Anywhere,
}

/// A compiled RE2 pattern over bytes.
#[derive(Debug)]
pub(crate) struct Pattern {
    regex: meta::Regex,
    /// What every value that matches begins with; only meaningful for [`Anchoring::Whole`].
    literal_prefix: Box<[u8]>,
}

/// Where the ten groups `\0` to `\9` of a match begin and end.
pub(crate) type Groups = [Option<NonMaxUsize>; 20];

impl Pattern {
    fn compile(pattern: &Arc<str>, anchoring: Anchoring) -> Result<Self, InvalidPattern> {
        let syntax = |e: &dyn std::fmt::Display| InvalidPattern::Syntax(pattern.clone(), last_line(e));
        let ours = re2::translate(pattern).map_err(|e| syntax(&e))?;
        let parsed =
            regex_syntax::ParserBuilder::new().utf8(false).build().parse(&ours).map_err(|e| syntax(&e))?;
        let literal_prefix = hir::literal::Extractor::new()
            .extract(&parsed)
            .longest_common_prefix()
            .unwrap_or_default()
            .into();
        let hir = match anchoring {
            // Wrapped as a tree and not as text, so that no pattern can break out of its anchors.
            Anchoring::Whole => Hir::concat(vec![Hir::look(Look::Start), parsed, Hir::look(Look::End)]),
            Anchoring::Anywhere => parsed,
        };
        let config = meta::Config::new()
            .utf8_empty(false)
            .nfa_size_limit(Some(SIZE_LIMIT))
            .onepass_size_limit(Some(SIZE_LIMIT))
            .hybrid_cache_capacity(CACHE_LIMIT);
        let regex = meta::Builder::new().configure(config).build_from_hir(&hir).map_err(|e| {
            match e.size_limit() {
                Some(_) => InvalidPattern::TooLarge(pattern.clone()),
                None => syntax(&e),
            }
        })?;
        Ok(Pattern { regex, literal_prefix })
    }

    /// Whether the pattern matches; the whole value for [`Anchoring::Whole`].
    pub(crate) fn is_match(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }

    /// What every value that matches as a whole begins with.
    pub(crate) fn literal_prefix(&self) -> &[u8] {
        &self.literal_prefix
    }

    /// The number of groups, the whole match included.
    pub(crate) fn groups(&self) -> usize {
        self.regex.captures_len()
    }

    /// The next match in `input` with its groups.
    pub(crate) fn find(&self, input: &Input<'_>, groups: &mut Groups) -> Option<Match> {
        let id: PatternID = self.regex.search_slots(input, groups)?;
        let (start, end) = (groups[0]?.get(), groups[1]?.get());
        Some(Match::new(id, start..end))
    }
}

/// The last line of an error that draws the pattern over several ones.
fn last_line(e: &dyn std::fmt::Display) -> String {
    let text = e.to_string();
    let line = text.lines().last().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// The patterns of a table, each compiled once and shared with the tables that follow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patterns(AHashMap<(Arc<str>, Anchoring), Weak<Pattern>>);

impl Patterns {
    /// The compiled pattern, from the cache where it is still in use.
    pub(crate) fn get(
        &mut self,
        pattern: &Arc<str>,
        anchoring: Anchoring,
    ) -> Result<Arc<Pattern>, InvalidPattern> {
        let key = (pattern.clone(), anchoring);
        if let Some(known) = self.0.get(&key).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let compiled = Arc::new(Pattern::compile(pattern, anchoring)?);
        self.0.insert(key, Arc::downgrade(&compiled));
        Ok(compiled)
    }

    /// Forgets the patterns that no table uses any more.
    pub(crate) fn sweep(&mut self) {
        self.0.retain(|_, p| p.strong_count() > 0);
    }
}
