//! Asking a provider whether a request may pass (`ext_authz`), by HTTP or gRPC: [`decide`] has the body read as far as
//! that is wanted, asks, and applies what the answer changes. Whatever goes wrong refuses the request, unless the
//! provider is one that may fail open. A lack of room here is no failure of the provider: what cannot be asked for that
//! never passes, since clients can bring it about.

mod grant;
mod grpc;
mod http;
mod messages;
mod room;

pub(crate) use grant::{Granted, OfResponse};
#[cfg(test)]
pub(crate) use room::fill;
pub(crate) use room::{Checks, Held};

use super::answer::Answer;
use super::buffers::Work;
use super::deadline::{Waiting, under_deadline};
use super::downstream::Downstream;
use super::error::{Kind, Limit};
use super::plan::{Plan, admit, route};
use super::record::{Life, Lookup, Reply as ReplyHead, Site};
use super::side::{self, Nobody, Reply, Side};
use super::view::View;
use crate::connection::Connection;
use crate::h1::body::BodyScan;
use crate::h1::field::Known;
use crate::snapshot::Snapshot;
use crate::telemetry::{AuthorizationCount, render_header};
use grant::Grant;
use room::Room;
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Instant, SystemTime};
use tidegate_engine::{Check, RequestView, Scheme};
use tidegate_model::{
    CheckProtocol, CheckedBody, DirectResponse, ExternalAuthorizer, FormatString, HeaderName, HeaderOp,
};

/// The largest body of an answer.
const LARGEST: usize = 1 << 20;
/// Whether a part of the body was left out of what is checked.
const PARTIAL: &str = "x-envoy-auth-partial-body";

/// What a provider says.
enum Said {
    Pass(Grant),
    Refuse(DirectResponse),
}

/// Why a provider says nothing of use.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("its cluster does not exist")]
    NoCluster,
    #[error("too many checks are under way, or they hold too much memory")]
    Busy,
    #[error("it was not reached, or did not answer in time: {0:?}")]
    Exchange(Kind),
    #[error("it answers {0}")]
    Status(u16),
    #[error("it answers with gRPC status {0}")]
    Grpc(String),
    #[error("its answer is not what the protocol has: {0}")]
    Malformed(&'static str),
}

impl CheckError {
    /// Whether something passes that was not decided about for this.
    fn may_pass(&self, by: &ExternalAuthorizer) -> bool {
        by.fail_open && !matches!(self, CheckError::Busy)
    }

    /// What the log says where it does not.
    fn details(&self) -> &'static str {
        match self {
            CheckError::Busy => "ext_authz_busy",
            _ => "ext_authz_error",
        }
    }
}

/// A question: what a provider is to decide about.
struct Question {
    protocol: &'static str,
    scheme: Scheme,
    source: SocketAddr,
    destination: SocketAddr,
    sni: String,
    time: SystemTime,
    /// `None` for a connection without requests.
    request: Option<Asked>,
}

/// The request of a question.
struct Asked {
    id: String,
    method: Vec<u8>,
    authority: Vec<u8>,
    /// Path and query as they are matched.
    target: Vec<u8>,
    /// In lower case, each with its values; without those of the hop.
    headers: Vec<(String, Vec<Vec<u8>>)>,
    /// What is sent beside these.
    added: Vec<(HeaderName, Vec<u8>)>,
    content_length: Option<u64>,
    /// Where there is one.
    body: Option<Body>,
}

/// As much of a body as is checked.
struct Body {
    content: Vec<u8>,
    partial: bool,
    /// How many bytes of it had come.
    received: usize,
}

