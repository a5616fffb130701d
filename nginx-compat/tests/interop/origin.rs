//! A workload of HTTP/1 that answers in the form that the path asks for, byte for byte, and one of gRPC.

use anyhow::Result;
use bytes::Bytes;
use std::net::SocketAddr;
use tidegate_tests::Net;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// A listener; its connections end with it.
pub(crate) struct Origin {
    pub(crate) at: SocketAddr,
    task: AbortHandle,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The body of a response of this size.
pub(crate) fn content(size: usize) -> Vec<u8> {
    let period: Vec<u8> = (0..=250).collect();
    let mut content = period.repeat(size / period.len() + 1);
    content.truncate(size);
    content
}

impl Origin {
    /// The paths, where N is the size of [`content`]:
    /// `/length/N` with its length, `/chunked/N` in chunks, `/until-close/N` and (in HTTP/1.0) `/old/N`
    /// up to the end of the connection; `/status/S`; `/redirect`; `/early`, a 413 while the body is
    /// still coming; `/hints`, a 103 first; `/large-head`; else [`Echo`]. An upgrade is taken up, and
    /// every byte sent back.
    pub(crate) async fn start(net: &Net) -> Result<Origin> {
        let listener = TcpListener::bind((net.next()?, 8080)).await?;
        Ok(Origin::accept(listener.local_addr()?, listener, |stream| async {
            // a client that leaves is no news here
            let _ = serve(stream).await;
        }))
    }

    /// gRPC with prior knowledge: sends the message back, with `grpc-status` in trailers; at `/fails`
    /// in the head, and nothing else.
    pub(crate) async fn grpc(net: &Net) -> Result<Origin> {
        let listener = TcpListener::bind((net.next()?, 8080)).await?;
        Ok(Origin::accept(listener.local_addr()?, listener, |stream| async {
            let _ = serve_grpc(stream).await;
        }))
    }

    fn accept<F: Future<Output = ()> + Send + 'static>(
        at: SocketAddr,
        listener: TcpListener,
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Origin {
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
                while connections.try_join_next().is_some() {}
            }
        });
        Origin { at, task: task.abort_handle() }
    }
}

/// What an echoing workload got.
#[derive(Debug)]
pub(crate) struct Echo {
    /// The request line.
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// The body without its framing.
    pub(crate) body: Vec<u8>,
}

impl Echo {
    /// Reads it from the body of a response.
    pub(crate) fn of(body: &[u8]) -> Option<Echo> {
        let end = body.windows(4).position(|w| w == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&body[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let line = lines.next()?.to_owned();
        let header = |l: &str| l.split_once(": ").map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned()));
        Some(Echo { line, headers: lines.filter_map(header).collect(), body: body[end + 4..].to_vec() })
    }

    /// The value of a header that must not come twice.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n == name);
        let value = values.next().map(|(_, v)| v.as_str());
        if values.next().is_some() { Some("twice") } else { value }
    }
}

struct Incoming {
    stream: TcpStream,
    ahead: Vec<u8>,
}

impl Incoming {
    async fn fill(&mut self) -> Result<()> {
        anyhow::ensure!(self.stream.read_buf(&mut self.ahead).await? > 0, "the end");
        Ok(())
    }

    async fn until(&mut self, end: &[u8]) -> Result<Vec<u8>> {
        loop {
            if let Some(n) = self.ahead.windows(end.len()).position(|w| w == end) {
                return Ok(self.ahead.drain(..n + end.len()).collect());
            }
            self.fill().await?;
        }
    }

    async fn exactly(&mut self, n: usize) -> Result<Vec<u8>> {
        while self.ahead.len() < n {
            self.fill().await?;
        }
        Ok(self.ahead.drain(..n).collect())
    }

