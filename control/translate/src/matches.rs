//! Match blocks: what depends on the listener is decided here, the rest becomes a [`RouteMatch`].

use crate::world::selects;
use std::collections::BTreeMap;
use tidegate_api::istio::{HttpMatchRequest, StringMatch as Written};
use tidegate_model::{
    ClaimMatch, ClaimPath, HeaderMatch, HeaderName, PathMatch, QueryMatch, RouteMatch, StringMatch,
    ValueMatch,
};

/// Where a request is routed, as far as match blocks ask.
pub(crate) struct Place<'a> {
    /// The gateway as `namespace/name`, or `mesh`.
    pub(crate) gateway: &'a str,
    /// The server's port.
    pub(crate) port: u16,
    /// The labels of the routing workload.
    pub(crate) labels: &'a BTreeMap<String, String>,
    /// Its namespace.
    pub(crate) namespace: &'a str,
}

/// Whether a block, its gateways by full name, counts at `place`.
pub(crate) fn applies(block: &HttpMatchRequest, place: &Place<'_>) -> bool {
    if block.port.is_some_and(|p| p != 0 && p != u32::from(place.port)) {
        return false;
    }
    if !block.gateways.is_empty() {
        return block.gateways.iter().any(|g| g == place.gateway);
    }
    let namespace = block.source_namespace.as_deref().filter(|n| !n.is_empty());
    namespace.is_none_or(|n| n == place.namespace) && selects(&block.source_labels, place.labels)
}

/// Whether a block asks for claims of tokens.
pub(crate) fn asks_for_claims(block: &HttpMatchRequest) -> bool {
    block.headers.keys().chain(block.without_headers.keys()).any(|h| ClaimPath::parse(h).is_some())
}

/// A gateway as a VirtualService in `own` names it, as `namespace/name`; `mesh` stays.
pub(crate) fn gateway_name(written: &str, own: &str) -> String {
    if written == "mesh" {
        return written.to_owned();
    }
    match written.split_once('/') {
        Some((".", name)) => format!("{own}/{name}"),
        Some(_) => written.to_owned(),
        None => match written.split_once('.') {
            // The legacy form: name.namespace.svc.cluster.local.
            Some((name, rest)) => format!("{}/{name}", rest.split('.').next().unwrap_or(rest)),
            None => format!("{own}/{written}"),
        },
    }
}

/// The conditions of a block on requests.
pub(crate) fn conditions(block: &HttpMatchRequest) -> RouteMatch {
    let (mut headers, mut claims) = (Vec::new(), Vec::new());
    for (written, invert) in [(&block.headers, false), (&block.without_headers, true)] {
        for (name, m) in written {
            match ClaimPath::parse(name) {
                Some(path) => claims.push(ClaimMatch { path, value: value(m), invert }),
                None => headers.push(header(name, m, invert)),
            }
        }
    }
    RouteMatch {
        path: match &block.uri {
            None | Some(Written::Present) => PathMatch::Any,
            Some(Written::Exact(s)) => PathMatch::Exact(s.as_str().into()),
            Some(Written::Prefix(s)) => PathMatch::Prefix(s.as_str().into()),
            Some(Written::Regex(s)) => PathMatch::Regex(s.as_str().into()),
        },
        ignore_path_case: block.ignore_uri_case == Some(true),
        method: block.method.as_ref().and_then(string_match),
        scheme: block.scheme.as_ref().and_then(string_match),
        authority: block.authority.as_ref().and_then(string_match),
        headers,
        query: block
            .query_params
            .iter()
            .map(|(name, m)| QueryMatch { name: name.as_str().into(), value: value(m) })
            .collect(),
        claims,
    }
}

fn header(name: &str, written: &Written, invert: bool) -> HeaderMatch {
    let name = if name.eq_ignore_ascii_case("host") { ":authority" } else { name };
    HeaderMatch { name: HeaderName::new(name), value: value(written), invert }
}

/// What a value must be, of what is there or not. In Istio the regex `*`, which is none, stands for any value.
fn value(written: &Written) -> ValueMatch {
    match string_match(written) {
        Some(m) if !is_presence(written) => ValueMatch::Value(m),
        _ => ValueMatch::Present,
    }
}

