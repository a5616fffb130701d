//! A gateway process under test.

use crate::{Lines, Net, Request, Version, binary, exchange};
use anyhow::{Context, Result, bail};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How to start a [`Gateway`].
#[derive(Clone, Debug)]
pub struct Start {
    configs: Vec<PathBuf>,
    ports: Vec<(u16, u16)>,
    arguments: Vec<String>,
    access_log: Option<&'static str>,
    binary: Option<PathBuf>,
    variables: Vec<(String, PathBuf)>,
    under: Vec<String>,
}

impl Start {
    /// A gateway that serves this file or folder; access log in JSON.
    pub fn with(config: impl AsRef<Path>) -> Self {
        Start {
            configs: vec![config.as_ref().to_owned()],
            ports: Vec::new(),
            arguments: Vec::new(),
            access_log: Some("json"),
            binary: None,
            variables: Vec::new(),
            under: Vec::new(),
        }
    }

    /// This binary in place of the one under test.
    pub fn binary(mut self, path: &Path) -> Self {
        self.binary = Some(path.to_owned());
        self
    }

    /// With this variable in its environment.
    pub fn variable(mut self, name: &str, value: impl AsRef<Path>) -> Self {
        self.variables.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Run by this command, such as `valgrind --tool=callgrind`.
    pub fn under<I: Into<String>>(mut self, command: impl IntoIterator<Item = I>) -> Self {
        self.under = command.into_iter().map(Into::into).collect();
        self
    }

    /// Another file or folder to serve.
    pub fn config(mut self, path: impl AsRef<Path>) -> Self {
        self.configs.push(path.as_ref().to_owned());
        self
    }

    /// The server port `server` listens on the port `local`.
    pub fn port(mut self, server: u16, local: u16) -> Self {
        self.ports.push((server, local));
        self
    }

    /// One more argument of the command line.
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// `off`, `text` or `json`.
    pub fn access_log(mut self, format: &'static str) -> Self {
        self.access_log = Some(format);
        self
    }

    /// Logs as the config says.
    pub fn access_log_of_config(mut self) -> Self {
        self.access_log = None;
        self
    }

    /// Starts the process on the network's gateway address, and returns once it is ready.
    pub async fn start(&self, net: &Net) -> Result<Gateway> {
        let mut gateway = self.spawn(net)?;
        let patience = Instant::now() + Duration::from_secs(30);
        while !gateway.is_ready().await {
            if let Some(status) = gateway.child.try_wait()? {
                tokio::time::sleep(Duration::from_millis(50)).await;
                bail!("the gateway ended with {status}: {}", gateway.said());
            }
            // what is tried again may become ready yet
            let is_final = |l: &String| l.contains("not ready:") && !l.contains("tried again");
            if gateway.messages.since(0).iter().any(is_final) {
                bail!("the gateway does not become ready: {}", gateway.said());
            }
            if Instant::now() > patience {
                bail!("the gateway was not ready in 30 s: {}", gateway.said());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(gateway)
    }

    /// Starts the process, and does not wait until it is ready.
    pub fn spawn(&self, net: &Net) -> Result<Gateway> {
        let address = net.gateway();
        let binary = match &self.binary {
            Some(path) => path,
            None => binary::gateway_binary()?,
        };
        let mut command = match self.under.split_first() {
            None => Command::new(binary),
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(binary);
                command
            }
        };
        command.arg("--config").args(&self.configs);
        command.args(["--bind", &address.to_string()]);
        command.args(["--admin", &format!("{address}:{ADMIN}"), "--status", &format!("{address}:{STATUS}")]);
        command.args(self.access_log.iter().flat_map(|format| ["--access-log", format]));
        for (server, local) in &self.ports {
            command.args(["--port", &format!("{server}={local}")]);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start the gateway")?;
        let log = Lines::of(child.stdout.take().context("no stdout")?);
        let messages = Lines::of(child.stderr.take().context("no stderr")?);
        let process = child.id();
        Ok(Gateway { child, process, address, log, messages, ports: self.ports.clone() })
    }
}

const ADMIN: u16 = 15000;
const STATUS: u16 = 15021;

/// A running `tidegate-gateway`, killed when dropped.
pub struct Gateway {
    child: Child,
    /// The one that serves: it, or what was started in its place.
    process: u32,
    address: Ipv4Addr,
    ports: Vec<(u16, u16)>,
    /// Standard output: the access log.
    pub log: Lines,
    /// Standard error: diagnostics and program logs.
    pub messages: Lines,
}

impl Gateway {
    /// Where a server port is reached.
    pub fn at(&self, server_port: u16) -> SocketAddr {
        let mapped = self.ports.iter().find(|(server, _)| *server == server_port);
        SocketAddr::new(IpAddr::V4(self.address), mapped.map_or(server_port, |(_, local)| *local))
    }

    /// Where the admin pages are.
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address), ADMIN)
    }

