use super::cluster::Cluster;
use super::connect::{ConnectError, Connector, UpstreamConnection};
use super::endpoint::Pick;
use super::queue::{Next, Queue};
use super::sessions::Sessions;
use super::transport::{Key, TransportOptions, Way};
use super::usage::Usage;
use crate::h2::Place;
use crate::tls::Inside;
use ahash::AHashMap;
use pingora::protocols::Stream;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};
use tidegate_model::ConnectionLimits;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::Notify;
use tokio::task::coop::unconstrained;

/// Idle connections that one worker keeps to one endpoint.
const PER_ENDPOINT: usize = 1024;
/// Idle connections that one worker keeps in all.
const IN_ALL: usize = 8192;
/// How often idle connections are looked through; an idle timeout may be late by as much.
const SWEEP: Duration = Duration::from_secs(1);

/// A worker's upstream connections, by what they may be used for: idle ones of HTTP/1, and shared ones of HTTP/2. No
/// lock: one worker, one thread.
///
/// A connection to an endpoint that its cluster no longer has is neither kept nor taken, even when the same address came
/// back; nor is one that began by another TLS policy, with other secrets, or for another client where the endpoint was
/// told of that. [`Pool::expire`] must run beside it on the same worker.
pub(crate) struct Pool {
    pub(super) connector: Connector,
    pub(super) idle: RefCell<IdleConnections>,
    pub(super) sessions: Sessions,
    pub(super) queue: Queue,
    /// Told when another worker needs a connection that may be idle here.
    asked: Arc<Notify>,
}

#[derive(Default)]
pub(super) struct IdleConnections {
    slots: AHashMap<Key, Slot>,
    count: usize,
}

/// Idle connections that are alike, the one that was used last at the end.
struct Slot {
    way: Way,
    config: Arc<tidegate_model::Cluster>,
    connections: VecDeque<Idle>,
}

struct Idle {
    connection: Box<UpstreamConnection>,
    since: Instant,
}

impl Pool {
    /// An empty pool.
    pub(crate) fn new(connector: Connector) -> Self {
        let asked = connector.join();
        Pool {
            connector,
            idle: RefCell::default(),
            sessions: Sessions::new(),
            queue: Queue::default(),
            asked,
        }
    }

    /// A connection to the endpoint: an idle one that is still open, else (or when `fresh`) a new one, for which it
    /// may have to wait until another one of the cluster has ended.
    ///
    /// # Errors
    /// When too many wait already, or a new one cannot be made within the cluster's connect timeout.
    pub(crate) async fn get(
        &self,
        cluster: &Cluster,
        pick: &Pick,
        options: &TransportOptions,
        fresh: bool,
    ) -> Result<Box<UpstreamConnection>, ConnectError> {
        let config = cluster.config();
        let key = cluster.key(pick, options);
        if !fresh && let Some(connection) = self.idle.borrow_mut().take(&key, &config.limits) {
            return Ok(connection);
        }
        let _pending = cluster.pend()?;
        let in_use = match cluster.usage().connection_unless_awaited() {
            Some(in_use) => in_use,
            // boxed, since few requests wait here
            None => match Box::pin(self.wait(cluster, key)).await {
                Next::Connection(connection) => return Ok(connection),
                Next::Place(in_use) => in_use,
            },
        };
        pick.connects();
        self.connector.connect(cluster, cluster.way(pick, options), Inside::Http1, in_use).await
    }

    /// A new connection for bytes that are not HTTP.
    ///
    /// # Errors
    /// When there are too many, or it cannot be made within the cluster's connect timeout.
    pub(crate) async fn get_for_bytes(
        &self,
        cluster: &Cluster,
        pick: &Pick,
        options: &TransportOptions,
    ) -> Result<Box<UpstreamConnection>, ConnectError> {
        let take = || cluster.usage().connection_unless_awaited();
        let in_use = match take() {
            Some(in_use) => in_use,
            None if self.give_up_one(cluster.usage()) => take().ok_or(ConnectError::Overflow)?,
            None => return Err(ConnectError::Overflow),
        };
        self.connector.connect(cluster, cluster.way(pick, options), Inside::Bytes, in_use).await
    }

    /// A place for a request on an HTTP/2 connection to the endpoint.
    ///
    /// # Errors
    /// When there is none with room, and too many wait already or a new one cannot be made within the cluster's connect
    /// timeout.
    pub(crate) async fn place(
        &self,
        cluster: &Cluster,
        pick: &Pick,
        options: &TransportOptions,
    ) -> Result<Place, ConnectError> {
        self.sessions.get(&self.connector, cluster, pick, options).await
    }

