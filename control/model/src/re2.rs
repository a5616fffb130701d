//! RE2's syntax, written in that of `regex-syntax`, which differs in a few places: character
//! classes that are ASCII in RE2, brackets that nest, braces that are literal.
//!
//! What is an error in both stays as it is, to be refused by the parser.

use std::iter::Peekable;
use std::str::Chars;

/// Why a pattern cannot be RE2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotRe2 {
    /// `(?x` and other flags of other dialects.
    #[error("the flag `{0}` is unknown to RE2")]
    Flag(char),
    /// `a{1001}`
    #[error("a repetition of more than 1000")]
    Repetition,
    /// `[abc`
    #[error("a missing `]`")]
    OpenClass,
    /// `[z-a]`, `[a-\d]`
    #[error("an invalid range in a character class")]
    ClassRange,
}

/// Writes an RE2 pattern in the syntax of `regex-syntax`.
pub(crate) fn translate(pattern: &str) -> Result<String, NotRe2> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' => escape(&mut rest, &mut out),
            '[' => class(&mut rest, &mut out)?,
            '{' if !is_repetition(rest.clone())? => out.push_str(r"\{"),
            '(' => {
                out.push('(');
                flags(rest.clone())?;
            }
            _ => out.push(c),
        }
    }
    Ok(out)
}

/// After a backslash outside of a class.
fn escape(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    let Some(c) = rest.next() else { return out.push('\\') };
    match c {
        'b' | 'B' => out.extend(["(?-u:\\", c.encode_utf8(&mut [0; 4]), ")"]),
        'C' => out.push_str("(?s-u:.)"),
        'Q' => quoted(rest, out),
        _ => match perl_class(c) {
            Some(set) => out.push_str(set),
            None => escaped(c, out),
        },
    }
}

/// `\Q...\E`: literal text.
fn quoted(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    while let Some(c) = rest.next() {
        if c == '\\' && rest.peek() == Some(&'E') {
            rest.next();
            return;
        }
        literal(c, out);
    }
}

/// RE2's `\d`, `\s`, `\w` and their opposites: ASCII.
fn perl_class(c: char) -> Option<&'static str> {
    Some(match c {
        'd' => r"[0-9]",
        'D' => r"[^0-9]",
        's' => r"[\t\n\x0C\r ]",
        'S' => r"[^\t\n\x0C\r ]",
        'w' => r"[0-9A-Za-z_]",
        'W' => r"[^0-9A-Za-z_]",
        _ => return None,
    })
}

/// A character after a backslash: letters and digits keep their meaning, all else is literal.
fn escaped(c: char, out: &mut String) {
    if c.is_ascii_alphanumeric() {
        out.push('\\');
        out.push(c);
    } else {
        literal(c, out);
    }
}

fn literal(c: char, out: &mut String) {
    if c.is_ascii_punctuation() && !matches!(c, '<' | '>') {
        out.push('\\');
    }
    out.push(c);
}

/// Longest text between braces that is looked at: far more than the numbers that are allowed.
const MAX_REPETITION: usize = 64;

/// After a `{`: whether `n}`, `n,}` or `n,m}` follows; any other brace is literal.
fn is_repetition(mut rest: Peekable<Chars<'_>>) -> Result<bool, NotRe2> {
    let mut closed = false;
    let inside: String = rest
        .by_ref()
        .take(MAX_REPETITION)
        .take_while(|c| {
            closed = *c == '}';
            !closed
        })
        .collect();
    if !closed && inside.len() < MAX_REPETITION {
        return Ok(false);
    }
    let (low, high) = inside.split_once(',').unwrap_or((&inside, "0"));
    let number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !number(low) || !(high.is_empty() || number(high)) {
        return Ok(false);
    }
    let small = |s: &str| s.is_empty() || s.parse::<u16>().is_ok_and(|n| n <= 1000);
    if small(low) && small(high) { Ok(true) } else { Err(NotRe2::Repetition) }
}

/// After a `(`: whether `?flags` that follow are RE2's.
fn flags(mut rest: Peekable<Chars<'_>>) -> Result<(), NotRe2> {
    if rest.next_if_eq(&'?').is_none() || matches!(rest.peek(), Some('P' | '<')) {
        return Ok(());
    }
    match rest.take_while(|c| !matches!(c, ':' | ')')).find(|c| !"imsU-".contains(*c)) {
        Some(c) => Err(NotRe2::Flag(c)),
        None => Ok(()),
    }
}

