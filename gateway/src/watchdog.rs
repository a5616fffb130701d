//! Tells the service manager that the workers still do something, where it wants to hear that (`WATCHDOG_USEC`,
//! sd_watchdog_enabled(3)): otherwise it ends the process and starts it anew.

use crate::notify::Notifier;
use std::ffi::OsString;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;
use tidegate_proxy::Pulse;

/// Asks and tells, on a thread of its own, until it is dropped.
pub(crate) struct Watchdog(#[expect(dead_code, reason = "its end is what the thread waits for")] Sender<()>);

impl Watchdog {
    /// Begins, where the service manager wants it; of a process that took the place of another, `succeeds`, it wants what it
    /// wanted of that one.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub(crate) fn start(pulse: Pulse, succeeds: bool) -> std::io::Result<Option<Watchdog>> {
        let variable = |name| std::env::var_os(name);
        let process = variable("WATCHDOG_PID").filter(|_| !succeeds);
        let Some(time) = wanted(variable("WATCHDOG_USEC"), process, std::process::id()) else {
            return Ok(None);
        };
        let (end, ended) = channel();
        std::thread::Builder::new().name("tidegate-watchdog".into()).spawn(move || {
            let notifier = Notifier::from_env();
            let part = time / 3;
            loop {
                match pulse.check(part) {
                    Ok(()) => notifier.alive(),
                    Err(silent) => tracing::error!("workers that do not answer: {silent:?}"),
                }
                if ended.recv_timeout(part) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        })?;
        Ok(Some(Watchdog(end)))
    }
}

/// How often it wants to hear something, of the process with this number.
fn wanted(time: Option<OsString>, process: Option<OsString>, own: u32) -> Option<Duration> {
    let number = |text: OsString| text.to_str()?.parse::<u64>().ok();
    let is_own = process.is_none_or(|process| number(process) == Some(own.into()));
    time.and_then(number).filter(|time| is_own && *time > 0).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_says_how_often_and_of_whom() {
        for (time, process, expected) in [
            (Some("30000000"), None, Some(30)),
            (Some("30000000"), Some("7"), Some(30)),
            (Some("30000000"), Some("8"), None),
            (Some("0"), None, None),
            (Some("soon"), None, None),
            (None, Some("7"), None),
        ] {
            let found = wanted(time.map(Into::into), process.map(Into::into), 7);
            assert_eq!(found, expected.map(Duration::from_secs), "{time:?} {process:?}");
        }
    }
}
