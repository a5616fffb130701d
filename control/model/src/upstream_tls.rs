use crate::SecretKey;
use serde::Serialize;
use std::sync::Arc;

/// How TLS is spoken to the endpoints of a cluster. Connections of one policy are never used under another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpstreamTls {
    /// What a server gets that asks for a certificate; `None` shows it none. A missing or broken one makes every
    /// connection of the cluster fail.
    pub certificate: Option<SecretKey>,
    /// Who may sign the server's certificate.
    pub authorities: ServerAuthorities,
    /// The name that is asked for (SNI); `None` is the host that each request is for, and the cluster's host where
    /// what goes on is not HTTP.
    pub server_name: Option<Arc<str>>,
    /// Names (DNS, URI, IP or e-mail) of which the server's certificate must have one; empty asks for the server name.
    pub names: Vec<Arc<str>>,
}

/// Who may sign the certificates of servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerAuthorities {
    /// Those that the system trusts.
    System,
    /// These. Missing or broken ones make every connection of the cluster fail.
    Named(SecretKey),
    /// Anyone, and the names do not matter either: the server is not verified.
    Any,
}

/// A version of the PROXY protocol, by which an endpoint is told who the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ProxyProtocol {
    /// Text.
    V1,
    /// Binary.
    V2,
}
