//! What a cluster keeps from one config to the next: its endpoints with their counters and health.

use super::budget::Retries;
use super::dns::{Name, Names, Watcher};
use super::endpoint::Endpoint;
use super::hosts::RequestHosts;
use super::keeper::keep;
use super::outlier::{Cause, Millis, may_eject};
use super::table::{EndpointTable, Member};
use super::usage::Usage;
use crate::telemetry::Workload;
use ahash::{AHashMap, AHashSet};
use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};
use std::time::Duration;
use tidegate_model::{Address, Cluster, ClusterName, EndpointSet, OutlierDetection, Warmup};
use tokio::sync::Notify;

/// How often weights of new endpoints grow: in so many steps, and not more often or seldom than this.
const WARMUP_STEPS: u32 = 50;
const WARMUP_STEP: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(1);

/// The state of a cluster, shared by the snapshots that know it.
pub(super) struct ClusterState {
    pub(super) endpoints: ArcSwap<EndpointTable>,
    /// The round robin's counter, begun anywhere so that gateways do not walk in step.
    pub(super) turn: AtomicU64,
    pub(super) retries: Arc<Retries>,
    pub(super) usage: Arc<Usage>,
    source: Mutex<Source>,
    /// Held while it is decided whether one more endpoint is left out.
    ejecting: Mutex<()>,
    /// Wakes who tends it.
    wake: Arc<Notify>,
    tended: OnceLock<()>,
}

/// What the endpoints are made from. Locked only while they are made.
#[derive(Default)]
struct Source {
    /// The newest config: who still has an older one finds the endpoints picked by this one's policy.
    config: Option<Arc<Cluster>>,
    set: Option<Arc<EndpointSet>>,
    names: AHashMap<Arc<str>, Arc<Name>>,
    /// The endpoints of names whose addresses are used in turns: where connections go on.
    in_turns: AHashMap<Address, Arc<Endpoint>>,
    /// Where endpoints are what requests ask for.
    hosts: Option<Arc<RequestHosts>>,
    /// When an interval of outlier detection is over, where one has begun.
    interval_ends: Option<Millis>,
}

