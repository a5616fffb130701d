//! From the folder to the data plane, again and again: load, admit, translate, apply, say what is new.

use crate::args::{Output, Serve};
use crate::echo::Echo;
use crate::explain::World;
use crate::last_good::LastGood;
use crate::notify::Notifier;
use crate::signals::{Said, Signals};
use crate::upgrade::{Abandon, Estate, Failure, Predecessor, Program, Served, Successor};
use crate::watchdog::Watchdog;
use crate::{policies, report};
use anyhow::{Context, bail};
use arc_swap::ArcSwapOption;
use std::collections::{BTreeSet, HashSet};
use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tidegate_api::Objects;
use tidegate_model::{Bind, Diagnostic, ListenerKey, ListenerProtocol, Model, TlsAction, TlsServer};
use tidegate_proxy::{NotReady, Proxy, Report};
use tidegate_source::{Folder, NamedFiles};
use tidegate_translate::{Admission, Env, files, translate};
use tokio::sync::{Notify, watch};

/// What `/explain` asks: the config that is live.
pub(crate) type Live = Arc<ArcSwapOption<World>>;

/// The way of a config into the data plane.
pub(crate) struct Feed {
    /// Where it comes from.
    config: Vec<PathBuf>,
    folder: Folder,
    /// Certificates that Gateways name by file.
    files: NamedFiles,
    admission: Admission,
    last_good: LastGood,
    env: Env,
    mesh_env: Env,
    echo: Option<Echo>,
    /// Whether listeners that name no address are on all of them.
    every_address: bool,
    proxy: Proxy,
    live: Live,
    said: HashSet<Diagnostic>,
    listening: BTreeSet<SocketAddr>,
    /// Sockets of the service manager that nothing is for.
    unused: BTreeSet<SocketAddr>,
    output: Output,
    /// Whether the config that is live may be served, and all listeners were open once.
    ready: bool,
    /// Turns true when they are.
    complete: watch::Receiver<bool>,
    /// What was told the service manager last.
    status: String,
    notifier: Notifier,
    /// While this process is the service.
    watchdog: Option<Watchdog>,
    /// Why the last upgrade failed, if it did.
    failed: Option<String>,
    /// The process that this one takes the place of, until it has.
    predecessor: Option<Predecessor>,
    /// That process has ended.
    alone: Arc<Notify>,
    /// Whether it has, or there was none: it keeps the last good objects until then.
    is_alone: bool,
    program: Program,
    upgrade_timeout: Duration,
    drain_delay: Duration,
}

impl Feed {
    /// A feed of what `serve` names into `proxy`, in place of `predecessor`. Nothing is read yet.
    ///
    /// # Errors
    /// When the thread for `--echo` cannot be made, or it is not known what program this is.
    pub(crate) fn new(
        serve: &Serve,
        proxy: Proxy,
        live: Live,
        last_good: LastGood,
        predecessor: Option<Predecessor>,
    ) -> anyhow::Result<Feed> {
        let setup = &serve.setup;
        let mut folder = Folder::open(setup.config.clone());
        folder.remember(last_good.objects());
        Ok(Feed {
            config: setup.config.clone(),
            folder,
            files: NamedFiles::default(),
            admission: Admission::of(last_good.objects()),
            last_good,
            env: setup.env.clone(),
            mesh_env: setup.mesh_env.clone(),
            echo: serve.echo.then(Echo::start).transpose().context("--echo")?,
            every_address: serve.bind.is_none_or(|ip| ip.is_unspecified()),
            complete: proxy.complete(),
            status: String::new(),
            proxy,
            live,
            said: HashSet::new(),
            listening: BTreeSet::new(),
            unused: BTreeSet::new(),
            output: setup.output,
            ready: false,
            notifier: Notifier::from_env(),
            watchdog: None,
            failed: None,
            is_alone: predecessor.is_none(),
            predecessor,
            alone: Arc::default(),
            program: Program::of_this_process().context("cannot find this program")?,
            upgrade_timeout: serve.upgrade_timeout,
            drain_delay: serve.limits.drain_delay,
        })
    }

