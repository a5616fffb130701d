//! TLS towards upstreams: one rustls config for each policy of a cluster, made when the config or its secrets change.

use super::client_certificate::{self, has_name};
use super::credentials::{Credentials, Loaded};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use std::fmt::Display;
use std::sync::Arc;
use tidegate_model::{Authorities, Secret, SecretKey, ServerAuthorities, UpstreamTls};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Server names of which a policy keeps sessions to resume; of each, rustls keeps some tickets.
const SESSIONS: usize = 256;

/// Why TLS to an upstream did not come about.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum OriginateError {
    /// Its policy cannot be followed.
    #[error("TLS to this cluster is not possible: {0}")]
    Unusable(Arc<str>),
    /// The request is for a host that no server can be asked for.
    #[error("TLS to this cluster is not possible for this request: its host is no name of a server")]
    NoName,
    /// The handshake failed, mostly because the server is not who it should be.
    #[error("TLS_error: {0}")]
    Handshake(Arc<str>),
}

/// What is spoken inside, which the server is offered by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inside {
    Bytes,
    Http1,
    Http2,
}

impl Inside {
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Inside::Bytes => Vec::new(),
            Inside::Http1 => vec![b"http/1.1".to_vec()],
            Inside::Http2 => vec![b"h2".to_vec()],
        }
    }
}

/// Begins TLS to the endpoints of a cluster, by one version of its policy. What it knows of sessions is nobody else's.
pub(crate) struct Originator {
    source: Source,
    /// The name to ask for, where it is the same for all requests.
    name: Option<ServerName<'static>>,
    /// That of what is not HTTP.
    own_name: Option<ServerName<'static>>,
    config: Result<Arc<ClientConfig>, Arc<str>>,
}

/// What an [`Originator`] is made from.
struct Source {
    policy: UpstreamTls,
    /// The cluster's host.
    host: Arc<str>,
    certificate: Option<Arc<Secret>>,
    authorities: Option<Arc<Authorities>>,
    /// Whether everything that the policy names is there.
    missing: Option<Arc<str>>,
    /// Those of the system, where they count.
    system: Option<Arc<RootCertStore>>,
}

impl Originator {
    /// By a cluster's policy; the same as before while nothing has changed of it, nor of its secrets. Where something
    /// is missing, or never was any good, each handshake fails with the reason.
    pub(crate) fn build(
        policy: &UpstreamTls,
        host: &Arc<str>,
        credentials: &Credentials,
        previous: Option<&Arc<Originator>>,
    ) -> Arc<Originator> {
        let mut missing = None;
        let key = policy.certificate.as_ref().and_then(|name| {
            let found = credentials.certificates.get(name);
            good(found, "the client certificate", name, &mut missing)
        });
        let authorities = match &policy.authorities {
            ServerAuthorities::Named(name) => {
                let found = credentials.authorities.get(name);
                good(found, "the authorities of servers", name, &mut missing)
            }
            ServerAuthorities::System | ServerAuthorities::Any => None,
        };
        let system = policy.authorities == ServerAuthorities::System;
        let source = Source {
            policy: policy.clone(),
            host: host.clone(),
            certificate: key.as_ref().map(|(source, _)| source.clone()),
            authorities: authorities.as_ref().map(|(source, _)| source.clone()),
            missing: missing.clone(),
            system: system.then(|| credentials.system().clone()),
        };
        if let Some(previous) = previous.filter(|p| p.source.is(&source)) {
            return previous.clone();
        }
        let config = match missing {
            Some(why) => Err(why),
            None => {
                let loaded = authorities.map(|(_, loaded)| loaded);
                config(&source, key.map(|(_, key)| key), loaded.as_ref())
            }
        };
        let parse = |name: &str| ServerName::try_from(name.to_owned()).ok();
        let name = policy.server_name.as_deref().and_then(parse);
        let own_name = name.clone().or_else(|| parse(host));
        Arc::new(Originator { source, name, own_name, config })
    }

    /// Why every handshake fails, if so.
    pub(crate) fn unusable(&self) -> Option<&str> {
        self.config.as_ref().err().map(|why| &**why)
    }

    /// Whether the name to ask for is that of each request's host.
    pub(crate) fn asks_for_hosts(&self) -> bool {
        self.source.policy.server_name.is_none()
    }

