use super::rules::{Check, Direction, bracket};
use super::traffic;
use super::virtual_service::{Context, gateway_names};
use crate::headers::is_authority;
use crate::matches::{asks_for_claims, is_presence};
use tidegate_api::istio::{
    HeaderOperations, Headers, HttpDirectResponse, HttpMatchRequest, HttpRedirect, HttpRewrite, HttpRoute,
    RegexRewrite, StringMatch,
};

/// The largest body of a direct response, in bytes.
const LARGEST_BODY: usize = 1 << 20;
/// Above this, a body of a direct response is worth a warning.
const LARGE_BODY: usize = 100 << 10;

pub(super) fn validate(check: &mut Check<'_>, field: &str, route: &HttpRoute, context: &Context) {
    kind(check, field, route, context);
    for (i, m) in route.matches.iter().enumerate() {
        match_block(check, &format!("{field}.match[{i}]"), m, context);
    }
    if let Some(redirect) = &route.redirect {
        redirected(check, &format!("{field}.redirect"), redirect, &route.matches);
    }
    if let Some(direct) = &route.direct_response {
        direct_response(check, &format!("{field}.directResponse"), direct);
    }
    if let Some(rewrite) = &route.rewrite {
        rewritten(check, &format!("{field}.rewrite"), rewrite);
    }
    headers(check, &format!("{field}.headers"), route.headers.as_deref());
    authority_once(check, field, route);
    check.duration(&format!("{field}.timeout"), route.timeout);
    traffic::validate(check, field, route);
}

/// Exactly one of route, redirect, directResponse and delegate, and what goes with it.
fn kind(check: &mut Check<'_>, field: &str, route: &HttpRoute, context: &Context) {
    let delegates = route.delegate.is_some() && !context.is_delegate;
    let written = [
        ("route", !route.route.is_empty()),
        ("redirect", route.redirect.is_some()),
        ("directResponse", route.direct_response.is_some() && !delegates),
        ("delegate", route.delegate.is_some()),
    ];
    let named: Vec<&str> = written.iter().filter(|w| w.1).map(|w| w.0).collect();
    match named.as_slice() {
        [] => {
            let text = "has neither route, redirect nor directResponse";
            check.error(field, "missing-route", text, "add one of them");
        }
        [_] => {}
        [first, .., last] => {
            let text = format!("cannot have both {first} and {last}");
            check.error(&format!("{field}.{last}"), "one-of", text, "keep the one that is meant");
        }
    }
    if let Some(delegate) = &route.delegate {
        let field = format!("{field}.delegate");
        if context.is_delegate {
            let text = "a delegate cannot delegate further";
            check.error(&field, "invalid-delegate", text, "route here");
        }
        if delegate.name.as_deref().unwrap_or_default().is_empty() {
            check.error(&format!("{field}.name"), "missing-field", "is missing", "name the VirtualService");
        }
    }
    if delegates && route.direct_response.is_some() {
        let text = "is the answer of every rule of the delegate that has none of its own, even of those that have a route";
        check.warning(
            &format!("{field}.directResponse"),
            "delegated-answer",
            text,
            "move it to the delegate",
        );
    } else if route.redirect.is_some() || route.direct_response.is_some() {
        let answered = if route.redirect.is_some() { "redirect" } else { "directResponse" };
        for (name, there) in [("fault", route.fault.is_some()), ("rewrite", route.rewrite.is_some())] {
            if there {
                let text = format!("cannot be used with {answered}");
                check.error(&format!("{field}.{name}"), "one-of", text, "remove it");
            }
        }
    }
}

fn match_block(check: &mut Check<'_>, field: &str, m: &HttpMatchRequest, context: &Context) {
    for (name, header) in &m.headers {
        let field = format!("{field}.headers{}", bracket(name));
        check.match_header(&field, name);
        check.string_match(&field, header);
    }
    for (name, header) in &m.without_headers {
        let field = format!("{field}.withoutHeaders{}", bracket(name));
        check.match_header(&field, name);
        if !is_presence(header) {
            check.string_match(&field, header);
        }
    }
    for (name, query) in &m.query_params {
        check.string_match(&format!("{field}.queryParams{}", bracket(name)), query);
    }
    if let Some(path) = &m.uri {
        check.path_match(&format!("{field}.uri"), path);
    }
    for (name, written) in [("scheme", &m.scheme), ("method", &m.method), ("authority", &m.authority)] {
        if let Some(written) = written {
            check.string_match(&format!("{field}.{name}"), written);
        }
    }
    if let Some(StringMatch::Exact(path) | StringMatch::Prefix(path)) = &m.uri
        && !path.is_empty()
        && !path.starts_with(['/', '*'])
    {
        let text = format!("matches no request: no path starts like {path:?}");
        check.warning(&format!("{field}.uri"), "never-matches", text, "begin it with a slash");
    }
    if let Some(port) = m.port.filter(|p| *p != 0) {
        check.port(&format!("{field}.port"), port);
    }
    gateway_names(check, &format!("{field}.gateways"), &m.gateways);
    if let Some(namespace) = m.source_namespace.as_deref().filter(|n| !n.is_empty()) {
        check.label(&format!("{field}.sourceNamespace"), namespace, "namespace");
    }
    check.labels(&format!("{field}.sourceLabels"), &m.source_labels);
    if context.on_mesh && asks_for_claims(m) {
        let text = "JWT claims can be matched at gateways only";
        check.error(field, "invalid-match", text, "remove mesh from spec.gateways");
    }
}

