//! Requests for hosts of other TLS servers than that of their connection: HTTP/2 clients send them where a certificate
//! has both names (RFC 9113 9.1.1).

use super::record::{Protocol, Site};
use crate::snapshot::Snapshot;
use crate::tls::TlsFacts;
use tidegate_engine::RouteTableView;
use tidegate_model::TableName;

/// Why a connection has no routes for a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoRoutes<'t> {
    /// Its listener or its server is gone.
    Gone,
    /// The authority belongs to this server, for which the client needs another connection.
    Misdirected(&'t TableName),
    /// The authority belongs to this server, which asks clients for certificates; that of HTTP/1 cannot be told to open
    /// another connection.
    Guarded(&'t TableName),
}

/// What a request is routed by.
///
/// Over HTTP/2 one whose authority belongs to another server of the port is served by that server's routes if its
/// certificates, checks of clients and versions are those of the connection's, so that the client and we know no less
/// of each other than on a connection of its own. Over HTTP/1 the connection's server alone counts, as in Istio, except
/// that nobody gets past the checks of clients of another server in this way.
pub(super) fn routes<'t>(
    snapshot: &'t Snapshot,
    site: Site<'_>,
    authority: &[u8],
) -> Result<RouteTableView<'t>, NoRoutes<'t>> {
    let own = snapshot.routes(site.connection).ok_or(NoRoutes::Gone);
    match &site.connection.tls {
        Some(tls) if !is_own_name(tls, authority) => elsewhere(snapshot, site, tls, authority).unwrap_or(own),
        _ => own,
    }
}

/// The usual case: the name that TLS was asked for, with or without a port.
fn is_own_name(tls: &TlsFacts, authority: &[u8]) -> bool {
    let Some(sni) = tls.sni.as_deref() else { return false };
    let Some((host, port)) = authority.split_at_checked(sni.len()) else { return false };
    host.eq_ignore_ascii_case(sni.as_bytes()) && (port.is_empty() || port.starts_with(b":"))
}

/// `None` where the connection's own server has the authority, or nobody.
fn elsewhere<'t>(
    snapshot: &'t Snapshot,
    site: Site<'_>,
    tls: &TlsFacts,
    authority: &[u8],
) -> Option<Result<RouteTableView<'t>, NoRoutes<'t>>> {
    let own = snapshot.server_name(site.connection, tls)?;
    let name = snapshot.table.listener(&site.connection.listener)?.tls_server_of(authority)?;
    if name == own {
        return None;
    }
    let (ours, theirs) = (snapshot.tls.get(own), snapshot.tls.get(name));
    match site.protocol {
        Protocol::Http2 => {
            let covered = ours.zip(theirs).is_some_and(|(ours, theirs)| ours.covers(theirs));
            let routes = snapshot.table.route_table(name).filter(|_| covered);
            Some(routes.ok_or(NoRoutes::Misdirected(name)))
        }
        Protocol::Http1 => {
            let checks = |ours| theirs.is_some_and(|theirs| theirs.checks_clients_unlike(ours));
            ours.is_some_and(checks).then_some(Err(NoRoutes::Guarded(name)))
        }
    }
}
