//! Policies against a plain reading of what they say, on patterns turned into regexes and requests turned into texts.

#![expect(clippy::unwrap_used, reason = "what is written here is well-formed")]

mod request;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use request::Request;
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tidegate_engine::{Authorizer, Ends, Forbidden, RequestView, Scheme, Subject};
use tidegate_model::*;

/// A clause as it is written: key, values, values that are excluded.
type Written = (&'static str, Vec<String>, Vec<String>);

#[derive(Clone, Debug, Default)]
struct WrittenRule {
    from: Vec<Vec<Written>>,
    to: Vec<Vec<Written>>,
    when: Vec<Written>,
}

#[derive(Clone, Debug)]
struct WrittenPolicy {
    action: &'static str,
    dry_run: bool,
    rules: Vec<WrittenRule>,
}

#[derive(Clone, Debug)]
struct World {
    source: IpAddr,
    remote: IpAddr,
    port: u16,
    sni: String,
    request: Option<Request>,
}

/// What is asked, and which values it is asked for.
const KEYS: &[(&str, &[&str])] = &[
    ("source.ip", IPS),
    ("remote.ip", IPS),
    ("destination.port", &["80", "81"]),
    ("connection.sni", NAMES),
    ("source.principal", NAMES),
    (
        "request.auth.principal",
        &["i/s", "i/*", "*/s", "*", "j/s", "i*", "*s", "i/j/s", "i/j/*", "*j/s", "i/j*", "i/", "i"],
    ),
    ("request.auth.audiences", NAMES),
    ("request.auth.presenter", NAMES),
    ("request.auth.claims[c]", NAMES),
    ("request.headers[h]", NAMES),
    ("request.headers[:method]", &["GET", "P*", "*"]),
    ("request.headers[h-h]", NAMES),
    ("request.headers[host]", HOSTS),
    ("request.headers[:authority]", HOSTS),
    ("hosts", HOSTS),
    ("methods", &["GET", "PUT", "P*", "*T", "*", "get"]),
    ("paths", &["/", "/a", "/a/*", "*/b", "*", "/a/{*}", "/{*}/b", "/{**}", "/a/{**}/b", "/{*}/{**}"]),
];
const IPS: &[&str] = &["10.0.0.0/30", "10.0.0.1", "10.0.0.2/31", "2001:db8::/127", "::/0", "0.0.0.0/0"];
const HOSTS: &[&str] = &["a", "A", "a:1", "b:1", "a:*", "*:1", "*", "b*"];
const NAMES: &[&str] = &["a", "b", "a*", "*a", "*b", "ab", "*"];

fn written(keys: &'static [&'static str]) -> impl Strategy<Value = Written> {
    select(keys).prop_flat_map(|key| {
        let known = KEYS.iter().find(|(k, _)| *k == key).unwrap().1;
        let some = move |least: usize| vec(select(known).prop_map(str::to_owned), least..3);
        prop_oneof![
            3 => (Just(key), some(1), Just(vec![])),
            1 => (Just(key), Just(vec![]), some(1)),
            1 => (Just(key), some(1), some(1)),
        ]
    })
}

fn rule() -> impl Strategy<Value = WrittenRule> {
    const FROM: &[&str] = &["source.ip", "remote.ip", "source.principal", "request.auth.principal"];
    const TO: &[&str] = &["hosts", "methods", "paths", "paths", "destination.port"];
    const WHEN: &[&str] = &[
        "request.headers[h]",
        "request.headers[h]",
        "request.headers[h-h]",
        "request.headers[host]",
        "request.headers[:authority]",
        "request.headers[:method]",
        "source.ip",
        "connection.sni",
        "request.auth.audiences",
        "request.auth.presenter",
        "request.auth.claims[c]",
    ];
    let lists = |keys| vec(vec(written(keys), 1..3), 0..3);
    (lists(FROM), lists(TO), vec(written(WHEN), 0..3)).prop_map(|(from, to, when)| WrittenRule {
        from,
        to,
        when,
    })
}

fn policy() -> impl Strategy<Value = WrittenPolicy> {
    let action = select(&["ALLOW", "ALLOW", "DENY", "DENY", "AUDIT"][..]);
    (action, prop::bool::weighted(0.1), vec(rule(), 0..4))
        .prop_map(|(action, dry_run, rules)| WrittenPolicy { action, dry_run, rules })
}

