//! Which span of which trace a request is: what its client says of that, and what the upstream is told.

use super::{b3, hex, w3c};
use std::net::SocketAddr;
use std::time::Duration;
use tidegate_model::Tracing;

/// Spans of tries that are kept of a request; the last one stands for all further ones.
const MAX_TRIES: usize = 32;

/// The headers by which a client says of which trace its request is.
const NAMES: [&[u8]; 6] =
    [b"traceparent", b"b3", b"x-b3-traceid", b"x-b3-spanid", b"x-b3-sampled", b"x-b3-flags"];

/// What a client says of its trace, in any form.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Said<'a> {
    traceparent: Option<&'a [u8]>,
    b3: b3::Said<'a>,
}

impl<'a> Said<'a> {
    /// Of the header fields that may say it. One that is repeated says nothing (W3C Trace Context 3.2).
    pub(crate) fn of(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let (mut said, mut seen) = (Said::default(), [false; NAMES.len()]);
        for (name, value) in fields {
            let Some(at) = NAMES.iter().position(|n| name.eq_ignore_ascii_case(n)) else { continue };
            let b3 = &mut said.b3;
            let place = match at {
                0 => &mut said.traceparent,
                1 => &mut b3.single,
                2 => &mut b3.trace_id,
                3 => &mut b3.span_id,
                4 => &mut b3.sampled,
                _ => &mut b3.flags,
            };
            *place = Some(value).filter(|_| !seen[at]);
            seen[at] = true;
        }
        said
    }
}

/// Which span of which trace a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpanContext {
    /// The trace.
    pub(super) trace: u128,
    /// The span of this request here.
    pub(super) span: u64,
    /// The caller's span; `None` where the trace begins here.
    pub(super) parent: Option<u64>,
    /// Whether spans of this trace are recorded.
    pub(crate) sampled: bool,
    /// The Gateway's server port.
    pub(super) port: u16,
    /// The span of the try that is under way, whose child the upstream's is.
    called: u64,
    /// Whether the upstream is told.
    tells: bool,
    /// Whether the caller said it by `traceparent`, so that `tracestate` belongs to this trace.
    by_traceparent: bool,
    b3: b3::Forms,
}

/// A try to send a request on: a span of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Try {
    pub(super) span: u64,
    /// When it began and ended, from the request's beginning.
    pub(super) began: Duration,
    /// `None` while it is under way.
    pub(super) ended: Option<Duration>,
    pub(super) host: Option<SocketAddr>,
    /// What the upstream answered; 0 where it did not.
    pub(super) status: u16,
}

impl SpanContext {
    /// A span for a request whose client says this. The caller's decision about sampling counts; where there is
    /// none, it is decided here. Of several forms W3C's counts, as for a provider of the kind `opentelemetry`.
    pub(crate) fn begin(said: &Said<'_>, tracing: &Tracing, port: u16) -> Self {
        let caller = said.traceparent.and_then(w3c::read);
        let b3 = b3::read(&said.b3);
        let (ids, decided) = match caller {
            Some(w3c::Caller { trace, span, sampled }) => (Some((trace, span)), Some(sampled)),
            None => (b3.ids, b3.sampled),
        };
        // an id of zeros is none
        let (trace, parent) =
            ids.map_or_else(|| (fastrand::u128(1..), None), |(trace, span)| (trace, Some(span)));
        let short = b3.forms.short && trace >> 64 == 0;
        SpanContext {
            trace,
            span: fastrand::u64(1..),
            parent,
            sampled: decided.unwrap_or_else(|| tracing.sampling.takes(fastrand::u64(..))),
            port,
            called: fastrand::u64(1..),
            tells: tracing.propagates,
            by_traceparent: caller.is_some(),
            b3: b3::Forms { short, debug: b3.forms.debug && caller.is_none(), ..b3.forms },
        }
    }

    /// Whether the client's headers about its trace are replaced by others.
    pub(crate) fn replaces(&self) -> bool {
        self.tells
    }