    /// Makes the config live, and each change of it, until the process is told to stop, or another one has taken its
    /// place.
    ///
    /// # Errors
    /// When signals cannot be had, or this process cannot take the place of the one that started it.
    pub(crate) async fn run(mut self) -> anyhow::Result<Stopped> {
        let mut signals = Signals::new()?;
        let mut changed = true;
        if self.predecessor.is_none() {
            self.watchdog = Watchdog::start(self.proxy.pulse(), false).context("cannot start")?;
        }
        loop {
            if std::mem::replace(&mut changed, true) {
                self.guarded_round();
            }
            if let Some(predecessor) = self.predecessor.take() {
                self.take_over(predecessor)?;
                self.watchdog = Watchdog::start(self.proxy.pulse(), true).context("cannot start")?;
            }
            let said = tokio::select! {
                () = self.folder.changed() => continue,
                () = self.files.changed() => {
                    tracing::info!("a certificate file has changed");
                    continue;
                }
                () = self.alone.notified() => {
                    // addresses that it kept to itself are free now
                    self.is_alone = true;
                    continue;
                }
                Ok(()) = self.complete.changed() => {
                    tracing::info!("all listeners are open");
                    self.tell();
                    changed = false;
                    continue;
                }
                said = signals.next() => said,
            };
            match said {
                Said::Reload => tracing::info!("SIGHUP: reading the config again"),
                Said::Reopen => {
                    self.reopen_access_log();
                    changed = false;
                }
                Said::Stop(name) => return Ok(self.stop(signals, name)),
                Said::Upgrade => match self.upgrade(&mut signals).await {
                    Attempt::Served(served) => return Ok(self.passed_on(signals, served)),
                    Attempt::Stopped(name) => return Ok(self.stop(signals, name)),
                    Attempt::Failed => {}
                },
            }
        }
    }

    fn stop(self, signals: Signals, name: &str) -> Stopped {
        match self.drain_delay {
            Duration::ZERO => tracing::info!("{name}: draining"),
            delay => tracing::info!("{name}: not ready any more, draining in {delay:?}"),
        }
        self.notifier.stopping();
        Stopped { proxy: self.proxy, signals, _echo: self.echo, _watchdog: self.watchdog, _served: None }
    }

    /// Leaves what listens to the process that serves now.
    fn passed_on(mut self, signals: Signals, served: Served) -> Stopped {
        self.last_good.leave();
        self.notifier.passed_on(served.process);
        self.proxy.pass_on(&served.taken);
        tracing::info!("process {} serves in place of this one, which drains", served.process);
        // the watchdog ends: what this process says counts no more
        Stopped { proxy: self.proxy, signals, _echo: None, _watchdog: None, _served: Some(served) }
    }

    /// Serves in place of the process that started this one.
    fn take_over(&self, predecessor: Predecessor) -> anyhow::Result<()> {
        if !self.ready {
            let why = "with the config as it is, the new process is not ready";
            predecessor.refuse(why);
            bail!("{why}");
        }
        let own = [self.proxy.admin_address(), self.proxy.status_address()];
        let listening = self.proxy.addresses().into_iter().map(|(_, address)| address).chain(own);
        predecessor.ready(listening).context("the process before this one keeps serving")?;
        self.proxy.accept();
        if let Err(error) = predecessor.serves() {
            tracing::warn!("the process before this one was not told that it has ended: {error}");
        }
        tracing::info!("this process serves in place of the one before it");
        let alone = self.alone.clone();
        std::thread::Builder::new().name("tidegate-upgrade".into()).spawn(move || {
            predecessor.ended();
            tracing::info!("the process before this one has ended");
            alone.notify_one();
        })?;
        Ok(())
    }

    /// Starts the program anew and waits until it serves. Meanwhile everything goes on as it is, without changes of the
    /// config.
    async fn upgrade(&mut self, signals: &mut Signals) -> Attempt {
        if self.echo.is_some() {
            tracing::error!("SIGUSR2: no upgrade with --echo, whose workloads are in this process alone");
            return Attempt::Failed;
        }
        tracing::info!("SIGUSR2: starting {} in place of this process", self.program);
        self.notifier.reloading();
        let started = Successor::start(&self.program).and_then(|new| Ok((new, self.estate()?)));
        let failed = match started {
            Ok(((successor, abandon), estate)) => {
                let patience = self.upgrade_timeout;
                let serving = tokio::task::spawn_blocking(move || successor.serve(estate, patience));
                match self.wait(serving, &abandon, signals).await {
                    Ok(attempt) => return attempt,
                    Err(failure) => failure,
                }
            }
            Err(failure) => failure,
        };
        tracing::error!("no upgrade, this process keeps serving: {failed}");
        self.failed = Some(failed.to_string());
        // the round that follows says the rest
        self.tell();
        Attempt::Failed
    }

    fn estate(&self) -> io::Result<Estate> {
        // without `--echo` they are those that count
        let objects = self.live.load().as_ref().map(|world| world.objects().clone()).unwrap_or_default();
        Ok(Estate { sockets: self.proxy.sockets()?, objects })
    }