    async fn body(&mut self, head: &str) -> Result<Vec<u8>> {
        let head = head.to_ascii_lowercase();
        if head.contains("\r\nexpect: 100-continue\r\n") {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let length = head.split("\r\n").find_map(|l| l.strip_prefix("content-length: "));
        if let Some(length) = length {
            return self.exactly(length.parse()?).await;
        }
        let mut body = Vec::new();
        while head.contains("\r\ntransfer-encoding: chunked\r\n") {
            let size = String::from_utf8(self.until(b"\r\n").await?)?;
            let chunk = self.exactly(usize::from_str_radix(size.trim(), 16)?).await?;
            self.until(b"\r\n").await?;
            if chunk.is_empty() {
                break;
            }
            body.extend(chunk);
        }
        Ok(body)
    }
}

async fn serve(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut from = Incoming { stream, ahead: Vec::new() };
    loop {
        let head = from.until(b"\r\n\r\n").await?;
        let text = String::from_utf8_lossy(&head).into_owned();
        let path = text.split(' ').nth(1).unwrap_or_default();
        let to_head = text.starts_with("HEAD ");
        if text.to_ascii_lowercase().contains("\r\nupgrade: websocket\r\n") {
            let switch =
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
            from.stream.write_all(switch.as_bytes()).await?;
            let (mut read, mut write) = from.stream.split();
            write.write_all(&from.ahead).await?;
            tokio::io::copy(&mut read, &mut write).await?;
            return Ok(());
        }
        if path == "/early" {
            let early = "HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nearly";
            from.stream.write_all(early.as_bytes()).await?;
            from.stream.shutdown().await?;
            tokio::io::copy(&mut from.stream, &mut tokio::io::sink()).await?;
            return Ok(());
        }
        let body = from.body(&text).await?;
        let (mut answer, content) = answer(path, &head, &body);
        let closes = answer.starts_with(b"HTTP/1.0") || answer.windows(17).any(|w| w == b"Connection: close");
        if !to_head {
            answer.extend(content);
        }
        from.stream.write_all(&answer).await?;
        if closes {
            from.stream.shutdown().await?;
            return Ok(());
        }
    }
}

/// Head and body, as they go over the wire.
fn answer(path: &str, head: &[u8], body: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let path = path.split('?').next().unwrap_or_default();
    let (kind, rest) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
    let size = rest.parse().unwrap_or(0);
    let with_length = |first: &str, body: Vec<u8>| {
        (format!("HTTP/1.1 {first}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes(), body)
    };
    match kind {
        "length" => with_length("200 OK", content(size)),
        "chunked" => {
            let mut chunks = Vec::new();
            for part in content(size).chunks(5000) {
                chunks.extend(format!("{:x}\r\n", part.len()).into_bytes());
                chunks.extend(part);
                chunks.extend(b"\r\n");
            }
            chunks.extend(b"0\r\n\r\n");
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(), chunks)
        }
        "until-close" => (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec(), content(size)),
        "old" => (b"HTTP/1.0 200 OK\r\nX-Old: yes\r\n\r\n".to_vec(), content(size)),
        "status" if matches!(size, 204 | 304) => {
            (format!("HTTP/1.1 {size} Nothing\r\nETag: \"a\"\r\n\r\n").into_bytes(), Vec::new())
        }
        "status" => with_length(&format!("{size} So"), b"hello".to_vec()),
        "redirect" => with_length("302 Found\r\nLocation: /elsewhere", Vec::new()),
        "hints" => {
            let first = "103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK";
            with_length(first, b"hinted".to_vec())
        }
        "large-head" => {
            let value = "v".repeat(1000);
            let lines: Vec<_> = (0..size).map(|i| format!("X-Large-{i}: {value}")).collect();
            with_length(&format!("200 OK\r\n{}", lines.join("\r\n")), b"large".to_vec())
        }
        _ => with_length("200 OK", [head, body].concat()),
    }
}

async fn serve_grpc(stream: TcpStream) -> Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request?;
        tokio::spawn(async move {
            let fails = request.uri().path() == "/fails";
            let response = http::Response::builder().header("content-type", "application/grpc");
            if fails {
                respond.send_response(response.header("grpc-status", "5").body(())?, true)?;
                return Ok(());
            }
            let mut message = Vec::new();
            let mut body = request.into_body();
            while let Some(data) = body.data().await {
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                message.extend_from_slice(&data);
            }
            let mut send = respond.send_response(response.body(())?, false)?;
            send.send_data(Bytes::from(message), false)?;
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            send.send_trailers(trailers)?;
            anyhow::Ok(())
        });
    }
    Ok(())
}
