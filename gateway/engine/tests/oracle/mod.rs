//! What routing means: a plain scan over the model, to hold the index against.

use tidegate_engine::{RequestView, Scheme};
use tidegate_model::*;

/// The answer: the virtual host and the index of the rule in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict<'m> {
    NoVirtualHost,
    Https,
    NoRule,
    Rule(&'m Route),
}

pub(crate) fn decide<'m, R: RequestView>(model: &'m Model, table: &str, request: &R) -> Verdict<'m> {
    let authority = String::from_utf8_lossy(request.authority()).to_ascii_lowercase();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.contains("::") => host,
        Some((host, _)) if host.ends_with(']') => host,
        _ => &authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    // Exact is 2, `*` is 0; between them the longer suffix.
    let rank = |h: &&VirtualHost| match &h.key.domain {
        HostPattern::Exact(name) if **name == *host || format!("[{name}]") == host => Some((2, 0)),
        HostPattern::Suffix(s) if host.ends_with(&**s) && host.len() > s.len() => Some((1, s.len())),
        HostPattern::Any => Some((0, 0)),
        _ => None,
    };
    let hosts = model.virtual_hosts.values().map(|h| &**h).filter(|h| *h.key.table == *table);
    match hosts.filter(|h| rank(h).is_some()).max_by_key(rank) {
        None => Verdict::NoVirtualHost,
        Some(h) if h.https_redirect && request.scheme() == Scheme::Http => Verdict::Https,
        Some(h) => match h.routes.iter().find(|r| accepts(&r.matches, request)) {
            None => Verdict::NoRule,
            Some(route) => Verdict::Rule(route),
        },
    }
}

fn accepts<R: RequestView>(m: &RouteMatch, request: &R) -> bool {
    let field = |m: &Option<StringMatch>, value: &[u8]| m.as_ref().is_none_or(|m| text(m, value));
    path(m, request.path())
        && field(&m.method, request.method())
        && field(&m.scheme, request.scheme().as_str().as_bytes())
        && field(&m.authority, request.authority())
        && m.headers.iter().all(|h| header(h, request))
        && m.claims.iter().all(|c| claim(c, request))
        && m.query.iter().all(|q| {
            let pairs = request.query().into_iter().flat_map(|all| all.split(|b| *b == b'&'));
            let mut pairs = pairs.map(|pair| match pair.iter().position(|b| *b == b'=') {
                Some(i) => (&pair[..i], &pair[i + 1..]),
                None => (pair, &b""[..]),
            });
            let value = pairs.find(|(name, _)| *name == q.name.as_bytes()).map(|(_, value)| value);
            is_broken(&q.value) || value.is_some_and(|v| matches_value(&q.value, v))
        })
}

fn path(m: &RouteMatch, path: &[u8]) -> bool {
    let fold = |s: &[u8]| if m.ignore_path_case { s.to_ascii_lowercase() } else { s.to_vec() };
    match &m.path {
        PathMatch::Any => true,
        PathMatch::Exact(s) => fold(path) == fold(s.as_bytes()),
        PathMatch::Prefix(s) => fold(path).starts_with(&fold(s.as_bytes())),
        PathMatch::Regex(s) => text(&StringMatch::Regex(s.clone()), path),
    }
}

fn header<R: RequestView>(m: &HeaderMatch, request: &R) -> bool {
    if is_broken(&m.value) {
        return true;
    }
    let full = [request.path(), b"?", request.query().unwrap_or_default()].concat();
    let mut values = Vec::new();
    match m.name.as_str() {
        ":method" => values.push(request.method().to_vec()),
        ":authority" => values.push(request.authority().to_vec()),
        ":scheme" => values.push(request.scheme().as_str().as_bytes().to_vec()),
        ":path" if request.query().is_some() => values.push(full),
        ":path" => values.push(request.path().to_vec()),
        _ => request.each_value(&m.name, &mut |v| values.push(v.to_vec())),
    }
    match &m.value {
        ValueMatch::Present => values.is_empty() == m.invert,
        other if values.is_empty() => m.invert && !matches_value(other, b""),
        other => values.iter().any(|v| matches_value(other, v)) != m.invert,
    }
}

fn claim<R: RequestView>(m: &ClaimMatch, request: &R) -> bool {
    if is_broken(&m.value) {
        return true;
    }
    let all = request.claims().map(|claims| serde_json::Value::Object(claims.clone())).unwrap_or_default();
    let pointer: String = m.path.names().iter().map(|name| format!("/{name}")).collect();
    let found = all.pointer(&pointer);
    let values: Vec<_> = match found {
        Some(serde_json::Value::Array(items)) => items.iter().collect(),
        found => found.into_iter().collect(),
    };
    let holds = match &m.value {
        ValueMatch::Present => found.is_some(),
        other => values.iter().filter_map(|v| v.as_str()).any(|v| matches_value(other, v.as_bytes())),
    };
    holds != m.invert
}

fn matches_value(m: &ValueMatch, value: &[u8]) -> bool {
    match m {
        ValueMatch::Present => true,
        ValueMatch::Value(m) => text(m, value),
    }
}

/// Rules with a regex that does not compile answer 500 where all else matches.
fn is_broken(m: &ValueMatch) -> bool {
    matches!(m, ValueMatch::Value(StringMatch::Regex(s)) if regex::bytes::Regex::new(s).is_err())
}

fn text(m: &StringMatch, value: &[u8]) -> bool {
    match m {
        StringMatch::Exact(s) => value == s.as_bytes(),
        StringMatch::Prefix(s) => value.starts_with(s.as_bytes()),
        StringMatch::Regex(s) => {
            regex::bytes::Regex::new(&format!("^(?:{s})$")).map_or(true, |r| r.is_match(value))
        }
    }
}
