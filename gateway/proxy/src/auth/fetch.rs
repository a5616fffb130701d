use super::target::{InvalidTarget, Target};
use crate::reserved::is_allowed;
use crate::tls;
use crate::upstream::{Resolve, SystemResolver};
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The largest document.
const LARGEST: usize = 1 << 20;
/// How many redirects are followed.
const REDIRECTS: usize = 5;

/// How the keys that tokens are verified with may be fetched.
#[derive(Clone, Debug, Default)]
pub struct KeyFetching {
    /// Networks that keys may be fetched from although they are local: loopback, link-local, or a cloud's metadata.
    pub allowed: Vec<IpNet>,
    /// Certificates (PEM) of authorities that are trusted beside those of the system.
    pub roots: Vec<u8>,
}

/// Why the authorities are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRoots {
    /// No PEM.
    #[error("there is no certificate (PEM) in it")]
    Empty,
    /// A certificate that is none.
    #[error("a certificate in it cannot be used: {0}")]
    Certificate(String),
}

/// Gets a document.
#[async_trait]
pub(super) trait Fetch: Send + Sync {
    async fn get(&self, url: &str, time: Duration) -> Result<Bytes, FetchError>;
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0}")]
    Target(#[from] InvalidTarget),
    #[error("its name does not resolve: {0}")]
    Name(String),
    #[error("{0} is local, and --jwks-allow does not name it")]
    Local(IpAddr),
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, std::io::Error),
    #[error("TLS: {0}")]
    Tls(std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("it redirects more than {REDIRECTS} times")]
    Redirects,
    #[error("its answer is cut off, or larger than {LARGEST} bytes")]
    Body,
    #[error("no answer within {0:?}")]
    Time(Duration),
    #[error("its answer {0}")]
    Content(&'static str),
}

/// Fetches over the network.
pub(crate) struct HttpFetch {
    resolver: SystemResolver,
    allowed: Vec<IpNet>,
    extra_roots: Vec<CertificateDer<'static>>,
    tls: OnceLock<Arc<ClientConfig>>,
}

impl HttpFetch {
    /// # Errors
    /// When the authorities cannot be used.
    pub(crate) fn new(options: &KeyFetching) -> Result<Self, InvalidRoots> {
        let wrong = |e: &dyn std::fmt::Display| InvalidRoots::Certificate(e.to_string());
        let mut extra_roots = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(&options.roots) {
            let certificate = certificate.map_err(|e| wrong(&e))?;
            RootCertStore::empty().add(certificate.clone()).map_err(|e| wrong(&e))?;
            extra_roots.push(certificate);
        }
        if extra_roots.is_empty() && !options.roots.is_empty() {
            return Err(InvalidRoots::Empty);
        }
        Ok(HttpFetch {
            resolver: SystemResolver::default(),
            allowed: options.allowed.clone(),
            extra_roots,
            tls: OnceLock::new(),
        })
    }

    /// Names are resolved by this resolver.
    pub(crate) fn with_resolver(mut self, resolver: SystemResolver) -> Self {
        self.resolver = resolver;
        self
    }

    async fn follow(&self, url: &str) -> Result<Bytes, FetchError> {
        let mut target = Target::parse(url)?;
        for _ in 0..=REDIRECTS {
            let response = self.ask(&target).await?;
            let status = response.status();
            if status.is_success() {
                let body = Limited::new(response.into_body(), LARGEST).collect().await;
                return Ok(body.map_err(|_| FetchError::Body)?.to_bytes());
            }
            let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok());
            match location.filter(|_| matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)) {
                Some(location) => target = target.redirected(location)?,
                None => return Err(FetchError::Status(status)),
            }
        }
        Err(FetchError::Redirects)
    }

    async fn ask(&self, target: &Target) -> Result<Response<Incoming>, FetchError> {
        let stream = self.connect(target).await?;
        if !target.tls {
            return exchange(stream, target).await;
        }
        let wrong = |e: &dyn std::fmt::Display| FetchError::Tls(std::io::Error::other(e.to_string()));
        let name = ServerName::try_from(target.host.clone()).map_err(|e| wrong(&e))?;
        let config = self.tls_config().map_err(|e| wrong(&e))?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(FetchError::Tls)?;
        exchange(stream, target).await
    }

    /// Connects to the first address that answers, and never to one that is not allowed: what was resolved is what is
    /// connected to, so that no second answer of a name server can lead elsewhere.
    async fn connect(&self, target: &Target) -> Result<TcpStream, FetchError> {
        let addresses = match target.host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.resolver.resolve(&target.host).await.map_err(FetchError::Name)?.addresses,
        };
        let mut error = FetchError::Name("no addresses".into());
        for address in addresses {
            if !is_allowed(address, &self.allowed) {
                error = FetchError::Local(address);
                continue;
            }
            let address = SocketAddr::new(address, target.port);
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(e) => error = FetchError::Connect(address, e),
            }
        }
        Err(error)
    }

    /// With the authorities of the system, read when they are first needed.
    fn tls_config(&self) -> Result<Arc<ClientConfig>, rustls::Error> {
        if let Some(config) = self.tls.get() {
            return Ok(config.clone());
        }
        let mut roots = tls::system_authorities();
        roots.add_parsable_certificates(self.extra_roots.iter().cloned());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(self.tls.get_or_init(|| Arc::new(config)).clone())
    }
}

#[async_trait]
impl Fetch for HttpFetch {
    async fn get(&self, url: &str, time: Duration) -> Result<Bytes, FetchError> {
        tokio::time::timeout(time, self.follow(url)).await.unwrap_or(Err(FetchError::Time(time)))
    }
}

async fn exchange<S>(stream: S, target: &Target) -> Result<Response<Incoming>, FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // ends with the response, or when that is dropped
    tokio::spawn(async move { drop(connection.await) });
    let request = Request::get(&target.path)
        .header(HOST, &target.authority)
        .header(USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "application/json")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| InvalidTarget::Url)?;
    Ok(sender.send_request(request).await?)
}
