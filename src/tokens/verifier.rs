//! Verifies tokens: from a cache for those that were verified lately, so that a request costs no
//! query.
//!
//! The cache is right because the database announces every change ([`crate::db::changes`]): a
//! notice drops the entries that it may concern, and while no notices arrive, the cache is not
//! used.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use moka::sync::Cache;
use sqlx::PgPool;
use uuid::Uuid;

use super::caller::Caller;
use super::store;
use crate::db::changes::{Changes, Notice};
use crate::secret::{Secret, Sha256Digest};

/// The longest time that the look-up of a token in the database takes.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(10);
/// The most entries of each cache.
const CACHE_ENTRIES: u64 = 100_000;
/// The longest life of an entry: a bound on the effect of a lost notice.
const CACHE_TIME: Duration = Duration::from_secs(60);
/// Look-ups of tokens that were never valid, a second and client IP; with a burst of ten times as
/// many.
const UNKNOWN_PER_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("not zero");

/// Why a token did not verify.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The token is no UUID.
    #[error("this is not an API token")]
    Malformed,
    /// The token is unknown, revoked or expired, or its account is suspended: the client does not
    /// learn which.
    #[error("this API token does not work")]
    Refused,
    /// Too many invalid tokens came from this client IP.
    #[error("too many unknown tokens from this address")]
    Throttled {
        /// The time until the next try.
        retry_after: Duration,
    },
    /// The database query failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Verifies tokens. Cheap to clone.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

struct Inner {
    pool: PgPool,
    changes: Changes,
    /// The number of notices: an entry that was looked up while it changed is not kept.
    generation: AtomicU64,
    /// Valid tokens.
    callers: Cache<Sha256Digest, Arc<Caller>>,
    /// Invalid tokens.
    rejected: Cache<Sha256Digest, ()>,
    /// Tokens that were valid once: their next look-up is not throttled.
    previously_valid: Cache<Sha256Digest, ()>,
    /// Counts invalid tokens, after their look-up, so that a node which has just started looks up
    /// all valid ones.
    rejected_per_client: DefaultKeyedRateLimiter<IpAddr>,
    /// The client IPs that are over the limit, and until when.
    throttled: Cache<IpAddr, Instant>,
    /// Callers whose use is to be written to `last_used_at`.
    used: Mutex<Vec<Arc<Caller>>>,
    // Looking a counter up by its labels costs more than counting.
    hits: metrics::Counter,
    unknown_hits: metrics::Counter,
    misses: metrics::Counter,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("callers", &self.0.callers.entry_count())
            .finish_non_exhaustive()
    }
}

impl Verifier {
    /// Looks tokens up in `pool`, and uses the cache while `changes` is current. Pass every notice
    /// to [`Self::forget`].
    pub fn new(pool: PgPool, changes: Changes) -> Self {
        let burst = UNKNOWN_PER_SECOND.saturating_mul(NonZeroU32::new(10).expect("not zero"));
        Self(Arc::new(Inner {
            pool,
            changes,
            generation: AtomicU64::new(0),
            callers: Cache::builder()
                .max_capacity(CACHE_ENTRIES)
                .time_to_live(CACHE_TIME)
                .support_invalidation_closures()
                .build(),
            rejected: Cache::builder()
                .max_capacity(CACHE_ENTRIES)
                .time_to_live(CACHE_TIME)
                .build(),
            previously_valid: Cache::builder()
                .max_capacity(CACHE_ENTRIES)
                .time_to_idle(Duration::from_secs(3600))
                .build(),
            throttled: Cache::builder()
                .max_capacity(CACHE_ENTRIES)
                .time_to_live(CACHE_TIME)
                .build(),
            rejected_per_client: RateLimiter::keyed(
                Quota::per_second(UNKNOWN_PER_SECOND).allow_burst(burst),
            ),
            used: Mutex::new(Vec::new()),
            hits: metrics::counter!("lockable_auth_cache_total", "result" => "hit"),
            unknown_hits: metrics::counter!("lockable_auth_cache_total", "result" => "hit_unknown"),
            misses: metrics::counter!("lockable_auth_cache_total", "result" => "miss"),
        }))
    }

