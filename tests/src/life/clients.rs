//! Clients that send requests all the time: one that was taken and is not answered has failed.

use super::HOST;
use crate::{Connection, Failure, Request, Version, exchange};
use anyhow::{Context, Result, bail, ensure};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// Between two requests of a client that keeps its connection.
const PAUSE_KEPT: Duration = Duration::from_millis(10);
/// Between two requests of a client that connects anew, and between two probes.
const PAUSE_NEW: Duration = Duration::from_millis(25);
/// Clients of each kind.
const ALIKE: usize = 3;
/// A connection may be closed without a word when it was silent for so long; only a busy machine makes it so.
const SILENT: Duration = Duration::from_millis(500);
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What they count.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) answered: AtomicU64,
    pub(super) connections: AtomicU64,
    pub(super) goodbyes: AtomicU64,
    pub(super) silent: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) probes: AtomicU64,
    pub(super) stop: AtomicBool,
    failed: Mutex<Vec<String>>,
}

impl Tally {
    /// What failed.
    pub(super) fn failed(&self) -> Vec<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, what: &str) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        // the first say it all
        if failed.len() < 10 {
            failed.push(what.to_owned());
        }
    }
}

/// One client.
pub(super) struct Client {
    request: Request,
    /// Where it goes: to the next when one accepts nothing.
    to: Vec<IpAddr>,
    keeps: bool,
    tally: Arc<Tally>,
}

impl Client {
    /// Each transport, with connections that are kept and new ones.
    pub(super) fn all(to: &[IpAddr], tally: &Arc<Tally>) -> Vec<Client> {
        let at = |port| Request::to((to[0], port).into()).host(HOST).path("/load");
        let requests = [at(8080), at(8443).tls(HOST), at(8443).version(Version::Http2).tls(HOST)];
        let each = requests.into_iter().flat_map(|request| [(request.clone(), true), (request, false)]);
        let each = each.flat_map(|kind| std::iter::repeat_n(kind, ALIKE));
        let client = |(request, keeps)| Client { request, to: to.to_vec(), keeps, tally: tally.clone() };
        each.map(client).collect()
    }

    /// Sends requests until it is told to stop.
    pub(super) async fn run(mut self) {
        let mut kept = None;
        while !self.tally.stop.load(Relaxed) {
            match timeout(PATIENCE, self.one(&mut kept)).await {
                Ok(Ok(())) => _ = self.tally.answered.fetch_add(1, Relaxed),
                Ok(Err(e)) => self.failed(&format!("{e:#}")),
                Err(_) => self.failed("no answer in time"),
            }
            sleep(if self.keeps { PAUSE_KEPT } else { PAUSE_NEW }).await;
        }
    }

    fn failed(&self, why: &str) {
        let Request { version, to, .. } = &self.request;
        let kind = if self.keeps { "kept" } else { "new" };
        self.tally.fail(&format!("{version:?} to {to}, {kind} connections: {why}"));
    }

    /// One request, sent until it was taken. The connection that it may leave comes with the time of its last one.
    async fn one(&mut self, kept: &mut Option<(Connection, Instant)>) -> Result<()> {
        loop {
            let (mut connection, last) = match kept.take() {
                Some((connection, last)) => (connection, Some(last)),
                None => (self.open().await?, None),
            };
            let begun = Instant::now();
            let answer = match connection.send(&self.request).await {
                Ok(answer) => answer,
                Err(Failure::Goodbye) => {
                    self.tally.goodbyes.fetch_add(1, Relaxed);
                    continue;
                }
                // both ends were free to close it
                Err(_) if last.is_some_and(|last| last.elapsed() >= SILENT) => {
                    self.tally.silent.fetch_add(1, Relaxed);
                    continue;
                }
                Err(e) => bail!(
                    "{e} ({} on its connection)",
                    if last.is_some() { "not the first" } else { "the first" }
                ),
            };
            ensure!(answer.status == 200, "it got {}: {}", answer.status, answer.text());
            if answer.header("connection") == Some("close") {
                self.tally.goodbyes.fetch_add(1, Relaxed);
            } else if self.keeps {
                *kept = Some((connection, begun));
            }
            return Ok(());
        }
    }

    async fn open(&mut self) -> Result<Connection> {
        for _ in 0..self.to.len() {
            match Connection::open(&self.request).await {
                Ok(connection) => {
                    self.tally.connections.fetch_add(1, Relaxed);
                    return Ok(connection);
                }
                Err(Failure::Refused) if self.to.len() > 1 => {
                    self.tally.refused.fetch_add(1, Relaxed);
                    let now = self
                        .to
                        .iter()
                        .position(|ip| *ip == self.request.to.ip())
                        .context("no such address")?;
                    self.request.to.set_ip(self.to[(now + 1) % self.to.len()]);
                }
                Err(e) => bail!("connecting: {e}"),
            }
        }
        bail!("nobody accepts")
    }
}

/// Asks whether the gateway is ready, which it must always be.
pub(super) async fn probe(status: SocketAddr, tally: Arc<Tally>) {
    let request = Request::to(status).path("/healthz/ready");
    while !tally.stop.load(Relaxed) {
        match exchange(&request).await {
            Ok(answer) if answer.status == 200 => _ = tally.probes.fetch_add(1, Relaxed),
            Ok(answer) => tally.fail(&format!("readiness is {}", answer.status)),
            Err(e) => tally.fail(&format!("readiness: {e}")),
        }
        sleep(PAUSE_NEW).await;
    }
}
