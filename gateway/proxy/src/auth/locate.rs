//! Where in a request tokens are.

use crate::forward::buffers::Work;
use crate::forward::view::View;
use crate::h1::field::{Known, hyphened};
use crate::h1::head::Span;
use std::borrow::Cow;
use tidegate_engine::RequestView;
use tidegate_model::{HeaderName, TokenLocation};

/// The tokens at a rule's locations, each with the location, in the order of these.
pub(super) fn tokens<'v, 'r>(
    view: View<'v>,
    locations: &'r [TokenLocation],
) -> Vec<(&'r TokenLocation, Cow<'v, [u8]>)> {
    let mut found = Vec::new();
    for location in locations {
        match location {
            TokenLocation::Header(name, prefix) => {
                let values = view.brought(name.as_str().as_bytes());
                let tokens = values.filter_map(|value| behind(value, prefix.as_bytes()));
                found.extend(tokens.map(|token| (location, Cow::Borrowed(token))));
            }
            TokenLocation::Param(name) => {
                found.extend(param(view, name).map(|token| (location, token)));
            }
            TokenLocation::Cookie(name) => {
                found.extend(cookie(view, name.as_bytes()).map(|token| (location, Cow::Borrowed(token))));
            }
        }
    }
    found
}

/// What follows `prefix`, wherever that is, from the first character on that a token may have; as in Envoy the whole
/// value where nothing does, which is no token then and is refused.
fn behind<'a>(value: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    if prefix.is_empty() {
        return Some(value);
    }
    let at = value.windows(prefix.len()).position(|part| part == prefix)? + prefix.len();
    let of_token = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    Some(value[at..].iter().position(of_token).map_or(value, |start| &value[at + start..]))
}

/// The first value of a query parameter, decoded.
fn param<'a>(view: View<'a>, name: &str) -> Option<Cow<'a, [u8]>> {
    let query = view.raw_query()?;
    let (_, value) = form_urlencoded::parse(query).find(|(key, _)| key == name)?;
    Some(match value {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    })
}

/// The first cookie of that name, without quotes around its value.
fn cookie<'a>(view: View<'a>, name: &[u8]) -> Option<&'a [u8]> {
    let pairs = view.brought(b"cookie").flat_map(|line| line.split(|b| *b == b';'));
    let mut values = pairs.filter_map(|pair| pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"="));
    let value = values.next()?;
    Some(value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value))
}

/// Takes a token that was used off the request: the header, or the query parameter. Cookies stay, as in Envoy.
pub(super) fn remove(w: &mut Work, location: &TokenLocation) {
    match location {
        TokenLocation::Header(name, _) => remove_header(w, name),
        TokenLocation::Param(name) => remove_param(w, name),
        TokenLocation::Cookie(_) => {}
    }
}

/// Takes every line of a header off the request, also under a name that upstreams of the CGI kind do not tell from it.
/// Lines that say where the message ends or goes stay.
pub(crate) fn remove_header(w: &mut Work, name: &HeaderName) {
    let Work { buf, pos, request, granted, .. } = w;
    if let Some(granted) = granted {
        granted.drop_header(name);
    }
    let buf = &buf[*pos..];
    for field in request.fields.iter_mut().filter(|f| !f.known.is_framing()) {
        if is_same(field.name.of_buffer(buf), name.as_str().as_bytes()) {
            field.known = Known::Nominated;
        }
    }
}

/// Whether two names are the same to everyone: in any case, with `_` for `-`.
pub(crate) fn is_same(a: &[u8], b: &[u8]) -> bool {
    let fold = |c: &u8| hyphened(*c).to_ascii_lowercase();
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| fold(a) == fold(b))
}

/// Takes every query parameter of a name off the request: out of the buffer, so that nobody sees it any more.
fn remove_param(w: &mut Work, name: &str) {
    if let Some(granted) = &mut w.granted
        && let Some(query) = granted.query()
    {
        let kept = without(query, name);
        return granted.set_query(&kept);
    }
    let Some(query) = w.request.query else { return };
    let Work { buf, pos, request, path, .. } = w;
    let head = &mut buf[*pos..];
    let kept = without(query.of_buffer(head), name);
    if kept.len() == query.of_buffer(head).len() {
        return;
    }
    // what is not in the buffer as it came must be written anew
    if path.is_empty() {
        path.extend_from_slice(request.path.of_buffer(head));
        if path.is_empty() {
            path.push(b'/');
        }
    }
    let start = query.start();
    head[start..start + kept.len()].copy_from_slice(&kept);
    let end = if kept.is_empty() { start - 1 } else { start + kept.len() };
    request.query = (!kept.is_empty()).then(|| Span::new(start..end));
    request.target = Span::new(request.target.start()..end);
}

fn without(query: &[u8], name: &str) -> Vec<u8> {
    let pairs = query.split(|b| *b == b'&');
    let is_other = |pair: &&[u8]| form_urlencoded::parse(pair).next().is_none_or(|(key, _)| key != name);
    pairs.filter(is_other).collect::<Vec<_>>().join(&b'&')
}

/// Whether a request asks, before another one, what that may be (Fetch 3.3.6): it never has a token.
pub(super) fn is_preflight(view: View<'_>) -> bool {
    let has = |name: &[u8]| view.values(name).any(|value| !value.is_empty());
    view.method() == b"OPTIONS" && has(b"origin") && has(b"access-control-request-method")
}
