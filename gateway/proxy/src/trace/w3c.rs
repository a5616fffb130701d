//! W3C Trace Context, level 1.

use super::hex::{self, Case};

/// Bytes of a `traceparent` of version 00.
const LENGTH: usize = 55;
/// The flag that says that the caller records its span.
const SAMPLED: u8 = 1;

/// A caller as its `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) trace: u128,
    pub(super) span: u64,
    pub(super) sampled: bool,
}

/// What a `traceparent` says. A later version may say more behind it.
pub(super) fn read(text: &[u8]) -> Option<Caller> {
    let (known, more) = text.split_at_checked(LENGTH)?;
    let number = |digits: &[u8]| hex::read(digits, Case::Lower);
    let ends = match number(&known[0..2])? {
        0 => more.is_empty(),
        0xff => false,
        _ => more.is_empty() || more.starts_with(b"-"),
    };
    if !ends || [2, 35, 52].iter().any(|at| known[*at] != b'-') {
        return None;
    }
    let (trace, span) = (number(&known[3..35])?, number(&known[36..52])?);
    let sampled = number(&known[53..55])? & u128::from(SAMPLED) != 0;
    (trace != 0 && span != 0).then_some(Caller { trace, span: u64::try_from(span).ok()?, sampled })
}

/// The `traceparent` that says this.
pub(super) fn write(Caller { trace, span, sampled }: Caller) -> [u8; LENGTH] {
    let mut text = [b'-'; LENGTH];
    hex::write(&mut text[0..2], &[0]);
    hex::write(&mut text[3..35], &trace.to_be_bytes());
    hex::write(&mut text[36..52], &span.to_be_bytes());
    hex::write(&mut text[53..55], &[if sampled { SAMPLED } else { 0 }]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn callers() {
        let (trace, span) = (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7);
        for (text, sampled) in [
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03", true),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes", true),
        ] {
            assert_eq!(read(text.as_bytes()), Some(Caller { trace, span, sampled }), "{text}");
        }
    }

    #[test]
    fn what_is_none() {
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1x",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.x",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
        ] {
            assert_eq!(read(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace in 1u128.., span in 1u64.., sampled: bool, more: Vec<u8>) {
            let caller = Caller { trace, span, sampled };
            prop_assert_eq!(read(&write(caller)), Some(caller));
            let _ = read(&more);
            let _ = read(&[&b"cc"[..], &write(caller)[2..], &more].concat());
        }
    }
}
