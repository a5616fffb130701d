//! Clusters whose endpoints are the hosts that requests ask for: resolved when they are first asked for, and kept for
//! as long as they are.

use super::dns::{Name, Names};
use super::endpoint::{EndpointId, Pick};
use super::outlier::Millis;
use super::state::ClusterState;
use super::table::Member;
use crate::lock::lock;
use ahash::AHashMap;
use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tidegate_model::{Address, Cluster, Endpoint, EndpointSet, Locality};

/// Hosts that a cluster keeps.
const MOST: usize = 1024;
/// How long a host is kept that nobody asks for (Envoy: 5 minutes).
const KEPT: Duration = Duration::from_secs(5 * 60);
/// How often it is looked for such hosts.
const SWEEP: Duration = Duration::from_secs(30);
/// How long a request waits for the first answer (Envoy: 5 s).
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// Why a request's host is not gone to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoHost {
    /// It is none of the service's, or no name.
    #[error("the host is none of {0}")]
    Foreign(Arc<str>),
    /// As many hosts are in use as a cluster may have.
    #[error("{MOST} hosts are in use")]
    TooMany,
    /// It has no address.
    #[error("{0}")]
    NoAddress(String),
}

/// The hosts of one cluster.
pub(crate) struct RequestHosts {
    config: Arc<Cluster>,
    /// A name, or `*.` and the end of names.
    pattern: Arc<str>,
    port: u16,
    names: Arc<Names>,
    /// Read by every request, and swapped whole by the first for a host.
    known: ArcSwap<AHashMap<Arc<str>, Arc<Host>>>,
    changing: Mutex<()>,
}

struct Host {
    state: Arc<ClusterState>,
    name: Arc<Name>,
    /// When somebody last asked for it.
    used: AtomicU64,
}

impl RequestHosts {
    pub(super) fn new(config: Arc<Cluster>, pattern: Arc<str>, port: u16, names: Arc<Names>) -> Arc<Self> {
        let runtime = names.runtime().clone();
        let (known, changing) = (ArcSwap::default(), Mutex::default());
        let hosts = Arc::new(RequestHosts { config, pattern, port, names, known, changing });
        runtime.spawn(sweep(Arc::downgrade(&hosts)));
        hosts
    }

    /// Whether they are those of this config.
    pub(super) fn are(&self, config: &Cluster, pattern: &str, port: u16) -> bool {
        let own = &self.config;
        own.load_balancer == config.load_balancer
            && own.outlier_detection == config.outlier_detection
            && own.warmup == config.warmup
            && *self.pattern == *pattern
            && self.port == port
    }

    /// Picks an address of `host`, none of `tried` while there is another. Waits for its first answer.
    ///
    /// # Errors
    /// When the host is not to be gone to, or has no address.
    pub(crate) async fn pick(&self, host: &[u8], dice: u64, tried: &[EndpointId]) -> Result<Pick, NoHost> {
        let foreign = || NoHost::Foreign(self.pattern.clone());
        let host = std::str::from_utf8(host).ok().and_then(bare).ok_or_else(foreign)?;
        if !matches(&self.pattern, &host) || self.names.refuses(&host) {
            return Err(foreign());
        }
        let known = self.known.load().get(&*host).cloned();
        let found = match known {
            Some(found) => found,
            None => self.insert(&host.into())?,
        };
        found.used.store(Millis::now().0, Ordering::Relaxed);
        if let Some(pick) = found.pick(dice, tried) {
            return Ok(pick);
        }
        // an error is no answer, which is seen by there being no address
        let _ = tokio::time::timeout(FIRST_ANSWER, found.name.first_answer()).await;
        let picked = found.pick(dice, tried);
        picked.ok_or_else(|| NoHost::NoAddress(found.name.trouble().unwrap_or_default()))
    }