impl ClusterState {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(ClusterState {
            endpoints: ArcSwap::default(),
            turn: AtomicU64::new(fastrand::u64(..)),
            retries: Arc::default(),
            usage: Arc::default(),
            source: Mutex::default(),
            ejecting: Mutex::default(),
            wake: Arc::default(),
            tended: OnceLock::new(),
        })
    }

    fn source(&self) -> MutexGuard<'_, Source> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its endpoints are made from this config and this set already.
    pub(super) fn is_made_from(&self, config: &Cluster, set: Option<&Arc<EndpointSet>>) -> bool {
        let source = self.source();
        let same_set = match (&source.set, set) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a.endpoints == b.endpoints,
            _ => false,
        };
        same_set
            && source.config.as_ref().is_some_and(|made| {
                made.load_balancer == config.load_balancer
                    && made.outlier_detection == config.outlier_detection
                    && made.warmup == config.warmup
            })
    }

    /// Swaps the endpoints for those of `set`, picked by the policy of `config`; `names` knows the addresses of those
    /// that are DNS names. What they change by themselves goes on in its runtime.
    pub(super) fn set_endpoints(
        self: &Arc<Self>,
        config: Arc<Cluster>,
        set: Option<Arc<EndpointSet>>,
        names: &Arc<Names>,
    ) {
        let changes = config.outlier_detection.is_some() || config.warmup.is_some();
        if changes && self.tended.set(()).is_ok() {
            names.runtime().spawn(keep(Arc::downgrade(self), self.wake.clone()));
        }
        let mut watched = AHashMap::new();
        let addresses = || set.iter().flat_map(|s| &s.endpoints).map(|e| &e.address);
        for (host, in_turns) in addresses().filter_map(|a| Some((dns_name(a)?, is_in_turns(a)))) {
            let name = watched.entry(host.clone()).or_insert_with(|| names.get(host));
            let watcher: Weak<dyn Watcher> = Arc::downgrade(&(self.clone() as Arc<dyn Watcher>));
            name.watch(watcher, in_turns);
        }
        let mut source = self.source();
        let Source { interval_ends, in_turns, hosts, .. } = std::mem::take(&mut *source);
        let wanted = addresses().find_map(|address| match address {
            Address::RequestHost(pattern, port) => Some((pattern, *port)),
            _ => None,
        });
        let hosts = wanted.map(|(pattern, port)| match hosts {
            Some(hosts) if hosts.are(&config, pattern, port) => hosts,
            _ => RequestHosts::new(config.clone(), pattern.clone(), port, names.of_requests()),
        });
        *source = Source { config: Some(config), set, names: watched, in_turns, hosts, interval_ends };
        self.rebuild(&mut source);
        drop(source);
        self.wake.notify_one();
    }

    /// Makes the endpoints again. One whose address stays keeps its counters and connections.
    fn rebuild(&self, source: &mut Source) {
        let Some(config) = source.config.clone() else { return };
        let old = self.endpoints.load_full();
        let mut kept: AHashMap<SocketAddr, Arc<Endpoint>> =
            old.members().iter().map(|m| (m.endpoint.address(), m.endpoint.clone())).collect();
        let mut moved = std::mem::take(&mut source.in_turns);
        let mut seen = AHashSet::new();
        let mut localities = AHashMap::new();
        let mut members = Vec::new();
        for described in source.set.iter().flat_map(|s| &s.endpoints) {
            let workload = Arc::new(Workload::new(&described.workload, &described.labels));
            let next = localities.len();
            let place = *localities.entry(&described.locality).or_insert(next);
            for address in source.resolve(&described.address) {
                if !seen.insert(address) {
                    continue;
                }
                let before = moved.remove(&described.address);
                let endpoint = match before {
                    // its connections go on, wherever they lead
                    Some(before) if before.address() != address => {
                        kept.remove(&before.address());
                        before.moved(address)
                    }
                    _ => kept.remove(&address).unwrap_or_else(|| Endpoint::new(address)),
                };
                if is_in_turns(&described.address) {
                    source.in_turns.insert(described.address.clone(), endpoint.clone());
                }
                members.push(Arc::new(Member {
                    endpoint,
                    name: dns_name(&described.address).cloned(),
                    weight: described.weight.max(1),
                    priority: described.priority,
                    place: described.locality.clone(),
                    locality: described.locality_weight.map(|weight| (place, weight)),
                    workload: workload.clone(),
                }));
            }
        }
        if config.outlier_detection.is_none() {
            members.iter().for_each(|member| member.endpoint.health.clear());
        }
        let table = EndpointTable::new(members.into(), &config, Millis::now());
        self.endpoints.store(Arc::new(table.with_hosts(source.hosts.clone())));
        kept.values().for_each(|endpoint| endpoint.remove());
    }

    /// The names that have no addresses, or not all that they were answered, and why.
    pub(super) fn troubles(&self) -> Vec<(Arc<str>, usize, String)> {
        let source = self.source();
        let troubles = source
            .names
            .iter()
            .filter_map(|(host, name)| Some((host.clone(), name.addresses().len(), name.trouble()?)));
        let mut troubles: Vec<_> = troubles.collect();
        troubles.sort_unstable();
        troubles
    }

    /// Leaves an endpoint out that was found to be an outlier, unless too many are.
    #[cold]
    pub(super) fn eject(
        &self,
        cluster: &ClusterName,
        endpoint: &Arc<Endpoint>,
        rule: &OutlierDetection,
        cause: Cause,
    ) {
        // who finds another worker at it looks again with its next error
        let _one_at_a_time = match self.ejecting.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        endpoint.health.forget_counts();
        let table = self.endpoints.load();
        let (ejected, all) = (table.ejected(), table.members().len());
        if endpoint.health.is_ejected() || !may_eject(rule, ejected, all) {
            return;
        }
        endpoint.health.eject(Millis::now());
        let length = endpoint.health.standing().length(rule);
        let address = endpoint.address();
        tracing::warn!(%cluster, %address, %cause, ejected = ejected + 1, of = all, "endpoint is left out for {length:?}");
        self.wake.notify_one();
    }

    /// Does what is due, and says when something will be.
    pub(super) fn tend(&self) -> Option<Duration> {
        let mut source = self.source();
        let config = source.config.clone()?;
        let now = Millis::now();
        let table = self.endpoints.load_full();
        let mut next = None;
        if let Some(rule) = &config.outlier_detection {
            source.interval_ends = intervals(&config.name, rule, &table, source.interval_ends, now);
            next = source.interval_ends.map(|end| end.since(now));
        } else {
            table.members().iter().for_each(|member| member.endpoint.health.clear());
        }
        if let Some(warmup) = config.warmup.as_ref().filter(|warmup| table.is_warming(warmup, now)) {
            next = next.into_iter().chain([step(warmup)]).min();
        }
        if table.is_outdated() {
            let members = table.members().clone();
            let table = EndpointTable::new(members, &config, now);
            self.endpoints.store(Arc::new(table.with_hosts(source.hosts.clone())));
        }
        next
    }
}

