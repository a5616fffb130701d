use std::time::Duration;

/// Why a text is no duration, said as what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// It does not have the form of one.
    #[error("write numbers with units, such as 1.5s, 100ms or 1h30m (units: ns, us, ms, s, m, h)")]
    Malformed,
    /// A number stands without its unit.
    #[error("add a unit, such as s or ms")]
    NoUnit,
    /// It is below zero.
    #[error("a duration here cannot be negative")]
    Negative,
    /// It is more than 292 years, the most that Go and Istio can hold.
    #[error("use less than 292 years")]
    TooLong,
}

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// A duration as Go and Istio write it: `1.5s`, `100ms`, `1h30m`, `0`.
///
/// # Errors
/// [`InvalidDuration`] says what to write instead.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(InvalidDuration::Malformed);
    }
    let mut nanos: u64 = 0;
    while !rest.is_empty() {
        let (part, after) = part(rest)?;
        nanos = nanos
            .checked_add(part)
            .filter(|n| *n <= i64::MAX.unsigned_abs())
            .ok_or(InvalidDuration::TooLong)?;
        rest = after;
    }
    if negative && nanos > 0 { Err(InvalidDuration::Negative) } else { Ok(Duration::from_nanos(nanos)) }
}

/// One number with its unit, in nanoseconds, and the text after it.
fn part(text: &str) -> Result<(u64, &str), InvalidDuration> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(InvalidDuration::NoUnit)?;
    let (number, rest) = text.split_at(end);
    let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    let scale = UNITS.iter().find(|(name, _)| *name == unit).ok_or(InvalidDuration::Malformed)?.1;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(InvalidDuration::Malformed);
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| InvalidDuration::TooLong)? };
    let mut nanos = scale.checked_mul(whole).ok_or(InvalidDuration::TooLong)?;
    let mut place = scale;
    for digit in fraction.bytes().take(13) {
        place /= 10;
        nanos = nanos.saturating_add(place * u64::from(digit - b'0'));
    }
    Ok((nanos, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        use InvalidDuration::{Malformed, Negative, NoUnit, TooLong};
        let cases = [
            ("1.5s", Ok(1_500_000_000)),
            ("100ms", Ok(100_000_000)),
            ("1h30m", Ok(5_400_000_000_000)),
            ("0", Ok(0)),
            ("0s", Ok(0)),
            ("+2us", Ok(2_000)),
            ("2\u{b5}s", Ok(2_000)),
            (".5s", Ok(500_000_000)),
            ("1.s", Ok(1_000_000_000)),
            ("0.000000001s", Ok(1)),
            ("10", Err(NoUnit)),
            ("", Err(Malformed)),
            ("-", Err(Malformed)),
            (".s", Err(Malformed)),
            ("1..5s", Err(Malformed)),
            ("5 s", Err(Malformed)),
            ("5sec", Err(Malformed)),
            ("s", Err(Malformed)),
            ("-1s", Err(Negative)),
            ("9999999999h", Err(TooLong)),
            ("99999999999999999999s", Err(TooLong)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected.map(Duration::from_nanos), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn any_number_of_milliseconds_comes_back(ms in 0u32..) {
            prop_assert_eq!(parse(&format!("{ms}ms")), Ok(Duration::from_millis(ms.into())));
        }
    }
}
