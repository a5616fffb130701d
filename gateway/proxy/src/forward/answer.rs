//! Answers that the gateway gives itself: errors, redirects, direct responses.

use super::buffers::{Bulk, Work};
use super::downstream::Downstream;
use super::edits::{Edits, Ops, line};
use super::error::{Kind, reason_phrase};
use super::grpc::{self, is_grpc};
use super::head::{end_response, write_date};
use super::record::{Life, Lookup, Reply, Site};
use crate::telemetry::{Flag, render_header};
use std::borrow::Cow;
use std::future::poll_fn;
use std::task::Poll;
use tidegate_model::{AbortStatus, DirectResponse, HeaderOp, MeshSettings};

/// What to answer.
pub(crate) enum Answer<'t> {
    /// An error, with more details than its kind has.
    Error(Kind, Option<String>),
    /// A redirect: status, header operations, location.
    Redirect(u16, &'t [HeaderOp], Vec<u8>),
    /// What a rule says.
    Direct(&'t DirectResponse),
    /// What CORS says to a preflight.
    Preflight(&'t [HeaderOp]),
    /// What a fault says.
    Abort(AbortStatus),
}

impl From<Kind> for Answer<'_> {
    fn from(kind: Kind) -> Self {
        Answer::Error(kind, None)
    }
}

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
    if let Answer::Error(kind, details) = &answer {
        life.note(*kind);
        if let Some(details) = details {
            life.details = Cow::Owned(details.clone());
        }
        if life.responded || kind.row().status == 0 {
            return down.abort();
        }
    }
    let (status, ops, body): (u16, &[HeaderOp], &[u8]) = match &answer {
        Answer::Error(kind, details) => {
            let body = details.as_deref().filter(|_| site.worker.explain_errors).unwrap_or(kind.row().body);
            (kind.row().status, &[], body.as_bytes())
        }
        Answer::Redirect(status, ops, _) => {
            life.details = Cow::Borrowed("direct_response");
            (*status, ops, b"")
        }
        Answer::Direct(response) => {
            life.details = Cow::Borrowed(&response.details);
            (response.status, &response.response_headers, &response.body)
        }
        Answer::Preflight(headers) => {
            life.details = Cow::Borrowed("cors_response");
            (200, headers, b"")
        }
        Answer::Abort(status) => {
            life.details = Cow::Borrowed("fault_filter_abort");
            life.flags.set(Flag::FaultInjected);
            life.cors = &[];
            (if let AbortStatus::Http(status) = status { *status } else { 200 }, &[], b"fault filter abort")
        }
    };
    let ops = Ops { rule: ops, cors: life.cors };
    let grpc = is_grpc(w);
    life.status = if grpc { 200 } else { status };
    let location = if let Answer::Redirect(_, _, l) = &answer { Some(l.as_slice()) } else { None };
    // after a request that breaks the rules, the next one is not to be trusted
    let connection = down.connection_lines(matches!(answer, Answer::Error(..)) && status == 400);
    render(life, w, site, ops, Reply::Sent);
    if grpc {
        let status = if let Answer::Abort(AbortStatus::Grpc(s)) = answer { s } else { grpc::status(status) };
        write_grpc_head(w, status, ops, location, body, mesh, connection);
    } else {
        write_head(w, status, ops, location, body.len(), mesh, connection);
    }
    let to_head = life.refused_head || w.request.method.of_buffer(w.head()) == b"HEAD";
    let body = if grpc || to_head || status < 200 || matches!(status, 204 | 304) { b"" } else { body };
    life.responded = true;
    if send(down, w, body).await.is_ok() {
        life.sent = body.len() as u64;
    } else {
        life.note(Kind::ClientGone);
        down.abort();
    }
}

fn write_head(
    w: &mut Work,
    status: u16,
    ops: Ops<'_>,
    location: Option<&[u8]>,
    length: usize,
    mesh: &MeshSettings,
    connection: &[u8],
) {
    let Work { reply: out, rendered, .. } = w;
    let edits = Edits::new(ops, rendered);
    out.clear();
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason_phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    if let Some(location) = location.filter(|_| edits.keeps(b"location")) {
        line(out, b"location", location);
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

/// An answer to a request of gRPC: its status and message are headers, and there is no body.
fn write_grpc_head(
    w: &mut Work,
    status: u8,
    ops: Ops<'_>,
    location: Option<&[u8]>,
    message: &[u8],
    mesh: &MeshSettings,
    connection: &[u8],
) {
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
    if let Some(location) = location.filter(|_| edits.keeps(b"location")) {
        line(out, b"location", location);
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
        render_header(format, &life.record(w, site, &headers), out);
    });
    w.rendered = rendered;
}

async fn send<D: Downstream>(down: &mut D, w: &mut Work, body: &[u8]) -> std::io::Result<()> {
    down.begin_response(w, body.is_empty())?;
    let mut bulk = Bulk::take();
    let mut pieces = body.chunks(PIECE).peekable();
    loop {
        bulk.push(pieces.next().unwrap_or_default());
        let last = pieces.peek().is_none();
        poll_fn(|cx| match down.poll_body(w, &mut bulk, last, cx) {
            Poll::Pending => down.deadline().poll(cx).map(|_| Err(std::io::ErrorKind::TimedOut.into())),
            ready => ready,
        })
        .await?;
        if last {
            break;
        }
        bulk = Bulk::take();
    }
    poll_fn(|cx| match down.poll_end(None, cx) {
        Poll::Pending => down.deadline().poll(cx).map(|_| Err(std::io::ErrorKind::TimedOut.into())),
        ready => ready,
    })
    .await
}
