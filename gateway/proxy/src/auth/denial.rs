/// Why a request is not let in, in the words of Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denial {
    /// There is no token, and there must be one.
    Missing,
    NotYetValid,
    Expired,
    /// Not three parts with dots between.
    Format,
    HeaderBase64,
    HeaderJson,
    /// `alg` is no string.
    Algorithm,
    /// `none`, symmetric, or unknown.
    AlgorithmUnsupported,
    KeyId,
    PayloadBase64,
    PayloadJson,
    Issuer,
    Subject,
    IssuedAt,
    IssuedAtRange,
    NotBefore,
    NotBeforeRange,
    Expiry,
    ExpiryRange,
    Id,
    AudienceType,
    SignatureBase64,
    /// No rule for this issuer.
    IssuerUnknown,
    /// For someone else.
    Audience,
    /// No key signed this.
    Signature,
    /// No key has this `kid` and `alg`.
    KeyMismatch,
    /// The key set has no key that can be used.
    NoKeys,
    /// The keys were never got.
    NotFetched,
}

impl Denial {
    /// Status, body and `response_code_details`.
    #[rustfmt::skip]
    pub(crate) fn row(self) -> (u16, &'static str, &'static str) {
        macro_rules! of {
            ($($first:literal)+) => { of!(401; $($first)+) };
            ($status:literal; $first:literal $($word:literal)*) => {(
                $status,
                concat!($first, $(" ", $word),*),
                concat!("jwt_authn_access_denied{", $first, $("_", $word,)* "}"),
            )};
        }
        match self {
            Denial::Missing => of!("Jwt" "is" "missing"),
            Denial::NotYetValid => of!("Jwt" "not" "yet" "valid"),
            Denial::Expired => of!("Jwt" "is" "expired"),
            Denial::Format => of!(
                "Jwt" "is" "not" "in" "the" "form" "of" "Header.Payload.Signature" "with" "two" "dots" "and" "3" "sections"
            ),
            Denial::HeaderBase64 => of!("Jwt" "header" "is" "an" "invalid" "Base64url" "encoded"),
            Denial::HeaderJson => of!("Jwt" "header" "is" "an" "invalid" "JSON"),
            Denial::Algorithm => of!("Jwt" "header" "[alg]" "field" "is" "required" "and" "must" "be" "a" "string"),
            Denial::AlgorithmUnsupported => of!("Jwt" "header" "[alg]" "is" "not" "supported"),
            Denial::KeyId => of!("Jwt" "header" "[kid]" "field" "is" "not" "a" "string"),
            Denial::PayloadBase64 => of!("Jwt" "payload" "is" "an" "invalid" "Base64url" "encoded"),
            Denial::PayloadJson => of!("Jwt" "payload" "is" "an" "invalid" "JSON"),
            Denial::Issuer => of!("Jwt" "payload" "[iss]" "field" "is" "not" "a" "string"),
            Denial::Subject => of!("Jwt" "payload" "[sub]" "field" "is" "not" "a" "string"),
            Denial::IssuedAt => of!("Jwt" "payload" "[iat]" "field" "is" "not" "an" "integer"),
            Denial::IssuedAtRange => of!("Jwt" "payload" "[iat]" "field" "is" "not" "a" "positive" "64" "bit" "integer"),
            Denial::NotBefore => of!("Jwt" "payload" "[nbf]" "field" "is" "not" "an" "integer"),
            Denial::NotBeforeRange => of!("Jwt" "payload" "[nbf]" "field" "is" "not" "a" "positive" "64" "bit" "integer"),
            Denial::Expiry => of!("Jwt" "payload" "[exp]" "field" "is" "not" "an" "integer"),
            Denial::ExpiryRange => of!("Jwt" "payload" "[exp]" "field" "is" "not" "a" "positive" "64" "bit" "integer"),
            Denial::Id => of!("Jwt" "payload" "[jti]" "field" "is" "not" "a" "string"),
            Denial::AudienceType => of!("Jwt" "payload" "[aud]" "field" "is" "not" "a" "string" "or" "string" "list"),
            Denial::SignatureBase64 => of!("Jwt" "signature" "is" "an" "invalid" "Base64url" "encoded"),
            Denial::IssuerUnknown => of!("Jwt" "issuer" "is" "not" "configured"),
            Denial::Audience => of!(403; "Audiences" "in" "Jwt" "are" "not" "allowed"),
            Denial::Signature => of!("Jwt" "verification" "fails"),
            Denial::KeyMismatch => of!("Jwks" "doesn't" "have" "key" "to" "match" "kid" "or" "alg" "from" "Jwt"),
            Denial::NoKeys => of!("Jwks" "doesn't" "have" "any" "valid" "public" "key"),
            Denial::NotFetched => of!("Jwks" "remote" "fetch" "is" "failed"),
        }
    }

    /// Whether it says no more than that the rule was not for this request.
    pub(super) fn is_about_another_rule(self) -> bool {
        matches!(self, Denial::Missing | Denial::IssuerUnknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_envoys() {
        assert_eq!(Denial::Expired.row(), (401, "Jwt is expired", "jwt_authn_access_denied{Jwt_is_expired}"));
        assert_eq!(Denial::Audience.row().0, 403);
        assert_eq!(
            Denial::Format.row().1,
            "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
        );
    }
}
