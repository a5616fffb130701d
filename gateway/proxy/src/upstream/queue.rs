//! Requests that wait since their cluster has as many connections as it may have.

use super::cluster::Cluster;
use super::connect::UpstreamConnection;
use super::pool::Pool;
use super::transport::Key;
use super::usage::InUse;
use ahash::AHashMap;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::pending;
use std::pin::pin;
use tokio::sync::oneshot;

/// How often in a row a connection goes on within its worker. Then it ends, so that whoever waits for
/// the longest time has its turn, on whichever worker.
const HANDED_ON: u8 = 16;

/// What comes to one who waits.
pub(super) enum Next {
    /// A connection to its endpoint.
    Connection(Box<UpstreamConnection>),
    /// Leave to make one.
    Place(InUse),
}

/// Those of a worker who take a connection that another request is done with, by what it may be used for.
#[derive(Default)]
pub(super) struct Queue(RefCell<AHashMap<Key, VecDeque<oneshot::Sender<Box<UpstreamConnection>>>>>);

impl Queue {
    fn join(&self, key: Key) -> oneshot::Receiver<Box<UpstreamConnection>> {
        let (give, take) = oneshot::channel();
        self.0.borrow_mut().entry(key).or_default().push_back(give);
        take
    }

    /// Forgets those who wait no more.
    fn clean(&self, key: &Key) {
        let mut queue = self.0.borrow_mut();
        if let Some(waiting) = queue.get_mut(key) {
            waiting.retain(|give| !give.is_closed());
            if waiting.is_empty() {
                queue.remove(key);
            }
        }
    }

    /// Gives a connection to the first who waits for one like it; else, or when it went from one to the next
    /// for long enough, ends it, since somebody waits for that.
    pub(super) fn hand_on(&self, mut connection: Box<UpstreamConnection>) {
        connection.handed_on += 1;
        if connection.handed_on > HANDED_ON {
            return;
        }
        let mut queue = self.0.borrow_mut();
        let Some(waiting) = queue.get_mut(&connection.key()) else { return };
        while let Some(give) = waiting.pop_front() {
            match give.send(connection) {
                Ok(()) => return,
                // it waits no more
                Err(back) => connection = back,
            }
        }
    }
}

impl Pool {
    /// Waits until the cluster may have one more connection, or until one for this comes free here.
    pub(super) async fn wait(&self, cluster: &Cluster, key: Key) -> Next {
        let usage = cluster.usage();
        let _waiting = usage.wait();
        let mut handed = Waiting::begin(&self.queue, key);
        loop {
            let mut freed = pin!(usage.freed().notified());
            freed.as_mut().enable();
            // one that is idle here is of use to nobody else
            let mut place = usage.connection();
            if place.is_none() && self.give_up_one(usage) {
                place = usage.connection();
            }
            if let Some(place) = place {
                return Next::Place(place);
            }
            self.connector.ask();
            let connection = async {
                match (&mut handed.take).await {
                    Ok(connection) => connection,
                    // it gives no more
                    Err(_) => pending().await,
                }
            };
            tokio::select! {
                biased;
                connection = connection => return Next::Connection(connection),
                () = freed => {}
            }
        }
    }
}

/// One who waits for a connection.
struct Waiting<'a> {
    queue: &'a Queue,
    key: Key,
    take: oneshot::Receiver<Box<UpstreamConnection>>,
}

impl<'a> Waiting<'a> {
    fn begin(queue: &'a Queue, key: Key) -> Self {
        Waiting { queue, take: queue.join(key.clone()), key }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.take.close();
        self.queue.clean(&self.key);
    }
}

#[cfg(test)]
mod tests;
