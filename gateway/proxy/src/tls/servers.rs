use crate::tls::certificate::Certificates;
use crate::tls::client_certificate::{self, InvalidAuthorities};
use crate::tls::credentials::{Credentials, Loaded};
use crate::tls::forwarded_client_cert;
use ahash::{HashMap, HashSet};
use pingora::server::ShutdownWatch;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite as SuiteName, SupportedCipherSuite};
use std::fmt::Display;
use std::sync::Arc;
use tidegate_model::{
    Authorities, CipherSuite, Diagnostic, KeyExchange, ListenerKey, ListenerProtocol, Model, Secret,
    Severity, TableName, TlsAction, TlsServer, TlsTermination, TlsVersion,
};
use tokio::sync::watch;

/// The TLS configs of one snapshot, by server.
#[derive(Default)]
pub(crate) struct ServerConfigs {
    servers: HashMap<TableName, Server>,
}

/// One TLS server that is terminated here.
pub(crate) struct Server {
    /// `None` while its certificates or its authorities cannot be used.
    pub(crate) terminator: Option<Arc<Terminator>>,
    policy: Policy,
    listener: ListenerKey,
    hosts: Vec<Arc<str>>,
    /// Ends the connections of the server; shared with the next config unless that is of another kind.
    drain: Arc<watch::Sender<bool>>,
}

/// By what connections of a server are terminated.
pub(crate) struct Terminator {
    pub(crate) config: Arc<ServerConfig>,
    /// The URIs that name the server, in all of its certificates.
    pub(crate) identities: Box<[Box<str>]>,
    /// Turns true when connections that began under it are to end.
    pub(crate) shutdown: ShutdownWatch,
}

/// What a [`ServerConfig`] is made from: while it stays, tickets stay valid.
#[derive(Clone, PartialEq)]
struct Policy {
    termination: TlsTermination,
    /// Whether HTTP is offered by ALPN.
    http: bool,
    secrets: Vec<Arc<Secret>>,
    authorities: Vec<Arc<Authorities>>,
}

/// Why a server cannot be terminated.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
    #[error("{0}")]
    Clients(#[from] InvalidAuthorities),
}

impl ServerConfigs {
    /// The configs of a model. What did not change is shared with `previous`. A server whose
    /// certificates are all missing or broken, or whose clients could not be checked, fails alone;
    /// what is broken of it is said.
    pub(crate) fn build(
        model: &Model,
        credentials: &Credentials,
        previous: &ServerConfigs,
    ) -> (ServerConfigs, Vec<Diagnostic>) {
        let mut new = ServerConfigs::default();
        let mut diagnostics = Vec::new();
        for listener in model.listeners.values() {
            let ListenerProtocol::Tls(servers) = &listener.protocol else { continue };
            for server in servers {
                let (termination, http) = match &server.action {
                    TlsAction::Http(termination) => (termination, true),
                    TlsAction::Tcp(termination, _) => (termination, false),
                    TlsAction::Passthrough { .. } | TlsAction::Refuse(_) => continue,
                };
                let policy = Policy {
                    termination: termination.clone(),
                    http,
                    secrets: Vec::new(),
                    authorities: Vec::new(),
                };
                let old = previous.server_before(listener.key, server);
                let drain = old.filter(|old| old.policy.is_same_kind(&policy)).map(|old| old.drain.clone());
                let drain = drain.unwrap_or_default();
                let (policy, terminator) =
                    terminator(credentials, server, policy, old, &drain, &mut diagnostics);
                let hosts = server.hosts.clone();
                let built = Server { terminator, policy, listener: listener.key, hosts, drain };
                new.servers.insert(server.table.clone(), built);
            }
        }
        (new, diagnostics)
    }

    /// A server that is terminated here.
    pub(crate) fn get(&self, server: &TableName) -> Option<&Server> {
        self.servers.get(server)
    }

    /// What a server was before: under its name, else under another with the same hosts.
    fn server_before(&self, listener: ListenerKey, server: &TlsServer) -> Option<&Server> {
        let here = |old: &&Server| old.listener == listener;
        let renamed = || self.servers.values().filter(here).find(|old| old.hosts == server.hosts);
        self.servers.get(&server.table).filter(here).or_else(renamed)
    }

