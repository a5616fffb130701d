//! Listeners come and go with the config. One that cannot be opened, because somebody else listens there, or one of ours
//! that is just going, is tried again.

use super::{Control, Phase, State};
use crate::listener::{Closing, Opened, not_opened};
use crate::snapshot::Snapshot;
use crate::worker::Command;
use std::sync::{Arc, Mutex, TryLockError, Weak};
use std::time::{Duration, Instant};
use tidegate_model::{Diagnostic, Model};
use tokio::sync::mpsc::UnboundedSender;

/// How long a config waits for the listeners that it removes.
const CLOSING: Duration = Duration::from_millis(500);
/// How often a listener is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Tries again what could not be opened, until the control side is gone.
pub(super) async fn reopen(
    control: Weak<Mutex<Control>>,
    state: Arc<State>,
    workers: Vec<UnboundedSender<Command>>,
) {
    loop {
        tokio::time::sleep(AGAIN).await;
        let Some(control) = control.upgrade() else { return };
        let mut control = match control.try_lock() {
            Ok(control) => control,
            Err(TryLockError::Poisoned(control)) => control.into_inner(),
            // a config that is made live opens them
            Err(TryLockError::WouldBlock) => continue,
        };
        control.reopen(&state, &workers);
    }
}

impl Control {
    /// Opens what a model wants and ends what it does not; what there was to be opened waits in `held`. Returns what is
    /// to be said of it.
    pub(super) fn change_listeners(&mut self, model: &Model, live: &Arc<Snapshot>) -> Vec<Diagnostic> {
        let mut opened = self.listeners.open(model);
        match self.listeners.change(&self.model, model, live) {
            Ok(begun) => opened.new.extend(begun),
            Err(error) => tracing::warn!(%error, "connections of another protocol go on"),
        }
        let closing = self.listeners.close_gone(model, live);
        closing.wait(Instant::now() + CLOSING);
        if !closing.is_empty() && !opened.failed.is_empty() {
            // The address may have been that of a listener that just went.
            let again = self.listeners.open(model);
            opened.new.extend(again.new);
            opened.failed = again.failed;
        }
        let Opened { new, failed } = opened;
        self.held.extend(new);
        self.not_opened = failed.iter().map(|(l, at, e)| (l.key, not_opened(l, *at, e))).collect();
        self.not_opened.iter().map(|(_, diagnostic)| diagnostic.clone()).collect()
    }

    /// Ends all listeners, for good.
    pub(super) fn close_all(&mut self, live: &Arc<Snapshot>) -> Closing {
        self.not_opened.clear();
        self.listeners.leave_activated();
        self.listeners.close_gone(&Model::default(), live)
    }

    fn reopen(&mut self, state: &State, workers: &[UnboundedSender<Command>]) {
        let phase = *state.phase.borrow();
        if self.not_opened.is_empty() || phase == Phase::PassedOn {
            return;
        }
        let Opened { new, failed } = self.listeners.open(&self.model);
        let open = |key| !failed.iter().any(|(listener, ..)| listener.key == key);
        let settled: Vec<_> = self.not_opened.extract_if(.., |(key, _)| open(*key)).collect();
        self.held.extend(new);
        if phase == Phase::Accepting {
            self.listen(workers);
        }
        let mut shown = state.shown();
        let addresses = self.listeners.addresses();
        for (listener, diagnostic) in settled {
            let at = addresses.iter().find(|(key, _)| *key == listener).map(|(_, address)| address);
            tracing::info!("listening on {} now", at.map_or(listener.to_string(), ToString::to_string));
            shown.settled.push(diagnostic);
        }
        shown.addresses = addresses;
        drop(shown);
        state.readiness.set_not_open(self.not_opened.len());
        state.settle();
    }
}
