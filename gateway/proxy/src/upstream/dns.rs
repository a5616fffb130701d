//! Names of endpoints, resolved in the background and kept fresh by their TTL.

use ahash::AHashMap;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

/// An answer is asked for again when its TTL is over, but not sooner and not later than this.
const TTL: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);
/// The longest pause after failures; it begins at one second and doubles.
const BACKOFF_CAP: Duration = Duration::from_secs(60);
/// The time for one lookup with all its search domains and attempts.
const LOOKUP_TIME: Duration = Duration::from_secs(15);
/// Lookups at the same time.
const LOOKUPS: usize = 32;

/// Asks for the addresses of a name.
#[async_trait]
pub(crate) trait Resolve: Send + Sync {
    /// All addresses and how long they hold.
    async fn resolve(&self, host: &str) -> Result<Answer, String>;
}

/// What a name resolved to.
pub(crate) struct Answer {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ttl: Duration,
}

/// Is told when a name has other addresses than before.
pub(super) trait Watcher: Send + Sync {
    fn resolved(&self);
}

/// The names in use, each resolved once for everyone who watches it.
pub(super) struct Names {
    runtime: Handle,
    resolver: Arc<dyn Resolve>,
    permits: Arc<Semaphore>,
    known: AHashMap<Arc<str>, Weak<Name>>,
}

impl Names {
    pub(super) fn new(runtime: Handle, resolver: Arc<dyn Resolve>) -> Self {
        let permits = Arc::new(Semaphore::new(LOOKUPS));
        Names { runtime, resolver, permits, known: AHashMap::new() }
    }

    /// The name, resolved for as long as someone holds it. An IP literal and `localhost`
    /// (RFC 6761 6.3) have their addresses at once and are never asked for.
    pub(super) fn watch(&mut self, host: &Arc<str>, watcher: Weak<dyn Watcher>) -> Arc<Name> {
        if let Some(address) = fixed(host) {
            return Arc::new(Name::new(vec![address]));
        }
        let name = match self.known.get(host).and_then(Weak::upgrade) {
            Some(name) => name,
            None => self.start(host),
        };
        let mut watchers = name.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|w| w.strong_count() > 0 && !w.ptr_eq(&watcher));
        watchers.push(watcher);
        drop(watchers);
        name
    }

    pub(super) fn forget_unused(&mut self) {
        self.known.retain(|_, name| name.strong_count() > 0);
    }

    fn start(&mut self, host: &Arc<str>) -> Arc<Name> {
        let name = Arc::new(Name::new(Vec::new()));
        let refresh =
            refresh(host.clone(), Arc::downgrade(&name), self.resolver.clone(), self.permits.clone());
        let _ = name.task.set(self.runtime.spawn(refresh).abort_handle());
        self.known.insert(host.clone(), Arc::downgrade(&name));
        name
    }
}

/// A name and what it last resolved to. Dropping it ends its lookups.
pub(super) struct Name {
    addresses: ArcSwap<Vec<IpAddr>>,
    watchers: Mutex<Vec<Weak<dyn Watcher>>>,
    task: OnceLock<AbortHandle>,
}

impl Name {
    fn new(addresses: Vec<IpAddr>) -> Self {
        Name {
            addresses: ArcSwap::from_pointee(addresses),
            watchers: Mutex::default(),
            task: OnceLock::new(),
        }
    }

    /// The last known addresses; none before the first answer.
    pub(super) fn addresses(&self) -> Arc<Vec<IpAddr>> {
        self.addresses.load_full()
    }

