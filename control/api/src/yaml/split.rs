/// Cuts a stream into parts that can be parsed one by one, so that a syntax error in one costs the others nothing.
/// Each comes with the number of lines before it.
///
/// `---` at the start of a line is a document marker wherever it stands: YAML forbids it inside any scalar
/// (YAML 1.2, rule c-forbidden). A part may still be several documents, such as empty ones.
pub(crate) fn split(text: &str) -> Vec<(u32, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parts = Vec::new();
    let (mut start, mut start_line) = (0, 0);
    let (mut offset, mut content) = (0, false);
    for (line, number) in text.split_inclusive('\n').zip(0..) {
        let marker = is_marker(line);
        if marker && content {
            parts.push((start_line, &text[start..offset]));
            (start, start_line, content) = (offset, number, false);
        }
        let rest = if marker { &line[3..] } else { line }.trim();
        // Directives and comments belong to the document that follows.
        content |= !rest.is_empty() && !rest.starts_with('#') && !line.starts_with('%');
        offset += line.len();
    }
    if content {
        parts.push((start_line, &text[start..]));
    }
    parts
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_of_a_stream() {
        let cases: [(&str, &[(u32, &str)]); 9] = [
            ("", &[]),
            ("# nothing\n---\n\n", &[]),
            ("a: 1\n---\nb: 2\n", &[(0, "a: 1\n"), (2 - 1, "---\nb: 2\n")]),
            ("---\n# c\n---\na: 1", &[(0, "---\n# c\n---\na: 1")]),
            ("%YAML 1.2\n---\na: 1\n", &[(0, "%YAML 1.2\n---\na: 1\n")]),
            ("a: |\n  ---\n  x\n--- # c\r\nb: 1", &[(0, "a: |\n  ---\n  x\n"), (3, "--- # c\r\nb: 1")]),
            ("a: ---x\n---x: 1\n", &[(0, "a: ---x\n---x: 1\n")]),
            ("--- {a: 1}\n--- {b: 2}", &[(0, "--- {a: 1}\n"), (1, "--- {b: 2}")]),
            ("\u{feff}a: 1", &[(0, "a: 1")]),
        ];
        for (text, expected) in cases {
            assert_eq!(split(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost(lines in prop::collection::vec("(---|a: 1|# c|%x|\\.\\.\\.|  ---|)", 0..20)) {
            let text = lines.join("\n");
            let kept: usize = split(&text).iter().map(|(_, part)| part.matches("a: 1").count()).sum();
            prop_assert_eq!(kept, text.matches("a: 1").count());
            for (line, part) in split(&text) {
                prop_assert_eq!(text.lines().nth(line as usize), part.lines().next());
            }
        }
    }
}
