//! How much of a cluster is in use, counted by all workers together, and held against its limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::Notify;

/// No limit: the counters do not get there.
const UNLIMITED: u32 = u32::MAX;

/// What is counted of a cluster.
pub(super) struct Usage {
    connections: AtomicU32,
    /// The most of them by the newest config, which those who wait hear of too.
    most: AtomicU32,
    /// Those of HTTP/2, which are counted by themselves, with the same limit.
    sessions: AtomicU32,
    /// Requests without a connection yet.
    pending: AtomicU32,
    requests: AtomicU32,
    /// Those who wait for a connection to end, the oldest first.
    waiting: AtomicU32,
    freed: Notify,
}

/// The counters that give back what was taken.
#[derive(Clone, Copy)]
enum What {
    Connection,
    Session,
    Pending,
    Request,
    Waiting,
}

/// Something of a cluster in use, until it is dropped.
pub(crate) struct InUse {
    usage: Arc<Usage>,
    what: What,
}

impl Default for Usage {
    fn default() -> Self {
        Usage {
            connections: AtomicU32::new(0),
            most: AtomicU32::new(UNLIMITED),
            sessions: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            freed: Notify::new(),
        }
    }
}

impl Usage {
    fn counter(&self, what: What) -> &AtomicU32 {
        match what {
            What::Connection => &self.connections,
            What::Session => &self.sessions,
            What::Pending => &self.pending,
            What::Request => &self.requests,
            What::Waiting => &self.waiting,
        }
    }

    fn take(self: &Arc<Self>, what: What, most: u32) -> Option<InUse> {
        let one_more = |n| (n < most).then_some(n + 1);
        self.counter(what).fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(InUse { usage: self.clone(), what })
    }

    /// Sets how many connections there may be from now on.
    pub(super) fn limit(&self, most: Option<u32>) {
        let most = most.unwrap_or(UNLIMITED);
        if self.most.swap(most, Ordering::Relaxed) != most {
            self.freed.notify_waiters();
        }
    }

    /// A connection, if there may be one more. Connections are counted without a limit too: there may be one later.
    pub(super) fn connection(self: &Arc<Self>) -> Option<InUse> {
        self.take(What::Connection, self.most.load(Ordering::Relaxed))
    }

    /// The same for one who has just come: those who wait are before it.
    pub(super) fn connection_unless_awaited(self: &Arc<Self>) -> Option<InUse> {
        let awaited = self.waiting() > 0 && self.most.load(Ordering::Relaxed) != UNLIMITED;
        if awaited { None } else { self.connection() }
    }

    /// One more connection of HTTP/2, if there may be one.
    pub(super) fn session(self: &Arc<Self>) -> Option<InUse> {
        self.take(What::Session, self.most.load(Ordering::Relaxed))
    }

    /// The first connection of HTTP/2 of a worker to an endpoint: there may always be one, and it counts.
    pub(super) fn first_session(self: &Arc<Self>) -> InUse {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        InUse { usage: self.clone(), what: What::Session }
    }

    /// A request that has no connection yet, of at most so many.
    pub(super) fn pending(self: &Arc<Self>, most: u32) -> Option<InUse> {
        self.take(What::Pending, most)
    }

    /// A request, of at most so many.
    pub(super) fn request(self: &Arc<Self>, most: u32) -> Option<InUse> {
        self.take(What::Request, most)
    }

    /// One who waits for a connection to end.
    pub(super) fn wait(self: &Arc<Self>) -> InUse {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        InUse { usage: self.clone(), what: What::Waiting }
    }

    /// How many wait for a connection to end.
    pub(super) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Told to the oldest of those who wait, each time that a connection has ended; to all when the limit changes.
    pub(super) fn freed(&self) -> &Notify {
        &self.freed
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> [u32; 4] {
        [&self.connections, &self.pending, &self.requests, &self.waiting]
            .map(|counter| counter.load(Ordering::Relaxed))
    }
}

impl InUse {
    /// Of whom it is.
    pub(super) fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.usage.counter(self.what).fetch_sub(1, Ordering::Relaxed);
        if matches!(self.what, What::Connection) {
            // kept for the next one where nobody waits: that costs it one look more
            self.usage.freed.notify_one();
        }
    }
}