    /// Where readiness and metrics are.
    pub fn status(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address), STATUS)
    }

    /// Whether `/healthz/ready` answers 200.
    pub async fn is_ready(&self) -> bool {
        self.readiness().await == Some(200)
    }

    /// The status of `/healthz/ready`; `None` while nothing answers.
    pub async fn readiness(&self) -> Option<u16> {
        let request = Request::to(self.status()).path("/healthz/ready").version(Version::Http11);
        exchange(&request).await.ok().map(|a| a.status)
    }

    /// An admin page, which must answer 200, as JSON.
    pub async fn page(&self, path: &str) -> Result<serde_json::Value> {
        let answer = exchange(&Request::to(self.admin()).host(&self.admin().to_string()).path(path)).await?;
        if answer.status != 200 {
            bail!("{path} answered {}: {}", answer.status, answer.text());
        }
        serde_json::from_slice(&answer.body).with_context(|| format!("{path} is no JSON: {}", answer.text()))
    }

    /// The number of the config that is live.
    pub async fn generation(&self) -> Result<u64> {
        let page = self.page("/generation").await?;
        page["generation"].as_u64().with_context(|| format!("no number in {page}"))
    }

    /// Waits until a config after the given one is live.
    pub async fn wait_for_generation_after(&self, generation: u64) -> Result<u64> {
        let patience = Instant::now() + Duration::from_secs(10);
        loop {
            let now = self.generation().await?;
            if now > generation {
                return Ok(now);
            }
            if Instant::now() > patience {
                bail!("the generation is still {now} after 10 s: {}", self.said());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The last lines of what it said, for messages.
    pub fn said(&self) -> String {
        let said = self.messages.tail();
        if said.is_empty() { self.log.tail() } else { said }
    }

    /// Whether the process that serves has ended: with a status when it was started here.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.process == self.child.id() {
            return self.child.try_wait().ok().flatten();
        }
        (!is_running(self.process)).then(ExitStatus::default)
    }

    /// The number of the process that serves.
    pub fn id(&self) -> u32 {
        self.process
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) -> Result<()> {
        self.signal("TERM")
    }

    /// Sends the signal of this name.
    pub fn signal(&self, name: &str) -> Result<()> {
        send(name, self.process)
    }

    /// Has a new process take the place of the one that serves, and returns the old one's number, which may still
    /// drain.
    pub async fn upgrade(&mut self) -> Result<u32> {
        let mark = self.messages.count();
        self.signal("USR2")?;
        let said = |line: &str| line.contains("serves in place of this one") || line.contains("no upgrade");
        let line = self.messages.find(mark, Duration::from_secs(90), said).await;
        let line = line.with_context(|| format!("nothing came of an upgrade: {}", self.said()))?;
        let number = line.split("process ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        let number = number.with_context(|| line.clone())?;
        Ok(std::mem::replace(&mut self.process, number))
    }

    /// Waits for the process to end.
    pub async fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("the gateway still runs after {patience:?}: {}", self.said());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Sends a process the signal of this name.
fn send(name: &str, process: u32) -> Result<()> {
    let sent = Command::new("kill").args(["-s", name, &process.to_string()]).status()?;
    if !sent.success() {
        bail!("kill ended with {sent}");
    }
    Ok(())
}

/// Whether there is such a process, and it has not ended: nobody may have asked yet how it did.
pub fn is_running(process: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{process}/stat")) else { return false };
    // the state comes after the name, which is in parentheses
    status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.process != self.child.id() && is_running(self.process) {
            // it may end meanwhile
            let _ = send("KILL", self.process);
        }
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
