use crate::value::Data;

/// Whether a plain scalar of this text is a string.
pub(crate) fn is_text(text: &str) -> bool {
    matches!(resolve(text), Data::String(_))
}

/// What a plain scalar is. Kubernetes reads YAML 1.1, where `yes`, `on` and `0777` are no strings.
pub(super) fn resolve(text: &str) -> Data {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Data::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Data::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Data::Bool(false);
        }
        _ => {}
    }
    number(text).unwrap_or_else(|| Data::String(text.to_owned()))
}

fn number(text: &str) -> Option<Data> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    match unsigned {
        ".inf" | ".Inf" | ".INF" => {
            let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
            return Some(Data::Float(f64::INFINITY * sign));
        }
        ".nan" | ".NaN" | ".NAN" => return Some(Data::Float(f64::NAN)),
        _ => {}
    }
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let plain = text.replace('_', "");
    integer(&plain).map(Data::Integer).or_else(|| float(&plain).map(Data::Float))
}

fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // A second sign after the prefix is no number.
    digits.starts_with(|c: char| c.is_ascii_hexdigit()).then_some(())?;
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

fn float(text: &str) -> Option<f64> {
    let shaped = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    let number: f64 = if shaped { text.parse().ok()? } else { return None };
    number.is_finite().then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_as_kubernetes_reads_them() {
        let text = |t: &str| Data::String(t.to_owned());
        let cases = [
            ("yes", Data::Bool(true)),
            ("off", Data::Bool(false)),
            ("", Data::Null),
            ("~", Data::Null),
            ("80", Data::Integer(80)),
            ("-1", Data::Integer(-1)),
            ("0777", Data::Integer(0o777)),
            ("0x1F", Data::Integer(31)),
            ("0b101", Data::Integer(5)),
            ("1_000", Data::Integer(1000)),
            ("1.10", Data::Float(1.1)),
            ("1e3", Data::Float(1000.0)),
            (".5", Data::Float(0.5)),
            ("18446744073709551616", Data::Float(18_446_744_073_709_551_616.0)),
            ("08", Data::Float(8.0)),
            ("v1", text("v1")),
            ("1.2.3", text("1.2.3")),
            ("10s", text("10s")),
            ("2024-01-01", text("2024-01-01")),
            ("1-2", text("1-2")),
            ("0x-1", text("0x-1")),
            ("--1", text("--1")),
            ("-", text("-")),
            (".", text(".")),
            ("10.0.0.1", text("10.0.0.1")),
            ("1:20", text("1:20")),
            ("infinity", text("infinity")),
        ];
        for (written, expected) in cases {
            assert!(resolve(written) == expected, "{written:?}");
        }
    }
}
