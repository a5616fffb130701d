//! What an answer that lets a request pass changes.

use super::CheckError;
use crate::auth::{is_same, remove_header};
use crate::forward::buffers::Work;
use crate::forward::edits::{Edits, Ops, line};
use crate::forward::view::View;
use crate::h1::field::{Known, known};
use std::rc::Rc;
use tidegate_model::{FormatString, HeaderName, HeaderOp};

/// What a provider changes.
#[derive(Debug, Default)]
pub(super) struct Grant {
    /// Of the request's header.
    pub(super) headers: Vec<Change>,
    /// Of the request's header goes away.
    pub(super) remove: Vec<HeaderName>,
    /// Of the response's header.
    pub(super) response: Vec<OfResponse>,
    /// Of the query.
    pub(super) set_params: Vec<(String, String)>,
    /// Of the query goes away.
    pub(super) remove_params: Vec<String>,
}

/// A header of the request that is changed.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) name: HeaderName,
    pub(super) value: Vec<u8>,
    /// Whether it stands beside the lines that are there, if any, or takes their place.
    pub(super) append: bool,
}

/// What becomes of the lines that a response has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// They stay, and this one is added.
    Append,
    /// They stay, and this one is not added where there are any.
    IfAbsent,
    /// They go.
    Set,
    /// They go; without any, nothing is added.
    IfPresent,
}

/// The header lines, and the query, that a provider gave a request.
#[derive(Debug, Default)]
pub(crate) struct Granted {
    lines: Vec<(HeaderName, Box<[u8]>)>,
    /// The query in place of the client's; empty for none.
    query: Option<Box<[u8]>>,
}

impl Granted {
    /// The values of a header, in order.
    pub(crate) fn values<'a, 'n>(&'a self, name: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        let lines = self.lines.iter().filter(move |(n, _)| n.as_str().as_bytes().eq_ignore_ascii_case(name));
        lines.map(|(_, value)| &**value)
    }

    /// The query, where it is not the client's any more.
    pub(crate) fn query(&self) -> Option<&[u8]> {
        self.query.as_deref()
    }

    /// Puts another query in place of the one that it gave.
    pub(crate) fn set_query(&mut self, query: Vec<u8>) {
        self.query = Some(query.into());
    }

    /// Takes a header back, under any name that upstreams may take for it.
    pub(crate) fn drop_header(&mut self, name: &HeaderName) {
        self.lines.retain(|(given, _)| !is_same(given.as_str().as_bytes(), name.as_str().as_bytes()));
    }

    /// Writes them. They count as sent by the client: operations apply to them.
    pub(crate) fn write(&self, out: &mut Vec<u8>, edits: Edits<'_>) {
        for (name, value) in self.lines.iter().filter(|(name, _)| edits.keeps(name.as_str().as_bytes())) {
            line(out, name.as_str().as_bytes(), value);
        }
    }
}

/// Whether a provider may write a header of a request: not what the gateway says by itself, nor how the message is
/// delimited, addressed or connected.
fn is_writable(name: &[u8]) -> bool {
    let known = known(name);
    !known.is_framing()
        && !name.starts_with(b":")
        && !matches!(
            known,
            Known::ForwardedFor
                | Known::ForwardedProto
                | Known::RequestId
                | Known::Internal
                | Known::ClientCert
                | Known::Expect
                | Known::ServiceTime
                | Known::RateLimited
                | Known::WebSocketKey
        )
}

/// A header as a provider names it.
///
/// # Errors
/// When no header has such a name or value.
pub(super) fn header(name: &str, value: &[u8]) -> Result<(HeaderName, Vec<u8>), CheckError> {
    let is_name = name.starts_with(':') || http::HeaderName::from_bytes(name.as_bytes()).is_ok();
    if !is_name || http::HeaderValue::from_bytes(value).is_err() {
        return Err(CheckError::Malformed("a header that cannot be written"));
    }
    Ok((HeaderName::new(name), value.trim_ascii().to_vec()))
}

/// An operation on the response's header, unless it is one that is never written.
pub(super) fn of_response(name: HeaderName, value: &[u8], append: bool) -> Option<HeaderOp> {
    let known = known(name.as_str().as_bytes());
    if known.is_framing() || name.as_str().starts_with(':') {
        return None;
    }
    let value = FormatString::of_text(std::str::from_utf8(value).ok()?);
    Some(if append { HeaderOp::Append(name, value) } else { HeaderOp::Set(name, value) })
}

/// The gateway writes these lines by itself unless an operation replaces them.
pub(super) fn one_content_type(ops: Vec<HeaderOp>) -> Vec<HeaderOp> {
    let single = |op| match op {
        HeaderOp::Append(name, value) if matches!(name.as_str(), "content-type" | "date" | "server") => {
            HeaderOp::Set(name, value)
        }
        op => op,
    };
    ops.into_iter().map(single).collect()
}

/// An operation on the header of the response to a request that passed.
#[derive(Debug)]
pub(crate) struct OfResponse {
    op: HeaderOp,
    /// Whether the header must be there for it, or must not.
    there: Option<bool>,
}

impl OfResponse {
    /// Unless it is on a header that is never written.
    pub(super) fn new(name: HeaderName, value: &[u8], how: How) -> Option<OfResponse> {
        let there = match how {
            How::Append | How::Set => None,
            How::IfAbsent => Some(false),
            How::IfPresent => Some(true),
        };
        let op = of_response(name, value, matches!(how, How::Append | How::IfAbsent))?;
        Some(OfResponse { op, there })
    }

