use serde::{Serialize, Serializer};
use std::time::Duration;

/// How a request is tried again after a try that failed (Istio 2.8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RetryPolicy {
    /// How often at most after the first try; at least 1.
    pub attempts: u32,
    /// The time for one try until the response's head; `None` is that of the whole request.
    pub per_try_timeout: Option<Duration>,
    /// What counts as failed.
    pub on: RetryOn,
    /// The statuses that [`RetryCondition::RetriableStatusCodes`] means.
    pub statuses: Vec<u16>,
    /// The longest wait before the first retry, doubled for each further one; how long it really is is random.
    pub backoff: Duration,
    /// The longest wait before any retry.
    pub max_backoff: Duration,
    /// Whether endpoints that were tried are left out while there are others; `None` is yes, but where the hash of a
    /// key picks the endpoint, which then stays the same.
    pub avoid_previous_hosts: Option<bool>,
}

macro_rules! conditions {
    ($($(#[$doc:meta])* $name:literal $variant:ident),* $(,)?) => {
        /// When to try again, in Envoy's words.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum RetryCondition { $($(#[$doc])* $variant),* }

        impl RetryCondition {
            /// All of them.
            pub const ALL: &[RetryCondition] = &[$(RetryCondition::$variant),*];

            /// Its name in `retryOn`.
            pub fn name(self) -> &'static str {
                match self { $(RetryCondition::$variant => $name),* }
            }
        }
    };
}

conditions! {
    /// A response with a status of 500 or more, or none at all.
    "5xx" ServerError,
    /// 502, 503 or 504, or no response at all.
    "gateway-error" GatewayError,
    /// No response: disconnected, reset, or the time for the try was up.
    "reset" Reset,
    /// The same, when nothing of the request was sent.
    "reset-before-request" ResetBeforeRequest,
    /// No connection.
    "connect-failure" ConnectFailure,
    /// A response with `x-envoy-ratelimited`.
    "envoy-ratelimited" RateLimited,
    /// 409.
    "retriable-4xx" Retriable4xx,
    /// The endpoint refused the stream of HTTP/2 without looking at it.
    "refused-stream" RefusedStream,
    /// The statuses of the policy.
    "retriable-status-codes" RetriableStatusCodes,
    /// Headers of the policy; Istio can name none.
    "retriable-headers" RetriableHeaders,
    /// HTTP/3 failed after connecting; it is not spoken.
    "http3-post-connect-failure" Http3PostConnectFailure,
    /// The gRPC status 1 in the response's head.
    "cancelled" Cancelled,
    /// 4.
    "deadline-exceeded" DeadlineExceeded,
    /// 13.
    "internal" Internal,
    /// 8.
    "resource-exhausted" ResourceExhausted,
    /// 14.
    "unavailable" Unavailable,
}

impl RetryCondition {
    /// The condition of that name.
    pub fn by_name(name: &str) -> Option<RetryCondition> {
        RetryCondition::ALL.iter().copied().find(|c| c.name() == name)
    }
}

/// A set of conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u32);

impl RetryOn {
    /// No condition.
    pub const EMPTY: RetryOn = RetryOn(0);

    /// Whether a condition is in it.
    pub const fn has(self, condition: RetryCondition) -> bool {
        self.0 & 1 << condition as u8 != 0
    }

    /// Whether one of these is in it.
    pub const fn has_any(self, of: RetryOn) -> bool {
        self.0 & of.0 != 0
    }

    /// This set with one more.
    #[must_use]
    pub const fn with(self, condition: RetryCondition) -> RetryOn {
        RetryOn(self.0 | 1 << condition as u8)
    }

    /// Those that are in it.
    pub fn iter(self) -> impl Iterator<Item = RetryCondition> {
        RetryCondition::ALL.iter().copied().filter(move |c| self.has(*c))
    }
}

impl FromIterator<RetryCondition> for RetryOn {
    fn from_iter<I: IntoIterator<Item = RetryCondition>>(conditions: I) -> Self {
        conditions.into_iter().fold(RetryOn::default(), RetryOn::with)
    }
}

impl Serialize for RetryOn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(RetryCondition::name))
    }
}

/// How many retries a cluster takes, whatever the policies of the routes allow, so that retries do not bring
/// down what is failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryBudget {
    /// Any number, as Istio has it where nothing is said.
    Unlimited,
    /// So many at the same time (`maxRetries`).
    Concurrent(u32),
    /// A share of the requests (`retryBudget`).
    Share {
        /// The share, in millionths.
        millionths: u32,
        /// So many at the same time are always allowed.
        min_concurrency: u32,
        /// Of the requests and retries that began within this time; when it is zero, of those under way.
        interval: Duration,
    },
}

impl Default for RetryBudget {
    /// 20 % of the requests under way, and always 3.
    fn default() -> Self {
        RetryBudget::Share { millionths: 200_000, min_concurrency: 3, interval: Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_in() {
        let all: RetryOn = RetryCondition::ALL.iter().copied().collect();
        assert!(all.iter().eq(RetryCondition::ALL.iter().copied()));
        for condition in RetryCondition::ALL {
            assert_eq!(RetryCondition::by_name(condition.name()), Some(*condition));
            let one = RetryOn::default().with(*condition);
            assert!(one.has(*condition) && one.has_any(all) && one.iter().count() == 1, "{condition:?}");
        }
        assert_eq!(RetryCondition::by_name("503"), None);
    }
}
