use super::denial::Denial;
use super::json;
use super::keys::Algorithm;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::Value;
use tidegate_engine::Claims;

/// How far apart clocks may be, in seconds, as in Envoy.
const SKEW: u64 = 60;

/// A token that was read, and not verified yet.
#[derive(Debug)]
pub(crate) struct Token<'t> {
    /// Header and payload as they are signed.
    pub(crate) signed: &'t [u8],
    pub(super) signature: Vec<u8>,
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    pub(super) facts: Facts,
}

/// What a token says.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The payload as it is encoded in the token.
    pub(super) payload: Box<[u8]>,
    pub(super) issuer: String,
    pub(super) audiences: Vec<String>,
    expires: Option<u64>,
    not_before: Option<u64>,
    pub(super) claims: Claims,
}

impl<'t> Token<'t> {
    /// Reads the compact serialization (RFC 7515 7.1): strict base64url without padding, JSON objects, and registered
    /// claims of their types.
    pub(crate) fn parse(text: &'t [u8]) -> Result<Self, Denial> {
        let mut parts = text.split(|b| *b == b'.');
        let mut next = || parts.next().filter(|part| !part.is_empty()).ok_or(Denial::Format);
        let (header, payload, signature) = (next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(Denial::Format);
        }
        let (algorithm, key_id) = read_header(header)?;
        let facts = Facts::read(payload)?;
        let signature = BASE64.decode(signature).map_err(|_| Denial::SignatureBase64)?;
        let signed = &text[..header.len() + 1 + payload.len()];
        Ok(Token { signed, signature, algorithm, key_id, facts })
    }
}

fn read_header(header: &[u8]) -> Result<(Algorithm, Option<String>), Denial> {
    let json = BASE64.decode(header).map_err(|_| Denial::HeaderBase64)?;
    let header = json::object(&json).map_err(|_| Denial::HeaderJson)?;
    let name = header.get("alg").and_then(Value::as_str).ok_or(Denial::Algorithm)?;
    let algorithm = Algorithm::of(name).ok_or(Denial::AlgorithmUnsupported)?;
    // extensions that must be understood (RFC 7515 4.1.11): none is
    if header.contains_key("crit") {
        return Err(Denial::AlgorithmUnsupported);
    }
    Ok((algorithm, text(&header, "kid", Denial::KeyId)?.filter(|id| !id.is_empty())))
}

impl Facts {
    fn read(payload: &[u8]) -> Result<Self, Denial> {
        let json = BASE64.decode(payload).map_err(|_| Denial::PayloadBase64)?;
        let claims = json::object(&json).map_err(|_| Denial::PayloadJson)?;
        let issuer = text(&claims, "iss", Denial::Issuer)?.unwrap_or_default();
        text(&claims, "sub", Denial::Subject)?;
        time(&claims, "iat", Denial::IssuedAt, Denial::IssuedAtRange)?;
        let not_before = time(&claims, "nbf", Denial::NotBefore, Denial::NotBeforeRange)?;
        let expires = time(&claims, "exp", Denial::Expiry, Denial::ExpiryRange)?;
        text(&claims, "jti", Denial::Id)?;
        let audiences = audiences(&claims)?;
        Ok(Facts { payload: payload.into(), issuer, audiences, expires, not_before, claims })
    }

    /// Whether the token counts at `now`, in seconds since the epoch.
    pub(super) fn check_time(&self, now: u64) -> Result<(), Denial> {
        if self.not_before.is_some_and(|from| now.saturating_add(SKEW) < from) {
            return Err(Denial::NotYetValid);
        }
        if self.expires.is_some_and(|to| now > to.saturating_add(SKEW)) {
            return Err(Denial::Expired);
        }
        Ok(())
    }
}

fn text(claims: &Claims, name: &str, denial: Denial) -> Result<Option<String>, Denial> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(denial),
    }
}

fn time(claims: &Claims, name: &str, denial: Denial, range: Denial) -> Result<Option<u64>, Denial> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let number = value.as_f64().ok_or(denial)?;
    if let Some(whole) = value.as_u64() {
        return Ok(Some(whole));
    }
    // 2^64, which a double can say exactly
    if !(0.0..18_446_744_073_709_551_616.0).contains(&number) {
        return Err(range);
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "in range, and seconds are enough"
    )]
    Ok(Some(number as u64))
}

fn audiences(claims: &Claims) -> Result<Vec<String>, Denial> {
    let one = |value: &Value| value.as_str().map(str::to_owned).ok_or(Denial::AudienceType);
    match claims.get("aud") {
        None => Ok(Vec::new()),
        Some(Value::Array(items)) => items.iter().map(one).collect(),
        Some(value) => Ok(vec![one(value)?]),
    }
}
