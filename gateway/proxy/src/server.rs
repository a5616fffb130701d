//! The running data plane: workers, listeners, admin and status servers, and how a config goes live.

mod drain;
mod handover;
mod ports;
mod pulse;
mod readiness;
mod shown;

use drain::DrainTimes;
pub use drain::Hurry;
pub(crate) use handover::Phase;
pub use pulse::Pulse;
pub use readiness::NotReady;
use readiness::Readiness;
pub(crate) use shown::Shown;
pub use shown::{Report, ShowObjects};

use crate::admin;
use crate::auth::{Authenticator, HttpFetch, InvalidRoots, KeyFetching, KeyStore, TokenCache};
use crate::forward::mirror::Mirrors;
use crate::forward::pace::Rates;
use crate::h2::Tasks;
use crate::limits::Limits;
use crate::listener::{Acceptor, HandedOn, Inherited, Listeners, Listening, Spread};
use crate::lock::lock;
use crate::overload::Overload;
use crate::resting::Resting;
use crate::snapshot::{Live, Snapshot};
use crate::telemetry::Telemetry;
use crate::tls::{self, Credentials, ServerConfigs};
use crate::trace::Target;
use crate::upstream::{Connector, EndpointStanding, Pool, Registry, SystemResolver};
use crate::worker::{self, Command, Cut, SnapshotCache, Worker};
use ipnet::IpNet;
use serde_json::Value;
use socket2::Socket;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};
use tidegate_engine::{Claims, Table};
use tidegate_model::{
    AccessLog, AccessLogFormat, ClusterName, Diagnostic, ListenerKey, Model, Origin, RuleRef, Severity,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;

/// How to run.
pub struct Options {
    /// The address of listeners that name none; `None` is dual stack.
    pub bind: Option<IpAddr>,
    /// Worker threads.
    pub concurrency: usize,
    /// Limits and deadlines.
    pub limits: Limits,
    /// The admin page's address.
    pub admin: SocketAddr,
    /// The address of `/healthz/ready` and `/stats/prometheus`.
    pub status: SocketAddr,
    /// The access log from the command line; `None` follows MeshConfig, else text on stdout.
    pub access_log: Option<AccessLog>,
    /// A 404 says why in its body.
    pub explain_errors: bool,
    /// Peers whose connections begin with a PROXY header, where the mesh config asks for it.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Who this gateway is, for metrics.
    pub identity: Identity,
    /// How the keys that tokens are verified with may be fetched.
    pub keys: KeyFetching,
    /// How names are resolved.
    pub dns: Dns,
    /// Answers `/explain`, by the same code as the command.
    pub explain: Explainer,
    /// What listens already. With a process that this one takes the place of, nothing is accepted before
    /// [`Proxy::accept`].
    pub inherited: Inherited,
}

/// How names are resolved.
#[derive(Clone, Debug, Default)]
pub struct Dns {
    /// Name servers in place of the system's, unless there are none.
    pub servers: Vec<SocketAddr>,
    /// Networks that the names of endpoints may lead to although they are local: loopback, link-local, or a cloud's
    /// metadata.
    pub allowed: Vec<IpNet>,
}

/// Who this gateway is in Istio's metrics labels.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `source_workload`.
    pub workload: String,
    /// `source_workload_namespace`.
    pub namespace: String,
}

/// What is asked of `/explain` and of the `explain` command.
#[derive(Clone, Debug, Default)]
pub struct ExplainQuery {
    /// The method.
    pub method: String,
    /// An absolute URL.
    pub url: String,
    /// Header lines.
    pub headers: Vec<(String, String)>,
    /// The claims of a token that it would bring, as if it had been verified.
    pub claims: Option<Claims>,
    /// The address that it would come from; policies that ask for one do not match without it.
    pub client: Option<IpAddr>,
    /// `NS/NAME` of a Gateway, or `mesh`; `None` is any listener that serves the URL's scheme and port.
    pub gateway: Option<String>,
}

