use serde::Serialize;
use std::time::Duration;

/// Faults to inject (Istio 2.15): first the delay, then the abort, each by its own dice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// A wait before anything else.
    pub delay: Option<Delay>,
    /// An answer instead of the upstream's.
    pub abort: Option<Abort>,
}

/// A wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Delay {
    /// How long.
    pub duration: Duration,
    /// Of how many requests.
    pub share: Share,
}

/// An answer of a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Abort {
    /// What it says.
    pub status: AbortStatus,
    /// Of how many requests.
    pub share: Share,
}

/// The status of an abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AbortStatus {
    /// Of HTTP.
    Http(u16),
    /// Of gRPC, in an answer with HTTP status 200.
    Grpc(u8),
}

/// A part of all requests, in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Share(u32);

impl Share {
    const WHOLE: u32 = 1_000_000;

    /// A percentage, to the ten-thousandth of a percent; what is below 0 or above 100 counts as that.
    pub fn percent(value: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and a million"
        )]
        Share((value.clamp(0.0, 100.0) * f64::from(Self::WHOLE / 100)) as u32)
    }

    /// All of them.
    pub fn all() -> Self {
        Share(Self::WHOLE)
    }

    /// Whether a uniformly random number falls into this part.
    pub fn takes(self, dice: u64) -> bool {
        ((u128::from(dice) * u128::from(Self::WHOLE)) >> 64) < u128::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_take_their_part_of_the_dice() {
        let part = |percent| {
            let step = u64::MAX / 1_000_000;
            (0..1_000_000).filter(|i| Share::percent(percent).takes(i * step + step / 2)).count()
        };
        assert_eq!(part(0.0), 0);
        assert_eq!(part(0.0001), 1);
        assert_eq!(part(12.5), 125_000);
        assert_eq!(part(100.0), 1_000_000);
        assert_eq!((Share::percent(-3.0), Share::percent(300.0)), (Share(0), Share::all()));
        assert!(Share::all().takes(u64::MAX));
    }
}
