//! Whose token is this? Answered from memory for tokens that were seen lately, so that a request
//! costs no query.
//!
//! What is remembered is true because every change is announced ([`crate::db::changes`]): a notice
//! drops what it may concern, and while notices cannot be heard, nothing remembered is used.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use moka::sync::Cache;
use sqlx::PgPool;
use uuid::Uuid;

use super::Scope;
use super::store;
use crate::db::changes::{Changes, Notice};
use crate::id::{AccountId, NamespaceId, TokenId};
use crate::plans::{LeaseRefused, Limits};
use crate::secret::{Secret, Sha256Digest};

/// Tokens remembered at most, good and bad each.
/// How long the database may take to say whose a token is.
const ASK_WITHIN: Duration = Duration::from_secs(10);
const REMEMBERED: u64 = 100_000;
/// How long at most, whatever is heard: a bound on what a lost notice could do.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// Questions to the database about tokens that never worked, a second and address; with a burst of
/// ten times as many.
const UNKNOWN_PER_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("not zero");

/// Who a request acts for, and what the plan allows them.
#[derive(Debug)]
pub struct Caller {
    /// The token.
    pub token_id: TokenId,
    /// Its account.
    pub account_id: AccountId,
    /// The account's address, for the audit log.
    pub email: String,
    /// Whether the account manages plans and accounts.
    pub is_admin: bool,
    /// The namespace whose locks the token takes.
    pub namespace_id: NamespaceId,
    /// That namespace's name.
    pub namespace: String,
    /// False: the plan no longer covers this private namespace. What is held can be kept and given
    /// back, nothing new taken.
    pub namespace_in_plan: bool,
    /// What the token may do.
    pub scope: Scope,
    /// The namespace's default lease, milliseconds.
    pub namespace_lease_default_ms: Option<i32>,
    /// The account's default lease, milliseconds.
    pub account_lease_default_ms: Option<i32>,
    /// When the token stops working, on this node's monotonic clock.
    pub expires_at: Option<Instant>,
    /// What the plan allows.
    pub limits: Arc<Limits>,
    /// Whether its use is already noted for the next write of `last_used_at`.
    pub(super) used: AtomicBool,
}

impl Caller {
    /// The lease for a request of this caller.
    ///
    /// # Errors
    /// Where the request asks for a lease that the plan does not allow.
    pub fn lease_ms(&self, requested_ms: Option<i64>) -> Result<i32, LeaseRefused> {
        self.limits.lease_ms(
            requested_ms,
            self.namespace_lease_default_ms,
            self.account_lease_default_ms,
        )
    }
}

/// Why a token did not verify.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is no UUID.
    #[error("this is not an API token")]
    Malformed,
    /// It is unknown, revoked or expired, or its account is suspended. Which of these is not told.
    #[error("this API token does not work")]
    Refused,
    /// Too many tokens that do not work came from this address.
    #[error("too many unknown tokens from this address")]
    Throttled {
        /// When to try again.
        retry_after: Duration,
    },
    /// The database could not be asked.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Verifies tokens. Cheap to clone.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

struct Inner {
    pool: PgPool,
    changes: Changes,
    /// Counts notices: a fill during which it moved is not kept.
    generation: AtomicU64,
    good: Cache<Sha256Digest, Arc<Caller>>,
    bad: Cache<Sha256Digest, ()>,
    /// Digests that worked once: not throttled when the database must be asked again.
    worked: Cache<Sha256Digest, ()>,
    /// Charged for tokens that turned out not to work, so that a node which has just started asks
    /// about all that do.
    unknown_per_address: DefaultKeyedRateLimiter<IpAddr>,
    /// Addresses that used theirs up, and until when.
    throttled: Cache<IpAddr, Instant>,
    used: Mutex<Vec<Arc<Caller>>>,
    /// How often each kind of answer was given. Held, because looking a counter up by its labels
    /// costs more than counting.
    hits: metrics::Counter,
    unknown_hits: metrics::Counter,
    misses: metrics::Counter,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("remembered", &self.0.good.entry_count())
            .finish_non_exhaustive()
    }
}