    async fn wait(
        &self,
        serving: tokio::task::JoinHandle<Result<Served, Failure>>,
        abandon: &Abandon,
        signals: &mut Signals,
    ) -> Result<Attempt, Failure> {
        let mut serving = std::pin::pin!(serving);
        let mut stopped = None;
        loop {
            let said = tokio::select! {
                served = &mut serving => {
                    let served = served.unwrap_or_else(|e| Err(Failure::Io(io::Error::other(e))));
                    return match (stopped, served) {
                        (Some(name), Err(_)) => Ok(Attempt::Stopped(name)),
                        (_, served) => served.map(Attempt::Served),
                    };
                }
                said = signals.next() => said,
            };
            match said {
                Said::Stop(name) => {
                    abandon.now();
                    stopped = Some(name);
                }
                Said::Upgrade => tracing::warn!("SIGUSR2: an upgrade is under way"),
                Said::Reopen => self.reopen_access_log(),
                // it is read again when there is no upgrade, and by the new process otherwise
                Said::Reload => {}
            }
        }
    }

    /// For who rotates logs: lines go to a new file of the same name from now on.
    fn reopen_access_log(&self) {
        match self.proxy.reopen_access_log() {
            Ok(()) => tracing::info!("SIGUSR1: the access log is opened again"),
            Err(error) => tracing::error!(%error, "SIGUSR1: the access log stays as it was"),
        }
    }

    /// One round; a defect of ours costs that round and not what is being served.
    fn guarded_round(&mut self) {
        if catch_unwind(AssertUnwindSafe(|| self.round())).is_err() {
            tracing::error!(
                "the config was not made live for a defect of the gateway; the last one keeps serving"
            );
        }
    }

    fn round(&mut self) {
        let begin = Instant::now();
        let loaded = self.folder.load();
        self.env.now = SystemTime::now();
        let admitted = self.admission.admit(loaded.objects, &self.env);
        let (restored, of_last_good) = self.last_good.in_use(&admitted.objects);
        self.env.files = self.files.load(files(&admitted.objects));
        let unknown = policies::unknown(&loaded.refused, &admitted, &loaded.diagnostics, &self.env);
        self.env.broken_policies = unknown.broken;
        self.env.broken_rules = unknown.rules;
        let objects = self.played(&admitted.objects);
        let mut translation = translate(&objects, &self.env);
        if let Some(world) = &*self.live.load() {
            translation.model.share(world.model());
        }
        let applied = self.proxy.apply(translation.model.clone());
        let mut diagnostics = loaded.diagnostics;
        diagnostics.extend(of_last_good);
        diagnostics.extend(admitted.diagnostics);
        diagnostics.extend(translation.diagnostics.iter().cloned());
        let nothing = report::nothing_served(&translation, &diagnostics, &self.env, &self.config);
        diagnostics.extend(nothing);
        diagnostics.extend(applied.diagnostics);
        report::sort(&mut diagnostics);
        self.say(&diagnostics);
        self.say_listening(&translation.model);
        let before = self.live.load().as_ref().map(|world| world.generation());
        let goes = if before == Some(applied.generation) { "stays as it is" } else { "is live" };
        let (number, time) = (applied.generation, begin.elapsed().as_millis());
        let (all, counts) = (report::objects_in(&admitted.objects), report::counts(&diagnostics));
        tracing::info!("config {number} {goes} after {time} ms: {all}, {counts}");
        for policy in &unknown.others {
            tracing::error!(
                "not ready: {policy} is refused for its errors and has no good version yet; correct them, or accept \
                 with --allow-unenforced that it is not enforced"
            );
        }
        self.status = format!("config {number}: {counts}");
        self.proxy.publish(Report {
            objects: report::objects(admitted.objects.clone()),
            restored,
            diagnostics,
            kept: self.last_good.is_kept(),
        });
        self.proxy.set_ready(unknown.others.is_empty());
        self.complete.mark_unchanged();
        if let Err(why @ NotReady::NotOpen(_)) = self.proxy.readiness() {
            tracing::error!("not ready: {why}; they are tried again every second");
        }
        self.tell();
        if self.is_alone {
            self.last_good.keep(&admitted.objects);
        }
        let world = World::new(number, translation, objects, self.mesh_env.clone());
        self.live.store(Some(Arc::new(world)));
        if let Some(echo) = &mut self.echo {
            echo.retire();
            tracing::info!("echo: {} workloads are played on 127.127.0.0/16", echo.workloads());
        }
    }

    /// Tells the service manager, who does not know of this process while another serves.
    fn tell(&mut self) {
        let readiness = self.proxy.readiness();
        self.ready = readiness.is_ok();
        let failed = self.failed.as_ref().map(|why| format!("; the last upgrade failed: {why}"));
        let status = format!("{}{}", self.status, failed.unwrap_or_default());
        match (&self.predecessor, readiness) {
            (Some(_), _) => {}
            (None, Ok(())) => self.notifier.ready(&status),
            (None, Err(why)) => self.notifier.status(&format!("not ready: {why}; {status}")),
        }
    }

