//! An upstream that wants TLS, or a PROXY header, and says in its answers what it saw of them.

use crate::{Authority, Identity};
use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// What an [`Upstream`] wants and offers.
#[derive(Clone, Default)]
pub struct Wants {
    /// TLS with this certificate.
    pub tls: Option<Identity>,
    /// Certificates of clients, signed by this authority (PEM).
    pub clients: Option<String>,
    /// The protocols that it knows by ALPN.
    pub alpn: Vec<&'static str>,
    /// A PROXY header in front of everything.
    pub proxy_header: bool,
    /// No HTTP: bytes, which it sends back.
    pub bytes: bool,
}

/// What an upstream saw of a connection. HTTP requests are answered with it as JSON; a connection of bytes begins
/// with it on a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The number of the connection, from 1.
    pub connection: usize,
    /// What the PROXY header says: its version, source and destination.
    pub proxied: Option<String>,
    /// The name that was asked for.
    pub sni: Option<String>,
    /// The protocol that was agreed on.
    pub alpn: Option<String>,
    /// Whether a session was resumed.
    pub resumed: bool,
    /// The key exchange.
    pub group: Option<String>,
    /// The subject of the client's certificate.
    pub client: Option<String>,
    /// The version of HTTP of the request.
    pub http: Option<String>,
    /// Its path.
    pub path: Option<String>,
}

/// A listener, which ends with this.
pub struct Upstream {
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<Seen>>>,
    listener: JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Upstream {
    /// Listens on an address.
    pub async fn listen(at: SocketAddr, wants: Wants) -> Result<Upstream> {
        let listener = TcpListener::bind(at).await.with_context(|| format!("an upstream at {at}"))?;
        let connections = Arc::new(AtomicUsize::new(0));
        let acceptor = wants.tls.as_ref().map(|identity| acceptor(identity, &wants)).transpose()?;
        let requests: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (count, wants, record) = (connections.clone(), Arc::new(wants), requests.clone());
        let listener = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Seen { connection: count.fetch_add(1, Ordering::Relaxed) + 1, ..Seen::default() };
                serving.spawn(serve(stream, seen, wants.clone(), acceptor.clone(), record.clone()));
                while serving.try_join_next().is_some() {}
            }
        });
        Ok(Upstream { connections, requests, listener })
    }

    /// The requests that it has answered.
    pub fn requests(&self) -> Vec<Seen> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

fn acceptor(identity: &Identity, wants: &Wants) -> Result<TlsAcceptor> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let clients = match &wants.clients {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(Authority::parse(authority)?)?;
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(identity.chain(), identity.private_key())?;
    config.alpn_protocols = wants.alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(
    mut stream: TcpStream,
    mut seen: Seen,
    wants: Arc<Wants>,
    tls: Option<TlsAcceptor>,
    record: Arc<Mutex<Vec<Seen>>>,
) {
    let _ = stream.set_nodelay(true);
    if wants.proxy_header {
        match proxy_header(&mut stream).await {
            Some(header) => seen.proxied = Some(header),
            None => return,
        }
    }
    let Some(tls) = tls else { return talk(stream, seen, wants.bytes, record).await };
    let stream = match tls.accept(stream).into_fallible().await {
        Ok(stream) => stream,
        // what it was told must not be lost for what it sent meanwhile
        Err((_, mut stream)) => {
            let _ = stream.shutdown().await;
            while let Ok(1..) = stream.read(&mut [0; 1024]).await {}
            return;
        }
    };
    let session = stream.get_ref().1;
    seen.sni = session.server_name().map(ToOwned::to_owned);
    seen.alpn = session.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned());
    seen.resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    seen.group = session.negotiated_key_exchange_group().map(|g| format!("{:?}", g.name()));
    seen.client = session.peer_certificates().and_then(|chain| chain.first()).map(|leaf| {
        x509_parser::parse_x509_certificate(leaf)
            .map_or_else(|e| e.to_string(), |(_, c)| c.subject().to_string())
    });
    talk(stream, seen, wants.bytes, record).await;
}

async fn talk<S>(mut stream: S, seen: Seen, bytes: bool, record: Arc<Mutex<Vec<Seen>>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if !bytes {
        let service = service_fn(move |request| answer(request, seen.clone(), record.clone()));
        let builder = auto::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        return;
    }
    let line = serde_json::to_string(&seen).unwrap_or_default() + "\n";
    let _ = stream.write_all(line.as_bytes()).await;
    let _ = stream.flush().await;
    let mut buffer = [0; 4096];
    while let Ok(n) = stream.read(&mut buffer).await {
        if n == 0 || stream.write_all(&buffer[..n]).await.is_err() || stream.flush().await.is_err() {
            let _ = stream.shutdown().await;
            return;
        }
    }
}

async fn answer(
    request: http::Request<Incoming>,
    seen: Seen,
    record: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let http = match request.version() {
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    };
    let path = Some(request.uri().path().to_owned());
    // a body must not stand in front of the next request
    let _ = request.into_body().collect().await;
    let seen = Seen { http: Some(http.to_owned()), path, ..seen };
    record.lock().unwrap_or_else(PoisonError::into_inner).push(seen.clone());
    Ok(Response::new(Full::from(serde_json::to_string(&seen).unwrap_or_default())))
}

/// What a PROXY header says, read byte for byte so that nothing behind it is taken.
async fn proxy_header(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while head.starts_with(b"\r\n") || !head.ends_with(b"\r\n") {
        head.push(stream.read_u8().await.ok()?);
        if head == b"\r\n\r\n\0\r\nQUIT\n" {
            return version_2(stream).await;
        }
        if head.len() > 107 {
            return None;
        }
    }
    let line = String::from_utf8(head).ok()?;
    let words: Vec<&str> = line.trim_end().split(' ').collect();
    match words.as_slice() {
        ["PROXY", "TCP4" | "TCP6", from, to, from_port, to_port] => {
            let at = |ip: &str, port: &str| Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?));
            Some(format!("V1 {} {}", at(from, from_port)?, at(to, to_port)?))
        }
        _ => None,
    }
}

async fn version_2(stream: &mut TcpStream) -> Option<String> {
    let (command, family) = (stream.read_u8().await.ok()?, stream.read_u8().await.ok()?);
    let mut body = vec![0; usize::from(stream.read_u16().await.ok()?)];
    stream.read_exact(&mut body).await.ok()?;
    let port = |at: usize| Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?));
    let v4 = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(body.get(at..at + 4)?).ok()?));
    let v6 = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(body.get(at..at + 16)?).ok()?));
    let (from, to) = match (command, family) {
        (0x21, 0x11) => (SocketAddr::new(v4(0)?.into(), port(8)?), SocketAddr::new(v4(4)?.into(), port(10)?)),
        (0x21, 0x21) => {
            (SocketAddr::new(v6(0)?.into(), port(32)?), SocketAddr::new(v6(16)?.into(), port(34)?))
        }
        (0x20, _) => return Some("V2 LOCAL".into()),
        _ => return None,
    };
    Some(format!("V2 {from} {to}"))
}
