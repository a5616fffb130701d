//! Patterns of policies, held against bytes.

use tidegate_model::{PathTemplate, TemplateSegment, TextPattern};

/// How a text is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    Sensitive,
    /// Letters of ASCII in any case.
    Ignored,
}

/// Whether the text that is made up of `parts` is such. Nothing is joined for it.
pub(super) fn matches(pattern: &TextPattern, parts: &[&[u8]], case: Case) -> bool {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let is = |wanted: &str, from: usize| {
        let wanted = wanted.as_bytes();
        match (parts, case) {
            ([one], Case::Sensitive) => one[from..from + wanted.len()] == *wanted,
            ([one], Case::Ignored) => one[from..from + wanted.len()].eq_ignore_ascii_case(wanted),
            _ => {
                let there = parts.iter().copied().flatten().skip(from).take(wanted.len());
                match case {
                    Case::Sensitive => there.eq(wanted),
                    Case::Ignored => there.zip(wanted).all(|(a, b)| a.eq_ignore_ascii_case(b)),
                }
            }
        }
    };
    match pattern {
        TextPattern::Any => length > 0,
        TextPattern::Exact(text) => length == text.len() && is(text, 0),
        TextPattern::Prefix(text) => length >= text.len() && is(text, 0),
        TextPattern::Suffix(text) => length >= text.len() && is(text, length - text.len()),
    }
}

/// Whether a path is such: `{*}` is one segment that is not empty, `{**}` is whatever stands between its slashes.
pub(super) fn matches_template(template: &PathTemplate, path: &[u8]) -> bool {
    let mut rest = Some(path);
    let mut segments = template.segments().iter();
    while let Some(segment) = segments.next() {
        let Some(left) = rest else { return false };
        if *segment == TemplateSegment::Many {
            return ends_with(left, segments.as_slice());
        }
        let (first, behind) = match left.iter().position(|b| *b == b'/') {
            Some(at) => (&left[..at], Some(&left[at + 1..])),
            None => (left, None),
        };
        let holds = match segment {
            TemplateSegment::Literal(text) => first == text.as_bytes(),
            _ => !first.is_empty(),
        };
        if !holds {
            return false;
        }
        rest = behind;
    }
    rest.is_none()
}

/// Whether a path ends with these segments, each behind a slash; they are literal, since `{**}` is the last operator.
fn ends_with(mut path: &[u8], segments: &[TemplateSegment]) -> bool {
    for segment in segments.iter().rev() {
        let TemplateSegment::Literal(text) = segment else { return false };
        match path.strip_suffix(text.as_bytes()).and_then(|path| path.strip_suffix(b"/")) {
            Some(front) => path = front,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_hold_for_texts_in_one_piece_or_several() {
        for (pattern, text, expected) in [
            ("*", "a", true),
            ("*", "", false),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("abc", "ab", false),
            ("ab*", "abc", true),
            ("ab*", "ab", true),
            ("ab*", "a", false),
            ("*bc", "abc", true),
            ("*bc", "c", false),
            ("*b*", "ab*", true),
            ("*b*", "abc", false),
            ("Abc", "abc", false),
        ] {
            let pattern = TextPattern::parse(pattern);
            let text = text.as_bytes();
            for at in 0..=text.len() {
                let parts = [&text[..at], &text[at..]];
                assert_eq!(matches(&pattern, &parts, Case::Sensitive), expected, "{pattern} {at}");
            }
            assert_eq!(matches(&pattern, &[text], Case::Sensitive), expected, "{pattern}");
        }
        for parts in [&[&b"aBC"[..]][..], &[b"a", b"BC"]] {
            assert!(matches(&TextPattern::parse("Ab*"), parts, Case::Ignored));
            assert!(matches(&TextPattern::parse("*bc"), parts, Case::Ignored));
            assert!(matches(&TextPattern::parse("abc"), parts, Case::Ignored));
        }
    }

    #[test]
    fn templates_hold_as_istio_documents_them() {
        for (template, path, expected) in [
            ("/foo/{*}", "/foo/bar", true),
            ("/foo/{*}", "/foo/bar/baz", false),
            ("/foo/{*}", "/foo/", false),
            ("/foo/{*}", "/foo", false),
            ("/foo/{*}", "/foo/%2f", true),
            ("/users/{*}/admin", "/users//admin", false),
            ("/users/{*}/admin", "/users/1/admin", true),
            ("/users/{*}/admin", "/users/1/2/admin", false),
            ("/foo/{**}/", "/foo/bar/", true),
            ("/foo/{**}/", "/foo/bar/baz.txt/", true),
            ("/foo/{**}/", "/foo//", true),
            ("/foo/{**}/", "/foo/bar", false),
            ("/foo/{**}", "/foo/", true),
            ("/foo/{**}", "/foo", false),
            ("/foo/{*}/bar/{**}", "/foo/buzz/bar/", true),
            ("/foo/{*}/bar/{**}", "/foo/buzz/bar/baz", true),
            ("/foo/{*}/bar/{**}", "/foo/buzz/baz/bar/", false),
            ("/{**}/path/template", "/a/b/path/template", true),
            ("/{**}/path/template", "/path/template", false),
            ("/{**}/path/template", "//path/template", true),
            ("{*}", "", false),
            ("{**}", "*", true),
        ] {
            let parsed = PathTemplate::parse(template).unwrap();
            assert_eq!(matches_template(&parsed, path.as_bytes()), expected, "{template} {path}");
        }
    }
}
