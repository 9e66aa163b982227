//! How many locks each account holds, against its plan's limit (ADR 7).
//!
//! Counted once a second, never in the way of a request, for accounts that could have reached their
//! limit since the last count; the limit may be overshot by what one second grants.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sqlx::PgPool;

use super::store;
use crate::id::AccountId;

/// A count that took long is repeated after this many times as long at the earliest, so that
/// counting is never a load of its own.
const REST_AFTER_COUNT: u32 = 10;
/// An account far from its limit is counted this often; it is forgotten when it did nothing in that
/// time and holds nothing.
const ONCE_IN: Duration = Duration::from_secs(60);
/// This node's grants stand for so many times as many: other nodes grant too.
const NODES: i64 = 8;

/// The counts of a node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Usage(Arc<RwLock<HashMap<AccountId, Arc<Entry>>>>);

#[derive(Debug)]
struct Entry {
    /// Held when it was last counted.
    live: AtomicI64,
    /// Granted by this node since then.
    granted: AtomicI64,
    /// What the plan allowed when this node was last asked.
    max: AtomicI64,
    /// Something was granted or given back since the last count.
    changed: AtomicBool,
    counted: Mutex<Counted>,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    /// None: not yet, or not since this node began to follow the account.
    at: Option<Instant>,
    took: Duration,
}

impl Counted {
    fn is_older_than(self, age: Duration) -> bool {
        self.at.is_none_or(|at| at.elapsed() >= age)
    }
}

impl Usage {
    /// Whether the account held at least this many when it was last counted.
    pub fn is_at_limit(&self, account_id: AccountId, max: i32) -> bool {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match entries.get(&account_id) {
            Some(entry) => {
                entry.max.store(max.into(), Ordering::Relaxed);
                entry.live.load(Ordering::Relaxed) >= i64::from(max)
            }
            None => max <= 0,
        }
    }

    /// The account took a lock; its plan allows `max` at once.
    pub(super) fn granted(&self, account_id: AccountId, max: i32) {
        let note = |entry: &Entry| {
            entry.granted.fetch_add(1, Ordering::Relaxed);
            entry.max.store(max.into(), Ordering::Relaxed);
            entry.changed.store(true, Ordering::Relaxed);
        };
        if let Some(entry) = self
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&account_id)
        {
            note(entry);
            return;
        }
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        note(entries.entry(account_id).or_default());
    }

    /// The account gave one back: of interest where it is counted already.
    pub(super) fn ended(&self, account_id: AccountId) {
        if let Some(entry) = self
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&account_id)
        {
            entry.changed.store(true, Ordering::Relaxed);
        }
    }

    /// Counts those who could be at their limit by now, and those who were: leases lapse without a
    /// word.
    ///
    /// # Errors
    /// Where the database cannot be asked: the counts stay as they were.
    pub async fn count(&self, pool: &PgPool) -> sqlx::Result<()> {
        let entries: Vec<(AccountId, Arc<Entry>)> = {
            let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
            entries
                .iter()
                .map(|(account_id, entry)| (*account_id, Arc::clone(entry)))
                .collect()
        };
        for (account_id, entry) in entries {
            if entry.is_idle() {
                self.0
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&account_id);
            } else if entry.is_due() {
                entry.count(pool, account_id).await?;
            }
        }
        Ok(())
    }
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            live: AtomicI64::new(0),
            granted: AtomicI64::new(0),
            max: AtomicI64::new(0),
            changed: AtomicBool::new(false),
            counted: Mutex::new(Counted {
                at: None,
                took: Duration::ZERO,
            }),
        }
    }
}

impl Entry {
    fn counted(&self) -> Counted {
        *self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        !self.changed.load(Ordering::Relaxed)
            && self.live.load(Ordering::Relaxed) == 0
            && self.counted().is_older_than(ONCE_IN)
    }

    fn is_due(&self) -> bool {
        let counted = self.counted();
        let (live, granted) = (
            self.live.load(Ordering::Relaxed),
            self.granted.load(Ordering::Relaxed),
        );
        let could_be_at_limit = live + NODES * granted >= self.max.load(Ordering::Relaxed);
        counted.is_older_than(counted.took * REST_AFTER_COUNT)
            && (could_be_at_limit || counted.is_older_than(ONCE_IN))
    }

    async fn count(&self, pool: &PgPool, account_id: AccountId) -> sqlx::Result<()> {
        let began = Instant::now();
        // What is granted while the database counts is counted twice rather than not at all.
        let granted = self.granted.load(Ordering::Relaxed);
        self.changed.store(false, Ordering::Relaxed);
        let live = store::count_live(pool, account_id)
            .await
            .inspect_err(|_| self.changed.store(true, Ordering::Relaxed))?;
        self.live.store(live, Ordering::Relaxed);
        self.granted.fetch_sub(granted, Ordering::Relaxed);
        let counted = Counted {
            at: Some(Instant::now()),
            took: began.elapsed(),
        };
        *self.counted.lock().unwrap_or_else(PoisonError::into_inner) = counted;
        Ok(())
    }
}
