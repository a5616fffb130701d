//! Which endpoints get requests, and what share of them: by priority, by locality, by health. A pure
//! function with the meaning of Envoy's priority levels, panic threshold and locality weights.

use std::collections::BTreeMap;

/// An endpoint as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// 0 is the highest.
    pub(super) priority: u32,
    /// Its locality and what that weighs, where localities have shares of their own.
    pub(super) locality: Option<(usize, u32)>,
    pub(super) healthy: bool,
}

/// Endpoints that have a share of the requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tier {
    pub(super) share: u64,
    /// Their indices.
    pub(super) members: Vec<usize>,
    /// Health does not count: too few are healthy.
    pub(super) panic: bool,
}

/// A priority keeps all its requests as long as this share of it, in percent, is healthy: 100/1.4.
const OVERPROVISIONING: u64 = 140;

/// A share of what is left when it is split up.
const FINE: u64 = 1_000_000;

/// The endpoints of one priority.
struct Level {
    members: Vec<usize>,
    healthy: u64,
}

impl Level {
    fn availability(&self) -> u64 {
        (self.healthy * OVERPROVISIONING).checked_div(self.members.len() as u64).unwrap_or(0).min(100)
    }

    fn panics(&self, below: u64) -> bool {
        self.healthy * 100 < below * self.members.len() as u64
    }
}

/// The tiers; none when there is nobody to send a request to. Where fewer than `panic_below` percent of a
/// priority are healthy and the others cannot take its part, all of it is used.
pub(super) fn tiers(candidates: &[Candidate], panic_below: u8) -> Vec<Tier> {
    let mut levels: BTreeMap<u32, Level> = BTreeMap::new();
    for (i, candidate) in candidates.iter().enumerate() {
        if candidate.locality.is_some_and(|(_, weight)| weight == 0) {
            continue;
        }
        let level = levels.entry(candidate.priority).or_insert(Level { members: Vec::new(), healthy: 0 });
        level.members.push(i);
        level.healthy += u64::from(candidate.healthy);
    }
    let levels: Vec<Level> = levels.into_values().collect();
    let total = levels.iter().map(Level::availability).sum::<u64>().min(100);
    let below = u64::from(panic_below.min(100));
    let panics: Vec<bool> = levels.iter().map(|level| total < 100 && level.panics(below)).collect();
    let mut tiers = Vec::new();
    if !panics.is_empty() && panics.iter().all(|panics| *panics) {
        // nowhere is better than elsewhere: every endpoint counts the same
        for level in &levels {
            split(candidates, level, level.members.len() as u64, true, &mut tiers);
        }
        return tiers;
    }
    let mut left = 100;
    for (level, panics) in levels.iter().zip(panics) {
        let share = (level.availability() * 100).checked_div(total).unwrap_or(0).min(left);
        left -= share;
        if share > 0 {
            split(candidates, level, share, panics, &mut tiers);
        }
    }
    // what rounding left over is the first one's
    if let Some(first) = tiers.first_mut().filter(|_| left > 0) {
        first.share += left * FINE;
    }
    tiers
}

