//! Traces: the caller's is continued, in W3C Trace Context and in B3, and the spans of sampled requests go to a
//! collector in OTLP.
//!
//! A request that is not traced costs one look at the snapshot. It has a span, and each try to send it on another,
//! as at Istio's gateways. They are made when it ends, and wait in a queue with a bound for the one task that sends
//! them, on the control thread.

mod b3;
mod context;
mod export;
mod hex;
mod otlp;
mod span;
mod w3c;

pub(crate) use context::{Said, SpanContext, Traced, Try};
pub(crate) use export::{Exporter, Spans, Target};
