//! Keys at URLs: fetched once for all who need them, kept fresh in the background.

use super::fetch::{Fetch, FetchError};
use super::keys::KeySet;
use crate::lock::lock;
use ahash::AHashMap;
use arc_swap::{ArcSwapOption, Guard};
use bytes::Bytes;
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use tidegate_model::KeyLocation;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;

/// How often keys are fetched again, as Istio does.
const REFRESH: Duration = Duration::from_secs(20 * 60);
/// The first pause after a failure while there are keys; it doubles up to [`REFRESH`].
const RETRY: Duration = Duration::from_secs(60);
/// The first pause after a failure while there are none; it doubles up to [`RETRY`].
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// How soon keys may be fetched again for a token whose key is not among them: whoever sends tokens must not make us
/// flood their issuer.
const ON_DEMAND: Duration = Duration::from_secs(30);
/// How long keys count that could not be fetched again, as in Istio.
const KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Documents fetched at the same time.
const FETCHES: usize = 8;

/// The key sets in use, each fetched once for everyone who watches it.
pub(crate) struct KeyStore {
    runtime: Handle,
    fetch: Arc<dyn Fetch>,
    permits: Arc<Semaphore>,
    known: AHashMap<(KeyLocation, Duration), Weak<RemoteKeys>>,
}

impl KeyStore {
    pub(super) fn new(runtime: Handle, fetch: Arc<dyn Fetch>) -> Self {
        KeyStore { runtime, fetch, permits: Arc::new(Semaphore::new(FETCHES)), known: AHashMap::new() }
    }

    /// A store that fetches over the network.
    pub(crate) fn over_network(runtime: Handle, fetch: super::HttpFetch) -> Self {
        KeyStore::new(runtime, Arc::new(fetch))
    }

    /// The keys there, kept fresh for as long as someone holds them.
    pub(super) fn watch(&mut self, location: &KeyLocation, time: Duration) -> Arc<RemoteKeys> {
        let key = (location.clone(), time);
        if let Some(keys) = self.known.get(&key).and_then(Weak::upgrade) {
            return keys;
        }
        let keys = Arc::new(RemoteKeys::default());
        let demand = keys.demand.clone();
        let source = Source { location: location.clone(), time, fetch: self.fetch.clone(), demand };
        let task = self.runtime.spawn(refresh(source, Arc::downgrade(&keys), self.permits.clone()));
        let _ = keys.task.set(task.abort_handle());
        self.known.insert(key, Arc::downgrade(&keys));
        keys
    }

    pub(super) fn forget_unused(&mut self) {
        self.known.retain(|_, keys| keys.strong_count() > 0);
    }

    /// Waits until each key set was asked for once, so that a config does not go live without keys that are to be had.
    /// Blocks the thread, `longest` at most.
    pub(crate) fn wait(&self, longest: Duration) {
        let deadline = Instant::now() + longest;
        for keys in self.known.values().filter_map(Weak::upgrade) {
            keys.wait(deadline);
        }
    }
}

/// A key set at a URL. Dropping it ends its fetching.
#[derive(Default)]
pub(super) struct RemoteKeys {
    current: ArcSwapOption<KeySet>,
    /// Whether it was asked for, with or without success.
    tried: Mutex<bool>,
    trial: Condvar,
    task: OnceLock<AbortHandle>,
    demand: Arc<Demand>,
}

/// That keys are wanted before their time.
#[derive(Default)]
struct Demand {
    /// Whether it was said since the last fetch.
    said: AtomicBool,
    heard: Notify,
}

impl RemoteKeys {
    /// The last good keys; none before the first.
    pub(super) fn current(&self) -> Guard<Option<Arc<KeySet>>> {
        self.current.load()
    }

    /// Asks for other keys, since none of these signed a token that says which did. They are fetched in the background,
    /// at most once in [`ON_DEMAND`].
    pub(super) fn ask_for_others(&self) {
        if !self.demand.said.swap(true, Ordering::Relaxed) {
            self.demand.heard.notify_one();
        }
    }

