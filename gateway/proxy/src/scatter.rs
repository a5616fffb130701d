//! Fibonacci hashing: where a key belongs among a few places, for who needs no more than that.

/// One of 2^`bits` places, `bits` at least one. Keys that are close go far apart.
#[inline]
pub(crate) fn place(key: u64, bits: u32) -> usize {
    // 2^64 by the golden ratio; the highest bits depend on all of the key
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - bits)) as usize
}
