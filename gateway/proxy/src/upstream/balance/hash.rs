use super::mix;

/// A hash that is the same in every process and every version, so that all gateways send a key to
/// the same endpoint: FNV-1a, with its bits mixed at the end.
#[derive(Clone, Copy)]
pub(crate) struct StableHash(u64);

impl StableHash {
    pub(crate) fn new() -> Self {
        StableHash(0xCBF2_9CE4_8422_2325)
    }

    #[must_use]
    pub(crate) fn with(self, bytes: &[u8]) -> Self {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
        StableHash(bytes.iter().fold(self.0, step))
    }

    pub(crate) fn finish(self) -> u64 {
        mix(self.0)
    }
}

/// The hash of one key.
pub(crate) fn hash(key: &[u8]) -> u64 {
    StableHash::new().with(key).finish()
}
