//! Copies of requests to mirrors. What goes upstream is copied on its way; once the request is all there, a task
//! of its own sends it to each mirror and throws the response away. Nothing waits for that, and what cannot be
//! copied within bounds is not copied.

use super::attempt::{Response, Tries};
use super::buffers::{Bulk, Work};
use super::deadline::Deadline;
use super::downstream::Downstream;
use super::edits::Ops;
use super::error::Kind;
use super::outgoing::Outgoing;
use super::record::{Life, Protocol, Site};
use super::relay;
use super::tunnel::End;
use super::upstream::Upstream;
use crate::connection::Connection;
use crate::h1::body::BodyScan;
use crate::h1::head::{Framing, HeadLimits};
use crate::telemetry::MirrorCount;
use crate::upstream::Cluster;
use crate::worker::Worker;
use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tidegate_engine::Scheme;

/// How many copies of one worker may be under way.
const AT_ONCE: usize = 256;
/// Bytes of requests that they may hold.
const BYTES: usize = 64 << 20;
/// Bytes of one request's body.
const BODY: usize = 1 << 20;
/// The time for a copy where the rule has no timeout.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What the copies of one worker hold.
#[derive(Default)]
pub(crate) struct Mirrors {
    copies: Cell<usize>,
    bytes: Cell<usize>,
}

impl Mirrors {
    /// How many copies are under way, and the bytes that they hold.
    #[cfg(test)]
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.copies.get(), self.bytes.get())
    }
}

/// The room of one copy.
struct Room {
    worker: Rc<Worker>,
    bytes: usize,
}

impl Room {
    fn take(worker: &Rc<Worker>) -> Result<Room, MirrorCount> {
        let copies = &worker.mirrors.copies;
        if copies.get() >= AT_ONCE {
            return Err(MirrorCount::Busy);
        }
        copies.set(copies.get() + 1);
        Ok(Room { worker: worker.clone(), bytes: 0 })
    }

    fn grow(&mut self, more: usize) -> Result<(), MirrorCount> {
        let bytes = &self.worker.mirrors.bytes;
        if bytes.get() + more > BYTES {
            return Err(MirrorCount::Memory);
        }
        bytes.set(bytes.get() + more);
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let Mirrors { copies, bytes } = &self.worker.mirrors;
        copies.set(copies.get() - 1);
        bytes.set(bytes.get() - self.bytes);
    }
}

/// A mirror that gets a copy.
struct Target {
    cluster: Arc<Cluster>,
    room: Room,
}

/// A request as it went upstream.
struct Copied {
    connection: Rc<Connection>,
    protocol: Protocol,
    scheme: Scheme,
    timeout: Duration,
    head: Vec<u8>,
    /// The content, without framing.
    body: Vec<u8>,
    trailers: Vec<u8>,
}

/// A request that is copied while it is sent.
pub(crate) struct Copying {
    /// Empty once they are sent or given up.
    targets: Vec<Target>,
    copied: Option<Copied>,
    /// Takes the framing off, where the body has any.
    scan: Option<BodyScan>,
}

/// Begins to copy the request of which head and first part of the body stand in `w.out`, for the
/// mirrors on which the dice fall.
pub(crate) fn begin<D: Downstream>(down: &D, w: &mut Work, site: Site<'_>, outgoing: &Outgoing<'_>) {
    let mut targets = Vec::new();
    for mirror in outgoing.mirrors().iter().filter(|m| m.share.takes(fastrand::u64(..))) {
        let target = match outgoing.mirror(mirror) {
            _ if w.request.upgrade => Err(MirrorCount::Upgrade),
            _ if w.request.content_length().is_some_and(|n| n > BODY as u64) => Err(MirrorCount::Body),
            None => Err(MirrorCount::NoCluster),
            Some(cluster) => Room::take(site.worker).map(|room| Target { cluster: cluster.clone(), room }),
        };
        match target {
            Ok(target) => targets.push(target),
            Err(why) => site.worker.telemetry.count_mirror(why),
        }
    }
    if targets.is_empty() {
        return;
    }
    let (head, first) = w.out.split_at(w.body_at);
    let framed = w.request.request_framing() == Framing::Chunked && !outgoing.http2;
    let copied = Copied {
        connection: site.connection.clone(),
        protocol: site.protocol,
        scheme: w.identity.scheme,
        timeout: outgoing.timeout.unwrap_or(TIMEOUT),
        head: head.to_vec(),
        body: Vec::new(),
        trailers: Vec::new(),
    };
    let scan = framed.then(|| BodyScan::new(Framing::Chunked));
    let mut copying = Box::new(Copying { targets, copied: Some(copied), scan });
    // it is parsed again, so it is held twice
    copying.grow(2 * head.len());
    copying.push(first);
    go_on_with(down, w, copying);
}

/// Copies the next piece of the body, as it goes upstream.
pub(crate) fn go_on<D: Downstream>(down: &D, w: &mut Work, piece: &[u8]) {
    if let Some(mut copying) = w.copying.take() {
        copying.push(piece);
        go_on_with(down, w, copying);
    }
}

fn go_on_with<D: Downstream>(down: &D, w: &mut Work, mut copying: Box<Copying>) {
    if down.uploaded() {
        copying.send(down.upload_trailers());
    } else if !copying.targets.is_empty() {
        w.copying = Some(copying);
    }
}

