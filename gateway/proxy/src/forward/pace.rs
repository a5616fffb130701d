//! Clients that are too slow. Only time counts in which a client is waited for: with a body announced that it does not
//! send, or with a response at hand that it does not take. Streams on which there is nothing to say are not slow, however
//! long that lasts: bodies without a length, gRPC, WebSocket, responses that an upstream has yet to write.
//!
//! Nothing is measured while a request goes on. The timer that every request has looks at those that wait, seldom; a
//! client that is waited for at one look and at each poll since, and that has moved too little by the next, is too slow.

use super::buffers::Work;
use super::downstream::Downstream;
use super::error::Limit;
use super::grpc::is_grpc;
use crate::h1::field::Known;
use crate::limits::Limits;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How fast clients must be.
#[derive(Debug)]
pub(crate) struct Rates {
    /// Bytes a second.
    rate: u64,
    /// Over how long, for the body of a request.
    upload: Duration,
    /// The same for taking a response.
    download: Duration,
}

/// For what a client is waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Awaited {
    #[default]
    Nothing,
    /// To send more of its body.
    Upload,
    /// To take more of its response.
    Download,
}

/// What had moved when a client was looked at.
struct Look {
    at: Instant,
    awaited: Awaited,
    bytes: u64,
}

/// The pace of one client.
#[derive(Default)]
pub(super) struct Pace {
    rates: Option<Rc<Rates>>,
    awaited: Awaited,
    last: Option<Box<Look>>,
}

impl Rates {
    /// What the limits ask for; `None` where that is nothing.
    pub(crate) fn of(limits: &Limits) -> Option<Rc<Rates>> {
        let Limits { min_rate, slow_request: upload, slow_response: download, .. } = *limits;
        let rates = Rates { rate: min_rate.into(), upload, download };
        (min_rate > 0).then(|| Rc::new(rates))
    }

    fn time(&self, awaited: Awaited) -> Duration {
        if awaited == Awaited::Upload { self.upload } else { self.download }
    }

    /// Whether so few bytes in so long are too few, where so many streams share the connection: it is the connection
    /// that must be fast enough.
    fn is_too_slow(&self, bytes: u64, time: Duration, streams: usize) -> bool {
        let expected = u128::from(self.rate) * time.as_millis() / 1000;
        u128::from(bytes) * (streams.max(1) as u128) < expected
    }
}

impl Pace {
    pub(super) fn new(rates: Option<Rc<Rates>>) -> Self {
        Pace { rates, ..Pace::default() }
    }

    /// The shortest time over which something is measured.
    pub(super) fn shortest(&self) -> Option<Duration> {
        self.rates.as_ref().map(|rates| rates.upload.min(rates.download))
    }

    /// The client is waited for now.
    pub(super) fn await_client(&mut self, awaited: Awaited) {
        self.awaited = awaited;
    }

    /// What comes is another request.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// For what the client is waited since it was asked last. If for nothing, what was seen before counts no more.
    pub(super) fn settle(&mut self) -> Awaited {
        let awaited = std::mem::take(&mut self.awaited);
        if awaited == Awaited::Nothing {
            self.forget();
        }
        awaited
    }
}

/// Looks at a client: the limit that it is beyond.
pub(super) fn look<D: Downstream>(down: &mut D, w: &Work, awaited: Awaited, now: Instant) -> Option<Limit> {
    let rates = down.deadline().pace().rates.clone()?;
    let (bytes, limit) = match awaited {
        Awaited::Upload if is_announced(down, w) => (down.received(), Limit::Upload),
        Awaited::Download => (down.taken()?, Limit::Download),
        _ => return None,
    };
    let streams = down.streams();
    let last = &mut down.deadline().pace().last;
    if let Some(last) = last.as_ref().filter(|last| last.awaited == awaited) {
        let time = now.saturating_duration_since(last.at);
        if time < rates.time(awaited) {
            return None;
        }
        // no more than that is asked for: a process that stood still must not blame its clients
        if rates.is_too_slow(bytes.saturating_sub(last.bytes), rates.time(awaited), streams) {
            return Some(limit);
        }
    }
    *last = Some(Box::new(Look { at: now, awaited, bytes }));
    None
}

/// Whether the client has said that there is more to come, and does not wait itself to be told to go on.
fn is_announced<D: Downstream>(down: &D, w: &Work) -> bool {
    let waits = || down.received() == 0 && w.request.known(w.head(), Known::Expect).next().is_some();
    w.request.content_length().is_some() && !is_grpc(w) && !waits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_connection() {
        let limits = Limits { min_rate: 240, ..Limits::default() };
        let rates = Rates::of(&limits).unwrap();
        let second = Duration::from_secs(1);
        for (bytes, time, streams, slow) in [
            (2399, 10 * second, 1, true),
            (2400, 10 * second, 1, false),
            (2400, 11 * second, 1, true),
            (24, 10 * second, 100, false),
            (23, 10 * second, 100, true),
            (0, second, 0, true),
            (u64::MAX, second, usize::MAX, false),
        ] {
            assert_eq!(rates.is_too_slow(bytes, time, streams), slow, "{bytes} {time:?} {streams}");
        }
        assert!(Rates::of(&Limits { min_rate: 0, ..limits }).is_none());
    }
}
