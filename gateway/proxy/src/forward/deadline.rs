//! A deadline that costs no timer operation per request: the timer runs in ticks and compares.

use super::buffers::Work;
use super::downstream::Downstream;
use super::error::Kind;
use super::pace::{self, Awaited, Pace, Rates};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};
use tokio::task::coop::has_budget_remaining;
use tokio::time::Sleep;

/// The longest that the timer sleeps. A deadline further away than this is never late, because
/// the timer wakes before it and looks again.
const TICK: Duration = Duration::from_secs(10);

/// What ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expired {
    /// Nothing moved for too long.
    Idle,
    /// The time for one try.
    Try,
    /// The time for the whole.
    Whole,
}

/// A limit that may not run yet.
#[derive(Clone, Copy, Debug)]
enum Limit {
    None,
    /// It runs from [`Deadline::start_limits`] on.
    Waiting(Duration),
    Until(Instant),
}

impl Limit {
    fn waiting(limit: Option<Duration>) -> Limit {
        limit.map_or(Limit::None, Limit::Waiting)
    }

    fn run(&mut self, now: Instant) {
        if let Limit::Waiting(limit) = *self {
            *self = Limit::Until(now + limit);
        }
    }

    fn end(self) -> Option<Instant> {
        if let Limit::Until(end) = self { Some(end) } else { None }
    }

    fn has_passed(self, now: Instant) -> bool {
        self.end().is_some_and(|end| now >= end)
    }
}

/// An idle limit, a limit for the whole and one for a try, on one timer.
pub(crate) struct Deadline {
    sleep: Pin<Box<Sleep>>,
    /// Whom the timer wakes, as long as it has not.
    wakes: Option<Waker>,
    idle: Instant,
    idle_for: Duration,
    whole: Limit,
    one_try: Limit,
    pace: Pace,
}

impl Deadline {
    /// Nothing may stand still for longer than `idle` from now on.
    pub(crate) fn new(idle: Duration) -> Self {
        let now = Instant::now();
        let sleep = Box::pin(tokio::time::sleep(idle.min(TICK)));
        let (whole, one_try) = (Limit::None, Limit::None);
        let pace = Pace::default();
        Deadline { sleep, wakes: None, idle: now + idle, idle_for: idle, whole, one_try, pace }
    }

    /// From now on the client must be so fast where it is waited for.
    pub(crate) fn paced(mut self, rates: Option<Rc<Rates>>) -> Self {
        self.pace = Pace::new(rates);
        let first = tokio::time::Instant::now() + self.tick();
        if first < self.sleep.deadline() {
            self.reset(first);
        }
        self
    }

    fn tick(&self) -> Duration {
        self.pace.shortest().map_or(TICK, |time| time.min(TICK))
    }

    /// The client is waited for now.
    pub(crate) fn await_client(&mut self, awaited: Awaited) {
        self.pace.await_client(awaited);
    }

    pub(super) fn pace(&mut self) -> &mut Pace {
        &mut self.pace
    }

    /// Starts anew at `now`, with a limit for idleness alone.
    pub(crate) fn start(&mut self, now: Instant, idle: Duration) {
        self.idle_for = idle;
        self.idle = now + idle;
        self.end_limits();
        self.pace.forget();
        if idle < TICK {
            self.wake();
        }
    }

    /// Limits the whole, from the end of the request's body on.
    pub(crate) fn limit_whole(&mut self, limit: Option<Duration>) {
        self.whole = Limit::waiting(limit);
    }

    /// Limits one try, from the end of the request's body on; `None` ends that limit.
    pub(crate) fn limit_try(&mut self, limit: Option<Duration>) {
        self.one_try = Limit::waiting(limit);
    }

    /// The request's body ended: limits that wait for that run from `now` on.
    pub(crate) fn start_limits(&mut self, now: Instant) {
        if matches!((self.whole, self.one_try), (Limit::Waiting(_), _) | (_, Limit::Waiting(_))) {
            self.whole.run(now);
            self.one_try.run(now);
            self.wake();
        }
    }

    /// When something last moved.
    pub(crate) fn since(&self) -> Instant {
        self.idle.checked_sub(self.idle_for).unwrap_or(self.idle)
    }

    /// From now on only idleness is limited.
    pub(crate) fn end_limits(&mut self) {
        (self.whole, self.one_try) = (Limit::None, Limit::None);
    }

    /// What is left of the time for the whole, if that is limited.
    pub(crate) fn rest(&self) -> Option<Duration> {
        match self.whole {
            Limit::None => None,
            Limit::Waiting(limit) => Some(limit),
            Limit::Until(end) => Some(end.saturating_duration_since(Instant::now())),
        }
    }

    /// From now on nothing may stand still for longer than `idle`.
    pub(crate) fn shorten(&mut self, idle: Duration) {
        self.idle_for = self.idle_for.min(idle);
        self.touch();
        self.wake();
    }

    /// Has the timer wake in time for what is next.
    fn wake(&mut self) {
        let until = tokio::time::Instant::from_std(self.next());
        if until < self.sleep.deadline() {
            self.reset(until);
        }
    }

    fn reset(&mut self, until: tokio::time::Instant) {
        self.wakes = None;
        self.sleep.as_mut().reset(until);
    }

