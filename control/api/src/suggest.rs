/// The name of `known` that `written` was most likely meant to be.
pub(crate) fn nearest<'k>(written: &str, known: &[&'k str]) -> Option<&'k str> {
    let written: Vec<char> = written.chars().filter(|c| !matches!(c, '_' | '-')).take(64).collect();
    let limit = 1 + written.len() / 4;
    let near = known.iter().map(|name| (distance(&written, name), *name));
    near.filter(|(d, _)| *d <= limit).min_by_key(|(d, _)| *d).map(|(_, name)| name)
}

/// Edits (insert, remove, replace, swap of neighbours) between two names, in any case.
fn distance(a: &[char], b: &str) -> usize {
    let lower = |c: &char| c.to_ascii_lowercase();
    let a: Vec<char> = a.iter().map(lower).collect();
    let b: Vec<char> = b.chars().filter(|c| !matches!(c, '_' | '-')).map(|c| lower(&c)).collect();
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1; b.len() + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            row[j + 1] = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// `a, b and c`, cut after twelve.
pub(crate) fn list(names: &[&str]) -> String {
    const MOST: usize = 12;
    match names {
        [] => "nothing".to_owned(),
        [one] => (*one).to_owned(),
        _ if names.len() > MOST => format!("{} and {} more", names[..MOST].join(", "), names.len() - MOST),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// `1 other`, `2 others`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names() {
        let known = ["exact", "prefix", "regex", "timeout", "perTryTimeout", "hosts"];
        let cases = [
            ("exat", Some("exact")),
            ("per_try_timeout", Some("perTryTimeout")),
            ("host", Some("hosts")),
            ("timeuot", Some("timeout")),
            ("Regex", Some("regex")),
            ("somethingElse", None),
            ("", None),
        ];
        for (written, expected) in cases {
            assert_eq!(nearest(written, &known), expected, "{written}");
        }
    }

    #[test]
    fn lists() {
        assert_eq!(list(&["a"]), "a");
        assert_eq!(list(&["a", "b", "c"]), "a, b and c");
        assert!(list(&["x"; 14]).ends_with(" and 2 more"));
    }
}
