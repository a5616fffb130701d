//! Clients that send requests all the time, and count those that fail.

use crate::{Connection, Failure, Request, Version};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Between two requests of a client that keeps its connection.
const PAUSE_KEPT: Duration = Duration::from_millis(10);
/// Between two requests of a client that connects anew.
const PAUSE_NEW: Duration = Duration::from_millis(50);
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What they count.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) answered: AtomicU64,
    pub(super) failed: AtomicU64,
    /// The first that failed.
    pub(super) said: Mutex<Vec<String>>,
    pub(super) stop: AtomicBool,
}

/// One client.
struct Client {
    request: Request,
    paths: &'static [&'static str],
    keeps: bool,
    tally: Arc<Tally>,
}

/// Starts clients of a host: in plaintext, over TLS and HTTP/2, with connections that are kept or new.
pub(super) fn start(
    ip: IpAddr,
    [plain, tls]: [u16; 2],
    host: &str,
    paths: &'static [&'static str],
    tally: &Arc<Tally>,
    tasks: &mut JoinSet<()>,
) {
    for keeps in [true, false] {
        let ask = |port| Request::to((ip, port).into()).host(host);
        for request in [ask(plain), ask(tls).tls(host), ask(tls).version(Version::Http2).tls(host)] {
            let client = Client { request, paths, keeps, tally: tally.clone() };
            tasks.spawn(client.run());
        }
    }
}

impl Client {
    async fn run(mut self) {
        let mut kept = None;
        for turn in 0.. {
            if self.tally.stop.load(Ordering::Relaxed) {
                return;
            }
            self.paths[turn % self.paths.len()].clone_into(&mut self.request.path);
            match timeout(PATIENCE, self.one(&mut kept)).await {
                Ok(Ok(())) => _ = self.tally.answered.fetch_add(1, Ordering::Relaxed),
                Ok(Err(why)) => self.failed(&why),
                Err(_) => self.failed("no answer in time"),
            }
            sleep(if self.keeps { PAUSE_KEPT } else { PAUSE_NEW }).await;
        }
    }

    fn failed(&self, why: &str) {
        self.tally.failed.fetch_add(1, Ordering::Relaxed);
        let mut said = self.tally.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() < 5 {
            let Request { host, path, version, .. } = &self.request;
            said.push(format!("{host:?} {path} by {version:?}: {why}"));
        }
    }

    async fn one(&self, kept: &mut Option<Connection>) -> Result<(), String> {
        let said = |e: Failure| e.to_string();
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::open(&self.request).await.map_err(said)?,
        };
        let answer = connection.send(&self.request).await.map_err(said)?;
        if answer.status != 200 {
            return Err(format!("{} {:?} {}", answer.status, answer.headers, answer.text()));
        }
        if self.keeps {
            *kept = Some(connection);
        }
        Ok(())
    }
}
