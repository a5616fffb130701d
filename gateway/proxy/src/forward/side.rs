//! Requests that the gateway makes beside that of a client: copies for mirrors, questions to who decides about
//! requests. The code that sends requests sends them, too; nobody waits for the response but who keeps it.

use super::attempt::{Response, Tries};
use super::buffers::{Bulk, Work};
use super::deadline::Deadline;
use super::downstream::Downstream;
use super::edits::Ops;
use super::error::Kind;
use super::outgoing::Outgoing;
use super::record::{Life, Site};
use super::relay;
use super::tunnel::End;
use super::upstream::Upstream;
use crate::h1::field::Known;
use crate::h1::head::{Framing, HeadLimits};
use crate::upstream::Cluster;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tidegate_engine::Scheme;

/// A request as it goes out.
pub(crate) struct Side<'a> {
    pub(crate) scheme: Scheme,
    pub(crate) head: &'a [u8],
    /// The content, without framing.
    pub(crate) body: &'a [u8],
    pub(crate) trailers: &'a [u8],
}

impl Side<'_> {
    /// Writes it to `w` as if it had been read there, and as it goes out.
    pub(crate) fn write(&self, w: &mut Work, http2: bool) -> Result<(), Kind> {
        let Side { scheme, head, body, trailers } = self;
        w.push_back(head);
        // what came passed the limits, and rules may have added to it
        let any = HeadLimits { bytes: head.len() + 1, fields: head.len(), target: head.len() };
        let parsed = w.request.parse_request(&w.buf[w.pos..w.end], any);
        if !parsed.is_ok_and(|whole| whole) {
            return Err(Kind::BadRequest(400, "copy_is_malformed"));
        }
        w.identity.scheme = *scheme;
        w.authority.clear();
        w.authority.extend_from_slice(w.request.authority.of_buffer(head));
        w.out.extend_from_slice(head);
        w.body_at = w.out.len();
        if http2 || w.request.request_framing() != Framing::Chunked {
            w.out.extend_from_slice(body);
            return Ok(());
        }
        if !body.is_empty() {
            w.out.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
            w.out.extend_from_slice(body);
            w.out.extend_from_slice(b"\r\n");
        }
        for part in [b"0\r\n", *trailers, b"\r\n"] {
            w.out.extend_from_slice(part);
        }
        Ok(())
    }
}

/// Name and value of a field.
pub(crate) type Line = (Box<[u8]>, Box<[u8]>);

/// What was answered.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// The end-to-end fields of its head.
    pub(crate) fields: Vec<Line>,
    pub(crate) body: Vec<u8>,
    /// Trailer lines, each with its CRLF.
    pub(crate) trailers: Vec<u8>,
}

/// Sends what was written to `w`, and takes the response.
pub(crate) async fn exchange(
    w: &mut Work,
    site: Site<'_>,
    cluster: &Arc<Cluster>,
    http2: bool,
    timeout: Duration,
    mut from: Nobody,
) -> Result<Reply, Kind> {
    let mut life = Life::begin(Instant::now());
    let outgoing = Outgoing::copy(cluster, http2, timeout);
    let response = Tries::new(&mut from, w, &mut life, site, outgoing).response().await?;
    let Response { mut upstream, bulk, mut upload, mut sender } = response;
    let mut reply = Reply::default();
    if from.keeps > 0 {
        reply = head_of(w, bulk.bytes());
    }
    let mesh = &site.worker.pin(&site.connection.last).mesh.clone();
    let (sending, ops) = ((&mut upload, &mut sender), Ops::default());
    let relayed =
        relay::relay(&mut from, w, &mut life, ops, mesh, &mut upstream, bulk, sending, &site.worker.cut);
    let (over, reusable) = relayed.await?;
    if let (true, Upstream::One(connection)) = (reusable, upstream) {
        site.worker.pool.put(cluster, connection, over);
    }
    reply.body = from.kept;
    reply.trailers.extend_from_slice(&w.trailers);
    Ok(reply)
}

fn head_of(w: &Work, buf: &[u8]) -> Reply {
    let of_hop = |known: Known| known.is_framing() || known == Known::Nominated;
    let fields = w.response.fields.iter().filter(|f| !of_hop(f.known));
    let fields = fields.map(|f| (f.name.of_buffer(buf).into(), f.value.of_buffer(buf).into()));
    Reply { status: w.response.status, fields: fields.collect(), ..Reply::default() }
}

/// Whose the request is. It is all there.
pub(crate) struct Nobody {
    deadline: Deadline,
    trailers: Vec<u8>,
    /// How much of the response's body is kept; one that is longer is an error. With 0 it is thrown away.
    keeps: usize,
    kept: Vec<u8>,
}

impl Nobody {
    /// Who sends these trailers, and throws the response away.
    pub(crate) fn careless(timeout: Duration, trailers: Vec<u8>) -> Self {
        Nobody { deadline: Deadline::new(timeout), trailers, keeps: 0, kept: Vec::new() }
    }

    /// Who keeps a response of at most so many bytes.
    pub(crate) fn keeping(timeout: Duration, most: usize) -> Self {
        Nobody { deadline: Deadline::new(timeout), trailers: Vec::new(), keeps: most, kept: Vec::new() }
    }
}

impl Downstream for Nobody {
    fn deadline(&mut self) -> &mut Deadline {
        &mut self.deadline
    }

    fn begin_upload(&mut self, _: &mut Work) -> Result<Range<usize>, Kind> {
        Ok(0..0)
    }

    fn uploaded(&self) -> bool {
        true
    }

    fn received(&self) -> u64 {
        0
    }

    fn poll_upload(&mut self, _: &mut Work, _: &mut Context<'_>) -> Poll<Result<Bulk, Kind>> {
        Poll::Ready(Ok(Bulk::take()))
    }

    fn upload_content(&mut self) {}

    fn upload_trailers(&self) -> Option<&[u8]> {
        Some(self.trailers.as_slice()).filter(|t| !t.is_empty())
    }

    fn poll_gone(&mut self, _: &mut Work, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn takes_chunks(&self) -> bool {
        self.keeps == 0
    }

    fn connection_lines(&mut self, _: bool) -> &'static [u8] {
        b""
    }

    async fn interim(&mut self, _: &mut Work) -> io::Result<()> {
        Ok(())
    }

    fn begin_response(&mut self, _: &mut Work, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn poll_body(
        &mut self,
        _: &mut Work,
        body: &mut Bulk,
        _: bool,
        _: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.keeps > 0 {
            if self.kept.len() + body.bytes().len() > self.keeps {
                return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
            }
            self.kept.extend_from_slice(body.bytes());
        }
        body.truncate(0);
        Poll::Ready(Ok(()))
    }

    fn poll_end(&mut self, _: Option<&[u8]>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn begin_tunnel(&mut self, _: &Work) -> Range<usize> {
        0..0
    }

    fn abort(&mut self) {}
}

/// Upgrades are not asked for, so there is nothing at this end.
impl End for Nobody {
    fn poll_read(&mut self, _: &mut Context<'_>) -> Poll<io::Result<Bulk>> {
        Poll::Ready(Ok(Bulk::take()))
    }

    fn poll_write(&mut self, piece: &mut Bulk, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        piece.truncate(0);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn cut(&mut self) {}
}
