use crate::limits::Limits;
use crate::listener::{Acceptor, HandedOn, Listening};
use crate::snapshot::{LastSnapshot, Live, Snapshot};
use crate::telemetry::WorkerTelemetry;
use crate::upstream::Pool;
use ipnet::IpNet;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::mpsc;

/// What one worker thread owns: nothing in it is shared on the hot path but what sits in `Arc`s.
pub(crate) struct Worker {
    /// Limits and deadlines.
    pub(crate) limits: Limits,
    /// Idle upstream connections of this worker.
    pub(crate) pool: Pool,
    /// Log buffer and counters of this worker.
    pub(crate) telemetry: WorkerTelemetry,
    /// Whether the process is draining: answers say `Connection: close`.
    pub(crate) draining: Arc<AtomicBool>,
    /// Whether a 404 says why in its body (`--explain-errors`).
    pub(crate) explain_errors: bool,
    /// Peers whose connections begin with a PROXY header, where the mesh config asks for it.
    pub(crate) proxy_protocol_from: Vec<IpNet>,
    /// Where the live snapshot is found, and the one seen last.
    pub(crate) cache: SnapshotCache,
}

/// A snapshot held by a request. Cloning touches no atomic shared with other workers.
pub(crate) type Pin = Rc<Arc<Snapshot>>;

impl Worker {
    /// The snapshot that a connection's requests go by now: the last that had its listener once
    /// that is gone, else the live one, from a per-worker cache checked against one atomic.
    pub(crate) fn pin(&self, last: &LastSnapshot) -> Pin {
        // The order counts: who sees the config without the listener then sees the last one with it.
        let live = self.cache.pin();
        last.get().map_or(live, |last| Rc::new(last.clone()))
    }
}

/// A worker's view of the live snapshot.
pub(crate) struct SnapshotCache {
    live: Arc<Live>,
    seen: RefCell<Pin>,
}

impl SnapshotCache {
    pub(crate) fn new(live: Arc<Live>) -> Self {
        let seen = RefCell::new(Rc::new(live.load()));
        SnapshotCache { live, seen }
    }

    pub(crate) fn pin(&self) -> Pin {
        let mut seen = self.seen.borrow_mut();
        if seen.generation != self.live.generation() {
            *seen = Rc::new(self.live.load());
        }
        seen.clone()
    }
}

/// What the control side tells a worker.
pub(crate) enum Command {
    /// Accept on this socket.
    Listen(Arc<Listening>),
    /// A new snapshot is live: let the old one go even if no request comes.
    Refresh,
    /// End at once, whatever is still going on.
    Stop,
}

/// The life of a worker thread, in its runtime: accepts where it is told to, and serves what it
/// accepts and what other workers hand on.
pub(crate) async fn run(
    acceptor: Acceptor,
    mut commands: mpsc::UnboundedReceiver<Command>,
    mut handed_on: mpsc::Receiver<HandedOn>,
) {
    let acceptor = Rc::new(acceptor);
    let worker = acceptor.worker.clone();
    tokio::task::spawn_local(async move { worker.pool.expire().await });
    loop {
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                Some(Command::Listen(listening)) => {
                    tokio::task::spawn_local(acceptor.clone().run(listening));
                }
                Some(Command::Refresh) => drop(acceptor.worker.cache.pin()),
                Some(Command::Stop) | None => return,
            },
            Some(accepted) = handed_on.recv() => acceptor.serve(accepted),
        }
    }
}
