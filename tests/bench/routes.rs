//! What many routes cost: CPU time a request, memory, a start, and a change of one route.

use crate::configs::{Site, nginx_base};
use crate::proxies::{Proxy, Started, kib, reachable};
use crate::table::{median, say, shuffled};
use crate::{Arguments, Ends, measure, part};
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tidegate_tests::load::{self, Shape};
use tidegate_tests::{Authority, Identity, Net, Request, exchange};

/// How long a proxy may take for a start or a change.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is still done once a change shows: the old config is let go of.
const AFTERWARDS: Duration = Duration::from_millis(1500);

/// What is asked for.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Sizes of the table
    #[arg(long, value_delimiter = ',', default_value = "1,1000,10000")]
    routes: Vec<usize>,
    /// Workers of each proxy, which share its CPU
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Changes of one route
    #[arg(long, default_value_t = 5)]
    changes: usize,
}

/// A proxy with a table of some size.
struct Running {
    started: Started,
    home: PathBuf,
    routes: usize,
    start: Cost,
    /// KiB once it had started, after the load, and after the changes.
    memory: Vec<u64>,
    micros: Vec<f64>,
    changes: Vec<Cost>,
}

/// What it took until something showed.
#[derive(Clone, Copy)]
struct Cost {
    time: Duration,
    cpu: Duration,
}

/// Measures Tidegate and nginx with tables of every size, and prints a table.
pub(crate) async fn run(arguments: &Arguments, options: &Options) -> Result<()> {
    let (net, folder) = (Net::reserve()?, tempfile::tempdir()?);
    let origin = SocketAddr::new(net.next()?.into(), 8080);
    let _origin = Ends(part(arguments.load_cpu, &["origin", &origin.to_string()])?.spawn()?);
    reachable(origin).await?;
    let identity = Authority::new("bench")?.issue("edge", &[load::host(0)])?;
    let mut running = Vec::new();
    for proxy in [Proxy::Tidegate, Proxy::Nginx] {
        if !arguments.proxies.is_empty() && !arguments.proxies.iter().any(|p| p == proxy.name()) {
            continue;
        }
        let Some(program) = proxy.program() else {
            say(&format!("{} is not installed: {}\n", proxy.name(), proxy.how_to_install()));
            continue;
        };
        for &routes in &options.routes {
            let home = folder.path().join(format!("{}-{routes}", proxy.name()));
            let on = Place { ip: net.next()?, home, routes, workers: options.workers };
            let started = on.start(proxy, &program, origin, &identity, arguments.cpu).await;
            running.push(started.with_context(|| format!("{} with {routes} routes", proxy.name()))?);
        }
    }
    for round in 0..arguments.rounds {
        let order =
            shuffled(&(0..running.len()).collect::<Vec<_>>()).into_iter().copied().collect::<Vec<_>>();
        for which in order {
            let proxy = &mut running[which];
            let sample = measure(arguments, &proxy.started, Shape::Get, arguments.seconds)?;
            proxy.micros.push(sample.micros);
        }
        say(&format!("round {} of {}\n", round + 1, arguments.rounds));
    }
    for proxy in &mut running {
        proxy.memory.push(proxy.started.memory()?);
        for change in 0..options.changes {
            let cost = proxy.change(&format!("/new-{change}")).await?;
            proxy.changes.push(cost);
        }
        proxy.memory.push(proxy.started.memory()?);
    }
    say(&table(options, &running));
    Ok(())
}

/// Where a proxy is to run, and with what.
struct Place {
    ip: Ipv4Addr,
    home: PathBuf,
    routes: usize,
    workers: usize,
}

impl Place {
    async fn start(
        self,
        proxy: Proxy,
        program: &Path,
        origin: SocketAddr,
        identity: &Identity,
        cpu: usize,
    ) -> Result<Running> {
        let config = self.home.join("config");
        std::fs::create_dir_all(&config)?;
        let (ip, home, workers) = (self.ip, self.home.display(), self.workers);
        let line = match proxy {
            Proxy::Tidegate => {
                for (name, text) in load::table_of(&[origin], self.routes) {
                    std::fs::write(config.join(name), text)?;
                }
                format!(
                    "--config {home}/config --bind {ip} --admin {ip}:15000 --status {ip}:15021 \
                     --access-log json --concurrency {workers} --log warn"
                )
            }
            _ => {
                let site = Site {
                    home: &self.home,
                    ip,
                    origin,
                    secure: origin,
                    authority: "",
                    identity,
                    logs: true,
                };
                std::fs::write(self.home.join("cert.pem"), &identity.certificate)?;
                std::fs::write(self.home.join("key.pem"), &identity.key)?;
                let text = nginx_base(&site, workers) + " include config/*.conf;\n}\n";
                std::fs::write(self.home.join("nginx.conf"), text)?;
                for host in 0..load::hosts_of(self.routes) {
                    std::fs::write(config.join(format!("h{host}.conf")), self.nginx_host(host, ""))?;
                }
                format!("-p {home} -c nginx.conf")
            }
        };
        let messages = self.home.join("messages");
        let begun = Instant::now();
        let process = Command::new("taskset")
            .args(["-c", &cpu.to_string()])
            .arg(program)
            .args(line.split(' '))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&messages)?)
            .spawn()?;
        let started = Started { proxy, logs: true, ip, process: Ends(process) };
        let last = load::hosts_of(self.routes) - 1;
        let answers = until(started.at(Shape::Get), &load::host(last), "/svc3/items", 200).await;
        answers.with_context(|| std::fs::read_to_string(&messages).unwrap_or_default())?;
        let time = begun.elapsed();
        let start = Cost { time, cpu: started.cpu_time()? };
        tokio::time::sleep(AFTERWARDS).await;
        let memory = vec![started.memory()?];
        let (micros, changes) = (Vec::new(), Vec::new());
        Ok(Running { started, home: self.home, routes: self.routes, start, memory, micros, changes })
    }

    fn nginx_host(&self, host: usize, more: &str) -> String {
        nginx_host(self.ip, self.routes, host, more)
    }
}

