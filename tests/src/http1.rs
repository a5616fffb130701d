//! HTTP/1 in bytes: written as asked, read strictly.

use crate::client::Io;
use crate::{Answer, Failure, Host, Request, Version};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A byte stream with what was read ahead.
pub(crate) struct Stream {
    pub(crate) io: Box<dyn Io>,
    ahead: Vec<u8>,
}

impl Stream {
    pub(crate) fn new(io: Box<dyn Io>) -> Self {
        Stream { io, ahead: Vec::new() }
    }

    /// Sends these bytes: over TLS a write may leave some of them where only a flush takes them out.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.io.write_all(bytes).await?;
        Ok(self.io.flush().await?)
    }

    /// Reads more; false at the end.
    async fn fill(&mut self) -> Result<bool, Failure> {
        Ok(self.io.read_buf(&mut self.ahead).await? > 0)
    }

    async fn line(&mut self) -> Result<String, Failure> {
        loop {
            if let Some(end) = self.ahead.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.ahead.drain(..=end).collect();
                return match line.strip_suffix(b"\r\n") {
                    Some(text) => Ok(text.iter().map(|b| char::from(*b)).collect()),
                    None => Err(Failure::Closed("a line of the answer ends without CR".into())),
                };
            }
            if !self.fill().await? {
                return Err(Failure::Closed("no whole answer".into()));
            }
        }
    }

    pub(crate) async fn exactly(&mut self, n: usize) -> Result<Vec<u8>, Failure> {
        while self.ahead.len() < n {
            if !self.fill().await? {
                return Err(Failure::Closed(format!("{} of {n} bytes came", self.ahead.len())));
            }
        }
        Ok(self.ahead.drain(..n).collect())
    }

    async fn rest(&mut self) -> Result<Vec<u8>, Failure> {
        while self.fill().await? {}
        Ok(std::mem::take(&mut self.ahead))
    }
}

/// Sends a request and reads its answer.
pub(crate) async fn exchange(stream: &mut Stream, request: &Request) -> Result<Answer, Failure> {
    stream.send(&serialize(request)).await?;
    let mut answer = read_answer(stream, &request.method).await?;
    if answer.status == 101 {
        // an empty masked close-free text frame head and five bytes: the workload echoes whatever comes
        let frame = b"\x81\x85\0\0\0\0hello";
        stream.send(frame).await?;
        answer.after_upgrade = Some(stream.exactly(frame.len()).await?);
    } else if request.watch_close {
        answer.closed_after = Some(is_closed(stream).await);
    }
    Ok(answer)
}

fn serialize(request: &Request) -> Vec<u8> {
    let version = if request.version == Version::Http10 { "1.0" } else { "1.1" };
    let mut head = format!("{} {} HTTP/{version}\r\n", request.method, request.path);
    if let Host::Named(host) = &request.host {
        head += &format!("Host: {host}\r\n");
    }
    for (name, value) in &request.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let framed = |(n, _): &(String, String)| {
        n.eq_ignore_ascii_case("content-length") || n.eq_ignore_ascii_case("transfer-encoding")
    };
    if let (Some(body), false) = (&request.body, request.headers.iter().any(framed)) {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    // header text is Latin-1 on the wire
    let mut bytes: Vec<u8> = head.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect();
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(request.body.as_deref().unwrap_or_default());
    bytes
}

/// Reads one final answer; interim ones other than 101 are passed over.
pub(crate) async fn read_answer(stream: &mut Stream, method: &str) -> Result<Answer, Failure> {
    let mut answer = read_head(stream).await?;
    while answer.status < 200 && answer.status != 101 {
        answer = read_head(stream).await?;
    }
    let chunked =
        answer.header("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().contains("chunked"));
    let length = answer.header("content-length").map(str::to_owned);
    answer.body = if method == "HEAD" || matches!(answer.status, 101 | 204 | 304) {
        Vec::new()
    } else if chunked {
        read_chunks(stream).await?
    } else if let Some(length) = length {
        let length = length.parse().map_err(|_| Failure::Closed(format!("Content-Length {length}")))?;
        stream.exactly(length).await?
    } else {
        stream.rest().await?
    };
    Ok(answer)
}

async fn read_head(stream: &mut Stream) -> Result<Answer, Failure> {
    let line = stream.line().await?;
    let bad = || Failure::Closed(format!("not HTTP/1: {line:?}"));
    let (version, rest) = line.split_once(' ').filter(|(v, _)| v.starts_with("HTTP/1.")).ok_or_else(bad)?;
    let status = rest.get(..3).and_then(|s| s.parse().ok()).ok_or_else(bad)?;
    let mut headers = Vec::new();
    loop {
        let line = stream.line().await?;
        if line.is_empty() {
            break;
        }
        let (name, value) =
            line.split_once(':').ok_or_else(|| Failure::Closed(format!("no header: {line:?}")))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok(Answer { status, version: version.to_owned(), headers, ..Answer::default() })
}

async fn read_chunks(stream: &mut Stream) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    loop {
        let line = stream.line().await?;
        let size = line.split(';').next().unwrap_or_default();
        let size =
            usize::from_str_radix(size, 16).map_err(|_| Failure::Closed(format!("chunk size {size:?}")))?;
        if size == 0 {
            break;
        }
        body.extend(stream.exactly(size).await?);
        stream.exactly(2).await?;
    }
    while !stream.line().await?.is_empty() {}
    Ok(body)
}

/// Whether the server closes the connection within two seconds, without another byte.
pub(crate) async fn is_closed(stream: &mut Stream) -> bool {
    stream.ahead.is_empty()
        && matches!(tokio::time::timeout(Duration::from_secs(2), stream.fill()).await, Ok(Ok(false) | Err(_)))
}
