//! What the admin page and the metrics show of the live config.

use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;
use tidegate_model::{Diagnostic, ListenerKey, Model, SecretKey};

/// Makes the objects of a config as JSON without secret material, when they are asked for: there may be many.
pub type ShowObjects = Arc<dyn Fn() -> Vec<Value> + Send + Sync>;

/// What is shown of the config beside the table.
#[derive(Clone)]
pub struct Report {
    /// The objects.
    pub objects: ShowObjects,
    /// How many of the objects are from before the process began: their source is missing or broken.
    pub restored: usize,
    /// Everything that was said about them.
    pub diagnostics: Vec<Diagnostic>,
    /// Whether they are kept for the next process, as far as they could be written; `None` where they are not to be.
    pub kept: Option<Arc<AtomicBool>>,
}

impl Default for Report {
    fn default() -> Self {
        Report { objects: Arc::new(Vec::new), restored: 0, diagnostics: Vec::new(), kept: None }
    }
}

/// The live config, as it is shown.
#[derive(Default)]
pub(crate) struct Shown {
    pub(crate) model: Arc<Model>,
    pub(crate) since: Option<SystemTime>,
    /// What was said when it was made live.
    pub(crate) applied: Vec<Diagnostic>,
    /// What of that holds no more.
    pub(crate) settled: Vec<Diagnostic>,
    pub(crate) report: Report,
    pub(crate) addresses: Vec<(ListenerKey, SocketAddr)>,
    /// When certificates end that are in use, in seconds since 1970.
    pub(crate) not_after: Arc<[(SecretKey, i64)]>,
}

impl Shown {
    /// Everything said about the config: by its translation, and when it was made live.
    pub(crate) fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        let reported = &self.report.diagnostics;
        let new = self.applied.iter().filter(|d| !reported.contains(d));
        reported.iter().chain(new).filter(|d| !self.settled.contains(d))
    }
}
