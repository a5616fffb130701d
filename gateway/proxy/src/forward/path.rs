//! The canonical form of a path: what is matched is what is forwarded. Istio's
//! `pathNormalization` with Envoy's results.

use std::borrow::Cow;
use tidegate_model::PathNormalization as Mode;

/// A path that has no canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unnormalizable;

/// Writes the canonical form of `path` to `out`, or leaves `out` empty where `path` is canonical
/// already, so that the usual path costs one look and no copy.
///
/// # Errors
/// When the path holds `%00`.
pub(crate) fn canonicalize(mode: Mode, path: &[u8], out: &mut Vec<u8>) -> Result<(), Unnormalizable> {
    out.clear();
    if mode == Mode::None || is_canonical(mode, path) {
        return Ok(());
    }
    resolve(path, mode >= Mode::DecodeAndMergeSlashes, out)?;
    if mode >= Mode::MergeSlashes {
        let mut last = 0;
        out.retain(|c| !(std::mem::replace(&mut last, *c) == b'/' && *c == b'/'));
    }
    if out == path {
        out.clear();
    }
    Ok(())
}

/// The canonical form of `path`, without query: what the routes of every request are asked with. `None` when it has
/// none and the request is answered with 400.
pub fn canonical_path(mode: Mode, path: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut out = Vec::new();
    canonicalize(mode, path, &mut out).ok()?;
    Some(if out.is_empty() { Cow::Borrowed(path) } else { Cow::Owned(out) })
}

/// Whether nothing in the path could change. May say no to a path that is canonical.
fn is_canonical(mode: Mode, path: &[u8]) -> bool {
    let [b'/', rest @ ..] = path else { return false };
    let merges = mode >= Mode::MergeSlashes;
    // all bytes, without a branch for each, so that they are looked at by vector instructions
    path.iter().zip(rest).fold(true, |canonical, (last, c)| {
        let dot = (*last == b'/') & ((*c == b'.') | (*c == b'/') & merges);
        canonical & (*c != b'%') & (*c != b'\\') & !dot
    })
}

/// Decodes unreserved characters, makes backslashes slashes and resolves dot segments
/// (RFC 3986 5.2.4). With `decode_slashes`, `%2F` and `%5C` are slashes too.
fn resolve(path: &[u8], decode_slashes: bool, out: &mut Vec<u8>) -> Result<(), Unnormalizable> {
    let mut rest = path.strip_prefix(b"/").unwrap_or(path);
    loop {
        let segment = out.len();
        out.push(b'/');
        // how many bytes of the segment were dots as sent, for `..;parameters`
        let dots = rest.iter().take_while(|c| **c == b'.').count();
        let with_parameters = matches!(dots, 1 | 2) && rest.get(dots) == Some(&b';');
        let (used, ended) = copy_segment(rest, decode_slashes, out)?;
        rest = &rest[used..];
        let up = match &out[segment + 1..] {
            b"." => Some(false),
            b".." => Some(true),
            _ if with_parameters => Some(dots == 2),
            _ => None,
        };
        if let Some(up) = up {
            out.truncate(segment);
            if up {
                out.truncate(out.iter().rposition(|c| *c == b'/').unwrap_or(0));
            }
            if ended {
                out.push(b'/');
            }
        }
        if ended {
            return Ok(());
        }
    }
}

/// Copies up to the next slash: how many bytes that took, and whether it was the last segment.
fn copy_segment(
    rest: &[u8],
    decode_slashes: bool,
    out: &mut Vec<u8>,
) -> Result<(usize, bool), Unnormalizable> {
    let mut i = 0;
    while let Some(c) = rest.get(i) {
        match c {
            b'/' | b'\\' => return Ok((i + 1, false)),
            b'%' => match rest.get(i + 1..i + 3).and_then(hex) {
                Some(0) => return Err(Unnormalizable),
                Some(b'/' | b'\\') if decode_slashes => return Ok((i + 3, false)),
                Some(d) if d.is_ascii_alphanumeric() || b"-._~".contains(&d) => {
                    out.push(d);
                    i += 3;
                }
                Some(_) => {
                    out.extend_from_slice(&rest[i..i + 3]);
                    i += 3;
                }
                None => {
                    // a stray percent sign stays, unless decoding what follows makes an escape of it
                    let escape = makes_escape(&rest[i + 1..]);
                    out.extend_from_slice(if escape { b"%25" } else { b"%" });
                    i += 1;
                }
            },
            c => {
                out.push(*c);
                i += 1;
            }
        }
    }
    Ok((i, true))
}

