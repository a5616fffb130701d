//! One downstream request, byte for byte as the test wants it.

use crate::{Identity, http1, http2};
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, SignatureScheme};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpSocket;

/// The HTTP version that a request is sent with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2, with prior knowledge where there is no ALPN
    Http2,
}

/// What the request says about its host.
#[derive(Clone, Debug)]
pub enum Host {
    /// No `Host` header at all.
    None,
    /// This authority.
    Named(String),
}

/// The TLS side of a request.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The server name to send; `None` sends none.
    pub sni: Option<String>,
    /// The protocols to offer.
    pub alpn: Vec<&'static str>,
    /// `1.2` or `1.3` alone.
    pub version: Option<String>,
    /// The client's certificate.
    pub identity: Option<Identity>,
}

/// A request of a client.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where it is sent.
    pub to: SocketAddr,
    /// The client's address; `None` lets the system choose.
    pub from: Option<IpAddr>,
    /// TLS, or plaintext.
    pub tls: Option<Tls>,
    /// The HTTP version.
    pub version: Version,
    /// The method.
    pub method: String,
    /// The path with its query, sent as it is.
    pub path: String,
    /// The authority.
    pub host: Host,
    /// Headers in their order; names may repeat. The client adds none but `Host` and `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Option<Vec<u8>>,
    /// Whether to watch if the connection is closed after the answer.
    pub watch_close: bool,
    /// How long to wait for an answer.
    pub patience: Duration,
}

impl Request {
    /// `GET /` over HTTP/1.1 in plaintext.
    pub fn to(to: SocketAddr) -> Self {
        Request {
            to,
            from: None,
            tls: None,
            version: Version::Http11,
            method: "GET".into(),
            path: "/".into(),
            host: Host::Named("localhost".into()),
            headers: Vec::new(),
            body: None,
            watch_close: false,
            patience: Duration::from_secs(25),
        }
    }

    /// With this path and query.
    pub fn path(mut self, path: &str) -> Self {
        self.path = path.into();
        self
    }

    /// With this authority.
    pub fn host(mut self, host: &str) -> Self {
        self.host = Host::Named(host.into());
        self
    }

    /// With one more header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With this method.
    pub fn method(mut self, method: &str) -> Self {
        self.method = method.into();
        self
    }