/// A level's share goes to its localities, where they have weights: by weight and health.
fn split(candidates: &[Candidate], level: &Level, share: u64, panics: bool, tiers: &mut Vec<Tier>) {
    let mut localities: BTreeMap<Option<usize>, (u32, Level)> = BTreeMap::new();
    for &i in &level.members {
        let Candidate { locality, healthy, .. } = candidates[i];
        let (place, weight) = locality.map_or((None, 1), |(place, weight)| (Some(place), weight));
        let empty = Level { members: Vec::new(), healthy: 0 };
        let (_, of_locality) = localities.entry(place).or_insert((weight, empty));
        of_locality.members.push(i);
        of_locality.healthy += u64::from(healthy);
    }
    let effective =
        |weight: u32, level: &Level| u64::from(weight) * if panics { 100 } else { level.availability() };
    let total: u64 = localities.values().map(|(weight, level)| effective(*weight, level)).sum();
    for (weight, level) in localities.into_values() {
        let part = u128::from(share * FINE) * u128::from(effective(weight, &level));
        let share = part.checked_div(u128::from(total)).unwrap_or(0) as u64;
        let members = level.members.into_iter().filter(|i| panics || candidates[*i].healthy).collect();
        if share > 0 {
            tiers.push(Tier { share, members, panic: panics });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Levels by their healthy endpoints and all of them.
    fn levels(levels: &[(usize, usize)]) -> Vec<Candidate> {
        let of = |(priority, (healthy, all)): (u32, &(usize, usize))| {
            let healthy = *healthy;
            (0..*all).map(move |i| Candidate { priority, locality: None, healthy: i < healthy })
        };
        (0u32..).zip(levels).flat_map(of).collect()
    }

    /// Percent by priority, and `!` where it panics.
    fn shown(candidates: &[Candidate], panic_below: u8) -> String {
        let tiers = tiers(candidates, panic_below);
        let total: u64 = tiers.iter().map(|t| t.share).sum();
        let show = |t: &Tier| {
            let priority = candidates[t.members[0]].priority;
            format!("P{priority}={}{}", (t.share * 100 + total / 2) / total, if t.panic { "!" } else { "" })
        };
        tiers.iter().map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn load_goes_to_the_next_priority_as_health_goes() {
        // Envoy's own examples of priority levels
        for (of, panic_below, expected) in [
            (&[(4, 4)][..], 0, "P0=100"),
            (&[(1, 4)], 0, "P0=100"),
            (&[(0, 4)], 0, ""),
            (&[], 50, ""),
            (&[(100, 100), (100, 100)], 0, "P0=100"),
            (&[(72, 100), (100, 100)], 0, "P0=100"),
            (&[(71, 100), (100, 100)], 0, "P0=99 P1=1"),
            (&[(50, 100), (100, 100)], 0, "P0=70 P1=30"),
            (&[(0, 100), (100, 100)], 0, "P1=100"),
            (&[(25, 100), (25, 100)], 0, "P0=50 P1=50"),
            (&[(5, 100), (0, 100), (5, 100)], 0, "P0=50 P2=50"),
            (&[(25, 100), (25, 100), (100, 100)], 0, "P0=35 P1=35 P2=30"),
            // panic
            (&[(1, 4)], 50, "P0=100!"),
            (&[(2, 4)], 50, "P0=100"),
            (&[(0, 4)], 1, "P0=100!"),
            (&[(0, 100), (100, 100)], 50, "P1=100"),
            (&[(5, 100), (65, 100)], 50, "P0=8! P1=92"),
            (&[(0, 30), (0, 10)], 50, "P0=75! P1=25!"),
        ] {
            assert_eq!(shown(&levels(of), panic_below), expected, "{of:?} {panic_below}");
        }
    }

    #[test]
    fn localities_have_their_shares() {
        let at = |place, weight, healthy| Candidate { priority: 0, locality: Some((place, weight)), healthy };
        let shares = |candidates: &[Candidate]| {
            let tiers = tiers(candidates, 0);
            let total: u64 = tiers.iter().map(|t| t.share).sum();
            tiers.into_iter().map(|t| ((t.share * 100 + total / 2) / total, t.members)).collect::<Vec<_>>()
        };
        let all = [at(0, 80, true), at(1, 20, true), at(1, 20, true), at(2, 0, true)];
        assert_eq!(shares(&all), [(80, vec![0]), (20, vec![1, 2])]);
        let half = [at(0, 80, true), at(1, 20, false), at(1, 20, true)];
        assert_eq!(shares(&half), [(85, vec![0]), (15, vec![2])], "20 x 0.7 beside 80");
        let gone = [at(0, 80, false), at(1, 20, true), at(1, 20, true), at(2, 0, true)];
        assert_eq!(shares(&gone), [(100, vec![1, 2])]);
    }
}
