//! The old process's side.

use super::channel::Channel;
use super::{Failure, Message, VARIABLE, VERSION};
use rustix::fs::{MemfdFlags, memfd_create};
use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tidegate_api::Objects;
use tidegate_proxy::{Passed, Shared};
use tidegate_source::Kept;

/// How long a new process may take from being told to until it accepts: nothing is left to be done for it.
const GO: Duration = Duration::from_secs(30);

/// How this process was started.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// As it is at the start of the process. Symlinks on the way to the program are followed anew with each upgrade.
    ///
    /// # Errors
    /// When the system does not say where the program is.
    pub(crate) fn of_this_process() -> io::Result<Program> {
        let mut arguments = env::args_os();
        let typed = arguments.next().map(PathBuf::from).filter(|path| path.components().count() > 1);
        let path = match typed {
            Some(path) => std::path::absolute(path)?,
            None => env::current_exe()?,
        };
        Ok(Program { path, arguments: arguments.collect() })
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// What is left to a new process.
pub(crate) struct Estate {
    /// The sockets that listen.
    pub(crate) sockets: Vec<Shared>,
    /// The objects that count.
    pub(crate) objects: Objects,
}

/// A process that is to take the place of this one; it ends with this value, unless it serves.
pub(crate) struct Successor {
    child: Option<Child>,
    channel: Channel,
}

/// A process that took the place of this one.
pub(crate) struct Served {
    /// Its number.
    pub(crate) process: u32,
    /// The addresses that it accepts on with sockets of ours.
    pub(crate) taken: BTreeSet<SocketAddr>,
    /// It learns that this process has ended by the end of this.
    _channel: Channel,
}

/// Ends the attempt, from wherever.
pub(crate) struct Abandon(Channel);

impl Abandon {
    /// Whoever waits for the other process fails.
    pub(crate) fn now(&self) {
        self.0.end();
    }
}

impl Successor {
    /// Starts the program.
    ///
    /// # Errors
    /// When it is none, or the system has no room.
    pub(crate) fn start(program: &Program) -> Result<(Successor, Abandon), Failure> {
        let (channel, theirs) = Channel::pair()?;
        let abandon = Abandon(channel.try_clone()?);
        let mut command = Command::new(&program.path);
        // it gets what the service manager passed from this process
        Passed::VARIABLES.iter().for_each(|name| _ = command.env_remove(name));
        let child = command
            .args(&program.arguments)
            .env(VARIABLE, VERSION)
            .stdin(Stdio::from(theirs))
            .spawn()
            .map_err(|e| Failure::Start(program.path.display().to_string(), e))?;
        Ok((Successor { child: Some(child), channel }, abandon))
    }

    /// Its number.
    pub(crate) fn process(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Gives it all of it, and waits until it serves, which may block for `patience`.
    ///
    /// # Errors
    /// When it does not come to that: then it has ended, and has accepted nothing, unless it was told to go.
    pub(crate) fn serve(mut self, estate: Estate, patience: Duration) -> Result<Served, Failure> {
        match self.converse(estate, patience) {
            Ok(taken) => {
                let process = self.process();
                self.child = None;
                Ok(Served { process, taken, _channel: self.channel.try_clone()? })
            }
            Err(Failure::Ended(_)) => Err(Failure::Ended(self.how_it_ended())),
            Err(other) => Err(other),
        }
    }

    fn converse(&self, estate: Estate, patience: Duration) -> Result<BTreeSet<SocketAddr>, Failure> {
        let deadline = Instant::now() + patience;
        let mut ours = BTreeSet::new();
        for Shared { address, activated, socket } in estate.sockets {
            let message = if activated { Message::Activated(address) } else { Message::Socket(address) };
            self.channel.send_with(&message, Some(socket.as_fd()))?;
            ours.insert(address);
        }
        let last_good = in_memory(&Kept::write(&estate.objects)?)?;
        self.channel.send_with(&Message::LastGood, Some(last_good.as_fd()))?;
        self.channel.send(&Message::Whole)?;
        let mut taken = BTreeSet::new();
        loop {
            match self.channel.receive(deadline)?.0 {
                Message::Takes(address) if ours.contains(&address) => _ = taken.insert(address),
                Message::Takes(_) => {}
                Message::Ready => break,
                Message::Refuses(why) => return Err(Failure::Refused(why)),
                other => return Err(Failure::Protocol(format!("{other:?} is not to be said now"))),
            }
        }
        self.channel.send(&Message::Go)?;
        match self.channel.receive(Instant::now() + GO)?.0 {
            Message::Serves => Ok(taken),
            other => Err(Failure::Protocol(format!("{other:?} is not to be said now"))),
        }
    }

    /// The status of a process whose end of the channel is closed.
    fn how_it_ended(&mut self) -> String {
        let patience = Instant::now() + Duration::from_secs(1);
        while let Some(child) = &mut self.child
            && Instant::now() < patience
        {
            if let Ok(Some(status)) = child.try_wait() {
                return format!(" with {status}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        String::new()
    }
}

/// A file that is on no disk: private keys are in it.
fn in_memory(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("tidegate-last-good", MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    // the position goes with the descriptor
    file.rewind()?;
    Ok(file)
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // it may have ended by itself
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
