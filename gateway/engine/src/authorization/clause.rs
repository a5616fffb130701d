use super::identity::IdentityPattern;
use super::text::{Case, matches, matches_template};
use super::{Ends, Subject};
use crate::claim::find;
use crate::host_index::{host_of, split_port};
use crate::{Claims, RequestView};
use ipnet::IpNet;
use serde_json::Value;
use std::fmt::Write;
use std::net::IpAddr;
use tidegate_model::{Attribute, Clause, Expected, HIDDEN, HeaderName, TextPattern, is_secret};

/// What one attribute must be and must not be, compiled.
#[derive(Debug)]
pub(super) struct CompiledClause {
    source: Clause,
    test: Test,
    values: List,
    not_values: List,
}

/// What of a list of values is not looked at as it was written.
#[derive(Debug)]
struct List {
    networks: Networks,
    identities: Box<[IdentityPattern]>,
}

impl List {
    fn of(attribute: &Attribute, list: &[Expected]) -> Self {
        let identities = match attribute {
            Attribute::Peer(part) => IdentityPattern::of(*part, list),
            _ => Box::default(),
        };
        List { networks: Networks::of(list), identities }
    }
}

/// What an attribute's values are compared by.
#[derive(Debug)]
enum Test {
    Source(Address),
    Port,
    Sni,
    /// Who the client is by its certificate.
    Peer,
    /// Nothing has it here.
    Nothing,
    Principal,
    /// A claim of the token, by its name.
    Token(&'static str),
    Claim,
    Header(HeaderName),
    Method,
    Scheme,
    Host,
    Path,
    /// Path and query.
    Target,
}

#[derive(Clone, Copy, Debug)]
enum Address {
    Source,
    Remote,
    Destination,
}

/// How many of an attribute's values, or of its forms, must match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// One is enough.
    Any,
    /// There must be one, and none that does not.
    All,
}

impl CompiledClause {
    /// `before_tokens` where tokens are not verified yet when it is asked.
    pub(super) fn compile(clause: &Clause, before_tokens: bool) -> Self {
        let test = match &clause.attribute {
            of_token if before_tokens && of_token.is_of_tokens() => Test::Nothing,
            Attribute::SourceIp => Test::Source(Address::Source),
            Attribute::RemoteIp => Test::Source(Address::Remote),
            Attribute::DestinationIp => Test::Source(Address::Destination),
            Attribute::DestinationPort => Test::Port,
            Attribute::Sni => Test::Sni,
            Attribute::Peer(_) => Test::Peer,
            Attribute::Filter(_) => Test::Nothing,
            Attribute::RequestPrincipal => Test::Principal,
            Attribute::Audiences => Test::Token("aud"),
            Attribute::Presenter => Test::Token("azp"),
            Attribute::Claim(_) => Test::Claim,
            Attribute::Header(name) => match name.as_str() {
                ":method" => Test::Method,
                ":scheme" => Test::Scheme,
                ":authority" | "host" => Test::Host,
                ":path" => Test::Target,
                _ => Test::Header(name.clone()),
            },
            Attribute::Host => Test::Host,
            Attribute::Method => Test::Method,
            Attribute::Path => Test::Path,
        };
        CompiledClause {
            source: clause.clone(),
            test,
            values: List::of(&clause.attribute, &clause.values),
            not_values: List::of(&clause.attribute, &clause.not_values),
        }
    }

    /// Whether the attribute is as wanted. Where a match refuses, a doubt is one for it; else one against it.
    pub(super) fn holds(&self, subject: &Subject<'_>, refuses: bool) -> bool {
        self.has_value(subject, refuses) && !self.has_not_value(subject, refuses)
    }

    fn has_value(&self, subject: &Subject<'_>, refuses: bool) -> bool {
        if subject.request.is_none() && !self.source.attribute.is_of_connections() {
            return refuses;
        }
        let reading = if refuses { Reading::Any } else { Reading::All };
        self.source.values.is_empty() || self.is_one_of(&self.source.values, &self.values, subject, reading)
    }

