//! Where text ends, looked for in sixteen bytes at a time: most bytes of a head or a log line mean nothing to us.

use crate::h1::field::is_token_char;
use wide::u8x16;

/// Where, from `at` on, the first byte stands that is less than `LOW` or 0x7f.
#[inline]
pub(crate) fn first_below<const LOW: u8>(bytes: &[u8], at: usize) -> Option<usize> {
    let vector = |c: u8x16| c.min(u8x16::splat(LOW - 1)).simd_eq(c) | c.simd_eq(u8x16::splat(0x7f));
    first(bytes, at, vector, |c| c < LOW || c == 0x7f)
}

/// Where, from `at` on, the first byte stands that may not be in a token (RFC 9110 5.6.2).
#[inline]
pub(crate) fn token_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at = first(bytes, at, is_rare, |c| !is_token_char(c))?;
        if !is_token_char(bytes[at]) {
            return Some(at);
        }
        at += 1;
    }
}

/// The lines of a text that each end with LF, without it; what follows the last LF is none.
pub(crate) fn lines(text: &[u8]) -> Lines<'_> {
    Lines { text, begin: 0, block: 0, ahead: 0, ends: 0 }
}

/// What [`lines`] gives: each sixteen bytes are looked at once, however many lines end there.
pub(crate) struct Lines<'a> {
    text: &'a [u8],
    /// Of the next line.
    begin: usize,
    /// Where the bytes begin that were looked at last, and those after them.
    block: usize,
    ahead: usize,
    /// The places in the block where lines end that were not given yet, as bits.
    ends: u32,
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        while self.ends == 0 {
            let rest = self.text.get(self.ahead..).filter(|rest| !rest.is_empty())?;
            let block = rest.first_chunk().copied().unwrap_or_else(|| {
                let mut last = [0; 16];
                last[..rest.len()].copy_from_slice(rest);
                last
            });
            self.ends = u8x16::new(block).simd_eq(u8x16::splat(b'\n')).to_bitmask();
            self.block = self.ahead;
            self.ahead += block.len();
        }
        let end = self.block + self.ends.trailing_zeros() as usize;
        self.ends &= self.ends - 1;
        let line = &self.text[self.begin..end];
        self.begin = end + 1;
        Some(line)
    }
}

/// Whether all of it is printable ASCII without `"` and `\\`, which no text is written around. The last sixteen bytes, or
/// eight, may overlap with those before them.
#[inline]
pub(crate) fn is_plain(bytes: &[u8]) -> bool {
    let plain = |c: u8x16| {
        let marked = c.simd_eq(u8x16::splat(b'"')) | c.simd_eq(u8x16::splat(b'\\'));
        !(!within(b' ', c, b'~') | marked).any()
    };
    if let Some(last) = bytes.last_chunk() {
        return bytes.as_chunks().0.iter().all(|block| plain(u8x16::new(*block))) && plain(u8x16::new(*last));
    }
    match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (Some(first), Some(last)) => {
            let mut both = [0; 16];
            both[..8].copy_from_slice(first);
            both[8..].copy_from_slice(last);
            plain(u8x16::new(both))
        }
        _ => bytes.iter().all(|c| PLAIN[usize::from(*c)]),
    }
}

/// By byte, what [`is_plain`] looks for.
static PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut c = b' ';
    while c <= b'~' {
        table[c as usize] = c != b'"' && c != b'\\';
        c += 1;
    }
    table
};

/// What is no letter, digit or hyphen, of which nearly every name is made.
#[inline]
fn is_rare(c: u8x16) -> u8x16 {
    let letter = within(b'a', c | u8x16::splat(0x20), b'z');
    !(letter | within(b'0', c, b'9') | c.simd_eq(u8x16::splat(b'-')))
}

/// What lies from `from` to `to`.
#[inline]
fn within(from: u8, c: u8x16, to: u8) -> u8x16 {
    let distance = c - u8x16::splat(from);
    distance.min(u8x16::splat(to - from)).simd_eq(distance)
}

/// Where, from `at` on, the first byte stands that is in a set, given for sixteen and for one.
#[inline]
fn first(
    bytes: &[u8],
    at: usize,
    vector: impl Fn(u8x16) -> u8x16,
    one: impl Fn(u8) -> bool,
) -> Option<usize> {
    let mut rest = bytes.get(at..)?;
    while let Some((block, after)) = rest.split_first_chunk() {
        let found = vector(u8x16::new(*block)).to_bitmask();
        if found != 0 {
            return Some(bytes.len() - rest.len() + found.trailing_zeros() as usize);
        }
        rest = after;
    }
    rest.iter().position(|c| one(*c)).map(|last| bytes.len() - rest.len() + last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
        let marks = b"aZ09-_~/:@[`{ \t\x1f\x20\x21\x7e\x7f\x80\xff".to_vec();
        prop::collection::vec(
            prop_oneof![4 => Just(b'a'), 1 => any::<u8>(), 1 => prop::sample::select(marks)],
            0..70,
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_first_of_several_is_found(bytes in some_bytes()) {
            let first = |low: u8| bytes.iter().position(|c| *c < low || *c == 0x7f);
            prop_assert_eq!(first_below::<0x20>(&bytes, 0), first(0x20));
            prop_assert_eq!(first_below::<0x21>(&bytes, 0), first(0x21));
            let plain = |c: &u8| (0x20..0x7f).contains(c) && !b"\"\\".contains(c);
            prop_assert_eq!(is_plain(&bytes), bytes.iter().all(plain));
            prop_assert_eq!(token_end(&bytes, 0), bytes.iter().position(|c| !is_token_char(*c)));
        }

        #[test]
        fn lines_are_those_that_end(text in "[a\n]{0,70}") {
            let found: Vec<&[u8]> = lines(text.as_bytes()).collect();
            let mut ended: Vec<&[u8]> = text.as_bytes().split(|c| *c == b'\n').collect();
            ended.pop();
            prop_assert_eq!(found, ended);
        }
    }
}
