//! Escaping of what clients, upstreams and users wrote, so that a request is always one line.

use crate::scan::is_plain;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// For text: quotes, backslashes, control bytes and everything that is not ASCII become `\xNN`.
pub(super) fn text(value: &[u8], out: &mut Vec<u8>) {
    if is_plain(value) {
        return out.extend_from_slice(value);
    }
    for &byte in value {
        match byte {
            b'"' | b'\\' | 0..=0x1f | 0x7f.. => push_hex(byte, out),
            _ => out.push(byte),
        }
    }
}

/// For text that stands between blanks without quotes: as [`text`], and its own blanks become underscores.
pub(super) fn bare(value: &[u8], out: &mut Vec<u8>) {
    let begin = out.len();
    text(value, out);
    out[begin..].iter_mut().filter(|b| **b == b' ').for_each(|b| *b = b'_');
}

/// For the inside of a JSON string. Bytes that are not UTF-8 become the text `\xNN`; besides what
/// JSON demands, whatever anyone takes for a line break or a control is escaped.
pub(super) fn json(value: &[u8], out: &mut Vec<u8>) {
    if is_plain(value) {
        out.extend_from_slice(value);
        return;
    }
    for chunk in value.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => out.extend([b'\\', c as u8]),
                '\n' => out.extend(b"\\n"),
                '\r' => out.extend(b"\\r"),
                '\t' => out.extend(b"\\t"),
                c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => push_unicode(c, out),
                c => out.extend(c.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        for &byte in chunk.invalid() {
            out.push(b'\\');
            push_hex(byte, out);
        }
    }
}

/// For the value of a header: bytes that no field may have are left out.
pub(super) fn header(value: &[u8], out: &mut Vec<u8>) {
    out.extend(value.iter().filter(|b| !matches!(b, 0..=0x08 | 0x0a..=0x1f | 0x7f)));
}

fn push_hex(byte: u8, out: &mut Vec<u8>) {
    out.extend([b'\\', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
}

/// Of the basic plane, which all that is escaped here is in.
fn push_unicode(c: char, out: &mut Vec<u8>) {
    out.extend(b"\\u");
    out.extend([12, 8, 4, 0].map(|shift| HEX[(c as usize >> shift) & 15]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_cases() {
        let cases: &[(&[u8], &str)] = &[
            (b"plain /path?a=b&c", "plain /path?a=b&c"),
            (b"a\"b\\c", "a\\x22b\\x5cc"),
            (b"\r\n\0\x7f", "\\x0d\\x0a\\x00\\x7f"),
            ("é".as_bytes(), "\\xc3\\xa9"),
        ];
        for (value, expected) in cases {
            let mut out = Vec::new();
            text(value, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), *expected);
        }
        let mut out = Vec::new();
        bare(b"a b\"", &mut out);
        assert_eq!(out, b"a_b\\x22");
    }

    #[test]
    fn json_cases() {
        let cases: &[(&[u8], &str)] = &[
            (b"a\"b\\c\n\x01", r#"a\"b\\c\n\u0001"#),
            ("é\u{2028}\u{85}\u{7f}😀".as_bytes(), "é\\u2028\\u0085\\u007f😀"),
            (b"\xff\xc3", r"\\xff\\xc3"),
        ];
        for (value, expected) in cases {
            let mut out = Vec::new();
            json(value, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), *expected);
        }
    }

    #[test]
    fn header_values_hold_no_controls() {
        let mut out = Vec::new();
        header(b"a\r\nSet-Cookie: x\0\tb\x7f\xc3", &mut out);
        assert_eq!(out, b"aSet-Cookie: x\tb\xc3");
    }

    proptest! {
        #[test]
        fn text_is_printable_ascii(value: Vec<u8>) {
            let (mut quoted, mut columns) = (Vec::new(), Vec::new());
            text(&value, &mut quoted);
            bare(&value, &mut columns);
            prop_assert!(quoted.iter().all(|b| (0x20..0x7f).contains(b) && *b != b'"'));
            prop_assert_eq!(columns, quoted.iter().map(|b| if *b == b' ' { b'_' } else { *b }).collect::<Vec<_>>());
        }

        #[test]
        fn json_reads_back(value: Vec<u8>) {
            let mut out = vec![b'"'];
            json(&value, &mut out);
            out.push(b'"');
            let read: String = serde_json::from_slice(&out).unwrap();
            if let Ok(written) = std::str::from_utf8(&value) {
                prop_assert_eq!(read, written);
            }
        }
    }
}