    fn has_not_value(&self, subject: &Subject<'_>, refuses: bool) -> bool {
        if subject.request.is_none() && !self.source.attribute.is_of_connections() {
            return !refuses;
        }
        let reading = if refuses { Reading::All } else { Reading::Any };
        let not_values = &self.source.not_values;
        !not_values.is_empty() && self.is_one_of(not_values, &self.not_values, subject, reading)
    }

    fn is_one_of(&self, list: &[Expected], compiled: &List, subject: &Subject<'_>, reading: Reading) -> bool {
        let Subject { ends, request } = subject;
        let text = |parts: &[&[u8]], case| list.iter().any(|e| is_text(e, parts, case));
        match (&self.test, request) {
            (Test::Source(which), _) => compiled.networks.contain(which.of(ends)),
            (Test::Peer, _) => {
                compiled.identities.iter().any(|pattern| ends.names.iter().any(|name| pattern.is(name)))
            }
            (Test::Port, _) => list.contains(&Expected::Port(ends.destination.port())),
            (Test::Sni, _) => text(&[ends.sni.as_bytes()], Case::Ignored),
            (Test::Nothing, _) | (_, None) => false,
            (Test::Principal, Some(request)) => {
                principal(request.claims()).is_some_and(|of| list.iter().any(|e| is_principal(e, of)))
            }
            (Test::Token(name), Some(request)) => {
                let claim = request.claims().and_then(|claims| claims.get(*name));
                claim.is_some_and(|claim| is_claim(list, claim))
            }
            (Test::Claim, Some(request)) => {
                let Attribute::Claim(path) = &self.source.attribute else { return false };
                find(request.claims(), path).is_some_and(|claim| is_claim(list, claim))
            }
            (Test::Header(name), Some(request)) => is_header(list, *request, name, reading),
            (Test::Method, Some(request)) => text(&[request.method()], Case::Sensitive),
            (Test::Scheme, Some(request)) => text(&[request.scheme().as_str().as_bytes()], Case::Sensitive),
            (Test::Host, Some(request)) => is_host(list, *request, reading),
            (Test::Path, Some(request)) => {
                let path = request.path();
                list.iter().any(|e| match e {
                    Expected::Template(template) => matches_template(template, path),
                    e => is_text(e, &[path], Case::Sensitive),
                })
            }
            (Test::Target, Some(request)) => match request.query() {
                None => text(&[request.path()], Case::Sensitive),
                Some(query) => text(&[request.path(), b"?", query], Case::Sensitive),
            },
        }
    }

    /// Why it does not hold, for one who reads it.
    #[cold]
    pub(super) fn reason(&self, subject: &Subject<'_>, refuses: bool) -> String {
        let attribute = &self.source.attribute;
        let (list, words) = match self.has_value(subject, refuses) {
            false => (&self.source.values, "is none of"),
            true => (&self.source.not_values, "is one of"),
        };
        let secret = match attribute {
            Attribute::Header(name) => is_secret(name.as_str()),
            _ => false,
        };
        let mut reason = format!("{attribute} {words}");
        for (i, expected) in list.iter().enumerate() {
            reason.push_str(if i > 0 { ", " } else { " " });
            match secret && !matches!(expected, Expected::Text(TextPattern::Any)) {
                true => reason.push_str(HIDDEN),
                false => _ = write!(reason, "{expected}"),
            }
        }
        reason
    }
}

impl Address {
    fn of(self, ends: &Ends<'_>) -> IpAddr {
        match self {
            Address::Source => ends.source,
            Address::Remote => ends.remote,
            Address::Destination => ends.destination.ip(),
        }
        .to_canonical()
    }
}

fn is_text(expected: &Expected, parts: &[&[u8]], case: Case) -> bool {
    matches!(expected, Expected::Text(pattern) if matches(pattern, parts, case))
}

/// Issuer and subject, where the token names both.
fn principal(claims: Option<&Claims>) -> Option<[&[u8]; 2]> {
    let claims = claims?;
    let text = |name: &str| Some(claims.get(name)?.as_str()?.as_bytes()).filter(|text| !text.is_empty());
    Some([text("iss")?, text("sub")?])
}

fn is_principal(expected: &Expected, [issuer, subject]: [&[u8]; 2]) -> bool {
    let Expected::Principal(wanted) = expected else { return false };
    matches(&wanted.issuer, &[issuer], Case::Sensitive)
        && matches(&wanted.subject, &[subject], Case::Sensitive)
}

