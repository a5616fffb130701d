use super::connect::Peer;
use crate::telemetry::Workload;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

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
    active: AtomicU32,
    removed: AtomicBool,
}

impl Endpoint {
    pub(super) fn new(address: SocketAddr) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Endpoint {
            id: EndpointId(NEXT.fetch_add(1, Ordering::Relaxed)),
            peer: Peer::new(address),
            address,
            active: AtomicU32::new(0),
            removed: AtomicBool::new(false),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether its cluster has it no more: connections to it are not kept.
    pub(super) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    pub(super) fn remove(&self) {
        self.removed.store(true, Ordering::Relaxed);
    }
}

/// An endpoint as one version of the endpoint set describes it.
pub(super) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) weight: u32,
    pub(super) workload: Arc<Workload>,
}

/// The endpoints of a cluster at one moment, swapped whole.
#[derive(Default)]
pub(super) struct EndpointTable {
    members: Box<[Arc<Member>]>,
    /// Sums of the weights up to and with each endpoint; `None` when the weights are equal.
    cumulative: Option<Box<[u64]>>,
}

impl EndpointTable {
    pub(super) fn new(members: Vec<Member>) -> Self {
        let equal = members.windows(2).all(|w| w[0].weight == w[1].weight);
        let cumulative = (!equal).then(|| {
            let sums = members.iter().scan(0u64, |sum, m| {
                *sum += u64::from(m.weight);
                Some(*sum)
            });
            sums.collect()
        });
        EndpointTable { members: members.into_iter().map(Arc::new).collect(), cumulative }
    }

    pub(super) fn members(&self) -> &[Arc<Member>] {
        &self.members
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn cumulative(&self) -> Option<&[u64]> {
        self.cumulative.as_deref()
    }

    pub(super) fn active(&self, index: usize) -> u32 {
        self.members[index].endpoint.active.load(Ordering::Relaxed)
    }

    pub(super) fn id(&self, index: usize) -> EndpointId {
        self.members[index].endpoint.id
    }

    /// Active requests of all endpoints.
    pub(super) fn requests(&self) -> u32 {
        (0..self.len()).map(|i| self.active(i)).sum()
    }

    pub(super) fn weight(&self, index: usize) -> u32 {
        self.members[index].weight
    }

    pub(super) fn take(&self, index: usize) -> Pick {
        Pick::new(self.members[index].clone())
    }
}

/// A picked endpoint, counted as active while it lives.
pub(crate) struct Pick {
    /// The endpoint's address (resolved).
    pub(crate) address: SocketAddr,
    member: Arc<Member>,
}

impl Pick {
    fn new(member: Arc<Member>) -> Self {
        member.endpoint.active.fetch_add(1, Ordering::Relaxed);
        Pick { address: member.endpoint.address(), member }
    }

    /// The workload behind the endpoint, for metrics.
    pub(crate) fn workload(&self) -> &Arc<Workload> {
        &self.member.workload
    }

    /// Which endpoint it is.
    pub(crate) fn id(&self) -> EndpointId {
        self.member.endpoint.id
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

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// Endpoints on made-up addresses with these weights.
    pub(in crate::upstream) fn table(weights: &[u32]) -> EndpointTable {
        let member = |(i, &weight): (usize, &u32)| Member {
            endpoint: Endpoint::new(SocketAddr::from(([10, 0, 0, 1], 1000 + i as u16))),
            weight,
            workload: Arc::default(),
        };
        EndpointTable::new(weights.iter().enumerate().map(member).collect())
    }
}
