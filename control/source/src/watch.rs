//! The folders that are watched.

use crate::activity::Activity;
use notify::{Config, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How often to look when watching works: events may be lost, and some file systems have none.
const LOOK: Duration = Duration::from_secs(5);
/// How often to look when it does not.
const LOOK_UNWATCHED: Duration = Duration::from_secs(1);

/// What the watcher's thread and the loader share.
#[derive(Debug, Default)]
struct Shared {
    activity: Mutex<Activity>,
    wake: Notify,
}

/// Watches folders, one by one: their entries, not what is below.
#[derive(Debug)]
pub(crate) struct Watch {
    watcher: Option<RecommendedWatcher>,
    /// Each with the identity that it had: a folder that was made anew has to be watched anew.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    shared: Arc<Shared>,
    complete: bool,
}

impl Watch {
    pub(crate) fn new() -> Self {
        let shared = Arc::new(Shared::default());
        let seen = shared.clone();
        let handler = move |event: notify::Result<notify::Event>| {
            let mut activity = lock(&seen.activity);
            match event {
                Ok(event) => activity.event(&event, Instant::now()),
                Err(_) => activity.ready(Instant::now()),
            }
            drop(activity);
            seen.wake.notify_one();
        };
        let watcher = match RecommendedWatcher::new(handler, Config::default()) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, "config files cannot be watched; looking every second instead");
                None
            }
        };
        Watch { complete: watcher.is_some(), watcher, watched: BTreeMap::new(), shared }
    }

    /// As where the system has no watches left.
    #[cfg(test)]
    pub(crate) fn broken() -> Self {
        Watch { watcher: None, complete: false, ..Watch::new() }
    }

    /// Watches `folders` and no others. Returns whether one of them was not watched before: what happened in it until
    /// now was not seen.
    pub(crate) fn set(&mut self, folders: &BTreeMap<PathBuf, (u64, u64)>) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        self.watched.retain(|path, identity| {
            let stays = folders.get(path) == Some(identity);
            if !stays {
                // It fails for a folder that is gone, which is then no longer watched anyway.
                let _ = watcher.unwatch(path);
            }
            stays
        });
        let (mut added, mut complete) = (false, true);
        for (path, identity) in folders {
            if self.watched.contains_key(path) {
                continue;
            }
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path.clone(), *identity);
                    added = true;
                }
                Err(error) => {
                    if self.complete {
                        let folder = path.display();
                        tracing::warn!(%folder, %error, "cannot be watched; looking every second instead");
                    }
                    complete = false;
                }
            }
        }
        self.complete = complete;
        added
    }

    pub(crate) fn activity(&self) -> MutexGuard<'_, Activity> {
        lock(&self.shared.activity)
    }

    /// Waits until it is time to look.
    pub(crate) async fn due(&self) {
        let look = Instant::now() + if self.complete { LOOK } else { LOOK_UNWATCHED };
        loop {
            let due = self.activity().due().map_or(look, |due| due.min(look));
            if due <= Instant::now() {
                return;
            }
            tokio::select! {
                () = self.shared.wake.notified() => {}
                () = tokio::time::sleep_until(due.into()) => {}
            }
        }
    }
}

fn lock(activity: &Mutex<Activity>) -> MutexGuard<'_, Activity> {
    // It is whole after each statement, so a panic elsewhere leaves it usable.
    activity.lock().unwrap_or_else(PoisonError::into_inner)
}