/// Asks about the request, and what is to be done then.
pub(crate) async fn decide<'t, D: Downstream>(
    down: &mut D,
    w: &mut Work,
    life: &mut Life<'t>,
    site: Site<'_>,
    snapshot: &'t Snapshot,
    check: Check<'t>,
    first: Range<usize>,
) -> Plan<'t> {
    let grant = match ask_for(down, w, life, site, snapshot, check.by, first).await {
        Ok(grant) => grant,
        Err(answer) => return Plan::Answer(answer),
    };
    // what the provider changes counts for routing only where it may, or where a token is verified (`clear_route_cache`
    // of Envoy's filters); no route is kept for a path that is not sent
    let stays = !check.by.clear_route_cache && grant.target.is_none();
    let routed = stays.then(|| route(life, w, site, snapshot));
    life.granted = grant.apply(w);
    if let Err(answer) = admit(w, site, snapshot) {
        (life.route, life.cors) = (None, &[]);
        return Plan::Answer(answer);
    }
    routed.filter(|_| w.verified.is_none()).unwrap_or_else(|| route(life, w, site, snapshot))
}

async fn ask_for<D: Downstream>(
    down: &mut D,
    w: &mut Work,
    life: &Life<'_>,
    site: Site<'_>,
    snapshot: &Snapshot,
    by: &ExternalAuthorizer,
    first: Range<usize>,
) -> Result<Grant, Answer<'static>> {
    let count = |what| site.worker.telemetry.count_authorization(what);
    let asked = async {
        let body = match &by.body {
            Some(wanted) => Some(read(down, w, site, *wanted, first).await?),
            None => None,
        };
        // not before: a client that sends slowly takes no place from others
        let room = Room::take(site.worker).map_err(Unasked::Provider)?;
        let question = question(w, site, body, added(w, life, site, by));
        let mut asking = pin!(ask(question, by, snapshot, site, room));
        let waiting = under_deadline(down, w, Waiting::ForUpstream, |_, _, cx| {
            asking.as_mut().poll(cx).map(Ok::<_, Kind>)
        });
        let mut said = waiting.await.map_err(Unasked::Client)?.map_err(Unasked::Provider)?;
        if let Said::Pass(grant) = &mut said {
            let mesh = &snapshot.mesh;
            let view = View::of(w);
            grant
                .readdress(view.method(), mesh.path_normalization, mesh.strict_paths)
                .map_err(Unasked::Provider)?;
        }
        Ok(said)
    };
    match asked.await {
        Ok(Said::Pass(grant)) => {
            count(AuthorizationCount::CheckPassed);
            Ok(grant)
        }
        Ok(Said::Refuse(response)) => {
            count(AuthorizationCount::CheckRefused);
            Err(Answer::Own(Box::new(response)))
        }
        Err(Unasked::Client(kind)) => Err(Answer::Error(kind, None)),
        Err(Unasked::Provider(error)) => {
            count(AuthorizationCount::CheckFailed);
            tracing::debug!(provider = %by.name, %error, fail_open = by.fail_open, "a check failed");
            if error.may_pass(by) {
                Ok(Grant::default())
            } else {
                Err(Answer::Own(Box::new(failed(by, &error))))
            }
        }
    }
}

/// Why there is no answer.
enum Unasked {
    /// For something that the client did.
    Client(Kind),
    Provider(CheckError),
}

impl From<Kind> for Unasked {
    fn from(kind: Kind) -> Self {
        Unasked::Client(kind)
    }
}

/// What is answered where nobody decided.
fn failed(by: &ExternalAuthorizer, error: &CheckError) -> DirectResponse {
    let (status, body) = match error {
        CheckError::Busy => (503, &b"too many authorization checks"[..]),
        _ => (by.status_on_error, &b"RBAC: access denied"[..]),
    };
    DirectResponse {
        status,
        body: body.into(),
        response_headers: Vec::new(),
        details: error.details().into(),
    }
}

fn refusal(status: u16, body: &[u8], response_headers: Vec<HeaderOp>) -> DirectResponse {
    // a refusal that a client could take for a success is none
    let status = if (300..600).contains(&status) { status } else { 403 };
    DirectResponse { status, body: body.into(), response_headers, details: "ext_authz_denied".into() }
}