fn redirected(check: &mut Check<'_>, field: &str, redirect: &HttpRedirect, matches: &[HttpMatchRequest]) {
    let there = |s: &Option<String>| s.as_deref().is_some_and(|s| !s.is_empty());
    let (uri, prefix) = (there(&redirect.uri), there(&redirect.prefix_rewrite));
    let other = there(&redirect.authority)
        || there(&redirect.scheme)
        || redirect.port.is_some()
        || redirect.derive_port.is_some();
    if !(uri || prefix || other) {
        let text = "says not where to";
        check.error(field, "invalid-redirect", text, "set uri, authority, scheme or port");
    }
    if uri && prefix {
        let text = "cannot be used with uri";
        check.error(&format!("{field}.prefixRewrite"), "one-of", text, "keep one of them");
    }
    let is_prefix = |m: &HttpMatchRequest| matches!(m.uri, None | Some(StringMatch::Prefix(_)));
    if prefix && !matches.iter().all(is_prefix) {
        let text = "needs matches by uri.prefix, or without uri";
        check.error(
            &format!("{field}.prefixRewrite"),
            "invalid-redirect",
            text,
            "use uri, or match by prefix",
        );
    }
    if let Some(code) = redirect.redirect_code.filter(|c| ![0, 301, 302, 303, 307, 308].contains(c)) {
        let text = format!("{code} is not a redirect");
        check.error(
            &format!("{field}.redirectCode"),
            "invalid-redirect",
            text,
            "use 301, 302, 303, 307 or 308",
        );
    }
    if let Some(scheme) = redirect.scheme.as_deref().filter(|s| !matches!(*s, "" | "http" | "https")) {
        let text = format!("{scheme:?} is not a scheme that can be redirected to");
        check.error(&format!("{field}.scheme"), "invalid-redirect", text, "use http or https");
    }
    match redirect.port {
        None => {}
        Some(0) => {
            let text = "is taken as if it was not written";
            check.warning(&format!("{field}.port"), "no-effect", text, "use 1 to 65535, or remove it");
        }
        Some(port) => check.port(&format!("{field}.port"), port),
    }
    for (name, text) in [
        ("uri", &redirect.uri),
        ("authority", &redirect.authority),
        ("prefixRewrite", &redirect.prefix_rewrite),
    ] {
        plain(check, &format!("{field}.{name}"), text.as_deref());
    }
    absolute(check, &format!("{field}.uri"), redirect.uri.as_deref());
    absolute(check, &format!("{field}.prefixRewrite"), redirect.prefix_rewrite.as_deref());
}

/// A path that is written instead of the request's begins with a slash, else it would run into the host.
fn absolute(check: &mut Check<'_>, field: &str, path: Option<&str>) {
    if let Some(path) = path.filter(|p| !p.is_empty() && !p.starts_with('/')) {
        let text = format!("{path:?} does not begin with a slash; it is taken as \"/{path}\"");
        check.warning(field, "invalid-path", text, "begin it with a slash");
    }
}

/// Text that becomes part of a head must not end a line of it.
fn plain(check: &mut Check<'_>, field: &str, text: Option<&str>) {
    if text.is_some_and(|t| t.bytes().any(|b| b <= 0x20 || b == 0x7f)) {
        let text = "cannot have blanks or control characters";
        check.error(field, "invalid-value", text, "percent-encode them");
    }
}

