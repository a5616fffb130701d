use crate::tls::client_hello::{ClientHello, HelloReader, InvalidHello};
use crate::tls::{ClientCertificate, Terminator, forwarded_client_cert};
use pingora::listeners::tls::Acceptor;
use pingora::protocols::Ssl;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::tls::TlsStream;
use pingora::server::ShutdownWatch;
use rustls::AlertDescription;
use std::io;
use std::sync::Arc;
use tidegate_model::TableName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Room for the first read: most hellos fit.
const FIRST_READ: usize = 2048;

/// What Pingora puts in front of what the TLS library says.
const SAID: &str = "tls connect error: ";
/// How much of that is told.
const MAX_SAID: usize = 160;

/// Why a TLS connection did not come about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the TLS handshake took too long")]
    Timeout,
    #[error("no ClientHello came")]
    Silent,
    #[error("{0}")]
    Hello(#[from] InvalidHello),
    #[error("refused: {0}")]
    Refused(String),
    #[error("the TLS server {0} has no usable certificate")]
    NoCertificate(Arc<str>),
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl HandshakeError {
    /// In a word, and `None` for who connects and leaves, as health checks of TCP do.
    pub(crate) fn reason(&self) -> Option<Reason> {
        Some(match self {
            HandshakeError::Silent => return None,
            HandshakeError::Timeout => Reason::Timeout,
            HandshakeError::Hello(InvalidHello::NotTls) => Reason::NotTls,
            HandshakeError::Hello(_) => Reason::InvalidHello,
            HandshakeError::Refused(_) => Reason::NoServer,
            HandshakeError::NoCertificate(_) => Reason::NoCertificate,
            HandshakeError::Failed(said) => Reason::of(said),
            HandshakeError::Io(_) => Reason::Closed,
        })
    }
}

impl From<Box<pingora::Error>> for HandshakeError {
    fn from(e: Box<pingora::Error>) -> Self {
        let text = e.to_string();
        let said = text.rsplit_once(SAID).map_or(&*text, |(_, said)| said).trim();
        HandshakeError::Failed(said.chars().take(MAX_SAID).collect())
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),* $(,)?) => {
        /// Why a TLS connection did not come about, in a word.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Reason { $($(#[$doc])* $variant),* }

        impl Reason {
            /// The words, in order.
            pub(crate) const NAMES: &'static [&'static str] = &[$($name),*];
        }
    };
}

reasons! {
    /// It took too long.
    Timeout = "timeout",
    /// The client left.
    Closed = "closed",
    /// The client does not speak TLS.
    NotTls = "not_tls",
    /// Its ClientHello is none.
    InvalidHello = "invalid_hello",
    /// No server is for the name or the protocols that it asks for.
    NoServer = "no_server",
    /// The server has no certificate.
    NoCertificate = "no_certificate",
    /// Both have no version, cipher suite or the like in common.
    Incompatible = "incompatible",
    /// The client's certificate is missing or not accepted.
    ClientCertificate = "client_certificate",
    /// The client ended it with an alert: it may not trust our certificate.
    Alert = "alert",
    /// What the client sent breaks the protocol.
    Protocol = "protocol",
}

impl Reason {
    /// What the TLS library says, of which Pingora keeps the words alone.
    fn of(said: &str) -> Self {
        let any = |beginnings: &[&str]| beginnings.iter().any(|b| said.starts_with(b));
        if any(&["received fatal alert"]) {
            Reason::Alert
        } else if any(&["peer is incompatible", "peer doesn't support any known protocol"]) {
            Reason::Incompatible
        } else if any(&["invalid peer certificate", "peer sent no certificates"]) {
            Reason::ClientCertificate
        } else if any(&["received ", "peer ", "cannot decrypt"]) {
            Reason::Protocol
        } else {
            Reason::Closed
        }
    }
}

/// What the handshake said.
#[derive(Debug)]
pub(crate) struct TlsFacts {
    /// The name the client asked for, lower case.
    pub(crate) sni: Option<Arc<str>>,
    /// The server that the SNI chose, which is also the name of its route table.
    pub(crate) table: TableName,
    /// `TLSv1.2` or `TLSv1.3`.
    pub(crate) version: &'static str,
    /// The cipher suite, as OpenSSL calls it.
    pub(crate) cipher: &'static str,
    /// The client's certificate, checked; `None` where it was not asked for or not sent.
    pub(crate) client: Option<ClientCertificate>,
    /// Turns true when the connection is to end: its listener goes, or its server asks for another kind of TLS.
    pub(crate) shutdown: ShutdownWatch,
}

