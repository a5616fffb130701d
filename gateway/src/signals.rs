use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What operators say to the process.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    reload: Signal,
    reopen: Signal,
    upgrade: Signal,
}

impl Signals {
    /// # Errors
    /// When signals cannot be had.
    pub(crate) fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            reload: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    /// What has been said.
    pub(crate) async fn next(&mut self) -> Said {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Said::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Said::Stop("SIGINT"),
            _ = self.quit.recv() => Said::Stop("SIGQUIT"),
            _ = self.upgrade.recv() => Said::Upgrade,
            _ = self.reload.recv() => Said::Reload,
            _ = self.reopen.recv() => Said::Reopen,
        }
    }
}

/// What a signal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// SIGTERM, SIGINT or SIGQUIT (which is nginx's for this): drain and end; the second time, cut what goes on and end.
    Stop(&'static str),
    /// SIGHUP: read the config again.
    Reload,
    /// SIGUSR1: open the access log again.
    Reopen,
    /// SIGUSR2: start the program anew, in place of this process.
    Upgrade,
}