    /// TLS on a new connection. `host` is the name of the request's host where that is asked for; without it, what
    /// goes on is no request.
    ///
    /// # Errors
    /// When the policy cannot be followed, or the handshake fails.
    pub(crate) async fn begin<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        host: Option<&ServerName<'static>>,
        inside: Inside,
    ) -> Result<TlsStream<S>, OriginateError> {
        let config = self.config.clone().map_err(OriginateError::Unusable)?;
        let name = self.name.as_ref().or(host).or(self.own_name.as_ref());
        let name = name.cloned().ok_or(OriginateError::NoName)?;
        let connector = TlsConnector::from(config);
        let begun = connector.with_alpn(inside.protocols()).connect(name, stream).await;
        begun.map_err(|e| OriginateError::Handshake(cause(&e).into()))
    }
}

impl Source {
    fn is(&self, other: &Source) -> bool {
        let Source { policy, host, certificate, authorities, missing, system } = self;
        let same_system = match (system, &other.system) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        same_system
            && (policy, host) == (&other.policy, &other.host)
            && (certificate, authorities) == (&other.certificate, &other.authorities)
            && missing == &other.missing
    }
}

/// What rustls or the system said; of what is ours, what we said.
fn cause(error: &std::io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(ours)))) => {
            format!("invalid peer certificate: {ours}")
        }
        _ => error.to_string(),
    }
}

/// The last good version of something, and what it was read from; else `missing` says why there is none.
fn good<M, T: Clone, E: Display>(
    found: Option<&Loaded<M, T, E>>,
    what: &str,
    name: &SecretKey,
    missing: &mut Option<Arc<str>>,
) -> Option<(Arc<M>, T)> {
    let loaded = found.and_then(|found| found.good.clone());
    if loaded.is_none() && missing.is_none() {
        let why = found.and_then(|found| found.error.as_ref());
        *missing = Some(match why {
            Some(why) => format!("{what} {name} cannot be used: {why}").into(),
            None => format!("{what} {name} is not there").into(),
        });
    }
    loaded
}

fn config(
    source: &Source,
    key: Option<Arc<CertifiedKey>>,
    authorities: Option<&client_certificate::Loaded>,
) -> Result<Arc<ClientConfig>, Arc<str>> {
    let unusable = |e: &dyn Display| -> Arc<str> { e.to_string().into() };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let signed = match (&source.policy.authorities, &source.system) {
        (ServerAuthorities::Any, _) => None,
        (_, Some(roots)) if roots.is_empty() => {
            return Err(
                "the system has no authorities; install them, or name others with caCertificates".into()
            );
        }
        (_, Some(roots)) => Some((roots.clone(), Vec::new())),
        (_, None) => {
            let mut roots = RootCertStore::empty();
            for root in authorities.iter().flat_map(|loaded| &loaded.roots) {
                roots.add(root.clone()).map_err(|e| unusable(&e))?;
            }
            let revoked = authorities.and_then(|loaded| loaded.revoked.clone());
            Some((Arc::new(roots), revoked.unwrap_or_default()))
        }
    };
    let signed = signed.map(|(roots, revoked)| {
        let mut builder = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
        if !revoked.is_empty() {
            builder = builder.with_crls(revoked).enforce_revocation_expiration();
        }
        builder.build()
    });
    let signed = signed.transpose().map_err(|e| unusable(&e))?;
    let verifier = Verifier::new(signed, &source.policy.names, &provider);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(&e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match key {
        None => builder.with_no_client_auth(),
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
    };
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(Arc::new(config))
}

/// Checks who signed a server's certificate, and then its names.
#[derive(Debug)]
struct Verifier {
    /// `None` accepts any certificate of which the server has the key.
    signed: Option<Arc<WebPkiServerVerifier>>,
    /// The names of which it must have one; empty asks for that of the server.
    names: Vec<Arc<str>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(signed: Option<Arc<WebPkiServerVerifier>>, names: &[Arc<str>], provider: &CryptoProvider) -> Self {
        Verifier { signed, names: names.to_vec(), algorithms: provider.signature_verification_algorithms }
    }
}

/// A certificate that is signed as it should be, of somebody else.
#[derive(Debug, thiserror::Error)]
#[error("it is for none of the names {0}")]
struct OtherName(String);

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(signed) = &self.signed else { return Ok(ServerCertVerified::assertion()) };
        let checked = signed.verify_server_cert(certificate, intermediates, name, ocsp, now);
        if self.names.is_empty() {
            return checked;
        }
        match checked {
            Ok(_) => {}
            // said after everything else was found to be right
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => {}
            Err(e) => return Err(e),
        }
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
        if has_name(&parsed, &self.names).map_err(|_| CertificateError::BadEncoding)? {
            return Ok(ServerCertVerified::assertion());
        }
        let why = OtherName(self.names.join(", "));
        Err(CertificateError::Other(OtherError(Arc::new(why))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
