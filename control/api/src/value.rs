use crate::field::{self, Segment};
use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};
use std::fmt;

/// A value as it was written, and where.
///
/// [`Debug`](fmt::Debug) prints the shape and no scalar: a value may come from a Secret.
#[derive(Clone, PartialEq)]
pub struct Value {
    /// Where it starts.
    pub at: Position,
    /// What it is.
    pub data: Data,
}

/// A place in a file; both count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column, in characters.
    pub column: u32,
}

/// The kinds of [`Value`], as Kubernetes reads YAML (YAML 1.1: `yes` and `on` are booleans).
#[derive(Clone, PartialEq)]
pub enum Data {
    /// `null`, `~` or nothing.
    Null,
    /// `true`, `yes`, `on`, `false`, `no`, `off`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    String(String),
    /// A sequence.
    List(Vec<Value>),
    /// A mapping in the order it was written; a duplicate key stands twice.
    Map(Vec<Entry>),
}

/// One `key: value` of a mapping.
#[derive(Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub at: Position,
    /// Its value.
    pub value: Value,
}

impl Value {
    /// The value under `key`, when this is a mapping that has it (the last one, if written twice).
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entry(key).map(|e| &e.value)
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().rev().find(|e| e.key == key)
    }

    /// The entries of a mapping; none for anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.data {
            Data::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none for anything else.
    pub fn items(&self) -> &[Value] {
        match &self.data {
            Data::List(items) => items,
            _ => &[],
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match &self.data {
            Data::String(text) => Some(text),
            _ => None,
        }
    }

    /// Whether this is `null`, which Kubernetes reads as if it was not written.
    pub fn is_null(&self) -> bool {
        matches!(self.data, Data::Null)
    }

    /// What this is, in a user's words: `a string`, `a list`.
    pub fn describe(&self) -> &'static str {
        match &self.data {
            Data::Null => "nothing (null)",
            Data::Bool(_) => "a boolean",
            Data::Integer(_) => "a whole number",
            Data::Float(_) => "a number with a fraction",
            Data::String(_) => "a string",
            Data::List(_) => "a list",
            Data::Map(_) => "a mapping",
        }
    }

    /// The value at `path` (see [`crate::field`] for its syntax); `None` when it was not written.
    pub fn find(&self, path: &str) -> Option<&Value> {
        let mut value = self;
        for segment in field::segments(path) {
            value = value.step(&segment)?.1;
        }
        Some(value)
    }

    /// Where `path` was written, or else the nearest ancestor that was.
    ///
    /// A field is located at its key, an item of a list at its first character.
    pub fn locate(&self, path: &str) -> Position {
        let (mut value, mut found) = (self, self.at);
        for segment in field::segments(path) {
            let Some((at, next)) = value.step(&segment) else { break };
            (value, found) = (next, at);
        }
        found
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        match &mut self.data {
            Data::Map(entries) => entries.iter_mut().rev().find(|e| e.key == key).map(|e| &mut e.value),
            _ => None,
        }
    }

    /// Changes every position by `shift`.
    pub(crate) fn moved(mut self, shift: &impl Fn(Position) -> Position) -> Value {
        self.at = shift(self.at);
        self.data = match self.data {
            Data::List(items) => Data::List(items.into_iter().map(|item| item.moved(shift)).collect()),
            Data::Map(entries) => {
                let moved = |e: Entry| Entry { key: e.key, at: shift(e.at), value: e.value.moved(shift) };
                Data::Map(entries.into_iter().map(moved).collect())
            }
            scalar => scalar,
        };
        self
    }

    fn step(&self, segment: &Segment<'_>) -> Option<(Position, &Value)> {
        match segment {
            Segment::Key(key) => self.entry(key).map(|e| (e.at, &e.value)),
            Segment::Index(index) => self.items().get(*index).map(|v| (v.at, v)),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.data {
            Data::List(items) => f.debug_list().entries(items).finish(),
            Data::Map(entries) => f.debug_map().entries(entries.iter().map(|e| (&e.key, &e.value))).finish(),
            _ => f.write_str(self.describe()),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match &self.data {
            Data::Null => s.serialize_unit(),
            Data::Bool(b) => s.serialize_bool(*b),
            Data::Integer(i) => s.serialize_i64(*i),
            Data::Float(x) => s.serialize_f64(*x),
            Data::String(text) => s.serialize_str(text),
            Data::List(items) => {
                let mut seq = s.serialize_seq(Some(items.len()))?;
                for item in items {
                    seq.serialize_element(item)?;
                }
                seq.end()
            }
            Data::Map(entries) => {
                let mut map = s.serialize_map(Some(entries.len()))?;
                for entry in entries {
                    map.serialize_entry(&entry.key, &entry.value)?;
                }
                map.end()
            }
        }
    }
}
