use crate::pattern::Patterns;
use crate::{Decision, RequestView};
use regex_automata::Input;
use regex_automata::util::iter::Searcher;
use std::sync::Arc;
use tidegate_model::{Anchoring, Groups, InvalidPattern, PathMatch, PathRewrite, Pattern};

/// Why a `uriRegexRewrite` is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidRewrite {
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
    #[error("substitution {0:?}: a backslash must be followed by a digit or a backslash")]
    Escape(Arc<str>),
    #[error("substitution {0:?} names group {1}, but the regex has only {2}")]
    Group(Arc<str>, u8, usize),
}

/// A compiled `uriRegexRewrite`.
#[derive(Debug)]
pub(crate) struct RegexRewrite {
    pattern: Arc<Pattern>,
    substitution: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Text(Vec<u8>),
    Group(usize),
}

impl RegexRewrite {
    /// Compiles a rewrite by regex; `None` for the other kinds.
    pub(crate) fn compile(
        rewrite: &PathRewrite,
        patterns: &mut Patterns,
    ) -> Result<Option<Self>, InvalidRewrite> {
        let PathRewrite::Regex { pattern, substitution } = rewrite else { return Ok(None) };
        let pattern = patterns.get(pattern, Anchoring::Anywhere)?;
        let substitution = parse_substitution(substitution, pattern.groups())?;
        Ok(Some(RegexRewrite { pattern, substitution }))
    }

    /// Appends the path with every match replaced.
    fn write(&self, path: &[u8], out: &mut Vec<u8>) {
        let mut groups = Groups::default();
        let mut searcher = Searcher::new(Input::new(path));
        let mut copied = 0;
        while let Some(found) = searcher.advance(|input| Ok(self.pattern.find(input, &mut groups))) {
            out.extend_from_slice(&path[copied..found.start()]);
            copied = found.end();
            for piece in &self.substitution {
                match piece {
                    Piece::Text(text) => out.extend_from_slice(text),
                    Piece::Group(n) => {
                        if let (Some(start), Some(end)) = (groups[2 * n], groups[2 * n + 1]) {
                            out.extend_from_slice(&path[start.get()..end.get()]);
                        }
                    }
                }
            }
        }
        out.extend_from_slice(&path[copied..]);
    }
}

/// RE2's rewrite strings: `\0` to `\9` and `\\`.
fn parse_substitution(source: &Arc<str>, groups: usize) -> Result<Vec<Piece>, InvalidRewrite> {
    let mut pieces = Vec::new();
    let mut text = Vec::new();
    let mut bytes = source.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            text.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'\\') => text.push(b'\\'),
            Some(digit @ b'0'..=b'9') => {
                let group = digit - b'0';
                if usize::from(group) >= groups {
                    return Err(InvalidRewrite::Group(source.clone(), group, groups - 1));
                }
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                }
                pieces.push(Piece::Group(group.into()));
            }
            _ => return Err(InvalidRewrite::Escape(source.clone())),
        }
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

/// Appends the path with what the rule's own match found at its beginning replaced as text: a
/// prefix; the leading `/` without a match; the whole path for the others (Istio 2.5).
pub(crate) fn replace_prefix(matches: &PathMatch, path: &[u8], with: &str, out: &mut Vec<u8>) {
    let matched = match matches {
        PathMatch::Prefix(prefix) => prefix.len(),
        PathMatch::Any if path.starts_with(b"/") => 1,
        // `OPTIONS *`
        PathMatch::Any => return out.extend_from_slice(path),
        PathMatch::Exact(_) | PathMatch::Regex(_) => path.len(),
    };
    out.extend_from_slice(with.as_bytes());
    out.extend_from_slice(path.get(matched..).unwrap_or_default());
}

impl Decision<'_> {
    /// Appends the request target to send upstream: the rewritten path, with the query as it was.
    pub fn write_target<R: RequestView + ?Sized>(&self, request: &R, out: &mut Vec<u8>) {
        let path = request.path();
        let start = out.len();
        if let Decision::Forward(chosen) = self {
            match (&chosen.forward.path_rewrite, chosen.regex) {
                (Some(PathRewrite::Prefix(with)), _) => {
                    replace_prefix(&chosen.route.matches.path, path, with, out);
                }
                (Some(PathRewrite::Full(new)), _) => out.extend_from_slice(new.as_bytes()),
                (_, Some(regex)) => regex.write(path, out),
                (_, None) => {}
            }
        }
        if out.len() == start {
            out.extend_from_slice(path);
        }
        if let Some(query) = request.query() {
            out.push(b'?');
            out.extend_from_slice(query);
        }
    }
}
