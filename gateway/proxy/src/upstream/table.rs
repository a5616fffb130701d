use super::balance::{Balancer, Shares};
use super::endpoint::{Endpoint, EndpointId, Pick};
use super::hosts::RequestHosts;
use super::outlier::Millis;
use super::plan::{self, Candidate};
use crate::telemetry::Workload;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tidegate_model::{Cluster, LoadBalancer, Locality, OutlierDetection, Warmup};

/// How often a retry draws before it takes whatever was not tried (Istio: 5 times more than once).
const SELECTIONS: usize = 6;
/// What a weight is multiplied with while some endpoint has not its full one.
const FINE: f64 = 10_000.0;

/// An endpoint as one version of the endpoint set describes it.
pub(super) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    /// The DNS name that led to it.
    pub(super) name: Option<Arc<str>>,
    pub(super) weight: u32,
    /// 0 is the highest.
    pub(super) priority: u32,
    pub(super) place: Locality,
    /// Its locality and what that weighs, where localities have shares of their own.
    pub(super) locality: Option<(usize, u32)>,
    pub(super) workload: Arc<Workload>,
}

/// The endpoints of a cluster at one moment, swapped whole.
#[derive(Default)]
pub(super) struct EndpointTable {
    members: Arc<[Arc<Member>]>,
    /// Where its endpoints are what requests ask for.
    hosts: Option<Arc<RequestHosts>>,
    /// Those that get requests.
    tiers: Box<[Tier]>,
    shares: Shares,
    /// Which of the members were left out when it was made, and whether some had not their full weight.
    left_out: Box<[bool]>,
    warming: bool,
}

/// Endpoints among which the policy picks.
struct Tier {
    members: Box<[Arc<Member>]>,
    balancer: Balancer,
    /// Health does not count.
    panic: bool,
}

impl EndpointTable {
    /// Makes everything ready for the policy of `config`, as healthy as the endpoints are now.
    pub(super) fn new(members: Arc<[Arc<Member>]>, config: &Cluster, now: Millis) -> Self {
        let detection = config.outlier_detection.as_ref();
        let left_out: Box<[bool]> =
            members.iter().map(|m| detection.is_some() && m.endpoint.health.is_ejected()).collect();
        let candidate = |(m, out): (&Arc<Member>, &bool)| Candidate {
            priority: m.priority,
            locality: m.locality,
            healthy: !out,
        };
        let candidates: Vec<_> = members.iter().zip(&left_out).map(candidate).collect();
        let planned = plan::tiers(&candidates, detection.map_or(0, |d| d.min_health_percent));
        let warmup = config.warmup.as_ref().filter(|w| members.iter().any(|m| is_warming(m, w, now)));
        let mut shares = Vec::new();
        let mut tiers = Vec::new();
        for tier in planned {
            let of_tier: Box<[_]> = tier.members.iter().map(|i| members[*i].clone()).collect();
            if let Some(balancer) = balancer(&of_tier, &config.load_balancer, warmup, now) {
                shares.push(tier.share);
                tiers.push(Tier { members: of_tier, balancer, panic: tier.panic });
            }
        }
        let warming = warmup.is_some();
        let shares = Shares::new(&shares);
        EndpointTable { members, hosts: None, tiers: tiers.into(), shares, left_out, warming }
    }

    /// The same, for a cluster whose endpoints are what requests ask for.
    pub(super) fn with_hosts(self, hosts: Option<Arc<RequestHosts>>) -> Self {
        EndpointTable { hosts, ..self }
    }

    pub(super) fn hosts(&self) -> Option<&Arc<RequestHosts>> {
        self.hosts.as_ref()
    }

    pub(super) fn members(&self) -> &Arc<[Arc<Member>]> {
        &self.members
    }

    /// Whether it would be another one if it was made now.
    pub(super) fn is_outdated(&self) -> bool {
        let differs = |(m, out): (&Arc<Member>, &bool)| m.endpoint.health.is_ejected() != *out;
        self.warming || self.members.iter().zip(&self.left_out).any(differs)
    }

    /// Picks an endpoint; `None` when there is none. `dice` is uniformly random, or the hash of a key.
    pub(super) fn pick(&self, turn: &AtomicU64, dice: u64) -> Option<Pick> {
        self.draw(turn, dice).map(|member| Pick::new(member.clone()))
    }

