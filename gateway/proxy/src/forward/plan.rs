//! Deciding what happens to a request, by the engine.

use super::answer::Answer;
use super::authorize;
use super::buffers::Work;
use super::error::Kind;
use super::misdirected::{self, NoRoutes};
use super::path;
use super::record::{Life, Site};
use super::view::View;
use crate::h1::authority;
use crate::h1::field::Known;
use crate::snapshot::Snapshot;
use crate::trace::{Said, SpanContext};
use tidegate_engine::{Check, Decision, ForwardDecision, NoRoute, RequestView};
use tidegate_model::Tracing;

/// What is to be done.
pub(crate) enum Plan<'t> {
    /// Send it on.
    Forward(ForwardDecision<'t>),
    /// Answer here.
    Answer(Answer<'t>),
    /// Ask first.
    Check(Check<'t>),
}

/// Makes the path canonical, works out who is asking, has policies and tokens looked at, and asks the engine.
pub(crate) fn plan<'t>(
    life: &mut Life<'t>,
    w: &mut Work,
    site: Site<'_>,
    snapshot: &'t Snapshot,
) -> Plan<'t> {
    let Work { buf, pos, request, identity, .. } = w;
    let buf = &buf[*pos..];
    let (peer, tls) = (site.connection.peer, site.connection.tls.as_ref());
    identity.establish(request, buf, peer, tls.is_some(), snapshot.mesh.trusted_proxies);
    identity.certify(snapshot.mesh.client_certificates, tls.and_then(|tls| tls.client.as_ref()));
    if let Some(tracing) = &snapshot.mesh.tracing {
        begin_span(life, w, site, snapshot, tracing);
    }
    let Work { buf, pos, request, path, authority, .. } = w;
    let buf = &buf[*pos..];
    authority.clear();
    authority.extend_from_slice(request.authority.of_buffer(buf));
    // a fragment stands behind the target
    let has_fragment = || buf.get(request.target.end()) == Some(&b'#');
    if snapshot.mesh.strict_paths && (!path::is_plain_path(request.target.of_buffer(buf)) || has_fragment()) {
        return Plan::Answer(Answer::Error(Kind::BadPath, None));
    }
    let sent = request.path.of_buffer(buf);
    if sent != b"*" && path::canonicalize(snapshot.mesh.path_normalization, sent, path).is_err() {
        return Plan::Answer(Answer::Error(Kind::BadPath, None));
    }
    // a provider is asked first, as in Istio: it may bring the token
    if let Some(authorizer) = snapshot.table.authorizer() {
        match authorize::check(authorizer, w, site) {
            Ok(None) => {}
            Ok(Some(check)) => return Plan::Check(check),
            Err(answer) => return Plan::Answer(answer),
        }
    }
    match admit(w, site, snapshot) {
        Ok(()) => route(life, w, site, snapshot),
        Err(answer) => Plan::Answer(answer),
    }
}

/// Verifies tokens where that was asked for, and holds the request against the policies that need nobody else.
pub(crate) fn admit(w: &mut Work, site: Site<'_>, snapshot: &Snapshot) -> Result<(), Answer<'static>> {
    if let Some(authenticator) = &snapshot.authentication {
        let verified = authenticator.authenticate(w, &site.worker.tokens);
        verified.map_err(|denial| Answer::Error(Kind::Denied(denial), None))?;
    }
    match snapshot.table.authorizer() {
        Some(authorizer) => authorize::enforce(authorizer, w, site),
        None => Ok(()),
    }
}

/// Asks the engine.
pub(crate) fn route<'t>(life: &mut Life<'t>, w: &Work, site: Site<'_>, snapshot: &'t Snapshot) -> Plan<'t> {
    let view = View::of(w);
    let table = match misdirected::routes(snapshot, site, view.authority()) {
        Ok(table) => table,
        Err(why) => return Plan::Answer(no_routes(why, view.authority())),
    };
    let decision = table.decide(&view, fastrand::u64(..));
    match decision {
        Decision::Forward(f) => {
            (life.route, life.cors) = (Some(f.route), f.cors);
            Plan::Forward(f)
        }
        Decision::Redirect(route, redirect, cors) => {
            (life.route, life.cors) = (Some(route), cors);
            Plan::Answer(Answer::Redirect(
                redirect.status,
                &redirect.response_headers,
                location(&decision, &view),
            ))
        }
        Decision::HttpsRedirect => Plan::Answer(Answer::Redirect(301, &[], location(&decision, &view))),
        Decision::DirectResponse(route, response, cors) => {
            (life.route, life.cors) = (Some(route), cors);
            Plan::Answer(Answer::Direct(response))
        }
        Decision::Preflight(route, headers) => {
            life.route = Some(route);
            Plan::Answer(Answer::Preflight(headers))
        }
        Decision::NoRoute(NoRoute::NoVirtualHost) if view.authority().is_empty() => {
            Plan::Answer(Answer::Error(Kind::NoHost, None))
        }
        Decision::NoRoute(why) => {
            Plan::Answer(Answer::Error(Kind::NoRoute, Some(explain(why, view, w.request.http11))))
        }
    }
}

