//! Clients that send requests all the time, and hold every one that was taken against its answer.

use super::site::{Ports, Style, host};
use super::{Instances, Tally};
use crate::{Answer, Connection, Failure, Request, Version};
use anyhow::{Context, Result, bail, ensure};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Between two requests of a client that keeps its connection.
const PAUSE_KEPT: Duration = Duration::from_millis(15);
/// Between two requests of a client that connects anew.
const PAUSE_NEW: Duration = Duration::from_millis(50);
/// A connection may be closed without a word when it was silent for so long. The gateway waits a second; clients
/// that take this long are held up by the machine.
const SILENT: Duration = Duration::from_millis(500);
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether the listeners that come and go are there: odd when they surely are.
#[derive(Default)]
pub(super) struct Passing(AtomicU64);

impl Passing {
    /// They are there from now on.
    pub(super) fn opened(&self) {
        self.0.fetch_or(1, Ordering::SeqCst);
    }

    /// They may go from now on.
    pub(super) fn closes(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// What a client speaks.
#[derive(Clone, Copy, Debug)]
enum Transport {
    Plain,
    Tls,
    Http2,
}

/// One client.
pub(super) struct Client {
    request: Request,
    name: String,
    keeps: bool,
    /// Where its listener comes and goes.
    passing: Option<Arc<Passing>>,
    instances: Arc<Instances>,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
}

impl Client {
    /// All clients of one site: each transport, with connections that are kept or new, on listeners that stay or
    /// come and go.
    pub(super) fn all(
        ip: IpAddr,
        (style, ports): (Style, Ports),
        passing: &Arc<Passing>,
        instances: &Arc<Instances>,
        (tally, stop): (&Arc<Tally>, &Arc<AtomicBool>),
    ) -> Vec<Client> {
        let mut clients = Vec::new();
        for transport in [Transport::Plain, Transport::Tls, Transport::Http2] {
            for (keeps, stays) in [(true, true), (true, false), (false, true), (false, false)] {
                let [plain, tls] = if stays { ports.staying } else { ports.passing };
                let port = if matches!(transport, Transport::Plain) { plain } else { tls };
                let mut request = Request::to((ip, port).into()).host(&host(style)).path("/load");
                request = match transport {
                    Transport::Plain => request,
                    Transport::Tls => request.tls(&host(style)),
                    Transport::Http2 => request.version(Version::Http2).tls(&host(style)),
                };
                let kind = if keeps { "kept" } else { "new" };
                clients.push(Client {
                    request,
                    name: format!("{transport:?} client of {style:?}, {kind} connections, port {port}"),
                    keeps,
                    passing: (!stays).then(|| passing.clone()),
                    instances: instances.clone(),
                    tally: tally.clone(),
                    stop: stop.clone(),
                });
            }
        }
        clients
    }

    /// Sends requests until it is told to stop.
    ///
    /// # Errors
    /// At the first request that fails.
    pub(super) async fn run(self) -> Result<()> {
        let (mut connection, mut sent) = (None, 0);
        while !self.stop.load(Ordering::Relaxed) {
            self.one(&mut connection, sent)
                .await
                .with_context(|| format!("{}: request {sent} at {:?}", self.name, self.tally.elapsed()))?;
            sent += 1;
            tokio::time::sleep(if self.keeps { PAUSE_KEPT } else { PAUSE_NEW }).await;
        }
        Ok(())
    }

    /// One request. The connection that it may leave comes with the time of its last request.
    async fn one(&self, kept: &mut Option<(Connection, Instant)>, sent: u64) -> Result<()> {
        let (mut connection, last) = match kept.take() {
            Some(kept) => (kept.0, Some(kept.1)),
            None => match self.open().await? {
                Some(connection) => (connection, None),
                None => return Ok(()),
            },
        };
        let begun = Instant::now();
        let answer = match timeout(PATIENCE, connection.send(&self.request)).await {
            Err(_) => bail!("no answer after {PATIENCE:?}"),
            Ok(Ok(answer)) => answer,
            Ok(Err(Failure::Goodbye)) if self.passing.is_some() => {
                self.tally.goodbyes.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            // both ends were free to close it
            Ok(Err(_)) if self.passing.is_some() && last.is_some_and(|last| last.elapsed() >= SILENT) => {
                self.tally.silent.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Ok(Err(e)) => bail!(
                "{e} ({} on its connection)",
                if last.is_some() { "not the first" } else { "the first" }
            ),
        };
        self.judge(&answer, sent)?;
        self.tally.answered.fetch_add(1, Ordering::Relaxed);
        let closes = answer.header("connection") == Some("close");
        ensure!(!closes || self.passing.is_some(), "a listener that stays ends its connection");
        if closes {
            self.tally.goodbyes.fetch_add(1, Ordering::Relaxed);
        } else if self.keeps {
            *kept = Some((connection, begun));
        }
        Ok(())
    }

    /// Connects; `None` when the listener may be gone.
    async fn open(&self) -> Result<Option<Connection>> {
        let before = self.passing.as_ref().map(|p| p.now());
        let opened = timeout(PATIENCE, Connection::open(&self.request)).await;
        match opened.context("connecting takes too long")? {
            Ok(connection) => {
                self.tally.connections.fetch_add(1, Ordering::Relaxed);
                Ok(Some(connection))
            }
            Err(Failure::Refused) => {
                let gone = self.passing.as_ref().is_some_and(|p| before != Some(p.now()) || p.now() & 1 == 0);
                ensure!(gone, "refused by a listener that is there");
                self.tally.refused.fetch_add(1, Ordering::Relaxed);
                Ok(None)
            }
            Err(e) => bail!("connecting: {e}"),
        }
    }

    /// Whether the answer is one that a single version of the config gives.
    fn judge(&self, answer: &Answer, sent: u64) -> Result<()> {
        ensure!(answer.status == 200, "request {sent} got {}: {}", answer.status, answer.text());
        let weights = answer.header("x-weights").context("no x-weights")?;
        let (workload, _) = self.instances.named(&answer.text())?;
        let share = weights.split(' ').nth(1 + workload).with_context(|| format!("x-weights: {weights}"))?;
        ensure!(share != "0", "{} answered where the weights are {weights}", answer.text());
        Ok(())
    }
}