fn direct_response(check: &mut Check<'_>, field: &str, direct: &HttpDirectResponse) {
    if !(200..=600).contains(&direct.status) {
        let text = format!("{} is not a status that can be answered", direct.status);
        check.error(&format!("{field}.status"), "invalid-status", text, "use 200 to 600");
    }
    let Some(body) = &direct.body else { return };
    let length = match (&body.string, &body.bytes) {
        (Some(text), _) => text.len(),
        (None, Some(bytes)) => bytes.0.len(),
        (None, None) => 0,
    };
    let field = format!("{field}.body");
    if length > LARGEST_BODY {
        check.error(&field, "too-large", "is larger than 1 MiB", "serve it from an upstream");
    } else if length > LARGE_BODY {
        check.warning(&field, "too-large", "is larger than 100 KiB", "serve it from an upstream");
    }
}

fn rewritten(check: &mut Check<'_>, field: &str, rewrite: &HttpRewrite) {
    let there = |s: &Option<String>| s.as_deref().is_some_and(|s| !s.is_empty());
    let (uri, regex) = (there(&rewrite.uri), &rewrite.uri_regex_rewrite);
    if !uri && !there(&rewrite.authority) && regex.is_none() {
        let text = "says not what to rewrite";
        check.error(field, "invalid-rewrite", text, "set uri, authority or uriRegexRewrite");
    }
    if uri && regex.is_some() {
        let text = "cannot be used with uri";
        check.error(&format!("{field}.uriRegexRewrite"), "one-of", text, "keep one of them");
    }
    plain(check, &format!("{field}.uri"), rewrite.uri.as_deref());
    absolute(check, &format!("{field}.uri"), rewrite.uri.as_deref());
    plain(check, &format!("{field}.authority"), rewrite.authority.as_deref());
    if let Some(regex) = regex {
        regex_rewrite(check, &format!("{field}.uriRegexRewrite"), regex);
    }
}

fn regex_rewrite(check: &mut Check<'_>, field: &str, rewrite: &RegexRewrite) {
    let Some(pattern) = rewrite.matches.as_deref().filter(|m| !m.is_empty()) else {
        check.error(&format!("{field}.match"), "missing-field", "is missing", "write the regex to replace");
        return;
    };
    let Some(regex) = check.regex(&format!("{field}.match"), pattern) else { return };
    let text = rewrite.rewrite.as_deref().unwrap_or_default();
    if text.is_empty() {
        let advice = "write what takes the place of what matches, such as /";
        check.error(&format!("{field}.rewrite"), "missing-field", "is missing", advice);
    }
    plain(check, &format!("{field}.rewrite"), Some(text));
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            continue;
        }
        let valid = match bytes.next() {
            Some(b'\\') => true,
            Some(digit @ b'0'..=b'9') => usize::from(digit - b'0') < regex.groups(),
            _ => false,
        };
        if !valid {
            let text = "has a backslash that names no group of the regex";
            check.error(&format!("{field}.rewrite"), "invalid-rewrite", text, "write \\1 to \\9, or \\\\");
            return;
        }
    }
}

/// Header operations of a route or destination.
pub(super) fn headers(check: &mut Check<'_>, field: &str, headers: Option<&Headers>) {
    let Some(headers) = headers else { return };
    operations(check, &format!("{field}.request"), headers.request.as_ref(), Direction::Request);
    operations(check, &format!("{field}.response"), headers.response.as_ref(), Direction::Response);
}

fn operations(
    check: &mut Check<'_>,
    field: &str,
    operations: Option<&HeaderOperations>,
    direction: Direction,
) {
    let Some(operations) = operations else { return };
    for (step, map) in [("set", &operations.set), ("add", &operations.add)] {
        for (name, value) in map {
            let field = format!("{field}.{step}{}", bracket(name));
            check.header_name(&field, name, direction);
            check.header_value(&field, name, value);
        }
    }
    for (i, name) in operations.remove.iter().enumerate() {
        let field = format!("{field}.remove[{i}]");
        if is_authority(name) && direction == Direction::Request {
            check.error(&field, "invalid-header", "a request must have its host", "set it to another value");
        } else {
            check.header_name(&field, name, direction);
        }
    }
}

/// The authority is written by the rewrite or by the route's headers, not by both.
fn authority_once(check: &mut Check<'_>, field: &str, route: &HttpRoute) {
    let rewritten =
        route.rewrite.as_ref().and_then(|r| r.authority.as_deref()).is_some_and(|a| !a.is_empty());
    let request = route.headers.as_ref().and_then(|h| h.request.as_ref());
    let set = request.is_some_and(|r| r.set.keys().chain(r.add.keys()).any(|n| is_authority(n)));
    if rewritten && set {
        let text = "the host is set in headers too";
        check.error(&format!("{field}.rewrite.authority"), "one-of", text, "keep one of them");
    }
}
