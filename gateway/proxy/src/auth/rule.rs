use super::cache::TokenCache;
use super::denial::Denial;
use super::keys::KeySet;
use super::remote::RemoteKeys;
use super::token::{Facts, Token};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidegate_engine::Claims;
use tidegate_model::{HeaderName, TokenRule};

/// A rule with its keys.
pub(super) struct Rule {
    /// Unlike that of any other rule in this process.
    pub(super) id: u64,
    pub(super) config: Arc<TokenRule>,
    pub(super) keys: Keys,
}

/// Where a rule's keys are.
#[derive(Clone)]
pub(super) enum Keys {
    Fixed(Arc<KeySet>),
    Remote(Arc<RemoteKeys>),
}

/// A token that a rule accepted but for its times, and what comes of it.
#[derive(Debug)]
pub(super) struct Accepted {
    facts: Facts,
    /// With the lists that the rule says are written with spaces.
    pub(super) claims: Claims,
    /// For the upstream.
    pub(super) headers: Vec<(HeaderName, Box<[u8]>)>,
}

impl Rule {
    pub(super) fn new(config: &Arc<TokenRule>, keys: Keys) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Rule { id: NEXT.fetch_add(1, Ordering::Relaxed), config: config.clone(), keys }
    }

    /// Verifies a token as of `now`, in seconds since the epoch. What fails is said in Envoy's order: form, issuer,
    /// times, audience, signature.
    pub(super) fn verify(&self, text: &[u8], now: u64, cache: &TokenCache) -> Result<Arc<Accepted>, Denial> {
        match &self.keys {
            Keys::Fixed(keys) => self.verify_with(Some(keys), text, now, cache),
            Keys::Remote(remote) => {
                let result = self.verify_with(remote.current().as_ref(), text, now, cache);
                if matches!(result, Err(Denial::KeyMismatch | Denial::NoKeys)) {
                    remote.ask_for_others();
                }
                result
            }
        }
    }

    fn verify_with(
        &self,
        keys: Option<&Arc<KeySet>>,
        text: &[u8],
        now: u64,
        cache: &TokenCache,
    ) -> Result<Arc<Accepted>, Denial> {
        let key = keys.map(|keys| TokenCache::key(self.id, keys.id, text));
        if let Some(known) = key.as_ref().and_then(|key| cache.get(key)) {
            known.facts.check_time(now)?;
            return Ok(known);
        }
        let token = Token::parse(text)?;
        let facts = &token.facts;
        if self.config.issuer.as_ref().is_some_and(|issuer| **issuer != *facts.issuer) {
            return Err(Denial::IssuerUnknown);
        }
        facts.check_time(now)?;
        if !self.is_for_us(facts) {
            return Err(Denial::Audience);
        }
        keys.ok_or(Denial::NotFetched)?.verify(&token)?;
        let accepted = Arc::new(self.accept(token.facts));
        if let Some(key) = key {
            cache.put(key, &accepted, text.len());
        }
        Ok(accepted)
    }

    fn is_for_us(&self, facts: &Facts) -> bool {
        let wanted = &self.config.audiences;
        let ours = |theirs: &String| wanted.iter().any(|w| bare(w) == bare(theirs));
        wanted.is_empty() || facts.audiences.iter().any(ours)
    }

    fn accept(&self, facts: Facts) -> Accepted {
        let mut headers = Vec::new();
        if let Some(name) = &self.config.payload_header {
            headers.push((name.clone(), facts.payload.clone()));
        }
        for output in &self.config.claim_headers {
            if let Some(value) = nested(&facts.claims, &output.claim).and_then(header_value) {
                headers.push((output.header.clone(), value.into_bytes().into()));
            }
        }
        let mut claims = facts.claims.clone();
        for name in &self.config.space_delimited {
            if let Some(value) = claims.get_mut(&**name)
                && let Value::String(words) = value
            {
                *value = words.split(' ').filter(|word| !word.is_empty()).collect();
            }
        }
        Accepted { facts, claims, headers }
    }
}

/// An audience without its scheme and a slash at the end, which Envoy does not look at.
fn bare(audience: &str) -> &str {
    let scheme = ["http://", "https://"].into_iter().find_map(|scheme| audience.strip_prefix(scheme));
    let bare = scheme.unwrap_or(audience);
    bare.strip_suffix('/').unwrap_or(bare)
}

/// A claim by its name, in objects by names joined with dots.
fn nested<'c>(claims: &'c Claims, path: &str) -> Option<&'c Value> {
    let mut names = path.split('.');
    let first = claims.get(names.next()?)?;
    names.try_fold(first, |value, name| value.as_object()?.get(name))
}

/// A claim as a header has it, as Envoy writes it; `None` for what says nothing, or cannot be a header's value.
fn header_value(claim: &Value) -> Option<String> {
    let text = match claim {
        Value::Null => return None,
        Value::Bool(b) => b.to_string(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => whole.to_string(),
            (None, Some(x)) if x >= 0.0 && x.fract() == 0.0 && x < 1e19 => format!("{x:.0}"),
            (None, x) => format!("{:.6}", x?),
        },
        Value::Array(_) | Value::Object(_) => BASE64.encode(claim.to_string()),
    };
    let control = |b: u8| (b < 0x20 && b != b'\t') || b == 0x7f;
    (!text.is_empty() && !text.bytes().any(control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn audiences_are_compared_without_scheme_and_slash() {
        for (audience, expected) in [
            ("a", "a"),
            ("https://a/", "a"),
            ("http://a/b", "a/b"),
            ("a//", "a/"),
            ("https:///", ""),
            ("ftp://a", "ftp://a"),
            ("", ""),
        ] {
            assert_eq!(bare(audience), expected, "{audience}");
        }
    }

    #[test]
    fn claims_as_headers() {
        for (claim, expected) in [
            (json!("text"), Some("text")),
            (json!(""), None),
            (json!("a\r\nx-admin: true"), None),
            (json!("a\u{0}b"), None),
            (json!("schön"), Some("schön")),
            (json!(true), Some("true")),
            (json!(1_234_567_890_123_456_789_u64), Some("1234567890123456789")),
            (json!(12.0), Some("12")),
            (json!(1.5), Some("1.500000")),
            (json!(-3), Some("-3.000000")),
            (json!(["a", 1]), Some("WyJhIiwxXQ==")),
            (json!({"k": "v"}), Some("eyJrIjoidiJ9")),
            (json!(null), None),
        ] {
            assert_eq!(header_value(&claim).as_deref(), expected, "{claim}");
        }
        let claims = json!({"a": {"b": {"c": 1}}, "a.b": 2});
        let claims = claims.as_object().unwrap();
        assert_eq!(nested(claims, "a.b.c"), Some(&json!(1)));
        assert_eq!((nested(claims, "a.x"), nested(claims, "a.b.c.d")), (None, None));
    }
}
