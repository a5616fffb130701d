//! Objects as they were written, packed: thousands of them stay in memory for as long as the gateway runs, and little
//! of them is looked at again.

use crate::field::{self, Segment};
use crate::value::{Data, Entry, Position, Value};
use std::fmt;
use std::sync::Arc;

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INTEGER: u8 = 3;
const FLOAT: u8 = 4;
const STRING: u8 = 5;
const LIST: u8 = 6;
const MAP: u8 = 7;

/// A [`Value`] in one piece of memory. What is asked for is read from there.
///
/// [`Debug`](fmt::Debug) prints no scalar, as that of [`Value`].
#[derive(Clone, PartialEq, Eq)]
pub struct Written {
    at: Position,
    /// A value is its kind, its place, and then
    /// - of a number its eight bytes, of a text its length and bytes,
    /// - of a list how many items there are, where each ends, and the items,
    /// - of a mapping how long it is, and of each entry key, place and value.
    ///
    /// Of a place the line counts from the object's.
    packed: Arc<[u8]>,
}

impl Written {
    /// Packs a value.
    pub(crate) fn new(value: &Value) -> Written {
        let mut packer = Packer { line: value.at.line, packed: Vec::new() };
        packer.value(value);
        Written { at: value.at, packed: packer.packed.into() }
    }

    /// Where it starts.
    pub fn at(&self) -> Position {
        self.at
    }

    /// All of it.
    pub fn value(&self) -> Value {
        self.reader().value().unwrap_or(Value { at: self.at, data: Data::Null })
    }

    /// The value at `path` (see [`crate::field`] for its syntax); `None` when it was not written.
    pub fn find(&self, path: &str) -> Option<Value> {
        let mut reader = self.reader();
        for segment in field::segments(path) {
            reader = reader.step(&segment)?.1;
        }
        reader.value()
    }

    /// Where `path` was written, or else the nearest ancestor that was.
    ///
    /// A field is located at its key, an item of a list at its first character.
    pub fn locate(&self, path: &str) -> Position {
        let (mut reader, mut found) = (self.reader(), self.at);
        for segment in field::segments(path) {
            let Some((at, next)) = reader.step(&segment) else { break };
            (reader, found) = (next, at);
        }
        found
    }

    fn reader(&self) -> Reader<'_> {
        Reader { line: self.at.line, rest: &self.packed }
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value().fmt(f)
    }
}

struct Packer {
    line: u32,
    packed: Vec<u8>,
}

impl Packer {
    fn value(&mut self, value: &Value) {
        let kind = match &value.data {
            Data::Null => NULL,
            Data::Bool(false) => FALSE,
            Data::Bool(true) => TRUE,
            Data::Integer(_) => INTEGER,
            Data::Float(_) => FLOAT,
            Data::String(_) => STRING,
            Data::List(_) => LIST,
            Data::Map(_) => MAP,
        };
        self.packed.push(kind);
        self.position(value.at);
        match &value.data {
            Data::Null | Data::Bool(_) => {}
            Data::Integer(number) => self.packed.extend(number.to_le_bytes()),
            Data::Float(number) => self.packed.extend(number.to_le_bytes()),
            Data::String(text) => self.text(text),
            Data::List(items) => self.items(items),
            Data::Map(entries) => {
                let length = self.reserve(1);
                for entry in entries {
                    self.text(&entry.key);
                    self.position(entry.at);
                    self.value(&entry.value);
                }
                self.length(length, length + 4);
            }
        }
    }

    fn items(&mut self, items: &[Value]) {
        self.number(size(items.len()));
        let ends = self.reserve(items.len());
        let begin = self.packed.len();
        for (i, item) in items.iter().enumerate() {
            self.value(item);
            self.length(ends + 4 * i, begin);
        }
    }

    /// Room for so many lengths.
    fn reserve(&mut self, lengths: usize) -> usize {
        let at = self.packed.len();
        self.packed.resize(at + 4 * lengths, 0);
        at
    }

