use super::super::cache::TokenCache;
use super::super::denial::Denial;
use super::super::fetch::{Fetch, FetchError};
use super::super::remote::KeyStore;
use super::super::token::Token;
use super::*;
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tidegate_model::KeyLocation;

fn verify(keys: &KeySet, text: &str) -> Result<(), Denial> {
    keys.verify(&Token::parse(text.as_bytes())?)
}

#[test]
fn each_algorithm_verifies_with_its_own_key_alone() {
    for signed in ALGORITHMS {
        let text = token(signed, &json!({}), &json!({"sub": "me"}));
        for key in ALGORITHMS {
            let keys = set(&[public(key)]);
            let same = public(key) == public(signed);
            assert_eq!(verify(&keys, &text).is_ok(), same, "{signed} with a key for {key}");
            let keys = set(&[with(public(key), &json!({"alg": key}))]);
            assert_eq!(verify(&keys, &text).is_ok(), key == signed, "{signed} with a key for {key} alone");
        }
        let all: Vec<_> = ALGORITHMS.map(public).into();
        assert_eq!(verify(&set(&all), &text), Ok(()), "{signed}");
        // another payload, header or signature under the same rest
        let other = token(signed, &json!({"typ": "JWT"}), &json!({"sub": "you"}));
        let (mine, theirs): (Vec<_>, Vec<_>) = (text.split('.').collect(), other.split('.').collect());
        for part in 0..3 {
            let mut mixed = mine.clone();
            mixed[part] = theirs[part];
            assert_eq!(verify(&set(&all), &mixed.join(".")), Err(Denial::Signature), "{signed} {part}");
        }
    }
}

#[test]
fn keys_are_chosen_by_id_and_use() {
    let key = |more: Value| with(public("ES256"), &more);
    let other = || with(public("ES384"), &json!({"kid": "a"}));
    let signed = |header: Value| token("ES256", &header, &json!({}));
    for (keys, header, expected) in [
        (vec![key(json!({"kid": "a"}))], json!({"kid": "a"}), Ok(())),
        (vec![key(json!({"kid": "a"}))], json!({"kid": "b"}), Err(Denial::KeyMismatch)),
        (vec![key(json!({"kid": "a"}))], json!({}), Ok(())),
        (vec![key(json!({}))], json!({"kid": "b"}), Ok(())),
        (vec![other(), key(json!({"kid": "a"}))], json!({"kid": "a"}), Ok(())),
        (vec![other()], json!({"kid": "a"}), Err(Denial::KeyMismatch)),
        (vec![key(json!({"use": "sig"}))], json!({}), Ok(())),
        (vec![key(json!({"use": "enc"}))], json!({}), Err(Denial::NoKeys)),
        (vec![], json!({}), Err(Denial::NoKeys)),
    ] {
        assert_eq!(verify(&set(&keys), &signed(header.clone())), expected, "{keys:?} {header}");
    }
}

#[test]
fn keys_that_cannot_be_used_are_named() {
    let rsa = public("RS256");
    let short = BASE64.encode([0xff; 128]);
    for (key, why) in [
        (json!(7), "no object"),
        (json!({}), "kty"),
        (json!({"kty": "oct", "k": "c2VjcmV0"}), "symmetric"),
        (json!({"kty": "OKP", "crv": "X25519", "x": "AA"}), "not supported"),
        (json!({"kty": "OKP", "crv": "Ed25519", "x": "AA"}), "curve"),
        (json!({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}), "crv"),
        (json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}), "curve"),
        (json!({"kty": "EC", "crv": "P-256", "x": short, "y": "AA"}), "length"),
        (json!({"kty": "EC", "crv": "P-256", "y": "AA"}), "no x"),
        (with(public("ES256"), &json!({"alg": "ES384"})), "alg"),
        (with(rsa.clone(), &json!({"alg": "HS256"})), "alg"),
        (with(rsa.clone(), &json!({"alg": "ES256"})), "alg"),
        (with(rsa.clone(), &json!({"alg": "RSA-OAEP", "use": "enc"})), "signatures"),
        (with(rsa.clone(), &json!({"n": short})), "2048"),
        (with(rsa.clone(), &json!({"n": "!"})), "no n"),
        (with(rsa, &json!({"e": "AQ"})), "exponent"),
    ] {
        let text = json!({"keys": [key, public("ES256")]}).to_string();
        let (keys, unusable) = KeySet::parse(text.as_bytes()).unwrap();
        let [said] = &*unusable else { panic!("{key}: {unusable:?}") };
        assert!(said.starts_with("keys[0] ") && said.contains(why), "{key}: {said}");
        assert_eq!(verify(&keys, &usual(&json!({}))), Ok(()), "the other key of the set counts");
    }
    for text in ["", "[]", "{}", r#"{"keys": {}}"#, "\u{0}"] {
        assert!(KeySet::parse(text.as_bytes()).is_err(), "{text:?}");
    }
}

/// A token whose parts are these, unsigned.
fn parts(header: &str, payload: &str, signature: &[u8]) -> String {
    [header.as_bytes(), payload.as_bytes(), signature].map(|part| BASE64.encode(part)).join(".")
}

