//! Limits on how often one client IP, or one e-mail address, may try: against guessing passwords
//! and finding out who has an account.
//!
//! Counted on this node, in memory. Anybody can use up the limit by e-mail address; so it is wide,
//! and the owner's own browsers are not under it.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use super::error::WebError;
use crate::transport::client_ip::throttle_key;

/// Above this number of keys, those that have all their tries again are forgotten.
const KEYS: usize = 20_000;

struct Limiter {
    limiter: RateLimiter<u64, DashMapStateStore<u64>, DefaultClock>,
}

impl Limiter {
    /// `burst` at once, then one each `period`.
    fn new(burst: u32, period: Duration) -> Self {
        let burst = NonZeroU32::new(burst).expect("a burst is at least one");
        let quota = Quota::with_period(period)
            .expect("a period is longer than nothing")
            .allow_burst(burst);
        Self {
            limiter: RateLimiter::dashmap(quota),
        }
    }

    fn check(&self, key: u64) -> Result<(), WebError> {
        if self.limiter.len() > KEYS {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(&key).map_err(|refused| {
            let wait = refused.wait_time_from(DefaultClock::default().now());
            WebError::Throttled {
                retry_after_s: wait.as_secs() + 1,
            }
        })
    }
}

/// The limits of one node.
pub(crate) struct Throttles {
    /// Random for each process: nobody can choose keys that collide.
    hasher: RandomState,
    sign_in_by_ip: Limiter,
    sign_in_by_email: Limiter,
    sign_in_by_both: Limiter,
    sign_in_by_browser: Limiter,
    sign_up_by_ip: Limiter,
    sign_up_by_email: Limiter,
    mail_by_ip: Limiter,
    mail_by_email: Limiter,
    reset_by_ip: Limiter,
    password_by_account: Limiter,
    post_by_account: Limiter,
}

impl std::fmt::Debug for Throttles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Throttles").finish_non_exhaustive()
    }
}

impl Default for Throttles {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            hasher: RandomState::new(),
            sign_in_by_ip: Limiter::new(40, seconds(3)),
            sign_in_by_email: Limiter::new(60, seconds(10)),
            sign_in_by_both: Limiter::new(10, seconds(15)),
            sign_in_by_browser: Limiter::new(10, seconds(15)),
            sign_up_by_ip: Limiter::new(20, seconds(60)),
            sign_up_by_email: Limiter::new(10, seconds(60)),
            mail_by_ip: Limiter::new(20, seconds(60)),
            mail_by_email: Limiter::new(4, seconds(300)),
            reset_by_ip: Limiter::new(20, seconds(6)),
            password_by_account: Limiter::new(10, seconds(15)),
            post_by_account: Limiter::new(120, seconds(1)),
        }
    }
}

impl Throttles {
    fn key(&self, what: impl Hash) -> u64 {
        self.hasher.hash_one(what)
    }

    /// One try to sign in with the key of an e-mail address, from any browser.
    ///
    /// # Errors
    /// When there were too many, with the seconds until the next is allowed.
    pub(crate) fn sign_in(&self, client_ip: IpAddr, email: &str) -> Result<(), WebError> {
        self.sign_in_from(client_ip)?;
        let client_ip = throttle_key(client_ip);
        self.sign_in_by_both.check(self.key((client_ip, email)))?;
        self.sign_in_by_email.check(self.key(email))
    }

    /// One try to sign in from a browser that the account has signed in with before. Counted apart
    /// from all others, so that they cannot keep the owner out.
    ///
    /// # Errors
    /// As [`Self::sign_in`].
    pub(crate) fn sign_in_again(
        &self,
        account_id: i64,
        browser: impl Hash,
    ) -> Result<(), WebError> {
        self.sign_in_by_browser
            .check(self.key((account_id, browser)))
    }

    /// One try to sign in from a client IP, whatever the account.
    ///
    /// # Errors
    /// As [`Self::sign_in`].
    pub(crate) fn sign_in_from(&self, client_ip: IpAddr) -> Result<(), WebError> {
        self.sign_in_by_ip.check(self.key(throttle_key(client_ip)))
    }

    /// One change by an account that is signed in.
    ///
    /// # Errors
    /// As [`Self::sign_in`].
    pub(crate) fn post(&self, account_id: i64) -> Result<(), WebError> {
        self.post_by_account.check(self.key(account_id))
    }

    /// One try to sign up, which tells whether an e-mail address is taken.
    ///
    /// # Errors
    /// As [`Self::sign_in`].
    pub(crate) fn sign_up(&self, client_ip: IpAddr, email: &str) -> Result<(), WebError> {
        self.sign_up_by_ip
            .check(self.key(throttle_key(client_ip)))?;
        self.sign_up_by_email.check(self.key(email))
    }

    /// One e-mail on request of somebody who need not be its receiver.
    ///
    /// # Errors
    /// As [`Self::sign_in`].
    pub(crate) fn mail(&self, client_ip: IpAddr, email: &str) -> Result<(), WebError> {
        self.mail_by_ip.check(self.key(throttle_key(client_ip)))?;
        self.mail_by_email.check(self.key(email))
    }

    /// One new password by a link.
    ///
    /// # Errors
    /// As [`Self::sign_in`].
    pub(crate) fn reset(&self, client_ip: IpAddr) -> Result<(), WebError> {
        self.reset_by_ip.check(self.key(throttle_key(client_ip)))
    }

    /// One try of the password of an account by somebody who is signed in to it, or has a link of
    /// it.
    ///
    /// # Errors
    /// As [`Self::sign_in`].
    pub(crate) fn password(&self, account_id: i64) -> Result<(), WebError> {
        self.password_by_account.check(self.key(account_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_cannot_use_up_the_tries_of_another_for_the_same_account() {
        let throttles = Throttles::default();
        let (mine, theirs) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for _ in 0..10 {
            throttles.sign_in(theirs, "me@example.com").unwrap();
        }
        assert!(matches!(
            throttles.sign_in(theirs, "me@example.com"),
            Err(WebError::Throttled { retry_after_s: 1.. })
        ));
        throttles.sign_in(mine, "me@example.com").unwrap();
    }
}
