use super::rules::{Check, bracket};
use crate::locality::PARTS;
use tidegate_api::istio::{LocalityFailover, LocalityLoadBalancerSetting};

/// Shares and failover by where endpoints run.
pub(super) fn validate(check: &mut Check<'_>, field: &str, setting: &LocalityLoadBalancerSetting) {
    let distributes = !setting.distribute.is_empty();
    if distributes && !setting.failover.is_empty() {
        let text = "can have distribute or failover, not both";
        check.error(field, "one-of", text, "keep one of them");
    } else if distributes && !setting.failover_priority.is_empty() {
        let text = "has no effect beside distribute";
        check.warning(&format!("{field}.failoverPriority"), "no-effect", text, "keep one of them");
    }
    let mut clients: Vec<&str> = Vec::new();
    for (i, distribute) in setting.distribute.iter().enumerate() {
        let field = format!("{field}.distribute[{i}]");
        let from = distribute.from.as_deref().unwrap_or_default();
        if syntax(check, &format!("{field}.from"), from) {
            if let Some(other) = clients.iter().find(|other| hides(other, from)) {
                let text = format!("{from:?} overlaps with {other:?}, which comes first");
                let advice = "remove it, or put the more specific one first";
                check.error(&format!("{field}.from"), "duplicate", text, advice);
            }
            clients.push(from);
        }
        shares(check, &format!("{field}.to"), distribute.to.iter());
    }
    for (i, failover) in setting.failover.iter().enumerate() {
        regions(check, &format!("{field}.failover[{i}]"), failover);
    }
    if setting.failover.is_empty() {
        return;
    }
    for (i, label) in setting.failover_priority.iter().enumerate() {
        if PARTS.contains(&label.as_str()) {
            let text = format!("cannot have {label} beside failover, which ranks by that too");
            check.error(&format!("{field}.failoverPriority[{i}]"), "one-of", text, "keep one of them");
        }
    }
}

/// How the requests of a locality are shared out.
fn shares<'a>(check: &mut Check<'_>, field: &str, to: impl Iterator<Item = (&'a String, &'a u32)>) {
    let (mut sum, mut named) = (0, Vec::<&str>::new());
    for (locality, weight) in to {
        let field = format!("{field}{}", bracket(locality));
        if syntax(check, &field, locality) {
            if let Some(other) = named.iter().find(|other| hides(other, locality)) {
                let text = format!("{locality:?} overlaps with {other:?}; the more specific one counts");
                // Istio takes them in any order, and refuses in one of two
                match hides(locality, other) {
                    true => check.error(&field, "duplicate", text, "remove one of them"),
                    false => check.warning(&field, "duplicate", text, "name localities that do not overlap"),
                }
            }
            named.push(locality);
        }
        if !(1..=100).contains(weight) {
            check.error(&field, "invalid-weight", "is not 1 to 100", "correct the weight, or remove it");
        }
        sum += u64::from(*weight);
    }
    if sum != 100 {
        check.error(field, "invalid-weight", "the weights must add up to 100", "correct the weights");
    }
}

/// Whether a locality is written as one.
fn syntax(check: &mut Check<'_>, field: &str, locality: &str) -> bool {
    let star = locality.find('*').is_some_and(|at| at + 1 < locality.len());
    let valid = !star && locality.splitn(3, '/').all(|part| !part.is_empty());
    if !valid {
        let text = format!("{locality:?} is not a locality");
        let advice = "write region/zone/subzone, of which the last may be * or left out";
        check.error(field, "invalid-locality", text, advice);
    }
    valid
}

/// Whether a locality leaves nothing to a later one, or says the same again.
fn hides(earlier: &str, later: &str) -> bool {
    let parts = |locality: &str| locality.splitn(3, '/').map(str::to_owned).collect::<Vec<_>>();
    let (earlier, later) = (parts(earlier), parts(later));
    let stem = earlier.strip_suffix(&["*".to_owned()]).unwrap_or(&earlier);
    later.starts_with(stem) || earlier.starts_with(&later)
}

/// From one region to another.
fn regions(check: &mut Check<'_>, field: &str, failover: &LocalityFailover) {
    let ends = [("from", &failover.from), ("to", &failover.to)];
    for (name, region) in ends {
        let region = region.as_deref().unwrap_or_default();
        if region.contains(['/', '*']) {
            let text = format!("{region:?} is not the name of a region");
            let advice = "write a region, without zones and wildcards";
            check.error(&format!("{field}.{name}"), "invalid-locality", text, advice);
        }
    }
    if failover.from == failover.to {
        check.error(field, "invalid-locality", "goes from a region to itself", "name another region");
    }
}
