//! The running data plane: workers, listeners, admin and status servers, and how a config goes live.

use crate::limits::Limits;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tidegate_model::{AccessLog, Diagnostic, Model};

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
    /// Who this gateway is, for metrics.
    pub identity: Identity,
    /// Answers `/explain`, by the same code as the command.
    pub explain: Explainer,
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
    /// `NS/NAME` of a Gateway, or `mesh`; `None` is any listener that serves the URL's scheme and port.
    pub gateway: Option<String>,
}

/// Answers an [`ExplainQuery`] with the JSON of the interface, or with what is wrong with the query.
pub type Explainer = Arc<dyn Fn(&ExplainQuery) -> Result<Value, String> + Send + Sync>;

/// A config made live.
#[derive(Debug)]
pub struct Applied {
    /// Its number.
    pub generation: u64,
    /// What of it could not be made live: ports that are taken, rules that do not compile,
    /// certificates that do not load.
    pub diagnostics: Vec<Diagnostic>,
}

/// What the admin page shows of the config beside the table.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The objects, as JSON without secret material.
    pub objects: Vec<Value>,
    /// Everything that was said about them.
    pub diagnostics: Vec<Diagnostic>,
}

/// Why the data plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address of our own is taken.
    #[error("{what} cannot listen on {address}: {source}; choose another with {flag}")]
    Bind {
        /// Which server.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// Threads or files could not be made.
    #[error("cannot start: {0}")]
    Io(#[from] std::io::Error),
}

/// The running data plane.
pub struct Proxy {}

impl Proxy {
    /// Starts workers, admin and status servers; nothing is served before [`Proxy::apply`].
    ///
    /// # Errors
    /// When an address of ours is taken or threads cannot be made.
    pub fn start(_options: Options) -> Result<Proxy, StartError> {
        unimplemented!()
    }

    /// Makes a model live: compiles what changed off the hot path, opens new listeners, swaps the
    /// snapshot, then closes what is gone. Requests in flight end on the snapshot they began with.
    pub fn apply(&self, _model: Model) -> Applied {
        unimplemented!()
    }

    /// Shows objects and diagnostics on the admin page, as of the last applied model.
    pub fn publish(&self, _report: Report) {
        unimplemented!()
    }

    /// Whether `/healthz/ready` may answer 200 (it does so only once a config is live).
    pub fn set_ready(&self, _ready: bool) {
        unimplemented!()
    }

    /// Stops: readiness fails first, then listeners close, connections end after what is in
    /// flight, HTTP/2 gets GOAWAY. Returns when empty or when the drain time is over, and says
    /// how many connections it had to cut.
    pub fn drain(self) -> usize {
        unimplemented!()
    }
}
