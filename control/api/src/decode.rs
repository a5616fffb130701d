//! From a [`Value`] to the types of the API, reporting everything that is wrong with it and not only the first.

use crate::field::{self, Segment};
use crate::suggest;
use crate::value::{Data, Entry, Position, Value};
use std::collections::BTreeMap;
use std::time::Duration;
use tidegate_model::Severity;

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Problem {
    pub(crate) severity: Severity,
    pub(crate) at: Position,
    pub(crate) field: String,
    pub(crate) text: String,
    pub(crate) advice: String,
    pub(crate) code: &'static str,
}

/// A type that can be read from a [`Value`].
pub(crate) trait Decode: Sized {
    /// What the field is when it was not written; `None` for one that must be.
    fn absent() -> Option<Self> {
        None
    }

    /// The value, or `None` once what is wrong has been reported to `at`.
    fn decode<'a>(value: &'a Value, at: &mut Decoder<'a>) -> Option<Self>;
}

/// What a field that the type does not have means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// It is reported when it looks like one that there is: newer versions of the type have more fields.
    Doubt,
    /// It is reported and has no effect.
    Warn,
    /// The object is refused.
    Refuse,
}

/// Where decoding stands, and what it found wrong so far.
pub(crate) struct Decoder<'a> {
    path: Vec<Segment<'a>>,
    at: Position,
    unknown: Unknown,
    /// Values must not be quoted in messages.
    secret: bool,
    pub(crate) problems: Vec<Problem>,
}

impl<'a> Decoder<'a> {
    /// For an object that starts at `at`.
    pub(crate) fn new(at: Position, unknown: Unknown, secret: bool) -> Self {
        Decoder { path: Vec::new(), at, unknown, secret, problems: Vec::new() }
    }

