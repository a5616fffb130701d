//! Endpoints that fail are left out for a while: what is counted for each, by all workers, and when
//! that makes it an outlier. The meaning is that of Envoy's outlier detection.

use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidegate_model::OutlierDetection;

/// What came of a try, as far as it says something about the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A response.
    Status(u16),
    /// No response: no connection, one that broke, or nothing in time.
    Failure,
    /// A connection, where that is all that there is to see.
    Connected,
    /// A connection for a try of which more will be seen.
    Reached,
}

/// Why an endpoint is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    ServerErrors,
    GatewayErrors,
    LocalFailures,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::ServerErrors => "consecutive 5xx errors",
            Cause::GatewayErrors => "consecutive gateway errors",
            Cause::LocalFailures => "consecutive failures to get a response",
        })
    }
}

/// Milliseconds since the process began to count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Millis(pub(super) u64);

impl Millis {
    pub(super) fn now() -> Self {
        static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
        Millis(u64::try_from(BEGINNING.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn since(self, earlier: Millis) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// What is known about one endpoint, shared by all workers.
#[derive(Default)]
pub(super) struct Health {
    /// In a row.
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    local_failures: AtomicU32,
    standing: AtomicU64,
}

/// Whether an endpoint is left out since when, and how often it was: in one word, so that it changes
/// as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) ejected: bool,
    pub(super) since: u64,
    pub(super) times: u16,
}

impl Standing {
    const EJECTED: u64 = 1 << 63;

    fn pack(self) -> u64 {
        let ejected = if self.ejected { Self::EJECTED } else { 0 };
        ejected | (self.since & (u64::MAX >> 17)) << 16 | u64::from(self.times)
    }

    fn unpack(word: u64) -> Self {
        let since = (word & !Self::EJECTED) >> 16;
        Standing { ejected: word & Self::EJECTED != 0, since, times: (word & 0xFFFF) as u16 }
    }

    /// How long it is left out in all.
    pub(super) fn length(self, rule: &OutlierDetection) -> Duration {
        let grown = rule.base_ejection_time.saturating_mul(u32::from(self.times));
        grown.min(rule.base_ejection_time.max(OutlierDetection::LONGEST))
    }
}

impl Health {
    /// Whether it is left out.
    pub(super) fn is_ejected(&self) -> bool {
        self.standing.load(Ordering::Relaxed) & Standing::EJECTED != 0
    }

    pub(super) fn standing(&self) -> Standing {
        Standing::unpack(self.standing.load(Ordering::Relaxed))
    }

    /// Counts what was seen; the cause where that makes it an outlier.
    pub(super) fn count(&self, rule: &OutlierDetection, seen: Seen) -> Option<Cause> {
        match (seen, rule.consecutive_local_failures) {
            (Seen::Failure, Some(most)) => {
                reaches(&self.local_failures, most).then_some(Cause::LocalFailures)
            }
            (Seen::Failure, None) => self.count_status(rule, 503),
            (Seen::Connected, None) => self.count_status(rule, 200),
            (Seen::Reached, None) => None,
            (Seen::Connected | Seen::Reached, Some(_)) => {
                reset(&self.local_failures);
                None
            }
            (Seen::Status(status), apart) => {
                if apart.is_some() {
                    reset(&self.local_failures);
                }
                let status = match &rule.error_statuses[..] {
                    [] => status,
                    errors if errors.contains(&status) => 500,
                    _ => 200,
                };
                self.count_status(rule, status)
            }
        }
    }

    fn count_status(&self, rule: &OutlierDetection, status: u16) -> Option<Cause> {
        if status < 500 {
            reset(&self.server_errors);
            reset(&self.gateway_errors);
            return None;
        }
        let of_gateway = matches!(status, 502..=504);
        if !of_gateway {
            reset(&self.gateway_errors);
        }
        let gateway = of_gateway && reaches(&self.gateway_errors, rule.consecutive_gateway_errors);
        let server = reaches(&self.server_errors, rule.consecutive_5xx);
        match (gateway, server) {
            (true, _) => Some(Cause::GatewayErrors),
            (_, true) => Some(Cause::ServerErrors),
            _ => None,
        }
    }

    /// Forgets what was counted.
    pub(super) fn forget_counts(&self) {
        [&self.server_errors, &self.gateway_errors, &self.local_failures].into_iter().for_each(reset);
    }

    /// Leaves it out from now on.
    pub(super) fn eject(&self, now: Millis) {
        let change = |word| {
            let times = Standing::unpack(word).times.saturating_add(1);
            Some(Standing { ejected: true, since: now.0, times }.pack())
        };
        // the closure never refuses
        let _ = self.standing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    /// What an interval does: it may come back, or its past weighs less. True when it comes back.
    pub(super) fn pass_interval(&self, rule: &OutlierDetection, now: Millis) -> bool {
        let standing = self.standing();
        if standing.ejected {
            let over = now.since(Millis(standing.since)) >= standing.length(rule);
            if over {
                self.forget_counts();
                self.standing.store(Standing { ejected: false, ..standing }.pack(), Ordering::Relaxed);
            }
            return over;
        }
        if standing.times > 0 {
            let times = standing.times - 1;
            let lighter = Standing { times, ..standing }.pack();
            // who was ejected in this moment stays so
            let _ = self.standing.compare_exchange(
                standing.pack(),
                lighter,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
        false
    }

    /// Forgets everything: nothing is detected any more.
    pub(super) fn clear(&self) {
        self.forget_counts();
        self.standing.store(0, Ordering::Relaxed);
    }
}

/// Whether one more of `all` endpoints may be left out beside those that are.
pub(super) fn may_eject(rule: &OutlierDetection, ejected: usize, all: usize) -> bool {
    let most = usize::from(rule.max_ejection_percent);
    most > 0 && (ejected == 0 || (ejected + 1) * 100 <= most * all)
}

fn reaches(counter: &AtomicU32, most: u32) -> bool {
    most > 0 && counter.fetch_add(1, Ordering::Relaxed) + 1 >= most
}

/// Writes only where there is something to forget: the word is shared by all workers.
fn reset(counter: &AtomicU32) {
    if counter.load(Ordering::Relaxed) != 0 {
        counter.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// Istio's rule when nothing is said in it.
    pub(in crate::upstream) fn rule() -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx: 5,
            consecutive_gateway_errors: 0,
            consecutive_local_failures: None,
            error_statuses: vec![],
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_percent: 10,
            min_health_percent: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::rule;
    use super::*;
    use Seen::{Connected, Failure, Reached, Status};

    /// The number of what was seen that made it an outlier, from 1, and the cause.
    fn outlier(rule: &OutlierDetection, seen: &[Seen]) -> Option<(usize, Cause)> {
        let health = Health::default();
        seen.iter().enumerate().find_map(|(i, seen)| Some((i + 1, health.count(rule, *seen)?)))
    }

    #[test]
    fn errors_in_a_row() {
        let gateway = OutlierDetection { consecutive_5xx: 0, consecutive_gateway_errors: 2, ..rule() };
        let both = OutlierDetection { consecutive_5xx: 3, ..gateway.clone() };
        let apart = OutlierDetection { consecutive_5xx: 2, consecutive_local_failures: Some(3), ..rule() };
        let statuses = OutlierDetection { consecutive_5xx: 2, error_statuses: vec![429, 500], ..rule() };
        let off = OutlierDetection { consecutive_5xx: 0, ..rule() };
        for (name, rule, seen, expected) in [
            ("five", rule(), &[Status(500); 6][..], Some((5, Cause::ServerErrors))),
            (
                "with local ones",
                rule(),
                &[Status(500), Failure, Status(503), Failure, Status(599)],
                Some((5, Cause::ServerErrors)),
            ),
            (
                "not in a row",
                rule(),
                &[Status(500), Status(500), Status(500), Status(500), Status(404), Status(500)],
                None,
            ),
            ("none", off, &[Status(500); 9], None),
            ("gateway", gateway.clone(), &[Status(503), Failure], Some((2, Cause::GatewayErrors))),
            ("not the gateway's", gateway, &[Status(503), Status(500), Status(503), Status(500)], None),
            ("either", both, &[Status(503), Status(500), Status(503)], Some((3, Cause::ServerErrors))),
            (
                "apart",
                apart.clone(),
                &[Failure, Failure, Status(500), Failure, Failure, Failure],
                Some((6, Cause::LocalFailures)),
            ),
            (
                "apart and answered",
                apart.clone(),
                &[Failure, Failure, Connected, Failure, Failure, Status(200)],
                None,
            ),
            (
                "of the upstream alone",
                apart,
                &[Status(500), Failure, Status(500)],
                Some((3, Cause::ServerErrors)),
            ),
            ("own statuses", statuses.clone(), &[Status(429), Status(500)], Some((2, Cause::ServerErrors))),
            ("and no others", statuses, &[Status(429), Status(503), Status(429)], None),
        ] {
            assert_eq!(outlier(&rule, seen), expected, "{name}");
        }
    }

    #[test]
    fn who_is_reached_begins_the_row_of_local_failures_anew() {
        let apart = |most| OutlierDetection { consecutive_local_failures: Some(most), ..rule() };
        let of_connections =
            &[Failure, Reached, Failure, Reached, Failure, Reached, Failure, Reached, Failure];
        for (rule, seen, expected) in [
            (apart(2), &of_connections[..], None),
            (apart(2), &[Failure, Reached, Failure, Failure], Some((4, Cause::LocalFailures))),
            (apart(1), &[Reached, Failure], Some((2, Cause::LocalFailures))),
            (rule(), of_connections, Some((9, Cause::ServerErrors))),
        ] {
            assert_eq!(outlier(&rule, seen), expected, "{:?}", rule.consecutive_local_failures);
        }
    }

    #[test]
    fn ejections_grow_and_are_forgiven() {
        let (rule, health) = (rule(), Health::default());
        let at = |seconds: u64| Millis(seconds * 1000);
        let mut returned = Vec::new();
        // ejected at 0, and again as soon as it comes back
        health.eject(at(0));
        for second in (10..=200).step_by(10) {
            if health.pass_interval(&rule, at(second)) {
                returned.push(second);
                health.eject(at(second));
            }
        }
        assert_eq!(returned, [30, 90, 180], "30 s, 60 s, 90 s");
        assert!(health.pass_interval(&rule, at(1000)));
        assert_eq!(health.standing().times, 4);
        for second in [1010, 1020, 1030, 1040, 1050] {
            assert!(!health.pass_interval(&rule, at(second)));
        }
        assert_eq!(health.standing().times, 0);
        // never longer than five minutes
        (0..50).for_each(|_| health.eject(at(2000)));
        assert!(!health.pass_interval(&rule, at(2299)));
        assert!(health.is_ejected() && health.pass_interval(&rule, at(2300)) && !health.is_ejected());
    }

    #[test]
    fn shares_that_may_be_left_out() {
        let most = |percent, all| {
            let rule = OutlierDetection { max_ejection_percent: percent, ..rule() };
            (0..all).take_while(|ejected| may_eject(&rule, *ejected, all)).count()
        };
        for (percent, all, expected) in
            [(10, 1, 1), (10, 5, 1), (10, 20, 2), (50, 3, 1), (50, 4, 2), (100, 3, 3), (0, 3, 0), (67, 3, 2)]
        {
            assert_eq!(most(percent, all), expected, "{percent} % of {all}");
        }
    }

    #[test]
    fn a_standing_is_one_word() {
        for standing in [
            Standing::default(),
            Standing { ejected: true, since: 0, times: 1 },
            Standing { ejected: true, since: u64::MAX >> 17, times: u16::MAX },
            Standing { ejected: false, since: 123_456_789, times: 7 },
        ] {
            assert_eq!(Standing::unpack(standing.pack()), standing);
        }
    }
}
