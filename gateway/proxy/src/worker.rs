use crate::auth::TokenCache;
use crate::forward::check::Checks;
use crate::forward::mirror::Mirrors;
use crate::forward::pace::Rates;
use crate::h2::Tasks;
use crate::limits::Limits;
use crate::listener::{Acceptor, HandedOn, Listening};
use crate::overload::Overload;
use crate::resting::Resting;
use crate::snapshot::{LastSnapshot, Live, Snapshot};
use crate::telemetry::WorkerTelemetry;
use crate::upstream::Pool;
use ipnet::IpNet;
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::task::{Context, Poll, Waker};
use tokio::sync::mpsc;

/// What one worker thread owns: nothing in it is shared on the hot path but what sits in `Arc`s.
pub(crate) struct Worker {
    /// Limits and deadlines.
    pub(crate) limits: Limits,
    /// Those of them that say how fast clients must be.
    pub(crate) rates: Option<Rc<Rates>>,
    /// Idle upstream connections of this worker.
    pub(crate) pool: Pool,
    /// Its tasks that wait for streams of HTTP/2.
    pub(crate) streams: Tasks,
    /// Log buffer and counters of this worker.
    pub(crate) telemetry: WorkerTelemetry,
    /// Whether the process is draining: answers say `Connection: close`.
    pub(crate) draining: Arc<AtomicBool>,
    /// Ends what is still in flight when the drain time is over.
    pub(crate) cut: Cut,
    /// Whether a 404 says why in its body (`--explain-errors`).
    pub(crate) explain_errors: bool,
    /// Peers whose connections begin with a PROXY header, where the mesh config asks for it.
    pub(crate) proxy_protocol_from: Vec<IpNet>,
    /// What the copies of requests hold that go to mirrors.
    pub(crate) mirrors: Mirrors,
    /// What the checks of requests hold.
    pub(crate) checks: Checks,
    /// Tokens that this worker has verified.
    pub(crate) tokens: TokenCache,
    /// Whether the process has too much memory.
    pub(crate) overload: Arc<Overload>,
    /// Connections on which nothing is in hand.
    pub(crate) resting: Resting,
    /// Where the live snapshot is found, and the one seen last.
    pub(crate) cache: SnapshotCache,
}

/// A snapshot held by a request. Cloning touches no atomic shared with other workers.
pub(crate) type Pinned = Rc<Arc<Snapshot>>;

impl Worker {
    /// The snapshot that a connection's requests go by now: the last that had its listener once
    /// that is gone, else the live one, from a per-worker cache checked against one atomic.
    pub(crate) fn pin(&self, last: &LastSnapshot) -> Pinned {
        // The order counts: who sees the config without the listener then sees the last one with it.
        let live = self.cache.pin();
        last.get().map_or(live, |last| Rc::new(last.clone()))
    }
}

/// The end of the time in which requests may end by themselves.
#[derive(Default)]
pub(crate) struct Cut {
    said: Cell<bool>,
    waiting: RefCell<Waiting>,
}

/// Who is to be woken: places that are used again, so that waiting allocates nothing in steady state.
#[derive(Default)]
struct Waiting {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// A place in the list, given back when it is dropped.
struct Place<'a> {
    cut: &'a Cut,
    index: usize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.cut.waiting.borrow_mut();
        waiting.wakers[self.index] = None;
        waiting.free.push(self.index);
    }
}

impl Cut {
    /// The time is over.
    pub(crate) fn say(&self) {
        self.said.set(true);
        self.waiting.borrow().wakers.iter().flatten().for_each(Waker::wake_by_ref);
    }

    /// Whether it is over. Who awaits [`Cut::unless`] is polled once more then.
    pub(crate) fn is_said(&self) -> bool {
        self.said.get()
    }

    /// Waits for `work`, or until the time is over: then it is false. To be awaited by a task itself,
    /// since its waker is left here once.
    pub(crate) fn unless<'a, F: Future<Output = ()>>(&'a self, work: Pin<&'a mut F>) -> Unless<'a, F> {
        Unless { cut: self, work, place: None }
    }

    fn place(&self, waker: &Waker) -> Place<'_> {
        let mut waiting = self.waiting.borrow_mut();
        let waker = Some(waker.clone());
        let index = match waiting.free.pop() {
            Some(index) => {
                waiting.wakers[index] = waker;
                index
            }
            None => {
                waiting.wakers.push(waker);
                waiting.wakers.len() - 1
            }
        };
        Place { cut: self, index }
    }
}

/// What [`Cut::unless`] gives; by hand, because it is part of every connection and small that way.
pub(crate) struct Unless<'a, F> {
    cut: &'a Cut,
    work: Pin<&'a mut F>,
    place: Option<Place<'a>>,
}

impl<F: Future<Output = ()>> Future for Unless<'_, F> {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        let Unless { cut, work, place } = &mut *self;
        if work.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        if cut.said.get() {
            return Poll::Ready(false);
        }
        place.get_or_insert_with(|| cut.place(cx.waker()));
        Poll::Pending
    }
}

/// A worker's view of the live snapshot.
pub(crate) struct SnapshotCache {
    live: Arc<Live>,
    seen: RefCell<Pinned>,
}

impl SnapshotCache {
    pub(crate) fn new(live: Arc<Live>) -> Self {
        let seen = RefCell::new(Rc::new(live.load()));
        SnapshotCache { live, seen }
    }

    pub(crate) fn pin(&self) -> Pinned {
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
    /// End the connections on which nothing is in hand: there is too much memory.
    Relieve,
    /// Say goodbye to whatever is still going on.
    Cut,
    /// Say that this worker, of this number, still does what it is told to.
    Answer(usize, Sender<usize>),
    /// End at once.
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
                Some(Command::Relieve) => _ = acceptor.worker.resting.dismiss(usize::MAX),
                Some(Command::Cut) => acceptor.worker.cut.say(),
                // who asked may not wait any more
                Some(Command::Answer(index, to)) => _ = to.send(index),
                Some(Command::Stop) | None => return,
            },
            Some(accepted) = handed_on.recv() => acceptor.serve(accepted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use std::pin::pin;
    use tokio::task::{LocalSet, spawn_local, yield_now};

    #[tokio::test]
    async fn what_waits_is_cut_and_places_are_used_again() {
        let cut = Rc::new(Cut::default());
        let set = LocalSet::new();
        let tasks = set.run_until(async {
            for _ in 0..3 {
                let cut = cut.clone();
                let one = spawn_local(async move { cut.unless(pin!(yield_now())).await });
                assert!(one.await.unwrap(), "it ended by itself");
            }
            assert_eq!(cut.waiting.borrow().wakers.len(), 1);
            let wait = || {
                let cut = cut.clone();
                spawn_local(async move { cut.unless(pin!(pending())).await })
            };
            let waiting = [wait(), wait()];
            yield_now().await;
            cut.say();
            for task in waiting {
                assert!(!task.await.unwrap(), "it was cut");
            }
            assert!(!cut.unless(pin!(pending())).await, "who comes later is cut too");
            assert!(cut.unless(pin!(ready(()))).await, "what is done is done");
            assert!(cut.waiting.borrow().wakers.iter().all(Option::is_none));
        });
        tasks.await;
    }
}
