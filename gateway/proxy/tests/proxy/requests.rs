use crate::support::*;
use crate::tls::{BOTH, client, connect};
use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidegate_model::Model;
use tidegate_proxy::Proxy;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) enum Client {
    One(http1::SendRequest<Full<Bytes>>),
    // hyper's loses a request that another thread sends while GOAWAY ends its connection's task
    Two(h2::client::SendRequest<Bytes>),
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("{0}")]
    One(#[from] hyper::Error),
    #[error("{0}")]
    Two(#[from] h2::Error),
}

impl NoAnswer {
    /// Whether the server said goodbye before it took the request (RFC 9113 6.8): nothing is lost.
    fn is_goodbye(&self) -> bool {
        matches!(self, NoAnswer::Two(e) if e.is_go_away() && e.is_remote() && e.reason() == Some(h2::Reason::NO_ERROR))
    }
}

impl Client {
    pub(crate) async fn over<S>(stream: S, version: Version) -> Client
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Client::try_over(stream, version).await.unwrap()
    }

    async fn try_over<S>(stream: S, version: Version) -> Result<Client, NoAnswer>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if version == Version::HTTP_2 {
            let (send, connection) = h2::client::handshake(stream).await?;
            tokio::spawn(connection);
            Ok(Client::Two(send))
        } else {
            let (send, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok(Client::One(send))
        }
    }

    async fn plain(address: SocketAddr, version: Version) -> Client {
        let stream = TcpStream::connect(address).await.unwrap();
        // as every client of HTTP/2 does: its frames come in small writes
        stream.set_nodelay(true).unwrap();
        Client::over(stream, version).await
    }

    /// POST with a body: status and answer.
    async fn post(
        &mut self,
        scheme: &str,
        path: &str,
        body: &'static str,
    ) -> Result<(u16, String), NoAnswer> {
        self.post_to(scheme, "a.b", path, body).await
    }

    pub(crate) async fn post_to(
        &mut self,
        scheme: &str,
        authority: &str,
        path: &str,
        body: &'static str,
    ) -> Result<(u16, String), NoAnswer> {
        match self {
            Client::One(send) => {
                send.ready().await?;
                let body = Full::new(Bytes::from_static(body.as_bytes()));
                let request = Request::post(path).header("host", authority).body(body).unwrap();
                let response = send.send_request(request).await?;
                let status = response.status().as_u16();
                let text = response.into_body().collect().await?.to_bytes();
                Ok((status, String::from_utf8_lossy(&text).into_owned()))
            }
            Client::Two(send) => {
                let mut send = send.clone().ready().await?;
                let request = Request::post(format!("{scheme}://{authority}{path}")).body(()).unwrap();
                let (response, mut upload) = send.send_request(request, false)?;
                upload.send_data(Bytes::from_static(body.as_bytes()), true)?;
                let response = response.await?;
                let (status, mut body) = (response.status().as_u16(), response.into_body());
                let mut text = Vec::new();
                while let Some(data) = body.data().await {
                    let data = data?;
                    body.flow_control().release_capacity(data.len())?;
                    text.extend_from_slice(&data);
                }
                Ok((status, String::from_utf8_lossy(&text).into_owned()))
            }
        }
    }
}

const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// A plain listener at 127.0.0.1 and a TLS one at 127.0.0.2, both forwarding `a.b` to an upstream.
async fn serving(proxy: &Proxy) -> Model {
    let mut model = Model::default();
    let route = forward(&mut model, "service", &[upstream().await]);
    let table = plain(&mut model, key(1));
    host(&mut model, &table, "a.b", vec![route.clone()]);
    secret(&mut model, "s", &["a.b"], &rcgen::PKCS_ECDSA_P256_SHA256);
    tls(&mut model, key(2), &[("https.443", &["a.b"], &["s"])]);
    host(&mut model, &"https.443".into(), "a.b", vec![route]);
    let applied = proxy.apply(model.clone());
    assert!(applied.diagnostics.is_empty(), "{:?}", applied.diagnostics);
    model
}

fn served(path: &str, body: &str) -> (u16, String) {
    (200, format!("POST {path} {body}"))
}

