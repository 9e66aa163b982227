//! The number of locks that each account holds, against its plan's limit (ADR 7).
//!
//! A job counts once a second, so that no request waits for it, and only accounts that could have
//! reached their limit since the last count. The grants of one second may exceed the limit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sqlx::PgPool;

use super::store;
use crate::id::AccountId;

/// The least pause after a count, in multiples of the time that the count took, so that counting is
/// never a load of its own.
const REST_AFTER_COUNT: u32 = 10;
/// The interval at which an account far from its limit is counted. One that did nothing in that
/// time and holds nothing is forgotten.
const IDLE_INTERVAL: Duration = Duration::from_secs(60);
/// The number of nodes that are assumed to grant as many locks as this one.
const ASSUMED_NODES: i64 = 8;

/// The counts of a node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Usage(Arc<RwLock<HashMap<AccountId, Arc<Entry>>>>);

#[derive(Debug)]
struct Entry {
    /// The locks that the account held at the last count.
    live: AtomicI64,
    /// The grants of this node since then.
    granted: AtomicI64,
    /// The plan's limit, as of the last request.
    max: AtomicI64,
    /// True if a lock was granted or released since the last count.
    has_changed: AtomicBool,
    last_count: Mutex<LastCount>,
}

#[derive(Clone, Copy, Debug)]
struct LastCount {
    /// `None` if this node has not counted since it began to follow the account.
    at: Option<Instant>,
    took: Duration,
}

impl LastCount {
    fn is_older_than(self, age: Duration) -> bool {
        self.at.is_none_or(|at| at.elapsed() >= age)
    }
}

impl Usage {
    /// True if the account held at least this many locks at the last count.
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

    /// How many locks an account may take beside those that it held at the last count.
    pub(super) fn room(&self, account_id: AccountId, max: i32) -> i32 {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let live = entries
            .get(&account_id)
            .map_or(0, |entry| entry.live.load(Ordering::Relaxed));
        i32::try_from(i64::from(max) - live).unwrap_or(0).max(0)
    }

    /// Notes a grant to an account whose plan allows `max` locks at once.
    pub(super) fn note_grant(&self, account_id: AccountId, max: i32) {
        let note = |entry: &Entry| {
            entry.granted.fetch_add(1, Ordering::Relaxed);
            entry.max.store(max.into(), Ordering::Relaxed);
            entry.has_changed.store(true, Ordering::Relaxed);
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

    /// Notes that an account released a lock. Does nothing for one that this node does not follow.
    pub(super) fn note_release(&self, account_id: AccountId) {
        if let Some(entry) = self
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&account_id)
        {
            entry.has_changed.store(true, Ordering::Relaxed);
        }
    }

    /// Counts the accounts that could be at their limit by now, and those that were: nothing tells
    /// a node that a lease has lapsed.
    ///
    /// # Errors
    /// If a query fails. The counts that it would have changed stay as they were.
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
            has_changed: AtomicBool::new(false),
            last_count: Mutex::new(LastCount {
                at: None,
                took: Duration::ZERO,
            }),
        }
    }
}

impl Entry {
    fn last_count(&self) -> LastCount {
        *self
            .last_count
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        !self.has_changed.load(Ordering::Relaxed)
            && self.live.load(Ordering::Relaxed) == 0
            && self.last_count().is_older_than(IDLE_INTERVAL)
    }

    fn is_due(&self) -> bool {
        let last_count = self.last_count();
        let (live, granted) = (
            self.live.load(Ordering::Relaxed),
            self.granted.load(Ordering::Relaxed),
        );
        let could_be_at_limit = live + ASSUMED_NODES * granted >= self.max.load(Ordering::Relaxed);
        last_count.is_older_than(last_count.took * REST_AFTER_COUNT)
            && (could_be_at_limit || last_count.is_older_than(IDLE_INTERVAL))
    }

    async fn count(&self, pool: &PgPool, account_id: AccountId) -> sqlx::Result<()> {
        let began = Instant::now();
        // A grant during the count is counted twice rather than not at all.
        let granted = self.granted.load(Ordering::Relaxed);
        self.has_changed.store(false, Ordering::Relaxed);
        let live = store::count_live(pool, account_id)
            .await
            .inspect_err(|_| self.has_changed.store(true, Ordering::Relaxed))?;
        self.live.store(live, Ordering::Relaxed);
        self.granted.fetch_sub(granted, Ordering::Relaxed);
        let last_count = LastCount {
            at: Some(Instant::now()),
            took: began.elapsed(),
        };
        *self
            .last_count
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = last_count;
        Ok(())
    }
}