/// Connections on their way to another worker; beyond it the one that accepted keeps them.
const HANDED_ON: usize = 256;
/// How long the last spans may take to their collector.
const LAST_SPANS: Duration = Duration::from_secs(2);
/// How long a config waits for the token keys that were never fetched before.
const FIRST_KEYS: Duration = Duration::from_secs(5);
/// How long a config waits for the first answers to names that were never resolved before: as long as that what is live
/// goes on.
const FIRST_ADDRESSES: Duration = Duration::from_secs(5);
/// What is known of the endpoints of a cluster; `None` where there is no such cluster.
pub type Standings<'a> = &'a dyn Fn(&ClusterName) -> Option<Vec<EndpointStanding>>;

/// Answers an [`ExplainQuery`] with the JSON of the interface, or with what is wrong with the query.
pub type Explainer = Arc<dyn Fn(&ExplainQuery, Standings<'_>) -> Result<Value, String> + Send + Sync>;

/// A config made live.
#[derive(Debug)]
pub struct Applied {
    /// Its number.
    pub generation: u64,
    /// What of it could not be made live: ports that are taken, rules that do not compile,
    /// certificates that do not load.
    pub diagnostics: Vec<Diagnostic>,
}

/// Why the data plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address of our own is taken.
    #[error("{what} cannot listen on {address}: {error}; choose another with {flag}")]
    Bind {
        /// Which server.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// What the system said; not a source, since it is said.
        error: std::io::Error,
    },
    /// The authorities for fetching keys cannot be used.
    #[error("--jwks-ca: {0}")]
    Roots(#[from] InvalidRoots),
    /// Threads or files could not be made.
    #[error("cannot start: {0}")]
    Io(#[from] std::io::Error),
}

/// The running data plane.
pub struct Proxy {
    state: Arc<State>,
    control: Arc<Mutex<Control>>,
    workers: Vec<WorkerThread>,
    /// Ends the control thread when it is dropped.
    stop: oneshot::Sender<()>,
    control_thread: JoinHandle<()>,
    admin: OwnServer,
    status: OwnServer,
    drain: DrainTimes,
}

/// Where the admin or the status server listens, and its socket once more.
struct OwnServer {
    address: SocketAddr,
    socket: Socket,
}

/// What the admin and status servers show.
pub(crate) struct State {
    pub(crate) live: Arc<Live>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) spread: Arc<Spread>,
    pub(crate) overload: Arc<Overload>,
    pub(crate) explain: Explainer,
    pub(crate) shown: Mutex<Shown>,
    /// Taken by the one who renders the metrics.
    pub(crate) scrape: Arc<tokio::sync::Mutex<()>>,
    pub(crate) phase: watch::Sender<Phase>,
    /// Open connections to the admin and status servers.
    pub(crate) asked_by: AtomicUsize,
    pub(crate) readiness: Readiness,
    draining: Arc<AtomicBool>,
    /// Whether what still goes on is to be cut.
    hurried: AtomicBool,
}

/// What only one config at a time may touch.
struct Control {
    model: Arc<Model>,
    registry: Registry,
    /// What TLS needs of the model, on both sides.
    credentials: Credentials,
    keys: KeyStore,
    listeners: Listeners,
    /// Listeners that wait until anything is accepted.
    held: Vec<Arc<Listening>>,
    /// Listeners that could not be opened, with what was said of them.
    not_opened: Vec<(ListenerKey, Diagnostic)>,
    access_log: Option<AccessLog>,
}

struct WorkerThread {
    /// Few and small, so without a bound.
    commands: mpsc::UnboundedSender<Command>,
    thread: JoinHandle<()>,
}

impl State {
    /// Whether another process accepts in place of this one.
    pub(crate) fn is_passed_on(&self) -> bool {
        *self.phase.borrow() == Phase::PassedOn
    }

    /// What is shown, whoever panicked while holding it.
    pub(crate) fn shown(&self) -> MutexGuard<'_, Shown> {
        lock(&self.shown)
    }
}

