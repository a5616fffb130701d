use crate::re2;
use regex_automata::meta;
use regex_automata::{Input, Match, PatternID, util::primitives::NonMaxUsize};
use regex_syntax::hir::{self, Hir, Look};
use std::sync::Arc;

/// Bytes that one compiled pattern may take.
const SIZE_LIMIT: usize = 1 << 20;
/// Bytes of lazily built states that one pattern may keep per thread.
const CACHE_LIMIT: usize = 1 << 18;

/// Why a pattern is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
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
pub enum Anchoring {
    /// As Istio's `regex` matches.
    Whole,
    /// As `uriRegexRewrite` replaces.
    Anywhere,
}

/// A compiled RE2 pattern over bytes.
#[derive(Debug)]
pub struct Pattern {
    regex: meta::Regex,
    /// What every value that matches begins with; only meaningful for [`Anchoring::Whole`].
    literal_prefix: Box<[u8]>,
}

/// Where the ten groups `\0` to `\9` of a match begin and end.
pub type Groups = [Option<NonMaxUsize>; 20];

impl Pattern {
    /// Compiles an RE2 pattern.
    ///
    /// # Errors
    /// When it is no RE2, or larger than 1 MiB when compiled.
    pub fn compile(pattern: &Arc<str>, anchoring: Anchoring) -> Result<Self, InvalidPattern> {
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
    pub fn is_match(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }

    /// What every value that matches as a whole begins with.
    pub fn literal_prefix(&self) -> &[u8] {
        &self.literal_prefix
    }

    /// The number of groups, the whole match included.
    pub fn groups(&self) -> usize {
        self.regex.captures_len()
    }

    /// The next match in `input` with its groups.
    pub fn find(&self, input: &Input<'_>, groups: &mut Groups) -> Option<Match> {
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