    fn publish(&self, addresses: Vec<IpAddr>) {
        if **self.addresses.load() == addresses {
            return;
        }
        self.addresses.store(Arc::new(addresses));
        let watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        watchers.iter().filter_map(Weak::upgrade).for_each(|w| w.resolved());
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// Resolves a name for ever; ends when nobody holds it.
async fn refresh(host: Arc<str>, name: Weak<Name>, resolver: Arc<dyn Resolve>, permits: Arc<Semaphore>) {
    let mut failures = 0u32;
    loop {
        let answer = {
            let _permit = permits.acquire().await;
            let lookup = tokio::time::timeout(LOOKUP_TIME, resolver.resolve(&host)).await;
            lookup.unwrap_or_else(|_| Err(format!("no answer within {LOOKUP_TIME:?}")))
        };
        let Some(name) = name.upgrade() else { return };
        let pause = match answer {
            Ok(answer) if !answer.addresses.is_empty() => {
                if failures > 0 {
                    tracing::info!(%host, "DNS name resolves again");
                }
                failures = 0;
                name.publish(answer.addresses);
                answer.ttl.clamp(*TTL.start(), *TTL.end())
            }
            failed => {
                if failures == 0 {
                    let error = failed.err().unwrap_or_else(|| "no addresses".to_string());
                    let kept = name.addresses().len();
                    tracing::warn!(%host, %error, kept, "DNS name does not resolve; its last addresses stay");
                }
                failures = failures.saturating_add(1);
                backoff(failures)
            }
        };
        drop(name);
        tokio::time::sleep(pause).await;
    }
}

/// 1, 2, 4 .. 60 s after so many failures, each up to a quarter longer so that names spread out.
fn backoff(failures: u32) -> Duration {
    let base = Duration::from_secs(1 << failures.saturating_sub(1).min(6)).min(BACKOFF_CAP);
    base.mul_f64(1.0 + fastrand::f64() / 4.0)
}

fn fixed(host: &str) -> Option<IpAddr> {
    let bare = host.strip_suffix('.').unwrap_or(host);
    let local = bare.eq_ignore_ascii_case("localhost")
        || bare.len() > 10 && bare.as_bytes()[bare.len() - 10..].eq_ignore_ascii_case(b".localhost");
    match bare.parse() {
        Ok(address) => Some(address),
        Err(_) if local => Some(Ipv4Addr::LOCALHOST.into()),
        Err(_) => None,
    }
}

/// The resolver of the system: `/etc/resolv.conf` and `/etc/hosts`, read at the first lookup.
#[derive(Default)]
pub(crate) struct SystemResolver(OnceLock<TokioResolver>);

impl SystemResolver {
    fn get(&self) -> Result<&TokioResolver, String> {
        if let Some(resolver) = self.0.get() {
            return Ok(resolver);
        }
        let wrong = |e| format!("cannot use /etc/resolv.conf: {e}");
        let mut builder = TokioResolver::builder_tokio().map_err(wrong)?;
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // Its answers are kept here by their TTL; failures must be asked for again.
        options.cache_size = 0;
        let resolver = builder.build().map_err(wrong)?;
        Ok(self.0.get_or_init(|| resolver))
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> Result<Answer, String> {
        let found = self.get()?.lookup_ip(host).await.map_err(|e| e.to_string())?;
        let mut addresses: Vec<IpAddr> = found.iter().collect();
        addresses.sort_unstable();
        addresses.dedup();
        let ttl = found.valid_until().saturating_duration_since(Instant::now());
        Ok(Answer { addresses: reachable(addresses), ttl })
    }
}

/// Without the addresses of a family that this machine has no route for, when there is another:
/// a picked endpoint that cannot be reached would fail every other request.
fn reachable(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let both = addresses.iter().any(IpAddr::is_ipv4) && addresses.iter().any(IpAddr::is_ipv6);
    if !both {
        return addresses;
    }
    let routed: Vec<IpAddr> = addresses.iter().copied().filter(|a| has_route(*a)).collect();
    if routed.is_empty() { addresses } else { routed }
}

/// Whether the kernel knows a way there. Connecting a UDP socket sends nothing.
fn has_route(address: IpAddr) -> bool {
    let any = match address {
        IpAddr::V4(_) => "0.0.0.0:0",
        IpAddr::V6(_) => "[::]:0",
    };
    UdpSocket::bind(any).and_then(|s| s.connect((address, 53))).is_ok()
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::upstream::testing::until;

    /// Answers as it was told; names nobody told about wait.
    #[derive(Default)]
    pub(in crate::upstream) struct Scripted {
        answers: Mutex<AHashMap<String, Result<Vec<IpAddr>, String>>>,
        asked: Mutex<AHashMap<String, Vec<Instant>>>,
        told: tokio::sync::Notify,
    }

    impl Scripted {
        pub(in crate::upstream) fn answer(&self, host: &str, answer: Result<&[&str], &str>) {
            let parse = |a: &[&str]| a.iter().map(|a| a.parse().unwrap()).collect();
            let answer = answer.map(parse).map_err(str::to_string);
            self.answers.lock().unwrap().insert(host.to_string(), answer);
            self.told.notify_waiters();
        }

        fn asked(&self, host: &str) -> usize {
            self.asked.lock().unwrap().get(host).map_or(0, Vec::len)
        }

        /// Waits for two more lookups: what the first one said was used by then.
        pub(in crate::upstream) fn asked_again(&self, host: &str) {
            let before = self.asked(host);
            until(|| self.asked(host) >= before + 2);
        }

        /// Whether nobody asked for longer than the shortest TTL.
        pub(in crate::upstream) fn is_forgotten(&self, host: &str) -> bool {
            let asked = self.asked.lock().unwrap();
            asked.get(host).and_then(|a| a.last()).is_none_or(|t| t.elapsed() > *TTL.start() * 2)
        }
    }

    #[async_trait]
    impl Resolve for Scripted {
        async fn resolve(&self, host: &str) -> Result<Answer, String> {
            self.asked.lock().unwrap().entry(host.to_string()).or_default().push(Instant::now());
            loop {
                let told = self.told.notified();
                if let Some(answer) = self.answers.lock().unwrap().get(host) {
                    return answer.clone().map(|addresses| Answer { addresses, ttl: Duration::ZERO });
                }
                told.await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_names() {
        let cases = [
            ("10.1.2.3", Some("10.1.2.3")),
            ("::1", Some("::1")),
            ("localhost", Some("127.0.0.1")),
            ("LOCALHOST.", Some("127.0.0.1")),
            ("a.localhost", Some("127.0.0.1")),
            ("notlocalhost", None),
            ("localhost.example.com", None),
            ("ééééé", None),
            ("", None),
        ];
        for (host, expected) in cases {
            assert_eq!(fixed(host), expected.map(|e| e.parse().unwrap()), "{host}");
        }
    }

    #[test]
    fn backoff_doubles_up_to_its_cap() {
        for (failures, seconds) in [(1, 1), (2, 2), (5, 16), (6, 32), (7, 60), (1000, 60)] {
            let pause = backoff(failures);
            let base = Duration::from_secs(seconds);
            assert!(pause >= base && pause <= base.mul_f64(1.25), "{failures}: {pause:?}");
        }
    }

    #[test]
    fn one_family_is_kept_as_it_is_and_loopback_is_routed() {
        let v4: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
        assert_eq!(reachable(v4.clone()), v4);
        assert!(has_route(Ipv4Addr::LOCALHOST.into()));
    }

    #[tokio::test]
    async fn what_is_no_name_is_an_error() {
        assert!(SystemResolver::default().resolve("a..b").await.is_err());
    }
}
