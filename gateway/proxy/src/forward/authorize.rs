//! Whether a request is let through, by the policies of the gateway.

use super::answer::Answer;
use super::buffers::Work;
use super::error::Kind;
use super::record::Site;
use super::view::View;
use crate::connection::Connection;
use crate::telemetry::AuthorizationCount;
use crate::worker::Worker;
use std::net::IpAddr;
use tidegate_engine::{Authorizer, Check, Ends, Forbidden, Subject};

/// Who is at the ends of a connection; `remote` is the client as trusted proxies say. The source is whoever sent the
/// packets, also where a PROXY header names another (Envoy's `direct_remote_ip`).
pub(crate) fn ends(connection: &Connection, remote: IpAddr) -> Ends<'_> {
    let client = connection.tls.as_ref().and_then(|tls| tls.client.as_ref());
    Ends {
        source: connection.direct().ip(),
        remote,
        destination: connection.local,
        sni: connection.sni(),
        names: client.map_or(&[], |client| &client.identities),
    }
}

/// Who must be asked about the request before anything else, if anyone.
pub(crate) fn check<'t>(
    authorizer: &'t Authorizer,
    w: &Work,
    site: Site<'_>,
) -> Result<Option<Check<'t>>, Answer<'static>> {
    let view = View::of(w);
    let subject = Subject { ends: ends(site.connection, w.identity.client.ip()), request: Some(&view) };
    authorizer.check(&subject).map_err(|why| forbidden(&why, site.worker))
}

/// Whether the policies let the request through.
pub(crate) fn enforce(authorizer: &Authorizer, w: &Work, site: Site<'_>) -> Result<(), Answer<'static>> {
    let view = View::of(w);
    let subject = Subject { ends: ends(site.connection, w.identity.client.ip()), request: Some(&view) };
    if authorizer.has_notes() {
        note(authorizer, &subject, site.worker);
    }
    match authorizer.enforce(&subject) {
        Ok(()) => {
            site.worker.telemetry.count_authorization(AuthorizationCount::Allowed);
            Ok(())
        }
        Err(why) => Err(forbidden(&why, site.worker)),
    }
}

#[cold]
fn forbidden(why: &Forbidden<'_>, worker: &Worker) -> Answer<'static> {
    worker.telemetry.count_authorization(AuthorizationCount::Denied);
    Answer::Error(Kind::Forbidden, Some(why.to_string()))
}

/// Counts what policies that decide nothing say.
#[cold]
pub(crate) fn note(authorizer: &Authorizer, subject: &Subject<'_>, worker: &Worker) {
    let notes = authorizer.notes(subject);
    if let Some(rule) = notes.audited {
        worker.telemetry.count_authorization(AuthorizationCount::Audited);
        tracing::debug!(%rule, "audited");
    }
    match notes.dry_run {
        Some(Ok(())) => worker.telemetry.count_authorization(AuthorizationCount::DryRunAllowed),
        Some(Err(why)) => {
            worker.telemetry.count_authorization(AuthorizationCount::DryRunDenied);
            tracing::debug!(%why, "would be denied, if its policy was no dry run");
        }
        None => {}
    }
}
