//! What a service manager is told (sd_notify(3)), where one listens: the socket in `NOTIFY_SOCKET`.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Notifier(Option<UnixDatagram>);

impl Notifier {
    /// The one that the environment names.
    pub(crate) fn from_env() -> Notifier {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Notifier(None);
        };
        match connect(name.as_bytes()) {
            Ok(socket) => Notifier(Some(socket)),
            Err(error) => {
                tracing::warn!("the service manager cannot be told anything at {name:?}: {error}");
                Notifier(None)
            }
        }
    }

    /// The service is up, and this is its state in a few words.
    pub(crate) fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={}", line(status)));
    }

    /// It is not ready, or its state has changed.
    pub(crate) fn status(&self, status: &str) {
        self.say(&format!("STATUS={}", line(status)));
    }

    /// It is about to be another process.
    pub(crate) fn reloading(&self) {
        self.say("RELOADING=1\nSTATUS=a new process is starting to take the place of this one");
    }

    /// From now on it is this process. Only the one that it was until now may say so.
    pub(crate) fn passed_on(&self, process: u32) {
        self.say(&format!("READY=1\nMAINPID={process}\nSTATUS=process {process} serves since an upgrade"));
    }

    /// Its workers still do something.
    pub(crate) fn alive(&self) {
        self.say("WATCHDOG=1");
    }

    /// It is going to end.
    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=draining");
    }

    fn say(&self, text: &str) {
        if let Some(Err(error)) = self.0.as_ref().map(|socket| socket.send(text.as_bytes())) {
            tracing::debug!("the service manager does not listen: {error}");
        }
    }
}

fn connect(name: &[u8]) -> io::Result<UnixDatagram> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // who does not read must not hold anything up
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn line(text: &str) -> String {
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let hidden = format!("tidegate-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(hidden.as_bytes()).unwrap();
        for (manager, name) in [
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
            (UnixDatagram::bind_addr(&abstract_address).unwrap(), format!("@{hidden}")),
        ] {
            let notifier = Notifier(Some(connect(name.as_bytes()).unwrap()));
            notifier.ready("config 1\nis live");
            notifier.passed_on(7);
            let mut bytes = [0; 100];
            let mut heard = || {
                let n = manager.recv(&mut bytes).unwrap();
                String::from_utf8(bytes[..n].to_vec()).unwrap()
            };
            assert_eq!(heard(), "READY=1\nSTATUS=config 1 is live", "{name}");
            assert_eq!(heard(), "READY=1\nMAINPID=7\nSTATUS=process 7 serves since an upgrade", "{name}");
        }
        connect(b"/nowhere/at/all").unwrap_err();
    }
}