    /// Gives back a connection on which request and response both ended cleanly, `now`.
    pub(crate) fn put(&self, cluster: &Cluster, mut connection: Box<UpstreamConnection>, now: Instant) {
        connection.served = connection.served.saturating_add(1);
        connection.reused = true;
        if connection.way.is_over() || connection.is_spent(&cluster.config().limits) {
            return;
        }
        if cluster.usage().waiting() > 0 {
            return self.queue.hand_on(connection);
        }
        connection.handed_on = 0;
        let mut idle = self.idle.borrow_mut();
        if idle.count >= IN_ALL {
            return;
        }
        let slot = idle.slots.entry(connection.key()).or_insert_with(|| Slot {
            way: connection.way.clone(),
            config: cluster.config().clone(),
            connections: VecDeque::new(),
        });
        if !Arc::ptr_eq(&slot.config, cluster.config()) {
            slot.config = cluster.config().clone();
        }
        if slot.connections.len() < PER_ENDPOINT {
            slot.connections.push_back(Idle { connection, since: now });
            idle.count += 1;
        }
    }

    /// Closes an idle connection of a cluster, if there is one.
    pub(super) fn give_up_one(&self, usage: &Arc<Usage>) -> bool {
        self.idle.borrow_mut().give_up_one(usage)
    }

    /// Closes as many idle connections of clusters as somebody waits for.
    fn give_up_awaited(&self) {
        let awaited = self.idle.borrow().usages();
        for usage in awaited.into_iter().filter(|usage| usage.waiting() > 0) {
            let mut wanted = usage.waiting();
            while wanted > 0 && self.give_up_one(&usage) {
                wanted -= 1;
            }
        }
    }

    /// Closes idle connections whose time is over, which their endpoint closed, or which nobody will use any more, for
    /// as long as it is polled.
    pub(crate) async fn expire(&self) {
        let mut next = tokio::time::Instant::now() + SWEEP;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => next = tokio::time::Instant::now() + SWEEP,
                () = self.asked.notified() => {
                    self.give_up_awaited();
                    continue;
                }
            }
            self.idle.borrow_mut().sweep(Instant::now());
            self.sessions.sweep(Instant::now());
        }
    }

    /// How many idle connections there are.
    #[cfg(test)]
    fn idle(&self) -> usize {
        self.idle.borrow().count
    }
}

impl IdleConnections {
    /// The connection that was used last and is still open.
    fn take(&mut self, key: &Key, limits: &ConnectionLimits) -> Option<Box<UpstreamConnection>> {
        let slot = self.slots.get_mut(key)?;
        while let Some(Idle { mut connection, .. }) = slot.connections.pop_back() {
            self.count -= 1;
            if !connection.is_spent(limits) && is_open(&mut connection.stream) {
                return Some(connection);
            }
        }
        None
    }

    fn sweep(&mut self, now: Instant) {
        self.slots.retain(|_, slot| {
            if slot.way.is_over() {
                return false;
            }
            let (limit, limits) = (slot.config.idle_timeout, &slot.config.limits);
            slot.connections.retain_mut(|idle| {
                now.saturating_duration_since(idle.since) < limit
                    && !idle.connection.is_spent(limits)
                    && is_open(&mut idle.connection.stream)
            });
            !slot.connections.is_empty()
        });
        self.count = self.slots.values().map(|s| s.connections.len()).sum();
    }

    /// Closes the connection of this cluster that was not used for the longest time at its endpoint.
    fn give_up_one(&mut self, usage: &Arc<Usage>) -> bool {
        let of_cluster = |idle: &Idle| Arc::ptr_eq(idle.connection.in_use.usage(), usage);
        let slot = self.slots.values_mut().find(|slot| slot.connections.front().is_some_and(of_cluster));
        let given_up = slot.and_then(|slot| slot.connections.pop_front()).is_some();
        self.count -= usize::from(given_up);
        given_up
    }

    /// Of which clusters there are idle connections.
    fn usages(&self) -> Vec<Arc<Usage>> {
        let first = |slot: &Slot| Some(slot.connections.front()?.connection.in_use.usage().clone());
        self.slots.values().filter_map(first).collect()
    }
}

/// Whether a connection without a request is quiet: neither closed nor saying what nobody asked for.
fn is_open(stream: &mut Stream) -> bool {
    let mut byte = [0u8; 1];
    let mut context = Context::from_waker(Waker::noop());
    // a task whose turn is over would not get to look
    let look =
        unconstrained(poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut ReadBuf::new(&mut byte))));
    pin!(look).poll(&mut context).is_pending()
}

#[cfg(test)]
mod tests;
