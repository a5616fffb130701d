use crate::tls::certificate::{self, Certificates, InvalidCertificate};
use ahash::HashMap;
use rustls::crypto::aws_lc_rs;
use rustls::server::ServerConfig;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use std::sync::Arc;
use tidegate_model::{
    Diagnostic, Listener, ListenerKey, ListenerProtocol, Model, Origin, Secret, SecretKey, Severity,
    TableName, TlsServer, TlsVersion,
};

/// The TLS configs of one snapshot, by listener.
#[derive(Default)]
pub(crate) struct ServerConfigs {
    listeners: HashMap<ListenerKey, Servers>,
    certificates: HashMap<SecretKey, Loaded>,
}

/// A secret as it was, and what came of it.
#[derive(Clone)]
struct Loaded {
    secret: Arc<Secret>,
    result: Result<Arc<CertifiedKey>, InvalidCertificate>,
}

/// The servers of one listener, by SNI.
#[derive(Default)]
struct Servers {
    exact: HashMap<Box<str>, Arc<Server>>,
    /// `.example.com` for `*.example.com`.
    suffix: HashMap<Box<str>, Arc<Server>>,
    any: Option<Arc<Server>>,
    all: HashMap<TableName, Arc<Server>>,
}

/// One TLS server.
pub(crate) struct Server {
    /// Its route table.
    pub(crate) table: TableName,
    /// How it is terminated; `None` while none of its certificates can be served.
    pub(crate) config: Option<Arc<ServerConfig>>,
    policy: Policy,
}

/// What a [`ServerConfig`] is made from: while it stays, tickets stay valid.
#[derive(Clone, PartialEq)]
struct Policy {
    min: Option<TlsVersion>,
    max: Option<TlsVersion>,
    secrets: Vec<Arc<Secret>>,
}

impl ServerConfigs {
    /// The configs of a model. What did not change is shared with `previous`. A server whose
    /// certificates are all missing or broken fails alone, and is named.
    pub(crate) fn build(model: &Model, previous: &ServerConfigs) -> (ServerConfigs, Vec<Diagnostic>) {
        let mut new =
            ServerConfigs { certificates: load_all(model, previous), listeners: HashMap::default() };
        let mut diagnostics = Vec::new();
        for listener in model.listeners.values() {
            let ListenerProtocol::Tls(servers) = &listener.protocol else { continue };
            let built = new.build_listener(listener, servers, previous, &mut diagnostics);
            new.listeners.insert(listener.key, built);
        }
        (new, diagnostics)
    }

    /// The server of a listener for a name: exact, then the longest wildcard, then `*`. `name` is
    /// in lower case; without one only `*` serves.
    pub(crate) fn choose(&self, listener: &ListenerKey, name: Option<&str>) -> Option<&Arc<Server>> {
        let servers = self.listeners.get(listener)?;
        let named = name.and_then(|name| {
            let wildcards = || {
                let dots = name.match_indices('.').map(|(at, _)| at).filter(|at| *at > 0);
                dots.filter_map(|at| servers.suffix.get(&name[at..])).next()
            };
            servers.exact.get(name).or_else(wildcards)
        });
        named.or(servers.any.as_ref())
    }

    fn build_listener(
        &self,
        listener: &Listener,
        servers: &[TlsServer],
        previous: &ServerConfigs,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Servers {
        let old = previous.listeners.get(&listener.key);
        let mut built = Servers::default();
        for server in servers {
            let old = old.and_then(|o| o.all.get(&server.table));
            let new = Arc::new(self.build_server(server, old.map(Arc::as_ref), diagnostics));
            for host in &server.hosts {
                // The first that claims a name has it, as everywhere in Istio.
                match host.strip_prefix('*') {
                    None => _ = built.exact.entry(host.to_ascii_lowercase().into()).or_insert(new.clone()),
                    Some("") => _ = built.any.get_or_insert(new.clone()),
                    Some(rest) => {
                        _ = built.suffix.entry(rest.to_ascii_lowercase().into()).or_insert(new.clone());
                    }
                }
            }
            built.all.insert(server.table.clone(), new);
        }
        built
    }

    fn build_server(&self, server: &TlsServer, old: Option<&Server>, out: &mut Vec<Diagnostic>) -> Server {
        let mut policy = Policy { min: server.min_version, max: server.max_version, secrets: Vec::new() };
        let mut keys = Vec::new();
        for name in &server.certificates {
            let loaded = self.certificates.get(name);
            match loaded.map_or(Err(InvalidCertificate::Missing), |l| l.result.clone()) {
                Ok(key) => {
                    keys.push(key);
                    policy.secrets.extend(loaded.map(|l| l.secret.clone()));
                }
                Err(e) => out.push(broken(server, format!("certificate {name} cannot be served: {e}"))),
            }
        }
        let table = server.table.clone();
        if let Some(old) = old.filter(|o| o.policy == policy && o.config.is_some()) {
            return Server { table, config: old.config.clone(), policy };
        }
        let config = (!keys.is_empty()).then(|| config(&policy, keys)).and_then(|result| {
            result.inspect_err(|e| out.push(broken(server, format!("TLS settings do not work: {e}")))).ok()
        });
        Server { table, config, policy }
    }
}

fn load_all(model: &Model, previous: &ServerConfigs) -> HashMap<SecretKey, Loaded> {
    let load = |secret: &Arc<Secret>| match previous.certificates.get(&secret.key) {
        Some(old) if Arc::ptr_eq(&old.secret, secret) || old.secret == *secret => old.clone(),
        _ => Loaded { secret: secret.clone(), result: certificate::load(secret) },
    };
    model.secrets.iter().map(|(key, secret)| (key.clone(), load(secret))).collect()
}

fn config(policy: &Policy, keys: Vec<Arc<CertifiedKey>>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let lowest = policy.min.unwrap_or(TlsVersion::V1_2);
    let highest = policy.max.unwrap_or(TlsVersion::V1_3);
    let versions: Vec<_> = [(TlsVersion::V1_2, &TLS12), (TlsVersion::V1_3, &TLS13)]
        .into_iter()
        .filter(|(v, _)| (lowest..=highest).contains(v))
        .map(|(_, v)| v)
        .collect();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Certificates::new(keys)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A key of its own: no session of one server resumes at another.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}

fn broken(server: &TlsServer, text: String) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        origin: Origin::default(),
        object: Some(server.owner.clone()),
        field: "spec.servers.tls.credentialName".into(),
        text: format!("{text} (server {})", server.table),
        advice: "handshakes for its hosts fail until the secret holds a matching certificate and key".into(),
        code: "certificate-unusable",
    }
}