/// nginx's server for a host.
fn nginx_host(ip: Ipv4Addr, routes: usize, host: usize, more: &str) -> String {
    let mut text = format!("server {{ listen {ip}:8080; server_name {};{more}", load::host(host));
    for prefix in load::prefixes_of(routes) {
        let _ = match prefix {
            load::PREFIXES => write!(text, " location / {{ proxy_pass http://up; }}"),
            _ => write!(text, " location /svc{prefix}/ {{ proxy_pass http://up; }}"),
        };
    }
    text + " }\n"
}

impl Running {
    /// Adds a route to the last host, and waits until it answers.
    async fn change(&self, path: &str) -> Result<Cost> {
        let last = load::hosts_of(self.routes) - 1;
        let nginx = self.started.proxy == Proxy::Nginx;
        let (file, text) = match nginx {
            false => load::with_answer(self.routes, path),
            true => {
                let answer = format!(" location = {path} {{ return 204; }}");
                (format!("h{last}.conf"), nginx_host(self.started.ip, self.routes, last, &answer))
            }
        };
        let before = self.started.cpu_times()?;
        let beside = self.home.join("new");
        std::fs::write(&beside, text)?;
        let begun = Instant::now();
        std::fs::rename(beside, self.home.join("config").join(file))?;
        if nginx {
            let master = self.started.process.0.id().to_string();
            let sent = Command::new("kill").args(["-HUP", &master]).status()?;
            anyhow::ensure!(sent.success(), "kill ended with {sent}");
        }
        until(self.started.at(Shape::Get), &load::host(last), path, 204).await?;
        let time = begun.elapsed();
        tokio::time::sleep(AFTERWARDS).await;
        // of a worker that another took the place of it is not known what it cost to end
        let spent = self
            .started
            .cpu_times()?
            .into_iter()
            .map(|(process, now)| now.saturating_sub(before.get(&process).copied().unwrap_or_default()));
        Ok(Cost { time, cpu: spent.sum() })
    }
}

/// Asks again and again, each time on a new connection, until the answer has this status.
async fn until(to: SocketAddr, host: &str, path: &str, status: u16) -> Result<()> {
    let patience = Instant::now() + PATIENCE;
    loop {
        let answer = exchange(&Request::to(to).host(host).path(path)).await;
        if answer.is_ok_and(|answer| answer.status == status) {
            return Ok(());
        }
        if Instant::now() > patience {
            bail!("{host}{path} is not answered with {status} in {PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn table(options: &Options, running: &[Running]) -> String {
    let mut text = format!(
        "\n{} workers; memory is RSS once started, after load, after {} changes of one route; times are until it \
         answers, and CPU\n\n\
         | proxy | routes | CPU a request | started | after load | after changes | start | change |\n\
         |---|---|---|---|---|---|---|---|\n",
        options.workers, options.changes
    );
    for proxy in running {
        let memory: Vec<String> = proxy.memory.iter().map(|n| kib(*n)).collect();
        let middle = |of: fn(&Cost) -> Duration| {
            median(proxy.changes.iter().map(|cost| of(cost).as_secs_f64() * 1e3).collect())
        };
        let _ = writeln!(
            text,
            "| {} | {} | {:.1} us | {} | {:.0} ms, {:.0} ms CPU | {:.0} ms, {:.0} ms CPU |",
            proxy.started.proxy.name(),
            proxy.routes,
            median(proxy.micros.clone()),
            memory.join(" | "),
            proxy.start.time.as_secs_f64() * 1e3,
            proxy.start.cpu.as_secs_f64() * 1e3,
            middle(|cost| cost.time),
            middle(|cost| cost.cpu)
        );
    }
    text
}
