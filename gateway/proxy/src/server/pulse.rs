//! Whether the workers still do anything.

use super::Proxy;
use crate::worker::Command;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// A way to ask all workers, from whatever thread.
pub struct Pulse(Vec<UnboundedSender<Command>>);

impl Pulse {
    /// Whether all workers answer within this time; the numbers of those that do not. It blocks.
    ///
    /// # Errors
    /// When some are stuck or have ended.
    pub fn check(&self, patience: Duration) -> Result<(), Vec<usize>> {
        let deadline = Instant::now() + patience;
        let (sender, answers) = channel();
        let mut silent: Vec<usize> = (0..self.0.len()).collect();
        for (index, commands) in self.0.iter().enumerate() {
            // an error means that the worker has ended, and does not answer
            let _ = commands.send(Command::Answer(index, sender.clone()));
        }
        drop(sender);
        while !silent.is_empty() {
            match answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(index) => silent.retain(|other| *other != index),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Err(silent),
            }
        }
        Ok(())
    }
}

impl Proxy {
    /// A way to ask whether the workers still do anything.
    pub fn pulse(&self) -> Pulse {
        Pulse(self.workers.iter().map(|worker| worker.commands.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::unbounded_channel;

    #[test]
    fn who_is_stuck_and_who_has_ended_does_not_answer() {
        let (works, mut commands) = unbounded_channel();
        let (stuck, _kept) = unbounded_channel();
        let (ended, _) = unbounded_channel();
        let worker = std::thread::spawn(move || {
            while let Some(Command::Answer(index, to)) = commands.blocking_recv() {
                to.send(index).unwrap();
            }
        });
        assert_eq!(Pulse(vec![works.clone()]).check(Duration::from_secs(60)), Ok(()));
        // one that has ended is known at once
        assert_eq!(Pulse(vec![works.clone(), ended]).check(Duration::from_secs(60)), Err(vec![1]));
        assert_eq!(Pulse(vec![stuck]).check(Duration::from_millis(1)), Err(vec![0]));
        drop(works);
        worker.join().unwrap();
    }
}
