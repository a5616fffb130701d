//! A real systemd, in namespaces of its own.

use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a busy machine may take for what takes a moment.
const PATIENCE: Duration = Duration::from_secs(60);
/// Targets that units are pulled in by, or wait for, without being told to; nothing is behind them here.
const TARGETS: [&str; 7] =
    ["basic", "multi-user", "network", "network-online", "shutdown", "sockets", "sysinit"];

/// systemd as the first process of namespaces for processes, mounts, cgroups and networks, which end with this value.
/// Its files are its own but for `/usr`; `/usr/local/bin`, too, has what it was given alone.
pub struct ServiceManager {
    folder: TempDir,
    boot: Child,
    process: u32,
}

impl ServiceManager {
    /// One with these units, beside empty ones for the usual targets, and these files in `/usr/local/bin`.
    ///
    /// # Errors
    /// When this machine does not let it run, with what is missing: nothing of what is tested has been run then.
    pub fn boot(units: &[(&str, &str)], programs: &[&Path]) -> Result<ServiceManager> {
        ensure!(
            Path::new("/lib/systemd/systemd").exists(),
            "there is no systemd; run: sudo apt-get install -y systemd"
        );
        ensure!(rustix::process::geteuid().is_root(), "namespaces with a systemd in them need root");
        let folder = tempfile::tempdir()?;
        let (etc, bin) = (folder.path().join("etc/systemd/system"), folder.path().join("bin"));
        fs::create_dir_all(&etc)?;
        fs::create_dir(&bin)?;
        for target in TARGETS {
            fs::write(etc.join(format!("{target}.target")), "[Unit]\nDefaultDependencies=no\n")?;
        }
        for (name, text) in units {
            let path = etc.join(name);
            path.parent().map(fs::create_dir_all).transpose()?;
            fs::write(path, text)?;
        }
        for program in programs {
            fs::copy(program, bin.join(program.file_name().context("no program")?))?;
        }
        // others than root run it
        Command::new("chmod").args(["-R", "a+rX"]).arg(folder.path()).status()?;
        let said = File::create(folder.path().join("boot.log"))?;
        let boot = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "sh"])
            .arg(workspace().join("tests/files/systemd/boot"))
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()
            .context("setpriv and unshare of util-linux cannot be started")?;
        let mut manager = ServiceManager { folder, boot, process: 0 };
        manager.wait_until_up()?;
        Ok(manager)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let patience = Instant::now() + PATIENCE;
        loop {
            let said = fs::read_to_string(self.folder.path().join("process")).unwrap_or_default();
            self.process = said.trim().parse().unwrap_or_default();
            if self.process != 0 && self.run(&["systemctl", "is-system-running"])?.status.success() {
                return Ok(());
            }
            let ended = self.boot.try_wait()?;
            if ended.is_some() || Instant::now() > patience {
                let log = fs::read_to_string(self.folder.path().join("boot.log")).unwrap_or_default();
                bail!("this machine does not let systemd run in namespaces of its own: {}", log.trim());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Moves this thread into its network. All sockets that it opens from now on are there.
    ///
    /// # Errors
    /// When the system does not let it.
    pub fn enter_network(&self) -> Result<()> {
        let network = File::open(format!("/proc/{}/ns/net", self.process))?;
        Ok(move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// The folder that is `/shared` inside.
    pub fn shared(&self) -> &Path {
        self.folder.path()
    }

    /// A file or folder by its path inside.
    pub fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.process))
    }

    /// A command that runs inside.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.process.to_string(), "--mount", "--pid", "--net", "--ipc", "--uts"]);
        command.args(["--cgroup", "--"]).args(words).stdin(Stdio::null());
        command
    }

    /// Runs one to its end, however it ends.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        self.command(words).output().context("nsenter of util-linux cannot be started")
    }

    /// Runs `systemctl`.
    ///
    /// # Errors
    /// When it fails, with what it says.
    pub fn control(&self, words: &[&str]) -> Result<()> {
        let out = self.run(&[&["systemctl"], words].concat())?;
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "systemctl {words:?} ended with {}: {said}", out.status);
        Ok(())
    }

    /// A property of a unit.
    ///
    /// # Errors
    /// When `systemctl` fails.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        let out = self.run(&["systemctl", "show", "-P", name, unit])?;
        ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8(out.stdout)?.trim().to_owned())
    }

    /// Waits until a property is as wanted, and returns it.
    ///
    /// # Errors
    /// When it does not become so, with what it is.
    pub async fn wait_for(&self, unit: &str, name: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let patience = Instant::now() + PATIENCE;
        loop {
            let value = self.property(unit, name)?;
            if wanted(&value) {
                return Ok(value);
            }
            ensure!(Instant::now() < patience, "{name} of {unit} stays {value:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Where a port is reached by who is in its network.
    pub fn at(&self, port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }
}

impl Drop for ServiceManager {
    fn drop(&mut self) {
        if self.process != 0 {
            // with the first process all others end; it may not have come to that
            let _ = Command::new("kill").args(["-s", "KILL", &self.process.to_string()]).status();
        } else {
            let _ = self.boot.kill();
        }
        let _ = self.boot.wait();
    }
}