/// Asks about a connection whose bytes go on. Only gRPC can ask without a request.
pub(crate) async fn connection(
    connection: &Rc<Connection>,
    site: Site<'_>,
    snapshot: &Snapshot,
    by: &ExternalAuthorizer,
) -> Result<(), &'static str> {
    let question = Question {
        protocol: "",
        scheme: Scheme::Http,
        source: connection.peer,
        destination: connection.local,
        sni: connection.sni().to_owned(),
        time: SystemTime::now(),
        request: None,
    };
    let said = match Room::take(site.worker) {
        Ok(room) => ask(question, by, snapshot, site, room).await,
        Err(error) => Err(error),
    };
    let (count, result) = match said {
        Ok(Said::Pass(_)) => (AuthorizationCount::CheckPassed, Ok(())),
        Ok(Said::Refuse(_)) => (AuthorizationCount::CheckRefused, Err("ext_authz_denied")),
        Err(error) => {
            tracing::debug!(provider = %by.name, %error, fail_open = by.fail_open, "a check failed");
            (AuthorizationCount::CheckFailed, if error.may_pass(by) { Ok(()) } else { Err(error.details()) })
        }
    };
    site.worker.telemetry.count_authorization(count);
    result
}

async fn ask(
    question: Question,
    by: &ExternalAuthorizer,
    snapshot: &Snapshot,
    site: Site<'_>,
    mut room: Room,
) -> Result<Said, CheckError> {
    let cluster = snapshot.clusters.get(&by.cluster).ok_or(CheckError::NoCluster)?.clone();
    let host = format!("{}:{}", cluster.config().host, cluster.config().port);
    let (head, body, http2) = match &by.protocol {
        CheckProtocol::Http(http) => {
            let (head, body) = http::write(&question, http);
            (head, body, cluster.config().protocol == tidegate_model::UpstreamProtocol::Http2)
        }
        CheckProtocol::Grpc => {
            let (head, body) = grpc::write(&question, by, &host);
            (head, body, true)
        }
    };
    room.grow(head.len() + body.len())?;
    let mut w = Work::take();
    let scheme = question.scheme;
    drop(question);
    let exchanged = async {
        Side { scheme, head: &head, body: &body, trailers: b"" }.write(&mut w, http2)?;
        let from = Nobody::keeping(by.timeout, LARGEST);
        side::exchange(&mut w, site, &cluster, http2, by.timeout, from).await
    };
    let reply = exchanged.await;
    w.give_back();
    let reply: Reply = reply.map_err(CheckError::Exchange)?;
    match &by.protocol {
        CheckProtocol::Http(http) => http::read(&reply, http),
        CheckProtocol::Grpc => grpc::read(&reply),
    }
}

/// Everything about the request that a provider may see.
fn question(w: &Work, site: Site<'_>, body: Option<Body>, added: Vec<(HeaderName, Vec<u8>)>) -> Question {
    let view = View::of(w);
    let mut target = Vec::new();
    super::head::write_target(view, &mut target);
    let request = Asked {
        id: String::from_utf8_lossy(&w.identity.request_id).into_owned(),
        method: view.method().to_vec(),
        authority: view.authority().to_vec(),
        target,
        headers: headers(w, view),
        added,
        content_length: w.request.content_length(),
        body: body.filter(|body| body.received > 0),
    };
    let connection = site.connection;
    Question {
        protocol: match site.protocol {
            super::record::Protocol::Http2 => "HTTP/2",
            super::record::Protocol::Http1 if w.request.http11 => "HTTP/1.1",
            super::record::Protocol::Http1 => "HTTP/1.0",
        },
        scheme: view.scheme(),
        source: SocketAddr::new(w.identity.client.ip(), connection.peer.port()),
        destination: connection.local,
        sni: connection.sni().to_owned(),
        time: SystemTime::now(),
        request: Some(request),
    }
}

