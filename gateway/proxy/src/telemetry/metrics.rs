//! Istio's request metrics. Each worker counts for itself; a scrape adds the workers up.

use super::counts::{self, Counts};
use super::exposition::{Family, between_braces};
use super::histogram::{self, Histogram};
use super::{Flags, Record, Workload};
use crate::lock::lock;
use crate::server::Identity;
use ahash::{AHashMap, RandomState};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use tidegate_model::HeaderName;

/// Label sets in all. Requests beyond them are counted in one set whose labels are unknown.
const MAX_SERIES: usize = 20_000;
/// What tells one series from another, besides the destination.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Outcome {
    status: u16,
    flags: Flags,
    grpc: bool,
    grpc_status: Option<u8>,
}

/// What a series is of.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    host: Arc<str>,
    service_name: Arc<str>,
    service_namespace: Arc<str>,
    workload: Workload,
    outcome: Outcome,
}

/// A label set, shared by the workers.
struct Series {
    key: Key,
    /// Each worker's, for the scrape. Locked by a worker only when the series is new to it.
    tallies: Mutex<Vec<Arc<Tally>>>,
}

impl Series {
    fn new(key: Key) -> Arc<Self> {
        Arc::new(Series { key, tallies: Mutex::default() })
    }

    /// All workers' histograms of something.
    fn total<const UNIT: u64>(&self, of: fn(&Tally) -> &Histogram<UNIT>) -> histogram::Total<UNIT> {
        let mut total = histogram::Total::default();
        lock(&self.tallies).iter().for_each(|tally| total.add(of(tally)));
        total
    }
}

/// Microseconds, measured in milliseconds.
const MILLISECONDS: u64 = 1000;
const BYTES: u64 = 1;

/// One worker's count of one series. Only that worker writes, so that adding needs no locked
/// instruction.
#[derive(Default)]
struct Tally {
    durations: Histogram<MILLISECONDS>,
    received: Histogram<BYTES>,
    sent: Histogram<BYTES>,
}

impl Tally {
    fn count(&self, record: &Record<'_>) {
        self.durations.count(u64::try_from(record.duration.as_micros()).unwrap_or(u64::MAX));
        self.received.count(record.bytes_received);
        self.sent.count(record.bytes_sent);
    }
}

/// A series and a worker's count of it.
struct Cell {
    series: Arc<Series>,
    tally: Arc<Tally>,
}

impl Cell {
    fn new(series: Arc<Series>) -> Self {
        let tally = Arc::<Tally>::default();
        lock(&series.tallies).push(tally.clone());
        Cell { series, tally }
    }
}

/// The metrics of the process.
pub(super) struct Metrics {
    identity: Vec<LabelPair>,
    limit: usize,
    known: Mutex<Known>,
    full: AtomicBool,
    workers: Mutex<Vec<Arc<Counts>>>,
    overflow: Arc<Series>,
}

/// All series.
#[derive(Default)]
struct Known {
    by_key: HashMap<Key, Arc<Series>, RandomState>,
    /// In the order in which they came.
    all: Vec<Arc<Series>>,
}

/// A worker's counters.
pub(super) struct WorkerMetrics {
    metrics: Arc<Metrics>,
    counts: Arc<Counts>,
    hasher: RandomState,
    /// By hash, so that looking one up needs no owned key.
    by_hash: RefCell<AHashMap<u64, Vec<Cell>>>,
    overflow: Cell,
}

const fn histogram(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: "histogram", help }
}

const REQUESTS: Family =
    Family { name: "istio_requests_total", kind: "counter", help: "Requests that have ended." };
const DURATIONS: Family = histogram(
    "istio_request_duration_milliseconds",
    "From a request's head to the last byte of its response.",
);
const RECEIVED: Family = histogram("istio_request_bytes", "Sizes of the bodies of requests.");
const SENT: Family = histogram("istio_response_bytes", "Sizes of the bodies of responses.");

