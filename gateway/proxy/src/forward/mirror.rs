//! Copies of requests to mirrors. What goes upstream is copied on its way; once the request is all there, a task
//! of its own sends it to each mirror and throws the response away. Nothing waits for that, and what cannot be
//! copied within bounds is not copied.

use super::buffers::Work;
use super::downstream::Downstream;
use super::error::Kind;
use super::outgoing::Outgoing;
use super::record::{Protocol, Site};
use super::share::{Share, Taken};
use super::side::{self, Nobody, Side};
use crate::connection::Connection;
use crate::h1::body::BodyScan;
use crate::h1::head::Framing;
use crate::telemetry::MirrorCount;
use crate::upstream::Cluster;
use crate::worker::Worker;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
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
    copies: Taken,
    bytes: Taken,
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
    _copy: Share,
    bytes: Share,
}

impl Room {
    fn take(worker: &Rc<Worker>) -> Result<Room, MirrorCount> {
        let Mirrors { copies, bytes } = &worker.mirrors;
        let mut copy = Share::of(copies);
        if !copy.grow(1, AT_ONCE) {
            return Err(MirrorCount::Busy);
        }
        Ok(Room { worker: worker.clone(), _copy: copy, bytes: Share::of(bytes) })
    }

    fn grow(&mut self, more: usize) -> Result<(), MirrorCount> {
        if self.bytes.grow(more, BYTES) { Ok(()) } else { Err(MirrorCount::Memory) }
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
        let Copied { scheme, head, body, trailers, .. } = &*copied;
        Side { scheme: *scheme, head, body, trailers }.write(w, http2)?;
        let from = Nobody::careless(timeout, trailers.clone());
        drop(copied);
        side::exchange(w, site, cluster, http2, timeout, from).await.map(|_| ())
    }
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
