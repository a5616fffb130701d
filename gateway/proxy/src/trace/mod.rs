//! Traces: the caller's is continued (W3C Trace Context), and the spans of sampled requests go to a
//! collector in OTLP.
//!
//! A request that is not traced costs one look at the snapshot. A span is made when its request ends,
//! and waits in a queue with a bound for the one task that sends them, on the control thread.

mod context;
mod export;
mod otlp;
mod span;

pub(crate) use context::SpanContext;
pub(crate) use export::{Exporter, Spans, Target};
