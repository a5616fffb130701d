//! When a request began, in text, without working a date out for every line.

use std::cell::Cell;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The end of the year 9999, as far as four digits go.
const LAST_SECOND: u64 = 253_402_300_799;
const SECOND_LENGTH: usize = "1970-01-01T00:00:00".len();
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// `2026-01-31T12:34:56.789Z`.
pub(super) fn write_iso(time: SystemTime, out: &mut Vec<u8>) {
    let since = since_epoch(time);
    let mut text = *b"1970-01-01T00:00:00.000Z";
    text[..SECOND_LENGTH].copy_from_slice(&second(since.as_secs()));
    let millis = since.subsec_millis();
    for (digit, unit) in text[SECOND_LENGTH + 1..].iter_mut().zip([100, 10, 1]) {
        *digit += (millis / unit % 10) as u8;
    }
    out.extend_from_slice(&text);
}

/// By a `strftime` format in UTC, with Envoy's `%1f` to `%9f` for fractions of the second and
/// `%s` for seconds since 1970. What is no conversion stays as it is.
pub(super) fn write_format(format: &str, time: SystemTime, out: &mut impl Write) -> std::io::Result<()> {
    let time = Utc::new(since_epoch(time));
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.write_all(&rest.as_bytes()[..at])?;
        let after = &rest[at + 1..];
        let digits = after.chars().next().and_then(|c| c.to_digit(10)).filter(|d| (1..=9).contains(d));
        rest = match (digits, after.as_bytes()) {
            (Some(n), [_, b'f', ..]) => {
                time.write_fraction(n, out)?;
                &after[2..]
            }
            (_, [c, ..]) if c.is_ascii() => {
                time.write_conversion(*c, out)?;
                &after[1..]
            }
            _ => {
                out.write_all(b"%")?;
                after
            }
        };
    }
    out.write_all(rest.as_bytes())
}

fn since_epoch(time: SystemTime) -> Duration {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::new(since.as_secs().min(LAST_SECOND), since.subsec_nanos())
}

/// The second in ISO 8601; the last one that this thread asked for is remembered.
fn second(seconds: u64) -> [u8; SECOND_LENGTH] {
    thread_local! {
        static LAST: Cell<(u64, [u8; SECOND_LENGTH])> = const { Cell::new((0, *b"1970-01-01T00:00:00")) };
    }
    let (last, mut text) = LAST.get();
    if last != seconds {
        let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds));
        // Longer than the text by the `Z`, which does not fit and is not wanted.
        let _ = write!(&mut text[..], "{time}");
        LAST.set((seconds, text));
    }
    text
}

/// A moment in UTC, taken apart.
struct Utc {
    since: Duration,
    text: [u8; SECOND_LENGTH],
}

impl Utc {
    fn new(since: Duration) -> Self {
        Utc { since, text: second(since.as_secs()) }
    }

    fn number(&self, range: std::ops::Range<usize>) -> usize {
        self.text[range].iter().fold(0, |n, digit| n * 10 + usize::from(digit - b'0'))
    }

    fn hour(&self) -> usize {
        self.number(11..13)
    }

    fn month_name(&self) -> &'static str {
        MONTHS[(self.number(5..7) + 11) % 12]
    }

    fn weekday(&self) -> usize {
        // 1970-01-01 was a Thursday.
        ((self.since.as_secs() / 86_400 + 4) % 7) as usize
    }

    fn day_of_year(&self) -> usize {
        let (year, month, day) = (self.number(0..4), self.number(5..7), self.number(8..10));
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        before[(month + 11) % 12] + day + usize::from(leap && month > 2)
    }

    fn write_fraction(&self, digits: u32, out: &mut impl Write) -> std::io::Result<()> {
        let value = self.since.subsec_nanos() / 10u32.pow(9 - digits);
        write!(out, "{value:0width$}", width = digits as usize)
    }

    fn write_conversion(&self, conversion: u8, out: &mut impl Write) -> std::io::Result<()> {
        match conversion {
            b'Y' => out.write_all(&self.text[..4]),
            b'y' => out.write_all(&self.text[2..4]),
            b'm' => out.write_all(&self.text[5..7]),
            b'd' => out.write_all(&self.text[8..10]),
            b'e' => write!(out, "{:2}", self.number(8..10)),
            b'H' => out.write_all(&self.text[11..13]),
            b'I' => write!(out, "{:02}", (self.hour() + 11) % 12 + 1),
            b'p' => out.write_all(if self.hour() < 12 { b"AM" } else { b"PM" }),
            b'M' => out.write_all(&self.text[14..16]),
            b'S' => out.write_all(&self.text[17..19]),
            b'F' => out.write_all(&self.text[..10]),
            b'T' => out.write_all(&self.text[11..19]),
            b'R' => out.write_all(&self.text[11..16]),
            b'D' => write_format("%m/%d/%y", UNIX_EPOCH + self.since, out),
            b'c' => write_format("%a %b %e %T %Y", UNIX_EPOCH + self.since, out),
            b'B' => out.write_all(self.month_name().as_bytes()),
            b'b' | b'h' => out.write_all(&self.month_name().as_bytes()[..3]),
            b'A' => out.write_all(DAYS[self.weekday()].as_bytes()),
            b'a' => out.write_all(&DAYS[self.weekday()].as_bytes()[..3]),
            b'u' => write!(out, "{}", (self.weekday() + 6) % 7 + 1),
            b'w' => write!(out, "{}", self.weekday()),
            b'j' => write!(out, "{:03}", self.day_of_year()),
            b's' => write!(out, "{}", self.since.as_secs()),
            b'f' => self.write_fraction(9, out),
            b'z' => out.write_all(b"+0000"),
            b'Z' => out.write_all(b"UTC"),
            b'n' | b't' => out.write_all(b" "),
            b'%' => out.write_all(b"%"),
            other => out.write_all(&[b'%', other]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, nanos: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, nanos)
    }

    #[test]
    fn iso_with_milliseconds() {
        let cases = [
            (at(0, 0), "1970-01-01T00:00:00.000Z"),
            (at(1_709_210_096, 789_999_999), "2024-02-29T12:34:56.789Z"),
            (at(1_709_210_096, 1_000_000), "2024-02-29T12:34:56.001Z"),
            (at(1_709_210_097, 0), "2024-02-29T12:34:57.000Z"),
            (at(LAST_SECOND + 9, 0), "9999-12-31T23:59:59.000Z"),
            (UNIX_EPOCH - Duration::from_secs(5), "1970-01-01T00:00:00.000Z"),
        ];
        for (time, expected) in cases {
            let mut out = Vec::new();
            write_iso(time, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn formats() {
        let cases = [
            ("%Y/%m/%dT%H:%M:%S%z %s", "2024/02/29T12:34:56+0000 1709210096"),
            ("%s.%3f %6f %9f %f", "1709210096.012 012345 012345678 012345678"),
            ("%d/%b/%Y:%T %Z", "29/Feb/2024:12:34:56 UTC"),
            ("%A %a %B %j %u %w %e %y", "Thursday Thu February 060 4 4 29 24"),
            ("%I%p %F %R %D", "12PM 2024-02-29 12:34 02/29/24"),
            ("%c", "Thu Feb 29 12:34:56 2024"),
            ("100%% %Q %é %", "100% %Q %é %"),
            ("", ""),
        ];
        for (format, expected) in cases {
            let mut out = Vec::new();
            write_format(format, at(1_709_210_096, 12_345_678), &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{format}");
        }
    }
}
