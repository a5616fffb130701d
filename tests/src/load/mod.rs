//! A closed loop of requests like a browser's, calls and messages, an origin that answers them, and the config between:
//! what the budgets and the bench measure with.

mod callgrind;
mod forget;
mod frames;
mod grpc;
mod http1;
mod http2;
mod many;
mod origin;
mod rated;
mod site;
mod websocket;

pub use callgrind::{Counts, Profile};
pub use grpc::message;
pub use many::{ROUTES_OF_HOST, hosts_of, prefixes_of, table_of, with_answer};
pub use origin::{serve as serve_origins, serve_tls as serve_tls_origin};
pub use rated::{Latencies, run_at};
pub use site::{
    ADMITTED, BANNED, CLOSED, GRPC_HOST, HOSTS, METHODS, OPEN, PREFIXES, access_log, featured_site,
    grpc_upstream, host, policies, site, tls_upstream,
};

use anyhow::{Context, Result};
use http2::Call;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio_rustls::TlsConnector;

/// The fields of every request beside `Host`, as a browser sends them: with it about 650 bytes.
pub(crate) const FIELDS: [(&str, &str); 12] = [
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
    ("Accept-Language", "en-US,en;q=0.5"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Referer", "http://bench.example/start/page"),
    ("Cookie", "session=0123456789abcdef0123456789abcdef; theme=dark; lang=en"),
    ("Sec-Fetch-Dest", "document"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Site", "same-origin"),
    ("Upgrade-Insecure-Requests", "1"),
    ("Priority", "u=0, i"),
    ("X-Debug", "1"),
];

/// The path of a request for 1 KB.
pub(crate) const SMALL: &str = "/svc3/items/42?page=2&sort=asc";
/// Where a collector takes spans, which are answered with nothing.
pub(crate) const SPANS: &str = "/v1/traces";
/// The path of a request for 100 KB.
pub(crate) const LARGE: &str = "/svc5/100k";
/// The path of a request for 1 MiB.
pub(crate) const HUGE: &str = "/svc5/1m";
/// Where messages are echoed.
pub(crate) const WEBSOCKET: &str = "/ws";
/// The method that gRPC calls.
pub const METHOD: &str = "/bench.Echo/Say";
/// Bytes of a small answer.
pub(crate) const KILOBYTE: usize = 1 << 10;
/// Bytes of a large body.
pub(crate) const MEBIBYTE: usize = 1 << 20;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `GET` of 1 KB over HTTP/1.1.
    Get,
    /// `POST` of 10 KB, answered with 1 KB, over HTTP/1.1.
    Post,
    /// `GET` of 100 KB over HTTP/1.1.
    Large,
    /// `GET` of 1 MiB over HTTP/1.1.
    Download,
    /// `POST` of 1 MiB, answered with 1 KB, over HTTP/1.1.
    Upload,
    /// `GET` of 1 KB over HTTP/1.1 and TLS 1.3.
    TlsGet,
    /// `GET` of 1 KB over HTTP/2 and TLS 1.3, ten streams a connection.
    Http2Get,
    /// A new TLS 1.3 connection (X25519, no resumption) with one `GET` of 1 KB over HTTP/1.1.
    NewTls,
    /// `GET` of 1 KB over HTTP/1.1, for which the proxy makes a new TLS 1.3 connection (X25519, no resumption) to the
    /// origin and verifies it.
    UpstreamTls,
    /// A unary gRPC call of a hundred bytes, answered with as many, over HTTP/2 and TLS 1.3, ten streams a connection; on
    /// to the origin over HTTP/2 in plaintext.
    Grpc,
    /// A WebSocket message of 128 bytes, which comes back, over HTTP/1.1.
    WebSocket,
}

impl Shape {
    /// All of them.
    pub const ALL: [Shape; 11] = [
        Shape::Get,
        Shape::Post,
        Shape::Large,
        Shape::Download,
        Shape::Upload,
        Shape::TlsGet,
        Shape::Http2Get,
        Shape::NewTls,
        Shape::UpstreamTls,
        Shape::Grpc,
        Shape::WebSocket,
    ];

    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Get => "get",
            Shape::Post => "post-10k",
            Shape::Large => "get-100k",
            Shape::Download => "get-1m",
            Shape::Upload => "post-1m",
            Shape::TlsGet => "tls-get",
            Shape::Http2Get => "h2-get",
            Shape::NewTls => "tls-new",
            Shape::UpstreamTls => "up-tls",
            Shape::Grpc => "grpc",
            Shape::WebSocket => "ws",
        }
    }

    /// The shape with this name.
    pub fn named(name: &str) -> Option<Shape> {
        Shape::ALL.into_iter().find(|s| s.name() == name)
    }

    /// Whether it is sent over TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, Shape::TlsGet | Shape::Http2Get | Shape::NewTls | Shape::Grpc)
    }

    /// Whether it is sent over HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Shape::Http2Get | Shape::Grpc)
    }
}

