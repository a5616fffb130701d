//! Who a request is from, by the tokens that it brings (JSON Web Tokens, RFC 7519).
//!
//! [`Authenticator`] is what the policies of one config mean: `locate` finds tokens, `token` reads them (`json` strictly), `keys` verifies
//! their signatures, `rule` holds them against an issuer's rule, `cache` remembers what verified, and `verified` is what
//! routing and the upstream get to see of it. Nothing here waits: keys that are fetched are kept by `remote` in the
//! background, from where `fetch` may go by `target`.
//!
//! It is asked only where a policy selects this gateway. What it lets pass unverified passes as nobody's.

mod authenticator;
mod cache;
mod denial;
mod fetch;
mod json;
mod keys;
mod locate;
mod remote;
mod rule;
mod target;
#[cfg(test)]
mod tests;
mod token;
mod verified;

pub(crate) use authenticator::Authenticator;
pub use authenticator::unusable_keys;
pub(crate) use cache::TokenCache;
pub(crate) use denial::Denial;
pub(crate) use fetch::HttpFetch;
pub use fetch::{InvalidRoots, KeyFetching};
pub(crate) use locate::{is_same, remove_header};
pub(crate) use remote::KeyStore;
pub(crate) use verified::Verified;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use {keys::KeySet, token::Token};
