//! What clients of HTTP/2 do that is refused before it is a request.

use super::metrics::{counter, family, label};
use prometheus::proto::{MetricFamily, MetricType};
use std::sync::atomic::{AtomicU64, Ordering};

/// The error codes of RFC 9113 7, by number.
const CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A stream, with RST_STREAM.
    Stream,
    /// A connection, with GOAWAY.
    Connection,
}

/// How often, shared by the workers since it is rare.
#[derive(Default)]
pub(super) struct Refusals {
    streams: [AtomicU64; CODES.len()],
    connections: [AtomicU64; CODES.len()],
}

impl Refusals {
    pub(super) fn count(&self, what: Refused, code: u32) {
        let counts = match what {
            Refused::Stream => &self.streams,
            Refused::Connection => &self.connections,
        };
        if let Some(count) = usize::try_from(code).ok().and_then(|code| counts.get(code)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Those that have happened.
    pub(super) fn family(&self) -> MetricFamily {
        let all = [("stream", &self.streams), ("connection", &self.connections)];
        let metrics = all.into_iter().flat_map(|(what, counts)| {
            CODES.iter().zip(counts).filter_map(move |(code, count)| {
                let labels = vec![label("what", what), label("code", code)];
                Some(count.load(Ordering::Relaxed)).filter(|n| *n > 0).map(|n| counter(labels, n))
            })
        });
        family(
            MetricType::COUNTER,
            "tidegate_http2_refused_total",
            "Streams and connections of HTTP/2 clients that were refused before there was a request, by error code.",
            metrics.collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_by_what_and_why() {
        let refusals = Refusals::default();
        for (what, code) in
            [(Refused::Stream, 7), (Refused::Connection, 1), (Refused::Stream, 7), (Refused::Stream, 99)]
        {
            refusals.count(what, code);
        }
        let family = refusals.family();
        let shown = family.get_metric().iter().map(|m| {
            let labels: Vec<_> = m.get_label().iter().map(|l| l.value().to_owned()).collect();
            (labels.join(" "), m.get_counter().get_value())
        });
        let expected =
            [("stream REFUSED_STREAM".to_owned(), 2.0), ("connection PROTOCOL_ERROR".to_owned(), 1.0)];
        assert_eq!(shown.collect::<Vec<_>>(), expected);
    }
}
