use super::cluster::Cluster;
use super::connect::ConnectError;
use super::endpoint::Pick;
use super::pool::Pool;
use super::queue::Next;
use super::transport::{Key, TransportOptions, Way};
use super::usage::{InUse, Usage};
use crate::h2::{Place, Session};
use crate::tls::Inside;
use ahash::AHashMap;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// HTTP/2 connections of one worker to one endpoint. Requests beyond what they take wait for their turn.
const PER_ENDPOINT: usize = 32;
/// HTTP/2 connections that one worker keeps in all.
const IN_ALL: usize = 4096;

/// A worker's HTTP/2 connections, by what they may be used for, each shared by many requests.
pub(super) struct Sessions(RefCell<AHashMap<Key, Slot>>);

struct Slot {
    way: Way,
    idle_timeout: Duration,
    sessions: Vec<Rc<Session>>,
    /// Who waits for the connection that is being made, if one is.
    connecting: Option<Vec<oneshot::Sender<Result<(), ConnectError>>>>,
}

/// What a request finds.
enum Found {
    Place(Place),
    Wait(oneshot::Receiver<Result<(), ConnectError>>),
    /// How many requests a new connection takes is not known yet.
    New(Rc<Session>),
    /// With leave to, if the cluster may have one more connection now.
    Connect(Option<InUse>),
}

impl Sessions {
    pub(super) fn new() -> Self {
        Sessions(RefCell::default())
    }

    /// A place on a connection with room, else on a new one. One connection is made at a time.
    ///
    /// # Errors
    /// When a new one cannot be made within the cluster's connect timeout.
    pub(super) async fn get(
        &self,
        pool: &Pool,
        cluster: &Cluster,
        pick: &Pick,
        options: &TransportOptions,
    ) -> Result<Place, ConnectError> {
        let key = cluster.key(pick, options);
        let mut pending = None;
        loop {
            let found = self.find(cluster, &key, || cluster.way(pick, options));
            if pending.is_none() && !matches!(found, Found::Place(_)) {
                pending = cluster.pend()?;
            }
            match found {
                Found::Place(place) => return Ok(place),
                // an error of the channel: who was connecting gave up
                Found::Wait(made) => made.await.unwrap_or(Ok(()))?,
                Found::New(session) => timeout(cluster.config().connect_timeout, session.greeted())
                    .await
                    .map_err(|_| ConnectError::Timeout)?,
                Found::Connect(leave) => {
                    let mut making = Making { sessions: self, key: &key, failed: None };
                    let in_use = match leave {
                        Some(in_use) => in_use,
                        None => match Box::pin(pool.wait(cluster, None)).await {
                            Next::Place(in_use) => in_use,
                            // none is asked for
                            Next::Connection(_) => continue,
                        },
                    };
                    let way = cluster.way(pick, options);
                    pick.connects();
                    let made = pool.connector.connect(cluster, way, Inside::Http2, in_use).await;
                    let session = match made {
                        Ok(connection) => Session::begin(connection, &cluster.config().limits)
                            .await
                            .map_err(|_| ConnectError::Refused),
                        Err(e) => Err(e),
                    };
                    return match session {
                        Ok(session) => {
                            let place = session.place();
                            self.keep(&key, session);
                            Ok(place)
                        }
                        Err(e) => {
                            making.failed = Some(e.clone());
                            Err(e)
                        }
                    };
                }
            }
        }
    }

    fn find(&self, cluster: &Cluster, key: &Key, way: impl FnOnce() -> Way) -> Found {
        let mut slots = self.0.borrow_mut();
        let slot = slots.entry(key.clone()).or_insert_with(|| Slot {
            way: way(),
            idle_timeout: Duration::ZERO,
            sessions: Vec::new(),
            connecting: None,
        });
        slot.idle_timeout = cluster.config().idle_timeout;
        slot.sessions.retain(|s| s.is_open() && !s.is_spent());
        if let Some(session) = slot.sessions.iter().find(|s| s.has_room()) {
            return Found::Place(session.place());
        }
        if let Some(session) = slot.sessions.iter().find(|s| s.is_new()) {
            return Found::New(session.clone());
        }
        if let Some(waiting) = &mut slot.connecting {
            let (tell, made) = oneshot::channel();
            waiting.push(tell);
            return Found::Wait(made);
        }
        let least = slot.sessions.iter().min_by_key(|s| s.active());
        let leave = if slot.sessions.len() >= PER_ENDPOINT {
            None
        } else {
            cluster.usage().connection_unless_awaited(cluster.config().limits.max_connections)
        };
        if let (None, Some(session)) = (&leave, least) {
            return Found::Place(session.place());
        }
        slot.connecting = Some(Vec::new());
        Found::Connect(leave)
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
            slot.connecting.is_some() || !slot.way.is_over() && !slot.sessions.is_empty()
        });
    }

    /// Closes a connection of this cluster that has no request.
    pub(super) fn give_up_one(&self, usage: &Arc<Usage>) -> bool {
        let idle = |s: &Rc<Session>| s.active() == 0 && Arc::ptr_eq(s.in_use().usage(), usage);
        self.0.borrow_mut().values_mut().any(|slot| {
            let at = slot.sessions.iter().position(idle);
            at.map(|at| slot.sessions.swap_remove(at)).is_some()
        })
    }

    /// Of which clusters there are connections.
    pub(super) fn usages(&self) -> Vec<Arc<Usage>> {
        let slots = self.0.borrow();
        slots.values().filter_map(|slot| Some(slot.sessions.first()?.in_use().usage().clone())).collect()
    }
}

/// A connection being made. Who waits for it hears of its end, whatever that is.
struct Making<'a> {
    sessions: &'a Sessions,
    key: &'a Key,
    failed: Option<ConnectError>,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        let mut slots = self.sessions.0.borrow_mut();
        let waiting = slots.get_mut(self.key).and_then(|slot| slot.connecting.take());
        for tell in waiting.into_iter().flatten() {
            // an error is one who went away
            let _ = tell.send(self.failed.clone().map_or(Ok(()), Err));
        }
    }
}
