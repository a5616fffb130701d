//! Answers that the gateway gives itself: errors, redirects, direct responses.

use super::buffers::{Bulk, Work};
use super::check::OfResponse;
use super::deadline::{Waiting, under_deadline};
use super::downstream::Downstream;
use super::edits::{Edits, Ops, line};
use super::error::{Kind, Limit, reason_phrase};
use super::grpc::{self, is_grpc};
use super::head::{end_response, write_date, write_target};
use super::record::{Life, Lookup, Reply, Site};
use super::view::View;
use crate::auth::Denial;
use crate::telemetry::{Flag, render_header};
use std::borrow::Cow;
use std::time::Instant;
use tidegate_engine::RequestView;
use tidegate_model::{AbortStatus, DirectResponse, HeaderName, HeaderOp, MeshSettings};

/// What to answer.
pub(crate) enum Answer<'t> {
    /// An error, with more details than its kind has.
    Error(Kind, Option<String>),
    /// A redirect: status, header operations, location.
    Redirect(u16, &'t [HeaderOp], Vec<u8>),
    /// What a rule says.
    Direct(&'t DirectResponse),
    /// What a provider says that does not let the request pass.
    Own(Box<DirectResponse>),
    /// What CORS says to a preflight.
    Preflight(&'t [HeaderOp]),
    /// What a fault says.
    Abort(AbortStatus),
}

/// How much of a target a refused request is told again.
const REALM: usize = 256;
/// How much of a body is handed over at once.
const PIECE: usize = 32 << 10;

/// Sends the answer. An error after the response has begun cuts it off instead.
pub(crate) async fn answer<'t, D: Downstream>(
    down: &mut D,
    w: &mut Work,
    life: &mut Life<'t>,
    site: Site<'_>,
    mesh: &MeshSettings,
    answer: Answer<'t>,
) {
    // a call that has begun still gets a status when the time is up that its client gave
    let late = life.asked_time && matches!(answer, Answer::Error(Kind::Timeout, _));
    if let Answer::Error(kind, details) = &answer
        && is_cut_off(down, life, *kind, details.as_ref(), late)
    {
        return;
    }
    let (status, ops, body): (u16, &[HeaderOp], &[u8]) = match &answer {
        Answer::Error(kind, details) => {
            let generic = kind.row().body(life.attempts);
            let body = details.as_deref().filter(|_| site.worker.explain_errors).unwrap_or(generic);
            (kind.row().status, &[], body.as_bytes())
        }
        Answer::Redirect(status, ops, _) => (*status, ops, b""),
        Answer::Direct(response) => (response.status, &response.response_headers, &response.body),
        Answer::Own(response) => (response.status, &response.response_headers, &response.body),
        Answer::Preflight(headers) => (200, headers, b""),
        Answer::Abort(status) => {
            (if let AbortStatus::Http(status) = status { *status } else { 200 }, &[], b"fault filter abort")
        }
    };
    describe(life, &answer);
    let ops = Ops { rule: ops, cors: life.cors, granted: &[] };
    let is_own =
        |name: &HeaderName| matches!(name.as_str(), "content-type" | "content-length" | "date" | "server");
    let granted = OfResponse::resolve(life.granted.as_deref().unwrap_or_default(), ops, is_own);
    let ops = Ops { granted: &granted, ..ops };
    let grpc = is_grpc(w);
    life.status = if grpc { 200 } else { status };
    let last = matches!(answer, Answer::Error(kind, _) if kind.ends_connection());
    let connection = down.connection_lines(last);
    render(life, w, site, ops, Reply::Sent);
    if grpc {
        let status = match answer {
            Answer::Abort(AbortStatus::Grpc(status)) => status,
            _ => grpc::status(status),
        };
        write_grpc_head(w, status, ops, &answer, body, mesh, connection);
    } else {
        write_head(w, status, ops, &answer, body.len(), mesh, connection);
    }
    let to_head = life.refused.as_ref().is_some_and(|refused| refused.is_head())
        || w.request.method.of_buffer(w.head()) == b"HEAD";
    let body = if grpc || to_head || status < 200 || matches!(status, 204 | 304) { b"" } else { body };
    life.responded = true;
    // the time that was up was the upstream's
    down.deadline().end_limits();
    if send(down, w, body).await.is_ok() {
        life.sent = body.len() as u64;
    } else {
        life.note(Kind::ClientGone);
        down.abort();
    }
}

/// Notes where an answer comes from that is no error.
fn describe<'t>(life: &mut Life<'t>, answer: &Answer<'t>) {
    life.details = match answer {
        Answer::Error(..) => return,
        Answer::Redirect(..) => Cow::Borrowed("direct_response"),
        Answer::Direct(response) => Cow::Borrowed(&response.details),
        Answer::Own(response) => {
            life.flags.set(Flag::ExternalAuthorization);
            Cow::Owned(response.details.to_string())
        }
        Answer::Preflight(_) => Cow::Borrowed("cors_response"),
        Answer::Abort(_) => {
            life.flags.set(Flag::FaultInjected);
            life.cors = &[];
            Cow::Borrowed("fault_filter_abort")
        }
    };
}