impl Proxy {
    /// Starts workers, admin and status servers; nothing is served before [`Proxy::apply`].
    ///
    /// # Errors
    /// When an address of ours is taken or threads cannot be made.
    pub fn start(mut options: Options) -> Result<Proxy, StartError> {
        tls::install_provider();
        let mut inherited = std::mem::take(&mut options.inherited);
        let phase = if inherited.has_predecessor() { Phase::Held } else { Phase::Accepting };
        let admin = own_server(&mut inherited, "the admin page", options.admin, "--admin")?;
        let status = own_server(&mut inherited, "the status server", options.status, "--status")?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let resolver = || SystemResolver::asking(&options.dns.servers);
        let fetch = HttpFetch::new(&options.keys)?.with_resolver(resolver());
        let keys = KeyStore::over_network(runtime.handle().clone(), fetch);
        let mut registry = Registry::new(runtime.handle().clone(), resolver(), &options.dns.allowed);
        let credentials = Credentials::default();
        let clusters = registry.update(&Model::default(), &credentials);
        let live = Arc::new(Live::new(Snapshot {
            generation: 0,
            table: Table::default(),
            clusters,
            tls: ServerConfigs::default(),
            mesh: Arc::default(),
            authentication: None,
        }));
        let state = Arc::new(State {
            live,
            telemetry: Telemetry::new(&options.identity),
            spread: Spread::new(options.concurrency.max(1), &options.limits),
            overload: Arc::new(Overload::new(options.limits.memory)),
            explain: options.explain.clone(),
            shown: Mutex::default(),
            scrape: Arc::default(),
            phase: watch::Sender::new(phase),
            asked_by: AtomicUsize::new(0),
            readiness: Readiness::new(phase == Phase::Held),
            draining: Arc::default(),
            hurried: AtomicBool::new(false),
        });
        let workers = start_workers(&options, &state)?;
        let control = Arc::new(Mutex::new(Control {
            model: Arc::default(),
            registry,
            credentials,
            keys,
            listeners: Listeners::new(options.bind, inherited),
            held: Vec::new(),
            not_opened: Vec::new(),
            access_log: options.access_log,
        }));
        let (stop, stopped) = oneshot::channel();
        let commands: Vec<_> = workers.iter().map(|worker| worker.commands.clone()).collect();
        runtime.spawn(ports::reopen(Arc::downgrade(&control), state.clone(), commands.clone()));
        let shared = state.clone();
        let (admin_socket, status_socket) = (admin.socket.try_clone()?, status.socket.try_clone()?);
        let control_thread = thread::Builder::new().name("tidegate-control".into()).spawn(move || {
            serve_control(runtime, shared, commands, admin_socket, status_socket, stopped);
        })?;
        let drain = DrainTimes { delay: options.limits.drain_delay, most: options.limits.drain };
        Ok(Proxy { state, control, workers, stop, control_thread, admin, status, drain })
    }