/// Whether a claim is one of these texts, or a list with one of them in it.
fn is_claim(list: &[Expected], claim: &Value) -> bool {
    let is = |value: &Value| {
        let Some(text) = value.as_str() else { return false };
        list.iter().any(|e| is_text(e, &[text.as_bytes()], Case::Sensitive))
    };
    match claim {
        Value::Array(items) => items.iter().any(is),
        value => is(value),
    }
}

/// The host as it was sent, or else each form of it: without its port, without the dot at its end, and what `Host` says
/// beside a target that names another.
fn is_host(list: &[Expected], request: &dyn RequestView, reading: Reading) -> bool {
    let is = |parts: &[&[u8]]| list.iter().any(|e| is_text(e, parts, Case::Ignored));
    let in_any_form = |sent: &[u8]| {
        let bare = host_of(sent);
        let (host, port) = split_port(sent);
        is(&[sent])
            || bare != sent && is(&[bare])
            || bare != host && port.is_some_and(|port| is(&[bare, b":", port]))
    };
    match reading {
        Reading::Any => in_any_form(request.authority()) || request.ignored_host().is_some_and(in_any_form),
        Reading::All => is(&[request.authority()]),
    }
}

/// Each line of a header by itself. One without a value is there too, for `*`. Lines under a name that upstreams of the
/// CGI kind do not tell from it count where a doubt counts, and are never enough by themselves to let pass.
fn is_header(list: &[Expected], request: &dyn RequestView, name: &HeaderName, reading: Reading) -> bool {
    let is = |value: &[u8]| {
        list.iter().any(|e| match e {
            Expected::Text(TextPattern::Any) => true,
            e => is_text(e, &[value], Case::Sensitive),
        })
    };
    let (mut some, mut all, mut aliased) = (false, true, false);
    request.each_value(name, &mut |value| {
        let matches = is(value);
        some |= matches;
        all &= matches;
    });
    request.each_alias(name, &mut |value| {
        let matches = is(value);
        aliased |= matches;
        all &= matches;
    });
    match reading {
        Reading::Any => some || aliased,
        Reading::All => some && all,
    }
}

/// Networks as ranges of addresses, sorted and apart, so that a long list costs little.
#[derive(Debug, Default)]
struct Networks {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl Networks {
    fn of(list: &[Expected]) -> Self {
        let nets =
            || list.iter().filter_map(|e| if let Expected::Network(net) = e { Some(net) } else { None });
        let v4 = nets().filter_map(|net| match net {
            IpNet::V4(net) => Some((net.network().to_bits(), net.broadcast().to_bits())),
            IpNet::V6(_) => None,
        });
        let v6 = nets().filter_map(|net| match net {
            IpNet::V6(net) => Some((net.network().to_bits(), net.broadcast().to_bits())),
            IpNet::V4(_) => None,
        });
        Networks { v4: merged(v4.collect()), v6: merged(v6.collect()) }
    }

    fn contain(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(ip) => is_within(&self.v4, ip.to_bits()),
            IpAddr::V6(ip) => is_within(&self.v6, ip.to_bits()),
        }
    }
}

fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    let mut all: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (from, to) in ranges {
        match all.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => all.push((from, to)),
        }
    }
    all.into()
}

fn is_within<T: Ord + Copy>(ranges: &[(T, T)], at: T) -> bool {
    let behind = ranges.partition_point(|(from, _)| *from <= at);
    behind > 0 && at <= ranges[behind - 1].1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_both_kinds() {
        let nets = ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32", "0.0.0.0/32"];
        let list: Vec<_> = nets.iter().map(|n| Expected::Network(n.parse().unwrap())).collect();
        let networks = Networks::of(&list);
        for (address, expected) in [
            ("10.1.2.3", true),
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("2001:db8:1::", true),
            ("2001:db9::", false),
            ("0.0.0.0", true),
            ("255.255.255.255", false),
            ("::", false),
        ] {
            assert_eq!(networks.contain(address.parse().unwrap()), expected, "{address}");
        }
        assert!(!Networks::of(&[]).contain([127, 0, 0, 1].into()));
    }
}
