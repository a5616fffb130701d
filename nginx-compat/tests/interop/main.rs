//! A real nginx in front of the gateway, and behind it.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tidegate_tests::{Backend, Connection, Gateway, Lines, Net, Request, Start, Version, exchange, get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const HOST: &str = "shop.example";

/// An nginx with a folder of its own, killed when dropped.
struct Nginx {
    child: Child,
    at: SocketAddr,
    _folder: TempDir,
}

impl Nginx {
    /// Starts nginx on an address of the network. `http` stands in its `http` block, `server` in its
    /// one server.
    async fn start(net: &Net, http: &str, server: &str) -> Result<Nginx> {
        let folder = tempfile::tempdir()?;
        let root = folder.path().display();
        let at = SocketAddr::new(IpAddr::V4(net.next()?), 8000);
        let is_root = std::fs::metadata(folder.path())?.uid() == 0;
        let user = if is_root { "user root;" } else { "" };
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary: String = temporary.iter().map(|t| format!("{t}_temp_path {root}/{t};\n")).collect();
        let config = format!(
            "{user} daemon off; worker_processes 1; pid {root}/pid; error_log stderr warn;\n\
             events {{}}\n\
             http {{ access_log off; {temporary} {http}\nserver {{ listen {at}; root {root}; {server} }} }}\n"
        );
        std::fs::write(folder.path().join("nginx.conf"), config)?;
        let mut child = Command::new(program()?)
            .args(["-p".as_ref(), folder.path().as_os_str(), "-c".as_ref(), "nginx.conf".as_ref()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let messages = Lines::of(child.stderr.take().context("no stderr")?);
        let mut nginx = Nginx { child, at, _folder: folder };
        let patience = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(at).await.is_err() {
            if nginx.child.try_wait()?.is_some() || Instant::now() > patience {
                bail!("nginx does not start: {}", messages.tail());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(nginx)
    }

    /// Its document root.
    fn root(&self) -> &Path {
        self._folder.path()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // the master ends its worker when asked to quit; kill alone would leave it behind
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        if asked.is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn program() -> Result<&'static str> {
    let places = ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"];
    places
        .into_iter()
        .find(|p| Path::new(p).exists())
        .context("nginx is missing: apt-get install nginx-light")
}

/// A gateway with one route for [`HOST`] to this address.
async fn gateway(net: &Net, folder: &TempDir, upstream: SocketAddr) -> Result<Gateway> {
    let config = format!(
        r#"apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: shop}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: 8080, name: http, protocol: HTTP}}
    hosts: ["*"]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: shop}}
spec:
  hosts: [{HOST}]
  gateways: [shop]
  http:
  - route: [{{destination: {{host: upstream.example}}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: upstream}}
spec:
  hosts: [upstream.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: {}, ports: {{http: {}}}}}]
"#,
        upstream.ip(),
        upstream.port()
    );
    std::fs::write(folder.path().join("shop.yaml"), config)?;
    Start::with(folder.path()).start(net).await
}

async fn workload(net: &Net, backend: &Backend) -> Result<SocketAddr> {
    let at = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
    backend.listen(at).await?;
    Ok(at)
}

fn in_front_of(gateway: &Gateway) -> String {
    format!("upstream tidegate {{ server {}; }}", gateway.at(8080))
}

#[tokio::test]
async fn nginx_as_packaged_is_told_what_to_change() -> Result<()> {
    let (net, backend, folder) = (Net::reserve()?, Backend::default(), tempfile::tempdir()?);
    let gateway = gateway(&net, &folder, workload(&net, &backend).await?).await?;
    let nginx =
        Nginx::start(&net, &in_front_of(&gateway), "location / { proxy_pass http://tidegate; }").await?;
    let answer = get(nginx.at, HOST, "/as-packaged").await?;
    assert_eq!(answer.status, 404, "the Host that nginx sends is its upstream's name");
    assert!(backend.hits().is_empty());
    let is_it = |l: &str| l.contains("/as-packaged");
    let line = gateway.log.find(0, Duration::from_secs(2), is_it).await.context("no access log line")?;
    let line: Value = serde_json::from_str(&line)?;
    assert_eq!((&line["protocol"], &line["authority"]), (&"HTTP/1.0".into(), &"tidegate".into()), "{line}");
    let details = line["response_code_details"].as_str().unwrap_or_default();
    assert!(details.contains("proxy_set_header Host $host"), "{line}");
    Ok(())
}

#[tokio::test]
async fn nginx_that_passes_the_host_is_served() -> Result<()> {
    let (net, backend, folder) = (Net::reserve()?, Backend::default(), tempfile::tempdir()?);
    let gateway = gateway(&net, &folder, workload(&net, &backend).await?).await?;
    let server = "location / { proxy_pass http://tidegate; proxy_set_header Host $host; }";
    let nginx = Nginx::start(&net, &in_front_of(&gateway), server).await?;
    for method in ["GET", "HEAD", "POST", "DELETE"] {
        let mut request = Request::to(nginx.at).host(HOST).method(method).path("/a?b=c");
        request.body = (method == "POST").then(|| vec![b'x'; 100_000]);
        let answer = exchange(&request).await?;
        assert_eq!(answer.status, 200, "{method}");
        let hits = backend.hits();
        let hit = hits.last().context("no request upstream")?;
        assert_eq!(
            (hit.method.as_str(), hit.path.as_str(), hit.authority.as_deref()),
            (method, "/a?b=c", Some(HOST))
        );
        assert_eq!(hit.body.len(), request.body.map_or(0, |b| b.len()), "{method}");
    }
    Ok(())
}

#[tokio::test]
async fn nginx_with_keepalive_is_served() -> Result<()> {
    let (net, backend, folder) = (Net::reserve()?, Backend::default(), tempfile::tempdir()?);
    let gateway = gateway(&net, &folder, workload(&net, &backend).await?).await?;
    let upstream = format!("upstream tidegate {{ server {}; keepalive 4; }}", gateway.at(8080));
    let server = "location / { proxy_pass http://tidegate; proxy_set_header Host $host; \
                  proxy_http_version 1.1; proxy_set_header Connection \"\"; }";
    let nginx = Nginx::start(&net, &upstream, server).await?;
    let request = Request::to(nginx.at).host(HOST);
    let mut connection = Connection::open(&request).await?;
    for i in 0..50 {
        assert_eq!(connection.send(&request).await?.status, 200, "request {i}");
    }
    Ok(())
}

/// What an upstream says in chunks, with a body of many of them.
const CHUNK: &str = "0123456789abcdef";
const CHUNKS: usize = 5000;

/// An upstream that answers every request in chunks.
async fn chunked(net: &Net) -> Result<SocketAddr> {
    let listener = TcpListener::bind((net.next()?, 8080)).await?;
    let at = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    if !matches!(stream.read_buf(&mut head).await, Ok(n) if n > 0) {
                        return;
                    }
                }
                let mut answer =
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n".to_owned();
                answer += &format!("{:x}\r\n{CHUNK}\r\n", CHUNK.len()).repeat(CHUNKS);
                answer += "0\r\n\r\n";
                // a client that left early is no news
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    Ok(at)
}

#[tokio::test]
async fn a_client_of_http10_never_sees_chunks() -> Result<()> {
    let (net, folder) = (Net::reserve()?, tempfile::tempdir()?);
    let gateway = gateway(&net, &folder, chunked(&net).await?).await?;
    // byte for byte what nginx sends by default, but for the name
    let bytes = format!("GET / HTTP/1.0\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let request = Request::to(gateway.at(8080)).version(Version::Http10);
    let answer = Connection::open(&request).await?.send_raw(bytes.as_bytes(), "GET", true).await?;
    assert_eq!((answer.status, answer.header("transfer-encoding")), (200, None));
    assert_eq!((answer.text(), answer.closed_after), (CHUNK.repeat(CHUNKS), Some(true)));
    let server = "location / { proxy_pass http://tidegate; proxy_set_header Host $host; }";
    let nginx = Nginx::start(&net, &in_front_of(&gateway), server).await?;
    let answer = get(nginx.at, HOST, "/").await?;
    assert_eq!((answer.status, answer.text()), (200, CHUNK.repeat(CHUNKS)));
    Ok(())
}

#[tokio::test]
async fn nginx_as_upstream() -> Result<()> {
    let (net, folder) = (Net::reserve()?, tempfile::tempdir()?);
    let server = "location /say { return 200 \"$request_method $request_uri $http_host\"; }";
    let nginx = Nginx::start(&net, "default_type text/plain;", server).await?;
    let file: Vec<u8> = (0..1_000_000_u32).map(|i| u8::try_from(i % 251).unwrap_or(0)).collect();
    std::fs::write(nginx.root().join("file"), &file)?;
    let gateway = gateway(&net, &folder, nginx.at).await?;
    let say = Request::to(gateway.at(8080)).host(HOST).path("/say?a=b%20c");
    for version in [Version::Http10, Version::Http11, Version::Http2] {
        let answer = exchange(&say.clone().version(version)).await?;
        assert_eq!((answer.status, answer.text()), (200, format!("GET /say?a=b%20c {HOST}")), "{version:?}");
        let answer = exchange(&say.clone().path("/file").version(version)).await?;
        assert_eq!(answer.status, 200, "{version:?}");
        assert!(answer.body == file, "{version:?}: {} of {} bytes", answer.body.len(), file.len());
    }
    let request = say.path("/file");
    let mut connection = Connection::open(&request).await?;
    let head = connection.send(&request.clone().method("HEAD")).await?;
    assert_eq!((head.status, head.header("content-length")), (200, Some("1000000")));
    let tag = head.header("etag").context("no ETag")?.to_owned();
    let cached = connection.send(&request.clone().header("if-none-match", &tag)).await?;
    assert_eq!((cached.status, cached.body.len()), (304, 0));
    let part = connection.send(&request.header("range", "bytes=10-19")).await?;
    assert_eq!((part.status, part.body.as_slice()), (206, &file[10..20]));
    Ok(())
}
