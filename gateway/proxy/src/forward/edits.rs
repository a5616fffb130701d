//! Header edits, applied while a head is serialised: nothing mutates a header map.

use crate::h1::field::{Known, hyphened, known};
use std::ops::Range;
use tidegate_model::{FormatString, HeaderName, HeaderOp};

/// Operations of a rule, those of CORS after them, and last those of a provider that let the request pass.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ops<'a> {
    pub(crate) rule: &'a [HeaderOp],
    pub(crate) cors: &'a [HeaderOp],
    pub(crate) granted: &'a [HeaderOp],
}

impl<'a> Ops<'a> {
    fn len(self) -> usize {
        self.rule.len() + self.cors.len() + self.granted.len()
    }

    fn get(self, i: usize) -> &'a HeaderOp {
        let Some(behind) = i.checked_sub(self.rule.len()) else { return &self.rule[i] };
        self.cors.get(behind).unwrap_or_else(|| &self.granted[behind - self.cors.len()])
    }

    fn iter(self) -> impl Iterator<Item = &'a HeaderOp> + Clone {
        self.rule.iter().chain(self.cors).chain(self.granted)
    }

    /// The last one on a header.
    pub(crate) fn last_on(self, name: &HeaderName) -> Option<&'a HeaderOp> {
        self.iter().filter(|op| op.name() == name).last()
    }
}

/// Values of operations that are not literal, rendered once per request.
#[derive(Default)]
pub(crate) struct Rendered {
    text: Vec<u8>,
    values: Vec<Range<usize>>,
}

impl Rendered {
    /// Renders every value that is not a literal with `render`, before any edit is applied:
    /// formats see the message as it came.
    pub(crate) fn render(&mut self, ops: Ops<'_>, mut render: impl FnMut(&FormatString, &mut Vec<u8>)) {
        self.text.clear();
        self.values.clear();
        if ops.iter().all(|op| value(op).is_none_or(|v| v.literal().is_some())) {
            return;
        }
        for op in ops.iter() {
            let start = self.text.len();
            if let Some(v) = value(op).filter(|v| v.literal().is_none()) {
                render(v, &mut self.text);
            }
            self.values.push(start..self.text.len());
        }
    }
}

/// One of 64 bits, by length and first letter.
#[inline]
fn bit(name: &[u8]) -> u64 {
    let letter = name.first().map_or(0, u8::to_ascii_lowercase);
    1 << ((name.len() * 7 + usize::from(letter)) % 64)
}

fn value(op: &HeaderOp) -> Option<&FormatString> {
    match op {
        HeaderOp::Remove(_) => None,
        HeaderOp::Set(_, v) | HeaderOp::Append(_, v) => Some(v),
    }
}

fn name(op: &HeaderOp) -> &str {
    op.name().as_str()
}

/// A list of operations with its rendered values. Operations apply in order, so a later one on
/// the same name undoes what an earlier one did. A value that renders empty adds nothing and
/// replaces nothing, as in Envoy.
#[derive(Clone, Copy)]
pub(crate) struct Edits<'a> {
    ops: Ops<'a>,
    rendered: &'a Rendered,
    /// The bits of all their names: that of nearly every other name is none of them.
    names: u64,
    /// Whether lines are taken for what they say with `-` for `_`.
    aliases: bool,
}

impl<'a> Edits<'a> {
    pub(crate) fn new(ops: Ops<'a>, rendered: &'a Rendered) -> Self {
        let names = ops.iter().fold(0, |bits, op| bits | bit(name(op).as_bytes()));
        Edits { ops, rendered, names, aliases: false }
    }

    /// Edits of a request: upstreams of the CGI kind do not tell `_` from `-`, so a client must not get around an
    /// operation on a name by writing it with `_`.
    pub(crate) fn of_request(ops: Ops<'a>, rendered: &'a Rendered) -> Self {
        Edits { aliases: true, ..Edits::new(ops, rendered) }
    }

