use super::cluster::Cluster;
use super::connect::{ConnectError, Connector};
use super::endpoint::Pick;
use super::room::{Room, Waiter};
use super::transport::{Key, TransportOptions, Way};
use super::usage::InUse;
use crate::h2::{Place, Session};
use crate::tls::Inside;
use ahash::AHashMap;
use std::cell::RefCell;
use std::future::pending;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// HTTP/2 connections of one worker to one endpoint. Requests beyond what they take wait for their turn.
const PER_ENDPOINT: usize = 32;
/// HTTP/2 connections that one worker keeps in all.
const IN_ALL: usize = 4096;

/// What becomes of a connection that is being made.
type Made = oneshot::Receiver<Result<(), ConnectError>>;

/// A worker's HTTP/2 connections, by what they may be used for, each shared by many requests.
///
/// No request waits for those of another worker or to another endpoint: they may never be without a request. So the
/// first one of a slot may always be made, and the cluster's limit is for more of them.
pub(super) struct Sessions(RefCell<AHashMap<Key, Slot>>);

struct Slot {
    way: Way,
    idle_timeout: Duration,
    sessions: Vec<Rc<Session>>,
    /// Who waits for the first connection, if one is being made.
    connecting: Option<Vec<oneshot::Sender<Result<(), ConnectError>>>>,
    /// Where requests wait while all connections are full.
    room: Rc<Room>,
}

/// What a request finds.
enum Found<'a> {
    Place(Place),
    /// How many requests a new connection takes is not known yet.
    New(Rc<Session>),
    /// No room: until there is some, or until the first connection is made.
    Full(Rc<Room>, Option<Made>),
    /// Leave to make a connection.
    Connect(Making<'a>, InUse),
}

impl Sessions {
    pub(super) fn new() -> Self {
        Sessions(RefCell::default())
    }

    /// A place on a connection with room, else on a new one. One connection is made at a time.
    ///
    /// # Errors
    /// When too many wait already, or a new one cannot be made within the cluster's connect timeout.
    pub(super) async fn get(
        &self,
        connector: &Connector,
        cluster: &Cluster,
        pick: &Pick,
        options: &TransportOptions,
    ) -> Result<Place, ConnectError> {
        let key = cluster.key(pick, options);
        let (mut pending, mut waiter) = (None, None);
        loop {
            let found = self.find(cluster, &key, waiter.is_some(), || cluster.way(pick, options));
            if pending.is_none() && !matches!(found, Found::Place(_)) {
                pending = cluster.pend()?;
            }
            match found {
                Found::Place(place) => return Ok(place),
                Found::New(session) => timeout(cluster.config().connect_timeout, session.greeted())
                    .await
                    .map_err(|_| ConnectError::Timeout)?,
                Found::Full(room, made) => {
                    waiter.get_or_insert_with(|| Waiter::begin(room)).told_or(made).await?;
                }
                Found::Connect(making, in_use) => {
                    let way = cluster.way(pick, options);
                    pick.connects();
                    return making.make(connector, cluster, way, in_use).await;
                }
            }
        }
    }