    /// The caller that a token belongs to; `client` is the key of the client IP for throttling.
    ///
    /// # Errors
    /// If the token is invalid, or the look-up in the database is throttled or fails.
    pub async fn verify(&self, token: &str, client: IpAddr) -> Result<Arc<Caller>, VerifyError> {
        let inner = &*self.0;
        let token = Uuid::try_parse(token).map_err(|_| VerifyError::Malformed)?;
        let mut canonical = Uuid::encode_buffer();
        let digest = Secret::new(&*token.hyphenated().encode_lower(&mut canonical)).sha256();
        if inner.changes.is_current() {
            if let Some(caller) = inner.callers.get(&digest) {
                inner.hits.increment(1);
                return inner.admit(caller);
            }
            if inner.rejected.contains_key(&digest) {
                inner.unknown_hits.increment(1);
                return Err(VerifyError::Refused);
            }
        }
        inner.misses.increment(1);
        if let Some(until) = inner.throttled.get(&client)
            && !inner.previously_valid.contains_key(&digest)
        {
            let retry_after = until.saturating_duration_since(Instant::now());
            if !retry_after.is_zero() {
                return Err(VerifyError::Throttled { retry_after });
            }
        }
        // Boxed: a request whose token is cached must not carry room for a query.
        let result = Box::pin(tokio::time::timeout(LOOK_UP_TIMEOUT, inner.look_up(digest))).await;
        let result = result.unwrap_or(Err(sqlx::Error::PoolTimedOut.into()));
        if matches!(result, Err(VerifyError::Refused)) {
            inner.count_rejected(client);
        }
        result
    }

    /// Drops the entries that a notice may concern.
    pub fn forget(&self, notice: Notice) {
        let inner = &*self.0;
        // Before any entry is dropped: a look-up that ends in between sees the new number.
        inner.generation.fetch_add(1, Ordering::SeqCst);
        match notice {
            Notice::Token(token_id) => {
                // It may be a new token, whose digest was rejected before.
                inner.rejected.invalidate_all();
                inner.drop_where(move |caller| caller.token_id == token_id);
            }
            Notice::Account(account_id) => {
                inner.rejected.invalidate_all();
                inner.drop_where(move |caller| caller.account_id == account_id);
            }
            // Rare, and each may concern many entries.
            Notice::Plan(_) | Notice::Missed => {
                inner.rejected.invalidate_all();
                inner.callers.invalidate_all();
            }
        }
    }

    /// Writes the time of use of the tokens that were used since the last call.
    ///
    /// # Errors
    /// If the database query fails; these uses are then not written.
    pub async fn write_last_used(&self) -> sqlx::Result<()> {
        let used = std::mem::take(&mut *self.0.used.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() {
            return Ok(());
        }
        let mut token_ids: Vec<i64> = used.iter().map(|caller| caller.token_id.0).collect();
        for caller in used {
            caller.is_use_noted.store(false, Ordering::Relaxed);
        }
        token_ids.sort_unstable();
        token_ids.dedup();
        store::touch(&self.0.pool, &token_ids).await
    }

    /// Drops the state of client IPs that were quiet for long. To be called now and then.
    pub fn tidy(&self) {
        self.0.rejected_per_client.retain_recent();
        self.0.rejected_per_client.shrink_to_fit();
    }
}

impl Inner {
    async fn look_up(&self, digest: Sha256Digest) -> Result<Arc<Caller>, VerifyError> {
        let generation = self.generation.load(Ordering::SeqCst);
        let Some(caller) = store::find_caller(&self.pool, &digest).await? else {
            self.rejected.insert(digest, ());
            if self.generation.load(Ordering::SeqCst) != generation {
                self.rejected.invalidate(&digest);
            }
            return Err(VerifyError::Refused);
        };
        let caller = Arc::new(caller);
        self.callers.insert(digest, Arc::clone(&caller));
        if self.generation.load(Ordering::SeqCst) != generation {
            self.callers.invalidate(&digest);
        }
        self.previously_valid.insert(digest, ());
        self.admit(caller)
    }

    fn admit(&self, caller: Arc<Caller>) -> Result<Arc<Caller>, VerifyError> {
        if caller
            .expires_at
            .is_some_and(|expires_at| Instant::now() >= expires_at)
        {
            return Err(VerifyError::Refused);
        }
        if !caller.is_use_noted.load(Ordering::Relaxed)
            && !caller.is_use_noted.swap(true, Ordering::Relaxed)
        {
            self.used
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Arc::clone(&caller));
        }
        Ok(caller)
    }

    fn count_rejected(&self, client: IpAddr) {
        if let Err(not_until) = self.rejected_per_client.check_key(&client) {
            self.throttled.insert(
                client,
                Instant::now() + not_until.wait_time_from(DefaultClock::default().now()),
            );
        }
    }

    fn drop_where(&self, concerned: impl Fn(&Caller) -> bool + Send + Sync + 'static) {
        // An error means that the cache does not support closures, and it does.
        if self
            .callers
            .invalidate_entries_if(move |_, caller| concerned(caller))
            .is_err()
        {
            self.callers.invalidate_all();
        }
    }
}
