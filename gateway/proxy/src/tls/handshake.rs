use crate::connection::TlsFacts;
use crate::snapshot::LastSnapshot;
use crate::tls::servers::Server;
use crate::worker::Worker;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::Ssl;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::tls::TlsStream;
use rustls::AlertDescription;
use rustls::server::Accepted;
use std::io;
use std::sync::Arc;
use tidegate_model::ListenerKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// The first byte of a TLS handshake record (RFC 8446 5.1).
const HANDSHAKE: u8 = 0x16;
/// More than any client sends; rustls has a limit of its own for the message, not for its records.
const HELLO_BYTES: usize = 80 << 10;

/// Why a TLS connection did not come about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the TLS handshake took too long")]
    Timeout,
    #[error("no ClientHello came")]
    Silent,
    #[error("the client does not speak TLS")]
    NotTls,
    #[error("invalid ClientHello: {0}")]
    Hello(rustls::Error),
    #[error("the ClientHello is too large")]
    TooLarge,
    #[error("no TLS server for {}", .0.as_deref().unwrap_or("a client without SNI"))]
    UnknownName(Option<Arc<str>>),
    #[error("the TLS server {0} has no usable certificate")]
    NoCertificate(Arc<str>),
    #[error("TLS handshake failed: {0}")]
    Failed(#[from] Box<pingora::Error>),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Terminates TLS by the server that SNI chooses from the live snapshot (or the last
/// that had the listener), within the deadline.
///
/// # Errors
/// When the client does not speak TLS, asks for a name that is not served, or fails the handshake.
pub(crate) async fn handshake(
    stream: L4Stream,
    listener: &ListenerKey,
    last: &LastSnapshot,
    worker: &Worker,
) -> Result<(TlsStream<L4Stream>, TlsFacts), HandshakeError> {
    let time = worker.limits.handshake_time;
    timeout(time, negotiate(stream, listener, last, worker)).await.unwrap_or(Err(HandshakeError::Timeout))
}

async fn negotiate(
    mut stream: L4Stream,
    listener: &ListenerKey,
    last: &LastSnapshot,
    worker: &Worker,
) -> Result<(TlsStream<L4Stream>, TlsFacts), HandshakeError> {
    let (accepted, read) = client_hello(&mut stream).await?;
    let sni: Option<Arc<str>> = accepted.client_hello().server_name().map(|n| n.to_ascii_lowercase().into());
    drop(accepted);
    let server: Option<Arc<Server>> = worker.pin(last).tls.choose(listener, sni.as_deref()).cloned();
    let Some(server) = server else {
        refuse(&mut stream, AlertDescription::UnrecognisedName).await?;
        return Err(HandshakeError::UnknownName(sni));
    };
    let Some(config) = server.config.clone() else {
        refuse(&mut stream, AlertDescription::HandshakeFailure).await?;
        return Err(HandshakeError::NoCertificate(server.table.clone()));
    };
    // Pingora's wrapper begins at the beginning: it reads the ClientHello once more.
    stream.rewind(&read);
    let stream = Acceptor::from_server_config(config).tls_handshake(stream).await?;
    let version = match stream.get_ssl().and_then(|tls| tls.version()) {
        Some("TLSv1_3") => "TLSv1.3",
        _ => "TLSv1.2",
    };
    Ok((stream, TlsFacts { sni, table: server.table.clone(), version }))
}

/// Reads one whole ClientHello; also gives back the bytes read.
async fn client_hello(stream: &mut L4Stream) -> Result<(Accepted, Vec<u8>), HandshakeError> {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut read = Vec::with_capacity(2048);
    let mut seen = 0;
    loop {
        match stream.read_buf(&mut read).await? {
            0 if read.is_empty() => return Err(HandshakeError::Silent),
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => {}
        }
        if read[0] != HANDSHAKE {
            return Err(HandshakeError::NotTls);
        }
        while seen < read.len() {
            seen += acceptor.read_tls(&mut &read[seen..])?;
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok((accepted, read)),
                Ok(None) => {}
                Err((e, mut alert)) => {
                    let mut bytes = Vec::new();
                    alert.write_all(&mut bytes)?;
                    end_with(stream, &bytes).await?;
                    return Err(HandshakeError::Hello(e));
                }
            }
        }
        if read.len() > HELLO_BYTES {
            return Err(HandshakeError::TooLarge);
        }
    }
}

/// Sends a fatal alert (RFC 8446 6.2) in the clear, as is right before a ServerHello.
async fn refuse(stream: &mut L4Stream, alert: AlertDescription) -> io::Result<()> {
    const ALERT: u8 = 0x15;
    const FATAL: u8 = 2;
    end_with(stream, &[ALERT, 3, 3, 0, 2, FATAL, u8::from(alert)]).await
}

async fn end_with(stream: &mut L4Stream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await?;
    AsyncWriteExt::shutdown(stream).await
}
