//! Priorities and weights of endpoints by where they run, as Istio gives them to a proxy.

use std::collections::{BTreeMap, BTreeSet};
use tidegate_api::istio::{
    DestinationRule, LocalityDistribute, LocalityFailover, LocalityLoadBalancerSetting, Subset,
};
use tidegate_model::{Endpoint, Locality};

/// The label by which a workload says where it runs: `region.zone.subzone`.
const LOCALITY: &str = "istio-locality";
/// Labels that say it part by part.
pub(crate) const PARTS: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];
/// The label of the network that something is in.
pub(crate) const NETWORK: &str = "topology.istio.io/network";
/// The label of the node that something runs on.
pub(crate) const HOSTNAME: &str = "kubernetes.io/hostname";
/// A locality's weight in the model, for 1 %: it may have to be split among several.
const PERCENT: u64 = 10_000;
/// How many priorities there are by locality: same subzone, zone, region, failover's region, others.
const BY_LOCALITY: u32 = 5;

/// The settings of a rule, each with its field.
pub(crate) fn settings(rule: &DestinationRule) -> Vec<(String, &LocalityLoadBalancerSetting)> {
    let of_rule = rule.traffic_policy.iter().map(|policy| ("spec.trafficPolicy".to_owned(), policy));
    let of_subsets = (0..).zip(&rule.subsets).filter_map(|(i, subset): (usize, &Subset)| {
        Some((format!("spec.subsets[{i}].trafficPolicy"), subset.traffic_policy.as_ref()?))
    });
    let policies = of_rule.chain(of_subsets);
    let blocks = policies.flat_map(|(field, policy)| {
        let by_port = policy.port_level_settings.iter().enumerate();
        let by_port: Vec<_> = by_port
            .map(|(i, port)| (format!("{field}.portLevelSettings[{i}]"), &port.load_balancer))
            .collect();
        std::iter::once((field, &policy.load_balancer)).chain(by_port)
    });
    let written = blocks.filter_map(|(field, balancer)| {
        let setting = balancer.as_ref()?.locality_lb_setting.as_ref()?;
        Some((format!("{field}.loadBalancer.localityLbSetting"), setting))
    });
    written.collect()
}

/// Where a workload with these labels runs.
pub(crate) fn of_labels(labels: &BTreeMap<String, String>) -> Locality {
    match labels.get(LOCALITY) {
        Some(written) => parse(written, '.'),
        None => {
            let part = |i: usize| labels.get(PARTS[i]).map_or("", String::as_str).into();
            Locality { region: part(0), zone: part(1), subzone: part(2) }
        }
    }
}

/// Where a pod with these labels runs, on a node with those: as the pod says, else as the node does, else as the labels
/// say that the cluster gave the pod.
pub(crate) fn of_pod(pod: &BTreeMap<String, String>, node: Option<&BTreeMap<String, String>>) -> Locality {
    match node {
        Some(node) if !pod.contains_key(LOCALITY) => {
            let label = |keys: [&str; 2]| {
                let found = keys.into_iter().filter_map(|key| node.get(key)).find(|value| !value.is_empty());
                found.map_or("", String::as_str).into()
            };
            let [region, zone, subzone] = PARTS;
            Locality {
                region: label([region, "failure-domain.beta.kubernetes.io/region"]),
                zone: label([zone, "failure-domain.beta.kubernetes.io/zone"]),
                subzone: label([subzone, subzone]),
            }
        }
        _ => of_labels(pod),
    }
}

/// `region/zone/subzone`, or with another separator.
pub(crate) fn parse(written: &str, separator: char) -> Locality {
    let mut parts = written.splitn(3, separator);
    let mut part = || parts.next().unwrap_or_default().into();
    Locality { region: part(), zone: part(), subzone: part() }
}

/// Gives the endpoints their priorities and weights for a client with these labels.
///
/// `failover` is whether endpoints can fail, without which nobody takes the place of another.
pub(crate) fn apply(
    endpoints: &mut [Endpoint],
    setting: Option<&LocalityLoadBalancerSetting>,
    client: &BTreeMap<String, String>,
    failover: bool,
) {
    let default = LocalityLoadBalancerSetting::default();
    let setting = setting.unwrap_or(&default);
    if setting.enabled == Some(false) {
        return;
    }
    let here = of_labels(client);
    if !setting.distribute.is_empty() {
        if let Some(rule) = setting.distribute.iter().find(|d| covers(d.from.as_deref(), &here)) {
            distribute(endpoints, rule);
        }
        return;
    }
    if !failover {
        return;
    }
    let labels = &setting.failover_priority;
    let by_labels: Vec<u32> = endpoints.iter().map(|e| by_labels(e, labels, client, &here)).collect();
    let localities = labels.is_empty() || !setting.failover.is_empty();
    for (endpoint, by_labels) in endpoints.iter_mut().zip(by_labels) {
        let by_locality =
            if localities { by_locality(&endpoint.locality, &here, &setting.failover) } else { 0 };
        endpoint.priority = by_labels * BY_LOCALITY + by_locality;
    }
    // without gaps
    let used: BTreeSet<u32> = endpoints.iter().map(|e| e.priority).collect();
    let rank: BTreeMap<u32, u32> = used.into_iter().zip(0..).collect();
    endpoints.iter_mut().for_each(|e| e.priority = rank.get(&e.priority).copied().unwrap_or(0));
}