    /// Notes how much there is since `begin`.
    fn length(&mut self, at: usize, begin: usize) {
        let length = size(self.packed.len() - begin);
        self.packed[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn position(&mut self, at: Position) {
        self.number(at.line.wrapping_sub(self.line));
        self.number(at.column);
    }

    fn text(&mut self, text: &str) {
        self.number(size(text.len()));
        self.packed.extend(text.as_bytes());
    }

    /// Seven bits to a byte, the least first.
    fn number(&mut self, mut number: u32) {
        while number >= 0x80 {
            self.packed.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.packed.push(number as u8);
    }
}

/// A length; files are not that large.
fn size(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Reads what [`Packer`] wrote; `None` would be something else.
#[derive(Clone, Copy)]
struct Reader<'a> {
    line: u32,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn value(&mut self) -> Option<Value> {
        let (kind, at) = self.head()?;
        let data = match kind {
            FALSE | TRUE => Data::Bool(kind == TRUE),
            INTEGER => Data::Integer(i64::from_le_bytes(self.chunk()?)),
            FLOAT => Data::Float(f64::from_le_bytes(self.chunk()?)),
            STRING => Data::String(self.text()?.to_owned()),
            LIST => {
                let count = self.number()? as usize;
                self.bytes(count.checked_mul(4)?)?;
                Data::List((0..count).map(|_| self.value()).collect::<Option<_>>()?)
            }
            MAP => {
                let (mut body, mut entries) = (self.body()?, Vec::new());
                while !body.rest.is_empty() {
                    let (key, at) = (body.text()?.to_owned(), body.position()?);
                    entries.push(Entry { key, at, value: body.value()? });
                }
                Data::Map(entries)
            }
            _ => Data::Null,
        };
        Some(Value { at, data })
    }

    /// The value at one step from here, and where it was written.
    fn step(mut self, segment: &Segment<'_>) -> Option<(Position, Reader<'a>)> {
        match (self.head()?.0, segment) {
            (MAP, Segment::Key(wanted)) => {
                let (mut body, mut found) = (self.body()?, None);
                while !body.rest.is_empty() {
                    let (key, at) = (body.text()?, body.position()?);
                    if key == wanted {
                        // the last one, if written twice
                        found = Some((at, body));
                    }
                    body.skip()?;
                }
                found
            }
            (LIST, Segment::Index(index)) => {
                let count = self.number()? as usize;
                let ends = self.bytes(count.checked_mul(4)?)?;
                let begin = match index.checked_sub(1) {
                    Some(before) if *index < count => {
                        Reader { rest: ends.get(4 * before..)?, ..self }.fixed()? as usize
                    }
                    None if count > 0 => 0,
                    _ => return None,
                };
                let item = Reader { rest: self.rest.get(begin..)?, ..self };
                Some((item.clone().head()?.1, item))
            }
            _ => None,
        }
    }

    fn skip(&mut self) -> Option<()> {
        match self.head()?.0 {
            INTEGER | FLOAT => _ = self.chunk::<8>()?,
            STRING => _ = self.text()?,
            LIST => {
                let count = self.number()? as usize;
                let mut ends = Reader { rest: self.bytes(count.checked_mul(4)?)?, ..*self };
                if count > 0 {
                    ends.bytes(4 * (count - 1))?;
                    self.bytes(ends.fixed()? as usize)?;
                }
            }
            MAP => _ = self.body()?,
            _ => {}
        }
        Some(())
    }

    fn head(&mut self) -> Option<(u8, Position)> {
        let [kind] = self.chunk()?;
        Some((kind, self.position()?))
    }

    /// The entries of a mapping.
    fn body(&mut self) -> Option<Reader<'a>> {
        let length = self.fixed()? as usize;
        Some(Reader { rest: self.bytes(length)?, ..*self })
    }

    fn position(&mut self) -> Option<Position> {
        let line = self.number()?.wrapping_add(self.line);
        Some(Position { line, column: self.number()? })
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.number()? as usize;
        std::str::from_utf8(self.bytes(length)?).ok()
    }

    fn number(&mut self) -> Option<u32> {
        let mut number = 0;
        for shift in (0..32).step_by(7) {
            let [byte] = self.chunk()?;
            number |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn fixed(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.chunk()?))
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (chunk, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*chunk)
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn positions() -> impl Strategy<Value = Position> {
        (any::<u32>(), prop_oneof![0..200u32, any::<u32>()])
            .prop_map(|(line, column)| Position { line, column })
    }

    fn of<T: fmt::Debug>(
        from: impl Strategy<Value = T>,
        data: fn(T) -> Data,
    ) -> impl Strategy<Value = Value> {
        (positions(), from).prop_map(move |(at, from)| Value { at, data: data(from) })
    }

    fn values() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            of(Just(()), |()| Data::Null),
            of(any::<bool>(), Data::Bool),
            of(any::<i64>(), Data::Integer),
            of(-1e9..1e9f64, Data::Float),
            of(any::<String>(), Data::String),
            of("x{0,300}", Data::String),
        ];
        scalar.prop_recursive(4, 64, 6, |inner| {
            let entry = |(key, at, value)| Entry { key, at, value };
            let entries = prop::collection::vec(("[a-c]{0,2}", positions(), inner.clone()), 0..6);
            prop_oneof![
                of(prop::collection::vec(inner, 0..6), Data::List),
                (positions(), entries).prop_map(move |(at, entries)| {
                    Value { at, data: Data::Map(entries.into_iter().map(entry).collect()) }
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_packed_is_what_was_written(
            value in values(),
            paths in prop::collection::vec("([ab]|\\[[0-6]\\])(\\.[abc]|\\[[0-6]\\]){0,3}", 8),
        ) {
            let written = Written::new(&value);
            prop_assert_eq!(&written.value(), &value);
            prop_assert_eq!(written.at(), value.at);
            for path in paths {
                prop_assert_eq!(written.find(&path), value.find(&path).cloned(), "{}", path);
                prop_assert_eq!(written.locate(&path), value.locate(&path), "{}", path);
            }
        }

        #[test]
        fn what_is_not_is_nothing(packed in any::<Vec<u8>>(), path in "[ab.\\[\\]0-3]{0,6}") {
            let written = Written { at: Position::default(), packed: packed.into() };
            written.value();
            written.find(&path);
            written.locate(&path);
        }
    }
}
