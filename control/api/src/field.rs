//! Paths of fields, as diagnostics show them: `spec.http[0].match[1].headers["x.y"].exact`.
//!
//! A path is keys and list indexes. A key of letters, digits, `_`, `-` and `/` follows a dot; any other key is
//! written in brackets and quotes, where `\` escapes a quote or itself. The empty path is the object.

use std::borrow::Cow;
use std::fmt::Write as _;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment<'a> {
    /// A key of a mapping.
    Key(Cow<'a, str>),
    /// An index of a list, from 0.
    Index(usize),
}

/// `key` as the next step of a path: `.key`, or `["k.e.y"]`.
///
/// ```
/// # use tidegate_api::field;
/// assert_eq!(format!("headers{}", field::key("x.y")), r#"headers["x.y"]"#);
/// ```
pub fn key(key: &str) -> String {
    let mut path = String::new();
    push_key(&mut path, key);
    path
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/')
}

fn push_key(path: &mut String, key: &str) {
    if !key.is_empty() && key.chars().all(is_plain) {
        path.push('.');
        path.push_str(key);
        return;
    }
    path.push_str("[\"");
    for c in key.chars() {
        if matches!(c, '"' | '\\') {
            path.push('\\');
        }
        path.push(c);
    }
    path.push_str("\"]");
}

/// The path of `segments`.
pub fn path(segments: &[Segment<'_>]) -> String {
    let mut path = String::new();
    for segment in segments {
        match segment {
            Segment::Key(key) => push_key(&mut path, key),
            Segment::Index(index) => {
                let _ = write!(path, "[{index}]");
            }
        }
    }
    match path.strip_prefix('.') {
        Some(rest) => rest.to_owned(),
        None => path,
    }
}

/// The steps of `path`. Anything that is no step ends the path there.
pub fn segments(path: &str) -> Vec<Segment<'_>> {
    let mut out = Vec::new();
    let mut rest = path;
    while let Some((segment, after)) = next(rest) {
        out.push(segment);
        rest = after;
    }
    out
}

fn next(rest: &str) -> Option<(Segment<'_>, &str)> {
    if let Some(quoted) = rest.strip_prefix("[\"") {
        return next_quoted(quoted);
    }
    if let Some(index) = rest.strip_prefix('[') {
        let (digits, after) = index.split_once(']')?;
        return Some((Segment::Index(digits.parse().ok()?), after));
    }
    let plain = rest.strip_prefix('.').unwrap_or(rest);
    let end = plain.find(['.', '[']).unwrap_or(plain.len());
    (end > 0).then(|| (Segment::Key(Cow::Borrowed(&plain[..end])), &plain[end..]))
}

fn next_quoted(quoted: &str) -> Option<(Segment<'static>, &str)> {
    let mut key = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => key.push(chars.next()?.1),
            '"' => {
                let after = quoted[at + 1..].strip_prefix(']')?;
                return Some((Segment::Key(Cow::Owned(key)), after));
            }
            _ => key.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_read_as_users_expect() {
        let steps = [
            Segment::Key("spec".into()),
            Segment::Key("http".into()),
            Segment::Index(0),
            Segment::Key("headers".into()),
            Segment::Key("x.y\"z".into()),
            Segment::Key("exact".into()),
        ];
        let text = r#"spec.http[0].headers["x.y\"z"].exact"#;
        assert_eq!(path(&steps), text);
        assert_eq!(segments(text), steps);
        assert!(segments("").is_empty());
    }

    proptest! {
        #[test]
        fn any_key_comes_back(keys in prop::collection::vec(any::<String>(), 1..4), index in 0usize..9) {
            let mut steps: Vec<_> = keys.into_iter().map(|k| Segment::Key(k.into())).collect();
            steps.push(Segment::Index(index));
            let text = path(&steps);
            prop_assert_eq!(segments(&text), steps);
        }

        #[test]
        fn any_text_is_taken(text in any::<String>()) {
            segments(&text);
        }
    }
}
