use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// A secret's place: `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct SecretKey {
    /// The namespace, which for gateways is that of the gateway itself (Istio 2.9).
    pub namespace: Arc<str>,
    /// The secret's name.
    pub name: Arc<str>,
}

impl fmt::Display for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A certificate, of a server or towards an upstream, with its key, checked to belong together. PEM, as it was given.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Namespace and name.
    pub key: SecretKey,
    /// The chain, leaf first, in PEM.
    pub certificate_chain: Arc<[u8]>,
    /// The private key in PEM (PKCS#8, PKCS#1 or SEC1).
    pub private_key: Arc<[u8]>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Serialize for Secret {
    /// Only the name: key material never leaves the process by a page or a log.
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.key.serialize(s)
    }
}

/// Certificates of authorities, against which those of clients or upstreams are checked, and what they revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorities {
    /// Namespace and name of what they come from.
    pub key: SecretKey,
    /// The certificates, PEM.
    pub certificates: Arc<[u8]>,
    /// Revocation lists (RFC 5280 5), PEM; `None` checks for no revocation.
    pub revoked: Option<Arc<[u8]>>,
}

impl Serialize for Authorities {
    /// Only the name: the contents would fill pages.
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.key.serialize(s)
    }
}
