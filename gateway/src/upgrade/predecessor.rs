//! The new process's side.

use super::channel::Channel;
use super::{Failure, Message, VARIABLE, VERSION};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use tidegate_proxy::Inherited;
use tidegate_source::Kept;

/// How long the old process may take to say what it has to say.
const PATIENCE: Duration = Duration::from_secs(30);
/// An old process that drains has nothing to say until it ends.
const DRAINS: Duration = Duration::from_secs(3600);

/// What a process leaves to this one.
pub(crate) struct Inheritance {
    /// The process.
    pub(crate) predecessor: Predecessor,
    /// What it listens on.
    pub(crate) sockets: Inherited,
    /// What its config last was where it was good.
    pub(crate) last_good: Option<Kept>,
}

/// The process that this one is to take the place of.
#[derive(Debug)]
pub(crate) struct Predecessor {
    channel: Channel,
    /// What it gave us.
    given: BTreeSet<SocketAddr>,
}

impl Predecessor {
    /// The one that started this process, if one did, and what it leaves to it.
    ///
    /// # Errors
    /// When it is of a version that this one does not understand, or ends.
    pub(crate) fn find() -> Result<Option<Inheritance>, Failure> {
        match std::env::var(VARIABLE) {
            Err(_) => return Ok(None),
            Ok(version) if version == VERSION => {}
            Ok(version) => {
                return Err(Failure::Protocol(format!("it speaks version {version}, not {VERSION}")));
            }
        }
        let channel = Channel::new(io::stdin().as_fd().try_clone_to_owned()?);
        // what reads from there meets what it would in a service
        rustix::stdio::dup2_stdin(File::open("/dev/null")?).map_err(io::Error::from)?;
        let deadline = Instant::now() + PATIENCE;
        let (mut sockets, mut activated, mut last_good) = (Vec::new(), Vec::new(), None);
        loop {
            match channel.receive(deadline)? {
                (Message::Socket(address), Some(socket)) => sockets.push((address, socket)),
                (Message::Activated(address), Some(socket)) => activated.push((address, socket)),
                (Message::LastGood, Some(file)) => {
                    let kept = Kept::read(File::from(file));
                    // another version's; what is good now does not need it
                    let kept = kept.inspect_err(|e| tracing::warn!("what was good last is not known: {e}"));
                    last_good = kept.ok();
                }
                (Message::Whole, _) => break,
                (other, _) => return Err(Failure::Protocol(format!("{other:?} is not to be said now"))),
            }
        }
        let given = sockets.iter().chain(&activated).map(|(address, _)| *address).collect();
        let predecessor = Predecessor { channel, given };
        let mut sockets = Inherited::of_predecessor(sockets);
        for (address, socket) in activated {
            if let Err(why) = sockets.activate(socket) {
                tracing::warn!("the socket of {address} is of no use any more: {why}");
            }
        }
        Ok(Some(Inheritance { predecessor, sockets, last_good }))
    }

    /// Says that this process cannot take its place; it must end then.
    pub(crate) fn refuse(&self, why: &str) {
        // it sees an end in any case
        let _ = self.channel.send(&Message::Refuses(why.chars().take(1000).collect()));
    }

    /// Says which addresses are listened on here, and waits until it lets us serve.
    ///
    /// # Errors
    /// When it does not: it keeps serving, and this process must end.
    pub(crate) fn ready(&self, listening: impl IntoIterator<Item = SocketAddr>) -> Result<(), Failure> {
        for address in listening.into_iter().filter(|address| self.given.contains(address)) {
            self.channel.send(&Message::Takes(address))?;
        }
        self.channel.send(&Message::Ready)?;
        match self.channel.receive(Instant::now() + PATIENCE)?.0 {
            Message::Go => Ok(()),
            other => Err(Failure::Protocol(format!("{other:?} is not to be said now"))),
        }
    }

    /// Says that this process accepts.
    ///
    /// # Errors
    /// When the other has ended meanwhile, which it then does not have to be told.
    pub(crate) fn serves(&self) -> Result<(), Failure> {
        self.channel.send(&Message::Serves)
    }

    /// Blocks until it has ended.
    pub(crate) fn ended(self) {
        // Silence is all that it has to say.
        while matches!(self.channel.receive(Instant::now() + DRAINS), Err(Failure::Late)) {}
    }
}
