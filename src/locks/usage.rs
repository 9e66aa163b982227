//! How many locks each account holds, against its plan's limit.
//!
//! Counted once a second for accounts that took or gave back locks on this node since the last count, never in the way of a request:
//! the limit may be overshot by what one second grants.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sqlx::PgPool;

use super::store;
use crate::id::AccountId;

/// A count that took long is repeated after this many times as long, so that counting is never a load of its own.
const REST_AFTER_COUNT: u32 = 10;
/// An account that did nothing for this long is forgotten; it is counted again when it does.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// The counts of a node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Usage(Arc<RwLock<HashMap<AccountId, Arc<Entry>>>>);

#[derive(Debug)]
struct Entry {
    live: AtomicI64,
    changed: AtomicBool,
    next: RwLock<Instant>,
}

impl Usage {
    /// Whether the account held at least this many when it was last counted.
    pub fn is_at_limit(&self, account_id: AccountId, max: i32) -> bool {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match entries.get(&account_id) {
            Some(entry) => entry.live.load(Ordering::Relaxed) >= i64::from(max),
            None => max <= 0,
        }
    }

    /// The account took a lock.
    pub(super) fn granted(&self, account_id: AccountId) {
        self.note(account_id, true);
    }

    /// The account gave one back; only of interest where it is counted already.
    pub(super) fn ended(&self, account_id: AccountId) {
        self.note(account_id, false);
    }

    fn note(&self, account_id: AccountId, create: bool) {
        {
            let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = entries.get(&account_id) {
                entry.changed.store(true, Ordering::Relaxed);
                return;
            }
        }
        if create {
            self.0.write().unwrap_or_else(PoisonError::into_inner).entry(account_id).or_insert_with(|| {
                Arc::new(Entry {
                    live: AtomicI64::new(0),
                    changed: AtomicBool::new(true),
                    next: RwLock::new(Instant::now()),
                })
            });
        }
    }

    /// Counts again where something changed, and where the last count was at a limit's height: leases lapse without a word.
    ///
    /// # Errors
    /// Where the database cannot be asked: the counts stay as they were.
    pub async fn count(&self, pool: &PgPool) -> sqlx::Result<()> {
        let now = Instant::now();
        let entries: Vec<(AccountId, Arc<Entry>)> = {
            let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
            entries.iter().map(|(account_id, entry)| (*account_id, Arc::clone(entry))).collect()
        };
        for (account_id, entry) in entries {
            let next = *entry.next.read().unwrap_or_else(PoisonError::into_inner);
            if now < next {
                continue;
            }
            let changed = entry.changed.swap(false, Ordering::Relaxed);
            if !changed && entry.live.load(Ordering::Relaxed) == 0 {
                if now.duration_since(next) > FORGOTTEN_AFTER {
                    self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&account_id);
                }
                continue;
            }
            let began = Instant::now();
            let live = store::count_live(pool, account_id)
                .await
                .inspect_err(|_| entry.changed.store(true, Ordering::Relaxed))?;
            entry.live.store(live, Ordering::Relaxed);
            *entry.next.write().unwrap_or_else(PoisonError::into_inner) =
                Instant::now() + began.elapsed() * REST_AFTER_COUNT;
        }
        Ok(())
    }
}
