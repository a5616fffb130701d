//! W3C Trace Context, level 1.

use tidegate_model::Tracing;

/// Bytes of a `traceparent` of version 00.
const LENGTH: usize = 55;
/// The flag that says that the caller records its span.
const SAMPLED: u8 = 1;

/// Which span of which trace a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpanContext {
    /// The trace.
    pub(crate) trace: u128,
    /// The span of this request here.
    pub(crate) span: u64,
    /// The caller's span; `None` where the trace begins here.
    pub(crate) parent: Option<u64>,
    /// Whether spans of this trace are recorded.
    pub(crate) sampled: bool,
    /// The Gateway's server port.
    pub(crate) port: u16,
    /// Bytes of a path that the span keeps.
    pub(crate) max_path: usize,
}

impl SpanContext {
    /// A span for a request that came with this `traceparent`. The caller's decision about sampling
    /// counts; where there is no caller, it is decided here.
    pub(crate) fn begin(traceparent: Option<&[u8]>, tracing: &Tracing, port: u16) -> Self {
        let caller = traceparent.and_then(parse);
        let (trace, parent, sampled) = match caller {
            Some((trace, parent, flags)) => (trace, Some(parent), flags & SAMPLED != 0),
            // an id of zeros is none
            None => (fastrand::u128(1..), None, tracing.sampling.takes(fastrand::u64(..))),
        };
        SpanContext { trace, span: fastrand::u64(1..), parent, sampled, port, max_path: tracing.max_path }
    }

    /// The `traceparent` for who is called next.
    pub(crate) fn traceparent(&self) -> [u8; LENGTH] {
        let mut text = [b'-'; LENGTH];
        hex(&mut text[0..2], &[0]);
        hex(&mut text[3..35], &self.trace.to_be_bytes());
        hex(&mut text[36..52], &self.span.to_be_bytes());
        hex(&mut text[53..55], &[if self.sampled { SAMPLED } else { 0 }]);
        text
    }

    /// The trace's id in text.
    pub(crate) fn trace_id(&self) -> [u8; 32] {
        let mut text = [0; 32];
        hex(&mut text, &self.trace.to_be_bytes());
        text
    }
}

/// Trace, span and flags of a `traceparent`. A later version may say more behind them.
fn parse(text: &[u8]) -> Option<(u128, u64, u8)> {
    let (known, more) = text.split_at_checked(LENGTH)?;
    let version = number(&known[0..2])?;
    let ends = match version {
        0 => more.is_empty(),
        0xff => false,
        _ => more.is_empty() || more.starts_with(b"-"),
    };
    if !ends || [2, 35, 52].iter().any(|at| known[*at] != b'-') {
        return None;
    }
    let (trace, span) = (number(&known[3..35])?, number(&known[36..52])?);
    let flags = number(&known[53..55])?;
    (trace != 0 && span != 0).then_some((trace, u64::try_from(span).ok()?, u8::try_from(flags).ok()?))
}

/// A number in lower-case hexadecimal digits, at most 32.
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

fn hex(text: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;
    use tidegate_model::{ClusterName, OtlpTransport, Share};

    fn tracing(sampling: Share) -> Tracing {
        Tracing {
            collector: ClusterName::outbound(4317, "", "collector"),
            transport: OtlpTransport::Grpc,
            timeout: Duration::from_secs(1),
            sampling,
            max_path: 256,
        }
    }

    fn begin(traceparent: &[u8], sampling: Share) -> SpanContext {
        SpanContext::begin(Some(traceparent), &tracing(sampling), 80)
    }

    #[test]
    fn a_callers_trace_and_decision_are_kept() {
        let trace = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
        for (text, sampled) in [
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03", true),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes", true),
        ] {
            let share = if sampled { Share::default() } else { Share::all() };
            let context = begin(text.as_bytes(), share);
            assert_eq!((context.trace, context.parent), (trace, Some(0x00f0_67aa_0ba9_02b7)), "{text}");
            assert_eq!(context.sampled, sampled, "{text}");
            let sent = String::from_utf8(context.traceparent().to_vec()).unwrap();
            let flag = if sampled { "01" } else { "00" };
            assert_eq!(sent, format!("00-{trace:032x}-{:016x}-{flag}", context.span));
            assert_ne!(Some(context.span), context.parent);
            assert_eq!(context.trace_id(), *b"4bf92f3577b34da6a3ce929d0e0e4736");
        }
    }

    #[test]
    fn what_is_no_traceparent_begins_a_trace() {
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
            for (share, sampled) in [(Share::all(), true), (Share::default(), false)] {
                let context = begin(text.as_bytes(), share);
                assert_eq!((context.parent, context.sampled), (None, sampled), "{text}");
                assert!(context.trace != 0 && context.span != 0);
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_sent_is_understood(trace in 1u128.., span in 1u64.., sampled: bool, more: Vec<u8>) {
            let context = SpanContext { trace, span, parent: None, sampled, port: 0, max_path: 0 };
            prop_assert_eq!(parse(&context.traceparent()), Some((trace, span, u8::from(sampled))));
            let _ = parse(&more);
            let _ = parse(&[&b"cc"[..], &context.traceparent()[2..], &more].concat());
        }
    }
}