    /// Makes a model live: compiles what changed off the hot path, opens new listeners, ends those
    /// that are gone, and swaps the snapshot; then the new listeners accept. Listeners go before
    /// the swap, and are waited for shortly, so that their last connections still find their
    /// routes; requests in flight end on the snapshot they began with. A model that equals the
    /// live one keeps its generation. Listeners that cannot be opened are tried again every second.
    pub fn apply(&self, model: Model) -> Applied {
        let mut control = lock(&self.control);
        let model = Arc::new(model);
        let old = self.state.live.load();
        let changes = model.diff(&control.model);
        let compiled = old.table.apply(&model, &changes);
        control.credentials = Credentials::load(&model, &control.credentials);
        let (tls, certificates) = ServerConfigs::build(&model, &control.credentials, &old.tls);
        let mut diagnostics = refused(&model, compiled.refused);
        diagnostics.extend(certificates);
        let (authentication, unusable) =
            Authenticator::build(&model.authentication, old.authentication.as_deref(), &mut control.keys);
        diagnostics.extend(unusable);
        let prepared = control.registry.prepare(&model, FIRST_ADDRESSES);
        control.keys.wait(FIRST_KEYS);

        diagnostics.extend(control.change_listeners(&model, &old));
        self.state.readiness.set_not_open(control.not_opened.len());
        let log = control.access_log(&model);
        let logged = self.state.telemetry.set_access_log(&log);
        diagnostics.extend(logged.err().map(|e| not_logged(&log, &e)));

        let is_new = old.generation == 0 || !changes.is_empty();
        let generation = old.generation + u64::from(is_new);
        if is_new {
            let Control { registry, credentials, .. } = &mut *control;
            let clusters = registry.update(&model, credentials);
            let mesh = model.mesh.clone();
            let target = mesh.tracing.clone().and_then(|tracing| {
                Some(Target { cluster: clusters.get(&tracing.collector)?.clone(), tracing })
            });
            self.state.telemetry.spans().set_target(target);
            let table = compiled.table;
            let authentication = authentication.map(Arc::new);
            self.state.live.swap(Snapshot { generation, table, clusters, tls, mesh, authentication });
        }
        drop(prepared);
        self.state.settle();
        let live = self.state.live.load();
        diagnostics.extend(live.clusters.unusable());
        if is_new {
            old.tls.drain_changed(&live.tls);
        }
        if *self.state.phase.borrow() != Phase::Held {
            self.listen(&mut control);
        }
        self.workers.iter().for_each(|worker| _ = worker.commands.send(Command::Refresh));
        control.model = model.clone();
        let mut shown = self.state.shown();
        if is_new {
            shown.since = Some(SystemTime::now());
        }
        shown.model = model;
        shown.applied = diagnostics.clone();
        shown.settled.clear();
        shown.addresses = control.listeners.addresses();
        shown.not_after = control.credentials.not_after();
        Applied { generation, diagnostics }
    }

    /// Shows objects and diagnostics on the admin page, as of the last applied model.
    pub fn publish(&self, report: Report) {
        self.state.shown().report = report;
    }

    /// Opens the access log's file by its name again, for who renamed it.
    ///
    /// # Errors
    /// When it cannot be opened: lines go on to the old one.
    pub fn reopen_access_log(&self) -> std::io::Result<()> {
        self.state.telemetry.reopen_access_log()
    }

    /// Where the admin page is served.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address
    }

    /// Where readiness and metrics are served.
    pub fn status_address(&self) -> SocketAddr {
        self.status.address
    }

    /// The listeners that are open, with the addresses they are bound to.
    pub fn addresses(&self) -> Vec<(ListenerKey, SocketAddr)> {
        lock(&self.control).listeners.addresses()
    }
}

impl Control {
    fn access_log(&self, model: &Model) -> AccessLog {
        let text =
            || AccessLog { file: "/dev/stdout".into(), format: AccessLogFormat::DefaultText, filter: None };
        self.access_log.clone().or_else(|| model.mesh.access_log.clone()).unwrap_or_else(text)
    }
}

fn start_workers(options: &Options, state: &Arc<State>) -> Result<Vec<WorkerThread>, StartError> {
    let count = options.concurrency.max(1);
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..count).map(|_| mpsc::channel::<HandedOn>(HANDED_ON)).unzip();
    let connector = Connector::new();
    let start = |(index, handed_on)| {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (commands, received) = mpsc::unbounded_channel();
        let (state, senders, connector) = (state.clone(), senders.clone(), connector.clone());
        let (limits, explain_errors) = (options.limits.clone(), options.explain_errors);
        let proxy_protocol_from = options.proxy_protocol_from.clone();
        let thread = thread::Builder::new().name(format!("tidegate-{index}")).spawn(move || {
            let worker = Rc::new(Worker {
                rates: Rates::of(&limits),
                limits,
                pool: Pool::new(connector),
                streams: Tasks::default(),
                telemetry: state.telemetry.worker(),
                draining: state.draining.clone(),
                cut: Cut::default(),
                explain_errors,
                proxy_protocol_from,
                mirrors: Mirrors::default(),
                checks: Default::default(),
                tokens: TokenCache::default(),
                overload: state.overload.clone(),
                resting: Resting::default(),
                cache: SnapshotCache::new(state.live.clone()),
            });
            let acceptor = Acceptor {
                index,
                spread: state.spread.clone(),
                workers: senders,
                worker,
                warned: Cell::default(),
                made_room: Cell::default(),
            };
            LocalSet::new().block_on(&runtime, worker::run(acceptor, received, handed_on));
        })?;
        Ok(WorkerThread { commands, thread })
    };
    receivers.into_iter().enumerate().map(start).collect()
}