#[tokio::test]
async fn requests_are_forwarded_over_every_transport() {
    let proxy = start();
    serving(&proxy).await;
    for version in VERSIONS {
        let mut client = Client::plain(address(&proxy, key(1)), version).await;
        for path in ["/one", "/two?x=y"] {
            assert_eq!(client.post("http", path, "body").await.unwrap(), served(path, "body"), "{version:?}");
        }
    }
    // The version by ALPN, and without ALPN by what the client sends.
    for (alpn, version) in [
        (&["h2"][..], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&["http/1.0"], Version::HTTP_11),
        (&[], Version::HTTP_2),
        (&[], Version::HTTP_11),
    ] {
        let config = Arc::new(client(alpn, BOTH));
        let stream = connect(address(&proxy, key(2)), "a.b", config).await.unwrap();
        let mut client = Client::over(stream, version).await;
        for path in ["/one", "/two"] {
            let got = client.post("https", path, "body").await.unwrap();
            assert_eq!(got, served(path, "body"), "{alpn:?} {version:?}");
        }
    }
    assert_eq!(metric(&proxy, "tidegate_connection_panics_total").await, 0);
}

#[tokio::test]
async fn bytes_that_come_one_by_one_are_understood() {
    let proxy = start();
    serving(&proxy).await;
    let (plain, tls) = (address(&proxy, key(1)), address(&proxy, key(2)));
    for version in VERSIONS {
        let mut client = Client::over(trickle(plain).await, version).await;
        assert_eq!(client.post("http", "/", "x").await.unwrap(), served("/", "x"), "{version:?}");
    }
    // A ClientHello in pieces.
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client(&["h2"], BOTH)));
    let stream = connector.connect("a.b".try_into().unwrap(), trickle(tls).await).await.unwrap();
    let mut client = Client::over(stream, Version::HTTP_2).await;
    assert_eq!(client.post("https", "/", "x").await.unwrap(), served("/", "x"));
}