impl Metrics {
    pub(super) fn new(identity: &Identity) -> Arc<Self> {
        Metrics::with_limit(identity, MAX_SERIES)
    }

    fn with_limit(identity: &Identity, limit: usize) -> Arc<Self> {
        let overflow = Key {
            host: Arc::default(),
            service_name: Arc::default(),
            service_namespace: Arc::default(),
            workload: Workload::default(),
            outcome: Outcome { status: 0, flags: Flags::default(), grpc: false, grpc_status: None },
        };
        Arc::new(Metrics {
            identity: source_labels(identity),
            limit,
            known: Mutex::default(),
            full: AtomicBool::new(false),
            workers: Mutex::default(),
            overflow: Series::new(overflow),
        })
    }

    /// A worker's part.
    pub(super) fn worker(self: &Arc<Self>) -> WorkerMetrics {
        let overflow = Cell::new(self.overflow.clone());
        let counts = Arc::new(Counts::default());
        lock(&self.workers).push(counts.clone());
        WorkerMetrics {
            metrics: self.clone(),
            counts,
            hasher: RandomState::new(),
            by_hash: RefCell::default(),
            overflow,
        }
    }

    /// The series of a key, or `None` when there are too many.
    fn series(&self, key: Key) -> Option<Arc<Series>> {
        let mut known = lock(&self.known);
        if let Some(series) = known.by_key.get(&key) {
            return Some(series.clone());
        }
        if known.all.len() >= self.limit {
            self.full.store(true, Ordering::Relaxed);
            return None;
        }
        let series = Series::new(key.clone());
        known.by_key.insert(key, series.clone());
        known.all.push(series.clone());
        Some(series)
    }

    /// How many families have samples for each series.
    pub(super) const FAMILIES: usize = 4;

    /// Writes what one of the families has from a series on, up to the size of a piece. Returns where it goes on.
    pub(super) fn write(&self, family: usize, from: usize, out: &mut String) -> Option<usize> {
        let of = [&REQUESTS, &DURATIONS, &RECEIVED, &SENT][family];
        if lock(&self.known).all.is_empty() {
            return None;
        }
        of.write(from, out, |index, out| {
            let series = lock(&self.known).all.get(index).cloned();
            // what is beyond them comes last
            self.write_series(family, of, series.as_ref().unwrap_or(&self.overflow), out);
            series.is_some()
        })
    }

    fn write_series(&self, family: usize, of: &Family, series: &Series, out: &mut String) {
        let durations = series.total(|tally| &tally.durations);
        if durations.count() == 0 {
            return;
        }
        let labels = between_braces(&self.labels(&series.key));
        match family {
            0 => of.sample(&labels, durations.count(), out),
            1 => of.histogram(&labels, &durations, out),
            2 => of.histogram(&labels, &series.total(|tally| &tally.received), out),
            _ => of.histogram(&labels, &series.total(|tally| &tally.sent), out),
        }
    }

    /// The other families.
    pub(super) fn families(&self) -> Vec<MetricFamily> {
        let overflow = self.overflow.total(|tally| &tally.durations).count();
        let mut families = vec![family(
            MetricType::COUNTER,
            "tidegate_metrics_overflow_total",
            "Requests counted without their labels because there are too many label sets.",
            vec![counter(Vec::new(), overflow)],
        )];
        let workers = lock(&self.workers);
        families.extend(counts::families(&workers.iter().map(|counts| &**counts).collect::<Vec<_>>()));
        families
    }