fn claims() -> impl Strategy<Value = Option<tidegate_engine::Claims>> {
    let text = || select(&["a", "b", "ab", "ba", ""][..]);
    let claim = prop_oneof![
        text().prop_map(|t| json!(t)),
        vec(text(), 0..3).prop_map(|list| json!(list)),
        Just(json!(7)),
        Just(json!(null)),
    ];
    let one = claim.boxed();
    let all =
        (select(&["i", "j", "i/j", ""][..]), select(&["s", "t", "j/s"][..]), one.clone(), one.clone(), one);
    option::of(all.prop_map(|(iss, sub, aud, azp, c)| {
        json!({"iss": iss, "sub": sub, "aud": aud, "azp": azp, "c": c}).as_object().cloned().unwrap()
    }))
}

fn request() -> impl Strategy<Value = Request> {
    let header = (select(&["h", "h", "i", "h-h", "h_h"][..]), select(&["a", "b", "ab", "", "c"][..]));
    let headers = vec(header.prop_map(|(n, v)| (n.to_owned(), v.to_owned())), 0..4);
    let authority = select(&["a", "A", "a.", "a:1", "A.:1", "b:1", "b", "", "c"][..]);
    let path = select(&["/", "/a", "/a/b", "/a//b", "/c/b", "/a/c/b", "*", ""][..]);
    let method = select(&["GET", "PUT", "POST", "get"][..]);
    (method, authority, path, headers, claims()).prop_map(|(method, authority, path, headers, claims)| {
        Request {
            method: method.into(),
            scheme: Scheme::Http,
            authority: authority.into(),
            path: path.into(),
            query: Some("q=/a".into()),
            headers,
            claims,
        }
    })
}

fn world() -> impl Strategy<Value = World> {
    let ip = || select(&["10.0.0.1", "10.0.0.2", "::ffff:10.0.0.1", "2001:db8::1", "192.0.2.1"][..]);
    let ip = move || ip().prop_map(|ip| ip.parse().unwrap());
    let port = select(&[80, 81, 82][..]);
    let sni = select(&["", "a", "AB", "b"][..]).prop_map(str::to_owned);
    (ip(), ip(), port, sni, option::weighted(0.8, request()))
        .prop_map(|(source, remote, port, sni, request)| World { source, remote, port, sni, request })
}

/// The policy as the gateway gets it.
fn translated(written: &WrittenPolicy, n: usize) -> Arc<Policy> {
    let clause = |(key, values, not_values): &Written| {
        let attribute = match *key {
            "source.ip" => Attribute::SourceIp,
            "remote.ip" => Attribute::RemoteIp,
            "destination.port" => Attribute::DestinationPort,
            "connection.sni" => Attribute::Sni,
            "source.principal" => Attribute::Peer(PeerPart::Principal),
            "request.auth.principal" => Attribute::RequestPrincipal,
            "request.auth.audiences" => Attribute::Audiences,
            "request.auth.presenter" => Attribute::Presenter,
            "request.auth.claims[c]" => Attribute::Claim(ClaimPath::parse("@request.auth.claims.c").unwrap()),
            "request.headers[h]" => Attribute::Header(HeaderName::new("H")),
            "request.headers[h-h]" => Attribute::Header(HeaderName::new("h-h")),
            "request.headers[host]" => Attribute::Header(HeaderName::new("host")),
            "request.headers[:authority]" => Attribute::Header(HeaderName::new(":authority")),
            "request.headers[:method]" => Attribute::Header(HeaderName::new(":method")),
            "hosts" => Attribute::Host,
            "methods" => Attribute::Method,
            _ => Attribute::Path,
        };
        let expected = |text: &String| match &attribute {
            Attribute::SourceIp | Attribute::RemoteIp => {
                let net = if text.contains('/') { text.clone() } else { format!("{text}/32") };
                Expected::Network(net.parse().unwrap())
            }
            Attribute::DestinationPort => Expected::Port(text.parse().unwrap()),
            Attribute::Path if PathTemplate::is_meant(text) => {
                Expected::Template(PathTemplate::parse(text).unwrap())
            }
            Attribute::RequestPrincipal => Expected::Principal(PrincipalPattern::parse(text)),
            _ => Expected::Text(TextPattern::parse(text)),
        };
        let (values, not_values) =
            (values.iter().map(expected).collect(), not_values.iter().map(expected).collect());
        Clause { attribute, values, not_values }
    };
    let clauses = |list: &Vec<Written>| list.iter().map(clause).collect();
    let rules = written.rules.iter().map(|rule| PolicyRule {
        sources: rule.from.iter().map(clauses).collect(),
        operations: rule.to.iter().map(clauses).collect(),
        conditions: clauses(&rule.when),
    });
    Arc::new(Policy {
        object: ObjectRef::new("AuthorizationPolicy", "ns", &format!("p{n}")),
        origin: Origin::default(),
        action: match written.action {
            "ALLOW" => PolicyAction::Allow,
            "DENY" => PolicyAction::Deny,
            _ => PolicyAction::Audit,
        },
        dry_run: written.dry_run,
        rules: rules.collect(),
    })
}