/// Lets the interval pass if it is over. The end of the next one, where somebody waits for it.
fn intervals(
    cluster: &ClusterName,
    rule: &OutlierDetection,
    table: &EndpointTable,
    ends: Option<Millis>,
    now: Millis,
) -> Option<Millis> {
    let begun = |from: Millis| {
        let length = u64::try_from(rule.interval.as_millis()).unwrap_or(u64::MAX).max(1);
        Millis(from.0.saturating_add(length))
    };
    // one that began by another rule must not last longer than this rule's
    let ends = ends.map_or_else(|| begun(now), |ends| ends.min(begun(now)));
    if now < ends {
        return table.has_past().then_some(ends);
    }
    for endpoint in table.pass_interval(rule, now) {
        tracing::info!(%cluster, address = %endpoint.address(), "endpoint gets requests again");
    }
    table.has_past().then(|| begun(now))
}

fn step(warmup: &Warmup) -> Duration {
    (warmup.duration / WARMUP_STEPS).clamp(*WARMUP_STEP.start(), *WARMUP_STEP.end())
}

impl Watcher for ClusterState {
    fn resolved(&self) {
        self.rebuild(&mut self.source());
        self.wake.notify_one();
    }
}

impl Drop for ClusterState {
    fn drop(&mut self) {
        self.endpoints.load().members().iter().for_each(|m| m.endpoint.remove());
        // who tends it finds it gone
        self.wake.notify_one();
    }
}

impl Source {
    fn resolve(&self, address: &Address) -> Vec<SocketAddr> {
        match address {
            Address::Socket(address) => vec![*address],
            Address::Dns(name, port) => {
                let name = self.names.get(name).map(|n| n.addresses());
                name.iter().flat_map(|a| a.iter()).map(|ip| SocketAddr::new(*ip, *port)).collect()
            }
            Address::DnsInTurns(name, port) => {
                let current = self.names.get(name).and_then(|n| n.current());
                current.map(|ip| SocketAddr::new(ip, *port)).into_iter().collect()
            }
            Address::RequestHost(..) => Vec::new(),
        }
    }
}

/// The name that an address is resolved from, if it is known before there is a request.
pub(super) fn dns_name(address: &Address) -> Option<&Arc<str>> {
    match address {
        Address::Dns(name, _) | Address::DnsInTurns(name, _) => Some(name),
        Address::Socket(_) | Address::RequestHost(..) => None,
    }
}

fn is_in_turns(address: &Address) -> bool {
    matches!(address, Address::DnsInTurns(..))
}
