//! From the folder to the data plane, again and again: load, admit, translate, apply, say what is new.

use crate::args::{Output, Serve};
use crate::echo::Echo;
use crate::explain::World;
use crate::{policies, report};
use anyhow::Context;
use arc_swap::ArcSwapOption;
use std::collections::{BTreeSet, HashSet};
use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tidegate_api::Objects;
use tidegate_model::{Bind, Diagnostic, ListenerKey, ListenerProtocol, Model, TlsAction, TlsServer};
use tidegate_proxy::{Proxy, Report};
use tidegate_source::{Folder, NamedFiles};
use tidegate_translate::{Admission, Env, files, translate};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What `/explain` asks: the config that is live.
pub(crate) type Live = Arc<ArcSwapOption<World>>;

/// The way of a config into the data plane.
pub(crate) struct Feed {
    folder: Folder,
    /// Certificates that Gateways name by file.
    files: NamedFiles,
    admission: Admission,
    env: Env,
    mesh_env: Env,
    echo: Option<Echo>,
    /// Whether listeners that name no address are on all of them.
    every_address: bool,
    proxy: Proxy,
    live: Live,
    said: HashSet<Diagnostic>,
    listening: BTreeSet<SocketAddr>,
    output: Output,
}

impl Feed {
    /// A feed of what `serve` names into `proxy`. Nothing is read yet.
    ///
    /// # Errors
    /// When the thread for `--echo` cannot be made.
    pub(crate) fn new(serve: &Serve, proxy: Proxy, live: Live) -> anyhow::Result<Feed> {
        let setup = &serve.setup;
        Ok(Feed {
            folder: Folder::open(setup.config.clone()),
            files: NamedFiles::default(),
            admission: Admission::new(),
            env: setup.env.clone(),
            mesh_env: setup.mesh_env.clone(),
            echo: serve.echo.then(Echo::start).transpose().context("--echo")?,
            every_address: serve.bind.is_none_or(|ip| ip.is_unspecified()),
            proxy,
            live,
            said: HashSet::new(),
            listening: BTreeSet::new(),
            output: setup.output,
        })
    }

    /// Makes the config live, and each change of it, until the process is told to stop.
    ///
    /// # Errors
    /// When signals cannot be had.
    pub(crate) async fn run(mut self) -> anyhow::Result<Stopped> {
        let mut stop = Stop::new()?;
        let mut reload = signal(SignalKind::hangup())?;
        let mut reopen = signal(SignalKind::user_defined1())?;
        let mut changed = true;
        loop {
            if std::mem::replace(&mut changed, true) {
                self.guarded_round();
            }
            tokio::select! {
                () = self.folder.changed() => {}
                () = self.files.changed() => tracing::info!("a certificate file has changed"),
                _ = reload.recv() => tracing::info!("SIGHUP: reading the config again"),
                _ = reopen.recv() => {
                    self.reopen_access_log();
                    changed = false;
                }
                name = stop.signal() => {
                    tracing::info!("{name}: draining");
                    return Ok(Stopped { proxy: self.proxy, stop, _echo: self.echo });
                }
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
        self.env.files = self.files.load(files(&admitted.objects));
        let unknown = policies::unknown(&loaded.refused, &admitted, &loaded.diagnostics, &self.env);
        self.env.broken_policies = unknown.broken;
        self.env.broken_rules = unknown.rules;
        let objects = self.played(&admitted.objects);
        let translation = translate(&objects, &self.env);
        let applied = self.proxy.apply(translation.model.clone());
        let mut diagnostics = loaded.diagnostics;
        diagnostics.extend(admitted.diagnostics);
        diagnostics.extend(translation.diagnostics.iter().cloned());
        diagnostics.extend(applied.diagnostics);
        report::sort(&mut diagnostics);
        self.say(&diagnostics);
        self.say_listening(&translation.model);
        tracing::info!(
            "config {} is live after {} ms: {} objects, {}",
            applied.generation,
            begin.elapsed().as_millis(),
            admitted.objects.len(),
            report::counts(&diagnostics)
        );
        for policy in &unknown.others {
            tracing::error!(
                "not ready: {policy} is refused for its errors and has no good version yet; correct them, or accept \
                 with --allow-unenforced that it is not enforced"
            );
        }
        self.proxy.publish(Report { objects: report::objects(&admitted.objects), diagnostics });
        self.proxy.set_ready(unknown.others.is_empty());
        let world = World::new(applied.generation, translation, objects, self.mesh_env.clone());
        self.live.store(Some(Arc::new(world)));
        if let Some(echo) = &mut self.echo {
            echo.retire();
            tracing::info!("echo: {} workloads are played on 127.127.0.0/16", echo.workloads());
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

/// A feed that ended, with what still runs.
pub(crate) struct Stopped {
    proxy: Proxy,
    stop: Stop,
    // answers what is in flight
    _echo: Option<Echo>,
}

impl Stopped {
    /// Drains the data plane; another signal ends the process at once.
    ///
    /// # Errors
    /// When the thread for it fails.
    pub(crate) async fn drain(self) -> anyhow::Result<()> {
        let Stopped { proxy, mut stop, _echo } = self;
        let drained = tokio::task::spawn_blocking(move || proxy.drain());
        tokio::select! {
            cut = drained => match cut? {
                0 => tracing::info!("drained"),
                cut => tracing::warn!("the drain time is over: {cut} connections were cut"),
            },
            name = stop.signal() => {
                tracing::warn!("{name} again: ending at once");
                std::process::exit(1);
            }
        }
        Ok(())
    }
}

/// The signals that end the process.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> io::Result<Stop> {
        Ok(Stop { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn signal(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