impl Verifier {
    /// Asks `pool`, and trusts its memory while `changes` is current. Pass every notice to
    /// [`Self::forget`].
    pub fn new(pool: PgPool, changes: Changes) -> Self {
        let burst = UNKNOWN_PER_SECOND.saturating_mul(NonZeroU32::new(10).expect("not zero"));
        Self(Arc::new(Inner {
            pool,
            changes,
            generation: AtomicU64::new(0),
            good: Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_live(REMEMBERED_FOR)
                .support_invalidation_closures()
                .build(),
            bad: Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_live(REMEMBERED_FOR)
                .build(),
            worked: Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_idle(Duration::from_secs(3600))
                .build(),
            throttled: Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_live(REMEMBERED_FOR)
                .build(),
            unknown_per_address: RateLimiter::keyed(
                Quota::per_second(UNKNOWN_PER_SECOND).allow_burst(burst),
            ),
            used: Mutex::new(Vec::new()),
            hits: metrics::counter!("lockable_auth_cache_total", "result" => "hit"),
            unknown_hits: metrics::counter!("lockable_auth_cache_total", "result" => "hit_unknown"),
            misses: metrics::counter!("lockable_auth_cache_total", "result" => "miss"),
        }))
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// Where it does not work, or the database has to be asked and cannot.
    pub async fn verify(&self, token: &str, address: IpAddr) -> Result<Arc<Caller>, VerifyError> {
        let inner = &*self.0;
        let token = Uuid::try_parse(token).map_err(|_| VerifyError::Malformed)?;
        let mut canonical = Uuid::encode_buffer();
        let digest = Secret::new(&*token.hyphenated().encode_lower(&mut canonical)).sha256();
        if inner.changes.is_current() {
            if let Some(caller) = inner.good.get(&digest) {
                inner.hits.increment(1);
                return inner.admit(caller);
            }
            if inner.bad.contains_key(&digest) {
                inner.unknown_hits.increment(1);
                return Err(VerifyError::Refused);
            }
        }
        inner.misses.increment(1);
        if let Some(until) = inner.throttled.get(&address)
            && !inner.worked.contains_key(&digest)
        {
            let retry_after = until.saturating_duration_since(Instant::now());
            if !retry_after.is_zero() {
                return Err(VerifyError::Throttled { retry_after });
            }
        }
        // In a box: a request whose token is remembered does not carry room for a query with it.
        let answer = Box::pin(tokio::time::timeout(ASK_WITHIN, inner.ask(digest))).await;
        let answer = answer.unwrap_or(Err(sqlx::Error::PoolTimedOut.into()));
        if matches!(answer, Err(VerifyError::Refused)) {
            inner.charge(address);
        }
        answer
    }

    /// Drops what a notice may concern.
    pub fn forget(&self, notice: Notice) {
        let inner = &*self.0;
        // Before anything is dropped: whoever fills in between sees that it moved.
        inner.generation.fetch_add(1, Ordering::SeqCst);
        match notice {
            Notice::Token(token_id) => {
                // It may be a new one, whose digest was asked for before.
                inner.bad.invalidate_all();
                inner.drop_where(move |caller| caller.token_id == token_id);
            }
            Notice::Account(account_id) => {
                inner.bad.invalidate_all();
                inner.drop_where(move |caller| caller.account_id == account_id);
            }
            // Rare, and each may concern many.
            Notice::Plan(_) | Notice::Missed => {
                inner.bad.invalidate_all();
                inner.good.invalidate_all();
            }
        }
    }

    /// Writes down which tokens were used since the last call.
    ///
    /// # Errors
    /// Where the database cannot be asked; these uses are then not written.
    pub async fn write_last_used(&self) -> sqlx::Result<()> {
        let used = std::mem::take(&mut *self.0.used.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() {
            return Ok(());
        }
        let mut token_ids: Vec<i64> = used.iter().map(|caller| caller.token_id.0).collect();
        for caller in used {
            caller.used.store(false, Ordering::Relaxed);
        }
        token_ids.sort_unstable();
        token_ids.dedup();
        store::touch(&self.0.pool, &token_ids).await
    }

    /// Drops limiter state of addresses that have not been seen lately. Call now and then.
    pub fn tidy(&self) {
        self.0.unknown_per_address.retain_recent();
        self.0.unknown_per_address.shrink_to_fit();
    }
}

impl Inner {
    async fn ask(&self, digest: Sha256Digest) -> Result<Arc<Caller>, VerifyError> {
        let generation = self.generation.load(Ordering::SeqCst);
        let Some(caller) = store::find_caller(&self.pool, &digest).await? else {
            self.bad.insert(digest, ());
            if self.generation.load(Ordering::SeqCst) != generation {
                self.bad.invalidate(&digest);
            }
            return Err(VerifyError::Refused);
        };
        let caller = Arc::new(caller);
        self.good.insert(digest, Arc::clone(&caller));
        if self.generation.load(Ordering::SeqCst) != generation {
            self.good.invalidate(&digest);
        }
        self.worked.insert(digest, ());
        self.admit(caller)
    }

    fn admit(&self, caller: Arc<Caller>) -> Result<Arc<Caller>, VerifyError> {
        if caller
            .expires_at
            .is_some_and(|expires_at| Instant::now() >= expires_at)
        {
            return Err(VerifyError::Refused);
        }
        if !caller.used.load(Ordering::Relaxed) && !caller.used.swap(true, Ordering::Relaxed) {
            self.used
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Arc::clone(&caller));
        }
        Ok(caller)
    }

    fn charge(&self, address: IpAddr) {
        if let Err(not_until) = self.unknown_per_address.check_key(&address) {
            self.throttled.insert(
                address,
                Instant::now() + not_until.wait_time_from(DefaultClock::default().now()),
            );
        }
    }

    fn drop_where(&self, concerned: impl Fn(&Caller) -> bool + Send + Sync + 'static) {
        // Refused only where closures are not supported, and they are.
        if self
            .good
            .invalidate_entries_if(move |_, caller| concerned(caller))
            .is_err()
        {
            self.good.invalidate_all();
        }
    }
}
