//! When traffic may come: once a config is live, may be served, and has a listener that is open, unless it wants none.

use super::{Proxy, State};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::watch;

/// What readiness depends on beside the config and the drain.
pub(crate) struct Readiness {
    /// Whether the config may be served, as the owner of the data plane says.
    allowed: AtomicBool,
    /// Listeners that the live config wants and that are open, or not.
    open: AtomicUsize,
    not_open: AtomicUsize,
    /// Whether there was one open: those that fail take nothing from the others.
    begun: watch::Sender<bool>,
}

/// Why no traffic may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// A stop has begun.
    #[error("draining")]
    Draining,
    /// The first config is still to come.
    #[error("no config is live yet")]
    NoConfig,
    /// The owner of the data plane says so.
    #[error("the config may not be served as it is; the log says why")]
    NotAllowed,
    /// None of the listeners of the first config, that many, could be opened yet.
    #[error("none of its listeners ({0}) could be opened yet; the log says why")]
    NotOpen(usize),
}

impl Readiness {
    /// Nothing is ready. Who takes the place of a process that serves is not held up by what that one may not have
    /// opened either.
    pub(super) fn new(has_predecessor: bool) -> Self {
        Readiness {
            allowed: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            not_open: AtomicUsize::new(0),
            begun: watch::Sender::new(has_predecessor),
        }
    }

    /// Listeners that the live config wants and that are not open.
    pub(crate) fn not_open(&self) -> usize {
        self.not_open.load(Ordering::SeqCst)
    }

    pub(super) fn set_listeners(&self, open: usize, not_open: usize) {
        self.open.store(open, Ordering::SeqCst);
        self.not_open.store(not_open, Ordering::SeqCst);
    }
}

impl State {
    /// Whether traffic may come.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn readiness(&self) -> Result<(), NotReady> {
        let Readiness { allowed, begun, .. } = &self.readiness;
        // Who asks means the address, which another process serves once it was passed on.
        if self.draining.load(Ordering::Relaxed) && !self.is_passed_on() {
            Err(NotReady::Draining)
        } else if self.live.generation() == 0 {
            Err(NotReady::NoConfig)
        } else if !allowed.load(Ordering::SeqCst) {
            Err(NotReady::NotAllowed)
        } else if !*begun.borrow() {
            Err(NotReady::NotOpen(self.readiness.not_open()))
        } else {
            Ok(())
        }
    }

    /// Notes it once a config that may be served can be reached.
    pub(super) fn settle(&self) {
        let Readiness { allowed, open, not_open, begun } = &self.readiness;
        let is_open = open.load(Ordering::SeqCst) > 0 || not_open.load(Ordering::SeqCst) == 0;
        if is_open && allowed.load(Ordering::SeqCst) && self.live.generation() > 0 {
            begun.send_if_modified(|begun| !std::mem::replace(begun, true));
        }
    }
}

impl Proxy {
    /// Says whether the config that is live may be served. `/healthz/ready` answers 200 then, for the first time once one
    /// of its listeners is open.
    pub fn set_ready(&self, ready: bool) {
        self.state.readiness.allowed.store(ready, Ordering::SeqCst);
        self.state.settle();
    }

    /// Whether `/healthz/ready` answers 200.
    ///
    /// # Errors
    /// Why not.
    pub fn readiness(&self) -> Result<(), NotReady> {
        self.state.readiness()
    }

    /// Turns true when a listener is open for the first time.
    pub fn begun(&self) -> watch::Receiver<bool> {
        self.state.readiness.begun.subscribe()
    }
}