/// Which requests have an attribute at all, and with which values: as sent, and as they could be meant.
fn values(key: &str, world: &World) -> (Vec<String>, Vec<String>) {
    let alike = |list: Vec<String>| (list.clone(), list);
    let Some(request) = &world.request else {
        return alike(if key == "connection.sni" { vec![world.sni.to_lowercase()] } else { vec![] });
    };
    let text = |value: Option<&serde_json::Value>| match value {
        Some(serde_json::Value::String(text)) => vec![text.clone()],
        Some(serde_json::Value::Array(list)) => {
            list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
        }
        _ => vec![],
    };
    let claim = |name: &str| text(request.claims.as_ref().and_then(|claims| claims.get(name)));
    alike(match key {
        "connection.sni" => vec![world.sni.to_lowercase()],
        "request.auth.principal" => match (claim("iss").pop(), claim("sub").pop()) {
            (Some(iss), Some(sub)) if !iss.is_empty() && !sub.is_empty() => vec![format!("{iss}\n{sub}")],
            _ => vec![],
        },
        "request.auth.audiences" => claim("aud"),
        "request.auth.presenter" => claim("azp"),
        "request.auth.claims[c]" => claim("c"),
        "request.headers[h]" => {
            request.headers.iter().filter(|(n, _)| n == "h").map(|(_, v)| v.clone()).collect()
        }
        "request.headers[:method]" | "methods" => vec![request.method.clone()],
        "paths" => vec![request.path.clone()],
        "request.headers[h-h]" => {
            let named = |is: fn(&str) -> bool| {
                request.headers.iter().filter(move |(n, _)| is(n)).map(|(_, v)| v.clone()).collect::<Vec<_>>()
            };
            let all = named(|n| n == "h-h" || n == "h_h");
            // under the other name alone it is not there to let pass
            return (if named(|n| n == "h-h").is_empty() { vec![] } else { all.clone() }, all);
        }
        "hosts" | "request.headers[host]" | "request.headers[:authority]" => {
            let sent = request.authority.to_lowercase();
            let bare = sent.split(':').next().unwrap().trim_end_matches('.').to_owned();
            let with_port = sent.replace(".:", ":");
            return (vec![sent.clone()], vec![sent, bare, with_port]);
        }
        _ => vec![],
    })
}

/// Issuer and subject, each by itself.
fn is_principal(pattern: &str, issuer: &str, subject: &str) -> bool {
    let (begins, ends) = (pattern.starts_with('*'), pattern.ends_with('*'));
    match pattern.rsplit_once('/') {
        Some((iss, sub)) if begins => is("iss", iss, issuer) && sub == subject,
        Some((iss, sub)) if ends => iss == issuer && is("sub", sub, subject),
        Some((iss, sub)) => iss == issuer && sub == subject,
        None if begins => is("sub", pattern, subject),
        None => ends && is("iss", pattern, issuer),
    }
}

fn is(key: &str, pattern: &str, value: &str) -> bool {
    if let Some((issuer, subject)) = value.split_once('\n').filter(|_| key == "request.auth.principal") {
        return is_principal(pattern, issuer, subject);
    }
    let any = if key == "request.headers[h]" || key == "request.headers[h-h]" { ".*" } else { ".+" };
    let ignores_case =
        ["hosts", "request.headers[host]", "request.headers[:authority]", "connection.sni"].contains(&key);
    let pattern = if ignores_case { pattern.to_lowercase() } else { pattern.into() };
    let regex = if pattern == "*" {
        any.to_owned()
    } else if key == "paths" && pattern.contains('{') {
        regex::escape(&pattern).replace(r"\{\*\*\}", ".*").replace(r"\{\*\}", "[^/]+")
    } else if let Some(suffix) = pattern.strip_prefix('*') {
        format!(".*{}", regex::escape(suffix))
    } else if let Some(prefix) = pattern.strip_suffix('*') {
        format!("{}.*", regex::escape(prefix))
    } else {
        regex::escape(&pattern)
    };
    regex::Regex::new(&format!("^(?s:{regex})$")).unwrap().is_match(value)
}

/// Whether an address is in a network, bit by bit.
fn is_in(network: &str, ip: IpAddr) -> bool {
    let bits = |ip: IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) => format!("4{:032b}", u32::from(ip)),
        IpAddr::V6(ip) => format!("6{:0128b}", u128::from(ip)),
    };
    let (address, length) = network.split_once('/').unwrap_or((network, "32"));
    let length = 1 + length.parse::<usize>().unwrap();
    bits(ip)[..length.min(bits(ip).len())] == bits(address.parse().unwrap())[..length]
}