/// Whether a condition is on being there, whatever the value.
pub(crate) fn is_presence(written: &Written) -> bool {
    match written {
        Written::Present => true,
        Written::Regex(pattern) => pattern == "*",
        Written::Exact(_) | Written::Prefix(_) => false,
    }
}

/// A condition on text; `None` for one that says nothing.
pub(crate) fn string_match(written: &Written) -> Option<StringMatch> {
    match written {
        Written::Present => None,
        Written::Exact(s) => Some(StringMatch::Exact(s.as_str().into())),
        Written::Prefix(s) => Some(StringMatch::Prefix(s.as_str().into())),
        Written::Regex(s) => Some(StringMatch::Regex(s.as_str().into())),
    }
}

/// Whether every request fulfils it.
pub(crate) fn is_catch_all(m: &RouteMatch) -> bool {
    let path = match &m.path {
        PathMatch::Any => true,
        PathMatch::Prefix(p) => &**p == "/",
        PathMatch::Regex(r) => &**r == ".*",
        PathMatch::Exact(_) => false,
    };
    path && m.method.is_none()
        && m.scheme.is_none()
        && m.authority.is_none()
        && m.headers.is_empty()
        && m.query.is_empty()
        && m.claims.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateway_names() {
        for (written, expected) in [
            ("mesh", "mesh"),
            ("gw", "own/gw"),
            ("./gw", "own/gw"),
            ("ns/gw", "ns/gw"),
            ("gw.ns", "ns/gw"),
            ("gw.ns.svc.cluster.local", "ns/gw"),
        ] {
            assert_eq!(gateway_name(written, "own"), expected, "{written}");
        }
    }

    #[test]
    fn blocks_apply_by_port_gateway_and_source() {
        let labels = [("app".to_owned(), "gw".to_owned())].into();
        let place = Place { gateway: "ns/gw", port: 80, labels: &labels, namespace: "istio-system" };
        let block = HttpMatchRequest::default;
        let wrong_source = [("app".to_owned(), "other".to_owned())];
        for (block, expected) in [
            (block(), true),
            (HttpMatchRequest { port: Some(80), ..block() }, true),
            (HttpMatchRequest { port: Some(443), ..block() }, false),
            (HttpMatchRequest { gateways: vec!["ns/gw".into()], ..block() }, true),
            (HttpMatchRequest { gateways: vec!["mesh".into()], ..block() }, false),
            (HttpMatchRequest { source_namespace: Some("other".into()), ..block() }, false),
            (HttpMatchRequest { source_labels: wrong_source.clone().into(), ..block() }, false),
            (
                HttpMatchRequest {
                    source_labels: wrong_source.into(),
                    gateways: vec!["ns/gw".into()],
                    ..block()
                },
                true,
            ),
        ] {
            assert_eq!(applies(&block, &place), expected, "{block:?}");
        }
    }

    #[test]
    fn presence_and_inversion() {
        let block = HttpMatchRequest {
            headers: [("X-A".into(), Written::Present), ("Host".into(), Written::Exact("h".into()))].into(),
            without_headers: [
                ("x-b".into(), Written::Regex(".*".into())),
                ("x-c".into(), Written::Regex("*".into())),
                ("@Request.auth.claims[A.b][c]".into(), Written::Present),
            ]
            .into(),
            query_params: [("q".into(), Written::Regex("*".into()))].into(),
            ..HttpMatchRequest::default()
        };
        let claims: Vec<_> =
            conditions(&block).claims.into_iter().map(|c| (c.path.to_string(), c.value, c.invert)).collect();
        assert_eq!(claims, [("@request.auth.claims[A.b][c]".to_owned(), ValueMatch::Present, true)]);
        let seen: Vec<_> =
            conditions(&block).headers.into_iter().map(|h| (h.name.to_string(), h.value, h.invert)).collect();
        assert_eq!(conditions(&block).query[0].value, ValueMatch::Present);
        let exact = ValueMatch::Value(StringMatch::Exact("h".into()));
        let any = ValueMatch::Value(StringMatch::Regex(".*".into()));
        assert_eq!(
            seen,
            [
                (":authority".into(), exact, false),
                ("x-a".into(), ValueMatch::Present, false),
                ("x-b".into(), any, true),
                ("x-c".into(), ValueMatch::Present, true),
            ]
        );
    }
}
