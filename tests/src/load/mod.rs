//! A closed loop of requests like a browser's, an origin that answers them, and the config between:
//! what the budgets and the bench measure with.

mod callgrind;
mod http1;
mod http2;
mod many;
mod origin;
mod rated;
mod site;

pub use callgrind::{Counts, Profile};
pub use many::{ROUTES_OF_HOST, hosts_of, prefixes_of, table_of, with_answer};
pub use origin::{serve as serve_origins, serve_tls as serve_tls_origin};
pub use rated::{Latencies, run_at};
pub use site::{HOSTS, PREFIXES, featured_site, host, site, tls_upstream};

use anyhow::{Context, Result};
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
/// Bytes that a `POST` carries.
pub(crate) const UPLOAD: usize = 10 << 10;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `GET` of 1 KB over HTTP/1.1.
    Get,
    /// `POST` of 10 KB, answered with 1 KB, over HTTP/1.1.
    Post,
    /// `GET` of 100 KB over HTTP/1.1.
    Large,
    /// `GET` of 1 KB over HTTP/1.1 and TLS 1.3.
    TlsGet,
    /// `GET` of 1 KB over HTTP/2 and TLS 1.3, ten streams a connection.
    Http2Get,
    /// A new TLS 1.3 connection (X25519, no resumption) with one `GET` of 1 KB over HTTP/1.1.
    NewTls,
    /// `GET` of 1 KB over HTTP/1.1, for which the proxy makes a new TLS 1.3 connection (X25519, no resumption) to the
    /// origin and verifies it.
    UpstreamTls,
}

impl Shape {
    /// All of them.
    pub const ALL: [Shape; 7] = [
        Shape::Get,
        Shape::Post,
        Shape::Large,
        Shape::TlsGet,
        Shape::Http2Get,
        Shape::NewTls,
        Shape::UpstreamTls,
    ];

    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Get => "get",
            Shape::Post => "post-10k",
            Shape::Large => "get-100k",
            Shape::TlsGet => "tls-get",
            Shape::Http2Get => "h2-get",
            Shape::NewTls => "tls-new",
            Shape::UpstreamTls => "up-tls",
        }
    }

    /// The shape with this name.
    pub fn named(name: &str) -> Option<Shape> {
        Shape::ALL.into_iter().find(|s| s.name() == name)
    }

    /// Whether it is sent over TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, Shape::TlsGet | Shape::Http2Get | Shape::NewTls)
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
/// how many were answered with 200.
///
/// # Errors
/// At the first request that fails or is answered with another status.
pub async fn run(to: SocketAddr, shape: Shape, connections: usize, until: Until) -> Result<u64> {
    let tickets = Rc::new(Tickets { until, taken: Cell::new(0) });
    let tls = client_config(shape)?;
    let set = LocalSet::new();
    set.run_until(async {
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            tasks.spawn_local(connection(to, shape, tls.clone(), tickets.clone()));
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
    tickets: Rc<Tickets>,
) -> Result<u64> {
    let request = http1::request(shape);
    if shape == Shape::NewTls {
        let mut answered = 0;
        while tickets.take() {
            let mut stream = handshake(to, tls.clone()).await?;
            http1::exchange(&mut stream, &request, &mut vec![0; 4 << 10]).await?;
            answered += 1;
        }
        return Ok(answered);
    }
    match shape {
        Shape::Http2Get => http2::run(handshake(to, tls).await?, &tickets).await,
        Shape::TlsGet => http1::run(handshake(to, tls).await?, &request, &tickets).await,
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
    let alpn = if shape == Shape::Http2Get { "h2" } else { "http/1.1" };
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
    let (request, tls) = (http1::request(shape), client_config(shape)?);
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