    /// Looks for a place, for one who has just come or who `waited`.
    fn find<'a>(
        &'a self,
        cluster: &Cluster,
        key: &'a Key,
        waited: bool,
        way: impl FnOnce() -> Way,
    ) -> Found<'a> {
        let mut slots = self.0.borrow_mut();
        let slot = slots.entry(key.clone()).or_insert_with(|| Slot {
            way: way(),
            idle_timeout: Duration::ZERO,
            sessions: Vec::new(),
            connecting: None,
            room: Rc::default(),
        });
        slot.idle_timeout = cluster.config().idle_timeout;
        slot.sessions.retain(|s| s.is_open() && !s.is_spent());
        if let Some(place) = slot.place(waited) {
            return place;
        }
        if let Some(session) = slot.sessions.iter().find(|s| s.is_new()) {
            return Found::New(session.clone());
        }
        if let Some(waiting) = &mut slot.connecting {
            let made = slot.sessions.is_empty().then(|| {
                let (tell, made) = oneshot::channel();
                waiting.push(tell);
                made
            });
            return Found::Full(slot.room.clone(), made);
        }
        let leave = match slot.sessions.len() {
            0 => Some(cluster.usage().first_session()),
            1..PER_ENDPOINT => cluster.usage().session(),
            _ => None,
        };
        let Some(in_use) = leave else { return Found::Full(slot.room.clone(), None) };
        slot.connecting = Some(Vec::new());
        Found::Connect(Making { sessions: self, key, room: slot.room.clone(), failed: None }, in_use)
    }

    fn keep(&self, key: &Key, session: Rc<Session>) {
        let mut slots = self.0.borrow_mut();
        let count: usize = slots.values().map(|s| s.sessions.len()).sum();
        if count >= IN_ALL {
            return;
        }
        if let Some(slot) = slots.get_mut(key).filter(|slot| !slot.way.is_over()) {
            slot.sessions.push(session);
        }
    }

    /// Closes connections whose idle time is over, that ended, or that nobody will use any more; what is on them goes on
    /// to its end.
    pub(super) fn sweep(&self, now: Instant) {
        self.0.borrow_mut().retain(|_, slot| {
            let limit = slot.idle_timeout;
            slot.sessions
                .retain(|s| s.is_open() && !s.is_spent() && (s.active() > 0 || s.idle_for(now) < limit));
            let used = !slot.way.is_over() && !slot.sessions.is_empty();
            used || slot.connecting.is_some() || slot.room.is_awaited()
        });
    }
}

impl Slot {
    /// Room, if there is some: a place for who waited, or where nobody waits.
    fn place(&self, waited: bool) -> Option<Found<'static>> {
        let with_room = || self.sessions.iter().find(|s| s.has_room());
        let session = with_room()?;
        if !waited && self.room.is_awaited() {
            self.room.tell_one();
            return Some(Found::Full(self.room.clone(), None));
        }
        let place = session.place();
        if waited && with_room().is_some() {
            self.room.tell_one();
        }
        Some(Found::Place(place))
    }
}

impl Waiter {
    /// Until it may look again.
    async fn told_or(&self, made: Option<Made>) -> Result<(), ConnectError> {
        let made = async {
            match made {
                // an error of the channel: who was connecting gave up
                Some(made) => made.await.unwrap_or(Ok(())),
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            made = made => made,
            () = self.told() => Ok(()),
        }
    }
}

/// A connection being made. Who waits for it hears of its end, whatever that is.
struct Making<'a> {
    sessions: &'a Sessions,
    key: &'a Key,
    room: Rc<Room>,
    failed: Option<ConnectError>,
}

impl Making<'_> {
    async fn make(
        mut self,
        connector: &Connector,
        cluster: &Cluster,
        way: Way,
        in_use: InUse,
    ) -> Result<Place, ConnectError> {
        let begun = match connector.connect(cluster, way, Inside::Http2, in_use).await {
            Ok(connection) => Session::begin(connection, &cluster.config().limits, self.room.clone())
                .await
                .map_err(|_| ConnectError::Refused),
            Err(e) => Err(e),
        };
        let session = begun.inspect_err(|e| self.failed = Some(e.clone()))?;
        let place = session.place();
        self.sessions.keep(self.key, session);
        Ok(place)
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        let mut slots = self.sessions.0.borrow_mut();
        let Some(slot) = slots.get_mut(self.key) else { return };
        for tell in slot.connecting.take().into_iter().flatten() {
            // an error is one who went away
            let _ = tell.send(self.failed.clone().map_or(Ok(()), Err));
        }
        // where it failed, the requests on other connections will tell
        if self.failed.is_none() || slot.sessions.iter().all(|s| s.active() == 0) {
            slot.room.tell_all();
        }
    }
}

#[cfg(test)]
mod tests;
