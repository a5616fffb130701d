//! What is said of a cluster's endpoints: their health, their share of the requests, and why some get none.

use super::endpoint::Endpoint;
use super::outlier::{Millis, Standing};
use super::plan::{self, Candidate, Tier};
use super::state::{ClusterState, dns_name};
use super::table::Member;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tidegate_model::{Address, Cluster, EndpointSet, Locality};

/// An endpoint as `explain` shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndpointStanding {
    /// Where it listens; a name and a port where it has no address.
    pub address: String,
    /// The DNS name that led to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `region/zone/subzone`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub locality: String,
    /// Its weight.
    pub weight: u32,
    /// Its priority, 0 being the highest.
    pub priority: u32,
    /// Whether outlier detection has not left it out.
    pub healthy: bool,
    /// Requests that it has now; `None` where nothing runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<u32>,
    /// Why it could not be connected to the last time that it could not, and how long ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// Its share of the requests by weight, in percent.
    pub percent: f64,
    /// Why that is nothing, or something although it is not healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The endpoints of a cluster of which nothing is known but its config.
pub fn standings(cluster: &Cluster, set: &EndpointSet) -> Vec<EndpointStanding> {
    let asked_for = set.endpoints.iter().find(|e| matches!(e.address, Address::RequestHost(..)));
    if let Some(endpoint) = asked_for {
        return vec![of_requests(endpoint.address.to_string())];
    }
    let mut places = BTreeMap::new();
    let known = set.endpoints.iter().map(|e| {
        let next = places.len();
        let place = *places.entry(&e.locality).or_insert(next);
        Known {
            address: e.address.to_string(),
            name: dns_name(&e.address).map(|name| &**name),
            place: &e.locality,
            weight: e.weight.max(1),
            candidate: Candidate {
                priority: e.priority,
                locality: e.locality_weight.map(|weight| (place, weight)),
                healthy: true,
            },
            running: None,
            out: None,
        }
    });
    judge(cluster, &known.collect::<Vec<_>>())
}

/// The endpoints of a running cluster.
pub(crate) fn running(cluster: &Cluster, state: &ClusterState) -> Vec<EndpointStanding> {
    let table = state.endpoints.load();
    let detects = cluster.outlier_detection.is_some();
    let known = table.members().iter().map(|m| {
        let out = Some(m.endpoint.health.standing()).filter(|standing| detects && standing.ejected);
        Known {
            address: m.endpoint.address().to_string(),
            name: m.name.as_deref(),
            place: &m.place,
            weight: m.weight,
            candidate: Candidate { priority: m.priority, locality: m.locality, healthy: out.is_none() },
            running: Some(&m.endpoint),
            out,
        }
    });
    let mut standings = judge(cluster, &known.collect::<Vec<_>>());
    let mut troubles = state.troubles();
    if let Some(hosts) = table.hosts() {
        standings.push(of_requests(hosts.pattern()));
        standings.extend(hosts.members().iter().map(|m| asked_for(m)));
        troubles.extend(hosts.troubles());
    }
    standings.extend(troubles.into_iter().map(|(name, addresses, why)| in_trouble(&name, addresses, &why)));
    standings
}

/// All hosts that requests may ask for, of which none is known before.
fn of_requests(pattern: String) -> EndpointStanding {
    EndpointStanding {
        address: pattern,
        name: None,
        locality: String::new(),
        weight: 1,
        priority: 0,
        healthy: true,
        active: None,
        last_failure: None,
        percent: 100.0,
        reason: Some("the host that a request asks for is resolved when it comes".to_owned()),
    }
}

/// A host that a request asked for.
fn asked_for(member: &Member) -> EndpointStanding {
    let name = member.name.as_deref().unwrap_or_default();
    EndpointStanding {
        name: Some(name.to_owned()),
        active: Some(member.endpoint.active()),
        last_failure: last_failure(&member.endpoint),
        percent: 0.0,
        reason: Some(format!("gets requests that ask for {name}")),
        ..of_requests(member.endpoint.address().to_string())
    }
}

/// A name without addresses, or without all that it was answered.
fn in_trouble(name: &str, addresses: usize, why: &str) -> EndpointStanding {
    EndpointStanding {
        name: Some(name.to_owned()),
        weight: 0,
        healthy: addresses > 0,
        percent: 0.0,
        reason: Some(match addresses {
            0 => format!("the name has no addresses: {why}"),
            _ => format!("the name keeps those that are known: {why}"),
        }),
        ..of_requests(name.to_owned())
    }
}