    fn labels(&self, key: &Key) -> Vec<LabelPair> {
        let Key { host, service_name, service_namespace, workload, outcome } = key;
        let mut flags = Vec::new();
        outcome.flags.write(&mut flags);
        let mut labels = self.identity.clone();
        labels.extend(destination_labels(host, service_name, service_namespace, workload));
        labels.extend([
            label("request_protocol", if outcome.grpc { "grpc" } else { "http" }),
            label("response_code", &outcome.status.to_string()),
            label("response_flags", &String::from_utf8_lossy(&flags)),
        ]);
        let mut status = LabelPair::default();
        status.set_name("grpc_response_status".to_string());
        status.set_value(outcome.grpc_status.map_or_else(String::new, |s| s.to_string()));
        labels.push(status);
        labels.sort_by(|a, b| a.name().cmp(b.name()));
        labels
    }
}

impl WorkerMetrics {
    /// Counts a request.
    pub(super) fn count(&self, record: &Record<'_>) {
        let outcome = Outcome {
            status: record.status,
            flags: record.flags,
            grpc: record.grpc,
            grpc_status: grpc_status(record),
        };
        let (host, name, namespace) = destination(record);
        let workload = record.workload.unwrap_or(&UNKNOWN);
        let hash = self.hasher.hash_one((&**host, &*workload.name, outcome));
        let same = |cell: &&Cell| {
            let key = &cell.series.key;
            key.outcome == outcome
                && key.host == *host
                && key.service_name == *name
                && key.service_namespace == *namespace
                && key.workload == *workload
        };
        if let Some(cell) = self.by_hash.borrow().get(&hash).and_then(|cells| cells.iter().find(same)) {
            return cell.tally.count(record);
        }
        let new = || {
            let [host, service_name, service_namespace] = [host, name, namespace].map(Arc::clone);
            Key { host, service_name, service_namespace, workload: workload.clone(), outcome }
        };
        // A full table is not asked again: that would be a lock for each request.
        let full = self.metrics.full.load(Ordering::Relaxed);
        match if full { None } else { self.metrics.series(new()) } {
            Some(series) => self.begin(hash, series).count(record),
            None => self.overflow.tally.count(record),
        }
    }

    /// What happens to requests beside their ends.
    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    fn begin(&self, hash: u64, series: Arc<Series>) -> Arc<Tally> {
        let cell = Cell::new(series);
        let tally = cell.tally.clone();
        self.by_hash.borrow_mut().entry(hash).or_default().push(cell);
        tally
    }
}

static UNKNOWN: LazyLock<Workload> = LazyLock::new(Workload::default);

fn destination<'a>(record: &Record<'a>) -> (&'a Arc<str>, &'a Arc<str>, &'a Arc<str>) {
    match record.cluster {
        Some(c) => (&c.host, &c.service_name, &c.service_namespace),
        None => {
            static NONE: LazyLock<Arc<str>> = LazyLock::new(Arc::default);
            (&NONE, &NONE, &NONE)
        }
    }
}

/// gRPC's status where it is known: 0 to 16, from the trailers or from a response without body.
pub(super) fn grpc_status(record: &Record<'_>) -> Option<u8> {
    static NAME: LazyLock<HeaderName> = LazyLock::new(|| HeaderName::new("grpc-status"));
    if !record.grpc {
        return None;
    }
    let mut status = None;
    let mut read = |value: &[u8]| {
        let number = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
        status = number.filter(|n| *n <= 16).or(status);
    };
    record.headers.response(&NAME, &mut read);
    record.headers.trailer(&NAME, &mut read);
    status
}

pub(super) fn source_labels(identity: &Identity) -> Vec<LabelPair> {
    vec![
        label("reporter", "source"),
        label("source_app", &identity.workload),
        label("source_canonical_revision", "latest"),
        label("source_canonical_service", &identity.workload),
        label("source_cluster", ""),
        label("source_principal", ""),
        label("source_version", ""),
        label("source_workload", &identity.workload),
        label("source_workload_namespace", &identity.namespace),
        label("connection_security_policy", ""),
    ]
}

