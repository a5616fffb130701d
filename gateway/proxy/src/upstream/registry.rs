use super::cluster::{Cluster, Clusters};
use super::dns::{Name, Names, wait_for};
use super::resolver::{Resolve, SystemResolver};
use super::state::{ClusterState, dns_name};
use super::transport::Transport;
use crate::tls::Credentials;
use ahash::AHashMap;
use ipnet::IpNet;
use std::sync::Arc;
use std::time::Duration;
use tidegate_model::{EndpointSet, Model};
use tokio::runtime::Handle;

/// Keeps the state of clusters across snapshots, keyed by name: endpoint churn swaps endpoints,
/// an unchanged cluster keeps its counters, a removed one is dropped when its last request ends.
pub(crate) struct Registry {
    clusters: Clusters,
    names: Arc<Names>,
}

impl Registry {
    /// An empty registry. Names of DNS endpoints are resolved on `runtime`; they may lead to what is local only within
    /// `allowed`.
    pub(crate) fn new(runtime: Handle, resolver: SystemResolver, allowed: &[IpNet]) -> Self {
        Registry::with_resolver(runtime, Arc::new(resolver), allowed)
    }

    pub(super) fn with_resolver(runtime: Handle, resolver: Arc<dyn Resolve>, allowed: &[IpNet]) -> Self {
        Registry { clusters: Clusters::default(), names: Arc::new(Names::new(runtime, resolver, allowed)) }
    }

    /// Begins to resolve the names of a model that is to be applied, and waits for the first answer to each: what
    /// serves now goes on until then. Blocks the thread, `longest` at most, and never twice for a name.
    pub(crate) fn prepare(&self, model: &Model, longest: Duration) -> Prepared {
        let endpoints = model.endpoints.values().flat_map(|set| &set.endpoints);
        let mut names: Vec<_> = endpoints.filter_map(|e| dns_name(&e.address)).collect();
        names.sort_unstable();
        names.dedup();
        let names: Vec<_> = names.into_iter().map(|host| self.names.get(host)).collect();
        wait_for(&names, longest);
        Prepared(names)
    }

    /// The clusters of a model, sharing the state of those that were there before. Snapshots that
    /// are still in use see the new endpoints too.
    ///
    /// Never waits (see [`Registry::prepare`]): names are resolved in the background, and until one was resolved for
    /// the first time its endpoint does not exist (a cluster of such endpoints alone answers 503, UH).
    pub(crate) fn update(&mut self, model: &Model, credentials: &Credentials) -> Clusters {
        let mut next = AHashMap::with_capacity(model.clusters.len());
        for (name, config) in &model.clusters {
            let old = self.clusters.get(name);
            let transport = Transport::build(config, credentials, old.map(|old| &old.transport));
            let cluster = match old {
                Some(old) if old.config() == config && Arc::ptr_eq(&old.transport, &transport) => old.clone(),
                Some(old) => {
                    if !Arc::ptr_eq(&old.transport, &transport) {
                        old.transport.retire();
                    }
                    Cluster::new(config.clone(), old.state.clone(), transport)
                }
                None => Cluster::new(config.clone(), ClusterState::new(), transport),
            };
            cluster.state.usage.limit(config.limits.max_connections);
            self.apply_endpoints(&cluster, model.endpoints.get(name));
            next.insert(name.clone(), cluster);
        }
        self.clusters = Clusters(Arc::new(next));
        self.names.forget_unused();
        self.clusters.clone()
    }

    /// [`Registry::update`] for models without TLS.
    #[cfg(test)]
    pub(crate) fn apply(&mut self, model: &Model) -> Clusters {
        self.update(model, &Credentials::default())
    }

    fn apply_endpoints(&self, cluster: &Cluster, set: Option<&Arc<EndpointSet>>) {
        let Cluster { config, state, .. } = cluster;
        if state.is_made_from(config, set) {
            return;
        }
        state.set_endpoints(config.clone(), set.cloned(), &self.names);
    }
}

