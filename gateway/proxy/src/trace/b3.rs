//! B3, the headers of Zipkin: one, or several.

use super::hex::{self, Case};

/// What a client says in B3: each header as it came, `None` for one that is absent or repeated.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said<'a> {
    pub(super) single: Option<&'a [u8]>,
    pub(super) trace_id: Option<&'a [u8]>,
    pub(super) span_id: Option<&'a [u8]>,
    pub(super) sampled: Option<&'a [u8]>,
    pub(super) flags: Option<&'a [u8]>,
}

/// A caller as B3 says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Caller {
    /// Its trace and span, if it says them.
    pub(super) ids: Option<(u128, u64)>,
    /// What it decided about sampling; `None` where that is left to who is called.
    pub(super) sampled: Option<bool>,
    pub(super) forms: Forms,
}

/// The forms of B3 that a client spoke, in which the upstream is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Forms {
    /// `b3`.
    pub(super) single: bool,
    /// `x-b3-traceid` and its like.
    pub(super) several: bool,
    /// Ids of traces have 64 bits.
    pub(super) short: bool,
    /// The trace is recorded whatever others decide.
    pub(super) debug: bool,
}

/// Whether a trace is recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Denied,
    Accepted,
    Debug,
}

/// Trace, span and how many digits the trace has.
type Ids = (u128, u64, usize);

/// Digits of an id of 64 bits.
const SHORT: usize = 16;
/// Digits of an id of 128 bits.
const LONG: usize = 32;

/// What counts of what a client says: the one header before the several. What is malformed says nothing.
pub(super) fn read(said: &Said<'_>) -> Caller {
    let (single, several) = (said.single.and_then(one), many(said));
    let Some((ids, state)) = single.or(several) else { return Caller::default() };
    Caller {
        ids: ids.map(|(trace, span, _)| (trace, span)),
        sampled: state.map(|s| s != State::Denied),
        forms: Forms {
            single: single.is_some(),
            several: several.is_some(),
            short: ids.is_some_and(|(.., digits)| digits == SHORT),
            debug: state == Some(State::Debug),
        },
    }
}

/// `TRACE-SPAN`, `TRACE-SPAN-STATE`, `TRACE-SPAN-STATE-PARENT`, or the state alone.
fn one(text: &[u8]) -> Option<(Option<Ids>, Option<State>)> {
    let mut parts = text.split(|c| *c == b'-');
    let first = parts.next()?;
    let Some(span) = parts.next() else { return Some((None, Some(state(first)?))) };
    let ids = ids(first, span)?;
    let state = parts.next().map(|text| state(text).ok_or(())).transpose().ok()?;
    let is_parent = parts.next().is_none_or(|parent| span_id(parent).is_some());
    (is_parent && parts.next().is_none()).then_some((Some(ids), state))
}

fn many(said: &Said<'_>) -> Option<(Option<Ids>, Option<State>)> {
    let ids = said.trace_id.zip(said.span_id).and_then(|(trace, span)| ids(trace, span));
    let state = match (said.flags, said.sampled) {
        (Some(b"1"), _) => Some(State::Debug),
        // words are what old tracers say
        (_, Some(b"1" | b"true")) => Some(State::Accepted),
        (_, Some(b"0" | b"false")) => Some(State::Denied),
        _ => None,
    };
    (ids.is_some() || state.is_some()).then_some((ids, state))
}

fn state(text: &[u8]) -> Option<State> {
    match text {
        b"0" => Some(State::Denied),
        b"1" => Some(State::Accepted),
        b"d" => Some(State::Debug),
        _ => None,
    }
}

fn ids(trace: &[u8], span: &[u8]) -> Option<Ids> {
    let digits = trace.len();
    let id = Some(trace).filter(|_| matches!(digits, SHORT | LONG)).and_then(|t| hex::read(t, Case::Any))?;
    (id != 0).then_some((id, span_id(span)?, digits))
}

fn span_id(digits: &[u8]) -> Option<u64> {
    let id = Some(digits).filter(|d| d.len() == SHORT).and_then(|d| hex::read(d, Case::Any))?;
    u64::try_from(id).ok().filter(|id| *id != 0)
}

/// A span that is told of to who is called.
pub(super) struct Called {
    pub(super) trace: u128,
    pub(super) span: u64,
    pub(super) parent: u64,
    pub(super) sampled: bool,
}

