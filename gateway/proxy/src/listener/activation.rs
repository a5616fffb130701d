use crate::listener::socket;
use std::env;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor that is passed.
const FIRST: RawFd = 3;

/// A descriptor that the service manager passed to this process.
#[derive(Debug)]
pub struct Passed {
    /// The name that it has there, such as that of the socket unit; empty without one.
    pub name: String,
    /// The descriptor; processes that are started from here do not have it.
    pub descriptor: OwnedFd,
}

impl Passed {
    /// The variables that speak of them: they are for one process alone.
    pub const VARIABLES: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID"];

    /// Those that the environment speaks of (sd_listen_fds(3)). This is to be asked before the process opens anything; who
    /// asks again gets none. What does not hold is logged.
    pub fn from_env() -> Vec<Passed> {
        static ASKED: AtomicBool = AtomicBool::new(false);
        if ASKED.swap(true, Ordering::SeqCst) {
            return Vec::new();
        }
        let variable = |name| env::var(name).ok();
        let Some(count) = variable("LISTEN_FDS") else { return Vec::new() };
        let (process, ours) = (variable("LISTEN_PID").unwrap_or_default(), std::process::id());
        if process.parse() != Ok(ours) {
            tracing::info!(
                "LISTEN_FDS={count} is for process {process:?}, and this one is {ours}: it is left alone"
            );
            return Vec::new();
        }
        let names = variable("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').map(ToOwned::to_owned);
        let numbers = count.parse().ok().and_then(|count: RawFd| Some(FIRST..FIRST.checked_add(count)?));
        let Some(numbers) = numbers else {
            tracing::warn!("LISTEN_FDS={count} is no number of sockets");
            return Vec::new();
        };
        let mut passed = Vec::new();
        for number in numbers {
            let name = names.next().unwrap_or_default();
            match socket::adopt(number) {
                Ok(descriptor) => passed.push(Passed { name, descriptor }),
                Err(error) => {
                    tracing::warn!("LISTEN_FDS={count}, and there is no descriptor {number}: {error}");
                    break;
                }
            }
        }
        passed
    }
}
