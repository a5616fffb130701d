use crate::decode::{fields, names};
use std::collections::BTreeMap;

fields! {
    /// A load balancer at the edge of the mesh: which ports, which hosts, which certificates.
    pub struct Gateway {
        /// Labels of the gateway's pods, in any namespace; empty selects every gateway.
        "selector" => selector: BTreeMap<String, String>,
        /// What it listens on.
        "servers" => servers: Vec<Server>,
    }

    /// One port of a [`Gateway`] with the hosts that are served on it.
    pub struct Server required ["hosts"] {
        /// The port.
        "port" => port: Port,
        /// The IP address or Unix socket to listen on.
        "bind" => bind: Option<String>,
        /// Hosts, each as `host`, `namespace/host`, `./host` or `*/host`.
        "hosts" => hosts: Vec<String>,
        /// TLS at this server; required for HTTPS and TLS.
        "tls" => tls: Option<ServerTlsSettings>,
        /// Where requests go by default; gateways do not use it.
        "defaultEndpoint" => default_endpoint: Option<String>,
        /// A name for the server.
        "name" => name: Option<String>,
    }

    /// The port of a [`Server`].
    pub struct Port {
        /// The port that VirtualServices name, translated by a Service to the pod's own.
        "number" => number: u32,
        /// HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP, TLS, in any case.
        "protocol" => protocol: String,
        /// A name, unique in the Gateway.
        "name" => name: String,
        /// Ignored by Istio.
        "targetPort" => target_port: Option<u32>,
    }

    /// TLS at a [`Server`].
    pub struct ServerTlsSettings {
        /// Answer plain HTTP with a redirect to HTTPS.
        "httpsRedirect" => https_redirect: Option<bool>,
        /// How TLS is done; Istio's zero value is PASSTHROUGH.
        "mode" => mode: Option<ServerTlsMode>,
        /// File of the server's certificate.
        "serverCertificate" => server_certificate: Option<String>,
        /// File of the server's key.
        "privateKey" => private_key: Option<String>,
        /// File of the authorities that clients' certificates are checked against.
        "caCertificates" => ca_certificates: Option<String>,
        /// File of the revocation list.
        "caCrl" => ca_crl: Option<String>,
        /// Secret that holds certificate, key and optionally the authorities.
        "credentialName" => credential_name: Option<String>,
        /// Several of them, such as one of RSA and one of ECDSA.
        "credentialNames" => credential_names: Vec<String>,
        /// Secret or ConfigMap that holds the authorities alone.
        "caCertCredentialName" => ca_cert_credential_name: Option<String>,
        /// Files of several certificates.
        "tlsCertificates" => tls_certificates: Vec<TlsCertificate>,
        /// Names that a client's certificate may have.
        "subjectAltNames" => subject_alt_names: Vec<String>,
        /// SHA-256 of client keys that are accepted.
        "verifyCertificateSpki" => verify_certificate_spki: Vec<String>,
        /// SHA-256 of client certificates that are accepted.
        "verifyCertificateHash" => verify_certificate_hash: Vec<String>,
        /// The lowest version of TLS.
        "minProtocolVersion" => min_protocol_version: Option<TlsProtocol>,
        /// The highest version of TLS.
        "maxProtocolVersion" => max_protocol_version: Option<TlsProtocol>,
        /// Cipher suites of TLS 1.2 and before.
        "cipherSuites" => cipher_suites: Vec<String>,
        /// Curves for the key exchange.
        "ecdhCurves" => ecdh_curves: Vec<String>,
        /// Accept client certificates that do not verify.
        "insecureSkipVerify" => insecure_skip_verify: Option<bool>,
    }

    /// Files of one certificate.
    pub struct TlsCertificate {
        /// File of the certificate.
        "serverCertificate" => server_certificate: Option<String>,
        /// File of the key.
        "privateKey" => private_key: Option<String>,
        /// File of the authorities.
        "caCertificates" => ca_certificates: Option<String>,
    }
}

names! {
    /// How a [`Server`] does TLS.
    pub enum ServerTlsMode {
        /// Not terminated; routed by SNI.
        "PASSTHROUGH" => Passthrough,
        /// Terminated.
        "SIMPLE" => Simple,
        /// Terminated, with a certificate of the client.
        "MUTUAL" => Mutual,
        /// Not terminated; the SNI names the service.
        "AUTO_PASSTHROUGH" => AutoPassthrough,
        /// Terminated with the mesh's own certificates.
        "ISTIO_MUTUAL" => IstioMutual,
        /// Terminated; a client may have a certificate.
        "OPTIONAL_MUTUAL" => OptionalMutual,
    }

    /// A version of TLS.
    pub enum TlsProtocol {
        /// The default: 1.2 as lowest, 1.3 as highest.
        "TLS_AUTO" => Auto,
        /// TLS 1.0.
        "TLSV1_0" => Tls10,
        /// TLS 1.1.
        "TLSV1_1" => Tls11,
        /// TLS 1.2.
        "TLSV1_2" => Tls12,
        /// TLS 1.3.
        "TLSV1_3" => Tls13,
    }
}
