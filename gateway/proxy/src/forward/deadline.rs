//! A deadline that costs no timer operation per request: the timer runs in ticks and compares.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::time::Sleep;

/// The longest that the timer sleeps. A deadline further away than this is never late, because
/// the timer wakes before it and looks again.
const TICK: Duration = Duration::from_secs(10);

/// What ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expired {
    /// Nothing moved for too long.
    Idle,
    /// The time for the whole.
    Whole,
}

/// An idle limit and a limit for the whole, on one timer.
pub(crate) struct Deadline {
    sleep: Pin<Box<Sleep>>,
    idle: Instant,
    idle_for: Duration,
    whole: Option<Instant>,
    /// The limit for the whole, not started yet.
    whole_for: Option<Duration>,
}

impl Deadline {
    /// Nothing may stand still for longer than `idle` from now on.
    pub(crate) fn new(idle: Duration) -> Self {
        let now = Instant::now();
        let sleep = Box::pin(tokio::time::sleep(idle.min(TICK)));
        Deadline { sleep, idle: now + idle, idle_for: idle, whole: None, whole_for: None }
    }

    /// Starts anew at `now`, with both limits.
    pub(crate) fn start(&mut self, now: Instant, idle: Duration, whole: Option<Duration>) {
        self.idle_for = idle;
        self.idle = now + idle;
        self.whole = whole.map(|w| now + w);
        self.whole_for = None;
        if idle < TICK || whole.is_some_and(|w| w < TICK) {
            self.wake();
        }
    }

    /// Starts anew at `now`; the limit for the whole waits for [`Deadline::start_whole`].
    pub(crate) fn start_idle(&mut self, now: Instant, idle: Duration, whole: Option<Duration>) {
        self.start(now, idle, None);
        self.whole_for = whole;
    }

    /// Starts the limit for the whole, where one waits for it.
    pub(crate) fn start_whole(&mut self) {
        if let Some(whole) = self.whole_for.take() {
            self.whole = Some(Instant::now() + whole);
            self.wake();
        }
    }

    /// From now on only idleness is limited.
    pub(crate) fn end_whole(&mut self) {
        (self.whole, self.whole_for) = (None, None);
    }

    /// Has the timer wake in time for what is next.
    fn wake(&mut self) {
        let until = tokio::time::Instant::from_std(self.next());
        if until < self.sleep.deadline() {
            self.sleep.as_mut().reset(until);
        }
    }

    /// Something moved.
    pub(crate) fn touch(&mut self) {
        self.idle = Instant::now() + self.idle_for;
    }

    /// When something moved last: for what must be known of that moment, so that the clock is read once.
    pub(crate) fn touched(&self) -> Instant {
        self.idle - self.idle_for
    }

    fn next(&self) -> Instant {
        self.whole.map_or(self.idle, |w| w.min(self.idle))
    }

    /// Ready when one of them has passed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let now = Instant::now();
            if self.whole.is_some_and(|w| now >= w) {
                return Poll::Ready(Expired::Whole);
            }
            if now >= self.idle {
                return Poll::Ready(Expired::Idle);
            }
            let next = self.next().min(now + TICK);
            self.sleep.as_mut().reset(next.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    async fn expiry(d: &mut Deadline) -> (Expired, Duration) {
        let began = Instant::now();
        let e = poll_fn(|cx| d.poll(cx)).await;
        (e, began.elapsed())
    }

    #[tokio::test]
    async fn the_earlier_limit_expires_in_time_and_touching_extends_only_idleness() {
        let ms = Duration::from_millis;
        let mut d = Deadline::new(Duration::from_secs(60));
        d.start(Instant::now(), Duration::from_secs(60), Some(ms(30)));
        let (e, t) = expiry(&mut d).await;
        assert_eq!(e, Expired::Whole);
        assert!((ms(25)..ms(1000)).contains(&t), "{t:?}");
        d.start(Instant::now(), ms(40), None);
        tokio::time::sleep(ms(25)).await;
        d.touch();
        let (e, t) = expiry(&mut d).await;
        assert_eq!(e, Expired::Idle);
        assert!((ms(30)..ms(1000)).contains(&t), "{t:?}");
    }
}
