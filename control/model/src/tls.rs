use crate::{SecretKey, SniRoute, TcpRoute};
use serde::Serialize;
use std::sync::Arc;

/// What happens to the connections of a TLS server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsAction {
    /// TLS ends here; requests are routed by the table that has the server's name.
    Http(TlsTermination),
    /// TLS ends here; what is in it goes on as bytes.
    Tcp(TlsTermination, Arc<TcpRoute>),
    /// TLS does not end here: the bytes go on as they came. Of the server's names, only those that
    /// a route has are served; others belong to whichever server has them in a wider pattern.
    Passthrough {
        /// By SNI; of two with the same pattern, the first counts.
        routes: Vec<SniRoute>,
        /// The client must offer one of these protocols (ALPN); empty asks for none.
        protocols: Vec<Arc<str>>,
    },
    /// Every connection is refused, for this reason: what the server asks for cannot be done.
    Refuse(Arc<str>),
}

/// How TLS is terminated. While two are equal, and so are their secrets, sessions stay resumable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TlsTermination {
    /// Certificates, at most two (for instance RSA and ECDSA). A missing one makes the
    /// handshake fail for this server alone.
    pub certificates: Vec<SecretKey>,
    /// Lowest version; `None` is TLS 1.2.
    pub min_version: Option<TlsVersion>,
    /// Highest version; `None` is TLS 1.3.
    pub max_version: Option<TlsVersion>,
    /// Cipher suites of TLS 1.2, the preferred first; `None` is all of them. Those of TLS 1.3 cannot be chosen.
    pub cipher_suites: Option<Vec<CipherSuite>>,
    /// Groups for the key exchange, the preferred first; `None` is all of them.
    pub groups: Option<Vec<KeyExchange>>,
    /// Whether clients are asked for a certificate; `None` is no.
    pub clients: Option<ClientVerification>,
}

/// How certificates of clients are checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientVerification {
    /// Whether a client must have one. One that is sent is checked in any case.
    pub required: bool,
    /// Who signs them. A missing or broken one makes the handshake fail for this server alone.
    pub authorities: Vec<SecretKey>,
    /// Whether `authorities` do not matter: any certificate will do. The conditions below hold all the same.
    pub any_authority: bool,
    /// Names (DNS, URI, IP or e-mail) of which the certificate must have one; empty asks for none.
    pub names: Vec<Arc<str>>,
    /// SHA-256 of the key (SubjectPublicKeyInfo) or of the certificate, of which one must fit; empty asks for none.
    pub pins: Vec<Pin>,
}

/// What a client's certificate is pinned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pin {
    /// SHA-256 of the SubjectPublicKeyInfo in DER.
    Key([u8; 32]),
    /// SHA-256 of the certificate in DER.
    Certificate([u8; 32]),
}

/// A TLS protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[serde(rename = "TLSV1_2")]
    V1_2,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "TLSV1_3")]
    V1_3,
}

/// A cipher suite of TLS 1.2: those with forward secrecy and authenticated encryption alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
pub enum CipherSuite {
    /// TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256.
    EcdheEcdsaAes128GcmSha256,
    /// TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384.
    EcdheEcdsaAes256GcmSha384,
    /// TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256.
    EcdheEcdsaChacha20Poly1305,
    /// TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256.
    EcdheRsaAes128GcmSha256,
    /// TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384.
    EcdheRsaAes256GcmSha384,
    /// TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256.
    EcdheRsaChacha20Poly1305,
}

/// A group for the key exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum KeyExchange {
    /// X25519 with ML-KEM-768, which also withstands quantum computers.
    X25519MlKem768,
    /// X25519.
    X25519,
    /// NIST's P-256.
    P256,
    /// NIST's P-384.
    P384,
}
