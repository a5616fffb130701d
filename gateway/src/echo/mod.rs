//! `--echo`: every workload of the config is played by a listener of our own, so that a config can be tried
//! without its cluster.
//!
//! What is played takes the place of the real endpoints among the objects, before they are translated: subsets,
//! weights and ports then follow from the same code as for real endpoints.

mod addresses;
mod objects;
mod server;
mod workloads;

#[cfg(test)]
mod tests;

use addresses::Addresses;
use server::{Listener, Runtime};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tidegate_api::Objects;
use workloads::Station;

/// Listeners in all; a config with more workloads plays these.
const LISTENERS: usize = 4096;

/// The listeners that play workloads.
pub(crate) struct Echo {
    /// There until it is dropped.
    threads: Option<tokio::runtime::Runtime>,
    runtime: Runtime,
    addresses: Addresses,
    listeners: BTreeMap<ListenerKey, Listener>,
    retired: Vec<Listener>,
}

/// The station, and the port that its workload has.
type ListenerKey = (String, u16);

/// What a listener says about itself.
#[derive(Debug, PartialEq, Eq)]
struct Workload {
    /// The Service's name, or the hosts of a ServiceEntry.
    services: Vec<String>,
    namespace: String,
    name: String,
    subset: String,
    labels: BTreeMap<String, String>,
    /// The port that the workload has in the config.
    port: u16,
}

impl Workload {
    fn of(station: &Station<'_>, subset: &str, port: u16) -> Workload {
        let reference = &station.service.reference;
        let services = match &*reference.kind {
            "Service" => vec![reference.name.to_string()],
            _ => station.hosts.clone(),
        };
        Workload {
            services,
            namespace: reference.namespace.to_string(),
            name: station.workload.clone(),
            subset: subset.to_owned(),
            labels: station.labels.clone(),
            port,
        }
    }

    /// The service that is played: of several hosts the one that was asked for.
    fn service_of(&self, authority: &str) -> &str {
        let asked = self.services.iter().find(|service| {
            authority
                .strip_prefix(service.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        });
        asked.or(self.services.first()).map_or("", String::as_str)
    }
}

impl Echo {
    /// Starts without listeners.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub(crate) fn start() -> io::Result<Echo> {
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .thread_name("echo")
            .enable_all()
            .build()?;
        let runtime = Runtime::new(threads.handle().clone());
        Ok(Echo {
            threads: Some(threads),
            runtime,
            addresses: Addresses::default(),
            listeners: BTreeMap::new(),
            retired: Vec::new(),
        })
    }

    /// Opens the listeners that `objects` ask for, and returns the objects with these in place of real endpoints.
    ///
    /// `avoid` are ports that are needed for other things on every address. Listeners that nothing needs any more
    /// stay open until [`Echo::retire`].
    pub(crate) fn replace(&mut self, objects: &Objects, avoid: &BTreeSet<u16>, domain: &str) -> Objects {
        let stations = workloads::stations(objects, domain);
        self.addresses.assign(&stations.iter().map(|station| station.key.clone()).collect());
        let mut wanted = BTreeMap::new();
        for station in &stations {
            let subset = workloads::subset(objects, station, domain);
            for port in station.ports.iter().map(|port| port.number) {
                let key = (station.key.clone(), port);
                wanted.entry(key).or_insert_with(|| Arc::new(Workload::of(station, &subset, port)));
            }
        }
        self.open(&wanted, avoid);
        objects::rewrite(objects, &stations, |station, port| self.address(station, port))
    }

    /// How many workloads are played, each at an address of its own.
    pub(crate) fn workloads(&self) -> usize {
        self.listeners.keys().map(|(station, _)| station).collect::<BTreeSet<_>>().len()
    }

    /// Closes the listeners that the last [`Echo::replace`] had no use for.
    pub(crate) fn retire(&mut self) {
        self.retired.clear();
    }

    fn address(&self, station: &Station<'_>, port: u16) -> Option<SocketAddr> {
        self.listeners.get(&(station.key.clone(), port)).map(|listener| listener.address)
    }

    fn open(&mut self, wanted: &BTreeMap<ListenerKey, Arc<Workload>>, avoid: &BTreeSet<u16>) {
        let (kept, gone) =
            std::mem::take(&mut self.listeners).into_iter().partition(|(k, _)| wanted.contains_key(k));
        self.listeners = kept;
        self.retired.extend(BTreeMap::into_values(gone));
        // the port is needed now: such a listener cannot wait until it is retired
        self.listeners.retain(|_, listener| !avoid.contains(&listener.address.port()));
        for (key, workload) in wanted {
            if let Some(listener) = self.listeners.get(key) {
                listener.play(workload.clone());
                continue;
            }
            let Some(ip) = self.addresses.of(&key.0).filter(|_| self.listeners.len() < LISTENERS) else {
                tracing::error!("echo: {} is not played: there are too many workloads", key.0);
                continue;
            };
            let port = Some(key.1).filter(|port| !avoid.contains(port));
            match self.runtime.listen(ip, port, workload.clone()) {
                Ok(listener) => {
                    tracing::debug!("echo: {} port {} is played at {}", key.0, key.1, listener.address);
                    self.listeners.insert(key.clone(), listener);
                }
                Err(error) => tracing::error!("echo: {} port {} is not played: {error}", key.0, key.1),
            }
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // without waiting: it may be dropped where nothing may block
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}
