use super::hash::StableHash;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A table of Maglev: each entry belongs to an endpoint, chosen by turns from each one's own order
/// of preference. Lookups cost one read; a change of endpoints moves a few keys of others too.
pub(super) struct Maglev(Box<[u32]>);

const EMPTY: u32 = u32::MAX;

impl Maglev {
    /// A table of `size`, a prime number, for endpoints with these keys and weights.
    pub(super) fn new(endpoints: &[(&[u8], u64)], size: u32) -> Self {
        let size = u64::from(size.max(2));
        let mut table = vec![EMPTY; size as usize];
        // each one's place in its order, and the distance to the next
        let mut orders: Vec<(u64, u64)> = endpoints
            .iter()
            .map(|(key, _)| {
                let hash = StableHash::new().with(key);
                (hash.finish() % size, hash.with(b"skip").finish() % (size - 1) + 1)
            })
            .collect();
        // whose turn it is: one that weighs twice as much comes twice as often
        let due = |turns: u128, weight: u64| (turns << 64) / u128::from(weight.max(1));
        let mut turns: BinaryHeap<_> = (0u32..)
            .zip(endpoints)
            .map(|(owner, (_, weight))| Reverse((due(1, *weight), owner, 1u128)))
            .collect();
        for _ in 0..size {
            let Some(Reverse((_, owner, taken))) = turns.pop() else { break };
            let (place, skip) = &mut orders[owner as usize];
            while table[*place as usize] != EMPTY {
                *place = (*place + *skip) % size;
            }
            table[*place as usize] = owner;
            turns.push(Reverse((due(taken + 1, endpoints[owner as usize].1), owner, taken + 1)));
        }
        Maglev(table.into())
    }

    pub(super) fn pick(&self, hash: u64) -> usize {
        self.0[(hash % self.0.len() as u64) as usize] as usize
    }
}
