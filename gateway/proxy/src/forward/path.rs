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

/// Whether everyone reads a target's path as it is read here, up to dot segments and encoded letters. `target` is as
/// it was sent.
pub(crate) fn is_plain_path(target: &[u8]) -> bool {
    ambiguity(target).is_none()
}

/// What of a target's path some server may read otherwise than it is read here. `target` is as it was sent.
pub fn ambiguity(target: &[u8]) -> Option<&'static str> {
    let path = target.split(|c| *c == b'?').next().unwrap_or_default();
    if path == b"*" {
        return None;
    }
    let odd = |c: &u8| match c {
        b'\\' => Some("a backslash"),
        b';' => Some("a `;`"),
        b'#' => Some("a `#`"),
        0..=b' ' | 0x7f => Some("a space or a control character"),
        _ => None,
    };
    match path {
        [b'/', ..] if path.windows(2).any(|two| two == b"//") => Some("repeated slashes"),
        [b'/', ..] => path.iter().find_map(odd).or_else(|| {
            let escapes =
                "an escape of a slash, a backslash, a control character or another escape, or a broken one";
            (!has_plain_escapes(path)).then_some(escapes)
        }),
        _ => Some("no slash at its beginning"),
    }
}

/// Whether each percent sign begins an escape, of nothing that delimits or controls, nor of another escape, nor of what
/// is no UTF-8 for more than one reason: a character in more bytes than it takes.
fn has_plain_escapes(path: &[u8]) -> bool {
    let mut rest = path;
    let mut last = None;
    while let Some(at) = rest.iter().position(|c| *c == b'%') {
        let Some(decoded) = rest.get(at + 1..at + 3).and_then(hex) else { return false };
        let behind = &rest[at + 3..];
        let before = last.filter(|_| at == 0);
        let is_plain = match decoded {
            b'/' | b'\\' | 0..=0x1f | 0x7f | 0xc0 | 0xc1 => false,
            b'%' => behind.get(..2).is_none_or(|two| hex(two).is_none()),
            0x80..=0x9f => before != Some(0xe0) && (before != Some(0xf0) || decoded > 0x8f),
            _ => true,
        };
        if !is_plain {
            return false;
        }
        last = Some(decoded);
        rest = behind;
    }
    true
}

/// Whether a path has a segment `.` or `..` for who reads it in this mode, escaped or not. A rewrite must not bring back
/// what normalisation took away.
pub(crate) fn has_dot_segment(mode: Mode, path: &[u8]) -> bool {
    if mode == Mode::None {
        return false;
    }
    let decodes = mode >= Mode::DecodeAndMergeSlashes;
    let mut read = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((c, behind)) = rest.split_first() {
        let escaped = behind.get(..2).filter(|_| *c == b'%').and_then(hex);
        let (c, used) = match escaped {
            Some(b'.') => (b'.', 3),
            Some(b'/' | b'\\') if decodes => (b'/', 3),
            _ if *c == b'\\' => (b'/', 1),
            _ => (*c, 1),
        };
        read.push(c);
        rest = &rest[used..];
    }
    let mut segments = read.split(|c| *c == b'/');
    segments.any(|s| matches!(s.split(|c| *c == b';').next(), Some(b"." | b"..")))
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

    #[test]
    fn plain_paths() {
        for path in [
            "/",
            "*",
            "/a/b.c/~d",
            "/x/../a",
            "/x/%2e%2e/a",
            "/%41",
            "/a%20b",
            "/a%ff",
            "/a%ef%bc%8f",
            "/%3b",
            "/a'+:x",
            "/a?x=//;%2f",
            "/100%25",
            "/a%25zz",
        ] {
            assert!(is_plain_path(path.as_bytes()), "{path}");
        }
        for path in [
            "",
            "a",
            "http://a/b",
            "//",
            "/a//b",
            "/%2f",
            "/%2F",
            "/%5c",
            "/a\\b",
            "/;a",
            "/a#b",
            "/a b",
            "/%",
            "/%2",
            "/%zz",
            "/%00",
            "/%0a",
            "/%09",
            "/%7f",
            "/%2561",
            "/%252f",
            "/%c0%af",
            "/%c1%9c",
            "/%e0%80%af",
            "/%f0%80%80%af",
            "/%uff0e",
        ] {
            assert!(!is_plain_path(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn dot_segments_are_seen_as_they_are_read() {
        for (path, base, decode) in [
            ("/a/b", false, false),
            ("/a/..b/...", false, false),
            ("/a/../b", true, true),
            ("/a/.", true, true),
            ("/a/%2e%2E/b", true, true),
            ("/a/.%2e", true, true),
            ("/a\\..\\b", true, true),
            ("/a/..;x/b", true, true),
            ("/a/..%2fb", false, true),
            ("/a%5c..", false, true),
            ("", false, false),
        ] {
            assert_eq!(has_dot_segment(Mode::Base, path.as_bytes()), base, "{path}");
            assert_eq!(has_dot_segment(Mode::DecodeAndMergeSlashes, path.as_bytes()), decode, "{path}");
            assert!(!has_dot_segment(Mode::None, path.as_bytes()));
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