/// Notes an error, and ends the response where nothing can be answered any more.
fn is_cut_off<D: Downstream>(
    down: &mut D,
    life: &mut Life<'_>,
    kind: Kind,
    details: Option<&String>,
    late: bool,
) -> bool {
    life.note(kind);
    if let Some(details) = details {
        life.details = Cow::Owned(details.clone());
    }
    match life.responded {
        true if late => down.end_call(b"grpc-status: 14\r\ngrpc-message: upstream request timeout\r\n"),
        false if kind.row().status != 0 => return false,
        // what it has not taken must not wait for it in the system
        _ if kind == Kind::Limit(Limit::Download) => down.cut(),
        _ => down.abort(),
    }
    true
}

fn write_head(
    w: &mut Work,
    status: u16,
    ops: Ops<'_>,
    answer: &Answer<'_>,
    length: usize,
    mesh: &MeshSettings,
    connection: &[u8],
) {
    let own = own_line(answer, w);
    let Work { reply: out, rendered, .. } = w;
    let edits = Edits::new(ops, rendered);
    out.clear();
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason_phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    if let Some((name, value)) = own.filter(|(name, _)| edits.keeps(name.as_bytes())) {
        line(out, name.as_bytes(), &value);
    }
    if length > 0 && edits.keeps(b"content-type") {
        line(out, b"content-type", b"text/plain");
    }
    if status != 204 && status != 304 {
        line(out, b"content-length", itoa::Buffer::new().format(length).as_bytes());
    }
    if edits.keeps(b"date") {
        write_date(out);
    }
    end_response(out, edits, mesh, connection);
}

/// The line that an answer has by its kind.
fn own_line<'a>(answer: &'a Answer<'_>, w: &Work) -> Option<(&'static str, Cow<'a, [u8]>)> {
    match answer {
        Answer::Redirect(_, _, location) => Some(("location", Cow::Borrowed(location))),
        Answer::Error(Kind::Denied(denial), _) => {
            Some(("www-authenticate", Cow::Owned(challenge(w, *denial))))
        }
        Answer::Error(Kind::Overflow, _) => Some(("x-envoy-overloaded", Cow::Borrowed(b"true"))),
        _ => None,
    }
}

/// What a request without a good token is told to bring (RFC 6750 3), for its URL as in Envoy.
fn challenge(w: &Work, denial: Denial) -> Vec<u8> {
    let view = View::of(w);
    let mut target = Vec::with_capacity(REALM);
    write_target(view, &mut target);
    target.truncate(REALM);
    let mut value = b"Bearer realm=\"".to_vec();
    let url = [view.scheme().as_str().as_bytes(), b"://", view.authority(), &target];
    for b in url.concat() {
        match b {
            b'"' => value.extend_from_slice(b"%22"),
            b'\\' => value.extend_from_slice(b"%5C"),
            b => value.push(b),
        }
    }
    value.push(b'"');
    if denial != Denial::Missing {
        value.extend_from_slice(b", error=\"invalid_token\"");
    }
    value
}

/// An answer to a request of gRPC: its status and message are headers, and there is no body.
fn write_grpc_head(
    w: &mut Work,
    status: u8,
    ops: Ops<'_>,
    answer: &Answer<'_>,
    message: &[u8],
    mesh: &MeshSettings,
    connection: &[u8],
) {
    let own = own_line(answer, w);
    let Work { reply: out, rendered, .. } = w;
    let edits = Edits::new(ops, rendered);
    out.clear();
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    line(out, b"content-type", b"application/grpc");
    line(out, b"grpc-status", itoa::Buffer::new().format(status).as_bytes());
    if !message.is_empty() {
        out.extend_from_slice(b"grpc-message: ");
        grpc::encode(message, out);
        out.extend_from_slice(b"\r\n");
    }
    if let Some((name, value)) = own.filter(|(name, _)| edits.keeps(name.as_bytes())) {
        line(out, name.as_bytes(), &value);
    }
    line(out, b"content-length", b"0");
    if edits.keeps(b"date") {
        write_date(out);
    }
    end_response(out, edits, mesh, connection);
}

/// Renders the values of header operations that are not literal.
pub(crate) fn render(life: &Life<'_>, w: &mut Work, site: Site<'_>, ops: Ops<'_>, response: Reply<'_>) {
    let mut rendered = std::mem::take(&mut w.rendered);
    rendered.render(ops, |format, out| {
        let headers = Lookup { w, response };
        render_header(format, &life.record(w, site, Instant::now(), &headers), out);
    });
    w.rendered = rendered;
}

async fn send<D: Downstream>(down: &mut D, w: &mut Work, body: &[u8]) -> Result<(), Kind> {
    down.begin_response(w, body.is_empty()).map_err(|_| Kind::ClientGone)?;
    let mut bulk = Bulk::take();
    let mut pieces = body.chunks(PIECE).peekable();
    loop {
        bulk.push(pieces.next().unwrap_or_default());
        let last = pieces.peek().is_none();
        under_deadline(down, w, Waiting::ForClient, |down, w, cx| {
            down.poll_body(w, &mut bulk, last, cx).map_err(|_| Kind::ClientGone)
        })
        .await?;
        if last {
            break;
        }
        bulk = Bulk::take();
    }
    under_deadline(down, w, Waiting::ForClient, |down, _, cx| {
        down.poll_end(None, cx).map_err(|_| Kind::ClientGone)
    })
    .await
}
