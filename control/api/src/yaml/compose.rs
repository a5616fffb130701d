use super::input::Text;
use super::scalar::resolve;
use crate::value::{Data, Entry, Position, Value};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, Tag};
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};

/// Deepest nesting. Istio's own types are less than 20 deep.
const MAX_DEPTH: usize = 64;
/// Most values that anchors and aliases may copy in a file.
const MAX_COPIED: usize = 100_000;
/// Bytes of text that count as one more value.
const TEXT_OF_VALUE: usize = 32;

/// Why a text is no YAML that Kubernetes would take.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Invalid {
    pub(crate) at: Position,
    pub(crate) text: String,
    pub(crate) advice: String,
}

/// The documents of `text`, of which the first line is line `1 + lines_before`.
///
/// When a document is invalid, those before it are returned with the error.
/// `copied` counts over all parts of a file, so that many small documents are held to the bound of one.
pub(crate) fn compose(text: &str, lines_before: u32, copied: &Cell<usize>) -> (Vec<Value>, Option<Invalid>) {
    let mut composer = Composer {
        parser: Parser::new(Text::new(text)),
        lines_before,
        anchors: HashMap::new(),
        copied,
        text,
    };
    let mut documents = Vec::new();
    let error = composer.documents(&mut documents).err();
    (documents, error)
}

struct Composer<'t, 'c> {
    parser: Parser<'t, Text<'t>>,
    lines_before: u32,
    anchors: HashMap<usize, (Value, usize)>,
    copied: &'c Cell<usize>,
    text: &'t str,
}

