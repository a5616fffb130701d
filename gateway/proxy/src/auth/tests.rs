//! Tokens of all kinds against rules of all kinds, up to what goes upstream.

mod fetching;
mod requests;
mod tokens;

use super::keys::KeySet;
use super::rule::{Keys, Rule};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};
use tidegate_model::{HeaderName, KeySource, ObjectRef, Origin, TokenLocation, TokenRule};

/// Keys of every kind, made once.
struct Signers {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    p521: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
}

fn signers() -> &'static Signers {
    static ALL: OnceLock<Signers> = OnceLock::new();
    let curve = |algorithm: &'static EcdsaSigningAlgorithm| EcdsaKeyPair::generate(algorithm).unwrap();
    ALL.get_or_init(|| Signers {
        rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
        p256: curve(&ECDSA_P256_SHA256_FIXED_SIGNING),
        p384: curve(&ECDSA_P384_SHA384_FIXED_SIGNING),
        p521: curve(&ECDSA_P521_SHA512_FIXED_SIGNING),
        ed25519: Ed25519KeyPair::generate().unwrap(),
    })
}

const ALGORITHMS: [&str; 10] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"];

/// The signature of `text`.
fn sign(algorithm: &str, text: &[u8]) -> Vec<u8> {
    let signers = signers();
    let random = SystemRandom::new();
    let rsa = |encoding: &'static dyn RsaEncoding| {
        let mut signature = vec![0; signers.rsa.public_modulus_len()];
        signers.rsa.sign(encoding, &random, text, &mut signature).unwrap();
        signature
    };
    let curve = |key: &EcdsaKeyPair| key.sign(&random, text).unwrap().as_ref().to_vec();
    match algorithm {
        "RS256" => rsa(&RSA_PKCS1_SHA256),
        "RS384" => rsa(&RSA_PKCS1_SHA384),
        "RS512" => rsa(&RSA_PKCS1_SHA512),
        "PS256" => rsa(&RSA_PSS_SHA256),
        "PS384" => rsa(&RSA_PSS_SHA384),
        "PS512" => rsa(&RSA_PSS_SHA512),
        "ES256" => curve(&signers.p256),
        "ES384" => curve(&signers.p384),
        "ES512" => curve(&signers.p521),
        "EdDSA" => signers.ed25519.sign(text).as_ref().to_vec(),
        other => panic!("{other}"),
    }
}

/// The public key that verifies an algorithm, as a JSON Web Key without kid and alg.
fn public(algorithm: &str) -> Value {
    let signers = signers();
    let curve = |name: &str, key: &EcdsaKeyPair| {
        let point = &key.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        json!({"kty": "EC", "crv": name, "x": BASE64.encode(x), "y": BASE64.encode(y)})
    };
    match algorithm {
        "ES256" => curve("P-256", &signers.p256),
        "ES384" => curve("P-384", &signers.p384),
        "ES512" => curve("P-521", &signers.p521),
        "EdDSA" => {
            json!({"kty": "OKP", "crv": "Ed25519", "x": BASE64.encode(signers.ed25519.public_key().as_ref())})
        }
        _ => {
            // RSAPublicKey (RFC 8017 A.1.1) of 2048 bits with the exponent 65537
            let der = signers.rsa.public_key().as_ref();
            assert_eq!((der.len(), &der[265..]), (270, &[2, 3, 1, 0, 1][..]));
            json!({"kty": "RSA", "n": BASE64.encode(&der[9..265]), "e": "AQAB"})
        }
    }
}

fn with(mut key: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        key[name] = value.clone();
    }
    key
}

fn set(keys: &[Value]) -> KeySet {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap().0
}

/// A signed token.
fn token(algorithm: &str, header: &Value, payload: &Value) -> String {
    let header = with(json!({"alg": algorithm}), header);
    let text = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(payload.to_string()));
    let signature = BASE64.encode(sign(algorithm, text.as_bytes()));
    format!("{text}.{signature}")
}

/// One that is signed with the usual key.
fn usual(payload: &Value) -> String {
    token("ES256", &json!({}), payload)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A rule for an issuer whose keys are all of [`public`], with the default locations.
fn rule(issuer: &str, change: impl FnOnce(&mut TokenRule)) -> Arc<TokenRule> {
    let keys: Vec<_> = ["ES256", "RS256", "ES384", "ES512", "EdDSA"].map(public).into();
    let mut rule = TokenRule {
        object: ObjectRef::new("RequestAuthentication", "istio-system", "test"),
        index: 0,
        origin: Origin::default(),
        issuer: (!issuer.is_empty()).then(|| issuer.into()),
        audiences: Vec::new(),
        keys: KeySource::Inline(json!({ "keys": keys }).to_string().into()),
        locations: vec![
            TokenLocation::Header(HeaderName::new("authorization"), "Bearer ".into()),
            TokenLocation::Param("access_token".into()),
        ],
        required: false,
        forward: false,
        payload_header: None,
        claim_headers: Vec::new(),
        space_delimited: vec!["permission".into(), "scope".into()],
    };
    change(&mut rule);
    Arc::new(rule)
}

fn compiled(config: &Arc<TokenRule>) -> Rule {
    let KeySource::Inline(text) = &config.keys else { panic!("keys elsewhere") };
    Rule::new(config, Keys::Fixed(Arc::new(KeySet::parse(text.as_bytes()).unwrap().0)))
}
