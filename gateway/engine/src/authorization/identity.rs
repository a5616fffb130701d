//! What policies ask about who a client is by its certificate. As in Envoy, each of its URIs and DNS names and its
//! subject is a name, and one that matches is enough.

use super::text::{Case, matches};
use tidegate_model::{Expected, PeerPart, TextPattern};

const SCHEME: &str = "spiffe://";

/// What a name must be like, as istiod says it to Envoy.
#[derive(Debug)]
pub(super) enum IdentityPattern {
    /// Behind `spiffe://`; `Any` is any name.
    Principal(TextPattern),
    /// `/ns/`, the namespace and `/`, cut at each `*`: all of it is there, in this order.
    Namespace(Box<[Box<str>]>),
    /// `/ns/NAMESPACE/` and `sa/ACCOUNT`, each as whole segments.
    Account(Box<str>, Box<str>),
    /// The trust domain of a SPIFFE id, before and behind a `*` if there is one.
    TrustDomain(Box<str>, Option<Box<str>>),
}

impl IdentityPattern {
    /// The patterns of the texts in a list.
    pub(super) fn of(part: PeerPart, list: &[Expected]) -> Box<[IdentityPattern]> {
        let texts = list.iter().filter_map(|expected| match expected {
            Expected::Text(pattern) => Some(pattern),
            _ => None,
        });
        texts.map(|pattern| Self::compile(part, pattern)).collect()
    }

    fn compile(part: PeerPart, pattern: &TextPattern) -> Self {
        let text = pattern.to_string();
        match part {
            PeerPart::Principal => IdentityPattern::Principal(pattern.clone()),
            PeerPart::Namespace => {
                IdentityPattern::Namespace(format!("/ns/{text}/").split('*').map(Box::from).collect())
            }
            PeerPart::ServiceAccount => {
                let (namespace, account) = text.split_once('/').unwrap_or(("", &text));
                let (namespace, account) = (format!("/ns/{namespace}/"), format!("sa/{account}"));
                IdentityPattern::Account(namespace.into(), account.into())
            }
            PeerPart::TrustDomain => match text.split_once('*') {
                None => IdentityPattern::TrustDomain(text.into(), None),
                Some((front, back)) => IdentityPattern::TrustDomain(front.into(), Some(back.into())),
            },
        }
    }

    /// Whether a name is such.
    pub(super) fn is(&self, name: &str) -> bool {
        let id = name.strip_prefix(SCHEME);
        match self {
            IdentityPattern::Principal(TextPattern::Any) => !name.is_empty(),
            IdentityPattern::Principal(pattern) => {
                id.is_some_and(|id| matches(pattern, &[id.as_bytes()], Case::Sensitive))
            }
            IdentityPattern::Namespace(pieces) => {
                let behind = |rest: &str, piece: &str| Some(rest.find(piece)? + piece.len());
                let mut pieces = pieces.iter();
                pieces.try_fold(name, |rest, piece| Some(&rest[behind(rest, piece)?..])).is_some()
            }
            IdentityPattern::Account(namespace, account) => id.is_some_and(|id| {
                let mut behind = id.match_indices(&**namespace).filter(|(at, _)| *at > 0);
                behind.any(|(at, _)| has_account(&id[at + namespace.len()..], account))
            }),
            IdentityPattern::TrustDomain(front, back) => match (&**front, back.as_deref()) {
                ("", Some("")) => id.is_some(),
                (front, back) => id.and_then(|id| id.split_once('/')).is_some_and(|(domain, _)| match back {
                    None => domain == front,
                    Some(back) => domain.strip_prefix(front).is_some_and(|rest| rest.ends_with(back)),
                }),
            },
        }
    }
}

/// Whether an account is the whole path, or whole segments of it with something on each side that there is.
fn has_account(path: &str, account: &str) -> bool {
    path.match_indices(account).any(|(at, _)| {
        let (front, behind) = (&path[..at], &path[at + account.len()..]);
        let begins = front.is_empty() || front.len() > 1 && front.ends_with('/');
        begins && (behind.is_empty() || behind.len() > 1 && behind.starts_with('/'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_as_istiod_says_it() {
        use PeerPart::{Namespace, Principal, ServiceAccount, TrustDomain};
        let id = "spiffe://cluster.local/ns/a/sa/b";
        for (part, text, name, expected) in [
            (Principal, "cluster.local/ns/a/sa/b", id, true),
            (Principal, "spiffe://cluster.local/ns/a/sa/b", id, false),
            (Principal, "cluster.local/ns/a/sa/b", "cluster.local/ns/a/sa/b", false),
            (Principal, "cluster.local/*", id, true),
            (Principal, "*/sa/b", id, true),
            (Principal, "*/sa/c", id, false),
            (Principal, "*", id, true),
            (Principal, "*", "CN=client", true),
            (Principal, "*", "", false),
            (Principal, "*client", "CN=client", false),
            (Namespace, "a", id, true),
            (Namespace, "b", id, false),
            (Namespace, "a", "spiffe://cluster.local/ns/a", false),
            (Namespace, "*", id, true),
            (Namespace, "pro*", "spiffe://td/ns/prod/sa/b", true),
            (Namespace, "*od", "spiffe://td/ns/prod/sa/b", true),
            (Namespace, "p*d", "spiffe://td/ns/prod/sa/b", true),
            (Namespace, "p*x", "spiffe://td/ns/prod/sa/b", false),
            (ServiceAccount, "a/b", id, true),
            (ServiceAccount, "a/c", id, false),
            (ServiceAccount, "a/b", "spiffe://td/ns/a/sa/bc", false),
            (ServiceAccount, "a/b", "spiffe://td/x/y/ns/a/z/w/sa/b/v", true),
            (ServiceAccount, "a/b", "spiffe://td/ns/a/xsa/b", false),
            (ServiceAccount, "a/b", "spiffe:///ns/a/sa/b", false),
            (ServiceAccount, "a/b", "https://td/ns/a/sa/b", false),
            (TrustDomain, "cluster.local", id, true),
            (TrustDomain, "cluster", id, false),
            (TrustDomain, "cluster.*", id, true),
            (TrustDomain, "*.local", id, true),
            (TrustDomain, "*b", id, false),
            (TrustDomain, "*", id, true),
            (TrustDomain, "*", "client.example", false),
        ] {
            let patterns = IdentityPattern::of(part, &[Expected::Text(TextPattern::parse(text))]);
            assert_eq!(patterns[0].is(name), expected, "{part:?} {text} {name}");
        }
    }
}
