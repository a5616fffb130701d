use super::scale;

/// What each of some endpoints counts, at least 1 each.
#[derive(Default)]
pub(super) struct Weights {
    len: usize,
    /// Sums of the weights up to and with each endpoint; `None` when they are equal.
    cumulative: Option<Box<[u64]>>,
}

impl Weights {
    pub(super) fn new(weights: &[u64]) -> Self {
        let equal = weights.windows(2).all(|w| w[0] == w[1]);
        let cumulative = (!equal).then(|| {
            let sums = weights.iter().scan(0u64, |sum, weight| {
                *sum = sum.saturating_add(*weight);
                Some(*sum)
            });
            sums.collect()
        });
        Weights { len: weights.len(), cumulative }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn are_equal(&self) -> bool {
        self.cumulative.is_none()
    }

    pub(super) fn weight(&self, index: usize) -> u64 {
        match &self.cumulative {
            None => 1,
            Some(sums) => sums[index] - if index > 0 { sums[index - 1] } else { 0 },
        }
    }

    /// The index at `position` of the circle, each endpoint holding a share by its weight.
    pub(super) fn draw(&self, position: u64) -> usize {
        match &self.cumulative {
            None => scale(position, self.len as u64) as usize,
            Some(sums) => {
                let point = scale(position, sums.last().copied().unwrap_or(1));
                sums.partition_point(|&sum| sum <= point)
            }
        }
    }
}
