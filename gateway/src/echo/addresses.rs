use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Gives each key a loopback address of its own in 127.127.0.0/16.
///
/// The address follows from the key, so that it is the same after a restart, and it is kept as long as the key
/// is: a reload moves nobody.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    given: BTreeMap<String, u16>,
}

/// Host parts that are given out; not `.0.0` and `.255.255`, which look like a network and a broadcast.
const HOSTS: std::ops::Range<u16> = 1..u16::MAX;

impl Addresses {
    /// Forgets every key that is not in `keys`, and gives the new ones their address.
    pub(super) fn assign(&mut self, keys: &BTreeSet<String>) {
        self.given.retain(|key, _| keys.contains(key));
        let mut taken: BTreeSet<u16> = self.given.values().copied().collect();
        for key in keys {
            if self.given.contains_key(key) {
                continue;
            }
            let first = HOSTS.start + fnv1a(key) % (HOSTS.end - HOSTS.start);
            let Some(host) = (first..HOSTS.end).chain(HOSTS.start..first).find(|h| taken.insert(*h)) else {
                return;
            };
            self.given.insert(key.clone(), host);
        }
    }

    /// The address of a key; `None` when it was not assigned, or when there are more keys than addresses.
    pub(super) fn of(&self, key: &str) -> Option<Ipv4Addr> {
        let [high, low] = self.given.get(key)?.to_be_bytes();
        Some(Ipv4Addr::new(127, 127, high, low))
    }
}

/// FNV-1a, folded to 16 bits. It must not change between versions, which `std`'s hasher may.
fn fnv1a(key: &str) -> u16 {
    let hash = key.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let [a, b, c, d] = hash.to_be_bytes();
    u16::from_be_bytes([a ^ c, b ^ d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(range: std::ops::Range<u32>) -> BTreeSet<String> {
        range.map(|i| format!("default/service-{i}")).collect()
    }

    #[test]
    fn each_key_has_an_address_of_its_own() {
        let mut addresses = Addresses::default();
        let keys = keys(0..5000);
        addresses.assign(&keys);
        let given: BTreeSet<Ipv4Addr> = keys.iter().filter_map(|k| addresses.of(k)).collect();
        assert_eq!(given.len(), 5000);
        assert!(given.iter().all(|a| a.octets()[..2] == [127, 127]));
    }

    #[test]
    fn an_address_follows_from_the_key_and_stays_across_reloads() {
        let (mut grown, mut fresh) = (Addresses::default(), Addresses::default());
        grown.assign(&keys(0..500));
        let before: Vec<_> = keys(100..300).iter().map(|k| grown.of(k)).collect();
        grown.assign(&keys(100..3000));
        assert_eq!(before, keys(100..300).iter().map(|k| grown.of(k)).collect::<Vec<_>>());
        assert_eq!(grown.of("default/service-0"), None);

        fresh.assign(&BTreeSet::from(["default/service-7".to_owned()]));
        let mut again = Addresses::default();
        again.assign(&BTreeSet::from(["default/service-7".to_owned()]));
        assert_eq!(fresh.of("default/service-7"), again.of("default/service-7"));
        assert_eq!(fresh.of("default/service-7"), Some(Ipv4Addr::new(127, 127, 132, 11)));
    }

    #[test]
    fn more_keys_than_addresses_leave_the_last_without() {
        let mut addresses = Addresses::default();
        let keys = keys(0..70_000);
        addresses.assign(&keys);
        let given: BTreeSet<Ipv4Addr> = keys.iter().filter_map(|k| addresses.of(k)).collect();
        assert_eq!(given.len(), usize::from(HOSTS.end - HOSTS.start));
    }
}
