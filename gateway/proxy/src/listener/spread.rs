//! How many connections each worker has, the limit of all, and who takes the next one.

use super::clients::{Client, Clients, TooMany};
use crate::limits::Limits;
use crate::tls::Reason;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Counts of connections, shared by all workers and touched once a connection, never by a request.
pub(crate) struct Spread {
    limit: usize,
    total: AtomicUsize,
    clients: Clients,
    workers: Box<[Count]>,
    accepted: AtomicU64,
    overflowed: AtomicU64,
    too_many_of_one: AtomicU64,
    /// By reason.
    failed_handshakes: [AtomicU64; Reason::NAMES.len()],
    panicked: AtomicU64,
}

/// A counter on a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Count(AtomicUsize);

/// The numbers of a [`Spread`], as Prometheus shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnectionCounts {
    /// Open now.
    pub(crate) active: usize,
    /// Accepted since the start.
    pub(crate) accepted: u64,
    /// Closed at once because the limit was reached.
    pub(crate) overflowed: u64,
    /// Closed at once because their client had as many as it may have.
    pub(crate) too_many_of_one: u64,
    /// Closed because TLS did not come about, by reason.
    pub(crate) failed_handshakes: [u64; Reason::NAMES.len()],
    /// Ended by a defect of ours.
    pub(crate) panicked: u64,
}

impl Spread {
    /// For this many workers, and as many connections as the limits allow.
    pub(crate) fn new(workers: usize, limits: &Limits) -> Arc<Self> {
        Arc::new(Spread {
            limit: limits.connections,
            total: AtomicUsize::new(0),
            clients: Clients::new(limits.client_connections),
            workers: (0..workers).map(|_| Count::default()).collect(),
            accepted: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
            too_many_of_one: AtomicU64::new(0),
            failed_handshakes: Default::default(),
            panicked: AtomicU64::new(0),
        })
    }

    /// A place for a connection that worker `own` accepted, with the worker that should serve it:
    /// `own`, unless it has notably more than the least loaded. `None` when the limit is reached.
    pub(crate) fn admit(self: &Arc<Self>, own: usize) -> Option<Slot> {
        if self.total.fetch_add(1, Relaxed) >= self.limit {
            self.total.fetch_sub(1, Relaxed);
            self.overflowed.fetch_add(1, Relaxed);
            return None;
        }
        self.accepted.fetch_add(1, Relaxed);
        let worker = self.pick(own);
        self.workers[worker].0.fetch_add(1, Relaxed);
        Some(Slot { spread: self.clone(), worker, client: None })
    }

    fn pick(&self, own: usize) -> usize {
        let count = |i: usize| self.workers[i].0.load(Relaxed);
        let mine = count(own);
        let (least, worker) = (0..self.workers.len()).map(|i| (count(i), i)).min().unwrap_or((mine, own));
        // An eighth of slack: moving a socket to another thread is not free.
        if mine > least + least / 8 { worker } else { own }
    }

    /// Whether there is hardly room for more connections, so that some that do nothing should go.
    pub(crate) fn is_tight(&self) -> bool {
        self.active() > self.limit.saturating_sub(self.margin())
    }

    /// How many places are to be free, where that can be had.
    pub(crate) fn margin(&self) -> usize {
        (self.limit / 16).max(1)
    }

    /// A TLS handshake that failed.
    pub(crate) fn handshake_failed(&self, why: Reason) {
        self.failed_handshakes[why as usize].fetch_add(1, Relaxed);
    }

    /// Open connections.
    pub(crate) fn active(&self) -> usize {
        self.total.load(Relaxed)
    }

    /// Open connections of each worker.
    pub(crate) fn by_worker(&self) -> impl Iterator<Item = usize> {
        self.workers.iter().map(|c| c.0.load(Relaxed))
    }

    /// The numbers now.
    pub(crate) fn counts(&self) -> ConnectionCounts {
        ConnectionCounts {
            active: self.active(),
            accepted: self.accepted.load(Relaxed),
            overflowed: self.overflowed.load(Relaxed),
            too_many_of_one: self.too_many_of_one.load(Relaxed),
            failed_handshakes: std::array::from_fn(|why| self.failed_handshakes[why].load(Relaxed)),
            panicked: self.panicked.load(Relaxed),
        }
    }
}

