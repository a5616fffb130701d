use super::hash::StableHash;
use tidegate_model::HashTable;

/// A hash ring: every endpoint has points on a circle by its weight, and a key belongs to the first
/// point at or after it. An endpoint that goes gives up its own keys and moves no other, as long as
/// the others have as many points as before.
pub(super) struct Ring {
    /// In ascending order.
    points: Box<[u64]>,
    /// Whose point each is.
    owners: Box<[u32]>,
}

impl Ring {
    /// A ring with at least `minimum` points for endpoints with these keys and weights.
    pub(super) fn new(endpoints: &[(&[u8], u64)], minimum: u32) -> Self {
        Ring::bounded(endpoints, minimum, HashTable::LARGEST_RING)
    }

    /// A ring with no more than `most` points beside one for each endpoint.
    pub(super) fn bounded(endpoints: &[(&[u8], u64)], minimum: u32, most: u32) -> Self {
        let least = endpoints.iter().map(|(_, weight)| *weight).min().unwrap_or(1).max(1);
        let total: u128 = endpoints.iter().map(|(_, weight)| u128::from(*weight)).sum::<u128>().max(1);
        // what the lightest gets: the others have as many times more as they weigh more. A power of two
        // stays what it is when an endpoint comes or goes, but for when it doubles or halves
        let each = (u128::from(minimum) * u128::from(least)).div_ceil(total).max(1).next_power_of_two();
        let mut made = Vec::new();
        for (owner, (key, weight)) in (0u32..).zip(endpoints) {
            let weight = u128::from(*weight);
            let wanted = (each * weight).div_ceil(u128::from(least));
            let count = wanted.min((u128::from(most) * weight / total).max(1)) as u64;
            let of_key = StableHash::new().with(key);
            made.extend((0..count).map(|i| (of_key.with(&i.to_le_bytes()).finish(), owner)));
        }
        made.sort_unstable();
        Ring {
            points: made.iter().map(|(point, _)| *point).collect(),
            owners: made.iter().map(|(_, owner)| *owner).collect(),
        }
    }

    pub(super) fn pick(&self, hash: u64) -> usize {
        let at = self.points.partition_point(|point| *point < hash);
        self.owners[if at == self.points.len() { 0 } else { at }] as usize
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.points.len()
    }
}