/// A connection on which the client's first 300 bytes go out one by one.
async fn trickle(address: SocketAddr) -> tokio::io::DuplexStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut from_server, mut to_server) = stream.into_split();
    let (near, far) = tokio::io::duplex(64 << 10);
    let (mut from_client, mut to_client) = tokio::io::split(far);
    tokio::spawn(async move {
        let mut byte = [0];
        for _ in 0..300 {
            if from_client.read_exact(&mut byte).await.is_err() || to_server.write_all(&byte).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
        let _ = to_client.shutdown().await;
    });
    near
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_config_change_costs_a_request() {
    let proxy = start();
    let model = serving(&proxy).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut loads = Vec::new();
    for version in VERSIONS {
        let mut client = Client::plain(address(&proxy, key(1)), version).await;
        let done = done.clone();
        loads.push(tokio::spawn(async move {
            let mut served = 0;
            while !done.load(Ordering::Relaxed) {
                let (status, text) = client.post("http", "/", "x").await.unwrap();
                assert_eq!(status, 200, "{text}");
                served += 1;
            }
            served
        }));
    }
    let mut passing = Vec::new();
    let table = "http.127.0.0.1:0".into();
    for n in 0..100 {
        let mut next = model.clone();
        let instance = upstream().await;
        let route = forward(&mut next, if n % 2 == 0 { "service" } else { "other" }, &[instance]);
        host(&mut next, &table, "a.b", vec![route]);
        if n % 3 == 0 {
            let going = plain(&mut next, key(3));
            let route = forward(&mut next, "going", &[instance]);
            host(&mut next, &going, "a.b", vec![route]);
        }
        assert_eq!(proxy.apply(next).generation, n + 2);
        if n % 3 == 0 {
            let at = address(&proxy, key(3));
            passing.extend(VERSIONS.map(|version| tokio::spawn(until_it_ends(at, version))));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    proxy.apply(model);
    done.store(true, Ordering::Relaxed);
    for load in loads {
        let served = load.await.unwrap();
        assert!(served > 10, "only {served} requests during the changes");
    }
    let mut served = 0;
    for passed in passing {
        served += passed.await.unwrap();
    }
    assert!(served > 10, "only {served} requests to the listener that comes and goes");
}

/// Asks until the connection to a listener that goes has ended: whatever is answered is served,
/// and over HTTP/2 whatever is not was never taken.
async fn until_it_ends(address: SocketAddr, version: Version) -> u32 {
    let mut served = 0;
    let Ok(stream) = TcpStream::connect(address).await else { return 0 };
    stream.set_nodelay(true).unwrap();
    let Ok(mut client) = Client::try_over(stream, version).await else { return 0 };
    loop {
        match client.post("http", "/", "x").await {
            Ok((status, text)) => assert_eq!(status, 200, "{version:?}: {text}"),
            Err(e) => {
                assert!(version != Version::HTTP_2 || e.is_goodbye(), "request {served}: {e:?}");
                return served;
            }
        }
        served += 1;
    }
}

#[tokio::test]
async fn a_request_outlives_its_listener_and_its_connection_ends_then() {
    let proxy = start();
    let model = serving(&proxy).await;
    for version in VERSIONS {
        let mut client = Client::plain(address(&proxy, key(1)), version).await;
        assert_eq!(client.post("http", "/", "x").await.unwrap().0, 200);
        let request = async { client.post("http", "/slow", "x").await };
        let remove = async {
            tokio::time::sleep(SLOW / 4).await;
            let mut without = model.clone();
            without.listeners.remove(&key(1));
            proxy.apply(without);
        };
        let (answer, ()) = tokio::join!(request, remove);
        assert_eq!(answer.unwrap(), served("/slow", "x"), "{version:?}");
        eventually("the connection ends", async || metric(&proxy, "tidegate_connections_active").await == 0)
            .await;
        proxy.apply(model.clone());
    }
}

#[tokio::test]
async fn drain_answers_what_came_before_it() {
    for version in VERSIONS {
        let proxy = start();
        serving(&proxy).await;
        let at = address(&proxy, key(1));
        let mut client = Client::plain(at, version).await;
        assert_eq!(client.post("http", "/", "x").await.unwrap().0, 200);
        let request = tokio::spawn(async move { client.post("http", "/slow", "x").await });
        tokio::time::sleep(SLOW / 4).await;
        // Not accepted, not read, or in flight when the drain begins.
        let queued: Vec<_> = (0..20)
            .map(|_| {
                let mut stream = std::net::TcpStream::connect(at).unwrap();
                let request = b"GET /slow HTTP/1.1\r\nHost: a.b\r\nContent-Length: 0\r\n\r\n";
                std::io::Write::write_all(&mut stream, request).unwrap();
                stream.set_nonblocking(true).unwrap();
                TcpStream::from_std(stream).unwrap()
            })
            .collect();
        let drained = tokio::task::spawn_blocking(move || proxy.drain());
        for mut stream in queued {
            let answer = read_to_end(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
            assert!(answer.to_lowercase().contains("connection: close"), "{answer:?}");
        }
        assert_eq!(request.await.unwrap().unwrap(), served("/slow", "x"), "{version:?}");
        assert_eq!(drained.await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_connection_follows_its_host_to_a_renamed_server() {
    let proxy = start();
    let mut model = serving(&proxy).await;
    let mut clients = Vec::new();
    for version in VERSIONS {
        let alpn: &[&str] = if version == Version::HTTP_2 { &["h2"] } else { &["http/1.1"] };
        let stream = connect(address(&proxy, key(2)), "a.b", Arc::new(client(alpn, BOTH))).await.unwrap();
        let mut client = Client::over(stream, version).await;
        assert_eq!(client.post("https", "/", "x").await.unwrap().0, 200);
        clients.push(client);
    }
    model.route_tables.remove("https.443");
    model.virtual_hosts.retain(|key, _| &*key.table != "https.443");
    let route = forward(&mut model, "service", &[upstream().await]);
    tls(&mut model, key(2), &[("https.renamed", &["a.b"], &["s"])]);
    host(&mut model, &"https.renamed".into(), "a.b", vec![route]);
    proxy.apply(model);
    for client in &mut clients {
        assert_eq!(client.post("https", "/", "x").await.unwrap(), served("/", "x"));
    }
}

#[tokio::test]
async fn clients_that_are_told_to_calm_down_are_counted() {
    let proxy = start();
    let mut model = Model::default();
    let table = plain(&mut model, key(1));
    host(&mut model, &table, "*", vec![respond("hello")]);
    proxy.apply(model);
    assert_eq!(metric(&proxy, "tidegate_http2_abuse_total").await, 0);
    let mut client = TcpStream::connect(address(&proxy, key(1))).await.unwrap();
    let (mut from, mut to) = client.split();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let flood = async {
        let mut sent = to.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        while sent.is_ok() {
            sent = to.write_all(&settings.repeat(1000)).await;
        }
    };
    let mut scratch = [0; 4096];
    let read = async { while from.read(&mut scratch).await.is_ok_and(|n| n > 0) {} };
    tokio::join!(flood, read);
    assert_eq!(metric(&proxy, "tidegate_http2_abuse_total").await, 1);
}