    #[cfg(test)]
    pub(super) fn how(&self) -> How {
        match (self.there, &self.op) {
            (Some(true), _) => How::IfPresent,
            (Some(false), _) => How::IfAbsent,
            (None, HeaderOp::Append(..)) => How::Append,
            (None, _) => How::Set,
        }
    }

    /// The operations that there are on a response: `came_with` says which headers it had, `before` what becomes of
    /// these first.
    pub(crate) fn resolve(
        all: &[OfResponse],
        before: Ops<'_>,
        came_with: impl Fn(&HeaderName) -> bool,
    ) -> Vec<HeaderOp> {
        let mut done: Vec<HeaderOp> = Vec::new();
        for OfResponse { op, there } in all {
            let name = op.name();
            let is_there = || match (Ops { granted: &done, ..before }).last_on(name) {
                Some(op) => !matches!(op, HeaderOp::Remove(_)),
                None => came_with(name),
            };
            if there.is_none_or(|there| there == is_there()) {
                done.push(op.clone());
            }
        }
        done
    }
}

impl Grant {
    /// Applies it to the request; what is left is for the response.
    pub(super) fn apply(self, w: &mut Work) -> Option<Rc<[OfResponse]>> {
        let mut granted = Granted::default();
        // in Envoy's order
        let (append, set): (Vec<_>, Vec<_>) = self.headers.into_iter().partition(|change| change.append);
        for Change { name, value, append } in set.into_iter().chain(append) {
            let bytes = name.as_str().as_bytes();
            if !is_writable(bytes) {
                continue;
            }
            let is_there = || View::of(w).value(bytes).is_some() || granted.values(bytes).next().is_some();
            if append && !is_there() {
                continue;
            }
            if !append {
                remove_header(w, &name);
                granted.lines.retain(|(given, _)| *given != name);
            }
            granted.lines.push((name, value.into()));
        }
        for name in self.remove.iter().filter(|name| is_writable(name.as_str().as_bytes())) {
            remove_header(w, name);
            granted.drop_header(name);
        }
        if !self.remove_params.is_empty() || !self.set_params.is_empty() {
            let view = View::of(w);
            let query = changed(view.raw_query().unwrap_or_default(), &self.remove_params, &self.set_params);
            // what is not in the buffer as it came must be written anew
            let path = view.path().to_vec();
            w.path = path;
            granted.set_query(query);
        }
        w.granted = Some(Box::new(granted)).filter(|g| !g.lines.is_empty() || g.query.is_some());
        (!self.response.is_empty()).then(|| self.response.into())
    }
}

/// The query without parameters that go, and with those that come behind what the client sent.
fn changed(query: &[u8], remove: &[String], set: &[(String, String)]) -> Vec<u8> {
    let stays = |pair: &&[u8]| {
        let name = form_urlencoded::parse(pair).next().map(|(name, _)| name);
        let is = |of: &String| name.as_deref() == Some(of.as_str());
        !pair.is_empty() && !remove.iter().any(is) && !set.iter().any(|(of, _)| is(of))
    };
    let mut query = query.split(|b| *b == b'&').filter(stays).collect::<Vec<_>>().join(&b'&');
    for (name, value) in set {
        if !query.is_empty() {
            query.push(b'&');
        }
        let pair = form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish();
        query.extend_from_slice(pair.as_bytes());
    }
    query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_changed() {
        let text = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        for (query, remove, set, expected) in [
            ("a=1&b=2&a=3", &["a"][..], None, "b=2"),
            ("a=1", &["a"], None, ""),
            ("%61=1&b", &["a"], None, "b"),
            ("", &[], Some(("x", "1 &")), "x=1+%26"),
            ("a=1&x=0", &["c"], Some(("x", "2")), "a=1&x=2"),
        ] {
            let set: Vec<_> = set.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            let changed = changed(query.as_bytes(), &text(remove), &set);
            assert_eq!(String::from_utf8(changed).unwrap(), expected, "{query}");
        }
    }

    #[test]
    fn a_response_is_changed_where_its_headers_are_there_or_not() {
        let remove = [HeaderOp::Remove(HeaderName::new("x-gone"))];
        let before = Ops { rule: &remove, ..Ops::default() };
        for (name, how, expected) in [
            ("x-there", How::IfAbsent, 0),
            ("x-there", How::IfPresent, 1),
            ("x-new", How::IfAbsent, 1),
            ("x-new", How::IfPresent, 0),
            ("x-gone", How::IfAbsent, 1),
            ("x-gone", How::IfPresent, 0),
            ("x-there", How::Append, 2),
            ("x-new", How::Set, 2),
        ] {
            let one = || OfResponse::new(HeaderName::new(name), b"v", how).unwrap();
            let came_with = |name: &HeaderName| name.as_str() != "x-new";
            let ops = OfResponse::resolve(&[one(), one()], before, came_with);
            let expected = if how == How::IfPresent { 2 * expected } else { expected };
            assert_eq!(ops.len(), expected, "{name} {how:?}");
        }
    }

    #[test]
    fn what_the_gateway_says_itself_is_not_written() {
        for name in [
            "host",
            ":path",
            "content-length",
            "transfer-encoding",
            "x-forwarded-for",
            "x-envoy-a",
            "Connection",
        ] {
            assert!(!is_writable(name.as_bytes()), "{name}");
        }
        for name in ["authorization", "x-user", "cookie", "content-type"] {
            assert!(is_writable(name.as_bytes()), "{name}");
        }
        for (name, value) in [("a b", "x"), ("", "x"), ("a", "x\r\ny: z"), ("a:b", "c")] {
            assert!(header(name, value.as_bytes()).is_err(), "{name} {value}");
        }
    }
}