    /// Picks one that is none of `tried` while there is another: first by `dice`, then by what follows from it.
    pub(super) fn pick_other(&self, turn: &AtomicU64, dice: u64, tried: &[EndpointId]) -> Option<Pick> {
        let is_new = |member: &&Arc<Member>| !tried.contains(&member.endpoint.id);
        let mut following = fastrand::Rng::with_seed(dice);
        let mut drawn = None;
        for selection in 0..SELECTIONS {
            let dice = if selection == 0 { dice } else { following.u64(..) };
            drawn = self.draw(turn, dice);
            if drawn.as_ref().is_none_or(is_new) {
                return drawn.map(|member| Pick::new(member.clone()));
            }
        }
        // where the load decides, it may well stand against those that are left
        let other = self.tiers.iter().find_map(|tier| tier.any(is_new));
        other.or(drawn).map(|member| Pick::new(member.clone()))
    }

    fn draw(&self, turn: &AtomicU64, dice: u64) -> Option<&Arc<Member>> {
        let tier = match &*self.tiers {
            [] => return None,
            [only] => only,
            tiers => &tiers[self.shares.draw(dice)],
        };
        let index = tier.balancer.pick(turn, dice, |i| tier.members[i].endpoint.active());
        let member = &tier.members[index];
        if tier.panic || !member.endpoint.health.is_ejected() { Some(member) } else { self.instead(tier) }
    }

    /// One in place of an endpoint that was left out since the table was made.
    #[cold]
    fn instead<'t>(&'t self, tier: &'t Tier) -> Option<&'t Arc<Member>> {
        std::iter::once(tier).chain(&self.tiers).find_map(|tier| tier.any(|_| true))
    }

    /// Active requests of all endpoints.
    pub(super) fn requests(&self) -> u32 {
        let of_requests = self.hosts.as_ref().map(|hosts| hosts.members()).unwrap_or_default();
        self.members.iter().chain(&of_requests).map(|member| member.endpoint.active()).sum()
    }

    /// Whether some endpoint has not its full weight yet.
    pub(super) fn is_warming(&self, warmup: &Warmup, now: Millis) -> bool {
        self.members.iter().any(|member| is_warming(member, warmup, now))
    }

    /// Whether the past of some endpoint is of interest at the next interval.
    pub(super) fn has_past(&self) -> bool {
        self.members.iter().any(|member| member.endpoint.health.standing().times > 0)
    }

    /// How many endpoints are left out.
    pub(super) fn ejected(&self) -> usize {
        self.members.iter().filter(|member| member.endpoint.health.is_ejected()).count()
    }

    /// Lets an interval pass for all of them; those that come back.
    pub(super) fn pass_interval(&self, rule: &OutlierDetection, now: Millis) -> Vec<Arc<Endpoint>> {
        let back = self.members.iter().filter(|m| m.endpoint.health.pass_interval(rule, now));
        back.map(|member| member.endpoint.clone()).collect()
    }
}

impl Tier {
    /// Any endpoint like this, from a random place on.
    fn any(&self, fits: impl Fn(&&Arc<Member>) -> bool) -> Option<&Arc<Member>> {
        let (before, after) = self.members.split_at(fastrand::usize(..self.members.len()));
        let usable = |m: &&Arc<Member>| (self.panic || !m.endpoint.health.is_ejected()) && fits(m);
        after.iter().chain(before).find(usable)
    }
}

fn balancer(
    members: &[Arc<Member>],
    policy: &LoadBalancer,
    warmup: Option<&Warmup>,
    now: Millis,
) -> Option<Balancer> {
    let keys: Vec<String> = members.iter().map(|m| m.endpoint.address().to_string()).collect();
    let weights = members.iter().map(|m| match warmup {
        None => u64::from(m.weight),
        Some(warmup) => (f64::from(m.weight) * FINE * share(warmup, age(m, now))).max(1.0) as u64,
    });
    let endpoints: Vec<_> = keys.iter().map(String::as_bytes).zip(weights).collect();
    Balancer::new(policy, &endpoints)
}

fn age(member: &Member, now: Millis) -> Duration {
    now.since(member.endpoint.created)
}

fn is_warming(member: &Member, warmup: &Warmup, now: Millis) -> bool {
    age(member, now) < warmup.duration
}

/// What of its weight an endpoint of this age has.
fn share(warmup: &Warmup, age: Duration) -> f64 {
    if age >= warmup.duration {
        return 1.0;
    }
    let time = age.as_secs_f64().max(1.0) / warmup.duration.as_secs_f64().max(1.0);
    let grown = time.min(1.0).powf(1000.0 / f64::from(warmup.aggression.max(1)));
    grown.max(f64::from(warmup.minimum) / 1_000_000.0)
}

#[cfg(test)]
mod tests;