/// Reads one whole ClientHello and puts it back in front of the stream.
///
/// # Errors
/// When none comes, or something else: the client is told by an alert.
pub(crate) async fn client_hello(stream: &mut L4Stream) -> Result<ClientHello, HandshakeError> {
    let mut reader = HelloReader::default();
    let mut read = Vec::with_capacity(FIRST_READ);
    loop {
        match stream.read_buf(&mut read).await {
            Ok(0) | Err(_) if read.is_empty() => return Err(HandshakeError::Silent),
            Err(e) => return Err(e.into()),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(_) => {}
        }
        match reader.read(&read) {
            Ok(Some(hello)) => {
                stream.rewind(&read);
                return Ok(hello);
            }
            Ok(None) => {}
            Err(e) => {
                if e != InvalidHello::NotTls {
                    refuse(stream, AlertDescription::DecodeError).await?;
                }
                return Err(e.into());
            }
        }
    }
}

/// Terminates TLS as a server's config says. `stream` begins with the ClientHello, which Pingora's
/// wrapper reads once more.
///
/// # Errors
/// When the handshake fails.
pub(crate) async fn terminate(
    mut stream: L4Stream,
    terminator: Option<Arc<Terminator>>,
    table: TableName,
    sni: Option<Arc<str>>,
) -> Result<(TlsStream<L4Stream>, TlsFacts), HandshakeError> {
    let Some(terminator) = terminator else {
        refuse(&mut stream, AlertDescription::HandshakeFailure).await?;
        return Err(HandshakeError::NoCertificate(table));
    };
    let stream = Acceptor::from_server_config(terminator.config.clone()).tls_handshake(stream).await?;
    let session = stream.get_ssl();
    let version = match session.and_then(|tls| tls.version()) {
        Some("TLSv1_3") => "TLSv1.3",
        _ => "TLSv1.2",
    };
    let cipher = session.and_then(|tls| tls.current_cipher_name()).map_or("", openssl_name);
    let chain = session.and_then(|tls| tls.peer_cert_chain_der()).filter(|chain| !chain.is_empty());
    let client = chain.map(|chain| {
        let forwarded = forwarded_client_cert::element(&terminator.identities, &chain[0]).into();
        let identities = super::peer::identities(&chain[0]).into();
        ClientCertificate { chain: chain.into(), forwarded, identities }
    });
    Ok((stream, TlsFacts { sni, table, version, cipher, client, shutdown: terminator.shutdown.clone() }))
}

/// The name by which OpenSSL, and so Envoy, calls a cipher suite.
fn openssl_name(suite: &'static str) -> &'static str {
    match suite {
        "TLS13_AES_128_GCM_SHA256" => "TLS_AES_128_GCM_SHA256",
        "TLS13_AES_256_GCM_SHA384" => "TLS_AES_256_GCM_SHA384",
        "TLS13_CHACHA20_POLY1305_SHA256" => "TLS_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" => "ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" => "ECDHE-ECDSA-AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" => "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" => "ECDHE-RSA-AES128-GCM-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" => "ECDHE-RSA-AES256-GCM-SHA384",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" => "ECDHE-RSA-CHACHA20-POLY1305",
        other => other,
    }
}

/// Sends a fatal alert (RFC 8446 6.2) in the clear, as is right before a ServerHello.
///
/// # Errors
/// When the client is gone.
pub(crate) async fn refuse(stream: &mut L4Stream, alert: AlertDescription) -> io::Result<()> {
    const ALERT: u8 = 0x15;
    const FATAL: u8 = 2;
    stream.write_all(&[ALERT, 3, 3, 0, 2, FATAL, u8::from(alert)]).await?;
    stream.flush().await?;
    AsyncWriteExt::shutdown(stream).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{CertificateError, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};

    #[test]
    fn what_the_tls_library_says_has_a_word() {
        for (error, reason) in [
            (Error::AlertReceived(AlertDescription::UnknownCA), Reason::Alert),
            (Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon), Reason::Incompatible),
            (Error::NoApplicationProtocol, Reason::Incompatible),
            (Error::InvalidCertificate(CertificateError::Expired), Reason::ClientCertificate),
            (Error::NoCertificatesPresented, Reason::ClientCertificate),
            (Error::InvalidMessage(InvalidMessage::InvalidCcs), Reason::Protocol),
            (Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare), Reason::Protocol),
            (Error::PeerSentOversizedRecord, Reason::Protocol),
            (Error::DecryptError, Reason::Protocol),
        ] {
            let said = error.to_string();
            let kind = pingora::ErrorType::TLSHandshakeFailure;
            let inner = pingora::Error::explain(kind.clone(), format!("{SAID}{said}"));
            let outer = pingora::Error::explain(kind, format!("TLS accept() failed: {inner}"));
            let failed = HandshakeError::from(outer);
            assert_eq!((failed.reason(), failed.to_string()), (Some(reason), said));
        }
        let left = HandshakeError::Failed("tls handshake eof".into());
        assert_eq!(left.reason(), Some(Reason::Closed));
    }
}
