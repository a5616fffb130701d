//! Access log, metrics and the record of one request that both are made from.
//!
//! A request that ends is counted in its worker's own counters, and its line is written into the
//! worker's own buffer: no lock that anyone waits for, no allocation once both have been used.
//! One thread carries the lines to the output; a scrape adds the workers up.

mod access_log;
mod connections;
mod counts;
mod escape;
mod exposition;
mod filter;
mod flags;
mod format;
mod histogram;
mod metrics;
mod rare;
mod record;
mod refusals;
mod source;
mod time;
mod workload;
mod writer;

pub(crate) use connections::TcpSeries;
pub(crate) use counts::{AuthorizationCount, MirrorCount, RetryCount};
pub(crate) use exposition::{At, PIECE, escaped};
pub(crate) use flags::{Flag, Flags};
pub(crate) use format::{render_constant, render_header, render_tag};
pub(crate) use record::{Headers, NoHeaders, Record};
pub(crate) use refusals::Refused;
pub(crate) use workload::Workload;

use crate::server::Identity;
use crate::trace::{Exporter, Spans};
use access_log::LineFormat;
use arc_swap::ArcSwapOption;
use arc_swap::cache::Cache;
use connections::{Connections, WorkerConnections};
use filter::Filter;
use metrics::{Metrics, WorkerMetrics};
use prometheus::TextEncoder;
use prometheus::proto::MetricType;
use refusals::Refusals;
use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tidegate_model::{AccessLog, Cluster};
use writer::{LineBuffer, LogWriter};

/// How requests are logged, `None` while they are not; workers look at it by one atomic load.
type SharedFormat = Arc<ArcSwapOption<Lines>>;

/// The lines of the access log.
struct Lines {
    format: LineFormat,
    /// Which requests have one; `None` is all.
    filter: Option<Filter>,
}

/// The telemetry of the process.
pub(crate) struct Telemetry {
    metrics: Arc<Metrics>,
    connections: Arc<Connections>,
    writer: LogWriter,
    spans: Arc<Exporter>,
    format: SharedFormat,
    access_log: Mutex<Option<AccessLog>>,
    calmed: Arc<AtomicU64>,
    refusals: Arc<Refusals>,
}

impl Telemetry {
    /// For a gateway of this identity. Logs nothing before [`Telemetry::set_access_log`].
    pub(crate) fn new(identity: &Identity) -> Arc<Self> {
        Arc::new(Telemetry {
            metrics: Metrics::new(identity),
            connections: Connections::new(identity),
            writer: LogWriter::new(),
            spans: Exporter::new(identity),
            format: Arc::default(),
            access_log: Mutex::default(),
            calmed: Arc::default(),
            refusals: Arc::default(),
        })
    }

    /// A worker's part.
    pub(crate) fn worker(&self) -> WorkerTelemetry {
        WorkerTelemetry {
            metrics: self.metrics.worker(),
            connections: self.connections.worker(),
            format: RefCell::new(Cache::new(self.format.clone())),
            line: RefCell::default(),
            lines: self.writer.buffer(),
            spans: self.spans.worker(),
            calmed: self.calmed.clone(),
            refusals: self.refusals.clone(),
        }
    }

    /// Logs like this from now on; an empty file is off.
    ///
    /// # Errors
    /// When the file cannot be opened or the writer not be started: all stays as it was.
    pub(crate) fn set_access_log(&self, log: &AccessLog) -> io::Result<()> {
        let mut current = self.access_log.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref() == Some(log) {
            return Ok(());
        }
        if log.file.is_empty() {
            self.format.store(None);
        } else {
            if current.as_ref().is_none_or(|old| old.file != log.file) {
                self.writer.set_output(&log.file)?;
            }
            self.format.store(Some(Arc::new(Lines {
                format: LineFormat::compile(&log.format),
                filter: log.filter.as_ref().map(Filter::compile),
            })));
        }
        *current = Some(log.clone());
        Ok(())
    }

    /// Opens the access log's file by its name again. What was logged before goes to the old one.
    ///
    /// # Errors
    /// When the file cannot be opened: all stays as it was.
    pub(crate) fn reopen_access_log(&self) -> io::Result<()> {
        let current = self.access_log.lock().unwrap_or_else(PoisonError::into_inner);
        match current.as_ref().filter(|log| !log.file.is_empty()) {
            Some(log) => self.writer.set_output(&log.file),
            None => Ok(()),
        }
    }

    /// The way of spans to their collector.
    pub(crate) fn spans(&self) -> &Arc<Exporter> {
        &self.spans
    }

    /// Writes a part of everything in Prometheus' text format, from somewhere on. Returns where it goes on.
    pub(crate) fn write_metrics(&self, at: At, out: &mut String) -> Option<At> {
        let next = match at.family.checked_sub(Metrics::FAMILIES) {
            None => self.metrics.write(at.family, at.series, out),
            Some(family) if family < Connections::FAMILIES => self.connections.write(family, at.series, out),
            Some(_) => {
                self.write_others(out);
                return None;
            }
        };
        Some(at.next(next))
    }

