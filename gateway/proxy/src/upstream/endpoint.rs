use super::connect::{ConnectError, Peer};
use super::outlier::{Health, Millis};
use super::table::Member;
use crate::lock::lock;
use crate::telemetry::Workload;
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Tells an endpoint from every other of the process, so that an address which went and came back is
/// another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EndpointId(u64);

/// What lasts of an endpoint while its cluster keeps its address, whatever else changes.
pub(super) struct Endpoint {
    pub(super) id: EndpointId,
    /// How Pingora's connector reaches it, made once.
    pub(super) peer: Peer,
    address: SocketAddr,
    /// Whether it was at another address before, where connections may lead still.
    moved: bool,
    /// When it was first seen.
    pub(super) created: Millis,
    /// What is known of its health.
    pub(super) health: Health,
    active: AtomicU32,
    /// The last connection that could not be made, for who asks what is wrong.
    last_failure: Mutex<Option<(Millis, ConnectError)>>,
    /// Shared with those whose connections it has taken over.
    removed: Arc<AtomicBool>,
}

impl Endpoint {
    pub(super) fn new(address: SocketAddr) -> Arc<Self> {
        Endpoint::created(address, Millis::now())
    }

    pub(super) fn created(address: SocketAddr, created: Millis) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Endpoint {
            id: EndpointId(NEXT.fetch_add(1, Ordering::Relaxed)),
            peer: Peer::new(address),
            address,
            moved: false,
            created,
            health: Health::default(),
            active: AtomicU32::new(0),
            last_failure: Mutex::default(),
            removed: Arc::default(),
        })
    }

    /// The same endpoint at another address: connections to it stay, new ones go there.
    pub(super) fn moved(&self, address: SocketAddr) -> Arc<Self> {
        Arc::new(Endpoint {
            id: self.id,
            peer: Peer::new(address),
            address,
            moved: true,
            created: self.created,
            health: Health::default(),
            active: AtomicU32::new(0),
            last_failure: Mutex::default(),
            removed: self.removed.clone(),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests that it has.
    pub(super) fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Why the last connection that could not be made was not, and when that was.
    pub(super) fn last_failure(&self) -> Option<(Millis, ConnectError)> {
        lock(&self.last_failure).clone()
    }

    /// Whether its cluster has it no more: connections to it are not kept.
    pub(super) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    pub(super) fn remove(&self) {
        self.removed.store(true, Ordering::Relaxed);
    }
}

/// A picked endpoint, counted as active while it lives.
pub(crate) struct Pick {
    /// The endpoint's address (resolved).
    pub(crate) address: SocketAddr,
    member: Arc<Member>,
    connecting: Cell<bool>,
}

impl Pick {
    pub(super) fn new(member: Arc<Member>) -> Self {
        member.endpoint.active.fetch_add(1, Ordering::Relaxed);
        Pick { address: member.endpoint.address(), member, connecting: Cell::new(false) }
    }

    /// The workload behind the endpoint, for metrics.
    pub(crate) fn workload(&self) -> &Arc<Workload> {
        &self.member.workload
    }

    /// Whether connections to it may lead to another address than its own.
    pub(crate) fn has_moved(&self) -> bool {
        self.member.endpoint.moved
    }

    /// Notes that a connection to it is begun.
    pub(super) fn connects(&self) {
        self.connecting.set(true);
    }

    /// Whether a connection to it was begun.
    pub(crate) fn is_connecting(&self) -> bool {
        self.connecting.get()
    }

    /// Notes that it could not be connected to.
    #[cold]
    pub(crate) fn failed(&self, error: &ConnectError) {
        // who finds another one at it need not wait
        if let Ok(mut last) = self.member.endpoint.last_failure.try_lock() {
            *last = Some((Millis::now(), error.clone()));
        }
    }

    /// Which endpoint it is.
    pub(crate) fn id(&self) -> EndpointId {
        self.member.endpoint.id
    }

    /// The DNS name that led to it.
    pub(super) fn name(&self) -> Option<&Arc<str>> {
        self.member.name.as_ref()
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.member.endpoint
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.member.endpoint.active.fetch_sub(1, Ordering::Relaxed);
    }
}