    /// Whether `tracestate` belongs to a trace that is not continued.
    pub(crate) fn ends_tracestate(&self) -> bool {
        self.tells && !self.by_traceparent
    }

    /// The headers for who is called: W3C's, and B3 in the forms that the client spoke.
    pub(crate) fn headers(&self, mut put: impl FnMut(&'static str, &[u8])) {
        if !self.tells {
            return;
        }
        let SpanContext { trace, called: span, sampled, .. } = *self;
        put("traceparent", &w3c::write(w3c::Caller { trace, span, sampled }));
        if self.b3.single || self.b3.several {
            b3::write(self.b3, &b3::Called { trace, span, parent: self.span, sampled }, put);
        }
    }

    /// The trace's id in text.
    pub(crate) fn trace_id(&self) -> [u8; 32] {
        hex::of_u128(self.trace)
    }

    /// The id of the request's span in text.
    pub(crate) fn span_id(&self) -> [u8; 16] {
        hex::of_u64(self.span)
    }

    /// A try begins, so long after the request did.
    pub(crate) fn begin_try(&mut self, tries: &mut Vec<Try>, began: Duration) {
        if tries.len() == MAX_TRIES || !self.sampled {
            return;
        }
        if !tries.is_empty() {
            self.called = fastrand::u64(1..);
        }
        tries.push(Try { span: self.called, began, ended: None, host: None, status: 0 });
    }
}

/// The spans of a request.
#[derive(Clone, Copy)]
pub(crate) struct Traced<'a> {
    /// Its own.
    pub(crate) context: &'a SpanContext,
    /// Those of its tries.
    pub(crate) tries: &'a [Try],
    /// How it is traced.
    pub(crate) tracing: &'a Tracing,
}

impl Try {
    /// It came to an answer of this status, or to none, so long after the request began.
    pub(crate) fn end(&mut self, at: Duration, host: Option<SocketAddr>, status: Option<u16>) {
        (self.ended, self.host, self.status) = (Some(at), host, status.unwrap_or(0));
    }
}

