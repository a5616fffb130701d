//! An origin that costs as little as it can: 1 KB, 100 KB or 1 MiB over HTTP/1.1, whatever is asked, and nothing for
//! spans; gRPC over HTTP/2 in plaintext; WebSocket messages.

use super::forget::Forget;
use super::http1::{content_length, head_length};
use super::{HUGE, KILOBYTE, LARGE, MEBIBYTE, SPANS, WEBSOCKET, grpc, websocket};
use anyhow::Result;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

/// Serves until it is dropped.
///
/// # Errors
/// When a connection cannot be accepted.
pub async fn serve(listeners: Vec<TcpListener>) -> Result<()> {
    accept_all(listeners, None).await
}

/// The same over TLS 1.3 with X25519, where no session is resumed. Chain and key are PEM.
///
/// # Errors
/// When they cannot be used, or a connection cannot be accepted.
pub async fn serve_tls(listener: TcpListener, chain: &[u8], key: &[u8]) -> Result<()> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>()?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?;
    config.send_tls13_tickets = 0;
    accept_all(vec![listener], Some(TlsAcceptor::from(Arc::new(config)))).await
}

async fn accept_all(listeners: Vec<TcpListener>, tls: Option<TlsAcceptor>) -> Result<()> {
    let answers = Rc::new(Answers::new());
    let set = LocalSet::new();
    set.run_until(async {
        let accept = |l| tokio::task::spawn_local(accept(l, tls.clone(), answers.clone()));
        for accepting in listeners.into_iter().map(accept).collect::<Vec<_>>() {
            accepting.await??;
        }
        Ok(())
    })
    .await
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, answers: Rc<Answers>) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (answers, tls) = (answers.clone(), tls.clone());
        tokio::task::spawn_local(async move {
            // a gateway that goes away is no news here
            let _ = match tls {
                None => connection(stream, &answers).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => connection(stream, &answers).await,
                    Err(_) => Ok(()),
                },
            };
        });
    }
}

fn response(body: usize) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 01:00:00 GMT\r\nServer: origin\r\n\
         Content-Type: application/json; charset=utf-8\r\nContent-Length: {body}\r\n\
         Cache-Control: private, max-age=0, must-revalidate\r\nETag: \"5f2b-1a2b3c4d5e6f\"\r\n\
         Vary: Accept-Encoding\r\nX-Content-Type-Options: nosniff\r\n\r\n"
    )
    .into_bytes();
    bytes.resize(bytes.len() + body, b'x');
    bytes
}

/// What is answered, by its length.
struct Answers {
    kilobyte: Vec<u8>,
    large: Vec<u8>,
    huge: Vec<u8>,
    nothing: Vec<u8>,
}

impl Answers {
    fn new() -> Answers {
        Answers {
            kilobyte: response(KILOBYTE),
            large: response(100 << 10),
            huge: response(MEBIBYTE),
            nothing: response(0),
        }
    }

    fn of(&self, path: &[u8]) -> &[u8] {
        match std::str::from_utf8(path) {
            Ok(LARGE) => &self.large,
            Ok(HUGE) => &self.huge,
            Ok(SPANS) => &self.nothing,
            _ => &self.kilobyte,
        }
    }
}

async fn connection<S>(mut stream: S, answers: &Answers) -> Result<()>
where
    S: Forget + AsyncWrite,
{
    let mut buffer = vec![0; 16 << 10];
    let mut filled = 0;
    loop {
        let Some(head) = head_length(&buffer[..filled]) else {
            let n = stream.read(&mut buffer[filled..]).await?;
            if n == 0 {
                return Ok(());
            }
            filled += n;
            continue;
        };
        let path = buffer[..head].split(|b| *b == b' ').nth(1).unwrap_or_default();
        if path == b"*" {
            const REST: usize = "SM\r\n\r\n".len();
            let have = filled - head;
            let mut preface = buffer[head..filled].to_vec();
            preface.resize(have.max(REST), 0);
            stream.read_exact(&mut preface[have..]).await?;
            preface.drain(..REST);
            let filled = preface.len();
            return grpc::serve(stream, preface, filled).await;
        }
        if path == WEBSOCKET.as_bytes() {
            stream.write_all(websocket::ACCEPTED).await?;
            buffer.copy_within(head..filled, 0);
            return websocket::echo(stream, buffer, filled - head).await;
        }
        let answer = answers.of(path);
        let mut left = (head + content_length(&buffer[..head]).unwrap_or(0)).saturating_sub(filled);
        if left > buffer.len() {
            // a large body in large pieces
            buffer.resize(256 << 10, 0);
        }
        while left > 0 {
            let n = stream.forget(&mut buffer).await?;
            if n == 0 {
                return Ok(());
            }
            left = left.saturating_sub(n);
        }
        filled = 0;
        stream.write_all(answer).await?;
        stream.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::super::http2::{self, Call};
    use super::super::{Shape, Tickets, Until, http1};
    use super::*;

    /// The load of a shape straight at the origin.
    async fn answered(shape: Shape) -> u64 {
        let (client, server) = tokio::io::duplex(64 << 10);
        let tickets = Tickets { until: Until::Requests(1500), taken: 0.into() };
        let load = async {
            match shape {
                Shape::Grpc => http2::run(client, &Call::grpc(), &tickets).await,
                Shape::WebSocket => websocket::run(client, &tickets).await,
                _ => http1::run(client, &http1::Request::new(shape), &tickets).await,
            }
        };
        let answers = Answers::new();
        let (answered, served) = tokio::join!(load, connection(server, &answers));
        served.unwrap();
        answered.unwrap()
    }

    #[tokio::test]
    async fn every_load_gets_its_answers() {
        for shape in [Shape::Get, Shape::Post, Shape::Large, Shape::Grpc, Shape::WebSocket] {
            assert_eq!(answered(shape).await, 1500, "{}", shape.name());
        }
    }
}
