//! Listeners that could not be opened, because somebody else listens there, or one of ours that was just going: they
//! are tried again.

use super::{Control, State};
use crate::worker::Command;
use std::sync::{Arc, Mutex, TryLockError, Weak};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// How often they are tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Tries again until the control side is gone.
pub(super) async fn run(
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
    fn reopen(&mut self, state: &State, workers: &[UnboundedSender<Command>]) {
        if self.not_opened.is_empty() {
            return;
        }
        let model = self.model.clone();
        let opened = self.listeners.open(&model);
        let fails = |key| opened.failed.iter().any(|(listener, ..)| listener.key == key);
        let done: Vec<_> = self.not_opened.extract_if(.., |(key, _)| !fails(*key)).collect();
        for listening in opened.new {
            tracing::info!(listener = %listening.key, "the listener is open now");
            // A worker that does not take commands has ended, which drain() finds out.
            workers.iter().for_each(|worker| _ = worker.send(Command::Listen(listening.clone())));
        }
        let mut shown = state.shown();
        shown.settled.extend(done.into_iter().map(|(_, diagnostic)| diagnostic));
        shown.addresses = self.listeners.addresses();
    }
}