    #[cold]
    fn insert(&self, host: &Arc<str>) -> Result<Arc<Host>, NoHost> {
        let _one_at_a_time = lock(&self.changing);
        let mut next = AHashMap::clone(&self.known.load());
        if let Some(found) = next.get(host) {
            return Ok(found.clone());
        }
        if next.len() >= MOST {
            // who asks for names that there are not must not push out those that are in use
            let useless = |h: &Host| h.name.addresses().is_empty();
            let oldest = next.iter().filter(|(_, h)| useless(h)).min_by_key(|(_, h)| h.used());
            let oldest = oldest.map(|(host, _)| host.clone()).ok_or(NoHost::TooMany)?;
            next.remove(&oldest);
        }
        let state = ClusterState::new();
        let set = EndpointSet { cluster: self.config.name.clone(), endpoints: vec![self.endpoint(host)] };
        state.set_endpoints(self.config.clone(), Some(Arc::new(set)), &self.names);
        let made =
            Arc::new(Host { state, name: self.names.get(host), used: AtomicU64::new(Millis::now().0) });
        next.insert(host.clone(), made.clone());
        self.known.store(Arc::new(next));
        Ok(made)
    }

    fn endpoint(&self, host: &Arc<str>) -> Endpoint {
        Endpoint {
            address: Address::Dns(host.clone(), self.port),
            weight: 1,
            workload: Arc::default(),
            labels: Arc::default(),
            locality: Locality::default(),
            priority: 0,
            locality_weight: None,
        }
    }

    /// What is kept of a host.
    pub(super) fn state(&self, host: &Arc<str>) -> Option<Arc<ClusterState>> {
        self.known.load().get(host).map(|host| host.state.clone())
    }

    /// What hosts they may be, and their port.
    pub(super) fn pattern(&self) -> String {
        format!("{}:{}", self.pattern, self.port)
    }

    /// The addresses in use.
    pub(super) fn members(&self) -> Vec<Arc<Member>> {
        let known = self.known.load();
        let mut hosts: Vec<_> = known.iter().collect();
        hosts.sort_unstable_by_key(|(host, _)| *host);
        let tables = hosts.iter().map(|(_, host)| host.state.endpoints.load());
        tables.flat_map(|table| table.members().to_vec()).collect()
    }

    /// The hosts that have no address, or not all that they were answered, and why.
    pub(super) fn troubles(&self) -> Vec<(Arc<str>, usize, String)> {
        self.known.load().values().flat_map(|host| host.state.troubles()).collect()
    }

    fn forget_unused(&self) {
        let _one_at_a_time = lock(&self.changing);
        let now = Millis::now();
        let known = self.known.load_full();
        let stays = |host: &Host| now.since(Millis(host.used())) < KEPT;
        if known.values().any(|host| !stays(host)) {
            let mut next = AHashMap::clone(&known);
            next.retain(|_, host| stays(host));
            self.known.store(Arc::new(next));
        }
    }
}

impl Host {
    fn pick(&self, dice: u64, tried: &[EndpointId]) -> Option<Pick> {
        let table = self.state.endpoints.load();
        table.pick_other(&self.state.turn, dice, tried)
    }

    fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

async fn sweep(hosts: Weak<RequestHosts>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(hosts) = hosts.upgrade() else { return };
        hosts.forget_unused();
        hosts.names.forget_unused();
    }
}

/// A name in lower case, without its port and its last dot; `None` for what is no name.
fn bare(authority: &str) -> Option<String> {
    let name = authority.rsplit_once(':').map_or(authority, |(name, _)| name);
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let is_label = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(plain)
    };
    (name.len() <= 253 && name.split('.').all(is_label)).then_some(name)
}

