//! Listening sockets that open and close while running, and the accept loop.

mod accept;
mod activation;
mod clients;
mod inherited;
pub(crate) mod proxy_protocol;
mod rewound;
mod sniff;
mod socket;
mod spread;

pub(crate) use accept::{Accepted, Acceptor, HandedOn, Listening};
pub use activation::Passed;
pub(crate) use clients::TooMany;
pub use inherited::{Inherited, Shared, Unusable};
pub(crate) use rewound::Rewound;
pub(crate) use sniff::{Http, LAST_CALL, sniff};
pub(crate) use socket::{canonical, reset_on_close};
pub(crate) use spread::{Slot, Spread};

use crate::snapshot::{LastSnapshot, Snapshot};
use socket2::Socket;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem::discriminant;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tidegate_model::{Bind, Diagnostic, Listener, ListenerKey, Model, Severity};
use tokio::sync::watch;

/// The sockets that listen, as the control side knows them. The workers own them.
pub(crate) struct Listeners {
    /// The address of [`Bind::Default`].
    default: IpAddr,
    open: BTreeMap<ListenerKey, Open>,
    /// What listened before there was a listener for it.
    inherited: Inherited,
}

struct Open {
    address: SocketAddr,
    /// The socket is the service manager's too, which keeps it.
    activated: bool,
    listening: Weak<Listening>,
    /// True ends accepting and the connections.
    shutdown: watch::Sender<bool>,
    last: LastSnapshot,
}

impl Open {
    /// Ends accepting, and its connections after what is in flight, which go by the snapshot that is live until now.
    fn end(&self, live: &Arc<Snapshot>) {
        self.last.set(live.clone());
        self.shutdown.send_replace(true);
    }
}

/// Listeners that are going. They take no new connections; a socket closes when the last worker has
/// served its queue.
pub(crate) struct Closing(Vec<Weak<Listening>>);

impl Closing {
    /// Whether there are any.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether their sockets are.
    pub(crate) fn are_closed(&self) -> bool {
        self.0.iter().all(|l| l.strong_count() == 0)
    }

