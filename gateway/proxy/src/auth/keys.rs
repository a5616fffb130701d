use super::denial::Denial;
use super::token::Token;
use aws_lc_rs::signature::{
    self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Map, Value};
use std::sync::atomic::{AtomicU64, Ordering};

/// The most keys of a set that are used: a token without `kid` is tried with each.
const MOST_KEYS: usize = 128;
/// The sizes of RSA keys, in bytes of the modulus.
const RSA_SIZES: std::ops::RangeInclusive<usize> = 256..=1024;

/// How a token is signed (RFC 7518 3.1, RFC 8037 3.1). Neither `none` nor a symmetric algorithm is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl Algorithm {
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Algorithm::Rs256,
            "RS384" => Algorithm::Rs384,
            "RS512" => Algorithm::Rs512,
            "PS256" => Algorithm::Ps256,
            "PS384" => Algorithm::Ps384,
            "PS512" => Algorithm::Ps512,
            "ES256" => Algorithm::Es256,
            "ES384" => Algorithm::Es384,
            "ES512" => Algorithm::Es512,
            "EdDSA" => Algorithm::EdDsa,
            _ => return None,
        })
    }

    fn rsa(self) -> Option<&'static RsaParameters> {
        Some(match self {
            Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
            _ => return None,
        })
    }
}

/// A JSON Web Key Set (RFC 7517 5), as far as its keys can verify.
#[derive(Debug)]
pub(crate) struct KeySet {
    /// Unlike that of any other set in this process.
    pub(super) id: u64,
    keys: Box<[Key]>,
}

#[derive(Debug)]
struct Key {
    id: Option<Box<str>>,
    /// The only algorithm it may be used with, where it says one.
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa(RsaPublicKeyComponents<Box<[u8]>>),
    /// Of the one algorithm that goes with its curve.
    Curve(Algorithm, ParsedPublicKey),
}

/// Why a text is no key set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidKeySet {
    #[error("is not JSON")]
    Json,
    #[error("has no list of keys")]
    NoList,
}

impl KeySet {
    /// Reads a set, and says of each key that cannot be used why.
    pub(crate) fn parse(text: &[u8]) -> Result<(Self, Vec<String>), InvalidKeySet> {
        let json: Value = serde_json::from_slice(text).map_err(|_| InvalidKeySet::Json)?;
        let list = json.get("keys").and_then(Value::as_array).ok_or(InvalidKeySet::NoList)?;
        let (mut keys, mut unusable) = (Vec::new(), Vec::new());
        for (i, key) in list.iter().enumerate() {
            match key.as_object().ok_or("is no object").and_then(Key::read) {
                Ok(_) if keys.len() == MOST_KEYS => unusable.push(format!("keys[{i}] is one too many")),
                Ok(key) => keys.push(key),
                Err(why) => unusable.push(format!("keys[{i}] {why}")),
            }
        }
        Ok((KeySet::of(keys), unusable))
    }

    /// A set without keys, with which nothing verifies.
    pub(super) fn none() -> Self {
        KeySet::of(Vec::new())
    }

    fn of(keys: Vec<Key>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        KeySet { id: NEXT.fetch_add(1, Ordering::Relaxed), keys: keys.into() }
    }

    /// Whether a token was signed with one of the keys. A key is tried only if its `kid`, where both have one, and its
    /// algorithm are the token's.
    pub(crate) fn verify(&self, token: &Token<'_>) -> Result<(), Denial> {
        if self.keys.is_empty() {
            return Err(Denial::NoKeys);
        }
        let id = token.key_id.as_deref();
        let named = |key: &&Key| key.id.as_deref().zip(id).is_none_or(|(theirs, ours)| theirs == ours);
        let mut denial = Denial::KeyMismatch;
        for key in self.keys.iter().filter(named) {
            match key.verify(token) {
                Some(true) => return Ok(()),
                Some(false) => denial = Denial::Signature,
                None => {}
            }
        }
        Err(denial)
    }
}

