//! Protocols by name, as Istio reads them (`pkg/config/protocol`, `pkg/config/kube`).

use tidegate_model::UpstreamProtocol;

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.x, or HTTP of either version at a gateway.
    Http,
    /// HTTP/2.
    Http2,
    /// gRPC, or gRPC-Web.
    Grpc,
    /// HTTP in TLS.
    Https,
    /// TLS.
    Tls,
    /// Bytes, of whatever protocol.
    Tcp,
    /// Datagrams.
    Udp,
    /// Not said.
    Unknown,
}

impl Protocol {
    /// By name, in any case.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "http" | "http_proxy" => Protocol::Http,
            "http2" => Protocol::Http2,
            "grpc" | "grpc-web" => Protocol::Grpc,
            "https" => Protocol::Https,
            "tls" => Protocol::Tls,
            "tcp" | "mongo" | "redis" | "mysql" | "hbone" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return None,
        })
    }

    /// Of a Service's port: `appProtocol`, else the name up to its first `-`.
    pub(crate) fn of_service_port(transport: Option<&str>, app: Option<&str>, name: &str) -> Self {
        if transport.is_some_and(|t| t.eq_ignore_ascii_case("udp")) {
            return Protocol::Udp;
        }
        let app = app.and_then(|app| match app.to_ascii_lowercase().as_str() {
            "kubernetes.io/h2c" => Some(Protocol::Http2),
            "kubernetes.io/ws" => Some(Protocol::Http),
            "kubernetes.io/wss" => Some(Protocol::Https),
            other => Protocol::parse(other),
        });
        let prefix = name.split('-').next().unwrap_or(name);
        app.or_else(|| Protocol::parse(prefix)).unwrap_or(Protocol::Unknown)
    }

    /// Plain HTTP.
    pub(crate) fn is_http(self) -> bool {
        matches!(self, Protocol::Http | Protocol::Http2 | Protocol::Grpc)
    }

    /// What is spoken to endpoints of such a port.
    pub(crate) fn upstream(self) -> UpstreamProtocol {
        match self {
            Protocol::Http2 | Protocol::Grpc => UpstreamProtocol::Http2,
            _ => UpstreamProtocol::Http1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_service_ports() {
        for (transport, app, name, expected) in [
            (None, None, "http", Protocol::Http),
            (None, None, "HTTP2-web", Protocol::Http2),
            (None, None, "grpc-web-x", Protocol::Grpc),
            (None, Some("https"), "http", Protocol::Https),
            (None, Some("kubernetes.io/h2c"), "http", Protocol::Http2),
            (None, Some("example.com/own"), "http", Protocol::Http),
            (Some("UDP"), None, "http", Protocol::Udp),
            (Some("TCP"), None, "web", Protocol::Unknown),
            (None, None, "", Protocol::Unknown),
        ] {
            assert_eq!(Protocol::of_service_port(transport, app, name), expected, "{app:?} {name}");
        }
    }
}