    /// Ready when the timer has run out. Who asks again and again, as tasks do that wait for something else too, does
    /// not get as far as the timer.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.wakes.as_ref().is_some_and(|w| w.will_wake(cx.waker())) && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        // a task whose turn is over is told to come again, and the timer does not learn whom to wake
        let learns = has_budget_remaining();
        let timer = self.sleep.as_mut().poll(cx);
        self.wakes = (learns && timer.is_pending()).then(|| cx.waker().clone());
        timer
    }

    /// Something moved.
    pub(crate) fn touch(&mut self) {
        self.idle = Instant::now() + self.idle_for;
    }

    /// Something of the response moved, `now`.
    ///
    /// # Errors
    /// When the time for the whole is up: where all is always ready, nobody polls the timer.
    pub(crate) fn go_on(&mut self, now: Instant) -> Result<(), Kind> {
        self.idle = now + self.idle_for;
        if self.whole.has_passed(now) { Err(Kind::Timeout) } else { Ok(()) }
    }

    fn next(&self) -> Instant {
        [self.whole.end(), self.one_try.end()].into_iter().flatten().fold(self.idle, Instant::min)
    }

    /// Ready when one of them has passed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        loop {
            if let Err(expired) = ready!(self.poll_tick(cx)) {
                return Poll::Ready(expired);
            }
        }
    }

    /// Ready each time that the timer has run out: with what has passed, or else with the time, and then it runs anew.
    fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<Result<Instant, Expired>> {
        ready!(self.poll_timer(cx));
        let now = Instant::now();
        if self.whole.has_passed(now) {
            return Poll::Ready(Err(Expired::Whole));
        }
        if self.one_try.has_passed(now) {
            return Poll::Ready(Err(Expired::Try));
        }
        if now >= self.idle {
            return Poll::Ready(Err(Expired::Idle));
        }
        let next = self.next().min(now + self.tick());
        self.reset(next.into());
        Poll::Ready(Ok(now))
    }
}

/// Whose turn it is while a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// The upstream's, or ours: a client that leaves ends it.
    ForUpstream,
    /// The client's, and writing to it tells when it is gone.
    ForClient,
}

/// Polls `step` until it is ready, the time is up, or the client that waits for it is gone.
pub(crate) async fn under_deadline<D: Downstream, T, E: From<Kind>>(
    down: &mut D,
    w: &mut Work,
    waiting: Waiting,
    mut step: impl FnMut(&mut D, &mut Work, &mut Context<'_>) -> Poll<Result<T, E>>,
) -> Result<T, E> {
    poll_fn(|cx| match step(down, w, cx) {
        Poll::Pending => poll_over(down, w, waiting, cx).map(|kind| Err(kind.into())),
        ready => ready,
    })
    .await
}

/// Ready when waiting makes no sense any more.
fn poll_over<D: Downstream>(
    down: &mut D,
    w: &mut Work,
    waiting: Waiting,
    cx: &mut Context<'_>,
) -> Poll<Kind> {
    if waiting == Waiting::ForUpstream && down.uploaded() && down.poll_gone(w, cx).is_ready() {
        return Poll::Ready(Kind::ClientGone);
    }
    let awaited = down.deadline().pace.settle();
    loop {
        let slow = match ready!(down.deadline().poll_tick(cx)) {
            Ok(now) => {
                if awaited == Awaited::Upload {
                    // who waits for it for so long gives up buffers
                    cx.waker().wake_by_ref();
                }
                pace::look(down, w, awaited, now)
            }
            Err(e) => return Poll::Ready(over(e, down.uploaded())),
        };
        if let Some(limit) = slow {
            return Poll::Ready(Kind::Limit(limit));
        }
    }
}

fn over(expired: Expired, uploaded: bool) -> Kind {
    match expired {
        Expired::Whole => Kind::Timeout,
        Expired::Try => Kind::TryTimeout,
        Expired::Idle if uploaded => Kind::Stalled,
        Expired::Idle => Kind::Idle,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::testing::spend_budget;

    async fn expiry(d: &mut Deadline) -> (Expired, Duration) {
        let began = Instant::now();
        let e = poll_fn(|cx| d.poll(cx)).await;
        (e, began.elapsed())
    }

    #[tokio::test]
    async fn the_earlier_limit_expires_in_time_and_touching_extends_only_idleness() {
        let ms = Duration::from_millis;
        let mut d = Deadline::new(Duration::from_secs(60));
        for (whole, one_try, expected) in [
            (Some(ms(30)), None, Expired::Whole),
            (Some(ms(30)), Some(ms(50)), Expired::Whole),
            (Some(ms(60_000)), Some(ms(30)), Expired::Try),
        ] {
            d.start(Instant::now(), Duration::from_secs(60));
            d.limit_whole(whole);
            d.limit_try(one_try);
            // neither runs before the request's body has ended
            tokio::time::sleep(ms(15)).await;
            assert_eq!(d.rest(), whole);
            d.start_limits(Instant::now());
            let (e, t) = expiry(&mut d).await;
            assert_eq!(e, expected);
            assert!((ms(25)..ms(1000)).contains(&t), "{t:?}");
            assert_eq!(d.go_on(Instant::now()).is_err(), expected == Expired::Whole);
        }
        d.start(Instant::now(), ms(40));
        tokio::time::sleep(ms(25)).await;
        d.touch();
        let (e, t) = expiry(&mut d).await;
        assert_eq!(e, Expired::Idle);
        assert!((ms(30)..ms(1000)).contains(&t), "{t:?}");
    }

    #[tokio::test]
    async fn a_task_whose_turn_is_over_is_woken_all_the_same() {
        let mut d = Deadline::new(Duration::from_millis(20));
        poll_fn(|cx| {
            spend_budget(cx);
            assert!(d.poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        let expired = tokio::time::timeout(Duration::from_secs(20), poll_fn(|cx| d.poll(cx))).await;
        assert_eq!(expired, Ok(Expired::Idle));
    }
}