/// Where requests and connections went.
pub(super) fn destination_labels(
    host: &str,
    service_name: &str,
    service_namespace: &str,
    workload: &Workload,
) -> [LabelPair; 11] {
    // Pods of a service live in its namespace.
    let workload_namespace = if workload.name.is_empty() { "" } else { service_namespace };
    [
        label("destination_app", &workload.app),
        label("destination_canonical_revision", &workload.canonical_revision),
        label("destination_canonical_service", &workload.canonical_service),
        label("destination_cluster", ""),
        label("destination_principal", ""),
        label("destination_service", host),
        label("destination_service_name", service_name),
        label("destination_service_namespace", service_namespace),
        label("destination_version", &workload.version),
        label("destination_workload", &workload.name),
        label("destination_workload_namespace", workload_namespace),
    ]
}

/// A label; an empty value is unknown.
pub(super) fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_string());
    pair.set_value(if value.is_empty() { "unknown" } else { value }.to_string());
    pair
}

/// A family of metrics.
pub(super) fn family(kind: MetricType, name: &str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_string());
    family.set_help(help.to_string());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

/// A counter of a family.
pub(super) fn counter(labels: Vec<LabelPair>, value: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

/// A gauge of a family.
pub(super) fn gauge(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

#[cfg(test)]
mod tests {
    use super::super::Flag;
    use super::super::testing::{Lists, cluster, forwarded, unrouted, workload};
    use super::*;
    use prometheus::TextEncoder;
    use std::time::Duration;

    fn metrics(limit: usize) -> Arc<Metrics> {
        let (workload, namespace) = ("gateway".to_string(), "istio-system".to_string());
        Metrics::with_limit(&Identity { workload, namespace }, limit)
    }

    fn text(metrics: &Metrics) -> String {
        let mut text = TextEncoder::new().encode_to_string(&metrics.families()).unwrap();
        for family in 0..Metrics::FAMILIES {
            let mut next = Some(0);
            while let Some(from) = next {
                next = metrics.write(family, from, &mut text);
            }
        }
        text
    }

    /// The value of the one sample of a metric that has all these labels.
    fn sample(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
        let mut found = text.lines().filter(|l| {
            l.split(['{', ' ']).next() == Some(name) && labels.iter().all(|label| l.contains(label))
        });
        let value = found.next()?.rsplit(' ').next()?.parse().ok();
        assert_eq!(found.next(), None, "{name} {labels:?} is ambiguous");
        value
    }

    #[test]
    fn istios_names_and_labels() {
        let (cluster, workload, headers) = (cluster(), workload(), Lists::default());
        let metrics = metrics(10);
        let worker = metrics.worker();
        worker.count(&forwarded(&cluster, &workload, &headers));
        let mut lost = unrouted(&headers);
        lost.status = 404;
        lost.flags.set(Flag::NoRoute);
        worker.count(&lost);
        let text = text(&metrics);
        let expected = "istio_requests_total{connection_security_policy=\"unknown\",\
            destination_app=\"reviews\",destination_canonical_revision=\"v1\",\
            destination_canonical_service=\"reviews\",destination_cluster=\"unknown\",\
            destination_principal=\"unknown\",destination_service=\"reviews.default.svc.cluster.local\",\
            destination_service_name=\"reviews\",destination_service_namespace=\"default\",\
            destination_version=\"v1\",destination_workload=\"reviews-v1\",\
            destination_workload_namespace=\"default\",grpc_response_status=\"\",reporter=\"source\",\
            request_protocol=\"http\",response_code=\"200\",response_flags=\"-\",\
            source_app=\"gateway\",source_canonical_revision=\"latest\",\
            source_canonical_service=\"gateway\",source_cluster=\"unknown\",source_principal=\"unknown\",\
            source_version=\"unknown\",source_workload=\"gateway\",\
            source_workload_namespace=\"istio-system\"} 1";
        assert!(text.lines().any(|l| l == expected), "{text}");
        let unknown = ["response_code=\"404\"", "response_flags=\"NR\"", "destination_service=\"unknown\""];
        assert_eq!(sample(&text, "istio_requests_total", &unknown), Some(1.0));
    }

    #[test]
    fn durations_fall_into_istios_buckets() {
        let headers = Lists::default();
        let metrics = metrics(10);
        let worker = metrics.worker();
        for microseconds in [0, 500, 501, 1_000_000, 7_200_000_000] {
            let mut record = unrouted(&headers);
            record.duration = Duration::from_micros(microseconds);
            worker.count(&record);
        }
        let text = text(&metrics);
        let bucket = |le: &str| {
            let le = format!("le=\"{le}\"");
            sample(&text, "istio_request_duration_milliseconds_bucket", &[&le]).unwrap()
        };
        let bounds = ["0.5", "1", "500", "1000", "3600000", "+Inf"];
        assert_eq!(bounds.map(bucket), [2.0, 3.0, 3.0, 4.0, 4.0, 5.0]);
        assert_eq!(sample(&text, "istio_request_duration_milliseconds_sum", &[]), Some(7_201_001.001));
        assert_eq!(sample(&text, "istio_request_duration_milliseconds_count", &[]), Some(5.0));
    }

    #[test]
    fn bodies_are_measured_in_bytes() {
        let headers = Lists::default();
        let metrics = metrics(10);
        let worker = metrics.worker();
        for (received, sent) in [(0, 1), (5, 6), (u64::MAX / 4, 3_600_000)] {
            let mut record = unrouted(&headers);
            (record.bytes_received, record.bytes_sent) = (received, sent);
            worker.count(&record);
        }
        let text = text(&metrics);
        let buckets = |name: &str| {
            let name = format!("{name}_bucket");
            ["0.5", "1", "5", "10", "3600000", "+Inf"]
                .map(|le| sample(&text, &name, &[&format!("le=\"{le}\"")]).unwrap())
        };
        assert_eq!(buckets("istio_request_bytes"), [1.0, 1.0, 2.0, 2.0, 2.0, 3.0]);
        assert_eq!(buckets("istio_response_bytes"), [0.0, 1.0, 1.0, 2.0, 3.0, 3.0]);
        assert_eq!(sample(&text, "istio_response_bytes_sum", &[]), Some(3_600_007.0));
    }

    #[test]
    fn workers_are_added_up() {
        let metrics = metrics(10);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let worker = metrics.worker();
                scope.spawn(move || {
                    let headers = Lists::default();
                    (0..1000).for_each(|_| worker.count(&unrouted(&headers)));
                });
            }
        });
        assert_eq!(sample(&text(&metrics), "istio_requests_total", &[]), Some(4000.0));
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let headers = Lists::default();
        let metrics = metrics(3);
        let workers = [metrics.worker(), metrics.worker()];
        for status in 200..300 {
            let mut record = unrouted(&headers);
            record.status = status;
            workers.iter().for_each(|w| w.count(&record));
        }
        let text = text(&metrics);
        assert_eq!(sample(&text, "istio_requests_total", &["response_code=\"201\""]), Some(2.0));
        assert_eq!(sample(&text, "tidegate_metrics_overflow_total", &[]), Some(194.0));
        assert_eq!(sample(&text, "istio_requests_total", &["response_code=\"0\""]), Some(194.0));
        assert_eq!(text.lines().filter(|l| l.starts_with("istio_requests_total")).count(), 4);
    }

    #[test]
    fn grpc_status_is_a_number_of_grpc() {
        let cases: [(&[u8], bool, Option<u8>); 5] = [
            (b"14", true, Some(14)),
            (b"14", false, None),
            (b"17", true, None),
            (b"\xff", true, None),
            (b"", true, None),
        ];
        for (value, grpc, expected) in cases {
            let headers = Lists { trailers: vec![("grpc-status", value.to_vec())], ..Lists::default() };
            let mut record = unrouted(&headers);
            record.grpc = grpc;
            assert_eq!(grpc_status(&record), expected);
        }
    }
}