/// What is known of an endpoint.
struct Known<'a> {
    address: String,
    name: Option<&'a str>,
    place: &'a Locality,
    weight: u32,
    candidate: Candidate,
    running: Option<&'a Endpoint>,
    /// Since when it is left out, and how often it was.
    out: Option<Standing>,
}

fn judge(cluster: &Cluster, known: &[Known<'_>]) -> Vec<EndpointStanding> {
    let panic_below = cluster.outlier_detection.as_ref().map_or(0, |d| d.min_health_percent);
    let candidates: Vec<Candidate> = known.iter().map(|k| k.candidate).collect();
    let tiers = plan::tiers(&candidates, panic_below);
    let total: u64 = tiers.iter().map(|tier| tier.share).sum();
    let judged = known.iter().enumerate().map(|(i, k)| {
        let tier = tiers.iter().find(|tier| tier.members.contains(&i));
        let percent = tier.map_or(0.0, |tier| {
            let weights: u64 = tier.members.iter().map(|i| u64::from(known[*i].weight)).sum();
            share(tier.share, total) * share(u64::from(k.weight), weights) * 100.0
        });
        let Locality { region, zone, subzone } = k.place;
        EndpointStanding {
            address: k.address.clone(),
            name: k.name.map(str::to_owned),
            locality: format!("{region}/{zone}/{subzone}").trim_end_matches('/').to_owned(),
            weight: k.weight,
            priority: k.candidate.priority,
            healthy: k.candidate.healthy,
            active: k.running.map(Endpoint::active),
            last_failure: k.running.and_then(last_failure),
            percent: (percent * 100.0).round() / 100.0,
            reason: reason(cluster, k, tier),
        }
    });
    judged.collect()
}

fn last_failure(endpoint: &Endpoint) -> Option<String> {
    let (at, error) = endpoint.last_failure()?;
    let ago = Duration::from_secs(Millis::now().since(at).as_secs());
    Some(format!("{error}, {ago:?} ago"))
}

#[expect(clippy::cast_precision_loss, reason = "two decimals are made of it")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn reason(cluster: &Cluster, known: &Known<'_>, tier: Option<&Tier>) -> Option<String> {
    let out = known.out.zip(cluster.outlier_detection.as_ref()).map(|(standing, rule)| {
        let since = Millis::now().since(Millis(standing.since));
        let rest = standing.length(rule).saturating_sub(since);
        // to the second: nobody reads more
        let rest = Duration::from_secs(rest.as_secs());
        format!("outlier detection leaves it out for {rest:?} more (the {}. time)", standing.times)
    });
    match (tier, out) {
        (Some(_), None) => None,
        (Some(_), Some(out)) => Some(format!("{out}, but too few others are healthy (minHealthPercent)")),
        (None, Some(out)) => Some(out),
        (None, None) if known.candidate.locality.is_some_and(|(_, weight)| weight == 0) => {
            Some("localityLbSetting.distribute gives its locality nothing".to_owned())
        }
        (None, None) => Some(format!(
            "it has priority {}, and those before it are healthy enough",
            known.candidate.priority
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::outlier::testing::rule;
    use super::super::testing::{cluster, endpoint};
    use super::*;
    use tidegate_model::Endpoint;

    fn shown(cluster: &Cluster, endpoints: Vec<Endpoint>) -> Vec<(f64, Option<String>)> {
        let set = EndpointSet { cluster: cluster.name.clone(), endpoints };
        standings(cluster, &set).into_iter().map(|s| (s.percent, s.reason)).collect()
    }

    #[test]
    fn shares_and_why_there_is_none() {
        let mut cluster = cluster("a");
        let make = |i: u8, edit: fn(&mut Endpoint)| {
            let mut made = endpoint(&format!("10.0.0.{i}:1"));
            edit(&mut made);
            made
        };
        let plain = shown(&cluster, vec![make(1, |e| e.weight = 3), make(2, |_| {})]);
        assert_eq!(plain, [(75.0, None), (25.0, None)]);
        cluster.outlier_detection = Some(rule());
        let failover = shown(&cluster, vec![make(1, |_| {}), make(2, |e| e.priority = 1)]);
        let why = "it has priority 1, and those before it are healthy enough".to_owned();
        assert_eq!(failover, [(100.0, None), (0.0, Some(why))]);
        let shares = shown(
            &cluster,
            vec![
                make(1, |e| e.locality_weight = Some(1)),
                make(2, |e| {
                    e.locality.region = "r2".into();
                    e.locality_weight = Some(0);
                }),
            ],
        );
        let why = "localityLbSetting.distribute gives its locality nothing".to_owned();
        assert_eq!(shares, [(100.0, None), (0.0, Some(why))]);
    }
}