impl Copying {
    fn grow(&mut self, more: usize) {
        let grown = self.targets.iter_mut().try_for_each(|target| target.room.grow(more));
        if let Err(why) = grown {
            self.give_up(why);
        }
    }

    fn push(&mut self, piece: &[u8]) {
        self.grow(piece.len());
        let (Some(copied), false) = (&mut self.copied, self.targets.is_empty()) else { return };
        let body = &mut copied.body;
        let at = body.len();
        body.extend_from_slice(piece);
        if let Some(scan) = &mut self.scan {
            // it was scanned before, so it is well-formed
            let (_, kept) = scan.decode(&mut body[at..]).unwrap_or_default();
            body.truncate(at + kept);
        }
        if body.len() > BODY {
            self.give_up(MirrorCount::Body);
        }
    }

    fn give_up(&mut self, why: MirrorCount) {
        self.targets.drain(..).for_each(|target| target.room.worker.telemetry.count_mirror(why));
        self.copied = None;
    }

    /// Sends it, now that it is all there.
    fn send(&mut self, trailers: Option<&[u8]>) {
        let Some(mut copied) = self.copied.take() else { return };
        let own = self.scan.as_ref().and_then(BodyScan::trailers);
        copied.trailers.extend_from_slice(own.or(trailers).unwrap_or_default());
        let copied = Rc::new(copied);
        for target in self.targets.drain(..) {
            tokio::task::spawn_local(target.send(copied.clone()));
        }
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.give_up(MirrorCount::Incomplete);
    }
}

impl Target {
    async fn send(self, copied: Rc<Copied>) {
        let mut w = Work::take();
        let sent = self.exchange(&mut w, copied).await;
        w.give_back();
        let what = if sent.is_ok() { MirrorCount::Answered } else { MirrorCount::Failed };
        self.room.worker.telemetry.count_mirror(what);
    }

    async fn exchange(&self, w: &mut Work, copied: Rc<Copied>) -> Result<(), Kind> {
        let Target { cluster, room: Room { worker, .. } } = self;
        let (connection, timeout) = (copied.connection.clone(), copied.timeout);
        let site = Site { worker, connection: &connection, protocol: copied.protocol };
        let http2 = site.protocol.upstream(cluster.config().protocol) == Protocol::Http2;
        write(w, &copied, http2)?;
        let mut down = Nobody { deadline: Deadline::new(timeout), trailers: copied.trailers.clone() };
        drop(copied);
        let mut life = Life::begin(Instant::now());
        let outgoing = Outgoing::copy(cluster, http2, timeout);
        let response = Tries::new(&mut down, w, &mut life, site, outgoing).response().await?;
        let Response { mut upstream, bulk, mut upload, mut sender } = response;
        let mesh = &worker.pin(&connection.last).mesh.clone();
        let (sending, ops) = ((&mut upload, &mut sender), Ops::default());
        let relayed =
            relay::relay(&mut down, w, &mut life, ops, mesh, &mut upstream, bulk, sending, &worker.cut);
        if let (true, Upstream::One(connection)) = (relayed.await?, upstream) {
            worker.pool.put(cluster, connection);
        }
        Ok(())
    }
}

/// Writes a copy to `w` as if it had been read there, and as it goes to the mirror.
fn write(w: &mut Work, copied: &Copied, http2: bool) -> Result<(), Kind> {
    let Copied { head, body, trailers, .. } = copied;
    w.push_back(head);
    // what came passed the limits, and rules may have added to it
    let any = HeadLimits { bytes: head.len() + 1, fields: head.len(), target: head.len() };
    let parsed = w.request.parse_request(&w.buf[w.pos..w.end], any);
    if !parsed.is_ok_and(|whole| whole) {
        return Err(Kind::BadRequest(400, "copy_is_malformed"));
    }
    w.identity.scheme = copied.scheme;
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
    for part in [b"0\r\n", trailers.as_slice(), b"\r\n"] {
        w.out.extend_from_slice(part);
    }
    Ok(())
}

/// Who waits for the response of a mirror. The request is all there.
struct Nobody {
    deadline: Deadline,
    trailers: Vec<u8>,
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
        true
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

/// Upgrades are not copied, so there is nothing at this end.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::testing::{model, worker};
    use crate::limits::Limits;

    #[tokio::test]
    async fn room_is_bounded_and_given_back() {
        let worker = worker(&model("127.0.0.1:1".parse().unwrap()), Limits::default());
        let mut rooms: Vec<_> = (0..AT_ONCE).map(|_| Room::take(&worker).ok().unwrap()).collect();
        assert!(matches!(Room::take(&worker), Err(MirrorCount::Busy)));
        assert!(rooms[0].grow(BYTES - 1).is_ok() && rooms[1].grow(1).is_ok());
        assert!(matches!(rooms[2].grow(1), Err(MirrorCount::Memory)));
        assert_eq!(worker.mirrors.held(), (AT_ONCE, BYTES));
        rooms.remove(0);
        assert!(rooms[2].grow(1).is_ok() && Room::take(&worker).is_ok());
        drop(rooms);
        assert_eq!(worker.mirrors.held(), (0, 0));
    }
}
