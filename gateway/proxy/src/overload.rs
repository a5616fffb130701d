//! What the process does when it has nearly as much memory as it may have: it sheds requests before it takes no more
//! connections, and both before the system ends it.

use std::fs;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How often memory is looked at.
const PERIOD: Duration = Duration::from_millis(250);
/// Shares of the limit, in percent: from where on requests are shed, and below which that ends.
const SHED: u64 = 95;
const RELIEVED: u64 = 90;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Level {
    /// All is well.
    Normal,
    /// New requests are answered with 503, and connections without one are ended.
    Shedding,
    /// New connections are closed at once, too.
    Refusing,
}

impl Level {
    /// What follows at so many bytes. It takes less to go on than to begin, lest it changes back and forth.
    fn next(self, used: u64, limit: u64) -> Level {
        let at_least = |percent| u128::from(used) * 100 >= u128::from(limit) * u128::from(percent);
        let (refuse, shed) = match self {
            Level::Normal => (100, SHED),
            Level::Shedding => (100, RELIEVED),
            Level::Refusing => (SHED, RELIEVED),
        };
        match () {
            () if at_least(refuse) => Level::Refusing,
            () if at_least(shed) => Level::Shedding,
            () => Level::Normal,
        }
    }
}

/// The state that all workers look at.
pub(crate) struct Overload {
    level: AtomicU8,
    limit: Option<u64>,
    used: AtomicU64,
    refused: AtomicU64,
}

/// What the metrics show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// 0 is normal, 1 sheds requests, 2 refuses connections as well.
    pub(crate) level: u8,
    /// Bytes of memory when it was last looked at, and how many there may be.
    pub(crate) used: u64,
    pub(crate) limit: u64,
    /// Connections that were closed at once.
    pub(crate) refused: u64,
}

impl Overload {
    /// At most so many bytes; without a limit nothing is ever shed.
    pub(crate) fn new(limit: Option<u64>) -> Self {
        Overload {
            level: AtomicU8::new(Level::Normal as u8),
            limit,
            used: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Whether new requests are to be answered with 503.
    pub(crate) fn sheds(&self) -> bool {
        self.level.load(Relaxed) != Level::Normal as u8
    }

    /// Whether a new connection is to be closed at once. It is counted.
    pub(crate) fn refuses(&self) -> bool {
        let refuses = self.level.load(Relaxed) == Level::Refusing as u8;
        if refuses {
            self.refused.fetch_add(1, Relaxed);
        }
        refuses
    }

    /// The numbers, where there is a limit.
    pub(crate) fn load(&self) -> Option<Load> {
        self.limit.map(|limit| Load {
            level: self.level.load(Relaxed),
            used: self.used.load(Relaxed),
            limit,
            refused: self.refused.load(Relaxed),
        })
    }

    /// Looks at the memory of the process again and again. Calls `relieve` each time that there is too much of it.
    pub(crate) async fn watch(&self, relieve: impl Fn()) {
        let Some(limit) = self.limit else { return };
        let mut level = Level::Normal;
        loop {
            // where the system does not say, there is no overload either
            let used = resident().unwrap_or(0);
            self.used.store(used, Relaxed);
            level = self.enter(level, level.next(used, limit), used, limit);
            if level != Level::Normal {
                relieve();
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    fn enter(&self, before: Level, now: Level, used: u64, limit: u64) -> Level {
        if before != now {
            self.level.store(now as u8, Relaxed);
            let what = match now {
                Level::Normal => "requests are served again",
                Level::Shedding => {
                    "new requests are answered with 503 (OM), connections without one are ended"
                }
                Level::Refusing => "new connections are closed at once",
            };
            tracing::warn!(used, limit, "memory: {what}");
        }
        now
    }

    #[cfg(test)]
    pub(crate) fn shed_everything(&self) {
        self.level.store(Level::Shedding as u8, Relaxed);
    }
}

/// Bytes of memory that the process has in RAM.
fn resident() -> Option<u64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * page_size())
}

fn page_size() -> u64 {
    u64::try_from(rustix::param::page_size()).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_less_to_go_on_than_to_begin() {
        use Level::{Normal, Refusing, Shedding};
        for (before, used, after) in [
            (Normal, 0, Normal),
            (Normal, 949, Normal),
            (Normal, 950, Shedding),
            (Normal, 1000, Refusing),
            (Shedding, 999, Shedding),
            (Shedding, 1000, Refusing),
            (Shedding, 900, Shedding),
            (Shedding, 899, Normal),
            (Refusing, 950, Refusing),
            (Refusing, 949, Shedding),
            (Refusing, 899, Normal),
        ] {
            assert_eq!(before.next(used, 1000), after, "{before:?} at {used}");
        }
        assert_eq!(Normal.next(u64::MAX, u64::MAX), Refusing);
    }

    #[test]
    fn the_process_knows_its_memory() {
        let before = resident().unwrap();
        let touched = vec![1u8; 64 << 20];
        let after = resident().unwrap();
        assert!(touched.iter().all(|b| *b == 1) && after > before + (32 << 20), "{before} {after}");
    }

    #[tokio::test]
    async fn too_much_memory_sheds_refuses_and_asks_for_relief() {
        let overload = Overload::new(Some(1));
        let (asked, relief) = (std::cell::Cell::new(0), tokio::sync::Notify::new());
        let watch = overload.watch(|| {
            asked.set(asked.get() + 1);
            relief.notify_one();
        });
        tokio::select! {
            () = watch => panic!("it goes on"),
            () = relief.notified() => {}
        }
        assert!(overload.sheds() && overload.refuses());
        let load = overload.load().unwrap();
        assert_eq!((load.level, load.limit, load.refused, asked.get()), (2, 1, 1, 1));
        assert!(load.used > 0);
        Overload::new(None).watch(|| panic!("there is no limit")).await;
    }
}