    /// Writes the metrics that do not grow with what is served.
    fn write_others(&self, out: &mut String) {
        let mut families = self.metrics.families();
        let dropped = metrics::counter(Vec::new(), self.writer.dropped());
        families.push(metrics::family(
            MetricType::COUNTER,
            "tidegate_access_log_dropped_total",
            "Lines of the access log that were dropped because its output was too slow or failed.",
            vec![dropped],
        ));
        families.push(metrics::family(
            MetricType::COUNTER,
            "tidegate_http2_abuse_total",
            "HTTP/2 connections of clients closed with ENHANCE_YOUR_CALM: too many streams reset at once, or frames that ask for nothing.",
            vec![metrics::counter(Vec::new(), self.calmed.load(Ordering::Relaxed))],
        ));
        families.push(self.refusals.family());
        let spans = self.spans.counts();
        families.push(metrics::family(
            MetricType::COUNTER,
            "tidegate_trace_spans_total",
            "Spans of sampled requests, by what became of them.",
            spans.map(|(result, n)| metrics::counter(vec![metrics::label("result", result)], n)).into(),
        ));
        let version = metrics::label("version", env!("CARGO_PKG_VERSION"));
        families.push(metrics::family(
            MetricType::GAUGE,
            "tidegate_build_info",
            "The build that runs.",
            vec![metrics::gauge(vec![version], 1.0)],
        ));
        families.retain(|f| !f.get_metric().is_empty());
        if let Err(error) = TextEncoder::new().encode_utf8(&families, out) {
            tracing::error!(%error, "metrics cannot be encoded");
        }
    }

    #[cfg(test)]
    fn prometheus(&self) -> String {
        let (mut out, mut next) = (String::new(), Some(At::default()));
        while let Some(at) = next {
            next = self.write_metrics(at, &mut out);
        }
        out
    }

    /// Returns when every line that was logged before is written, or after two seconds.
    pub(crate) fn flush(&self) {
        self.writer.flush();
    }
}

/// A worker's part of the telemetry: its log buffer and its counters.
pub(crate) struct WorkerTelemetry {
    metrics: WorkerMetrics,
    connections: WorkerConnections,
    format: RefCell<Cache<SharedFormat, Option<Arc<Lines>>>>,
    /// The line that is being written; kept for its capacity.
    line: RefCell<Vec<u8>>,
    lines: LineBuffer,
    spans: Spans,
    /// Shared by the workers, for what is rare.
    calmed: Arc<AtomicU64>,
    refusals: Arc<Refusals>,
}

impl WorkerTelemetry {
    /// Counts a retry, or one that was wanted and may not be.
    pub(crate) fn count_retry(&self, what: RetryCount) {
        self.metrics.counts().count_retry(what);
    }

    /// Counts what policies said.
    pub(crate) fn count_authorization(&self, what: AuthorizationCount) {
        self.metrics.counts().count_authorization(what);
    }

    /// Counts a copy for a mirror.
    pub(crate) fn count_mirror(&self, what: MirrorCount) {
        self.metrics.counts().count_mirror(what);
    }

    #[cfg(test)]
    pub(crate) fn mirror_count(&self, what: MirrorCount) -> u64 {
        self.metrics.counts().of_mirrors(what)
    }

    /// Counts a connection of HTTP/2 that is closed for what its client does.
    pub(crate) fn calmed(&self) {
        self.calmed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what was refused with an error code of HTTP/2 before it was a request.
    pub(crate) fn refused(&self, what: Refused, code: u32) {
        self.refusals.count(what, code);
    }

    /// Counts and logs a request that has ended.
    pub(crate) fn finish(&self, record: &Record<'_>) {
        self.metrics.count(record);
        self.log(record);
        if let Some(traced) = record.traced {
            self.spans.finish(traced, record);
        }
    }

    /// Logs a connection that has ended, or was refused, and that carried no requests.
    pub(crate) fn finish_connection(&self, record: &Record<'_>) {
        self.log(record);
    }

    /// The counters of connections to this cluster and workload, as far as they are known.
    pub(crate) fn tcp(
        &self,
        cluster: Option<&Cluster>,
        workload: Option<&Workload>,
        flags: Flags,
    ) -> Arc<TcpSeries> {
        self.connections.series(cluster, workload, flags)
    }

    fn log(&self, record: &Record<'_>) {
        if let Some(lines) = self.format.borrow_mut().load() {
            if lines.filter.as_ref().is_some_and(|filter| !filter.takes(record)) {
                return;
            }
            let mut line = self.line.borrow_mut();
            line.clear();
            lines.format.write(record, &mut line);
            self.lines.push(&line);
        }
    }
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use super::testing::{Lists, cluster, forwarded, workload};
    use super::*;
    use crate::allocations::allocations;
    use tidegate_model::AccessLogFormat;

    fn telemetry() -> Arc<Telemetry> {
        Telemetry::new(&Identity { workload: "gateway".into(), namespace: "istio-system".into() })
    }

    fn log(file: &str, format: AccessLogFormat) -> AccessLog {
        AccessLog { file: file.into(), format, filter: None }
    }

    #[test]
    fn the_access_log_switches_while_running() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let file = path.to_str().unwrap();
        let (telemetry, headers, cluster, workload) = (telemetry(), Lists::default(), cluster(), workload());
        let worker = telemetry.worker();
        let finish = || worker.finish(&forwarded(&cluster, &workload, &headers));
        let read = || {
            telemetry.flush();
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            text.lines().map(|l| l.chars().next().unwrap()).collect::<String>()
        };
        finish();
        assert_eq!(read(), "", "nothing before it is set");
        telemetry.set_access_log(&log(file, AccessLogFormat::DefaultText)).unwrap();
        finish();
        telemetry.set_access_log(&log(file, AccessLogFormat::DefaultJson)).unwrap();
        finish();
        assert!(telemetry.set_access_log(&log("/nowhere/at/all", AccessLogFormat::DefaultText)).is_err());
        finish();
        assert_eq!(read(), "[{{");
        telemetry.set_access_log(&log("", AccessLogFormat::DefaultText)).unwrap();
        finish();
        assert_eq!(read(), "[{{");
        telemetry.set_access_log(&log(file, AccessLogFormat::DefaultText)).unwrap();
        finish();
        assert_eq!(read(), "[{{[");
        let text = telemetry.prometheus();
        assert!(text.contains("response_code=\"200\"") && text.contains("\"} 6\n"), "{text}");
        assert!(text.contains("tidegate_access_log_dropped_total 0\n"));
        assert!(text.contains("tidegate_build_info{version=\""));
    }

