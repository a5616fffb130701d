use crate::SecretKey;
use serde::Serialize;
use std::fmt;
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

impl fmt::Display for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server_name {
            Some(name) => write!(f, "to {name}, ")?,
            None => f.write_str("to the host of the request, ")?,
        }
        match &self.authorities {
            ServerAuthorities::System => f.write_str("signed by an authority of the system")?,
            ServerAuthorities::Named(key) => write!(f, "signed by {key}")?,
            ServerAuthorities::Any => f.write_str("not verified")?,
        }
        if !self.names.is_empty() && self.authorities != ServerAuthorities::Any {
            write!(f, " for {}", self.names.join(" or "))?;
        }
        match &self.certificate {
            Some(key) => write!(f, "; shows {key}"),
            None => Ok(()),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_in_words() {
        let key = |name: &str| SecretKey { namespace: "ns".into(), name: name.into() };
        let simple = UpstreamTls {
            certificate: None,
            authorities: ServerAuthorities::System,
            server_name: None,
            names: Vec::new(),
        };
        let mutual = UpstreamTls {
            certificate: Some(key("me")),
            authorities: ServerAuthorities::Named(key("ca")),
            server_name: Some("a.example".into()),
            names: vec!["x".into(), "y".into()],
        };
        let any = UpstreamTls { authorities: ServerAuthorities::Any, ..mutual.clone() };
        for (policy, text) in [
            (simple, "to the host of the request, signed by an authority of the system"),
            (mutual, "to a.example, signed by ns/ca for x or y; shows ns/me"),
            (any, "to a.example, not verified; shows ns/me"),
        ] {
            assert_eq!(policy.to_string(), text);
        }
    }
}
