//! TLS towards upstreams: one rustls config for each policy of a cluster, made when the config or its secrets change.

use super::client_certificate::{self, has_name};
use super::credentials::{Credentials, Loaded};
use super::trusted::{Peer, Trusted};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use std::fmt::Display;
use std::sync::Arc;
use tidegate_model::{Authorities, Secret, SecretKey, ServerAuthorities, UpstreamTls};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Sessions that are kept to be resumed, of one server name and in all; rustls keeps eight of a name.
const SESSIONS_OF_NAME: usize = 8;
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
    /// What of the policy is not there or was never any good, in words.
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
        let parse = |name: &str| ServerName::try_from(name.to_owned()).ok();
        let name = policy.server_name.as_deref().and_then(parse);
        let config = match (missing, &policy.server_name) {
            (Some(why), _) => Err(why),
            (None, Some(wanted)) if name.is_none() => Err(format!("{wanted} is no name of a server").into()),
            (None, _) => {
                let loaded = authorities.map(|(_, loaded)| loaded);
                config(&source, key.map(|(_, key)| key), loaded.as_ref())
            }
        };
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

/// What ended a connection, where TLS knows that: an alert of the server, mostly because it does not like our
/// certificate, which in TLS 1.3 it says after the handshake.
pub(crate) fn fault(error: &std::io::Error) -> Option<Box<str>> {
    let of_tls = error.get_ref()?.downcast_ref::<Error>()?;
    Some(of_tls.to_string().into())
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
    let algorithms = provider.signature_verification_algorithms;
    // empty where those of the system count
    let trusted = Trusted::new(authorities.map_or(&[][..], std::slice::from_ref), Peer::Server, algorithms);
    let verifier = Verifier { signed, trusted, names: source.policy.names.clone(), algorithms };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(&e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match key {
        None => builder.with_no_client_auth(),
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
    };
    let sessions = if source.policy.server_name.is_some() { SESSIONS_OF_NAME } else { SESSIONS };
    config.resumption = Resumption::in_memory_sessions(sessions);
    Ok(Arc::new(config))
}

/// Checks who signed a server's certificate, and then its names.
#[derive(Debug)]
struct Verifier {
    /// `None` accepts any certificate of which the server has the key.
    signed: Option<Arc<WebPkiServerVerifier>>,
    trusted: Trusted,
    /// The names of which it must have one; empty asks for that of the server.
    names: Vec<Arc<str>>,
    algorithms: WebPkiSupportedAlgorithms,
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
        let checked = checked.or_else(|refused| {
            self.trusted.check(certificate, refused, now)?;
            verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
            Ok(ServerCertVerified::assertion())
        });
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

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::ServerConfig;
    use tidegate_model::Model;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsAcceptor;

    struct Authority {
        pem: String,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Authority {
        fn new(name: &str) -> Authority {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            let pem = params.self_signed(&key).unwrap().pem();
            Authority { pem, issuer: Issuer::new(params, key) }
        }

        /// A certificate for these names with its key, in PEM.
        fn issue(&self, names: &[&str]) -> (String, String) {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            let key = KeyPair::generate().unwrap();
            let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
            (certificate.pem(), key.serialize_pem())
        }
    }

    fn key(name: &str) -> SecretKey {
        SecretKey { namespace: "ns".into(), name: name.into() }
    }

    fn model(authority: Option<&str>, pair: Option<(&str, &str)>) -> Model {
        let mut model = Model::default();
        if let Some(pem) = authority {
            let found = Authorities { key: key("ca"), certificates: pem.as_bytes().into(), revoked: None };
            model.authorities.insert(key("ca"), found.into());
        }
        if let Some((chain, private)) = pair {
            let (certificate_chain, private_key) = (chain.as_bytes().into(), private.as_bytes().into());
            model.secrets.insert(key("me"), Secret { key: key("me"), certificate_chain, private_key }.into());
        }
        model
    }

    fn policy(names: &[&str]) -> UpstreamTls {
        UpstreamTls {
            certificate: None,
            authorities: ServerAuthorities::Named(key("ca")),
            server_name: Some("a.example".into()),
            names: names.iter().map(|n| (*n).into()).collect(),
        }
    }

    fn build(
        policy: &UpstreamTls,
        credentials: &Credentials,
        old: Option<&Arc<Originator>>,
    ) -> Arc<Originator> {
        Originator::build(policy, &"host.example".into(), credentials, old)
    }

    /// What a server with this certificate is told, or why there is no TLS with it.
    fn speak(originator: &Originator, (chain, private): &(String, String)) -> Result<String, String> {
        use rustls::pki_types::pem::PemObject as _;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
        let private = PrivateKeyDer::from_pem_slice(private.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let server = async {
                let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(theirs).await else { return };
                stream.write_all(b"hello").await.unwrap();
                stream.flush().await.unwrap();
                let _ = stream.read(&mut [0]).await;
            };
            let client = async {
                let mut stream =
                    originator.begin(ours, None, Inside::Bytes).await.map_err(|e| e.to_string())?;
                let mut said = [0; 5];
                stream.read_exact(&mut said).await.unwrap();
                Ok(String::from_utf8_lossy(&said).into_owned())
            };
            let (said, ()) = tokio::join!(client, server);
            said
        })
    }

    #[test]
    fn who_signed_counts_before_the_names() {
        let (authority, other) = (Authority::new("one"), Authority::new("two"));
        let credentials = Credentials::load(&model(Some(&authority.pem), None), &Credentials::default());
        let (a, b) = (authority.issue(&["a.example"]), authority.issue(&["b.example", "10.0.0.1"]));
        let stranger = other.issue(&["a.example", "b.example"]);
        let other_name = Err("TLS_error: invalid peer certificate: it is for none of the names c, d");
        for (names, certificate, expected) in [
            (&[][..], &a, Ok(())),
            (
                &[],
                &b,
                Err("TLS_error: invalid peer certificate: certificate not valid for name \"a.example\""),
            ),
            (&[], &stranger, Err("TLS_error: invalid peer certificate: UnknownIssuer")),
            (&["c", "b.example"], &b, Ok(())),
            (&["10.0.0.1"], &b, Ok(())),
            (&["c", "d"], &a, other_name),
            (&["c", "d"], &b, other_name),
            (&["b.example"], &stranger, Err("TLS_error: invalid peer certificate: UnknownIssuer")),
        ] {
            let got = speak(&build(&policy(names), &credentials, None), certificate);
            match (got, expected) {
                (Ok(said), Ok(())) => assert_eq!(said, "hello"),
                (Err(e), Err(why)) => assert!(e.starts_with(why), "{names:?}: {e}"),
                (got, expected) => panic!("{names:?}: {got:?} and not {expected:?}"),
            }
        }
        let any = UpstreamTls { authorities: ServerAuthorities::Any, ..policy(&["c"]) };
        assert_eq!(speak(&build(&any, &credentials, None), &stranger).as_deref(), Ok("hello"));
    }

    #[test]
    fn one_lasts_while_nothing_changes_of_it_and_what_is_broken_changes_nothing() {
        let authority = Authority::new("one");
        let (first, second) = (authority.issue(&["me"]), authority.issue(&["me"]));
        let with = |pair: &(String, String), before: &Credentials| {
            Credentials::load(&model(Some(&authority.pem), Some((&pair.0, &pair.1))), before)
        };
        let mutual = UpstreamTls { certificate: Some(key("me")), ..policy(&[]) };
        let mut credentials = with(&first, &Credentials::default());
        let one = build(&mutual, &credentials, None);
        assert_eq!(one.unusable(), None);
        credentials = with(&first, &credentials);
        assert!(Arc::ptr_eq(&one, &build(&mutual, &credentials, Some(&one))));
        for other in [policy(&[]), UpstreamTls { server_name: None, ..mutual.clone() }] {
            assert!(!Arc::ptr_eq(&one, &build(&other, &credentials, Some(&one))));
        }
        // of a pair that does not belong together, nothing is used
        credentials = with(&(second.0.clone(), first.1.clone()), &credentials);
        assert!(Arc::ptr_eq(&one, &build(&mutual, &credentials, Some(&one))), "the last good one");
        credentials = with(&second, &credentials);
        let two = build(&mutual, &credentials, Some(&one));
        assert!(!Arc::ptr_eq(&one, &two) && two.unusable().is_none());
        credentials = Credentials::load(&model(Some(&authority.pem), None), &credentials);
        let gone = build(&mutual, &credentials, Some(&two));
        assert_eq!(gone.unusable(), Some("the client certificate ns/me is not there"));
        assert_eq!(
            speak(&gone, &authority.issue(&["a.example"])).unwrap_err(),
            "TLS to this cluster is not possible: the client certificate ns/me is not there"
        );
        let nobody = UpstreamTls { server_name: Some("no name".into()), ..policy(&[]) };
        assert_eq!(build(&nobody, &credentials, None).unusable(), Some("no name is no name of a server"));
        let broken = Credentials::load(&model(Some("no PEM"), None), &Credentials::default());
        let why = build(&policy(&[]), &broken, None).unusable().unwrap().to_owned();
        assert_eq!(why, "the authorities of servers ns/ca cannot be used: there is no authority in it");
    }
}