/// Continues the caller's trace, or begins one.
#[cold]
fn begin_span<'t>(
    life: &mut Life<'t>,
    w: &mut Work,
    site: Site<'_>,
    snapshot: &Snapshot,
    tracing: &'t Tracing,
) {
    life.tracing = Some(tracing);
    let port = snapshot.routes(site.connection).map_or(0, |table| table.server_port());
    let buf = &w.buf[w.pos..];
    let fields = w.request.fields.iter().filter(|f| matches!(f.known, Known::TraceParent | Known::B3));
    let said = Said::of(fields.map(|f| (f.name.of_buffer(buf), f.value.of_buffer(buf))));
    let span = SpanContext::begin(&said, tracing, port);
    if span.sampled {
        w.identity.mark_traced();
    }
    w.span = Some(span);
}

/// Why a connection has no routes for a request, for the one who has to mend it.
#[cold]
fn no_routes(why: NoRoutes<'_>, authority: &[u8]) -> Answer<'static> {
    let authority = String::from_utf8_lossy(authority);
    let (kind, why) = match why {
        NoRoutes::Gone => {
            (Kind::NoRoute, "route_not_found{this listener is gone from the configuration}".into())
        }
        NoRoutes::Misdirected(server) => {
            let why = format!(
                "misdirected_request{{authority {authority:?} belongs to server {server}, whose certificate or TLS \
                 settings are not those of this connection}}"
            );
            (Kind::Misdirected, why)
        }
        NoRoutes::Guarded(server) => {
            let why = format!(
                "route_not_found{{authority {authority:?} belongs to server {server}, which checks certificates of \
                 clients in a way that this connection was not}}"
            );
            (Kind::NoRoute, why)
        }
    };
    Answer::Error(kind, Some(why))
}

fn location(decision: &Decision<'_>, view: &View<'_>) -> Vec<u8> {
    let mut location = Vec::with_capacity(128);
    decision.write_location(view, &mut location);
    location
}

/// Why there is no route, for the one who has to mend it.
fn explain(why: NoRoute, view: View<'_>, http11: bool) -> String {
    let authority = String::from_utf8_lossy(view.authority()).into_owned();
    match why {
        NoRoute::NoRule => format!(
            "route_not_found{{virtual host of authority {authority:?} has no rule that matches {} {}}}",
            String::from_utf8_lossy(view.method()),
            String::from_utf8_lossy(view.path()),
        ),
        NoRoute::NoVirtualHost => {
            let advice = if is_upstream_name(view, http11) {
                "; this looks like the upstream name of a proxy in front: with nginx, set `proxy_set_header Host $host`"
            } else {
                ""
            };
            format!("route_not_found{{no virtual host for authority {authority:?} on this listener{advice}}}")
        }
    }
}

/// Whether the Host looks like what nginx sends when nobody told it otherwise: the name of its
/// `upstream` block or the address in `proxy_pass`.
fn is_upstream_name(view: View<'_>, http11: bool) -> bool {
    let host = authority::host(view.authority());
    let proxied = !http11
        || [&b"x-real-ip"[..], b"x-forwarded-host", b"via"].iter().any(|n| view.values(n).next().is_some())
        || view.values(b"x-forwarded-for").next().is_some();
    let address = std::str::from_utf8(host)
        .is_ok_and(|h| h.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok());
    proxied && (address || !host.contains(&b'.') || host.contains(&b'_'))
}
