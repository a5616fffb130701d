//! TLS on the downstream side: rustls configs by listener and SNI, from the pinned snapshot.

mod certificate;
mod handshake;
mod servers;

pub(crate) use handshake::{HandshakeError, handshake};
pub(crate) use servers::ServerConfigs;

/// Makes aws-lc-rs the process's provider. Pingora would install ring, without post-quantum key
/// exchange, so this must come before its first call. Later calls change nothing.
pub(crate) fn install_provider() {
    // Err means that one is installed already, which is what is wanted.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