/// A connection's place in the counts, given back when it is dropped.
pub(crate) struct Slot {
    spread: Arc<Spread>,
    worker: usize,
    /// Of whom it is, where that is counted.
    client: Option<Client>,
}

impl Slot {
    /// Who serves the connection.
    pub(crate) fn worker(&self) -> usize {
        self.worker
    }

    /// Moves the connection to another worker.
    pub(crate) fn move_to(&mut self, worker: usize) {
        self.spread.workers[self.worker].0.fetch_sub(1, Relaxed);
        self.spread.workers[worker].0.fetch_add(1, Relaxed);
        self.worker = worker;
    }

    /// Whose connection it is, known once a PROXY header was read where there is one.
    ///
    /// # Errors
    /// When that client has as many as it may have: also counted.
    pub(crate) fn belongs_to(&mut self, address: IpAddr) -> Result<(), TooMany> {
        let entered = self.spread.clients.enter(address);
        self.client = entered.inspect_err(|_| _ = self.spread.too_many_of_one.fetch_add(1, Relaxed))?;
        Ok(())
    }

    /// The counts it belongs to.
    pub(crate) fn spread(&self) -> &Spread {
        &self.spread
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.spread.workers[self.worker].0.fetch_sub(1, Relaxed);
        self.spread.total.fetch_sub(1, Relaxed);
        if let Some(client) = self.client {
            self.spread.clients.leave(client);
        }
        if std::thread::panicking() {
            self.spread.panicked.fetch_add(1, Relaxed);
            tracing::error!("a connection ended by a defect of the gateway; the others go on");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(workers: usize, connections: usize) -> Arc<Spread> {
        Spread::new(workers, &Limits { connections, ..Limits::default() })
    }

    #[test]
    fn one_busy_acceptor_spreads_evenly() {
        let spread = of(4, 1000);
        let slots: Vec<_> = (0..400).map(|_| spread.admit(2).unwrap()).collect();
        let mut per = [0; 4];
        slots.iter().for_each(|s| per[s.worker()] += 1);
        assert_eq!(per.iter().sum::<i32>(), 400);
        assert!(per.iter().all(|n| (85..=125).contains(n)), "{per:?}");
        // Few long-lived connections are the hard case: they go one by one.
        let few = of(2, 10);
        let slots: Vec<_> = (0..4).map(|_| few.admit(0).unwrap()).collect();
        assert_eq!(slots.iter().filter(|s| s.worker() == 0).count(), 2);
    }

    #[tokio::test]
    async fn a_panic_costs_one_connection_and_is_counted() {
        let spread = of(1, 10);
        let other = spread.admit(0).unwrap();
        let slot = spread.admit(0).unwrap();
        let connection = async move {
            let _slot = slot;
            panic!("a defect, on purpose");
        };
        let task = async { tokio::task::spawn_local(connection).await };
        let ended = tokio::task::LocalSet::new().run_until(task).await;
        assert!(ended.unwrap_err().is_panic());
        assert_eq!((spread.counts().panicked, spread.active()), (1, 1));
        drop(other);
        assert_eq!(spread.counts().panicked, 1, "only the one that panicked");
    }

    #[test]
    fn the_limit_is_of_all_workers_and_places_come_back() {
        let spread = of(2, 3);
        let mut slots: Vec<_> = (0..3).map(|i| spread.admit(i % 2).unwrap()).collect();
        assert!(spread.admit(0).is_none());
        assert_eq!(spread.counts().overflowed, 1);
        slots.pop();
        let mut slot = spread.admit(0).unwrap();
        slot.move_to(1 - slot.worker());
        slots.push(slot);
        drop(slots);
        assert_eq!((spread.active(), spread.counts().accepted), (0, 4));
        assert!(spread.workers.iter().all(|c| c.0.load(Relaxed) == 0));
    }
}