    #[test]
    fn metrics_come_in_pieces_that_do_not_grow_with_the_label_sets() {
        let (telemetry, headers, cluster, workload) = (telemetry(), Lists::default(), cluster(), workload());
        let worker = telemetry.worker();
        for status in 200..300 {
            let mut record = forwarded(&cluster, &workload, &headers);
            record.status = status;
            worker.finish(&record);
            let mut flags = Flags::default();
            flags.set(Flag::NoRoute);
            worker.tcp(Some(&cluster), None, if status % 2 == 0 { flags } else { Flags::default() }).opened();
        }
        let (mut pieces, mut next) = (Vec::new(), Some(At::default()));
        while let Some(at) = next {
            let mut piece = String::new();
            next = telemetry.write_metrics(at, &mut piece);
            assert!(
                piece.len() < 2 * PIECE && (piece.is_empty() || piece.ends_with('\n')),
                "{}",
                piece.len()
            );
            pieces.push(piece);
        }
        let text = pieces.concat();
        let count = |start: &str| text.lines().filter(|l| l.starts_with(start)).count();
        for (start, expected) in [
            ("# TYPE istio_requests_total ", 1),
            ("istio_requests_total{", 100),
            ("# TYPE istio_request_duration_milliseconds ", 1),
            ("istio_request_duration_milliseconds_bucket{", 2000),
            ("istio_request_bytes_sum{", 100),
            ("# TYPE istio_response_bytes ", 1),
            ("istio_response_bytes_count{", 100),
            ("istio_tcp_connections_opened_total{", 2),
            ("istio_tcp_sent_bytes_total{", 2),
            ("tidegate_build_info{", 1),
        ] {
            assert_eq!(count(start), expected, "{start}");
        }
        let set = text.lines().filter(|l| l.starts_with("istio_re") && l.contains("response_code=\"250\""));
        let bytes: usize = set.map(|l| l.len() + 1).sum();
        assert!(bytes < 60_000, "{bytes} bytes a label set");
    }

    #[test]
    fn a_log_that_was_renamed_is_opened_again_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let [path, renamed] = ["log", "log.1"].map(|n| directory.path().join(n));
        let (telemetry, headers, cluster, workload) = (telemetry(), Lists::default(), cluster(), workload());
        let worker = telemetry.worker();
        let lines = |path| std::fs::read_to_string(path).unwrap_or_default().lines().count();
        telemetry.reopen_access_log().unwrap();
        telemetry.set_access_log(&log(path.to_str().unwrap(), AccessLogFormat::DefaultText)).unwrap();
        worker.finish(&forwarded(&cluster, &workload, &headers));
        std::fs::rename(&path, &renamed).unwrap();
        telemetry.reopen_access_log().unwrap();
        assert!(path.exists(), "opened before anything is logged");
        worker.finish(&forwarded(&cluster, &workload, &headers));
        telemetry.flush();
        assert_eq!((lines(&renamed), lines(&path)), (1, 1));
        std::fs::remove_dir_all(directory.path()).unwrap();
        assert!(telemetry.reopen_access_log().is_err());
    }

    #[test]
    fn a_request_that_ends_allocates_nothing() {
        let (headers, cluster, workload) = (Lists::default(), cluster(), workload());
        for format in [AccessLogFormat::DefaultText, AccessLogFormat::DefaultJson] {
            let telemetry = telemetry();
            telemetry.set_access_log(&log("/dev/null", format)).unwrap();
            let worker = telemetry.worker();
            let finish = || worker.finish(&forwarded(&cluster, &workload, &headers));
            finish();
            assert_eq!(allocations(|| (0..100).for_each(|_| finish())), 0);
        }
    }
}
