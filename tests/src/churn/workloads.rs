//! Workloads that know what they belong to, and refuse requests that were meant for another.

use anyhow::{Context, Result};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The header in which a route says whom its request is for.
pub(super) const FOR: &str = "x-for";

/// A subset of a service; what routes send requests to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Subset {
    pub(super) service: u32,
    pub(super) version: u32,
}

impl fmt::Display for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.service, self.version)
    }
}

impl FromStr for Subset {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (service, version) = text.split_once('.').with_context(|| format!("no subset: {text}"))?;
        Ok(Subset { service: service.parse()?, version: version.parse()? })
    }
}

/// What a workload belonged to, and until when.
struct Stay {
    subset: Subset,
    left: Option<Instant>,
}

/// One workload.
pub(super) struct Workload {
    pub(super) at: SocketAddr,
    stays: Mutex<Vec<Stay>>,
    /// How long requests may still come after it left.
    lag: Duration,
    counts: Arc<Counts>,
}

/// What all workloads saw.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) right: AtomicU64,
    pub(super) wrong: AtomicU64,
    /// The first wrong ones.
    pub(super) said: Mutex<Vec<String>>,
    /// The longest time, in milliseconds, after which a request came to one that had left.
    pub(super) late: AtomicU64,
}

impl Workload {
    /// Starts to answer.
    pub(super) async fn start(
        at: SocketAddr,
        lag: Duration,
        counts: &Arc<Counts>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Arc<Workload>> {
        let listener = TcpListener::bind(at).await.with_context(|| format!("a workload at {at}"))?;
        let workload = Arc::new(Workload { at, stays: Mutex::default(), lag, counts: counts.clone() });
        let serving = workload.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serving.clone().converse(stream));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(workload)
    }

    /// Belongs to a subset from now on.
    pub(super) fn join(&self, subset: Subset) {
        self.stays.lock().unwrap_or_else(PoisonError::into_inner).push(Stay { subset, left: None });
    }

    /// Belongs to it no longer.
    pub(super) fn leave(&self, subset: Subset) {
        let now = Instant::now();
        let mut stays = self.stays.lock().unwrap_or_else(PoisonError::into_inner);
        stays.retain(|s| s.left.is_none_or(|left| now.duration_since(left) < self.lag * 2));
        stays.iter_mut().filter(|s| s.subset == subset).for_each(|s| s.left = s.left.or(Some(now)));
    }

    /// Whether a request for a subset may come here now.
    fn takes(&self, subset: Subset) -> bool {
        let now = Instant::now();
        let stays = self.stays.lock().unwrap_or_else(PoisonError::into_inner);
        let since = |s: &Stay| s.left.map_or(Duration::ZERO, |left| now.duration_since(left));
        let late = stays.iter().filter(|s| s.subset == subset).map(since).min();
        let Some(late) = late.filter(|late| *late <= self.lag) else { return false };
        self.counts.late.fetch_max(u64::try_from(late.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        true
    }

    /// Answers requests, one at a time and without body.
    async fn converse(self: Arc<Self>, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut read = Vec::new();
        while let Ok(1..) = stream.read_buf(&mut read).await {
            if read.ends_with(b"\r\n\r\n") {
                let answer = self.answer(&String::from_utf8_lossy(&read));
                read.clear();
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    }

    fn answer(&self, head: &str) -> &'static str {
        let subset = head.lines().find_map(|line| line.split_once(": ").filter(|(name, _)| *name == FOR));
        let subset = subset.and_then(|(_, text)| text.parse().ok());
        if subset.is_some_and(|s| self.takes(s)) {
            self.counts.right.fetch_add(1, Ordering::Relaxed);
            return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        }
        self.counts.wrong.fetch_add(1, Ordering::Relaxed);
        let mut said = self.counts.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() < 5 {
            said.push(format!("{} got a request for {subset:?}: {head}", self.at));
        }
        "HTTP/1.1 500 Wrong workload\r\nContent-Length: 0\r\n\r\n"
    }
}
