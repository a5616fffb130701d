//! How the data plane ends.

use super::{Proxy, State};
use crate::lock::lock;
use crate::tls::ServerConfigs;
use crate::worker::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// How long the goodbyes to what is cut may take.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often is looked whether an end has come.
const LOOK: Duration = Duration::from_millis(5);

/// How long the parts of a drain may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct DrainTimes {
    /// How long connections are still accepted.
    pub(super) delay: Duration,
    /// How long what is in flight may take from then on.
    pub(super) most: Duration,
}

/// Shortens a drain, from whatever thread.
#[derive(Clone)]
pub struct Hurry(Arc<State>);

impl Hurry {
    /// Has what still goes on cut at once, as if the drain time were over.
    pub fn now(&self) {
        self.0.hurried.store(true, Ordering::Relaxed);
    }
}

impl Proxy {
    /// Shortens the drain.
    pub fn hurry(&self) -> Hurry {
        Hurry(self.state.clone())
    }

    /// Stops: readiness fails first, and for the time of the delay everything else goes on, but answers of HTTP/1 end
    /// their connections. Then listeners close, connections end after what is in flight, HTTP/2 gets GOAWAY. Returns
    /// when empty; when the drain time is over, it ends what is left as the protocol has it, and says how many
    /// connections it had to cut.
    pub fn drain(self) -> usize {
        self.state.draining.store(true, Ordering::Relaxed);
        // another process accepts already
        if !self.state.is_passed_on() {
            self.wait(self.drain.delay, || false);
        }
        let deadline = Instant::now() + self.drain.most;
        let live = self.state.live.load();
        let closing = lock(&self.control).close_all(&live);
        live.tls.drain_changed(&ServerConfigs::default());
        self.wait(self.drain.most, || closing.are_closed());
        let is_empty = || self.state.spread.active() == 0;
        self.wait(deadline.saturating_duration_since(Instant::now()), is_empty);
        let cut = self.state.spread.active();
        if cut > 0 {
            // An error means that the worker has ended, here and below.
            self.workers.iter().for_each(|worker| _ = worker.commands.send(Command::Cut));
            let last_words = Instant::now() + LAST_WORDS;
            while !is_empty() && Instant::now() < last_words {
                thread::sleep(LOOK);
            }
        }
        for worker in self.workers {
            let _ = worker.commands.send(Command::Stop);
            if worker.thread.join().is_err() {
                tracing::error!("a worker thread had ended by a defect of the gateway");
            }
        }
        self.state.telemetry.flush();
        if self.state.is_passed_on() {
            self.state.answer_last_questions();
        }
        drop(self.stop);
        let _ = self.control_thread.join();
        cut
    }

    /// Waits for so long, or until it is `over` or must go faster.
    fn wait(&self, time: Duration, over: impl Fn() -> bool) {
        let begun = Instant::now();
        while begun.elapsed() < time && !over() && !self.state.hurried.load(Ordering::Relaxed) {
            thread::sleep(LOOK);
        }
    }
}