    /// With this HTTP version.
    pub fn version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// Over TLS with this server name and the ALPN of the version.
    pub fn tls(mut self, sni: &str) -> Self {
        let alpn = if self.version == Version::Http2 { "h2" } else { "http/1.1" };
        self.tls = Some(Tls { sni: Some(sni.into()), alpn: vec![alpn], ..Tls::default() });
        self
    }
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`, as the server said.
    pub version: String,
    /// Headers, names in lower case, with HTTP/2 trailers at the end.
    pub headers: Vec<(String, String)>,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// The certificate that the server showed, DER.
    pub certificate: Option<Vec<u8>>,
    /// The protocol that ALPN settled on.
    pub alpn: Option<String>,
    /// With `watch_close`: whether the server closed the connection after its answer.
    pub closed_after: Option<bool>,
    /// What came back over an upgraded connection.
    pub after_upgrade: Option<Vec<u8>>,
    /// From connecting to the last byte.
    pub elapsed: Duration,
}

impl Answer {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `null` where it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// All values of a header, comma-joined lines split.
pub fn values(headers: &[(String, String)], name: &str) -> Vec<String> {
    let mine = headers.iter().filter(|(k, _)| k.eq_ignore_ascii_case(name));
    mine.flat_map(|(_, v)| v.split(',').map(|x| x.trim().to_owned())).collect()
}

/// Why there was no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing listens there.
    Refused,
    /// No answer in time.
    Timeout,
    /// The server said goodbye before it took the request (RFC 9113 6.8): it may be sent again elsewhere.
    Goodbye,
    /// The connection or stream ended without an answer, or with one that is no HTTP.
    Closed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused => f.write_str("connection refused"),
            Failure::Timeout => f.write_str("no answer in time"),
            Failure::Goodbye => f.write_str("the server said goodbye"),
            Failure::Closed(why) => write!(f, "closed: {why}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        match e.kind() {
            std::io::ErrorKind::ConnectionRefused => Failure::Refused,
            _ => Failure::Closed(e.to_string()),
        }
    }
}

/// Any byte stream.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Sends one request on a connection of its own.
pub async fn exchange(request: &Request) -> Result<Answer, Failure> {
    let begun = Instant::now();
    let sent = async {
        let mut connection = Connection::open(request).await?;
        connection.send(request).await
    };
    let mut answer = tokio::time::timeout(request.patience, sent).await.map_err(|_| Failure::Timeout)??;
    answer.elapsed = begun.elapsed();
    Ok(answer)
}

/// `GET` of a path at a host over HTTP/1.1.
pub async fn get(to: SocketAddr, host: &str, path: &str) -> Result<Answer, Failure> {
    exchange(&Request::to(to).host(host).path(path)).await
}

/// An open HTTP/1 or HTTP/2 connection, for several requests one after the other.
pub struct Connection {
    protocol: Protocol,
    certificate: Option<Vec<u8>>,
    alpn: Option<String>,
}

enum Protocol {
    Http1(http1::Stream),
    Http2(http2::Client),
}

impl Connection {
    /// Connects as the request asks: address, TLS, version.
    pub async fn open(request: &Request) -> Result<Self, Failure> {
        let socket = TcpSocket::new_v4()?;
        if let Some(from) = request.from {
            socket.bind(SocketAddr::new(from, 0))?;
        }
        let tcp = socket.connect(request.to).await?;
        tcp.set_nodelay(true)?;
        let (mut certificate, mut alpn) = (None, None);
        let io: Box<dyn Io> = match &request.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let name = server_name(tls)?;
                let stream = tokio_rustls::TlsConnector::from(Arc::new(client_config(tls)?))
                    .connect(name, tcp)
                    .await?;
                let session = stream.get_ref().1;
                certificate = session.peer_certificates().and_then(|c| c.first()).map(|c| c.to_vec());
                alpn = session.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned());
                Box::new(stream)
            }
        };
        let protocol = match request.version {
            Version::Http2 => Protocol::Http2(http2::Client::open(io).await?),
            _ => Protocol::Http1(http1::Stream::new(io)),
        };
        Ok(Connection { protocol, certificate, alpn })
    }

    /// Sends a request and reads its whole answer.
    pub async fn send(&mut self, request: &Request) -> Result<Answer, Failure> {
        let mut answer = match &mut self.protocol {
            Protocol::Http1(stream) => http1::exchange(stream, request).await?,
            Protocol::Http2(client) => client.exchange(request).await?,
        };
        answer.certificate.clone_from(&self.certificate);
        answer.alpn.clone_from(&self.alpn);
        Ok(answer)
    }

    /// Sends these bytes and reads one HTTP/1 answer; `method` says how it is framed.
    pub async fn send_raw(
        &mut self,
        bytes: &[u8],
        method: &str,
        watch_close: bool,
    ) -> Result<Answer, Failure> {
        let Protocol::Http1(stream) = &mut self.protocol else {
            return Err(Failure::Closed("raw bytes need an HTTP/1 connection".into()));
        };
        stream.send(bytes).await?;
        let mut answer = http1::read_answer(stream, method).await?;
        if watch_close {
            answer.closed_after = Some(http1::is_closed(stream).await);
        }
        Ok(answer)
    }

    /// Sends these bytes and reads as many back, as from an echoing TCP server.
    pub async fn echo(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
        let Protocol::Http1(stream) = &mut self.protocol else {
            return Err(Failure::Closed("raw bytes need an HTTP/1 connection".into()));
        };
        stream.send(bytes).await?;
        stream.exactly(bytes.len()).await
    }

    /// Reads so many bytes, as of a TCP server.
    pub async fn read(&mut self, n: usize) -> Result<Vec<u8>, Failure> {
        let Protocol::Http1(stream) = &mut self.protocol else {
            return Err(Failure::Closed("raw bytes need an HTTP/1 connection".into()));
        };
        stream.exactly(n).await
    }
}

fn server_name(tls: &Tls) -> Result<ServerName<'static>, Failure> {
    match tls.sni.as_deref().filter(|n| !n.is_empty()) {
        Some(name) => ServerName::try_from(name.to_owned())
            .map_err(|e| Failure::Closed(format!("server name {name}: {e}"))),
        // never sent: see `enable_sni`
        None => Ok(ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST))),
    }
}

fn client_config(tls: &Tls) -> Result<ClientConfig, Failure> {
    let versions: &[&rustls::SupportedProtocolVersion] = match tls.version.as_deref() {
        None => rustls::DEFAULT_VERSIONS,
        Some("1.2") => &[&rustls::version::TLS12],
        Some("1.3") => &[&rustls::version::TLS13],
        Some(v) => return Err(Failure::Closed(format!("this client speaks no TLS {v}"))),
    };
    let failed = |e: anyhow::Error| Failure::Closed(e.to_string());
    let builder = trusting(versions, None).map_err(failed)?;
    let mut config = match &tls.identity {
        Some(me) => builder
            .with_client_auth_cert(me.chain(), me.private_key())
            .map_err(|e| Failure::Closed(e.to_string()))?,
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = tls.sni.as_deref().is_some_and(|n| !n.is_empty());
    config.alpn_protocols = tls.alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Ok(config)
}

/// A client that accepts any certificate, with these versions, and with this key exchange alone where one is given.
pub(crate) fn trusting(
    versions: &[&'static rustls::SupportedProtocolVersion],
    key_exchange: Option<&'static dyn rustls::crypto::SupportedKxGroup>,
) -> anyhow::Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let mut provider = aws_lc_rs::default_provider();
    if let Some(group) = key_exchange {
        provider.kx_groups = vec![group];
    }
    let provider = Arc::new(provider);
    let verifier = Arc::new(TrustAll(provider.signature_verification_algorithms));
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier))
}

/// Accepts any certificate: the tests look at it themselves.
#[derive(Debug)]
struct TrustAll(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