    /// The objects, with workloads of our own in them where that was asked for.
    fn played(&mut self, objects: &Objects) -> Objects {
        let Some(echo) = &mut self.echo else { return objects.clone() };
        // what is on every address keeps its port free of anything else
        let every = |bind| match bind {
            Bind::Default => self.every_address,
            Bind::Ip(ip) => IpAddr::is_unspecified(&ip),
        };
        let listeners = translate(objects, &self.env).model.listeners.into_keys();
        let avoid: BTreeSet<u16> = listeners.filter(|key| every(key.bind)).map(|key| key.port).collect();
        echo.replace(objects, &avoid, &self.env.domain)
    }

    /// Logs what is listened on since the last round, and what is not any more.
    fn say_listening(&mut self, model: &Model) {
        let open = self.proxy.addresses();
        for (key, address) in open.iter().filter(|(_, address)| !self.listening.contains(address)) {
            tracing::info!("listening on {}://{address}", scheme(model, key));
        }
        let now: BTreeSet<_> = open.into_iter().map(|(_, address)| address).collect();
        for address in self.listening.difference(&now) {
            tracing::info!("no longer listening on {address}");
        }
        self.listening = now;
        let unused = self.proxy.unused().into_iter().collect();
        for address in self.unused.difference(&unused) {
            tracing::info!("{address} of the service manager is in use now");
        }
        for address in unused.difference(&self.unused) {
            tracing::warn!(
                "{address} of the service manager is kept, and no Gateway listens there: who connects waits; name it by \
                 servers.port and servers.bind (or --bind), or have the socket unit listen where Gateways do"
            );
        }
        self.unused = unused;
    }

    /// Prints what was not said in the last round.
    fn say(&mut self, diagnostics: &[Diagnostic]) {
        let mut stderr = BufWriter::new(io::stderr().lock());
        for diagnostic in diagnostics.iter().filter(|d| !self.said.contains(*d)) {
            // nowhere is left to complain when stderr is gone
            let _ = report::print(diagnostic, self.output, &mut stderr);
        }
        let _ = stderr.flush();
        self.said = diagnostics.iter().cloned().collect();
    }
}

/// `http`, `https` where that is terminated here, else `tls` or `tcp`.
fn scheme(model: &Model, key: &ListenerKey) -> &'static str {
    let is_https = |server: &TlsServer| matches!(server.action, TlsAction::Http(_));
    match model.listeners.get(key).map(|listener| &listener.protocol) {
        Some(ListenerProtocol::Tls(servers)) if servers.iter().any(is_https) => "https",
        Some(ListenerProtocol::Tls(_)) => "tls",
        Some(ListenerProtocol::Tcp(_)) => "tcp",
        Some(ListenerProtocol::Http(_)) | None => "http",
    }
}

/// What came of an upgrade.
enum Attempt {
    /// Another process serves.
    Served(Served),
    /// None does, for a reason that was said.
    Failed,
    /// None does, and this one is to stop.
    Stopped(&'static str),
}

/// A feed that ended, with what still runs.
pub(crate) struct Stopped {
    proxy: Proxy,
    signals: Signals,
    // answers what is in flight
    _echo: Option<Echo>,
    _watchdog: Option<Watchdog>,
    // tells the process that serves now, by its end, that this one has ended
    _served: Option<Served>,
}

impl Stopped {
    /// Drains the data plane. Another signal to stop has it cut what still goes on; the one after that ends the process.
    ///
    /// # Errors
    /// When something was cut because of another signal, or the thread for it fails.
    pub(crate) async fn drain(self) -> anyhow::Result<()> {
        let Stopped { proxy, mut signals, _echo, _watchdog, _served } = self;
        let hurry = proxy.hurry();
        let mut drained = tokio::task::spawn_blocking(move || proxy.drain());
        let mut hurried = None;
        let cut = loop {
            let said = tokio::select! {
                cut = &mut drained => break cut?,
                said = signals.next() => said,
            };
            match (said, hurried) {
                (Said::Stop(name), None) => {
                    tracing::warn!("{name} again: cutting what still goes on");
                    hurry.now();
                    hurried = Some(name);
                }
                (Said::Stop(_), Some(_)) => std::process::exit(1),
                (other, _) => tracing::warn!("draining: {other:?} has no effect any more"),
            }
        };
        match (cut, hurried) {
            (0, _) => tracing::info!("drained"),
            (_, None) => tracing::warn!("the drain time is over: {cut} connections were cut"),
            (_, Some(name)) => bail!("{cut} connections were cut, because {name} came again"),
        }
        Ok(())
    }
}