/// The control thread: admin and status servers, the watch over the process's memory, and whatever the registry resolves.
fn serve_control(
    runtime: Runtime,
    state: Arc<State>,
    workers: Vec<mpsc::UnboundedSender<Command>>,
    admin: Socket,
    status: Socket,
    stopped: oneshot::Receiver<()>,
) {
    runtime.block_on(async {
        tokio::spawn(admin::serve(admin, admin::Server::Admin, state.clone()));
        tokio::spawn(admin::serve(status, admin::Server::Status, state.clone()));
        let overload = state.overload.clone();
        tokio::spawn(async move {
            // a worker that takes no commands has ended
            overload.watch(|| workers.iter().for_each(|w| _ = w.send(Command::Relieve))).await;
        });
        let spans = state.telemetry.spans().clone();
        let exporter = tokio::spawn({
            let spans = spans.clone();
            async move { spans.run().await }
        });
        // An error is the sender's end, which is the signal.
        let _ = stopped.await;
        spans.stop();
        let _ = tokio::time::timeout(LAST_SPANS, exporter).await;
    });
    // A question that is still being answered must not hold up the end.
    runtime.shutdown_background();
}

fn own_server(
    inherited: &mut Inherited,
    what: &'static str,
    wanted: SocketAddr,
    flag: &'static str,
) -> Result<OwnServer, StartError> {
    let opened = inherited.open(wanted);
    let (socket, _) = opened.map_err(|error| StartError::Bind { what, address: wanted, flag, error })?;
    let address = socket.local_addr()?.as_socket().unwrap_or(wanted);
    Ok(OwnServer { address, socket })
}

fn not_logged(log: &AccessLog, e: &std::io::Error) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        origin: Origin::default(),
        object: None,
        field: "accessLogFile".into(),
        text: format!("cannot log to {}: {e}; the access log stays as it was", log.file),
        advice: "make the file writable, or log to /dev/stdout".into(),
        code: "log-failed",
    }
}

/// What to say of the rules that the engine refused to compile: each once, with the place where it was written.
pub fn refused(model: &Model, rules: Vec<(RuleRef, String)>) -> Vec<Diagnostic> {
    if rules.is_empty() {
        return Vec::new();
    }
    let routes = model.virtual_hosts.values().flat_map(|host| &host.routes);
    let origins: HashMap<_, _> = routes.map(|route| (&route.rule, &route.origin)).collect();
    // A rule of several hosts was refused for each of them.
    let mut seen = HashSet::new();
    let new = rules.into_iter().filter(|rule| seen.insert(rule.clone()));
    let diagnostic = |(rule, text): (RuleRef, String)| Diagnostic {
        severity: Severity::Error,
        origin: origins.get(&rule).map_or_else(Origin::default, |o| (*o).clone()),
        field: match rule.match_index {
            Some(block) => format!("spec.http[{}].match[{block}]", rule.index),
            None => format!("spec.http[{}]", rule.index),
        },
        object: Some(rule.object),
        text,
        advice: "requests that reach this rule are answered with 500 until it is corrected".into(),
        code: "rule-refused",
    };
    new.map(diagnostic).collect()
}
