//! Ids in hexadecimal digits.

/// Which letters are digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    Lower,
    Any,
}

/// A number of at most 32 digits.
pub(super) fn read(digits: &[u8], case: Case) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            b'A'..=b'F' if case == Case::Any => digit - b'A' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// All 32 digits.
pub(super) fn of_u128(number: u128) -> [u8; 32] {
    let mut text = [0; 32];
    write(&mut text, &number.to_be_bytes());
    text
}

/// All 16 digits.
pub(super) fn of_u64(number: u64) -> [u8; 16] {
    let mut text = [0; 16];
    write(&mut text, &number.to_be_bytes());
    text
}

/// Two digits for each byte.
pub(super) fn write(text: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]);
    }
}
