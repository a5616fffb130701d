use crate::limits::Limits;
use crate::snapshot::Snapshot;
use crate::telemetry::WorkerTelemetry;
use crate::upstream::Pool;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What one worker thread owns: nothing in it is shared on the hot path but what sits in `Arc`s.
pub(crate) struct Worker {
    /// Limits and deadlines.
    pub(crate) limits: Limits,
    /// Idle upstream connections of this worker.
    pub(crate) pool: Pool,
    /// Log buffer and counters of this worker.
    pub(crate) telemetry: WorkerTelemetry,
    /// Whether the process is draining: answers say `Connection: close`.
    pub(crate) draining: Arc<AtomicBool>,
    /// Whether a 404 says why in its body (`--explain-errors`).
    pub(crate) explain_errors: bool,
}

/// A snapshot held by a request. Cloning touches no atomic shared with other workers.
pub(crate) type Pin = Rc<Arc<Snapshot>>;

impl Worker {
    /// The snapshot that is live now, from a per-worker cache checked against one atomic.
    pub(crate) fn pin(&self) -> Pin {
        unimplemented!()
    }
}