    /// Ends, after what is in flight, the connections of servers that are gone from `next` or ask for another kind of
    /// TLS there: as Envoy does when a filter chain changes. A certificate that is replaced ends none.
    pub(crate) fn drain_changed(&self, next: &ServerConfigs) {
        let going_on: HashSet<_> = next.servers.values().map(|server| Arc::as_ptr(&server.drain)).collect();
        for server in self.servers.values().filter(|server| !going_on.contains(&Arc::as_ptr(&server.drain))) {
            server.drain.send_replace(true);
        }
    }
}

fn terminator(
    credentials: &Credentials,
    server: &TlsServer,
    mut policy: Policy,
    old: Option<&Server>,
    drain: &watch::Sender<bool>,
    out: &mut Vec<Diagnostic>,
) -> (Policy, Option<Arc<Terminator>>) {
    let mut keys = Vec::new();
    // of what is not there it was said where the model was made
    let certificates = policy.termination.certificates.iter();
    for (name, loaded) in certificates.filter_map(|name| Some((name, credentials.certificates.get(name)?))) {
        if let Some((secret, key)) = &loaded.good {
            keys.push(key.clone());
            policy.secrets.push(secret.clone());
        }
        out.extend(complaint(loaded, server, &format!("certificate {name}")));
    }
    let named = policy.termination.clients.iter().flat_map(|c| &c.authorities);
    let mut roots = Vec::new();
    for (name, loaded) in named.clone().filter_map(|name| Some((name, credentials.authorities.get(name)?))) {
        if let Some((authorities, loaded)) = &loaded.good {
            roots.push(loaded.clone());
            policy.authorities.push(authorities.clone());
        }
        out.extend(complaint(loaded, server, &format!("the authorities of clients {name}")));
    }
    // Without one of its authorities a server would refuse clients, or ask none for a certificate.
    let whole = !keys.is_empty() && roots.len() == named.count();
    if let Some(old) = old.filter(|o| whole && o.policy == policy && o.terminator.is_some()) {
        return (policy, old.terminator.clone());
    }
    let identities = identities(&keys);
    let config = whole.then(|| config(&policy, keys, &roots)).and_then(|result| {
        result.inspect_err(|e| out.push(broken(server, format!("TLS settings do not work: {e}"), NONE))).ok()
    });
    let terminator =
        config.map(|config| Arc::new(Terminator { config, identities, shutdown: drain.subscribe() }));
    (policy, terminator)
}

impl Server {
    /// Whether a connection of this server is as good as one of the other: the same certificates, checks of clients,
    /// versions and suites.
    pub(crate) fn covers(&self, other: &Server) -> bool {
        self.policy == other.policy
    }

    /// Whether clients of this server show certificates that another does not ask for, or not in this way.
    pub(crate) fn checks_clients_unlike(&self, other: &Server) -> bool {
        let clients = |server: &Server| server.policy.termination.clients.clone();
        let (own, other) =
            ((clients(self), &self.policy.authorities), (clients(other), &other.policy.authorities));
        own.0.is_some() && own != other
    }
}

impl Policy {
    /// Whether only contents of secrets differ.
    fn is_same_kind(&self, other: &Policy) -> bool {
        self.termination == other.termination && self.http == other.http
    }
}

/// The URIs that all of a server's certificates have: which of them a client was shown is not known.
fn identities(keys: &[Arc<CertifiedKey>]) -> Box<[Box<str>]> {
    let of = |key: &Arc<CertifiedKey>| key.cert.first().map(|c| forwarded_client_cert::identities(c));
    let mut all = keys.iter().map(|key| of(key).unwrap_or_default());
    let first = all.next().unwrap_or_default();
    all.fold(first, |mut common, own| {
        common.retain(|uri| own.contains(uri));
        common
    })
    .into()
}

/// What to say of a server that needs this, when it cannot be used.
fn complaint<M, T, E: Display>(
    loaded: &Loaded<M, T, E>,
    server: &TlsServer,
    what: &str,
) -> Option<Diagnostic> {
    let so = if loaded.good.is_some() { LAST_GOOD } else { NONE };
    loaded.error.as_ref().map(|e| broken(server, format!("{what} cannot be used: {e}"), so))
}

