use super::weights::Weights;
use super::{mix, scale};

/// The less loaded of two. With unequal weights both are drawn by weight and their load is measured
/// per weight, so that an idle cluster follows the weights exactly.
pub(super) fn pick(weights: &Weights, dice: u64, active: impl Fn(usize) -> u32) -> usize {
    let first = weights.draw(dice);
    let again = mix(dice);
    let second = if weights.are_equal() {
        let other = scale(again, weights.len() as u64 - 1) as usize;
        if other >= first { other + 1 } else { other }
    } else {
        weights.draw(again)
    };
    let load = |a: usize, b: usize| u128::from(active(a)) * u128::from(weights.weight(b));
    if load(second, first) < load(first, second) { second } else { first }
}
