//! TLS on both sides. Downstream: which name a client asks for, and rustls configs by server, from the pinned snapshot.
//! Upstream: rustls configs by the policies of clusters.

mod certificate;
mod client_certificate;
pub(crate) mod client_hello;
mod credentials;
mod forwarded_client_cert;
mod handshake;
mod originate;
mod originated;
mod peer;
mod servers;
mod trusted;

pub(crate) use client_certificate::ClientCertificate;
pub(crate) use credentials::{Credentials, system_authorities};
pub(crate) use handshake::{HandshakeError, Reason, TlsFacts, client_hello, refuse, terminate};
pub(crate) use originate::{Inside, OriginateError, Originator, fault};
pub(crate) use originated::Originated;
pub(crate) use peer::NameKind;
pub(crate) use servers::{ServerConfigs, Terminator};

/// Makes aws-lc-rs the process's provider. Pingora would install ring, without post-quantum key
/// exchange, so this must come before its first call. Later calls change nothing.
pub(crate) fn install_provider() {
    // Err means that one is installed already, which is what is wanted.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
