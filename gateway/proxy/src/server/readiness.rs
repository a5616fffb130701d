//! When traffic may come: once a config is live, may be served, and all its listeners were open for a first time.

use super::{Proxy, State};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::watch;

/// What readiness depends on beside the config and the drain.
pub(crate) struct Readiness {
    /// Whether the config may be served, as the owner of the data plane says.
    allowed: AtomicBool,
    /// Listeners that the live config wants and that are not open.
    not_open: AtomicUsize,
    /// Whether all listeners were open once: one that fails later takes nothing from the others.
    complete: watch::Sender<bool>,
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
    /// So many listeners of the first config could not be opened yet.
    #[error("{0} of the listeners could not be opened yet; the log says which and why")]
    NotOpen(usize),
}

impl Readiness {
    /// Nothing is ready. Who takes the place of a process that serves is not held up by what that one may not have
    /// opened either.
    pub(super) fn new(has_predecessor: bool) -> Self {
        Readiness {
            allowed: AtomicBool::new(false),
            not_open: AtomicUsize::new(0),
            complete: watch::Sender::new(has_predecessor),
        }
    }

    /// Listeners that the live config wants and that are not open.
    pub(crate) fn not_open(&self) -> usize {
        self.not_open.load(Ordering::SeqCst)
    }

    pub(super) fn set_not_open(&self, count: usize) {
        self.not_open.store(count, Ordering::SeqCst);
    }
}

impl State {
    /// Whether traffic may come.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn readiness(&self) -> Result<(), NotReady> {
        let Readiness { allowed, complete, .. } = &self.readiness;
        // Who asks means the address, which another process serves once it was passed on.
        if self.draining.load(Ordering::Relaxed) && !self.is_passed_on() {
            Err(NotReady::Draining)
        } else if self.live.generation() == 0 {
            Err(NotReady::NoConfig)
        } else if !allowed.load(Ordering::SeqCst) {
            Err(NotReady::NotAllowed)
        } else if !*complete.borrow() {
            Err(NotReady::NotOpen(self.readiness.not_open()))
        } else {
            Ok(())
        }
    }

    /// Notes it once all listeners of a config that may be served are open.
    pub(super) fn settle(&self) {
        let Readiness { allowed, not_open, complete } = &self.readiness;
        let all_open = allowed.load(Ordering::SeqCst) && not_open.load(Ordering::SeqCst) == 0;
        if all_open && self.live.generation() > 0 {
            complete.send_if_modified(|complete| !std::mem::replace(complete, true));
        }
    }
}

impl Proxy {
    /// Says whether the config that is live may be served. `/healthz/ready` answers 200 then, for the first time once all
    /// its listeners are open.
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

    /// Turns true when all listeners are open for the first time.
    pub fn complete(&self) -> watch::Receiver<bool> {
        self.state.readiness.complete.subscribe()
    }
}
