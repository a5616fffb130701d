//! Short text, appended as a whole block of which what is too much is dropped: a copy of fixed length takes no call.

/// Appends the first `length` bytes of a block.
#[inline]
pub(crate) fn append<const N: usize>(block: &[u8; N], length: usize, out: &mut Vec<u8>) {
    let end = out.len() + length;
    out.extend_from_slice(block);
    out.truncate(end);
}
