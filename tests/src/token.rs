//! Bearer tokens of one run.

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use rcgen::{KeyPair, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize, SigningKey};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

const KEY_ID: &str = "test";

/// Signs JSON Web Tokens (RS256) with a key of its own.
pub struct TokenSigner(KeyPair);

impl TokenSigner {
    /// A signer with a new key.
    pub fn new() -> Result<Self> {
        Ok(TokenSigner(KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?))
    }

    /// The public key, as a JSON Web Key Set.
    pub fn key_set(&self) -> Result<String> {
        // RSAPublicKey of RFC 8017: SEQUENCE { INTEGER n, INTEGER e }
        let (tag, mut numbers, _) = element(self.0.der_bytes())?;
        ensure!(tag == 0x30, "no RSA public key");
        let mut next = || -> Result<String> {
            let (tag, number, rest) = element(numbers)?;
            ensure!(tag == 0x02, "no number in the RSA public key");
            numbers = rest;
            Ok(BASE64.encode(number.strip_prefix(&[0]).unwrap_or(number)))
        };
        let key =
            json!({"kty": "RSA", "kid": KEY_ID, "use": "sig", "alg": "RS256", "n": next()?, "e": next()?});
        Ok(json!({ "keys": [key] }).to_string())
    }

    /// A token with these claims, valid for an hour or expired for one.
    pub fn sign(&self, claims: &serde_json::Map<String, Value>, expired: bool) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let mut body = claims.clone();
        body.entry("iat").or_insert_with(|| (now - 7200).into());
        body.entry("exp").or_insert_with(|| if expired { now - 3600 } else { now + 3600 }.into());
        let head = json!({"alg": "RS256", "kid": KEY_ID, "typ": "JWT"}).to_string();
        let text = format!("{}.{}", BASE64.encode(head), BASE64.encode(Value::from(body).to_string()));
        let signature = self.0.sign(text.as_bytes())?;
        Ok(format!("{text}.{}", BASE64.encode(signature)))
    }
}

/// One element of DER: its tag, its content, and what follows it.
fn element(der: &[u8]) -> Result<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first().context("DER ends early")?;
    let (&first, rest) = rest.split_first().context("DER ends early")?;
    let (length, rest) = match first {
        0..0x80 => (usize::from(first), rest),
        _ => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f)).context("DER ends early")?;
            (bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b)), rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length).context("DER ends early")?;
    Ok((tag, content, rest))
}
