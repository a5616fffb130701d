use crate::tls::certificate::{self, Certificates, InvalidCertificate};
use crate::tls::client_certificate::{self, InvalidAuthorities};
use ahash::HashMap;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite as SuiteName, SupportedCipherSuite};
use std::sync::Arc;
use tidegate_model::{
    Authorities, CipherSuite, Diagnostic, KeyExchange, ListenerProtocol, Model, Origin, Secret, SecretKey,
    Severity, TableName, TlsAction, TlsServer, TlsTermination, TlsVersion,
};

/// The TLS configs of one snapshot, by server.
#[derive(Default)]
pub(crate) struct ServerConfigs {
    servers: HashMap<TableName, Server>,
    certificates: HashMap<SecretKey, Loaded<Secret, Arc<CertifiedKey>, InvalidCertificate>>,
    authorities: HashMap<SecretKey, Loaded<Authorities, client_certificate::Loaded, InvalidAuthorities>>,
}

/// Something of the model that was read.
struct Loaded<M, T, E> {
    /// As the model has it now.
    tried: Arc<M>,
    /// The last version that could be used, and what came of it.
    good: Option<(Arc<M>, T)>,
    /// What is wrong with the version that was tried.
    error: Option<E>,
}

impl<M, T: Clone, E: Clone> Clone for Loaded<M, T, E> {
    fn clone(&self) -> Self {
        Loaded { tried: self.tried.clone(), good: self.good.clone(), error: self.error.clone() }
    }
}

/// One TLS server that is terminated here.
struct Server {
    /// `None` while its certificates or its authorities cannot be used.
    config: Option<Arc<ServerConfig>>,
    policy: Policy,
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
    /// certificates are all missing or broken, or whose clients could not be checked, fails alone,
    /// and is named.
    pub(crate) fn build(model: &Model, previous: &ServerConfigs) -> (ServerConfigs, Vec<Diagnostic>) {
        let mut new = ServerConfigs {
            certificates: load_all(&model.secrets, &previous.certificates, certificate::load),
            authorities: load_all(&model.authorities, &previous.authorities, client_certificate::load),
            servers: HashMap::default(),
        };
        let mut diagnostics = Vec::new();
        for listener in model.listeners.values() {
            let ListenerProtocol::Tls(servers) = &listener.protocol else { continue };
            for server in servers {
                let (termination, http) = match &server.action {
                    TlsAction::Http(termination) => (termination, true),
                    TlsAction::Tcp(termination, _) => (termination, false),
                    TlsAction::Passthrough { .. } | TlsAction::Refuse(_) => continue,
                };
                let old = previous.servers.get(&server.table);
                let built = new.build_server(server, termination, http, old, &mut diagnostics);
                new.servers.insert(server.table.clone(), built);
            }
        }
        (new, diagnostics)
    }

    /// How a server is terminated; `None` while it cannot be.
    pub(crate) fn get(&self, server: &TableName) -> Option<&Arc<ServerConfig>> {
        self.servers.get(server)?.config.as_ref()
    }

    fn build_server(
        &self,
        server: &TlsServer,
        termination: &TlsTermination,
        http: bool,
        old: Option<&Server>,
        out: &mut Vec<Diagnostic>,
    ) -> Server {
        let mut policy =
            Policy { termination: termination.clone(), http, secrets: Vec::new(), authorities: Vec::new() };
        let mut keys = Vec::new();
        for name in &termination.certificates {
            match self.certificates.get(name) {
                Some(loaded) => {
                    if let Some((secret, key)) = &loaded.good {
                        keys.push(key.clone());
                        policy.secrets.push(secret.clone());
                    }
                    out.extend(loaded.complaint(server, &format!("certificate {name}")));
                }
                None => out.push(broken(server, format!("certificate {name} is not there"), NONE)),
            }
        }
        let named = termination.clients.iter().flat_map(|c| &c.authorities);
        let mut roots = Vec::new();
        for name in named.clone() {
            match self.authorities.get(name) {
                Some(loaded) => {
                    if let Some((authorities, loaded)) = &loaded.good {
                        roots.push(loaded.clone());
                        policy.authorities.push(authorities.clone());
                    }
                    out.extend(loaded.complaint(server, &format!("the authorities of clients {name}")));
                }
                None => {
                    out.push(broken(server, format!("the authorities of clients {name} are not there"), NONE))
                }
            }
        }
        // Without one of its authorities a server would refuse clients, or ask none for a certificate.
        let whole = !keys.is_empty() && roots.len() == named.count();
        if let Some(old) = old.filter(|o| whole && o.policy == policy && o.config.is_some()) {
            return Server { config: old.config.clone(), policy };
        }
        let config = whole.then(|| config(&policy, keys, &roots)).and_then(|result| {
            result
                .inspect_err(|e| out.push(broken(server, format!("TLS settings do not work: {e}"), NONE)))
                .ok()
        });
        Server { config, policy }
    }
}

impl<M, T, E: std::fmt::Display> Loaded<M, T, E> {
    /// What to say of a server that needs this, when it cannot be used.
    fn complaint(&self, server: &TlsServer, what: &str) -> Option<Diagnostic> {
        let so = if self.good.is_some() { LAST_GOOD } else { NONE };
        self.error.as_ref().map(|e| broken(server, format!("{what} cannot be used: {e}"), so))
    }
}

/// What follows from something that is broken.
const LAST_GOOD: &str = "the last good version keeps serving";
const NONE: &str = "handshakes for its hosts fail";

/// Everything of a kind, read; what did not change is shared, and what is broken stays at its last good version.
fn load_all<M: PartialEq, T: Clone, E: Clone>(
    sources: &std::collections::BTreeMap<SecretKey, Arc<M>>,
    previous: &HashMap<SecretKey, Loaded<M, T, E>>,
    load: impl Fn(&M) -> Result<T, E>,
) -> HashMap<SecretKey, Loaded<M, T, E>> {
    let load = |key: &SecretKey, source: &Arc<M>| {
        let old = previous.get(key);
        if let Some(old) = old.filter(|old| Arc::ptr_eq(&old.tried, source) || old.tried == *source) {
            return old.clone();
        }
        match load(source) {
            Ok(loaded) => Loaded { tried: source.clone(), good: Some((source.clone(), loaded)), error: None },
            Err(e) => {
                Loaded { tried: source.clone(), good: old.and_then(|old| old.good.clone()), error: Some(e) }
            }
        }
    };
    sources.iter().map(|(key, source)| (key.clone(), load(key, source))).collect()
}

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
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    // A key of its own: no session of one server resumes at another.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// The process's cryptography with the suites and groups that a server asks for.
fn provider(termination: &TlsTermination) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
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
        origin: Origin::default(),
        object: Some(server.owner.clone()),
        field: "spec.servers.tls.credentialName".into(),
        text: format!("{text} (server {}); {so}", server.table),
        advice:
            "put a certificate chain with its key into the Secret, and for clients the certificates of their \
                 authorities"
                .into(),
        code: "certificate-unusable",
    }
}
