//! What an answer that lets a request pass changes.

use super::CheckError;
use crate::auth::{is_same, remove_header};
use crate::forward::buffers::Work;
use crate::forward::edits::{Edits, Ops, line};
use crate::forward::path::{canonical_path, is_plain_path};
use crate::forward::view::View;
use crate::h1::field::{Known, known};
use std::rc::Rc;
use tidegate_model::{FormatString, HeaderName, HeaderOp, PathNormalization};

/// What a provider changes.
#[derive(Debug, Default)]
pub(super) struct Grant {
    /// Of the request's header.
    pub(super) headers: Vec<Change>,
    /// The canonical path, and the query, in place of the client's.
    pub(super) target: Option<(Vec<u8>, Vec<u8>)>,
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
    /// Path and query in place of the client's.
    target: Option<Box<[u8]>>,
}

impl Granted {
    /// The values of a header, in order.
    pub(crate) fn values<'a, 'n>(&'a self, name: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        let lines = self.lines.iter().filter(move |(n, _)| n.as_str().as_bytes().eq_ignore_ascii_case(name));
        lines.map(|(_, value)| &**value)
    }

    /// Path and query, where these are not the client's any more.
    pub(crate) fn target(&self) -> Option<&[u8]> {
        self.target.as_deref()
    }

    /// The query, where it is not the client's any more; empty for none.
    pub(crate) fn query(&self) -> Option<&[u8]> {
        let mut parts = self.target()?.splitn(2, |b| *b == b'?').skip(1);
        Some(parts.next().unwrap_or_default())
    }

    /// Puts a path, and a query that is empty for none, in place of the client's.
    pub(crate) fn set_target(&mut self, path: &[u8], query: &[u8]) {
        let mark: &[u8] = if query.is_empty() { b"" } else { b"?" };
        self.target = Some([path, mark, query].concat().into());
    }

    /// Puts another query in place of the one that it gave.
    pub(crate) fn set_query(&mut self, query: &[u8]) {
        let path = self.target.as_deref().and_then(|target| target.split(|b| *b == b'?').next());
        let path = path.map(<[u8]>::to_vec).unwrap_or_default();
        self.set_target(&path, query);
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
    /// Makes of a new `:path` what requests are held against. What else says how a request is addressed stays the
    /// client's: another method would be another request, so that is an error.
    ///
    /// # Errors
    /// When nothing can be asked for like that.
    pub(super) fn readdress(
        &mut self,
        method: &[u8],
        mode: PathNormalization,
        strict: bool,
    ) -> Result<(), CheckError> {
        let (pseudo, headers): (Vec<_>, Vec<_>) =
            self.headers.drain(..).partition(|change| change.name.as_str().starts_with(':'));
        self.headers = headers;
        for Change { name, value, append } in pseudo {
            match name.as_str() {
                ":path" if !append => self.target = Some(canonical(&value, mode, strict)?),
                ":path" => return Err(CheckError::Malformed("a path that is added")),
                ":method" if append || value != method => {
                    return Err(CheckError::Malformed("another method, which is not enforced"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Applies it to the request; what is left is for the response.
    pub(super) fn apply(self, w: &mut Work) -> Option<Rc<[OfResponse]>> {
        let mut granted = Granted::default();
        // in Envoy's order
        let (append, set): (Vec<_>, Vec<_>) = self.headers.into_iter().partition(|change| change.append);
        for Change { name, value, append } in set.into_iter().chain(append) {
            let bytes = name.as_str().as_bytes();
            if !is_writable(bytes) {
                tracing::debug!(header = name.as_str(), "no provider may write it");
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
        if self.target.is_some() || !self.remove_params.is_empty() || !self.set_params.is_empty() {
            let view = View::of(w);
            let (path, query) = self
                .target
                .unwrap_or_else(|| (view.path().to_vec(), view.raw_query().unwrap_or_default().to_vec()));
            let query = changed(&query, &self.remove_params, &self.set_params);
            granted.set_target(&path, &query);
            // what is not in the buffer as it came must be written anew
            w.path = path;
        }
        w.granted = Some(Box::new(granted)).filter(|g| !g.lines.is_empty() || g.target.is_some());
        (!self.response.is_empty()).then(|| self.response.into())
    }
}

/// The canonical path of a target, and its query.
fn canonical(target: &[u8], mode: PathNormalization, strict: bool) -> Result<(Vec<u8>, Vec<u8>), CheckError> {
    let is_target = target.starts_with(b"/") && target.iter().all(|b| b.is_ascii_graphic() && *b != b'#');
    if !is_target || strict && !is_plain_path(target) {
        return Err(CheckError::Malformed("a path that nobody may ask for"));
    }
    let mut parts = target.splitn(2, |b| *b == b'?');
    let (path, query) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let path = canonical_path(mode, path).ok_or(CheckError::Malformed("a path without a canonical form"))?;
    Ok((path.into_owned(), query.to_vec()))
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
    fn a_new_path_is_made_canonical_and_no_other_request_is_made() {
        let change = |(name, value): (&str, &str)| Change {
            name: HeaderName::new(name),
            value: value.into(),
            append: false,
        };
        let of = |changes: &[(&str, &str)], strict| {
            let mut grant =
                Grant { headers: changes.iter().copied().map(change).collect(), ..Grant::default() };
            grant.readdress(b"GET", PathNormalization::Base, strict)?;
            let text = |bytes| String::from_utf8(bytes).unwrap();
            Ok::<_, CheckError>(grant.target.map(|(path, query)| (text(path), text(query))))
        };
        for (path, expected) in [
            ("/a?b=c", Some(("/a", "b=c"))),
            ("/x/../%61?b?c", Some(("/a", "b?c"))),
            ("/a", Some(("/a", ""))),
            ("", None),
            ("a", None),
            ("/a b", None),
            ("/a#b", None),
            ("/a%00", None),
            ("http://b/", None),
        ] {
            let found = of(&[(":path", path)], false).ok().flatten();
            let found = found.as_ref().map(|(path, query)| (&**path, &**query));
            assert_eq!(found, expected, "{path}");
        }
        assert!(of(&[(":path", "/a%2Fb")], false).is_ok() && of(&[(":path", "/a%2Fb")], true).is_err());
        assert!(matches!(of(&[(":method", "GET"), (":authority", "evil")], true), Ok(None)));
        assert!(of(&[(":method", "PUT")], false).is_err());
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
