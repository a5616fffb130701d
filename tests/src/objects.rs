//! Objects that many sites have, as YAML.

use crate::Identity;

/// A Gateway on two ports, in plaintext and with TLS, whose certificate is in the [`secret`] of the same name.
pub fn gateway(name: &str, [plain, tls]: [u16; 2]) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec:\n\
         \x20 selector: {{istio: ingressgateway}}\n  servers:\n\
         \x20 - port: {{number: {plain}, name: http, protocol: HTTP}}\n    hosts: ['*']\n\
         \x20 - port: {{number: {tls}, name: https, protocol: HTTPS}}\n    hosts: ['*']\n\
         \x20   tls: {{mode: SIMPLE, credentialName: {name}}}\n"
    )
}

/// A Secret with a certificate, in the namespace of the gateway.
pub fn secret(name: &str, Identity { certificate, key, .. }: &Identity) -> String {
    let block = |pem: &str| pem.trim_end().replace('\n', "\n    ");
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: istio-system}}\n\
         type: kubernetes.io/tls\nstringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
        block(certificate),
        block(key)
    )
}
