use ahash::AHashMap;
use tidegate_model::{TlsAction, TlsServer};

/// Longest name that is looked up; DNS ends at 253 bytes.
const MAX_NAME: usize = 255;

/// A TLS server of a listener by its index, and which of its routes by SNI has the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) server: usize,
    pub(crate) route: Option<usize>,
}

/// The names of a listener's TLS servers: exact, then the longest wildcard, then `*` (Istio 2.9).
#[derive(Clone, Debug, Default)]
pub(crate) struct SniIndex {
    exact: AHashMap<Box<str>, Target>,
    /// `.example.com` for `*.example.com`.
    suffix: AHashMap<Box<str>, Target>,
    any: Option<Target>,
}

impl SniIndex {
    pub(crate) fn new(servers: &[TlsServer]) -> Self {
        let mut index = SniIndex::default();
        for (s, server) in servers.iter().enumerate() {
            match &server.action {
                TlsAction::Passthrough { routes, .. } => {
                    for (r, route) in routes.iter().enumerate() {
                        let target = Target { server: s, route: Some(r) };
                        route.hosts.iter().for_each(|host| index.insert(host, target));
                    }
                }
                TlsAction::Http(_) | TlsAction::Tcp(..) | TlsAction::Refuse(_) => {
                    let target = Target { server: s, route: None };
                    server.hosts.iter().for_each(|host| index.insert(host, target));
                }
            }
        }
        index
    }

    /// The first that claims a name has it, as everywhere in Istio.
    fn insert(&mut self, host: &str, target: Target) {
        match host.strip_prefix('*') {
            None => _ = self.exact.entry(host.to_ascii_lowercase().into()).or_insert(target),
            Some("") => _ = self.any.get_or_insert(target),
            Some(rest) => _ = self.suffix.entry(rest.to_ascii_lowercase().into()).or_insert(target),
        }
    }

    /// What serves a name, in any case; without one only `*` does.
    pub(crate) fn find(&self, name: Option<&str>) -> Option<Target> {
        let named = name.filter(|name| name.len() <= MAX_NAME).and_then(|name| {
            let name = name.to_ascii_lowercase();
            let wildcards = || {
                let dots = name.match_indices('.').map(|(at, _)| at).filter(|at| *at > 0);
                dots.filter_map(|at| self.suffix.get(&name[at..])).next()
            };
            self.exact.get(&*name).or_else(wildcards).copied()
        });
        named.or(self.any)
    }
}
