use super::GOLDEN;
use super::weights::Weights;

/// The `turn`th pick. Unequal weights are walked by a golden-ratio sequence, which spreads each
/// endpoint's turns evenly without any state but the counter.
pub(super) fn pick(weights: &Weights, turn: u64) -> usize {
    if weights.are_equal() {
        (turn % weights.len() as u64) as usize
    } else {
        weights.draw(turn.wrapping_mul(GOLDEN))
    }
}
