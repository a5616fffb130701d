//! One process takes the place of another: it gets the sockets that listen, and accepts before the other ends.

use super::{Control, Proxy, State};
use crate::listener::Shared;
use crate::lock::lock;
use crate::worker::Command;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// Who accepts on the sockets that this process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The process before this one.
    Held,
    /// This one.
    Accepting,
    /// The process after it.
    PassedOn,
}

/// How long who connected to the admin or the status server has to ask, and to take the answer.
const LAST_QUESTIONS: Duration = Duration::from_secs(5);

impl State {
    /// Waits for those who reached the admin and status servers of this process, and are to see no difference.
    pub(super) fn answer_last_questions(&self) {
        let deadline = Instant::now() + LAST_QUESTIONS;
        while self.asked_by.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Proxy {
    /// The sockets that listen, those of the admin and status servers too, each once more.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub fn sockets(&self) -> io::Result<Vec<Shared>> {
        let mut sockets = lock(&self.control).listeners.sockets()?;
        for own in [&self.admin, &self.status] {
            if sockets.iter().all(|other| other.address != own.address) {
                let socket = own.socket.try_clone()?.into();
                sockets.push(Shared { address: own.address, activated: false, socket });
            }
        }
        Ok(sockets)
    }

    /// The sockets that the service manager made and that nothing is for. Who connects to one waits.
    pub fn unused(&self) -> Vec<SocketAddr> {
        let own = [self.admin.address, self.status.address];
        let unused = lock(&self.control).listeners.unused();
        unused.into_iter().filter(|address| !own.contains(address)).collect()
    }

    /// Begins to accept on what was inherited, and on whatever was opened meanwhile. What was inherited and is not
    /// wanted is let go.
    pub fn accept(&self) {
        let mut control = lock(&self.control);
        control.listeners.forget_predecessor();
        self.state.phase.send_replace(Phase::Accepting);
        self.listen(&mut control);
    }

    /// Leaves the sockets of these addresses to another process that accepts on them. What is to be done next is to
    /// [`drain`](Proxy::drain).
    pub fn pass_on(&self, taken: &BTreeSet<SocketAddr>) {
        lock(&self.control).listeners.pass_on(taken);
        self.state.phase.send_replace(Phase::PassedOn);
    }

    /// Has the workers accept on listeners that wait for it.
    pub(super) fn listen(&self, control: &mut Control) {
        control.listen(self.workers.iter().map(|worker| &worker.commands));
    }
}

impl Control {
    /// The same, for who knows the `workers`.
    pub(super) fn listen<'a>(
        &mut self,
        workers: impl IntoIterator<Item = &'a UnboundedSender<Command>> + Clone,
    ) {
        for listening in self.held.drain(..) {
            for worker in workers.clone() {
                // A worker that does not take commands has ended, which drain() finds out.
                let _ = worker.send(Command::Listen(listening.clone()));
            }
        }
    }
}