    fn wait(&self, deadline: Instant) {
        let mut tried = lock(&self.tried);
        while !*tried {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            tried = self.trial.wait_timeout(tried, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn set_tried(&self) {
        *lock(&self.tried) = true;
        self.trial.notify_all();
    }
}

impl Drop for RemoteKeys {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// Where a key set is.
struct Source {
    location: KeyLocation,
    time: Duration,
    fetch: Arc<dyn Fetch>,
    demand: Arc<Demand>,
}

impl Source {
    async fn keys(&self) -> Result<(Bytes, KeySet), FetchError> {
        let url = match &self.location {
            KeyLocation::KeySet(url) => url.to_string(),
            KeyLocation::Issuer(issuer) => self.discover(issuer).await?,
        };
        let text = self.fetch.get(&url, self.time).await?;
        let (keys, unusable) =
            KeySet::parse(&text).map_err(|_| FetchError::Content("is not a JSON Web Key Set"))?;
        if !unusable.is_empty() {
            tracing::debug!(from = self.name(), "keys that are not used: {}", unusable.join("; "));
        }
        Ok((text, keys))
    }

    async fn discover(&self, issuer: &str) -> Result<String, FetchError> {
        let base = issuer.strip_suffix('/').unwrap_or(issuer);
        let text = self.fetch.get(&format!("{base}/.well-known/openid-configuration"), self.time).await?;
        let document: Value =
            serde_json::from_slice(&text).map_err(|_| FetchError::Content("is not JSON"))?;
        let url = document.get("jwks_uri").and_then(Value::as_str);
        url.map(str::to_owned).ok_or(FetchError::Content("has no jwks_uri"))
    }

    /// Waits for the next fetch, which may be wanted earlier.
    async fn pause(&self, time: Duration) {
        let demanded = async {
            tokio::time::sleep(ON_DEMAND).await;
            self.demand.heard.notified().await;
        };
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = demanded => {}
        }
        self.demand.said.store(false, Ordering::Relaxed);
    }

    /// Its URL without query, which may have a credential in it.
    fn name(&self) -> &str {
        let (KeyLocation::KeySet(url) | KeyLocation::Issuer(url)) = &self.location;
        url.split(['?', '#']).next().unwrap_or_default()
    }
}

/// Fetches for ever; ends when nobody holds the keys.
async fn refresh(source: Source, keys: Weak<RemoteKeys>, permits: Arc<Semaphore>) {
    let mut last: Option<(tokio::time::Instant, Bytes)> = None;
    let mut failures = 0u32;
    loop {
        let fetched = {
            let _permit = permits.acquire().await;
            source.keys().await
        };
        let Some(held) = keys.upgrade() else { return };
        let from = source.name();
        match fetched {
            Ok((text, set)) => {
                // what did not change keeps what is remembered of it
                if last.as_ref().is_none_or(|(_, before)| *before != text) {
                    tracing::info!(from, "token keys fetched");
                    held.current.store(Some(Arc::new(set)));
                }
                last = Some((tokio::time::Instant::now(), text));
                failures = 0;
            }
            Err(error) => {
                if failures == 0 {
                    let kept = if last.is_some() { "the last ones stay" } else { "its tokens are refused" };
                    tracing::warn!(from, %error, "token keys cannot be fetched; {kept}");
                }
                failures = failures.saturating_add(1);
                if last.as_ref().is_some_and(|(at, _)| at.elapsed() >= KEPT) {
                    tracing::warn!(from, "token keys are too old; its tokens are refused");
                    held.current.store(None);
                    last = None;
                }
            }
        }
        held.set_tried();
        drop(held);
        source.pause(pause(failures, last.is_some())).await;
    }
}

/// The time until the next fetch, after so many failures, each up to a quarter longer so that fetches spread out.
fn pause(failures: u32, has_keys: bool) -> Duration {
    let (first, cap) = if has_keys { (RETRY, REFRESH) } else { (FIRST_RETRY, RETRY) };
    if failures == 0 {
        return REFRESH;
    }
    let base = first.saturating_mul(1 << (failures - 1).min(10)).min(cap);
    base.mul_f64(1.0 + fastrand::f64() / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;

    const SET: &str = r#"{"keys": []}"#;

    /// Answers with what it was told, and counts what it was asked.
    #[derive(Default)]
    struct Scripted {
        answers: Mutex<AHashMap<String, String>>,
        asked: Mutex<Vec<String>>,
    }

    impl Scripted {
        fn say(&self, url: &str, answer: Option<&str>) {
            let mut answers = lock(&self.answers);
            match answer {
                Some(answer) => answers.insert(url.into(), answer.into()),
                None => answers.remove(url),
            };
        }

        fn asked(&self) -> Vec<String> {
            std::mem::take(&mut *lock(&self.asked))
        }
    }

    #[async_trait]
    impl Fetch for Scripted {
        async fn get(&self, url: &str, _: Duration) -> Result<Bytes, FetchError> {
            lock(&self.asked).push(url.to_owned());
            let answer = lock(&self.answers).get(url).cloned();
            answer.map(Bytes::from).ok_or(FetchError::Status(http::StatusCode::NOT_FOUND))
        }
    }

    fn store() -> (KeyStore, Arc<Scripted>) {
        let fetch = Arc::new(Scripted::default());
        (KeyStore::new(Handle::current(), fetch.clone()), fetch)
    }

    fn at(url: &str) -> KeyLocation {
        KeyLocation::KeySet(url.into())
    }

    /// Lets so much time pass.
    async fn pass(time: Duration) {
        tokio::time::sleep(time).await;
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_fetched_once_for_all_and_kept_fresh() {
        let (mut store, fetch) = store();
        fetch.say("http://a/", Some(SET));
        let one = store.watch(&at("http://a/"), FIRST_RETRY);
        let two = store.watch(&at("http://a/"), FIRST_RETRY);
        assert!(Arc::ptr_eq(&one, &two) && one.current().is_none());
        pass(FIRST_RETRY).await;
        let first = one.current().as_ref().map(|keys| keys.id);
        assert!(first.is_some());
        assert_eq!(fetch.asked(), ["http://a/"]);
        pass(REFRESH).await;
        assert_eq!(fetch.asked(), ["http://a/"]);
        assert_eq!(one.current().as_ref().map(|keys| keys.id), first, "the same keys");
        fetch.say("http://a/", Some(r#"{"keys": [ ]}"#));
        pass(REFRESH).await;
        assert_ne!(one.current().as_ref().map(|keys| keys.id), first, "other keys");
    }

    #[tokio::test(start_paused = true)]
    async fn other_keys_are_fetched_when_they_are_wanted_but_not_often() {
        let (mut store, fetch) = store();
        fetch.say("http://a/", Some(SET));
        let keys = store.watch(&at("http://a/"), FIRST_RETRY);
        pass(FIRST_RETRY).await;
        assert_eq!(fetch.asked().len(), 1);
        let mut fetches = 0;
        // a flood of tokens with unknown keys for four times that long
        for _ in 0..4 * ON_DEMAND.as_secs() {
            keys.ask_for_others();
            keys.ask_for_others();
            pass(Duration::from_secs(1)).await;
            fetches += fetch.asked().len();
        }
        assert!((3..=4).contains(&fetches), "{fetches}");
        pass(ON_DEMAND * 3).await;
        assert!(fetch.asked().len() <= 1, "nobody asks any more");
        // after a while the first who asks is heard at once
        keys.ask_for_others();
        pass(Duration::from_millis(1)).await;
        assert_eq!(fetch.asked().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_keys_stay_for_a_while() {
        let (mut store, fetch) = store();
        fetch.say("http://a/", Some(SET));
        let keys = store.watch(&at("http://a/"), FIRST_RETRY);
        pass(FIRST_RETRY).await;
        for broken in [None, Some("no keys"), Some("{}")] {
            fetch.say("http://a/", broken);
            pass(REFRESH * 2).await;
            assert!(keys.current().is_some(), "{broken:?}");
        }
        pass(KEPT + REFRESH * 2).await;
        assert!(keys.current().is_none(), "nobody knows whether they still count");
        fetch.say("http://a/", Some(SET));
        pass(RETRY * 2).await;
        assert!(keys.current().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_issuer_says_where_its_keys_are() {
        let (mut store, fetch) = store();
        let issuer = KeyLocation::Issuer("http://i/".into());
        let keys = store.watch(&issuer, FIRST_RETRY);
        pass(FIRST_RETRY / 2).await;
        assert!(keys.current().is_none());
        fetch.say("http://i/.well-known/openid-configuration", Some(r#"{"jwks_uri": "http://k/"}"#));
        fetch.say("http://k/", Some(SET));
        pass(RETRY).await;
        assert!(keys.current().is_some());
        let asked = fetch.asked();
        assert_eq!(asked[0], "http://i/.well-known/openid-configuration");
        assert_eq!(asked.last().map(String::as_str), Some("http://k/"));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_asks_for_keys_that_are_not_held() {
        let (mut store, fetch) = store();
        let keys = store.watch(&at("http://a/"), FIRST_RETRY);
        pass(FIRST_RETRY / 2).await;
        drop(keys);
        fetch.asked();
        pass(RETRY * 4).await;
        assert_eq!(fetch.asked(), <[String; 0]>::default());
        store.forget_unused();
        assert!(store.known.is_empty());
    }

    #[test]
    fn pauses_grow() {
        for (failures, has_keys, seconds) in [
            (0, true, 1200),
            (1, true, 60),
            (2, true, 120),
            (9, true, 1200),
            (1, false, 1),
            (4, false, 8),
            (99, false, 60),
        ] {
            let (pause, base) = (pause(failures, has_keys), Duration::from_secs(seconds));
            assert!(pause >= base && pause <= base.mul_f64(1.25), "{failures} {has_keys}: {pause:?}");
        }
    }
}