#[cfg(test)]
impl SpanContext {
    /// One of a trace that begins here.
    pub(crate) fn testing(trace: u128) -> Self {
        let tells = true;
        let b3 = b3::Forms::default();
        let (span, called) = (1, 2);
        SpanContext {
            trace,
            span,
            parent: None,
            sampled: true,
            port: 80,
            called,
            tells,
            by_traceparent: false,
            b3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_model::{ClusterName, OtlpTransport, Share};

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;

    fn tracing(sampling: Share) -> Tracing {
        Tracing {
            collector: ClusterName::outbound(4317, "", "collector"),
            transport: OtlpTransport::Grpc,
            headers: Vec::new(),
            timeout: Duration::from_secs(1),
            sampling,
            propagates: true,
            max_path: 256,
            istio_tags: true,
            tags: Vec::new(),
        }
    }

    /// What a request with these headers has upstream, with how much is sampled here.
    fn told(headers: &[(&str, &str)], tracing: &Tracing) -> (SpanContext, Vec<(&'static str, String)>) {
        let fields = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let context = SpanContext::begin(&Said::of(fields), tracing, 80);
        let mut told = Vec::new();
        context.headers(|name, value| told.push((name, String::from_utf8(value.to_vec()).unwrap())));
        (context, told)
    }

    #[test]
    fn a_callers_trace_goes_on_in_its_forms() {
        let single = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1";
        let several =
            [("X-B3-TraceId", &single[..32]), ("X-B3-SpanId", &single[33..49]), ("x-b3-sampled", "1")];
        let all = [("traceparent", PARENT), ("b3", "1-2-3"), several[0], several[1]];
        for (headers, names) in [
            (&[("Traceparent", PARENT)][..], &["traceparent"][..]),
            (&[("b3", single)], &["traceparent", "b3"]),
            (&several, &["traceparent", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled"]),
            (&all, &["traceparent", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled"]),
        ] {
            let (context, told) = told(headers, &tracing(Share::default()));
            assert_eq!((context.trace, context.parent), (TRACE, Some(0x00f0_67aa_0ba9_02b7)), "{headers:?}");
            assert!(
                context.sampled && Some(context.called) != context.parent && context.called != context.span
            );
            assert_eq!(told.iter().map(|(name, _)| *name).collect::<Vec<_>>(), names, "{headers:?}");
            let (trace, called, span) = (
                format!("{TRACE:032x}"),
                format!("{:016x}", context.called),
                format!("{:016x}", context.span),
            );
            for (name, value) in told {
                let expected = match name {
                    "traceparent" => format!("00-{trace}-{called}-01"),
                    "b3" => format!("{trace}-{called}-1-{span}"),
                    "x-b3-traceid" => trace.clone(),
                    "x-b3-spanid" => called.clone(),
                    "x-b3-parentspanid" => span.clone(),
                    _ => "1".to_owned(),
                };
                assert_eq!(value, expected, "{name} of {headers:?}");
            }
            assert_eq!(context.ends_tracestate(), headers[0].1 != PARENT);
        }
    }

    #[test]
    fn what_is_malformed_or_repeated_begins_a_trace_and_goes_nowhere() {
        let long = "0".repeat(4000);
        for headers in [
            &[][..],
            &[("traceparent", "00-4bf9")],
            &[("traceparent", PARENT), ("traceparent", PARENT)],
            &[("b3", "<script>"), ("x-b3-traceid", &long), ("x-b3-spanid", "1"), ("x-b3-sampled", "\u{1}")],
            &[
                ("x-b3-traceid", "4bf92f3577b34da6"),
                ("x-b3-spanid", "4bf92f3577b34da6"),
                ("x-b3-spanid", "4bf92f3577b34da6"),
            ],
        ] {
            for (share, sampled) in [(Share::all(), true), (Share::default(), false)] {
                let (context, told) = told(headers, &tracing(share));
                assert_eq!((context.parent, context.sampled), (None, sampled), "{headers:?}");
                assert!(context.trace != 0 && context.span != 0);
                assert_eq!(told.len(), 1, "{told:?}");
            }
        }
    }

    #[test]
    fn decisions_of_callers_count() {
        for (headers, sampled, told_b3) in [
            (&[("b3", "0")][..], false, "-0-"),
            (&[("b3", "d")], true, "-d-"),
            (&[("b3", "4bf92f3577b34da6-00f067aa0ba902b7-0")], false, "4bf92f3577b34da6-"),
        ] {
            let (context, told) =
                told(headers, &tracing(if sampled { Share::default() } else { Share::all() }));
            assert_eq!(context.sampled, sampled, "{headers:?}");
            assert!(told[1].1.contains(told_b3), "{told:?}");
        }
        for (share, sampled) in [(Share::all(), true), (Share::default(), false)] {
            let (context, _) = told(&[("b3", "4bf92f3577b34da6-00f067aa0ba902b7")], &tracing(share));
            assert_eq!((context.parent.is_some(), context.sampled), (true, sampled), "left to who is called");
        }
    }

    #[test]
    fn without_propagation_nothing_is_said() {
        let tracing = Tracing { propagates: false, ..tracing(Share::all()) };
        let (context, told) = told(&[("traceparent", PARENT)], &tracing);
        assert_eq!((context.trace, told.len()), (TRACE, 0));
        assert!(!context.replaces() && !context.ends_tracestate());
    }

    #[test]
    fn each_try_is_a_span_of_its_own() {
        let mut context = SpanContext::testing(1);
        let mut tries = Vec::new();
        for _ in 0..MAX_TRIES + 5 {
            context.begin_try(&mut tries, Duration::ZERO);
            assert_eq!(tries.last().unwrap().span, context.called);
        }
        assert_eq!(tries.len(), MAX_TRIES);
        let mut spans: Vec<_> = tries.iter().map(|t| t.span).collect();
        spans.sort_unstable();
        spans.dedup();
        assert_eq!(spans.len(), MAX_TRIES);
    }
}
