//! Names of endpoints, resolved in the background and kept fresh by their TTL.

use super::resolver::{Answer, Resolve};
use crate::lock::lock;
use crate::reserved::is_allowed;
use ahash::AHashMap;
use arc_swap::ArcSwap;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;

/// An answer is asked for again when its TTL is over, but not sooner and not later than this.
const TTL: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);
/// The longest pause after failures; it begins at one second and doubles.
const BACKOFF_CAP: Duration = Duration::from_secs(60);
/// The time for one lookup with all its search domains and attempts.
const LOOKUP_TIME: Duration = Duration::from_secs(15);
/// Lookups at the same time.
const LOOKUPS: usize = 32;

/// Is told when a name has other addresses than before.
pub(super) trait Watcher: Send + Sync {
    fn resolved(&self);
}

/// The names in use, each resolved once for everyone who watches it.
pub(super) struct Names {
    runtime: Handle,
    resolver: Arc<dyn Resolve>,
    /// Networks that a name may lead to although they are local.
    allowed: Arc<[IpNet]>,
    permits: Arc<Semaphore>,
    known: Mutex<AHashMap<Arc<str>, Weak<Name>>>,
    of_requests: OnceLock<Arc<Names>>,
}

impl Names {
    pub(super) fn new(runtime: Handle, resolver: Arc<dyn Resolve>, allowed: &[IpNet]) -> Self {
        let permits = Arc::new(Semaphore::new(LOOKUPS));
        let (known, of_requests) = (Mutex::default(), OnceLock::new());
        Names { runtime, resolver, allowed: allowed.into(), permits, known, of_requests }
    }

    /// Those that requests ask for. However many of them are not answered, they keep no other name from being
    /// resolved.
    pub(super) fn of_requests(&self) -> Arc<Names> {
        let made = || Names::new(self.runtime.clone(), self.resolver.clone(), &self.allowed);
        self.of_requests.get_or_init(|| Arc::new(made())).clone()
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// The name, resolved for as long as someone holds it. An IP literal and `localhost`
    /// (RFC 6761 6.3) have their addresses at once and are never asked for.
    pub(super) fn get(&self, host: &Arc<str>) -> Arc<Name> {
        if let Some(address) = fixed(host) {
            return Arc::new(Name::fixed(address));
        }
        let mut known = lock(&self.known);
        if let Some(name) = known.get(host).and_then(Weak::upgrade) {
            return name;
        }
        let name = Arc::new(Name::default());
        let lookups = Lookups {
            host: host.clone(),
            name: Arc::downgrade(&name),
            resolver: self.resolver.clone(),
            allowed: self.allowed.clone(),
            permits: self.permits.clone(),
        };
        let _ = name.task.set(self.runtime.spawn(lookups.run()).abort_handle());
        if known.len() == known.capacity() {
            // those that are gone make room before more is taken
            known.retain(|_, name| name.strong_count() > 0);
        }
        known.insert(host.clone(), Arc::downgrade(&name));
        name
    }

    /// Whether a name that a client chose leads at once to where it must not.
    pub(super) fn refuses(&self, host: &str) -> bool {
        fixed(host).is_some_and(|address| !is_allowed(address, &self.allowed))
    }

    pub(super) fn forget_unused(&self) {
        lock(&self.known).retain(|_, name| name.strong_count() > 0);
    }
}

/// Waits until each of the names was asked for once, so that a config does not go live without addresses that are to
/// be had. Blocks the thread, `longest` at most, and never twice for a name.
pub(super) fn wait_for(names: &[Arc<Name>], longest: Duration) {
    let deadline = Instant::now() + longest;
    for name in names.iter().filter(|name| !name.awaited.swap(true, Ordering::Relaxed)) {
        name.wait(deadline);
    }
}

/// A name and what it last resolved to. Dropping it ends its lookups.
#[derive(Default)]
pub(super) struct Name {
    addresses: ArcSwap<Vec<IpAddr>>,
    /// How often it was answered: who uses one address at a time goes on to the next with each answer.
    turn: AtomicUsize,
    /// Whether somebody does so.
    in_turns: AtomicBool,
    watchers: Mutex<Vec<Weak<dyn Watcher>>>,
    state: Mutex<State>,
    tried: Condvar,
    answered: Notify,
    /// Whether a config has waited for it.
    awaited: AtomicBool,
    task: OnceLock<AbortHandle>,
}

/// What came of its lookups.
#[derive(Clone, Debug, Default)]
struct State {
    /// Whether it was asked for, with or without success.
    tried: bool,
    /// Why the last lookup brought no address, and when that was.
    failure: Option<(String, Instant)>,
    /// Addresses of the last answer that are not gone to.
    refused: Vec<IpAddr>,
}

impl Name {
    fn fixed(address: IpAddr) -> Self {
        let name = Name::default();
        name.addresses.store(Arc::new(vec![address]));
        lock(&name.state).tried = true;
        name
    }

    /// The last known addresses; none before the first answer.
    pub(super) fn addresses(&self) -> Arc<Vec<IpAddr>> {
        self.addresses.load_full()
    }

    /// The one of them whose turn it is.
    pub(super) fn current(&self) -> Option<IpAddr> {
        let addresses = self.addresses.load();
        let turn = self.turn.load(Ordering::Relaxed).checked_rem(addresses.len())?;
        addresses.get(turn).copied()
    }

    /// Tells `watcher` of other addresses, or with `in_turns` of every answer.
    pub(super) fn watch(&self, watcher: Weak<dyn Watcher>, in_turns: bool) {
        if in_turns {
            self.in_turns.store(true, Ordering::Relaxed);
        }
        let mut watchers = lock(&self.watchers);
        watchers.retain(|w| w.strong_count() > 0 && !w.ptr_eq(&watcher));
        watchers.push(watcher);
    }