/// The names of a model, held so that they stay resolved until it is applied.
pub(crate) struct Prepared(#[expect(dead_code, reason = "held, and nothing else")] Vec<Arc<Name>>);

#[cfg(test)]
mod tests {
    use super::super::dns::testing::Scripted;
    use super::super::outlier::Seen;
    use super::super::outlier::testing::rule;
    use super::super::testing::{cluster, endpoint, in_turns, model, named, until};
    use super::*;
    use crate::allocations::allocations;
    use std::net::SocketAddr;
    use std::time::Duration;
    use tidegate_model::{ClusterName, ConsistentHash, HashKey, HashTable, LoadBalancer, OutlierDetection};

    fn registry() -> (tokio::runtime::Runtime, Arc<Scripted>, Registry) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let dns = Arc::new(Scripted::default());
        let registry = Registry::with_resolver(runtime.handle().clone(), dns.clone(), &[]);
        (runtime, dns, registry)
    }

    fn name() -> ClusterName {
        ClusterName::outbound(80, "", "a")
    }

    fn addresses(clusters: &Clusters) -> Vec<String> {
        clusters.get(&name()).unwrap().addresses().iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn endpoint_churn_keeps_counters_and_reaches_old_snapshots() {
        let (_runtime, _, mut registry) = registry();
        let old = registry.apply(&model(&[(cluster("a"), vec![endpoint("10.0.0.1:1")])]));
        let pick = old.get(&name()).unwrap().pick(0).unwrap();
        let stays = pick.endpoint().clone();

        let both = vec![endpoint("10.0.0.2:1"), endpoint("10.0.0.1:1")];
        let new = registry.apply(&model(&[(cluster("a"), both)]));
        assert!(Arc::ptr_eq(old.get(&name()).unwrap(), new.get(&name()).unwrap()));
        assert_eq!(addresses(&old), ["10.0.0.2:1", "10.0.0.1:1"]);
        for dice in 0..64u64 {
            let other = new.get(&name()).unwrap().pick(dice << 58).unwrap();
            assert_eq!(other.address.to_string(), "10.0.0.2:1", "the other has an active request");
        }

        registry.apply(&model(&[(cluster("a"), vec![])]));
        assert!(stays.is_removed());
        assert!(old.get(&name()).unwrap().pick(0).is_none());
    }

    #[test]
    fn a_changed_config_keeps_the_endpoints_state() {
        let (_runtime, _, mut registry) = registry();
        let old = registry.apply(&model(&[(cluster("a"), vec![endpoint("10.0.0.1:1")])]));
        let mut changed = cluster("a");
        changed.load_balancer = LoadBalancer::Random;
        let new = registry.apply(&model(&[(changed, vec![endpoint("10.0.0.1:1")])]));
        let [a, b] = [&old, &new].map(|c| c.get(&name()).unwrap().clone());
        assert_eq!(a.config().load_balancer, LoadBalancer::LeastRequest);
        assert_eq!(b.config().load_balancer, LoadBalancer::Random);
        let ids = [a, b].map(|c| c.pick(1).unwrap().endpoint().id);
        assert_eq!(ids[0], ids[1]);
    }

    #[test]
    fn a_removed_cluster_goes_with_its_last_user() {
        let (_runtime, _, mut registry) = registry();
        let old = registry.apply(&model(&[(cluster("a"), vec![endpoint("10.0.0.1:1")])]));
        let endpoint = old.get(&name()).unwrap().pick(0).unwrap().endpoint().clone();
        let new = registry.apply(&model(&[]));
        assert!(new.get(&name()).is_none());
        assert!(!endpoint.is_removed());
        drop(old);
        assert!(endpoint.is_removed());
    }

    #[test]
    fn names_are_resolved_in_the_background_and_shared() {
        let (_runtime, dns, mut registry) = registry();
        let set = vec![named("web.test", 80), named("web.test", 81), endpoint("10.0.0.1:1")];
        let clusters =
            registry.apply(&model(&[(cluster("a"), set), (cluster("b"), vec![named("web.test", 1)])]));
        assert_eq!(addresses(&clusters), ["10.0.0.1:1"]);
        dns.answer("web.test", Ok(&["192.0.2.1", "2001:db8::1"]));
        let all = ["192.0.2.1:80", "[2001:db8::1]:80", "192.0.2.1:81", "[2001:db8::1]:81", "10.0.0.1:1"];
        until(|| addresses(&clusters) == all);
        dns.answer("web.test", Err("SERVFAIL"));
        dns.asked_again("web.test");
        assert_eq!(addresses(&clusters), all, "a failure keeps what was known");
        dns.answer("web.test", Ok(&["192.0.2.2"]));
        until(|| addresses(&clusters) == ["192.0.2.2:80", "192.0.2.2:81", "10.0.0.1:1"]);
        drop(clusters);
        registry.apply(&model(&[]));
        until(|| dns.is_forgotten("web.test"));
    }

    #[test]
    fn a_config_waits_for_the_first_answers_and_never_twice() {
        const LONG: Duration = Duration::from_secs(60);
        let (_runtime, dns, mut registry) = registry();
        registry.apply(&model(&[(cluster("a"), vec![endpoint("10.0.0.1:1")])]));
        dns.answer("web.test", Ok(&["192.0.2.1"]));
        let next = model(&[(cluster("a"), vec![named("web.test", 80)])]);
        let prepared = registry.prepare(&next, LONG);
        assert_eq!(addresses(&registry.clusters), ["10.0.0.1:1"], "what serves goes on");
        assert_eq!(addresses(&registry.apply(&next)), ["192.0.2.1:80"], "and nothing comes between");
        drop(prepared);
        let silent = model(&[(cluster("a"), vec![named("silent.test", 80)])]);
        let prepared = registry.prepare(&silent, Duration::from_millis(1));
        // one that does not answer holds nothing up for ever
        let _again = registry.prepare(&silent, LONG);
        assert!(addresses(&registry.apply(&silent)).is_empty());
        drop(prepared);
        let said = registry.clusters.get(&name()).unwrap().standings();
        assert_eq!(said[0].reason.as_deref(), Some("the name has no addresses: it was not answered yet"));
    }

    #[test]
    fn one_address_at_a_time_and_connections_stay() {
        let (_runtime, dns, mut registry) = registry();
        dns.answer("web.test", Ok(&["192.0.2.1", "192.0.2.2"]));
        let model = model(&[(cluster("a"), vec![in_turns("web.test", 80)])]);
        let _prepared = registry.prepare(&model, Duration::from_secs(60));
        let clusters = registry.apply(&model);
        let first = clusters.get(&name()).unwrap().pick(0).unwrap();
        let seen = || addresses(&clusters);
        assert_eq!(seen().len(), 1);
        let other = if first.address.to_string() == "192.0.2.1:80" { "192.0.2.2:80" } else { "192.0.2.1:80" };
        until(|| seen() == [other]);
        let second = clusters.get(&name()).unwrap().pick(0).unwrap();
        assert!(first.id() == second.id() && !first.endpoint().is_removed());
        dns.answer("web.test", Ok(&["192.0.2.3"]));
        until(|| seen() == ["192.0.2.3:80"]);
        assert!(!first.endpoint().is_removed(), "its connections go on");
        registry.apply(&Model::default());
        drop(clusters);
        assert!(first.endpoint().is_removed() && second.endpoint().is_removed());
    }

    #[test]
    fn answers_that_lead_to_this_machine_or_its_cloud_are_refused() {
        let (runtime, dns, mut registry) = registry();
        dns.answer("web.test", Ok(&["192.0.2.1", "169.254.169.254"]));
        let next = model(&[(cluster("a"), vec![named("web.test", 80)])]);
        let _prepared = registry.prepare(&next, Duration::from_secs(60));
        let clusters = registry.apply(&next);
        assert_eq!(addresses(&clusters), ["192.0.2.1:80"]);
        let said = || clusters.get(&name()).unwrap().standings().pop().unwrap().reason.unwrap_or_default();
        assert!(said().ends_with("has addresses that are refused: 169.254.169.254"), "{}", said());
        dns.answer("web.test", Ok(&["::1", "fd00:ec2::254"]));
        until(|| said().contains("refused: ::1, fd00:ec2::254"));
        assert_eq!(addresses(&clusters), ["192.0.2.1:80"], "the last good ones stay");
        let allowed = ["169.254.0.0/16".parse().unwrap()];
        let mut registry = Registry::with_resolver(runtime.handle().clone(), dns.clone(), &allowed);
        dns.answer("web.test", Ok(&["169.254.169.254", "127.0.0.1"]));
        let _prepared = registry.prepare(&next, Duration::from_secs(60));
        assert_eq!(addresses(&registry.apply(&next)), ["169.254.169.254:80"]);
    }

    #[test]
    fn who_is_left_out_comes_back_and_keeps_its_state_over_configs() {
        let (_runtime, _, mut registry) = registry();
        let mut config = cluster("a");
        config.load_balancer = LoadBalancer::Random;
        config.outlier_detection = Some(OutlierDetection {
            consecutive_5xx: 2,
            interval: Duration::from_millis(5),
            base_ejection_time: Duration::from_secs(3600),
            ..rule()
        });
        let endpoints = || vec![endpoint("10.0.0.1:1"), endpoint("10.0.0.2:1")];
        let clusters = registry.apply(&model(&[(config.clone(), endpoints())]));
        let old = clusters.get(&name()).unwrap().clone();
        let bad = (0..64u64).find_map(|dice| old.pick(dice << 58).filter(|p| p.address.port() == 1)).unwrap();
        let address = bad.address;
        let seen = |cluster: &Cluster| {
            let all = (0..64u64).filter_map(|dice| Some(cluster.pick(dice << 58)?.address));
            all.collect::<std::collections::BTreeSet<_>>()
        };
        old.observe(&bad, Seen::Failure);
        assert!(seen(&old).contains(&address), "one is not two");
        old.observe(&bad, Seen::Status(500));
        drop(bad);
        assert!(!seen(&old).contains(&address) && seen(&old).len() == 1, "at once");
        // another config of the cluster finds it as it is, and so does one that has other endpoints too
        config.connect_timeout = Duration::from_secs(1);
        let more = [endpoints(), vec![endpoint("10.0.0.3:1")]].concat();
        let clusters = registry.apply(&model(&[(config.clone(), more)]));
        let new = clusters.get(&name()).unwrap().clone();
        assert!(!seen(&new).contains(&address) && seen(&new).len() == 2);
        // with a shorter time it comes back
        config.outlier_detection.as_mut().unwrap().base_ejection_time = Duration::from_millis(1);
        let clusters = registry.apply(&model(&[(config.clone(), endpoints())]));
        let new = clusters.get(&name()).unwrap().clone();
        until(|| seen(&new).contains(&address) && seen(&old).contains(&address));
        // and where nothing is detected, nobody is left out
        config.outlier_detection.as_mut().unwrap().base_ejection_time = Duration::from_secs(3600);
        let clusters = registry.apply(&model(&[(config.clone(), endpoints())]));
        let new = clusters.get(&name()).unwrap().clone();
        let bad = (0..64u64).find_map(|dice| new.pick(dice << 58).filter(|p| p.address == address)).unwrap();
        (0..2).for_each(|_| new.observe(&bad, Seen::Failure));
        drop(bad);
        assert!(!seen(&new).contains(&address));
        config.outlier_detection = None;
        let clusters = registry.apply(&model(&[(config, endpoints())]));
        assert!(seen(clusters.get(&name()).unwrap()).contains(&address));
    }

    #[test]
    fn a_pick_allocates_nothing() {
        let (_runtime, _, mut registry) = registry();
        let hash = |table| LoadBalancer::ConsistentHash(ConsistentHash { key: HashKey::SourceIp, table });
        for policy in [
            LoadBalancer::LeastRequest,
            LoadBalancer::RoundRobin,
            LoadBalancer::Random,
            hash(HashTable::Ring { minimum: 1024 }),
            hash(HashTable::Maglev { size: 1009 }),
        ] {
            let mut config = cluster("a");
            config.load_balancer = policy.clone();
            let endpoints = (1..100).map(|i| endpoint(&format!("10.0.0.{i}:1"))).collect();
            let clusters = registry.apply(&model(&[(config, endpoints)]));
            let name = name();
            let picked =
                || (0..100u64).all(|d| clusters.get(&name).is_some_and(|c| c.pick(d << 57).is_some()));
            assert!(picked());
            assert_eq!(allocations(|| assert!(picked())), 0, "{policy:?}");
        }
    }

    #[test]
    fn literals_and_localhost_need_no_dns() {
        let (_runtime, dns, mut registry) = registry();
        let set = vec![named("127.0.0.9", 1), named("::1", 2), named("localhost", 3)];
        let clusters = registry.apply(&model(&[(cluster("a"), set)]));
        assert_eq!(addresses(&clusters), ["127.0.0.9:1", "[::1]:2", "127.0.0.1:3"]);
        assert!(dns.is_forgotten("localhost"));
    }
}
