use super::balance::Balancer;
use super::endpoint::{Endpoint, EndpointId, Pick};
use crate::telemetry::Workload;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tidegate_model::LoadBalancer;

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
    balancer: Option<Balancer>,
}

impl EndpointTable {
    pub(super) fn new(members: Vec<Member>, policy: &LoadBalancer) -> Self {
        let keys: Vec<String> = members.iter().map(|m| m.endpoint.address().to_string()).collect();
        let weights = members.iter().map(|m| u64::from(m.weight));
        let endpoints: Vec<_> = keys.iter().map(String::as_bytes).zip(weights).collect();
        let balancer = Balancer::new(policy, &endpoints);
        EndpointTable { members: members.into_iter().map(Arc::new).collect(), balancer }
    }

    pub(super) fn members(&self) -> &[Arc<Member>] {
        &self.members
    }

    /// Picks an endpoint; `None` when there is none. `dice` is uniformly random, or the hash of a key.
    pub(super) fn pick(&self, turn: &AtomicU64, dice: u64) -> Option<Pick> {
        self.draw(turn, dice).map(|member| Pick::new(member.clone()))
    }

    /// Picks one by random that is none of `tried` while there is another.
    pub(super) fn pick_other(&self, turn: &AtomicU64, tried: &[EndpointId]) -> Option<Pick> {
        let is_new = |member: &&Arc<Member>| !tried.contains(&member.endpoint.id);
        let mut drawn = None;
        for _ in 0..SELECTIONS {
            drawn = self.draw(turn, fastrand::u64(..));
            if drawn.as_ref().is_none_or(is_new) {
                return drawn.map(|member| Pick::new(member.clone()));
            }
        }
        // where the load decides, it may well stand against those that are left
        let start = fastrand::usize(..self.members.len());
        let (before, after) = self.members.split_at(start);
        let other = after.iter().chain(before).find(is_new);
        other.or(drawn).map(|member| Pick::new(member.clone()))
    }

    fn draw(&self, turn: &AtomicU64, dice: u64) -> Option<&Arc<Member>> {
        let index = self.balancer.as_ref()?.pick(turn, dice, |i| self.members[i].endpoint.active());
        Some(&self.members[index])
    }

    /// Active requests of all endpoints.
    pub(super) fn requests(&self) -> u32 {
        self.members.iter().map(|member| member.endpoint.active()).sum()
    }
}

/// How often a retry draws before it takes whatever was not tried (Istio: 5 times more than once).
const SELECTIONS: usize = 6;