/// After a `[`: RE2 classes neither nest nor know set operations.
fn class(rest: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), NotRe2> {
    out.push('[');
    if rest.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    let mut first = true;
    loop {
        let c = rest.next().ok_or(NotRe2::OpenClass)?;
        if c == ']' && !first {
            out.push(']');
            return Ok(());
        }
        first = false;
        let low = class_atom(c, rest, out)?;
        if !is_range(rest.clone()) {
            continue;
        }
        let high = rest.nth(1).ok_or(NotRe2::OpenClass)?;
        out.push('-');
        if !low || !class_atom(high, rest, out)? {
            return Err(NotRe2::ClassRange);
        }
    }
}

/// Whether `-x` follows, as opposed to a `-` that ends the class.
fn is_range(mut rest: Peekable<Chars<'_>>) -> bool {
    rest.next() == Some('-') && rest.next().is_some_and(|c| c != ']')
}

/// One member of a class that begins with `c`; `false` when it is a set and no single character.
fn class_atom(c: char, rest: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<bool, NotRe2> {
    match c {
        '[' if rest.peek() == Some(&':') => {
            out.push('[');
            loop {
                let c = rest.next().ok_or(NotRe2::OpenClass)?;
                out.push(c);
                if c == ']' {
                    return Ok(false);
                }
            }
        }
        '\\' => {
            let c = rest.next().ok_or(NotRe2::OpenClass)?;
            if let Some(set) = perl_class(c) {
                out.push_str(set);
                return Ok(false);
            }
            escaped(c, out);
            match (c, rest.peek()) {
                ('x' | 'p' | 'P', Some('{')) => {
                    for c in rest.by_ref() {
                        out.push(c);
                        if c == '}' {
                            break;
                        }
                    }
                }
                ('x', Some(_)) => out.extend(rest.by_ref().take(2)),
                ('p' | 'P', Some(_)) => out.extend(rest.next()),
                _ => {}
            }
            Ok(!matches!(c, 'p' | 'P'))
        }
        _ => {
            literal(c, out);
            Ok(true)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Anchoring, Pattern};

    fn matches(pattern: &str, value: &str) -> bool {
        Pattern::compile(&pattern.into(), Anchoring::Whole).unwrap().is_match(value.as_bytes())
    }

    #[test]
    fn means_what_re2_means() {
        for (pattern, yes, no) in [
            (r"\d+", "12", "\u{0661}"),
            (r"\w", "a", "é"),
            (r"\W", "é", "a"),
            (r"[\w-]+", "a-b", "a.b"),
            (r"[^\d]", "é", "1"),
            (r"\s", " ", "\u{000B}"),
            (r".*\bfoo\b.*", "éfoo", "afoo"),
            (r"[[]", "[", "]"),
            (r"[]]", "]", "["),
            (r"[^]]", "[", "]"),
            (r"[a&&b]+", "a&b", "c"),
            (r"[a~~b]+", "~", "c"),
            (r"[a-c-]+", "b-", "d"),
            (r"[+--]", ",", "."),
            (r"[[:alpha:]1]+", "a1", "2"),
            (r"[\x41-\x{43}]", "B", "D"),
            (r"[\]x]", "]", "y"),
            (r"[\pL]", "é", "1"),
            (r"a{b}", "a{b}", "ab"),
            (r"a{,2}", "a{,2}", "aa"),
            (r"a{2}", "aa", "a"),
            (r"a{2", "a{2", "aa"),
            (r"a{2,", "a{2,", "aa"),
            (r"a{2,3", "a{2,3", "aa"),
            (r"[a-z]+{2/", "x{2/", "xx/"),
            (r"a{1,}", "aa", ""),
            (r"\<a\>", "<a>", "a"),
            (r"\Qa.b\E.", "a.bc", "axbc"),
            (r"\/a\-b", "/a-b", "/ab"),
            (r"(?i)abc", "ABC", "x"),
            (r"(?P<n>a)|b", "b", "c"),
            (r"(?i:a)b", "Ab", "aB"),
        ] {
            assert!(matches(pattern, yes), "{pattern} should match {yes}");
            assert!(!matches(pattern, no), "{pattern} should not match {no}");
        }
    }

    #[test]
    fn refuses_what_re2_refuses() {
        for (pattern, error) in [
            ("(?x)a", NotRe2::Flag('x')),
            ("(?=a)", NotRe2::Flag('=')),
            ("(?!a)", NotRe2::Flag('!')),
            ("a{1001}", NotRe2::Repetition),
            ("[a", NotRe2::OpenClass),
            (r"[a-\d]", NotRe2::ClassRange),
        ] {
            assert_eq!(translate(pattern), Err(error), "{pattern}");
        }
    }
}
