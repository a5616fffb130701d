use crate::server::State;
use crate::telemetry::{At, PIECE, escaped};
use crate::tls::Reason;
use std::fmt::{Display, Write};
use std::sync::atomic::Ordering;
use tidegate_model::Severity;

/// Name, kind, help and value.
type Metric = (&'static str, &'static str, &'static str, u64);

/// A piece of everything that is counted, in Prometheus' text format: requests, then connections, memory and config.
/// Also where the next one begins, if there is one.
pub(super) fn piece(state: &State, at: At) -> (String, Option<At>) {
    let (mut out, mut next) = (String::with_capacity(PIECE), Some(at));
    while let Some(at) = next.filter(|_| out.len() < PIECE) {
        next = state.telemetry.write_metrics(at, &mut out);
        if next.is_none() {
            of_process(state, &mut out);
        }
    }
    (out, next)
}

fn of_process(state: &State, out: &mut String) {
    for (name, kind, help, value) in counts(state).into_iter().chain(memory(state).into_iter().flatten()) {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
    let workers = state.spread.by_worker().enumerate();
    family(
        out,
        ("tidegate_worker_connections", "gauge", "Open downstream connections by worker."),
        workers.map(|(worker, active)| (format!("worker=\"{worker}\""), active as u64)),
    );
    of_config(state, out);
    let failed = Reason::NAMES.iter().zip(state.spread.counts().failed_handshakes);
    family(
        out,
        (
            "tidegate_tls_handshake_failures_total",
            "counter",
            "Downstream connections on which TLS did not come about, by reason.",
        ),
        failed.map(|(reason, count)| (format!("reason=\"{reason}\""), count)),
    );
}

/// One metric with labels: name, kind and help, then labels and value of each.
fn family(
    out: &mut String,
    (name, kind, help): (&str, &str, &str),
    values: impl IntoIterator<Item = (String, impl Display)>,
) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in values {
        let _ = writeln!(out, "{name}{{{labels}}} {value}");
    }
}

/// What there is to say of the config, and what of it needs somebody soon.
fn of_config(state: &State, out: &mut String) {
    let shown = state.shown();
    let mut said = [(Severity::Error, 0), (Severity::Warning, 0), (Severity::Note, 0)];
    for diagnostic in shown.diagnostics() {
        said.iter_mut().filter(|(of, _)| *of == diagnostic.severity).for_each(|(_, n)| *n += 1);
    }
    family(
        out,
        ("tidegate_config_diagnostics", "gauge", "What is said of the live config, by severity."),
        said.map(|(severity, n): (_, u64)| (format!("severity=\"{severity}\""), n)),
    );
    family(
        out,
        (
            "tidegate_certificate_not_after_seconds",
            "gauge",
            "When the first certificate of a chain in use ends, in seconds since 1970, by its secret.",
        ),
        shown
            .not_after
            .iter()
            .map(|(secret, end)| (format!("secret=\"{}\"", escaped(&secret.to_string())), *end)),
    );
    let kept = shown.report.kept.as_ref().map(|kept| u64::from(kept.load(Ordering::Relaxed)));
    if let Some(kept) = kept {
        let (name, help) = (
            "tidegate_state_kept",
            "Whether the last good objects are on the disk, or cannot be written: 0.",
        );
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {kept}");
    }
}

fn counts(state: &State) -> [Metric; 8] {
    let c = state.spread.counts();
    let restored = state.shown().report.restored;
    [
        ("tidegate_connections_active", "gauge", "Open downstream connections.", c.active as u64),
        ("tidegate_connections_total", "counter", "Accepted downstream connections.", c.accepted),
        (
            "tidegate_connections_overflow_total",
            "counter",
            "Downstream connections closed at once because the limit was reached.",
            c.overflowed,
        ),
        (
            "tidegate_client_connections_overflow_total",
            "counter",
            "Downstream connections closed at once because their client had as many as it may have.",
            c.too_many_of_one,
        ),
        (
            "tidegate_connection_panics_total",
            "counter",
            "Downstream connections ended by a defect of the gateway.",
            c.panicked,
        ),
        (
            "tidegate_config_restored_objects",
            "gauge",
            "Objects of the live config that are from before the process began.",
            restored as u64,
        ),
        (
            "tidegate_listeners_failed",
            "gauge",
            "Listeners of the live config that are not open; they are tried again every second.",
            state.readiness.not_open() as u64,
        ),
        ("tidegate_config_generation", "gauge", "Number of the live config.", state.live.generation()),
    ]
}

/// Where it is limited.
fn memory(state: &State) -> Option<[Metric; 4]> {
    let l = state.overload.load()?;
    Some([
        (
            "tidegate_overload_level",
            "gauge",
            "What is done against too much memory: 0 nothing, 1 requests are shed, 2 connections are refused.",
            l.level.into(),
        ),
        ("tidegate_memory_bytes", "gauge", "Memory of the process.", l.used),
        ("tidegate_memory_limit_bytes", "gauge", "Memory that the process may have.", l.limit),
        (
            "tidegate_overload_connections_refused_total",
            "counter",
            "Downstream connections closed at once because of too much memory.",
            l.refused,
        ),
    ])
}
