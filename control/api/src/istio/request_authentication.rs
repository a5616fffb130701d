use super::LabelSelector;
use crate::decode::{fields, names};
use std::time::Duration;

fields! {
    /// Whose tokens requests to some workloads may bring (`security.istio.io`).
    pub struct RequestAuthentication = default {
        /// The workloads; without selector and targets all of the namespace.
        "selector" => selector: Option<LabelSelector>,
        /// The resource that it is attached to (deprecated form).
        "targetRef" => target_ref: Option<PolicyTarget>,
        /// The resources that it is attached to.
        "targetRefs" => target_refs: Vec<PolicyTarget>,
        /// Issuers of tokens.
        "jwtRules" => jwt_rules: Vec<JwtRule>,
    }

    /// A Kubernetes Gateway, service or waypoint.
    pub struct PolicyTarget {
        /// The API group; empty for core.
        "group" => group: Option<String>,
        /// The kind.
        "kind" => kind: String,
        /// The name.
        "name" => name: String,
        /// Must be empty: the policy's own.
        "namespace" => namespace: Option<String>,
    }

    /// An issuer whose tokens are accepted.
    pub struct JwtRule one_of ["jwks", "jwksUri", "jwks_uri"] {
        /// What `iss` must be.
        "issuer" => issuer: Option<String>,
        /// What one of `aud` must be.
        "audiences" => audiences: Vec<String>,
        /// Where the keys are.
        "jwksUri" | "jwks_uri" => jwks_uri: Option<String>,
        /// The keys.
        "jwks" => jwks: Option<String>,
        /// Headers with tokens.
        "fromHeaders" => from_headers: Vec<JwtHeader>,
        /// Query parameters with tokens.
        "fromParams" => from_params: Vec<String>,
        /// Cookies with tokens.
        "fromCookies" => from_cookies: Vec<String>,
        /// The header that gets the payload.
        "outputPayloadToHeader" => output_payload_to_header: Option<String>,
        /// Headers that get claims.
        "outputClaimToHeaders" => output_claim_to_headers: Vec<ClaimToHeader>,
        /// Whether the token is sent on.
        "forwardOriginalToken" => forward_original_token: Option<bool>,
        /// The time for fetching keys; 5 seconds when absent.
        "timeout" => timeout: Option<Duration>,
        /// Claims that are lists separated by spaces, beside `scope` and `permission`.
        "spaceDelimitedClaims" => space_delimited_claims: Vec<String>,
        /// Whether there must be a token; OPTIONAL when absent.
        "presence" => presence: Option<Presence>,
    }

    /// A header with a token.
    pub struct JwtHeader {
        /// Its name.
        "name" => name: String,
        /// What is before the token.
        "prefix" => prefix: Option<String>,
    }

    /// A header that gets a claim.
    pub struct ClaimToHeader {
        /// The header.
        "header" => header: String,
        /// The claim.
        "claim" => claim: String,
    }
}

names! {
    /// Whether there must be a token.
    pub enum Presence {
        /// No.
        "OPTIONAL" => Optional,
        /// Yes.
        "REQUIRED" => Required,
    }
}