    /// Why it has no addresses, or not all that it was answered.
    pub(super) fn trouble(&self) -> Option<String> {
        let state = lock(&self.state).clone();
        let ago = |at: Instant| humantime::format_duration(Duration::from_secs(at.elapsed().as_secs()));
        match (state.failure, &*state.refused) {
            (Some((why, at)), _) => Some(format!("the last lookup failed {} ago: {why}", ago(at))),
            (None, []) => (!state.tried).then(|| "it was not answered yet".to_owned()),
            (None, refused) => Some(format!("its answer has addresses that are refused: {}", list(refused))),
        }
    }

    /// Waits for the end of the first lookup.
    pub(super) async fn first_answer(&self) {
        let told = self.answered.notified();
        if !lock(&self.state).tried {
            told.await;
        }
    }

    fn wait(&self, deadline: Instant) {
        let mut state = lock(&self.state);
        while !state.tried {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.tried.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn publish(&self, addresses: Vec<IpAddr>) {
        let same = **self.addresses.load() == addresses;
        self.turn.fetch_add(1, Ordering::Relaxed);
        if same && !(addresses.len() > 1 && self.in_turns.load(Ordering::Relaxed)) {
            return;
        }
        if !same {
            self.addresses.store(Arc::new(addresses));
        }
        let watchers = lock(&self.watchers).clone();
        watchers.iter().filter_map(Weak::upgrade).for_each(|w| w.resolved());
    }

    /// Notes what came of a lookup; what it was before.
    fn note(&self, failure: Option<String>, refused: Vec<IpAddr>) -> State {
        let mut state = lock(&self.state);
        let failure = failure.map(|why| (why, Instant::now()));
        let before = std::mem::replace(&mut *state, State { tried: true, failure, refused });
        drop(state);
        self.tried.notify_all();
        self.answered.notify_waiters();
        before
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// The lookups of a name.
struct Lookups {
    host: Arc<str>,
    name: Weak<Name>,
    resolver: Arc<dyn Resolve>,
    allowed: Arc<[IpNet]>,
    permits: Arc<Semaphore>,
}

impl Lookups {
    /// Resolves it for ever; ends when nobody holds it.
    async fn run(self) {
        let mut failures = 0u32;
        loop {
            let answer = {
                let _permit = self.permits.acquire().await;
                let lookup = tokio::time::timeout(LOOKUP_TIME, self.resolver.resolve(&self.host)).await;
                lookup.unwrap_or_else(|_| Err(format!("no answer within {LOOKUP_TIME:?}")))
            };
            let Some(name) = self.name.upgrade() else { return };
            let pause = match self.take(&name, answer) {
                Some(ttl) => {
                    failures = 0;
                    ttl.clamp(*TTL.start(), *TTL.end())
                }
                None => {
                    failures = failures.saturating_add(1);
                    backoff(failures)
                }
            };
            drop(name);
            tokio::time::sleep(pause).await;
        }
    }

    /// Takes an answer with an address that may be gone to; how long it holds.
    fn take(&self, name: &Name, answer: Result<Answer, String>) -> Option<Duration> {
        let host = &self.host;
        let (good, refused, ttl, error) = match answer {
            Ok(Answer { addresses, ttl }) => {
                let (good, refused) =
                    addresses.into_iter().partition::<Vec<_>, _>(|a| is_allowed(*a, &self.allowed));
                (good, refused, ttl, "no addresses".to_owned())
            }
            Err(error) => (Vec::new(), Vec::new(), Duration::ZERO, error),
        };
        let failure = match (&*good, &*refused) {
            ([_, ..], _) => None,
            ([], []) => Some(error),
            ([], refused) => Some(format!("addresses that are refused: {}", list(refused))),
        };
        if failure.is_none() {
            name.publish(good);
        }
        let before = name.note(failure.clone(), refused.clone());
        if !refused.is_empty() && before.refused != refused {
            let refused = list(&refused);
            tracing::warn!(
                %host, %refused,
                "DNS answer is refused: it leads to this machine, its link or a cloud's metadata, and \
                 --allow-dns-answers does not name it"
            );
        }
        match failure {
            None => {
                if before.failure.is_some() {
                    tracing::info!(%host, "DNS name resolves again");
                }
                Some(ttl)
            }
            Some(error) => {
                if before.failure.is_none() {
                    let kept = name.addresses().len();
                    tracing::warn!(%host, %error, kept, "DNS name does not resolve; its last addresses stay");
                }
                None
            }
        }
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
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

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::upstream::testing::until;
    use async_trait::async_trait;

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

    #[tokio::test]
    async fn names_that_are_gone_take_no_room() {
        let names = Names::new(Handle::current(), Arc::new(testing::Scripted::default()), &[]);
        let kept = names.get(&"kept.example".into());
        for n in 0..10_000 {
            names.get(&format!("{n}.example").into());
        }
        assert!(lock(&names.known).len() < 100);
        assert!(Arc::ptr_eq(&kept, &names.get(&"kept.example".into())));
    }

    #[test]
    fn backoff_doubles_up_to_its_cap() {
        for (failures, seconds) in [(1, 1), (2, 2), (5, 16), (6, 32), (7, 60), (1000, 60)] {
            let pause = backoff(failures);
            let base = Duration::from_secs(seconds);
            assert!(pause >= base && pause <= base.mul_f64(1.25), "{failures}: {pause:?}");
        }
    }
}
