//! Istio's metrics of TCP connections (Istio 2.18).

use super::exposition::{Family, between_braces};
use super::metrics::{destination_labels, label, source_labels};
use super::{Flags, Workload};
use crate::lock::lock;
use crate::server::Identity;
use ahash::{AHashMap, RandomState};
use prometheus::proto::LabelPair;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tidegate_model::Cluster;

/// Label sets in all. Connections beyond them are counted in one set whose labels are unknown.
const MAX_SERIES: usize = 20_000;

/// What a series is of.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Key {
    host: Arc<str>,
    service_name: Arc<str>,
    service_namespace: Arc<str>,
    workload: Workload,
    flags: Flags,
}

/// The counters of one label set, shared by the workers: touched when a connection begins or ends,
/// and once for each time that it moved something.
#[derive(Default)]
pub(crate) struct TcpSeries {
    opened: AtomicU64,
    closed: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

impl TcpSeries {
    /// A connection began.
    pub(crate) fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection ended.
    pub(crate) fn closed(&self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    /// So many bytes came from the client, and so many went to it.
    pub(crate) fn moved(&self, received: u64, sent: u64) {
        if received > 0 {
            self.received.fetch_add(received, Ordering::Relaxed);
        }
        if sent > 0 {
            self.sent.fetch_add(sent, Ordering::Relaxed);
        }
    }
}

/// The metrics of the process.
pub(super) struct Connections {
    identity: Vec<LabelPair>,
    limit: usize,
    known: Mutex<Known>,
    overflow: Arc<TcpSeries>,
}

/// All series.
#[derive(Default)]
struct Known {
    by_key: HashMap<Key, Arc<TcpSeries>, RandomState>,
    /// In the order in which they came.
    all: Vec<(Key, Arc<TcpSeries>)>,
}

const fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: "counter", help }
}

type Read = fn(&TcpSeries) -> &AtomicU64;

const FAMILIES: [(Family, Read); 4] = [
    (counter("istio_tcp_connections_opened_total", "TCP connections that have begun."), |s| &s.opened),
    (counter("istio_tcp_connections_closed_total", "TCP connections that have ended."), |s| &s.closed),
    (counter("istio_tcp_received_bytes_total", "Bytes from clients of TCP connections."), |s| &s.received),
    (counter("istio_tcp_sent_bytes_total", "Bytes to clients of TCP connections."), |s| &s.sent),
];

/// A worker's way to them: it asks for a series once.
pub(super) struct WorkerConnections {
    all: Arc<Connections>,
    seen: RefCell<AHashMap<Key, Arc<TcpSeries>>>,
}

impl Connections {
    pub(super) fn new(identity: &Identity) -> Arc<Self> {
        Connections::with_limit(identity, MAX_SERIES)
    }

    fn with_limit(identity: &Identity, limit: usize) -> Arc<Self> {
        let identity = source_labels(identity);
        Arc::new(Connections { identity, limit, known: Mutex::default(), overflow: Arc::default() })
    }

    pub(super) fn worker(self: &Arc<Self>) -> WorkerConnections {
        WorkerConnections { all: self.clone(), seen: RefCell::default() }
    }

    /// The series of a key, or `None` when there are too many.
    fn series(&self, key: &Key) -> Option<Arc<TcpSeries>> {
        let mut known = lock(&self.known);
        if let Some(series) = known.by_key.get(key) {
            return Some(series.clone());
        }
        if known.all.len() >= self.limit {
            return None;
        }
        let series = Arc::<TcpSeries>::default();
        known.by_key.insert(key.clone(), series.clone());
        known.all.push((key.clone(), series.clone()));
        Some(series)
    }

    /// How many families there are.
    pub(super) const FAMILIES: usize = FAMILIES.len();

    /// Writes what one of the families has from a series on, up to the size of a piece. Returns where it goes on.
    pub(super) fn write(&self, family: usize, from: usize, out: &mut String) -> Option<usize> {
        let (of, read) = &FAMILIES[family];
        if lock(&self.known).all.is_empty() {
            return None;
        }
        of.write(from, out, |index, out| {
            let known = lock(&self.known).all.get(index).cloned();
            let is_known = known.is_some();
            // what is beyond them comes last
            let (key, series) = known.unwrap_or_else(|| (Key::default(), self.overflow.clone()));
            if is_known || series.opened.load(Ordering::Relaxed) > 0 {
                of.sample(&between_braces(&self.labels(&key)), read(&series).load(Ordering::Relaxed), out);
            }
            is_known
        })
    }