    /// The value at `path` of the object, which stands at `at`.
    pub(crate) fn root<T: Decode>(&mut self, path: &[&'a str], at: Position, value: &'a Value) -> Option<T> {
        match path {
            [] => T::decode(value, self),
            [key, rest @ ..] => {
                self.within(Segment::Key((*key).into()), at, |inner| inner.root(rest, at, value))
            }
        }
    }

    /// What `inner` decodes, with another answer to fields that are unknown.
    pub(crate) fn with_unknown<R>(&mut self, unknown: Unknown, inner: impl FnOnce(&mut Self) -> R) -> R {
        let outer = std::mem::replace(&mut self.unknown, unknown);
        let result = inner(self);
        self.unknown = outer;
        result
    }

    /// Reports an error at a field of `object`.
    pub(crate) fn error_at(
        &mut self,
        object: &Value,
        path: &[&str],
        code: &'static str,
        text: &str,
        advice: &str,
    ) {
        let segments: Vec<_> = path.iter().map(|key| Segment::Key((*key).into())).collect();
        let field = field::path(&segments);
        let at = object.locate(&field);
        let (text, advice) = (text.to_owned(), advice.to_owned());
        self.problems.push(Problem { severity: Severity::Error, at, field, text, advice, code });
    }

    pub(crate) fn error(&mut self, code: &'static str, text: String, advice: String) {
        self.report(Severity::Error, code, text, advice);
    }

    fn report(&mut self, severity: Severity, code: &'static str, text: String, advice: String) {
        let field = field::path(&self.path);
        self.problems.push(Problem { severity, at: self.at, field, text, advice, code });
    }

    pub(crate) fn wrong_type<T>(&mut self, expected: &str, value: &Value) -> Option<T> {
        let advice = match (&value.data, expected) {
            (Data::String(text), "a whole number" | "a number" | "true or false")
                if !crate::yaml::is_text(text) =>
            {
                "remove the quotes".to_owned()
            }
            (Data::Integer(_) | Data::Float(_) | Data::Bool(_), "a string") => "put it in quotes".to_owned(),
            (Data::Map(entries), "a string") if matches!(entries.as_slice(), [e] if e.value.is_null()) => {
                "put it in quotes, because of its ':'".to_owned()
            }
            (Data::List(_), _) => format!("write {expected} without a leading '-'"),
            (_, "a list") => "write each item on a line of its own with a leading '- '".to_owned(),
            _ => format!("write {expected}"),
        };
        self.error("wrong-type", format!("must be {expected}, not {}", value.describe()), advice);
        None
    }

    /// The entries of a mapping, after reporting those that `known` does not name.
    pub(crate) fn map(&mut self, value: &'a Value, known: &[&str]) -> Option<&'a [Entry]> {
        let Data::Map(entries) = &value.data else { return self.wrong_type("a mapping", value) };
        if !known.contains(&"*") {
            for entry in entries.iter().filter(|e| !known.contains(&e.key.as_str())) {
                self.unknown_field(entry, known);
            }
        }
        Some(entries)
    }

    fn unknown_field(&mut self, entry: &'a Entry, known: &[&str]) {
        let advice = match suggest::nearest(&entry.key, known) {
            Some(name) => format!("did you mean {name}?"),
            None if self.unknown == Unknown::Doubt => return,
            None => format!("remove it, or use one of {}", suggest::list(known)),
        };
        let severity = match self.unknown {
            Unknown::Refuse => Severity::Error,
            _ => Severity::Warning,
        };
        self.within(Segment::Key(entry.key.as_str().into()), entry.at, |at| {
            at.report(severity, "unknown-field", "there is no such field".to_owned(), advice);
        });
    }

    pub(crate) fn within<R>(
        &mut self,
        segment: Segment<'a>,
        at: Position,
        inner: impl FnOnce(&mut Self) -> R,
    ) -> R {
        let outer = std::mem::replace(&mut self.at, at);
        self.path.push(segment);
        let result = inner(self);
        self.path.pop();
        self.at = outer;
        result
    }

    /// The field that goes by one of `names`.
    pub(crate) fn field<T: Decode>(&mut self, entries: &'a [Entry], names: &[&'static str]) -> Option<T> {
        let written = entries.iter().rev().find(|e| names.contains(&e.key.as_str()) && !e.value.is_null());
        if let Some(entry) = written {
            return self
                .within(Segment::Key(entry.key.as_str().into()), entry.at, |at| T::decode(&entry.value, at));
        }
        let absent = T::absent();
        if absent.is_none() {
            self.missing(names[0]);
        }
        absent
    }

    fn missing(&mut self, name: &'static str) {
        let here = self.at;
        self.within(Segment::Key(name.into()), here, |at| {
            at.error("missing-field", "is missing".to_owned(), format!("add {name}, which is required here"));
        });
    }

    /// Reports which of `names` were not written.
    pub(crate) fn required(&mut self, entries: &[Entry], names: &[&'static str]) {
        for name in names {
            if !entries.iter().any(|entry| entry.key == *name && !entry.value.is_null()) {
                self.missing(name);
            }
        }
    }

    /// Reports when more than one of `names` was written.
    pub(crate) fn one_of(&mut self, entries: &[Entry], names: &[&str]) {
        let written: Vec<&str> = entries
            .iter()
            .filter(|e| !e.value.is_null() && names.contains(&e.key.as_str()))
            .map(|e| e.key.as_str())
            .collect();
        if written.len() > 1 {
            let text = format!("only one of {} may be set", suggest::list(&written));
            self.error("one-of", text, "keep the one that is meant".to_owned());
        }
    }

    /// A string as it may be shown in a message.
    pub(crate) fn quoted(&self, text: &str) -> String {
        let shown: String = text.chars().take(60).filter(|c| !c.is_control()).collect();
        let more = if text.chars().nth(60).is_some() { "..." } else { "" };
        if self.secret || self.is_secret_field() {
            "the value".to_owned()
        } else {
            format!("{shown:?}{more}")
        }
    }

    fn is_secret_field(&self) -> bool {
        self.path.iter().any(|segment| match segment {
            Segment::Key(key) => is_secret_name(key),
            Segment::Index(_) => false,
        })
    }
}

/// Whether a field of this name may hold key material.
pub(crate) fn is_secret_name(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["privatekey", "secret", "token", "password", "authorization", "cookie", "apikey"]
        .iter()
        .any(|word| key.contains(word))
}

/// Declares structs with the names that their fields have in YAML, and how they are decoded. `= default` is for one that
/// may be left out without an `Option`, `required` names lists that may not, `one_of` names fields that exclude
/// each other, and `others` those that are there too but not read, all of them by `"*"`.
macro_rules! fields {
    ($(
        $(#[$meta:meta])*
        $vis:vis struct $name:ident $(= $default:ident)? $(required [$($list:literal),+])? $(others [$($other:literal),+])? $(one_of [$($one:literal),+])* {
            $( $(#[$field_meta:meta])* $key:literal $(| $alias:literal)? => $field:ident: $ty:ty, )*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq)]
        $vis struct $name { $( $(#[$field_meta])* pub $field: $ty, )* }

        impl $crate::decode::Decode for $name {
            $( fn absent() -> Option<Self> { Some($name::$default()) } )?

            fn decode<'a>(
                value: &'a $crate::Value,
                at: &mut $crate::decode::Decoder<'a>,
            ) -> Option<Self> {
                let entries = at.map(value, &[$($key, $($alias,)?)* $($($other,)+)?])?;
                $( at.required(entries, &[$($list),+]); )?
                $( at.one_of(entries, &[$($one),+]); )*
                $( let $field = at.field(entries, &[$key $(, $alias)?]); )*
                Some($name { $( $field: $field?, )* })
            }
        }
    )*};
}

/// Declares enums with the names that their variants have in YAML.
macro_rules! names {
    ($(
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[$variant_meta:meta])* $text:literal => $variant:ident, )*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $( $(#[$variant_meta])* $variant, )* }

        impl $name {
            /// The name as it is written in YAML.
            pub fn as_str(self) -> &'static str {
                match self { $( $name::$variant => $text, )* }
            }
        }

        impl $crate::decode::Decode for $name {
            fn decode<'a>(
                value: &'a $crate::Value,
                at: &mut $crate::decode::Decoder<'a>,
            ) -> Option<Self> {
                match at.name(value, &[$($text),*])? {
                    $( $text => Some($name::$variant), )*
                    _ => None,
                }
            }
        }
    )*};
}

pub(crate) use {fields, names};

impl Decoder<'_> {
    /// One of `names`.
    pub(crate) fn name(&mut self, value: &Value, names: &[&'static str]) -> Option<&'static str> {
        let Data::String(text) = &value.data else { return self.wrong_type("a string", value) };
        if let Some(name) = names.iter().find(|name| *name == text) {
            return Some(name);
        }
        let advice = match suggest::nearest(text, names) {
            Some(name) => format!("did you mean {name}?"),
            None => format!("use one of {}", suggest::list(names)),
        };
        let text = format!("{} is not a value that this field has", self.quoted(text));
        self.error("unknown-value", text, advice);
        None
    }

    fn integer<T: TryFrom<i64>>(&mut self, value: &Value, min: i64, max: i64) -> Option<T> {
        let number = match value.data {
            Data::Integer(number) => number,
            #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and within 2^53")]
            Data::Float(x) if x.fract() == 0.0 && x.abs() < 9_007_199_254_740_992.0 => x as i64,
            _ => return self.wrong_type("a whole number", value),
        };
        match T::try_from(number) {
            Ok(converted) if (min..=max).contains(&number) => Some(converted),
            _ => {
                let text = format!("{number} is out of range");
                self.error("out-of-range", text, format!("use a whole number from {min} to {max}"));
                None
            }
        }
    }
}

impl<T: Decode> Decode for Option<T> {
    fn absent() -> Option<Self> {
        Some(None)
    }

    fn decode<'a>(value: &'a Value, at: &mut Decoder<'a>) -> Option<Self> {
        T::decode(value, at).map(Some)
    }
}

impl<T: Decode> Decode for Box<T> {
    fn absent() -> Option<Self> {
        T::absent().map(Box::new)
    }

    fn decode<'a>(value: &'a Value, at: &mut Decoder<'a>) -> Option<Self> {
        T::decode(value, at).map(Box::new)
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn absent() -> Option<Self> {
        Some(Vec::new())
    }

    fn decode<'a>(value: &'a Value, at: &mut Decoder<'a>) -> Option<Self> {
        let Data::List(items) = &value.data else { return at.wrong_type("a list", value) };
        let mut decoded = Some(Vec::with_capacity(items.len()));
        for (index, item) in items.iter().enumerate() {
            let item = at.within(Segment::Index(index), item.at, |at| T::decode(item, at));
            decoded = decoded.zip(item).map(|(mut list, item)| {
                list.push(item);
                list
            });
        }
        decoded
    }
}

impl<T: Decode> Decode for BTreeMap<String, T> {
    fn absent() -> Option<Self> {
        Some(BTreeMap::new())
    }

    fn decode<'a>(value: &'a Value, at: &mut Decoder<'a>) -> Option<Self> {
        let Data::Map(entries) = &value.data else { return at.wrong_type("a mapping", value) };
        let mut decoded = Some(BTreeMap::new());
        for entry in entries.iter().filter(|e| !e.value.is_null()) {
            let segment = Segment::Key(entry.key.as_str().into());
            let item = at.within(segment, entry.at, |at| T::decode(&entry.value, at));
            decoded = decoded.zip(item).map(|(mut map, item)| {
                map.insert(entry.key.clone(), item);
                map
            });
        }
        decoded
    }
}

impl Decode for String {
    fn decode<'a>(value: &'a Value, at: &mut Decoder<'a>) -> Option<Self> {
        match &value.data {
            Data::String(text) => Some(text.clone()),
            _ => at.wrong_type("a string", value),
        }
    }
}

impl Decode for bool {
    fn decode<'a>(value: &'a Value, at: &mut Decoder<'a>) -> Option<Self> {
        match value.data {
            Data::Bool(b) => Some(b),
            _ => at.wrong_type("true or false", value),
        }
    }
}

impl Decode for f64 {
    fn decode<'a>(value: &'a Value, at: &mut Decoder<'a>) -> Option<Self> {
        match value.data {
            #[expect(clippy::cast_precision_loss, reason = "a double is what the field is")]
            Data::Integer(number) => Some(number as f64),
            Data::Float(number) if number.is_finite() => Some(number),
            _ => at.wrong_type("a number", value),
        }
    }
}

impl Decode for i32 {
    fn decode<'a>(value: &'a Value, at: &mut Decoder<'a>) -> Option<Self> {
        at.integer(value, i32::MIN.into(), i32::MAX.into())
    }
}

impl Decode for u32 {
    fn decode<'a>(value: &'a Value, at: &mut Decoder<'a>) -> Option<Self> {
        at.integer(value, 0, u32::MAX.into())
    }
}

impl Decode for u64 {
    fn decode<'a>(value: &'a Value, at: &mut Decoder<'a>) -> Option<Self> {
        at.integer(value, 0, i64::MAX)
    }
}

impl Decode for Value {
    fn decode<'a>(value: &'a Value, _: &mut Decoder<'a>) -> Option<Self> {
        Some(value.clone())
    }
}

impl Decode for Duration {
    fn decode<'a>(value: &'a Value, at: &mut Decoder<'a>) -> Option<Self> {
        let Data::String(text) = &value.data else {
            let text = format!("must be a duration, not {}", value.describe());
            at.error("wrong-type", text, "write it with its unit, such as 1.5s or 100ms".to_owned());
            return None;
        };
        match crate::duration::parse(text) {
            Ok(duration) => Some(duration),
            Err(invalid) => {
                let text = format!("{} is not a duration", at.quoted(text));
                at.error("invalid-duration", text, invalid.to_string());
                None
            }
        }
    }
}