/// Whether the next two characters, decoded, are hexadecimal digits.
fn makes_escape(rest: &[u8]) -> bool {
    let mut i = 0;
    (0..2).all(|_| {
        let (c, used) = match rest[i..] {
            [b'%', a, b, ..] => (hex(&[a, b]).unwrap_or(b'%'), 3),
            [c, ..] => (c, 1),
            [] => (0, 0),
        };
        i += used;
        c.is_ascii_hexdigit()
    })
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |c: u8| char::from(c).to_digit(16);
    u8::try_from(digit(digits[0])? << 4 | digit(digits[1])?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(mode: Mode, path: &str) -> Result<String, Unnormalizable> {
        let mut out = Vec::new();
        canonicalize(mode, path.as_bytes(), &mut out)?;
        Ok(if out.is_empty() { path.to_string() } else { String::from_utf8(out).unwrap() })
    }

    #[test]
    fn canonical_forms() {
        // path, BASE, MERGE_SLASHES, DECODE_AND_MERGE_SLASHES
        for (path, base, merge, decode) in [
            ("/", "/", "/", "/"),
            ("/a/b.c/~d", "/a/b.c/~d", "/a/b.c/~d", "/a/b.c/~d"),
            ("/%%61dmin", "/%25admin", "/%25admin", "/%25admin"),
            ("/%zz/%2/%", "/%zz/%2/%", "/%zz/%2/%", "/%zz/%2/%"),
            ("/%2%66x", "/%252fx", "/%252fx", "/%252fx"),
            ("/%2561", "/%2561", "/%2561", "/%2561"),
            ("/%2Fadmin", "/%2Fadmin", "/%2Fadmin", "/admin"),
            ("/%2f%5cadmin", "/%2f%5cadmin", "/%2f%5cadmin", "/admin"),
            ("/%41%7e", "/A~", "/A~", "/A~"),
            ("/%2e%2e/admin", "/admin", "/admin", "/admin"),
            ("/%2e%2e;/admin", "/..;/admin", "/..;/admin", "/..;/admin"),
            ("/x/..;/..;/admin", "/admin", "/admin", "/admin"),
            ("/x/.;/admin", "/x/admin", "/x/admin", "/x/admin"),
            ("/;/admin;a=b", "/;/admin;a=b", "/;/admin;a=b", "/;/admin;a=b"),
            ("/../../admin", "/admin", "/admin", "/admin"),
            ("/.//admin", "//admin", "/admin", "/admin"),
            ("//x/..//admin", "///admin", "/admin", "/admin"),
            ("/x//../admin", "/x/admin", "/x/admin", "/x/admin"),
            ("/\\admin", "//admin", "/admin", "/admin"),
            ("/public\\..\\admin", "/admin", "/admin", "/admin"),
            ("/public/\\../admin", "/public/admin", "/public/admin", "/public/admin"),
            ("/a/secret/.", "/a/secret/", "/a/secret/", "/a/secret/"),
            ("/a/secret/x/..", "/a/secret/", "/a/secret/", "/a/secret/"),
            ("/public/..", "/", "/", "/"),
            ("/public/%3f/../../admin", "/admin", "/admin", "/admin"),
            ("/x%2f../admin", "/x%2f../admin", "/x%2f../admin", "/admin"),
            ("/x/..%5cadmin", "/x/..%5cadmin", "/x/..%5cadmin", "/admin"),
            ("/x/%2e%2e%3b/admin", "/x/..%3b/admin", "/x/..%3b/admin", "/x/..%3b/admin"),
            ("/users/1%2f2/admin", "/users/1%2f2/admin", "/users/1%2f2/admin", "/users/1/2/admin"),
            ("", "/", "/", "/"),
        ] {
            for (mode, expected) in [
                (Mode::None, path),
                (Mode::Base, base),
                (Mode::MergeSlashes, merge),
                (Mode::DecodeAndMergeSlashes, decode),
            ] {
                assert_eq!(canonical(mode, path).as_deref(), Ok(expected), "{mode:?} {path}");
            }
        }
        for path in ["/admin%00", "/a/..%00/b"] {
            assert_eq!(canonical(Mode::Base, path), Err(Unnormalizable));
            assert_eq!(canonical(Mode::None, path).as_deref(), Ok(path));
        }
    }

    proptest! {
        #[test]
        fn one_pass_is_enough_and_leaves_no_dot_segment(path in "(/|\\\\|\\.|;|a|%2e|%2f|%5C|%41|%|%25){0,12}") {
            let path = format!("/{path}");
            for mode in [Mode::Base, Mode::MergeSlashes] {
                let once = canonical(mode, &path).unwrap();
                prop_assert!(once.starts_with('/'));
                prop_assert!(!once.split('/').any(|s| s == "." || s == ".."), "{once}");
                prop_assert!(!once.contains('\\'));
                prop_assert!(mode == Mode::Base || !once.contains("//"));
            }
        }
    }
}
