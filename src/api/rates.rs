//! The request rate of each account on this node: that of its plan, with a burst of twice as many.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use moka::sync::Cache;

use super::problem::{Code, Problem, whole_seconds};
use crate::id::AccountId;

/// The most accounts that are counted at once.
const MAX_ACCOUNTS: u64 = 1_000_000;
/// The time after which a quiet account is forgotten. It has its whole burst again by then.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Counts the requests of each account on this node.
#[derive(Debug)]
pub struct RequestRates {
    accounts: Cache<AccountId, Arc<Bucket>>,
    clock: DefaultClock,
}

#[derive(Debug)]
struct Bucket {
    per_second: NonZeroU32,
    limiter: DefaultDirectRateLimiter,
}

impl Bucket {
    fn new(per_second: NonZeroU32) -> Arc<Self> {
        let quota = Quota::per_second(per_second).allow_burst(per_second.saturating_mul(TWICE));
        Arc::new(Self {
            per_second,
            limiter: RateLimiter::direct(quota),
        })
    }
}

const TWICE: NonZeroU32 = NonZeroU32::new(2).expect("two is not zero");

impl Default for RequestRates {
    fn default() -> Self {
        Self {
            accounts: Cache::builder()
                .max_capacity(MAX_ACCOUNTS)
                .time_to_idle(FORGOTTEN_AFTER)
                .build(),
            clock: DefaultClock::default(),
        }
    }
}

impl RequestRates {
    /// Counts one request of an account whose plan allows `per_second`. An edit of the plan takes
    /// effect with the next request.
    ///
    /// # Errors
    /// If it is one too many: 429 with the headers by which a client slows down.
    pub fn check(&self, account_id: AccountId, per_second: i32) -> Result<(), Problem> {
        self.check_many(account_id, per_second, NonZeroU32::MIN)
    }

    /// Counts a request that does the work of several. One that does more than the plan ever allows
    /// at once takes all that it does.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn check_many(
        &self,
        account_id: AccountId,
        per_second: i32,
        requests: NonZeroU32,
    ) -> Result<(), Problem> {
        // The database refuses plans with less than one.
        let per_second = u32::try_from(per_second)
            .ok()
            .and_then(NonZeroU32::new)
            .unwrap_or(NonZeroU32::MIN);
        let bucket = match self.accounts.get(&account_id) {
            Some(bucket) if bucket.per_second == per_second => bucket,
            Some(_) => {
                let bucket = Bucket::new(per_second);
                self.accounts.insert(account_id, Arc::clone(&bucket));
                bucket
            }
            // Two first requests at once share one bucket.
            None => self
                .accounts
                .get_with(account_id, || Bucket::new(per_second)),
        };
        let requests = requests.min(per_second.saturating_mul(TWICE));
        let counted = if requests == NonZeroU32::MIN {
            bucket.limiter.check()
        } else {
            // Never more than the burst.
            bucket.limiter.check_n(requests).unwrap_or(Ok(()))
        };
        counted
            .map_err(|not_until| exceeded(per_second, not_until.wait_time_from(self.clock.now())))
    }
}

/// The headers follow the draft of the IETF's httpapi group, "RateLimit header fields for HTTP".
fn exceeded(per_second: NonZeroU32, wait: Duration) -> Problem {
    let retry_after_s = whole_seconds(wait);
    let text = |text: String| HeaderValue::from_str(&text).expect("digits and letters");
    let detail = format!(
        "Your plan allows {per_second} requests a second on each node, and this was more. Nothing \
         was done; ask again after Retry-After."
    );
    Problem::new(Code::TooManyRequests, detail)
        .retry_after_s(retry_after_s)
        .with_header(
            HeaderName::from_static("ratelimit-policy"),
            text(format!("\"requests\";q={per_second};w=1")),
        )
        .with_header(
            HeaderName::from_static("ratelimit"),
            text(format!("\"requests\";r=0;t={retry_after_s}")),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_burst_is_twice_the_rate_and_each_account_has_its_own() {
        let rates = RequestRates::default();
        let slow = |account| {
            (0..10)
                .filter(|_| rates.check(AccountId(account), 1).is_ok())
                .count()
        };
        // A third may come in if this machine stalls for a second.
        assert!((2..=3).contains(&slow(1)));
        assert!((2..=3).contains(&slow(2)));
    }

    #[test]
    fn an_edited_plan_counts_at_once() {
        let rates = RequestRates::default();
        while rates.check(AccountId(1), 1).is_ok() {}
        assert!((0..1000).all(|_| rates.check(AccountId(1), 1000).is_ok()));
    }

    #[test]
    fn the_rejection_says_when_to_come_back() {
        let problem = exceeded(NonZeroU32::new(1000).unwrap(), Duration::from_millis(1001));
        insta::assert_debug_snapshot!(problem);
    }
}
