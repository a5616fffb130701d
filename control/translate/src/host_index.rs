//! Hosts by name, so that those which have names in common with one host are found without looking at all.

use std::collections::{BTreeMap, BTreeSet};

/// Values by the host that they belong to: `a.b`, `*.b` or `*`, in lower case.
#[derive(Clone, Debug)]
pub(crate) struct HostIndex<T> {
    /// By the bytes of the host from its end, without a star.
    entries: BTreeMap<Vec<u8>, Entry<T>>,
    /// How long the suffixes of the wildcards are.
    lengths: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    exact: Vec<T>,
    wildcard: Vec<T>,
}

impl<T> Default for HostIndex<T> {
    fn default() -> Self {
        HostIndex { entries: BTreeMap::new(), lengths: BTreeSet::new() }
    }
}

fn reversed(name: &str) -> Vec<u8> {
    name.bytes().rev().collect()
}

impl<T> HostIndex<T> {
    /// Adds `value` under `host`.
    pub(crate) fn insert(&mut self, host: &str, value: T) {
        let empty = || Entry { exact: Vec::new(), wildcard: Vec::new() };
        match host.strip_prefix('*') {
            Some(suffix) => {
                self.lengths.insert(suffix.len());
                self.entries.entry(reversed(suffix)).or_insert_with(empty).wildcard.push(value);
            }
            None => self.entries.entry(reversed(host)).or_insert_with(empty).exact.push(value),
        }
    }

    /// What belongs to exactly `host`, in the order of insertion.
    pub(crate) fn exact(&self, host: &str) -> &[T] {
        match host.strip_prefix('*') {
            Some(suffix) => self.entries.get(&reversed(suffix)).map_or(&[], |e| &e.wildcard),
            None => self.entries.get(&reversed(host)).map_or(&[], |e| &e.exact),
        }
    }

    /// What belongs to wildcards that stand for every name of `host` and others, the longest first.
    pub(crate) fn wider<'i>(&'i self, host: &str) -> impl Iterator<Item = &'i T> + use<'i, T> {
        let key = reversed(host.strip_prefix('*').unwrap_or(host));
        let shorter = self.lengths.range(..key.len()).rev();
        shorter.filter_map(move |length| self.entries.get(&key[..*length])).flat_map(|e| &e.wildcard)
    }

    /// What belongs to hosts with names that are among those of the wildcard `host`, itself left out.
    fn narrower<'i>(&'i self, host: &str) -> impl Iterator<Item = &'i T> + use<'i, T> {
        let suffix = host.strip_prefix('*').map(reversed);
        suffix.into_iter().flat_map(move |suffix| {
            let length = suffix.len();
            let from = self.entries.range(suffix.clone()..);
            from.take_while(move |(key, _)| key.starts_with(&suffix))
                .filter(move |(key, _)| key.len() > length)
                .flat_map(|(_, e)| e.exact.iter().chain(&e.wildcard))
        })
    }

    /// What belongs to hosts that have a name in common with `host`.
    pub(crate) fn overlapping<'i>(&'i self, host: &str) -> impl Iterator<Item = &'i T> + use<'i, T> {
        self.exact(host).iter().chain(self.wider(host)).chain(self.narrower(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::intersect;
    use proptest::prelude::*;

    #[test]
    fn wider_ones_come_longest_first() {
        let mut index = HostIndex::default();
        for host in ["*", "*.org", "*.b.org", "a.b.org", "*.c.org", "b.org"] {
            index.insert(host, host);
        }
        let wider = |host: &str| index.wider(host).copied().collect::<Vec<_>>();
        assert_eq!(wider("a.b.org"), ["*.b.org", "*.org", "*"]);
        assert_eq!(wider("*.b.org"), ["*.org", "*"]);
        assert_eq!(wider(".b.org"), ["*.org", "*"]);
        assert!(wider("*").is_empty());
        assert_eq!(index.exact("*.b.org"), ["*.b.org"]);
        assert!(index.exact(".b.org").is_empty());
    }

    proptest! {
        #[test]
        fn finds_what_intersects(
            hosts in prop::collection::vec("\\*[ab.]{0,4}|[ab.]{1,4}", 0..12),
            host in "\\*[ab.]{0,4}|[ab.]{1,4}",
        ) {
            let mut index = HostIndex::default();
            for (i, h) in hosts.iter().enumerate() {
                index.insert(h, i);
            }
            let mut found: Vec<usize> = index.overlapping(&host).copied().collect();
            found.sort_unstable();
            let expected: Vec<usize> =
                (0..hosts.len()).filter(|i| intersect(&hosts[*i], &host).is_some()).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