    fn labels(&self, key: &Key) -> Vec<LabelPair> {
        let mut flags = Vec::new();
        key.flags.write(&mut flags);
        let mut labels = self.identity.clone();
        let Key { host, service_name, service_namespace, workload, .. } = key;
        labels.extend(destination_labels(host, service_name, service_namespace, workload));
        labels.push(label("request_protocol", "tcp"));
        labels.push(label("response_flags", &String::from_utf8_lossy(&flags)));
        labels.sort_by(|a, b| a.name().cmp(b.name()));
        labels
    }
}

impl WorkerConnections {
    /// The series of connections to a cluster and workload, as far as they are known, with these flags.
    pub(super) fn series(
        &self,
        cluster: Option<&Cluster>,
        workload: Option<&Workload>,
        flags: Flags,
    ) -> Arc<TcpSeries> {
        let mut key = Key { workload: workload.cloned().unwrap_or_default(), flags, ..Key::default() };
        if let Some(cluster) = cluster {
            key.host = cluster.host.clone();
            key.service_name = cluster.service_name.clone();
            key.service_namespace = cluster.service_namespace.clone();
        }
        if let Some(series) = self.seen.borrow().get(&key) {
            return series.clone();
        }
        let Some(series) = self.all.series(&key) else { return self.all.overflow.clone() };
        self.seen.borrow_mut().insert(key, series.clone());
        series
    }
}

#[cfg(test)]
mod tests {
    use super::super::Flag;
    use super::super::testing::{cluster, workload};
    use super::*;

    fn text(connections: &Connections) -> String {
        let mut text = String::new();
        for family in 0..Connections::FAMILIES {
            let mut next = Some(0);
            while let Some(from) = next {
                next = connections.write(family, from, &mut text);
            }
        }
        text
    }

    fn connections(limit: usize) -> Arc<Connections> {
        let (workload, namespace) = ("gateway".to_owned(), "istio-system".to_owned());
        Connections::with_limit(&Identity { workload, namespace }, limit)
    }

    #[test]
    fn istios_names_and_labels() {
        let connections = connections(10);
        assert_eq!(text(&connections), "");
        let (a, b) = (connections.worker(), connections.worker());
        let (cluster, workload) = (cluster(), workload());
        for worker in [&a, &b, &a] {
            let series = worker.series(Some(&cluster), Some(&workload), Flags::default());
            series.opened();
            series.moved(10, 0);
            series.moved(1, 5);
        }
        b.series(Some(&cluster), Some(&workload), Flags::default()).closed();
        let text = text(&connections);
        let labels = "{connection_security_policy=\"unknown\",\
            destination_app=\"reviews\",destination_canonical_revision=\"v1\",\
            destination_canonical_service=\"reviews\",destination_cluster=\"unknown\",\
            destination_principal=\"unknown\",destination_service=\"reviews.default.svc.cluster.local\",\
            destination_service_name=\"reviews\",destination_service_namespace=\"default\",\
            destination_version=\"v1\",destination_workload=\"reviews-v1\",\
            destination_workload_namespace=\"default\",reporter=\"source\",\
            request_protocol=\"tcp\",response_flags=\"-\",\
            source_app=\"gateway\",source_canonical_revision=\"latest\",\
            source_canonical_service=\"gateway\",source_cluster=\"unknown\",source_principal=\"unknown\",\
            source_version=\"unknown\",source_workload=\"gateway\",\
            source_workload_namespace=\"istio-system\"}";
        for (name, value) in
            [("connections_opened", 3), ("connections_closed", 1), ("received_bytes", 33), ("sent_bytes", 15)]
        {
            let expected = format!("istio_tcp_{name}_total{labels} {value}");
            assert!(text.lines().any(|l| l == expected), "{expected} in {text}");
        }
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let connections = connections(1);
        let worker = connections.worker();
        let mut flags = Flags::default();
        worker.series(None, None, flags).opened();
        flags.set(Flag::NoHealthyUpstream);
        worker.series(None, None, flags).opened();
        flags.set(Flag::NoCluster);
        worker.series(None, None, flags).opened();
        let text = text(&connections);
        let opened: Vec<_> = text.lines().filter(|l| l.starts_with("istio_tcp_connections_opened")).collect();
        assert_eq!(opened.len(), 2, "{text}");
        assert!(opened[1].ends_with(" 2"), "{text}");
    }
}