/// The headers that are sent to a provider by HTTP beside those of the request; one without a value is not, as in Envoy.
fn added(w: &Work, life: &Life<'_>, site: Site<'_>, by: &ExternalAuthorizer) -> Vec<(HeaderName, Vec<u8>)> {
    let CheckProtocol::Http(http) = &by.protocol else { return Vec::new() };
    let rendered = |(name, format): &(HeaderName, FormatString)| {
        let mut value = Vec::new();
        let headers = Lookup { w, response: ReplyHead::Sent };
        render_header(format, &life.record(w, site, Instant::now(), &headers), &mut value);
        (!value.is_empty()).then(|| (name.clone(), value))
    };
    http.additional_headers.iter().filter_map(rendered).collect()
}

/// The headers as the upstream would see them, but for what says how the message is delimited.
fn headers(w: &Work, view: View<'_>) -> Vec<(String, Vec<Vec<u8>>)> {
    const OWN: [&str; 4] =
        ["x-forwarded-for", "x-forwarded-proto", "x-request-id", "x-forwarded-client-cert"];
    let buf = w.head();
    let sent = w.request.fields.iter().filter(|f| !f.known.is_framing() && f.known != Known::Nominated);
    let mut names: Vec<String> =
        sent.map(|f| String::from_utf8_lossy(f.name.of_buffer(buf)).to_ascii_lowercase()).collect();
    names.extend(OWN.map(str::to_owned));
    names.sort_unstable();
    names.dedup();
    let values = |name: String| {
        let mut values = Vec::new();
        view.each_value(&tidegate_model::HeaderName::new(&name), &mut |value| values.push(value.to_vec()));
        (!values.is_empty()).then_some((name, values))
    };
    names.into_iter().filter_map(values).collect()
}

/// Reads as much of the body as is checked. What was read behind the head stays in `w.ahead`. All that must come within
/// the time for which a request may stand still: bytes that trickle in do not make it longer.
async fn read<D: Downstream>(
    down: &mut D,
    w: &mut Work,
    site: Site<'_>,
    wanted: CheckedBody,
    first: Range<usize>,
) -> Result<Body, Unasked> {
    let too_large = || Unasked::Client(Kind::Limit(Limit::Body));
    let most = wanted.most as u64;
    if !wanted.partial && w.request.content_length().is_some_and(|n| n > most) {
        return Err(too_large());
    }
    if !down.uploaded() {
        go_ahead(down, w).await?;
    }
    // it stays for as long as the request
    let mut held = Held::by(site.worker);
    while !down.uploaded() && down.received() <= most {
        let piece =
            under_deadline(down, w, Waiting::ForClient, |down, w, cx| down.poll_upload(w, cx)).await?;
        if site.worker.limits.request_body.is_some_and(|most| down.received() > most) {
            return Err(Unasked::Client(Kind::Limit(Limit::Body)));
        }
        held.grow(piece.bytes().len()).map_err(Unasked::Provider)?;
        w.ahead.extend_from_slice(piece.bytes());
    }
    w.held = Some(held);
    down.deadline().touch();
    let mut content = [&w.buf[first], &w.ahead].concat();
    // it was scanned before, so it is well-formed
    let decoded = BodyScan::new(w.request.request_framing()).decode(&mut content);
    let (_, length) = decoded.map_err(|_| Kind::BadBody)?;
    content.truncate(length);
    let received = content.len();
    let partial = received > wanted.most || !down.uploaded();
    if partial && !wanted.partial {
        return Err(too_large());
    }
    content.truncate(wanted.most);
    Ok(Body { content, partial, received })
}

/// Has a client send its body that waits to be told so.
async fn go_ahead<D: Downstream>(down: &mut D, w: &mut Work) -> Result<(), Kind> {
    let mut expects = false;
    for field in w.request.fields.iter_mut().filter(|f| f.known == Known::Expect) {
        // the upstream has no need to say it again
        field.known = Known::Nominated;
        expects = true;
    }
    if expects && w.request.http11 {
        w.reply.clear();
        w.reply.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        down.interim(w).await.map_err(|_| Kind::ClientGone)?;
    }
    Ok(())
}
