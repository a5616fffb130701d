//! The accept loop of one worker.

use crate::connection;
use crate::listener::socket::canonical;
use crate::listener::spread::{Slot, Spread};
use crate::snapshot::LastSnapshot;
use crate::worker::Worker;
use pingora::server::ShutdownWatch;
use socket2::Socket;
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tidegate_model::ListenerKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, error::TrySendError};

/// How long a socket that takes no new connections waits for those that have begun: a round trip to
/// most clients.
const LAST_ARRIVALS: Duration = Duration::from_millis(100);
/// More than any queue has by default; new connections that come meanwhile must not keep a worker busy for ever.
const LAST: usize = 1 << 16;
/// The pause after the system said that it has no descriptors or memory left.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How often room is made.
const ROOM_INTERVAL: Duration = Duration::from_millis(20);
/// A flood of connections must not become a flood of log lines.
const WARNING_INTERVAL: Duration = Duration::from_secs(1);

/// A socket that listens, shared by the workers. It closes when the last of them lets it go.
pub(crate) struct Listening {
    /// Which listener.
    pub(crate) key: ListenerKey,
    /// The one socket.
    pub(crate) socket: Socket,
    /// Turns true when the listener goes: accepting ends, connections end.
    pub(crate) shutdown: ShutdownWatch,
    /// Set before `shutdown` turns true.
    pub(crate) last: LastSnapshot,
    /// Another process accepts on the socket, or another of these. Set before `shutdown` turns true.
    pub(crate) passed_on: AtomicBool,
}

impl Listening {
    fn register(&self) -> io::Result<TcpListener> {
        TcpListener::from_std(self.socket.try_clone()?.into())
    }
}

/// An accepted connection.
pub(crate) struct Accepted<S> {
    pub(crate) stream: S,
    pub(crate) peer: SocketAddr,
    pub(crate) listener: ListenerKey,
    pub(crate) shutdown: ShutdownWatch,
    pub(crate) last: LastSnapshot,
    pub(crate) slot: Slot,
}

/// One on its way to the worker that serves it, known to no runtime.
pub(crate) type HandedOn = Accepted<std::net::TcpStream>;

impl<S> Accepted<S> {
    fn with<T>(self, convert: impl FnOnce(S) -> io::Result<T>) -> io::Result<Accepted<T>> {
        let Accepted { stream, peer, listener, shutdown, last, slot } = self;
        convert(stream).map(|stream| Accepted { stream, peer, listener, shutdown, last, slot })
    }
}

/// What a worker needs to accept and to hand on what it accepted.
pub(crate) struct Acceptor {
    /// The worker's number.
    pub(crate) index: usize,
    pub(crate) spread: Arc<Spread>,
    /// Ways to all workers, this one included.
    pub(crate) workers: Vec<mpsc::Sender<HandedOn>>,
    pub(crate) worker: Rc<Worker>,
    /// When something was last complained about.
    pub(crate) warned: Cell<Option<Instant>>,
    /// When room was last made for new connections.
    pub(crate) made_room: Cell<Option<Instant>>,
}

impl Acceptor {
    /// Accepts until the listener goes and the connections that have begun are there, then empties
    /// the queue: whoever got a connection is served. One that was passed on is left at once.
    pub(crate) async fn run(self: Rc<Self>, listening: Arc<Listening>) {
        let (mut shutdown, passed_on) = (listening.shutdown.clone(), &listening.passed_on);
        let mut gone = pin!(async move {
            // An error is the end of the control side, which goes for the listener as well.
            let _ = shutdown.wait_for(|gone| *gone).await;
            if !passed_on.load(Ordering::SeqCst) {
                tokio::time::sleep(LAST_ARRIVALS).await;
            }
        });
        // Of our own, since a runtime takes no other's; kept once the system grants it.
        let mut listener = None;
        loop {
            let accepted = async {
                let listener = match &mut listener {
                    Some(listener) => listener,
                    none => none.insert(listening.register()?),
                };
                listener.accept().await
            };
            let accepted = tokio::select! {
                biased;
                () = &mut gone => break,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.take(&listening, stream, peer),
                Err(e) if concerns_one(&e) => {}
                Err(e) => {
                    self.complain(&format!("cannot accept, trying again: {e}"));
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
        if !listening.passed_on.load(Ordering::SeqCst) {
            self.empty(&listening);
        }
    }

    /// Asks the system itself: the runtime may not have heard of the last ones yet.
    fn empty(&self, listening: &Listening) {
        // new ones may come to a socket that the service manager keeps
        for _ in 0..LAST {
            match listening.socket.accept() {
                Ok((socket, peer)) => {
                    let peer = peer.as_socket().filter(|_| socket.set_nonblocking(true).is_ok());
                    let stream = TcpStream::from_std(socket.into());
                    if let (Some(peer), Ok(stream)) = (peer, stream) {
                        self.take(listening, stream, peer);
                    }
                }
                Err(e) if concerns_one(&e) => {}
                Err(_) => return,
            }
        }
    }

    fn take(&self, listening: &Listening, stream: TcpStream, peer: SocketAddr) {
        if self.worker.overload.refuses() {
            return;
        }
        let slot = self.spread.admit(self.index);
        if self.spread.is_tight() {
            self.make_room();
        }
        // Over the limit the socket is dropped: closed at once, and counted.
        let Some(slot) = slot else {
            return self.complain("the limit is reached, new ones are closed at once");
        };
        let Listening { key: listener, ref shutdown, ref last, .. } = *listening;
        let (shutdown, last) = (shutdown.clone(), last.clone());
        let accepted = Accepted { stream, peer: canonical(peer), listener, shutdown, last, slot };
        if accepted.slot.worker() == self.index {
            return self.spawn(accepted);
        }
        // An error means that the socket is broken already.
        let Ok(accepted) = accepted.with(TcpStream::into_std) else { return };
        match self.workers[accepted.slot.worker()].try_send(accepted) {
            Ok(()) => {}
            Err(TrySendError::Full(mut back) | TrySendError::Closed(mut back)) => {
                back.slot.move_to(self.index);
                self.serve(back);
            }
        }
    }

    /// Ends some of those connections on which nothing is in hand, but not again and again where that does not help.
    fn make_room(&self) {
        let now = Instant::now();
        if self.made_room.get().is_none_or(|at| now.duration_since(at) >= ROOM_INTERVAL) {
            self.made_room.set(Some(now));
            self.worker.resting.dismiss(self.spread.margin());
        }
    }

    fn complain(&self, text: &str) {
        let now = Instant::now();
        if self.warned.get().is_none_or(|at| now.duration_since(at) >= WARNING_INTERVAL) {
            self.warned.set(Some(now));
            tracing::warn!("downstream connections: {text}");
        }
    }

    /// Serves a connection that another worker accepted.
    pub(crate) fn serve(&self, accepted: HandedOn) {
        match accepted.with(TcpStream::from_std) {
            Ok(accepted) => self.spawn(accepted),
            Err(e) => tracing::debug!("cannot take over a connection: {e}"),
        }
    }

    /// A panic in a connection is caught by its task and ends it alone.
    fn spawn(&self, accepted: Accepted<TcpStream>) {
        tokio::task::spawn_local(connection::serve(accepted, self.worker.clone()));
    }
}

/// Whether an error of accept(2) is about the connection that was to be accepted, which is gone.
fn concerns_one(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(
            libc::EINTR
                | libc::ECONNABORTED
                | libc::EPROTO
                | libc::EPERM
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
        )
    )
}