impl Key {
    fn read(jwk: &Map<String, Value>) -> Result<Self, &'static str> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        if text("use").is_some_and(|u| u != "sig") {
            return Err("is not for signatures");
        }
        let algorithm = match text("alg") {
            None => None,
            Some(name) => Some(Algorithm::of(name).ok_or("has an alg that is not supported")?),
        };
        let bytes = |name: &str| text(name).and_then(|t| BASE64.decode(t).ok()).filter(|b| !b.is_empty());
        let material = match text("kty").ok_or("has no kty")? {
            "RSA" => rsa(bytes("n").ok_or("has no n")?, bytes("e").ok_or("has no e")?)?,
            "EC" => {
                let (x, y) = (bytes("x").ok_or("has no x")?, bytes("y").ok_or("has no y")?);
                curve(text("crv"), algorithm, &x, &y)?
            }
            "OKP" if text("crv") == Some("Ed25519") => {
                let x = bytes("x").ok_or("has no x")?;
                let key = ParsedPublicKey::new(&signature::ED25519, x).map_err(|_| "is not on its curve")?;
                Material::Curve(Algorithm::EdDsa, key)
            }
            "oct" => return Err("is symmetric, and who can verify with it could sign too"),
            _ => return Err("has a kty or crv that is not supported"),
        };
        let fits = match &material {
            Material::Rsa(_) => algorithm.is_none_or(|a| a.rsa().is_some()),
            Material::Curve(own, _) => algorithm.is_none_or(|a| a == *own),
        };
        if !fits {
            return Err("has an alg that is not for such keys");
        }
        Ok(Key { id: text("kid").filter(|id| !id.is_empty()).map(Into::into), algorithm, material })
    }

    /// `None` when the key is not for the token's algorithm.
    fn verify(&self, token: &Token<'_>) -> Option<bool> {
        if self.algorithm.is_some_and(|a| a != token.algorithm) {
            return None;
        }
        match &self.material {
            Material::Rsa(key) => {
                let parameters = token.algorithm.rsa()?;
                Some(key.verify(parameters, token.signed, &token.signature).is_ok())
            }
            Material::Curve(own, key) => {
                (*own == token.algorithm).then(|| key.verify_sig(token.signed, &token.signature).is_ok())
            }
        }
    }
}

fn rsa(n: Vec<u8>, e: Vec<u8>) -> Result<Material, &'static str> {
    let zeros = n.iter().take_while(|b| **b == 0).count();
    if !RSA_SIZES.contains(&(n.len() - zeros)) {
        return Err("has fewer than 2048 or more than 8192 bits");
    }
    let e: Vec<u8> = e.into_iter().skip_while(|b| *b == 0).collect();
    if !matches!(&*e, [3] | [1, 0, 1]) {
        return Err("has an exponent that is neither 3 nor 65537");
    }
    Ok(Material::Rsa(RsaPublicKeyComponents { n: n[zeros..].into(), e: e.into() }))
}

fn curve(
    name: Option<&str>,
    algorithm: Option<Algorithm>,
    x: &[u8],
    y: &[u8],
) -> Result<Material, &'static str> {
    let of_algorithm = algorithm.unwrap_or(Algorithm::Es256);
    let own = match name {
        Some("P-256") => Algorithm::Es256,
        Some("P-384") => Algorithm::Es384,
        Some("P-521") => Algorithm::Es512,
        None => of_algorithm,
        Some(_) => return Err("has a crv that is not supported"),
    };
    let (size, verification): (usize, &'static dyn VerificationAlgorithm) = match own {
        Algorithm::Es256 => (32, &signature::ECDSA_P256_SHA256_FIXED),
        Algorithm::Es384 => (48, &signature::ECDSA_P384_SHA384_FIXED),
        Algorithm::Es512 => (66, &signature::ECDSA_P521_SHA512_FIXED),
        _ => return Err("has an alg that is not for such keys"),
    };
    // uncompressed (SEC 1 2.3.3); leading zeros may have been left out
    let mut point = vec![0; 1 + 2 * size];
    point[0] = 4;
    for (coordinate, end) in [(x, 1 + size), (y, 1 + 2 * size)] {
        let start = end.checked_sub(coordinate.len()).filter(|start| *start + size >= end);
        point[start.ok_or("has a coordinate of the wrong length")?..end].copy_from_slice(coordinate);
    }
    let key = ParsedPublicKey::new(verification, point).map_err(|_| "is not on its curve")?;
    Ok(Material::Curve(own, key))
}