/// Puts the headers that say this, in these forms.
pub(super) fn write(forms: Forms, called: &Called, mut put: impl FnMut(&'static str, &[u8])) {
    let trace = hex::of_u128(called.trace);
    let trace = &trace[if forms.short { LONG - SHORT } else { 0 }..];
    let (span, parent) = (hex::of_u64(called.span), hex::of_u64(called.parent));
    let sampled = if called.sampled { b'1' } else { b'0' };
    if forms.single {
        let mut text = [b'-'; LONG + 1 + SHORT + 1 + 1 + 1 + SHORT];
        let begin = LONG - trace.len();
        text[begin..LONG].copy_from_slice(trace);
        text[33..49].copy_from_slice(&span);
        text[50] = if forms.debug { b'd' } else { sampled };
        text[52..].copy_from_slice(&parent);
        put("b3", &text[begin..]);
    }
    if forms.several {
        put("x-b3-traceid", trace);
        put("x-b3-spanid", &span);
        put("x-b3-parentspanid", &parent);
        if forms.debug {
            put("x-b3-flags", b"1");
        } else {
            put("x-b3-sampled", &[sampled]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRACE: u128 = 0x80f1_9887_7f35_1b39_4d5e_0f1a_2b3c_4d5e;
    const LOW: u128 = 0x4d5e_0f1a_2b3c_4d5e;
    const SPAN: u64 = 0x05e3_ac9a_4f6e_3b90;
    const LONG_ID: &[u8] = b"80f198877f351b394d5e0f1a2b3c4d5e";
    const SPAN_ID: &[u8] = b"05e3ac9a4f6e3b90";

    fn single(text: &str) -> Caller {
        read(&Said { single: Some(text.as_bytes()), ..Said::default() })
    }

    #[test]
    fn one_header() {
        let one = Forms { single: true, ..Forms::default() };
        let short = Forms { short: true, ..one };
        let (long, low) = (Some((TRACE, SPAN)), Some((LOW, SPAN)));
        for (text, ids, sampled, forms) in [
            ("80f198877f351b394d5e0f1a2b3c4d5e-05e3ac9a4f6e3b90", long, None, one),
            ("80f198877f351b394d5e0f1a2b3c4d5e-05e3ac9a4f6e3b90-1", long, Some(true), one),
            ("80F198877F351B394D5E0F1A2B3C4D5E-05E3AC9A4F6E3B90-1", long, Some(true), one),
            ("80f198877f351b394d5e0f1a2b3c4d5e-05e3ac9a4f6e3b90-0-05e3ac9a4f6e3b91", long, Some(false), one),
            ("4d5e0f1a2b3c4d5e-05e3ac9a4f6e3b90-d", low, Some(true), Forms { debug: true, ..short }),
            ("4d5e0f1a2b3c4d5e-05e3ac9a4f6e3b90-1-05e3ac9a4f6e3b91", low, Some(true), short),
            ("0", None, Some(false), one),
            ("d", None, Some(true), Forms { debug: true, ..one }),
        ] {
            assert_eq!(single(text), Caller { ids, sampled, forms }, "{text}");
        }
    }

    #[test]
    fn what_says_nothing() {
        for text in [
            "",
            "-",
            "2",
            "true",
            "80f198877f351b394d5e0f1a2b3c4d5e",
            "80f198877f351b394d5e0f1a2b3c4d5e-",
            "80f198877f351b394d5e0f1a2b3c4d5e-05e3ac9a4f6e3b9",
            "80f198877f351b394d5e0f1a2b3c4d5-05e3ac9a4f6e3b90-1",
            "80f198877f351b394d5e0f1a2b3c4d5x-05e3ac9a4f6e3b90-1",
            "00000000000000000000000000000000-05e3ac9a4f6e3b90-1",
            "80f198877f351b394d5e0f1a2b3c4d5e-0000000000000000-1",
            "80f198877f351b394d5e0f1a2b3c4d5e-05e3ac9a4f6e3b90-",
            "80f198877f351b394d5e0f1a2b3c4d5e-05e3ac9a4f6e3b90-x",
            "80f198877f351b394d5e0f1a2b3c4d5e-05e3ac9a4f6e3b90-1-",
            "80f198877f351b394d5e0f1a2b3c4d5e-05e3ac9a4f6e3b90-1-05e3ac9a4f6e3b91-",
        ] {
            assert_eq!(single(text), Caller::default(), "{text}");
        }
        let said = Said { trace_id: Some(LONG_ID), span_id: Some(b"<script>"), ..Said::default() };
        assert_eq!(read(&said), Caller::default());
        assert_eq!(
            read(&Said { sampled: Some(b"yes"), flags: Some(b"0"), ..Said::default() }),
            Caller::default()
        );
    }

    #[test]
    fn several_headers() {
        let ids = Said { trace_id: Some(LONG_ID), span_id: Some(SPAN_ID), ..Said::default() };
        let several = Forms { several: true, ..Forms::default() };
        for (said, sampled, debug) in [
            (ids, None, false),
            (Said { sampled: Some(b"1"), ..ids }, Some(true), false),
            (Said { sampled: Some(b"true"), ..ids }, Some(true), false),
            (Said { sampled: Some(b"0"), ..ids }, Some(false), false),
            (Said { sampled: Some(b"0"), flags: Some(b"1"), ..ids }, Some(true), true),
        ] {
            let expected = Caller { ids: Some((TRACE, SPAN)), sampled, forms: Forms { debug, ..several } };
            assert_eq!(read(&said), expected, "{said:?}");
        }
        let alone = read(&Said { sampled: Some(b"0"), ..Said::default() });
        assert_eq!(alone, Caller { ids: None, sampled: Some(false), forms: several });
        let both = read(&Said { single: Some(b"0"), sampled: Some(b"1"), ..ids });
        assert_eq!(both.ids, None, "the one header counts");
        assert_eq!((both.sampled, both.forms.single, both.forms.several), (Some(false), true, true));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            trace in 1u128.., span in 1u64.., parent in 1u64.., sampled: bool, short: bool, debug: bool,
            single: bool
        ) {
            let trace = if short { trace >> 64 | 1 } else { trace };
            let forms = Forms { single, several: !single, short, debug };
            let mut put = Vec::new();
            write(forms, &Called { trace, span, parent, sampled }, |name, value| put.push((name, value.to_vec())));
            let of = |name| put.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_slice());
            let said = Said {
                single: of("b3"),
                trace_id: of("x-b3-traceid"),
                span_id: of("x-b3-spanid"),
                sampled: of("x-b3-sampled"),
                flags: of("x-b3-flags"),
            };
            let caller = Caller { ids: Some((trace, span)), sampled: Some(sampled || debug), forms };
            prop_assert_eq!(read(&said), caller);
        }

        #[test]
        fn anything_may_come(text: Vec<u8>, other: Vec<u8>) {
            let said = Said { single: Some(&text), trace_id: Some(&text), span_id: Some(&other), ..Said::default() };
            prop_assert!(read(&said).forms.single || read(&said) == Caller::default());
        }
    }
}