    /// Waits until their sockets are closed, at most until `deadline`.
    pub(crate) fn wait(&self, deadline: Instant) {
        while !self.are_closed() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What came of opening listeners.
#[derive(Default)]
pub(crate) struct Opened {
    /// New ones. They listen; accepting begins when workers get them.
    pub(crate) new: Vec<Arc<Listening>>,
    /// What the system refused.
    pub(crate) failed: Vec<(Arc<Listener>, SocketAddr, io::Error)>,
}

impl Listeners {
    /// None yet. Listeners without an address of their own listen on `bind`, by default on all
    /// addresses of both families.
    pub(crate) fn new(bind: Option<IpAddr>, inherited: Inherited) -> Self {
        let default = bind.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        Listeners { default, open: BTreeMap::new(), inherited }
    }

    /// Closes what the process before this one listened on and nobody asked for until now: it goes with that process.
    pub(crate) fn forget_predecessor(&mut self) {
        self.inherited.forget_predecessor();
    }

    /// The sockets that listen, each once more, for a process to come; those of the service manager whether or not there
    /// is a listener for them.
    pub(crate) fn sockets(&self) -> io::Result<Vec<Shared>> {
        let mut sockets = self.inherited.share()?;
        for open in self.open.values().filter(|open| !open.activated) {
            if let Some(listening) = open.listening.upgrade() {
                let socket = listening.socket.try_clone()?.into();
                sockets.push(Shared { address: open.address, activated: false, socket });
            }
        }
        Ok(sockets)
    }

    /// The service manager's sockets that there is no listener for.
    pub(crate) fn unused(&self) -> BTreeSet<SocketAddr> {
        let used: BTreeSet<_> = self.open.values().map(|open| open.address).collect();
        self.inherited.activated().difference(&used).copied().collect()
    }

    /// Notes that this process will not accept again: what is in the queues of the service manager's sockets is left to
    /// the one that it starts next.
    pub(crate) fn leave_activated(&self) {
        let activated = self.open.values().filter(|open| open.activated).map(|open| open.address).collect();
        self.pass_on(&activated);
    }

    /// Notes that these addresses are another process's from now on, which has the sockets too: what is in their
    /// queues is left to it.
    pub(crate) fn pass_on(&self, taken: &BTreeSet<SocketAddr>) {
        for open in self.open.values().filter(|open| taken.contains(&open.address)) {
            if let Some(listening) = open.listening.upgrade() {
                listening.passed_on.store(true, Ordering::SeqCst);
            }
        }
    }

    /// Opens what a model wants and is not open.
    pub(crate) fn open(&mut self, model: &Model) -> Opened {
        let mut opened = Opened::default();
        for (key, listener) in &model.listeners {
            if self.open.contains_key(key) {
                continue;
            }
            let ip = match key.bind {
                Bind::Default => self.default,
                Bind::Ip(ip) => ip,
            };
            let wanted = SocketAddr::new(ip, key.port);
            match self.open_one(*key, wanted) {
                Ok(listening) => opened.new.push(listening),
                Err(e) => opened.failed.push((listener.clone(), wanted, e)),
            }
        }
        opened
    }

    fn open_one(&mut self, key: ListenerKey, wanted: SocketAddr) -> io::Result<Arc<Listening>> {
        let (socket, activated) = self.inherited.open(wanted)?;
        let address = socket.local_addr()?.as_socket().unwrap_or(wanted);
        Ok(self.listen(key, socket, address, activated))
    }

    fn listen(
        &mut self,
        key: ListenerKey,
        socket: Socket,
        address: SocketAddr,
        activated: bool,
    ) -> Arc<Listening> {
        let (shutdown, watch) = watch::channel(false);
        let last = LastSnapshot::default();
        let passed_on = AtomicBool::new(false);
        let listening = Arc::new(Listening { key, socket, shutdown: watch, last: last.clone(), passed_on });
        let open = Open { address, activated, listening: Arc::downgrade(&listening), shutdown, last };
        self.open.insert(key, open);
        listening
    }

    /// Has those begin anew, on the same socket, that speak another protocol in `new` than in `old`: connections that are
    /// there end like those of a listener that goes.
    ///
    /// # Errors
    /// When a socket cannot be shared: its connections go on, and find no routes.
    pub(crate) fn change(
        &mut self,
        old: &Model,
        new: &Model,
        live: &Arc<Snapshot>,
    ) -> io::Result<Vec<Arc<Listening>>> {
        let kind =
            |model: &Model, key: &ListenerKey| model.listeners.get(key).map(|l| discriminant(&l.protocol));
        let changed = |key: &ListenerKey| {
            kind(old, key).zip(kind(new, key)).is_some_and(|(before, after)| before != after)
        };
        let changed = self.open.iter().filter(|(key, _)| changed(key));
        let changed = changed.filter_map(|(key, open)| Some((*key, open.listening.upgrade()?)));
        // all of them or none: what has ended must begin anew
        let shared = changed.map(|(key, before)| Ok((key, before.socket.try_clone()?, before)));
        let shared = shared.collect::<io::Result<Vec<_>>>()?;
        let begin = |(key, socket, before): (ListenerKey, Socket, Arc<Listening>)| {
            before.passed_on.store(true, Ordering::SeqCst);
            let open = self.open.get(&key)?;
            open.end(live);
            let (address, activated) = (open.address, open.activated);
            Some(self.listen(key, socket, address, activated))
        };
        Ok(shared.into_iter().filter_map(begin).collect())
    }

    /// Ends the listeners that a model does not want: accepting once the queue is empty, and
    /// established connections after what is in flight, by the snapshot that is live until now.
    pub(crate) fn close_gone(&mut self, model: &Model, live: &Arc<Snapshot>) -> Closing {
        let mut gone = Vec::new();
        self.open.retain(|key, open| {
            let keep = model.listeners.contains_key(key);
            if !keep {
                let listening = open.listening.upgrade();
                let alone = |l: &Arc<Listening>| !open.activated && !l.passed_on.load(Ordering::SeqCst);
                if let Some(listening) = listening.filter(alone) {
                    // Where that cannot be had, who connects in the last moment is reset.
                    let _ = socket::refuse_new(&listening.socket);
                }
                open.end(live);
                gone.push(open.listening.clone());
            }
            keep
        });
        Closing(gone)
    }

    /// Where is listened.
    pub(crate) fn addresses(&self) -> Vec<(ListenerKey, SocketAddr)> {
        self.open.iter().map(|(key, open)| (*key, open.address)).collect()
    }
}

/// Says that a listener could not be opened, to the Gateways that asked for it.
pub(crate) fn not_opened(listener: &Listener, address: SocketAddr, e: &io::Error) -> Diagnostic {
    let owners: Vec<_> = listener.owners.iter().map(ToString::to_string).collect();
    let port = listener.key.port;
    let advice = match e.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("ports below 1024 need CAP_NET_BIND_SERVICE; or move it with --port {port}=LOCAL_PORT")
        }
        io::ErrorKind::AddrInUse => format!(
            "stop what listens there, or move it with --port {port}=LOCAL_PORT; it is tried again every \
             second"
        ),
        _ => "check the address in servers.bind or --bind; it is tried again every second".into(),
    };
    Diagnostic {
        severity: Severity::Error,
        origin: listener.origin.clone(),
        object: listener.owners.first().cloned(),
        field: format!("spec.servers[{}].port", listener.index),
        text: format!("cannot listen on {address} for {}: {e}", owners.join(", ")),
        advice,
        code: "listen-failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::testing::{KEY, connection, model, worker};
    use crate::limits::Limits;
    use std::net::Ipv4Addr;

    #[test]
    fn who_hears_that_a_listener_goes_still_finds_its_routes() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _context = runtime.enter();
        let mut model = model((Ipv4Addr::LOCALHOST, 1).into());
        let live = worker(&model, Limits::default()).pin(&LastSnapshot::default());
        // The system chooses the port; the routes are those of KEY.
        let listener = model.listeners.remove(&KEY).unwrap();
        model.listeners.insert(ListenerKey { port: 0, ..KEY }, listener);
        let mut listeners = Listeners::new(Some(Ipv4Addr::LOCALHOST.into()), Inherited::default());
        let listening = listeners.open(&model).new.remove(0);
        assert!(listening.last.get().is_none());

        listeners.close_gone(&Model::default(), &live);
        assert!(*listening.shutdown.borrow());
        let without = worker(&Model::default(), Limits::default());
        let has_routes = |last: &LastSnapshot| without.pin(last).routes(&connection()).is_some();
        assert!(!has_routes(&LastSnapshot::default()));
        assert!(has_routes(&listening.last));
    }
}