/// Whether one of the patterns is met; `generous` takes any value, and any form of it, for enough.
fn is_one_of(key: &'static str, patterns: &[String], world: &World, generous: bool) -> bool {
    let any = |ip: IpAddr| patterns.iter().any(|network| is_in(network, ip));
    match key {
        "source.ip" => return any(world.source),
        "remote.ip" => return any(world.remote),
        "destination.port" => return patterns.contains(&world.port.to_string()),
        "source.principal" => return false,
        _ => {}
    }
    let (sent, meant) = values(key, world);
    let met = |value: &String| patterns.iter().any(|pattern| is(key, pattern, value));
    let several = key.starts_with("request.auth");
    match generous {
        true => meant.iter().any(met),
        // a list in a token has what is asked for, or it has not
        false if several => sent.iter().any(met),
        false => !sent.is_empty() && sent.iter().all(met),
    }
}

const OF_CONNECTIONS: [&str; 5] =
    ["source.ip", "remote.ip", "destination.port", "connection.sni", "source.principal"];

fn rule_matches(rule: &WrittenRule, world: &World, refuses: bool) -> bool {
    let is_there = |key: &str| world.request.is_some() || OF_CONNECTIONS.contains(&key);
    let mut all = rule.from.iter().chain(&rule.to).flatten().chain(&rule.when);
    if !refuses && all.any(|(key, ..)| !is_there(key)) {
        return false;
    }
    let holds = |(key, values, not_values): &Written| {
        !is_there(key)
            || (values.is_empty() || is_one_of(key, values, world, refuses))
                && (not_values.is_empty() || !is_one_of(key, not_values, world, !refuses))
    };
    let lists = |lists: &[Vec<Written>]| lists.is_empty() || lists.iter().any(|list| list.iter().all(holds));
    lists(&rule.from) && lists(&rule.to) && rule.when.iter().all(holds)
}

/// `Ok`, or the details of a refusal.
fn decided(policies: &[WrittenPolicy], world: &World, dry_run: bool) -> Result<(), String> {
    let of = |action: &'static str| {
        let is_of = move |p: &WrittenPolicy| {
            p.dry_run == dry_run && (p.action == action || dry_run && p.action == "AUDIT" && action == "DENY")
        };
        policies.iter().enumerate().filter(move |(_, p)| is_of(p))
    };
    for (n, policy) in of("DENY") {
        if let Some(rule) = policy.rules.iter().position(|rule| rule_matches(rule, world, true)) {
            return Err(format!("rbac_access_denied_matched_policy[ns[ns]-policy[p{n}]-rule[{rule}]]"));
        }
    }
    let allows = |(_, policy): (usize, &WrittenPolicy)| {
        policy.rules.iter().any(|rule| rule_matches(rule, world, false))
    };
    match of("ALLOW").count() == 0 || of("ALLOW").any(allows) {
        true => Ok(()),
        false => Err("rbac_access_denied_matched_policy[none]".into()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2500))]

    #[test]
    fn policies_decide_as_they_read(policies in vec(policy(), 1..6), worlds in vec(world(), 1..6)) {
        let list = policies.iter().enumerate().map(|(n, policy)| translated(policy, n)).collect();
        let authorizer = Authorizer::compile(&Authorization { policies: list }).unwrap();
        for world in &worlds {
            let ends = Ends {
                source: world.source,
                remote: world.remote,
                destination: SocketAddr::new([127, 0, 0, 1].into(), world.port),
                sni: &world.sni,
                names: &[],
            };
            let request = world.request.as_ref().map(|request| request as &dyn RequestView);
            let subject = Subject { ends, request };
            let words = |result: Result<(), Forbidden<'_>>| result.map_err(|why| why.to_string());
            prop_assert_eq!(words(authorizer.enforce(&subject)), decided(&policies, world, false), "{:?}", world);
            let notes = authorizer.notes(&subject);
            if let Some(tried) = notes.dry_run {
                prop_assert_eq!(words(tried), decided(&policies, world, true), "{:?}", world);
            }
            // a rule that is said to have lost does not match, and the other way round
            for asked in authorizer.explain(&subject) {
                let n: usize = asked.rule.policy.object.name[1..].parse().unwrap();
                let refuses = policies[n].action != "ALLOW";
                let matches = rule_matches(&policies[n].rules[asked.rule.rule], world, refuses);
                prop_assert_eq!(asked.lost_by.is_none(), matches, "{:?} {:?}", asked, world);
            }
        }
    }
}
