//! Binary upgrade: a new process takes the place of this one without a moment in which nobody serves.
//!
//! The one that runs starts its own program anew, and gives it the sockets that listen:
//!
//! | who | says |
//! |---|---|
//! | old | `Socket` or `Activated` for each, with the descriptor; `LastGood`, in case a file is broken just now; `Whole` |
//! | new | loads the config, `Takes` for each socket that it wants, then `Ready`; or `Refuses` |
//! | old | `Go` |
//! | new | accepts, `Serves` |
//! | old | drains what it has, and ends |
//!
//! Whatever goes wrong before `Serves` ends the new process and leaves the old one as it was. Both accept between `Go`
//! and the end of the old one's loops; the queues are the kernel's and shared, so nothing in them is lost.

mod channel;
mod predecessor;
mod successor;

pub(crate) use predecessor::{Inheritance, Predecessor};
pub(crate) use successor::{Abandon, Estate, Program, Served, Successor};

use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;

/// Names the version of what is said here to a new process, whose standard input is the channel then.
const VARIABLE: &str = "TIDEGATE_UPGRADE";
const VERSION: &str = "1";

/// What the two processes say.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Message {
    /// This address is listened on; the descriptor comes with it.
    Socket(SocketAddr),
    /// The same, for a socket that the service manager made.
    Activated(SocketAddr),
    /// What the config last was where it was good, as it is kept on disk; the descriptor of a file comes with it.
    LastGood,
    /// There is no more.
    Whole,
    /// The new process wants the socket of this address.
    Takes(SocketAddr),
    /// It could serve.
    Ready,
    /// It cannot, for this reason.
    Refuses(String),
    /// It is to serve.
    Go,
    /// It does.
    Serves,
}

/// Why there is no upgrade.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0} cannot be started: {1}")]
    Start(String, io::Error),
    #[error("the new process ended before it served{0}; its log says why")]
    Ended(String),
    #[error("the new process did not serve in time; give it more with --upgrade-timeout")]
    Late,
    #[error("the new process refuses: {0}")]
    Refused(String),
    #[error("the two processes do not understand each other: {0}")]
    Protocol(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}