    fn value(&self, i: usize) -> &'a [u8] {
        match value(self.ops.get(i)) {
            None => b"",
            Some(v) => match v.literal() {
                Some(l) => l.as_bytes(),
                None => self.rendered.values.get(i).map_or(b"", |r| &self.rendered.text[r.clone()]),
            },
        }
    }

    /// Whether a line of this name that was there before the edits is still there after them.
    #[inline]
    pub(crate) fn keeps(&self, line: &[u8]) -> bool {
        self.names & bit(line) == 0 || !self.takes(line)
    }

    #[inline(never)]
    fn takes(&self, line: &[u8]) -> bool {
        self.replaced(0, |name| name.eq_ignore_ascii_case(line) || self.aliases && is_alias(line, name))
    }

    /// Whether an operation from the `from`th on takes away earlier lines of a name.
    fn replaced(&self, from: usize, is_name: impl Fn(&[u8]) -> bool) -> bool {
        (from..self.ops.len()).any(|i| {
            is_name(name(self.ops.get(i)).as_bytes())
                && match self.ops.get(i) {
                    HeaderOp::Remove(_) => true,
                    HeaderOp::Set(..) => !self.value(i).is_empty(),
                    HeaderOp::Append(..) => false,
                }
        })
    }

    /// Writes the lines that the edits add.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for (i, op) in self.ops.iter().enumerate() {
            let value = self.value(i);
            let name = name(op).as_bytes();
            // an operation has a name in lower case
            if !value.is_empty() && !self.replaced(i + 1, |later| later == name) && !is_framing(name) {
                line(out, name, value);
            }
        }
    }
}

/// Whether a line is a name with `_` for `-`.
fn is_alias(line: &[u8], name: &[u8]) -> bool {
    let lower = |c: &u8| hyphened(*c).to_ascii_lowercase();
    line.len() == name.len() && line.iter().map(lower).eq(name.iter().map(u8::to_ascii_lowercase))
}

/// Lines that operations never touch: they are how the message is delimited and connected.
fn is_framing(name: &[u8]) -> bool {
    if name.starts_with(b"x-") {
        return false;
    }
    let known = known(name);
    name.starts_with(b":")
        || known.is_framing()
        || matches!(known, Known::WebSocketKey | Known::WebSocketAccept)
}

/// Writes one field line. Inlined, because most names are constants, and copying those then takes no call.
#[inline(always)]
pub(crate) fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(v: &str) -> FormatString {
        FormatString::parse(v).unwrap()
    }

    fn set(n: &str, v: &str) -> HeaderOp {
        HeaderOp::Set(HeaderName::new(n), text(v))
    }

    fn append(n: &str, v: &str) -> HeaderOp {
        HeaderOp::Append(HeaderName::new(n), text(v))
    }

    fn apply(ops: &[HeaderOp], lines: &[(&str, &str)]) -> String {
        let mut rendered = Rendered::default();
        let (rule, cors) = ops.split_at(ops.len() / 2);
        let ops = Ops { rule, cors, granted: &[] };
        rendered.render(ops, |f, out| {
            if f.as_str() == "%PROTOCOL%" {
                out.extend_from_slice(b"HTTP/1.1");
            }
        });
        let edits = Edits::new(ops, &rendered);
        let mut out = Vec::new();
        for (n, v) in lines.iter().filter(|(n, _)| edits.keeps(n.as_bytes())) {
            line(&mut out, n.as_bytes(), v.as_bytes());
        }
        edits.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn operations_apply_in_order() {
        let remove = |n| HeaderOp::Remove(HeaderName::new(n));
        let sent = [("A", "1"), ("B", "2"), ("A", "3")];
        let table: [(&[HeaderOp], &str); 9] = [
            (&[], "A: 1\r\nB: 2\r\nA: 3\r\n"),
            (&[remove("a")], "B: 2\r\n"),
            (&[set("a", "x")], "B: 2\r\na: x\r\n"),
            (&[append("a", "x")], "A: 1\r\nB: 2\r\nA: 3\r\na: x\r\n"),
            (&[append("c", "x"), remove("c")], "A: 1\r\nB: 2\r\nA: 3\r\n"),
            (&[set("b", "x"), set("b", "y")], "A: 1\r\nA: 3\r\nb: y\r\n"),
            (&[remove("b"), append("b", "x"), append("b", "y")], "A: 1\r\nA: 3\r\nb: x\r\nb: y\r\n"),
            (&[set("b", "%PROTOCOL%"), append("d", "%HOSTNAME%")], "A: 1\r\nA: 3\r\nb: HTTP/1.1\r\n"),
            (&[set("b", "%HOSTNAME%")], "A: 1\r\nB: 2\r\nA: 3\r\n"),
        ];
        for (ops, expected) in table {
            assert_eq!(apply(ops, &sent), expected, "{ops:?}");
        }
    }

    #[test]
    fn framing_is_out_of_reach() {
        let ops =
            [set("transfer-encoding", "chunked"), set("content-length", "9"), append("connection", "x")];
        assert_eq!(apply(&ops, &[]), "");
    }
}
