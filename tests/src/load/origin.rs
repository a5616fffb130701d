//! An origin that costs as little as it can: HTTP/1.1, 1 KB or 100 KB, whatever is asked, and nothing for spans.

use super::http1::{content_length, head_length};
use super::{LARGE, SPANS};
use anyhow::Result;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
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
    let bodies = Rc::new([response(1 << 10), response(100 << 10), response(0)]);
    let set = LocalSet::new();
    set.run_until(async {
        let accept = |l| tokio::task::spawn_local(accept(l, tls.clone(), bodies.clone()));
        for accepting in listeners.into_iter().map(accept).collect::<Vec<_>>() {
            accepting.await??;
        }
        Ok(())
    })
    .await
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, bodies: Rc<[Vec<u8>; 3]>) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (bodies, tls) = (bodies.clone(), tls.clone());
        tokio::task::spawn_local(async move {
            // a gateway that goes away is no news here
            let _ = match tls {
                None => connection(stream, &bodies).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => connection(stream, &bodies).await,
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

async fn connection<S>(mut stream: S, [small, large, empty]: &[Vec<u8>; 3]) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
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
        let answer = match buffer[..head].split(|b| *b == b' ').nth(1) {
            Some(path) if path == LARGE.as_bytes() => large,
            Some(path) if path == SPANS.as_bytes() => empty,
            _ => small,
        };
        let mut left = (head + content_length(&buffer[..head]).unwrap_or(0)).saturating_sub(filled);
        while left > 0 {
            let n = stream.read(&mut buffer).await?;
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