/// When a load ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so many requests.
    Requests(u64),
    /// At this time.
    Time(Instant),
}

/// What is left to send, shared by the connections of one load.
pub(crate) struct Tickets {
    until: Until,
    taken: Cell<u64>,
}

impl Tickets {
    /// Whether one more request may be sent.
    pub(crate) fn take(&self) -> bool {
        let open = match self.until {
            Until::Requests(n) => self.taken.get() < n,
            Until::Time(end) => Instant::now() < end,
        };
        self.taken.set(self.taken.get() + u64::from(open));
        open
    }
}

/// Sends requests over so many connections, each with one in flight (ten over HTTP/2), and returns
/// how many were answered as they must be.
///
/// # Errors
/// At the first request that fails, or whose answer has another status or length.
pub async fn run(to: SocketAddr, shape: Shape, connections: usize, until: Until) -> Result<u64> {
    let tickets = Rc::new(Tickets { until, taken: Cell::new(0) });
    let tls = client_config(shape)?;
    let request = Rc::new(http1::Request::new(shape));
    let set = LocalSet::new();
    set.run_until(async {
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            tasks.spawn_local(connection(to, shape, tls.clone(), request.clone(), tickets.clone()));
        }
        let mut answered = 0;
        while let Some(done) = tasks.join_next().await {
            answered += done?.with_context(|| format!("{} to {to}", shape.name()))?;
        }
        Ok(answered)
    })
    .await
}

async fn connection(
    to: SocketAddr,
    shape: Shape,
    tls: Arc<ClientConfig>,
    request: Rc<http1::Request>,
    tickets: Rc<Tickets>,
) -> Result<u64> {
    match shape {
        Shape::NewTls => {
            let (mut buffer, mut answered) = (vec![0; 4 << 10], 0);
            while tickets.take() {
                let mut stream = handshake(to, tls.clone()).await?;
                http1::exchange(&mut stream, &request, &mut buffer).await?;
                answered += 1;
            }
            Ok(answered)
        }
        Shape::Http2Get => http2::run(handshake(to, tls).await?, &Call::get(), &tickets).await,
        Shape::Grpc => http2::run(handshake(to, tls).await?, &Call::grpc(), &tickets).await,
        Shape::TlsGet => http1::run(handshake(to, tls).await?, &request, &tickets).await,
        Shape::WebSocket => websocket::run(connect(to).await?, &tickets).await,
        _ => http1::run(connect(to).await?, &request, &tickets).await,
    }
}

async fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn handshake(
    to: SocketAddr,
    config: Arc<ClientConfig>,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let name = ServerName::try_from(host(0))?;
    Ok(TlsConnector::from(config).connect(name, connect(to).await?).await?)
}

fn client_config(shape: Shape) -> Result<Arc<ClientConfig>> {
    let alpn = if shape.is_http2() { "h2" } else { "http/1.1" };
    let mut config = crate::client::trusting(
        &[&rustls::version::TLS13],
        Some(rustls::crypto::aws_lc_rs::kx_group::X25519),
    )?
    .with_no_client_auth();
    config.alpn_protocols = vec![alpn.into()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Holds idle connections, each after one answered request, until it is dropped.
pub struct Idle(#[expect(dead_code, reason = "held, not used")] Vec<Box<dyn crate::client::Io>>);

/// Opens so many connections, plain or TLS as the shape says, with one request each.
///
/// # Errors
/// When a request fails.
pub async fn idle(to: SocketAddr, shape: Shape, connections: usize) -> Result<Idle> {
    let (request, tls) = (http1::Request::new(shape), client_config(shape)?);
    let mut held: Vec<Box<dyn crate::client::Io>> = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut stream: Box<dyn crate::client::Io> = match shape.is_tls() {
            true => Box::new(handshake(to, tls.clone()).await?),
            false => Box::new(connect(to).await?),
        };
        http1::exchange(&mut stream, &request, &mut vec![0; 4 << 10]).await?;
        held.push(stream);
    }
    Ok(Idle(held))
}
