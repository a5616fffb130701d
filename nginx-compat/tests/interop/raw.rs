//! HTTP/1.0 in bytes: what is sent is what stands here, and what comes is read to the last byte.

use anyhow::{Context, Result, bail, ensure};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Nothing here takes so long but a hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// A response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// The head with its status line, in lower case.
    head: String,
    pub(crate) body: Vec<u8>,
    /// The server ended the connection behind it.
    pub(crate) closed: bool,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.split("\r\n").skip(1);
        lines.find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// A connection that sends and receives at the same time, so that an early answer is seen.
pub(crate) struct Raw {
    read: OwnedReadHalf,
    write: Option<OwnedWriteHalf>,
    ahead: Vec<u8>,
}

impl Raw {
    pub(crate) async fn open(to: SocketAddr) -> Result<Raw> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        Ok(Raw { read, write: Some(write), ahead: Vec::new() })
    }

    /// Sends a request, and reads the answer up to its length, or up to the end of the connection.
    pub(crate) async fn exchange(&mut self, request: &[u8], to_head: bool) -> Result<Reply> {
        let mut write = self.write.take().context("the connection broke before")?;
        let bytes = request.to_vec();
        let writer = tokio::spawn(async move { write.write_all(&bytes).await.is_ok().then_some(write) });
        let reply = tokio::time::timeout(PATIENCE, self.reply(to_head)).await;
        let reply = reply.context("no whole answer in a minute")??;
        if reply.closed {
            writer.abort();
        } else {
            self.write = writer.await?;
        }
        Ok(reply)
    }

    /// Sends bytes, and waits for nothing.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.write.as_mut().context("the connection broke before")?.write_all(bytes).await?)
    }

    /// The status of an interim response.
    pub(crate) async fn interim(&mut self) -> Result<u16> {
        let head = tokio::time::timeout(PATIENCE, self.head()).await.context("nothing in a minute")??;
        status(&head)
    }

    async fn head(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.ahead.windows(4).position(|w| w == b"\r\n\r\n") {
                return Ok(String::from_utf8(self.ahead.drain(..end + 4).collect())?.to_ascii_lowercase());
            }
            ensure!(self.fill().await?, "the connection ended within the head");
        }
    }

    async fn reply(&mut self, to_head: bool) -> Result<Reply> {
        let head = self.head().await?;
        let status = status(&head)?;
        let mut reply = Reply { status, head, body: Vec::new(), closed: false };
        let closes = reply.header("connection") != Some("keep-alive");
        let length = reply.header("content-length").map(str::parse::<usize>).transpose()?;
        let bodiless = to_head || matches!(status, 204 | 304);
        let known = if bodiless { Some(0) } else { length };
        match known {
            Some(n) => {
                while self.ahead.len() < n {
                    ensure!(self.fill().await?, "{} of {n} bytes came", self.ahead.len());
                }
                reply.body = self.ahead.drain(..n).collect();
            }
            None if closes => {}
            None => bail!("only the end of the connection ends this answer, and it stays: {}", reply.head),
        }
        if closes {
            while self.fill().await? {}
            reply.closed = true;
            if known.is_none() {
                reply.body = std::mem::take(&mut self.ahead);
            }
        }
        ensure!(self.ahead.is_empty(), "{} bytes behind the answer", self.ahead.len());
        Ok(reply)
    }

    async fn fill(&mut self) -> Result<bool> {
        Ok(self.read.read_buf(&mut self.ahead).await? > 0)
    }
}

fn status(head: &str) -> Result<u16> {
    head.get(9..12).and_then(|s| s.parse().ok()).context("no status")
}