#[test]
fn what_is_no_token_is_refused_in_the_words_of_envoy() {
    let es = r#"{"alg":"ES256"}"#;
    let (claims, sig) = ("{}", &b"signature"[..]);
    for (text, denial) in [
        (String::new(), Denial::Format),
        ("a.b".into(), Denial::Format),
        ("a.b.c.d".into(), Denial::Format),
        ("..".into(), Denial::Format),
        (parts(es, claims, b""), Denial::Format),
        (format!(".{}", parts(es, claims, sig)), Denial::Format),
        ("!.e30.c2ln".into(), Denial::HeaderBase64),
        (parts("no json", claims, sig), Denial::HeaderJson),
        (parts("[]", claims, sig), Denial::HeaderJson),
        (parts(r#"{"alg":"ES256","alg":"ES256"}"#, claims, sig), Denial::HeaderJson),
        (parts("{}", claims, sig), Denial::Algorithm),
        (parts(r#"{"alg":7}"#, claims, sig), Denial::Algorithm),
        (parts(r#"{"alg":"none"}"#, claims, sig), Denial::AlgorithmUnsupported),
        (parts(r#"{"alg":"NONE"}"#, claims, sig), Denial::AlgorithmUnsupported),
        (parts(r#"{"alg":"HS256"}"#, claims, sig), Denial::AlgorithmUnsupported),
        (parts(r#"{"alg":"es256"}"#, claims, sig), Denial::AlgorithmUnsupported),
        (parts(r#"{"alg":"ES256","crit":["b64"],"b64":false}"#, claims, sig), Denial::AlgorithmUnsupported),
        (parts(r#"{"alg":"ES256","kid":7}"#, claims, sig), Denial::KeyId),
        (format!("{}.!.c2ln", BASE64.encode(es)), Denial::PayloadBase64),
        (parts(es, "7", sig), Denial::PayloadJson),
        (parts(es, r#"{"iss":"you","iss":"me"}"#, sig), Denial::PayloadJson),
        (parts(es, &"[".repeat(100_000), sig), Denial::PayloadJson),
        (parts(es, r#"{"iss":7}"#, sig), Denial::Issuer),
        (parts(es, r#"{"sub":{}}"#, sig), Denial::Subject),
        (parts(es, r#"{"iat":"1"}"#, sig), Denial::IssuedAt),
        (parts(es, r#"{"iat":-1}"#, sig), Denial::IssuedAtRange),
        (parts(es, r#"{"nbf":null}"#, sig), Denial::NotBefore),
        (parts(es, r#"{"nbf":1e20}"#, sig), Denial::NotBeforeRange),
        (parts(es, r#"{"exp":[]}"#, sig), Denial::Expiry),
        (parts(es, r#"{"exp":-0.5}"#, sig), Denial::ExpiryRange),
        (parts(es, r#"{"jti":1}"#, sig), Denial::Id),
        (parts(es, r#"{"aud":1}"#, sig), Denial::AudienceType),
        (parts(es, r#"{"aud":["a",1]}"#, sig), Denial::AudienceType),
        (format!("{}.{}.!", BASE64.encode(es), BASE64.encode(claims)), Denial::SignatureBase64),
        (format!("{}.{}.c2ln=", BASE64.encode(es), BASE64.encode(claims)), Denial::SignatureBase64),
    ] {
        assert_eq!(Token::parse(text.as_bytes()).err(), Some(denial), "{}", &text[..text.len().min(100)]);
    }
}

#[test]
fn a_public_key_is_no_secret_to_sign_with() {
    let key = public("RS256");
    let secret = key.to_string();
    let text = format!("{}.{}", BASE64.encode(r#"{"alg":"HS256"}"#), BASE64.encode("{}"));
    let mac = aws_lc_rs::hmac::sign(
        &aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes()),
        text.as_bytes(),
    );
    let text = format!("{text}.{}", BASE64.encode(mac));
    assert_eq!(verify(&set(&[key]), &text), Err(Denial::AlgorithmUnsupported));
}

#[test]
fn times_audiences_and_issuers() {
    let t = 1_700_000_000;
    let any = rule("", |_| {});
    let mine = rule("me", |_| {});
    let audience = rule("", |r| r.audiences = vec!["https://a/".into(), "b".into()]);
    let cache = TokenCache::default();
    for (rule, payload, expected) in [
        (&any, json!({}), Ok(())),
        (&any, json!({"exp": t - 60}), Ok(())),
        (&any, json!({"exp": t - 61}), Err(Denial::Expired)),
        (&any, json!({"exp": 0}), Err(Denial::Expired)),
        (&any, json!({"exp": 1e18}), Ok(())),
        (&any, json!({"nbf": t + 60}), Ok(())),
        (&any, json!({"nbf": t + 61}), Err(Denial::NotYetValid)),
        (&any, json!({"nbf": t + 61, "exp": t - 61}), Err(Denial::NotYetValid)),
        (&mine, json!({"iss": "me"}), Ok(())),
        (&mine, json!({"iss": "you", "exp": 1}), Err(Denial::IssuerUnknown)),
        (&mine, json!({}), Err(Denial::IssuerUnknown)),
        (&audience, json!({"aud": "a"}), Ok(())),
        (&audience, json!({"aud": ["x", "http://b/"]}), Ok(())),
        (&audience, json!({"aud": "c"}), Err(Denial::Audience)),
        (&audience, json!({"aud": []}), Err(Denial::Audience)),
        (&audience, json!({}), Err(Denial::Audience)),
    ] {
        let verified = compiled(rule).verify(usual(&payload).as_bytes(), t, &cache);
        assert_eq!(verified.map(|_| ()), expected, "{payload}");
    }
}

#[test]
fn what_verified_is_remembered_but_for_its_time() {
    let cache = TokenCache::default();
    let rules = [compiled(&rule("", |_| {})), compiled(&rule("", |_| {}))];
    let text = usual(&json!({"exp": 1000}));
    let first = rules[0].verify(text.as_bytes(), 1000, &cache).unwrap();
    let second = rules[0].verify(text.as_bytes(), 1060, &cache).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(rules[0].verify(text.as_bytes(), 1061, &cache).err(), Some(Denial::Expired));
    let elsewhere = rules[1].verify(text.as_bytes(), 1000, &cache).unwrap();
    assert!(!Arc::ptr_eq(&first, &elsewhere), "another rule, another meaning");
    // a refused one is not remembered, nor a long one
    let mut forged = text.clone();
    forged.replace_range(text.len() - 4.., "AAAA");
    assert_eq!(rules[0].verify(forged.as_bytes(), 1000, &cache).err(), Some(Denial::Signature));
    let long = usual(&json!({"x": "y".repeat(8 << 10)}));
    assert!(rules[0].verify(long.as_bytes(), 1000, &cache).is_ok());
    assert_eq!(cache.len(), 2);
    for i in 0..3000u32 {
        cache.put(TokenCache::key(7, 7, &i.to_be_bytes()), &first, 1);
    }
    assert!(cache.len() <= 1024, "{}", cache.len());
    let last = TokenCache::key(7, 7, &2999u32.to_be_bytes());
    assert!(cache.get(&last).is_some() && cache.get(&TokenCache::key(7, 7, &0u32.to_be_bytes())).is_none());
}

proptest! {
    #[test]
    fn anything_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Token::parse(&bytes);
        let _ = KeySet::parse(&bytes);
    }

    #[test]
    fn anything_in_the_form_of_a_token_is_read(header in ".{0,40}", payload in ".{0,80}", signature in any::<[u8; 8]>()) {
        let _ = Token::parse(parts(&header, &payload, &signature).as_bytes());
        let header = r#"{"alg":"ES256"}"#;
        let _ = Token::parse(parts(header, &payload, &signature).as_bytes());
    }

    #[test]
    fn a_token_with_one_other_byte_does_not_verify(at in 0usize..200, byte in any::<u8>()) {
        static TEXT: OnceLock<String> = OnceLock::new();
        let text = TEXT.get_or_init(|| usual(&json!({"sub": "me", "exp": 4_000_000_000_u64})));
        let mut bytes = text.clone().into_bytes();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        let keys = set(&[public("ES256")]);
        let verified = Token::parse(&bytes).and_then(|token| keys.verify(&token));
        prop_assert!(verified.is_err(), "byte {at} of {text}");
    }
}

/// An issuer that has put a new key beside its first since it was asked first.
#[derive(Default)]
struct Rotating(AtomicUsize);

#[async_trait::async_trait]
impl Fetch for Rotating {
    async fn get(&self, _: &str, _: Duration) -> Result<bytes::Bytes, FetchError> {
        let asked = self.0.fetch_add(1, Ordering::Relaxed);
        let keys =
            [with(public("ES256"), &json!({"kid": "old"})), with(public("ES384"), &json!({"kid": "new"}))];
        Ok(json!({ "keys": keys[..keys.len().min(asked + 1)] }).to_string().into())
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_not_known_yet_is_fetched_while_its_tokens_are_refused() {
    let issuer = Arc::new(Rotating::default());
    let mut store = KeyStore::new(tokio::runtime::Handle::current(), issuer.clone());
    let keys = store.watch(&KeyLocation::KeySet("http://keys/".into()), Duration::from_secs(1));
    let rule = Rule::new(&rule("", |_| {}), Keys::Remote(keys));
    let cache = TokenCache::default();
    let verify = |algorithm, kid| {
        let text = token(algorithm, &json!({"kid": kid}), &json!({}));
        rule.verify(text.as_bytes(), now(), &cache).err()
    };
    assert_eq!(verify("ES256", "old"), Some(Denial::NotFetched));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((verify("ES256", "old"), verify("ES384", "new")), (None, Some(Denial::KeyMismatch)));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((verify("ES256", "old"), verify("ES384", "new")), (None, None));
    assert_eq!(issuer.0.load(Ordering::Relaxed), 2);
}
