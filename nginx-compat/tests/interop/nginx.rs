//! One nginx with as many servers as a test needs.

use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tidegate_tests::{Identity, Lines, Net};
use tokio::net::TcpStream;

/// Where Debian's package puts the module for `stream`.
const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// What a config is made of. Each server gets a port of the same address.
pub(crate) struct Config {
    folder: TempDir,
    address: IpAddr,
    http: String,
    stream: String,
    next: u16,
}

impl Config {
    pub(crate) fn new(net: &Net) -> Result<Config> {
        let (folder, address) = (tempfile::tempdir()?, IpAddr::V4(net.next()?));
        Ok(Config { folder, address, http: String::new(), stream: String::new(), next: 8000 })
    }

    /// A folder for what the servers need; relative paths in the config start here.
    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Lines of the `http` block.
    pub(crate) fn http(&mut self, lines: &str) {
        self.http += lines;
        self.http.push('\n');
    }

    /// A server; `listen` follows its address.
    pub(crate) fn server(&mut self, listen: &str, lines: &str) -> SocketAddr {
        let at = self.take();
        let _ = writeln!(self.http, "server {{ listen {at} {listen}; {lines} }}");
        at
    }

    /// A server with TLS.
    pub(crate) fn tls_server(
        &mut self,
        listen: &str,
        identity: &Identity,
        lines: &str,
    ) -> Result<SocketAddr> {
        std::fs::write(self.root().join("tls.crt"), &identity.certificate)?;
        std::fs::write(self.root().join("tls.key"), &identity.key)?;
        let listen = format!("ssl {listen}");
        Ok(self.server(&listen, &format!("ssl_certificate tls.crt; ssl_certificate_key tls.key; {lines}")))
    }

    /// Lines of the `stream` block.
    pub(crate) fn stream(&mut self, lines: &str) {
        self.stream += lines;
        self.stream.push('\n');
    }

    /// A server of the `stream` block.
    pub(crate) fn stream_server(&mut self, lines: &str) -> SocketAddr {
        let at = self.take();
        let _ = writeln!(self.stream, "server {{ listen {at}; {lines} }}");
        at
    }

    fn take(&mut self) -> SocketAddr {
        self.next += 1;
        SocketAddr::new(self.address, self.next)
    }

    fn text(&self) -> Result<String> {
        let root = self.root().display();
        let user = if std::fs::metadata(self.root())?.uid() == 0 { "user root;\n" } else { "" };
        let mut text = user.to_owned();
        if !self.stream.is_empty() {
            let _ = writeln!(text, "load_module {STREAM};\nstream {{\n{}}}", self.stream);
        }
        let _ = writeln!(
            text,
            "daemon off;\nworker_processes 1;\npid {root}/pid;\nerror_log stderr warn;\nevents {{}}\n\
             http {{\naccess_log off;\nroot {root};\ndefault_type text/plain;"
        );
        for what in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            let _ = writeln!(text, "{what}_temp_path {root}/{what};");
        }
        Ok(text + &self.http + "}\n")
    }

    fn command(&self) -> Result<Command> {
        std::fs::write(self.root().join("nginx.conf"), self.text()?)?;
        let mut command = Command::new(program()?);
        command.args(["-p".as_ref(), self.root().as_os_str(), "-c".as_ref(), "nginx.conf".as_ref()]);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        Ok(command)
    }

    /// Has nginx read it, and no more.
    pub(crate) fn check(&self) -> Result<()> {
        let checked = self.command()?.arg("-t").output()?;
        let said = String::from_utf8_lossy(&checked.stderr);
        if checked.status.success() { Ok(()) } else { bail!("{said}") }
    }

    /// Starts it, and returns once it listens.
    pub(crate) async fn start(self) -> Result<Nginx> {
        let mut child = self.command()?.spawn()?;
        let messages = Lines::of(child.stderr.take().context("no stderr")?);
        // it binds every address before it accepts on one
        let at = SocketAddr::new(self.address, self.next);
        let mut nginx = Nginx { child, messages, _folder: self.folder };
        let patience = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(at).await.is_err() {
            if nginx.child.try_wait()?.is_some() || Instant::now() > patience {
                bail!("nginx does not start: {}", nginx.messages.tail());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(nginx)
    }
}

/// A running nginx, ended when dropped.
pub(crate) struct Nginx {
    child: Child,
    /// Its error log.
    pub(crate) messages: Lines,
    _folder: TempDir,
}

impl Nginx {
    /// Has it read its config again: new workers take over, the old ones end when they are idle.
    pub(crate) fn reload(&self) -> Result<()> {
        self.signal("-HUP")
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status()?;
        if sent.success() { Ok(()) } else { bail!("kill ended with {sent}") }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // the master ends its workers when asked to; kill alone would leave them behind
        if self.signal("-TERM").is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn program() -> Result<&'static str> {
    let places = ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"];
    places
        .into_iter()
        .find(|p| Path::new(p).exists())
        .context("nginx is missing: apt-get install nginx-light")
}

/// Whether the module for `stream` is installed; it is a package of its own.
pub(crate) fn has_stream() -> bool {
    Path::new(STREAM).exists()
}