fn matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(end) => host.len() > end.len() && host.ends_with(end),
        None => host == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Registry;
    use super::super::dns::testing::Scripted;
    use super::super::outlier::{Seen, testing::rule};
    use super::super::testing::{asked_for, cluster, model};
    use super::*;
    use tidegate_model::OutlierDetection;

    #[test]
    fn names_and_what_they_belong_to() {
        for (pattern, host, expected) in [
            ("*.example.com", "a.example.com", Some("a.example.com")),
            ("*.example.com", "A.b.Example.COM.:8443", Some("a.b.example.com")),
            ("*.example.com", "example.com", None),
            ("*.example.com", ".example.com", None),
            ("*.example.com", "a.example.com.evil.test", None),
            ("*.example.com", "a..example.com", None),
            ("*.example.com", "[::1]:80", None),
            ("*.example.com", "a%.example.com", None),
            ("example.com", "example.com:80", Some("example.com")),
            ("example.com", "a.example.com", None),
            ("*.example.com", "", None),
        ] {
            let found = bare(host).filter(|name| matches(pattern, name));
            assert_eq!(found.as_deref(), expected, "{host} of {pattern}");
        }
    }

    #[tokio::test]
    async fn hosts_are_resolved_when_they_are_asked_for() {
        let dns = Arc::new(Scripted::default());
        dns.answer("a.example.com", Ok(&["192.0.2.1"]));
        dns.answer("gone.example.com", Err("no such name"));
        dns.answer("here.example.com", Ok(&["127.0.0.1"]));
        let names = Arc::new(Names::new(tokio::runtime::Handle::current(), dns, &[]));
        let hosts = RequestHosts::new(Arc::new(cluster("a")), "*.example.com".into(), 443, names);
        let pick = async |host: &str| {
            let picked = hosts.pick(host.as_bytes(), 0, &[]).await;
            picked.map(|pick| pick.address.to_string()).map_err(|why| why.to_string())
        };
        assert_eq!(pick("A.example.com:443").await.unwrap(), "192.0.2.1:443");
        assert!(pick("gone.example.com").await.unwrap_err().ends_with("no such name"));
        assert!(pick("here.example.com").await.unwrap_err().contains("refused: 127.0.0.1"));
        assert_eq!(pick("b.example.org").await.unwrap_err(), "the host is none of *.example.com");
        assert_eq!(pick("127.0.0.1").await.unwrap_err(), "the host is none of *.example.com");
        assert_eq!(hosts.members().len(), 1);
        assert_eq!(hosts.troubles().len(), 2);
    }

    #[tokio::test]
    async fn addresses_of_a_host_are_left_out_as_those_of_a_cluster() {
        let dns = Arc::new(Scripted::default());
        dns.answer("a.example.com", Ok(&["192.0.2.1", "192.0.2.2"]));
        let mut config = cluster("a");
        config.outlier_detection = Some(OutlierDetection { consecutive_5xx: 1, ..rule() });
        let name = config.name.clone();
        let mut registry = Registry::with_resolver(tokio::runtime::Handle::current(), dns, &[]);
        let clusters = registry.apply(&model(&[(config, vec![asked_for("*.example.com", 443)])]));
        let cluster = clusters.get(&name).unwrap();
        let hosts = cluster.hosts().unwrap();
        let pick = async |dice: u64| hosts.pick(b"a.example.com", dice << 58, &[]).await.unwrap();
        assert!(cluster.pick(0).is_none(), "the cluster has no endpoint of its own");
        let bad = pick(0).await;
        cluster.observe(&bad, Seen::Status(500));
        for dice in 0..64 {
            assert_ne!(pick(dice).await.address, bad.address);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_there_are_not_push_out_each_other_alone() {
        let dns = Arc::new(Scripted::default());
        dns.answer("a.example.com", Ok(&["192.0.2.1"]));
        let names = Arc::new(Names::new(tokio::runtime::Handle::current(), dns.clone(), &[]));
        let hosts = RequestHosts::new(Arc::new(cluster("a")), "*.example.com".into(), 443, names);
        hosts.pick(b"a.example.com", 0, &[]).await.unwrap();
        for i in 0..2 * MOST {
            hosts.insert(&format!("x{i}.example.com").into()).unwrap();
        }
        // lookups that nobody answers hold up no others
        let others = Names::new(tokio::runtime::Handle::current(), dns.clone(), &[]);
        let theirs = RequestHosts::new(Arc::new(cluster("b")), "*.test".into(), 1, others.of_requests());
        for i in 0..2 * MOST {
            theirs.insert(&format!("y{i}.test").into()).unwrap();
        }
        let answered = tokio::time::timeout(Duration::from_secs(1), async {
            others.get(&"a.example.com".into()).first_answer().await;
        });
        answered.await.unwrap();
        assert_eq!(hosts.known.load().len(), MOST);
        assert!(hosts.known.load().contains_key("a.example.com"));
    }
}