impl<'t> Composer<'t, '_> {
    fn documents(&mut self, documents: &mut Vec<Value>) -> Result<(), Invalid> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::DocumentStart(_), _) => {
                    let first = self.next()?;
                    documents.push(self.value(first, 0)?.0);
                    self.anchors.clear();
                }
                _ => {}
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), Invalid> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.syntax(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn syntax(&self, error: &ScanError) -> Invalid {
        let mark = error.marker();
        let line = self.text.lines().nth(mark.line().saturating_sub(1)).unwrap_or("");
        let indent = &line[..line.len() - line.trim_start().len()];
        let advice = if indent.contains('\t') {
            "indent with spaces; YAML has no tabs there"
        } else {
            "check indentation, colons and quotes on this line and the one before"
        };
        Invalid {
            at: self.position(mark),
            text: format!("is not valid YAML: {}", error.info()),
            advice: advice.to_owned(),
        }
    }

    fn position(&self, mark: &Marker) -> Position {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Position {
            line: count(mark.line().max(1)).saturating_add(self.lines_before),
            column: count(mark.col()).saturating_add(1),
        }
    }

    /// The value that `event` starts, and how many values it is; a long text counts as several.
    fn value(&mut self, (event, span): (Event<'t>, Span), depth: usize) -> Result<(Value, usize), Invalid> {
        let at = self.position(&span.start);
        if depth > MAX_DEPTH {
            return Err(invalid(at, "is nested too deeply", format!("nest at most {MAX_DEPTH} levels")));
        }
        let (anchor, data, size) = match event {
            Event::Alias(anchor) => return self.alias(anchor, at),
            Event::Scalar(text, style, anchor, tag) => {
                let size = 1 + text.len() / TEXT_OF_VALUE;
                (anchor, scalar(text, style, tag.as_deref(), at)?, size)
            }
            Event::SequenceStart(anchor, tag) => {
                check_tag(tag.as_deref(), "seq", at)?;
                let (items, size) = self.items(depth)?;
                (anchor, Data::List(items), size)
            }
            Event::MappingStart(anchor, tag) => {
                check_tag(tag.as_deref(), "map", at)?;
                let (entries, size) = self.entries(depth)?;
                (anchor, Data::Map(entries), size)
            }
            _ => (0, Data::Null, 1),
        };
        let value = Value { at, data };
        if anchor > 0 {
            self.charge(size, at)?;
            self.anchors.insert(anchor, (value.clone(), size));
        }
        Ok((value, size))
    }

    fn items(&mut self, depth: usize) -> Result<(Vec<Value>, usize), Invalid> {
        let (mut items, mut size) = (Vec::new(), 1);
        loop {
            let next = self.next()?;
            if matches!(next.0, Event::SequenceEnd | Event::StreamEnd) {
                return Ok((items, size));
            }
            let (item, item_size) = self.value(next, depth + 1)?;
            items.push(item);
            size += item_size;
        }
    }

    fn entries(&mut self, depth: usize) -> Result<(Vec<Entry>, usize), Invalid> {
        let (mut entries, mut merged, mut size) = (Vec::new(), Vec::new(), 1);
        loop {
            let next = self.next()?;
            let at = self.position(&next.1.start);
            let (key, plain) = match next.0 {
                Event::MappingEnd | Event::StreamEnd => break,
                Event::Scalar(text, style, ..) => (text, style == ScalarStyle::Plain),
                _ => {
                    return Err(invalid(at, "has a key that is no text", "use plain text as key".to_owned()));
                }
            };
            let next = self.next()?;
            let (value, value_size) = self.value(next, depth + 1)?;
            size += value_size;
            if plain && key == "<<" {
                merged.extend(merge_sources(value, at)?);
            } else {
                entries.push(Entry { key: key.into_owned(), at, value });
            }
        }
        merge(&mut entries, merged);
        Ok((entries, size))
    }

    fn alias(&mut self, anchor: usize, at: Position) -> Result<(Value, usize), Invalid> {
        let Some((value, size)) = self.anchors.get(&anchor) else {
            return Err(invalid(at, "has an alias of something that contains it", "write it out".to_owned()));
        };
        let (mut value, size) = (value.clone(), *size);
        value.at = at;
        self.charge(size, at)?;
        Ok((value, size))
    }

    fn charge(&mut self, size: usize, at: Position) -> Result<(), Invalid> {
        self.copied.set(self.copied.get() + size);
        if self.copied.get() <= MAX_COPIED {
            return Ok(());
        }
        Err(invalid(
            at,
            "copies too much by anchors and aliases",
            "write it out, or use fewer of them".to_owned(),
        ))
    }
}

fn invalid(at: Position, text: &str, advice: String) -> Invalid {
    Invalid { at, text: text.to_owned(), advice }
}

/// What is written wins over what is merged, and what is merged first over the rest.
fn merge(entries: &mut Vec<Entry>, merged: Vec<Entry>) {
    if merged.is_empty() {
        return;
    }
    let mut keys: HashSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
    entries.extend(merged.into_iter().filter(|entry| keys.insert(entry.key.clone())));
}

fn merge_sources(value: Value, at: Position) -> Result<Vec<Entry>, Invalid> {
    let maps = match value.data {
        Data::List(items) => items,
        _ => vec![value],
    };
    let mut entries = Vec::new();
    for map in maps {
        match map.data {
            Data::Map(found) => entries.extend(found),
            _ => {
                return Err(invalid(
                    at,
                    "merges what is no mapping",
                    "merge an alias of a mapping".to_owned(),
                ));
            }
        }
    }
    Ok(entries)
}

fn core_tag(tag: &Tag) -> Option<&str> {
    tag.is_yaml_core_schema().then_some(tag.suffix.as_str())
}

fn check_tag(tag: Option<&Tag>, expected: &str, at: Position) -> Result<(), Invalid> {
    match tag {
        Some(tag) if core_tag(tag) != Some(expected) => Err(unknown_tag(at)),
        _ => Ok(()),
    }
}

fn unknown_tag(at: Position) -> Invalid {
    invalid(at, "has a tag that Kubernetes does not read", "remove the word that starts with '!'".to_owned())
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>, at: Position) -> Result<Data, Invalid> {
    match tag.map(core_tag) {
        None if style == ScalarStyle::Plain => Ok(resolve(&text)),
        None | Some(Some("str")) => Ok(Data::String(text.into_owned())),
        Some(Some("int" | "float" | "bool" | "null")) => Ok(resolve(&text)),
        Some(_) => Err(unknown_tag(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(text: &str) -> String {
        let (documents, error) = compose(text, 0, &Cell::default());
        assert_eq!(error, None, "{text}");
        serde_json::to_string(&documents).unwrap()
    }

    #[test]
    fn yaml_as_json() {
        let cases = [
            ("a: {b: [1, \"2\", x, ~, yes]}", r#"[{"a":{"b":[1,"2","x",null,true]}}]"#),
            ("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}", r#"[{"a":{"p":1,"q":2},"b":{"q":3,"p":1}}]"#),
            ("a: !!str 80\nb: !!int \"80\"\nc: '80'\n80: d", r#"[{"a":"80","b":80,"c":"80","80":"d"}]"#),
            ("{\n\t\"a\": \"\\u0041\\/\",\n\t\"b\": [1.5, true]\n}", r#"[{"a":"A/","b":[1.5,true]}]"#),
            ("a: |\n  x\n  y\nb: >-\n  x\n  y\n", r#"[{"a":"x\ny\n","b":"x y"}]"#),
            ("a: 1\n...\n---\n", r#"[{"a":1},null]"#),
            // where a plain scalar ends, as Kubernetes reads it
            ("a: [1.2.3.4, 2001:db8::]", r#"[{"a":["1.2.3.4","2001:db8::"]}]"#),
            ("a: [2001:db8::, 1.2.3.4]", r#"[{"a":["2001:db8::","1.2.3.4"]}]"#),
            ("a: {b: 2001:db8::, c: d:}", r#"[{"a":{"b":"2001:db8::","c":"d:"}}]"#),
            ("a: [a: b, c: ]", r#"[{"a":[{"a":"b"},{"c":null}]}]"#),
            ("a: [\n  a:\n  , b]", r#"[{"a":[{"a":null},"b"]}]"#),
            ("a: [a:, a :, a::b]", r#"[{"a":["a:","a :","a::b"]}]"#),
            ("a: {a:, b:c}", r#"[{"a":{"a:":null,"b:c":null}}]"#),
            ("a: {\"a\":, \"b\":1}", r#"[{"a":{"a":null,"b":1}}]"#),
            ("a: [\"a\":, \"b\" :c]", r#"[{"a":[{"a":null},{"b":"c"}]}]"#),
        ];
        for (text, expected) in cases {
            assert_eq!(json(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_refused() {
        let bomb = (1..12).fold("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, i| {
            let alias = format!("*a{}", i - 1);
            format!("{text}a{i}: &a{i} [{}]\n", vec![alias; 10].join(", "))
        });
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        let cases = [
            ("a: [1\nb: 2\n", 2, "is not valid YAML"),
            ("a:\n\tb: 1\n", 2, "is not valid YAML"),
            ("a: &x [*x]", 1, "alias of something"),
            ("a: !Ref x", 1, "tag"),
            ("a: !!binary x", 1, "tag"),
            ("? [a]\n: b", 1, "key that is no text"),
            ("a: *nowhere", 1, "is not valid YAML"),
            ("<<: 1", 1, "merges what is no mapping"),
            ("a: {b:[1]}", 1, "is not valid YAML"),
            ("a: [b:{c: d}]", 1, "is not valid YAML"),
            (&*bomb, 5, "copies too much"),
            (&*deep, 1, "nested too deeply"),
        ];
        for (text, line, expected) in cases {
            let error = compose(text, 10, &Cell::default()).1.unwrap_or_else(|| panic!("{text} is taken"));
            assert!(error.text.contains(expected), "{text}: {}", error.text);
            assert_eq!(error.at.line, line + 10, "{text}: {}", error.text);
            assert!(!error.advice.is_empty());
        }
    }

    #[test]
    fn long_texts_and_many_documents_are_no_way_around_the_bound() {
        let aliases =
            |text: usize, n: usize| format!("a: &a {}\nb: [{}]\n", "x".repeat(text), "*a, ".repeat(n));
        let copied = Cell::default();
        assert_eq!(compose(&aliases(1, 60_000), 0, &copied).1, None);
        for (text, copied) in [(aliases(1 << 20, 10), &Cell::default()), (aliases(1, 60_000), &copied)] {
            let error = compose(&text, 0, copied).1.expect("too much is copied");
            assert!(error.text.contains("copies too much"), "{}", error.text);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in any::<String>()) {
            compose(&text, 0, &Cell::default());
        }

        #[test]
        fn any_punctuation_is_taken(text in r#"[-a:\[\]{},&*!|>'"%#? \n\t\r.<0]{0,80}"#) {
            compose(&text, 0, &Cell::default());
        }
    }
}