/// What follows from something that is broken.
const LAST_GOOD: &str = "the last good version keeps serving";
const NONE: &str = "handshakes for its hosts fail";

fn config(
    policy: &Policy,
    keys: Vec<Arc<CertifiedKey>>,
    roots: &[client_certificate::Loaded],
) -> Result<Arc<ServerConfig>, Unusable> {
    let termination = &policy.termination;
    let lowest = termination.min_version.unwrap_or(TlsVersion::V1_2);
    let highest = termination.max_version.unwrap_or(TlsVersion::V1_3);
    let versions: Vec<_> = [(TlsVersion::V1_2, &TLS12), (TlsVersion::V1_3, &TLS13)]
        .into_iter()
        .filter(|(v, _)| (lowest..=highest).contains(v))
        .map(|(_, v)| v)
        .collect();
    let provider = Arc::new(provider(termination));
    let clients = match &termination.clients {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(clients) => client_certificate::verifier(clients, roots, &provider)?,
    };
    // A suite of TLS 1.3 is always there: a config without any of 1.2 speaks 1.3 alone, if it may.
    let speaks_12 = provider.cipher_suites.iter().any(|s| s.tls13().is_none());
    let versions: Vec<_> = versions.into_iter().filter(|v| speaks_12 || v.version != TLS12.version).collect();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(Certificates::new(keys)));
    if policy.http {
        config.alpn_protocols = [&b"h2"[..], b"http/1.1", b"http/1.0"].map(<[u8]>::to_vec).to_vec();
    }
    // As in Istio, the order of `cipherSuites` is that of preference.
    config.ignore_client_order = true;
    // A key of its own: no session of one server resumes at another.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// The process's cryptography with the suites and groups that a server asks for. What it does not ask for comes in
/// BoringSSL's order, whose first suite costs least where processors know AES.
fn provider(termination: &TlsTermination) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|s| match s.suite() {
        SuiteName::TLS13_AES_128_GCM_SHA256
        | SuiteName::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | SuiteName::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 0,
        SuiteName::TLS13_CHACHA20_POLY1305_SHA256
        | SuiteName::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        | SuiteName::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => 2,
        _ => 1,
    });
    if let Some(wanted) = &termination.cipher_suites {
        let tls13 = provider.cipher_suites.iter().filter(|s| s.tls13().is_some()).copied();
        let chosen = wanted
            .iter()
            .filter_map(|suite| provider.cipher_suites.iter().find(|s| s.suite() == name(*suite)).copied());
        let suites: Vec<SupportedCipherSuite> = tls13.chain(chosen).collect();
        provider.cipher_suites = suites;
    }
    if let Some(groups) = &termination.groups {
        provider.kx_groups = groups.iter().map(|g| group(*g)).collect();
    }
    provider
}

fn name(suite: CipherSuite) -> SuiteName {
    match suite {
        CipherSuite::EcdheEcdsaAes128GcmSha256 => SuiteName::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheEcdsaAes256GcmSha384 => SuiteName::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheEcdsaChacha20Poly1305 => SuiteName::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::EcdheRsaAes128GcmSha256 => SuiteName::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheRsaAes256GcmSha384 => SuiteName::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheRsaChacha20Poly1305 => SuiteName::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

fn group(group: KeyExchange) -> &'static dyn SupportedKxGroup {
    match group {
        KeyExchange::X25519MlKem768 => aws_lc_rs::kx_group::X25519MLKEM768,
        KeyExchange::X25519 => aws_lc_rs::kx_group::X25519,
        KeyExchange::P256 => aws_lc_rs::kx_group::SECP256R1,
        KeyExchange::P384 => aws_lc_rs::kx_group::SECP384R1,
    }
}

fn broken(server: &TlsServer, text: String, so: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        origin: server.origin.clone(),
        object: Some(server.owner.clone()),
        field: format!("spec.servers[{}].tls", server.index),
        text: format!("{text} (server {}); {so}", server.table),
        advice:
            "put a certificate chain with its key into the Secret, and for clients the certificates of their \
                 authorities"
                .into(),
        code: "certificate-unusable",
    }
}