/// Whether `region/zone/subzone`, in which `*` and what is missing is anything, has a locality in it.
fn covers(written: Option<&str>, locality: &Locality) -> bool {
    let rule = parse(written.unwrap_or_default(), '/');
    let any = |rule: &str| rule.is_empty() || rule == "*";
    (&*rule.region == "*" || rule.region == locality.region)
        && (any(&rule.zone) || rule.zone == locality.zone)
        && (any(&rule.subzone) || rule.subzone == locality.subzone)
}

/// Each of the shares goes to the localities that it names, by the weights of their endpoints where there
/// are several. The most specific name counts, and who is not named gets nothing.
fn distribute(endpoints: &mut [Endpoint], rule: &LocalityDistribute) {
    let mut sums: BTreeMap<Locality, u64> = BTreeMap::new();
    for endpoint in endpoints.iter() {
        *sums.entry(endpoint.locality.clone()).or_default() += u64::from(endpoint.weight);
    }
    let mut shares: Vec<(&String, &u32)> = rule.to.iter().collect();
    let specific = |name: &str| name.split('/').filter(|part| !part.is_empty() && *part != "*").count();
    shares.sort_by_key(|(name, _)| std::cmp::Reverse(specific(name)));
    let mut weights: BTreeMap<Locality, u32> = BTreeMap::new();
    for (name, share) in shares {
        let named: Vec<(&Locality, u64)> = sums
            .iter()
            .filter(|(locality, _)| covers(Some(name), locality) && !weights.contains_key(*locality))
            .map(|(locality, sum)| (locality, *sum))
            .collect();
        let all: u64 = named.iter().map(|(_, sum)| sum).sum();
        for (locality, sum) in named {
            let weight = (u64::from(*share) * PERCENT * sum).div_ceil(all.max(1));
            weights.insert(locality.clone(), u32::try_from(weight).unwrap_or(u32::MAX));
        }
    }
    for endpoint in endpoints {
        endpoint.locality_weight = Some(weights.get(&endpoint.locality).copied().unwrap_or(0));
    }
}

/// The same place first; then the zone, the region, the region that takes its place, and all others.
fn by_locality(there: &Locality, here: &Locality, failover: &[LocalityFailover]) -> u32 {
    if there.region != here.region {
        let rule = failover.iter().find(|f| f.from.as_deref() == Some(&*here.region));
        return match rule {
            Some(rule) if rule.to.as_deref() != Some(&*there.region) => 4,
            _ => 3,
        };
    }
    match (there.zone == here.zone, there.subzone == here.subzone) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 2,
    }
}

/// How many of the labels, from the first that differs on, the endpoint does not share with the client. With a value
/// (`key=value`), that is what is compared, in place of the client's own.
fn by_labels(
    endpoint: &Endpoint,
    labels: &[String],
    client: &BTreeMap<String, String>,
    here: &Locality,
) -> u32 {
    let differs = |label: &String| {
        let (key, wanted) = label.split_once('=').map_or((label.as_str(), None), |(k, v)| (k, Some(v)));
        let wanted = wanted.unwrap_or_else(|| value(client, here, key));
        wanted != value(&endpoint.labels, &endpoint.locality, key)
    };
    // of other networks all come behind those of this one, and are ranked as they are
    let networks = labels.first().is_some_and(|first| first == NETWORK);
    let elsewhere = networks && labels.first().is_some_and(differs);
    let compared = if elsewhere { &labels[1..] } else { labels };
    let first = compared.iter().position(differs).unwrap_or(compared.len());
    let rank = compared.len() - first + if elsewhere { labels.len() } else { 0 };
    u32::try_from(rank).unwrap_or(u32::MAX)
}

/// Whether an endpoint has all of these labels, of which some say where it runs.
pub(crate) fn has(endpoint: &Endpoint, labels: &BTreeMap<String, String>) -> bool {
    labels.iter().all(|(key, wanted)| {
        let known = endpoint.labels.contains_key(key) || PARTS.contains(&key.as_str());
        known && value(&endpoint.labels, &endpoint.locality, key) == wanted
    })
}

/// A label's value; for those that say where something runs, what is known of that.
fn value<'a>(labels: &'a BTreeMap<String, String>, locality: &'a Locality, key: &str) -> &'a str {
    let parts = [&locality.region, &locality.zone, &locality.subzone];
    let part = PARTS.iter().position(|part| *part == key).map_or("", |i| parts[i]);
    if part.is_empty() { labels.get(key).map_or("", String::as_str) } else { part }
}

#[cfg(test)]
mod tests;
