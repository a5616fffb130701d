//! Header operations of a route and its destination, merged into the order in which they are applied.

use tidegate_api::istio::{HeaderOperations, Headers, HttpRoute, HttpRouteDestination};
use tidegate_model::{FormatString, HeaderName, HeaderOp, InvalidFormat};

/// The operations of one level.
#[derive(Default)]
struct Level {
    removes: Vec<HeaderOp>,
    /// By name.
    sets: Vec<HeaderOp>,
    /// By name.
    adds: Vec<HeaderOp>,
    /// What the host becomes, which is text and no format (Istio makes it Envoy's `host_rewrite_literal`).
    authority: Option<FormatString>,
}

/// Request operations, response operations, and what the authority becomes.
pub(crate) struct Merged {
    pub(crate) request: Vec<HeaderOp>,
    pub(crate) response: Vec<HeaderOp>,
    pub(crate) authority: Option<FormatString>,
}

/// Merges the operations of `route` with those of one of its `destinations` (Istio: with one destination they are one
/// list, in which its own come last and win; with several, those of the route come after them). Of a list, Envoy
/// removes first, then sets, then adds.
pub(crate) fn merge(
    route: &HttpRoute,
    destination: &HttpRouteDestination,
    destinations: usize,
) -> Result<Merged, InvalidFormat> {
    let both = |pick: fn(&Headers) -> Option<&HeaderOperations>| {
        let of = |headers: &Option<Box<Headers>>| level(headers.as_deref().and_then(pick));
        Ok::<_, InvalidFormat>((of(&route.headers)?, of(&destination.headers)?))
    };
    let (route_request, own_request) = both(|h| h.request.as_ref())?;
    let (route_response, own_response) = both(|h| h.response.as_ref())?;
    let rewritten = route.rewrite.as_ref().and_then(|r| r.authority.as_deref()).filter(|a| !a.is_empty());
    let authority = match rewritten {
        Some(text) => Some(FormatString::of_text(text)),
        None => route_request.authority.clone().or_else(|| own_request.authority.clone()),
    };
    Ok(Merged {
        request: ordered(route_request, own_request, destinations),
        response: ordered(route_response, own_response, destinations),
        authority,
    })
}

/// The response operations of a route that answers by itself.
pub(crate) fn response(route: &HttpRoute) -> Result<Vec<HeaderOp>, InvalidFormat> {
    let operations = route.headers.as_ref().and_then(|h| h.response.as_ref());
    Ok(ordered(level(operations)?, Level::default(), 1))
}

fn ordered(route: Level, own: Level, destinations: usize) -> Vec<HeaderOp> {
    let steps = if destinations == 1 {
        [route.removes, own.removes, route.sets, own.sets, route.adds, own.adds]
    } else {
        [own.removes, own.sets, own.adds, route.removes, route.sets, route.adds]
    };
    let mut ordered: Vec<_> = steps.into_iter().flatten().collect();
    ordered.shrink_to_fit();
    ordered
}

fn level(operations: Option<&HeaderOperations>) -> Result<Level, InvalidFormat> {
    let mut level = Level::default();
    let Some(operations) = operations else { return Ok(level) };
    level.removes = operations
        .remove
        .iter()
        .filter(|n| !n.is_empty())
        .map(|n| HeaderOp::Remove(HeaderName::new(n)))
        .collect();
    for (name, value) in &operations.set {
        if is_authority(name) {
            level.authority.get_or_insert(FormatString::of_text(value));
        } else {
            level.sets.push(HeaderOp::Set(HeaderName::new(name), FormatString::parse(value)?));
        }
    }
    for (name, value) in &operations.add {
        if is_authority(name) {
            level.authority.get_or_insert(FormatString::of_text(value));
        } else {
            level.adds.push(HeaderOp::Append(HeaderName::new(name), FormatString::parse(value)?));
        }
    }
    Ok(level)
}

/// Whether a header of requests is another name for the authority.
pub(crate) fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> Option<Box<Headers>> {
        let map =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let remove = remove.iter().map(ToString::to_string).collect();
        let request = Some(HeaderOperations { set: map(set), add: map(add), remove });
        Some(Box::new(Headers { request, response: None }))
    }

    fn show(op: &HeaderOp) -> String {
        match op {
            HeaderOp::Remove(n) => format!("-{n}"),
            HeaderOp::Set(n, v) => format!("{n}={}", v.as_str()),
            HeaderOp::Append(n, v) => format!("{n}+{}", v.as_str()),
        }
    }

    #[test]
    fn one_destination_wins_and_several_lose() {
        let route = HttpRoute {
            headers: headers(&[("X-A", "route"), ("Host", "from.route")], &[("x-a", "added")], &["x-c"]),
            ..HttpRoute::default()
        };
        let destination = HttpRouteDestination {
            headers: headers(&[("x-a", "own"), (":authority", "from.own")], &[("x-b", "1")], &["x-d"]),
            ..HttpRouteDestination::default()
        };
        for (destinations, expected) in [
            (1, ["-x-c", "-x-d", "x-a=route", "x-a=own", "x-a+added", "x-b+1"]),
            (2, ["-x-d", "x-a=own", "x-b+1", "-x-c", "x-a=route", "x-a+added"]),
        ] {
            let merged = merge(&route, &destination, destinations).unwrap();
            let shown: Vec<_> = merged.request.iter().map(show).collect();
            assert_eq!(shown, expected);
            assert_eq!(merged.authority.unwrap().literal(), Some("from.route"));
        }
    }

    #[test]
    fn a_host_that_is_set_is_text() {
        for set in [&[("Host", "%REQ(x-h)%")][..], &[("x-a", "1"), (":authority", "%REQ(x-h)%")]] {
            for headers in [headers(set, &[], &[]), headers(&[], set, &[])] {
                let route = HttpRoute { headers, ..HttpRoute::default() };
                let merged = merge(&route, &HttpRouteDestination::default(), 1).unwrap();
                assert_eq!(merged.authority.unwrap().literal(), Some("%REQ(x-h)%"));
            }
        }
    }

    #[test]
    fn rewritten_authority_comes_first_and_is_text() {
        let mut route = HttpRoute { headers: headers(&[("host", "a")], &[], &[]), ..HttpRoute::default() };
        let rewrite =
            tidegate_api::istio::HttpRewrite { authority: Some("50%.b".into()), ..Default::default() };
        route.rewrite = Some(Box::new(rewrite));
        let merged = merge(&route, &HttpRouteDestination::default(), 1).unwrap();
        assert_eq!(merged.authority.unwrap().literal(), Some("50%.b"));
    }
}
