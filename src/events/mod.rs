//! Events: what happened to the locks of private namespaces, as a record for people. No decision
//! about a lease depends on it.
//!
//! ```text
//! locks::Engine, sweeper, breaks ─► Recorder ─► lock_events ─► history
//!                                       ▲           └────────► Hub ─► Watch, one a client
//!                                       └─ lapsed leases ───────┘
//! ```
//!
//! * [`recorder`]: events that wait in memory to be written, in batches;
//! * [`store`]: the queries; the function `write_lock_events` has the order of events;
//! * [`hub`]: asks the database for all watchers of a node together;
//! * [`watch`]: one watcher's events, without loss and without repetition;
//! * [`purge`]: deletes events that are older than the plan's history;
//! * [`metric`]: the metrics of events.

pub mod hub;
pub mod metric;
pub mod purge;
pub mod recorder;
pub mod store;
pub mod watch;

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::id::{AccountId, NamespaceId, TokenId};

pub use hub::Hub;
pub use purge::Purge;
pub use recorder::Recorder;
pub use store::{history, record_now};
pub use watch::{Sight, Watch};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// Events of the namespace were lost here.
    Gap,
    /// A lease began.
    Granted,
    /// A lease was ended by its holder.
    Released,
    /// A lease lapsed.
    Expired,
    /// A lease was ended by force.
    Broken,
}

impl EventKind {
    /// All kinds, in the order of their numbers in the database.
    pub const ALL: [Self; 5] = [
        Self::Gap,
        Self::Granted,
        Self::Released,
        Self::Expired,
        Self::Broken,
    ];

    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Granted => "granted",
            Self::Released => "released",
            Self::Expired => "expired",
            Self::Broken => "broken",
        }
    }

    fn number(self) -> i16 {
        self as i16
    }

    fn from_number(number: i16) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// An event that is to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// The lock's namespace, a private one.
    pub namespace_id: NamespaceId,
    /// The lock's name.
    pub name: Arc<str>,
    /// What happened.
    pub kind: EventKind,
    /// When, on the database's clock.
    pub at: DateTime<Utc>,
    /// The lease's id.
    pub lease_id: Option<Uuid>,
    /// The lease's fencing token.
    pub fencing_token: i64,
    /// Of a grant: the API token that took the lock.
    pub token_id: Option<TokenId>,
    /// Of a grant: the client's label for people.
    pub holder: Option<String>,
    /// Of a grant: how long the request waited, milliseconds.
    pub waited_ms: Option<i32>,
    /// Of the end of a lease: when it began.
    pub acquired_at: Option<DateTime<Utc>>,
    /// Of a break: its reason. Of a lapse: `hold-limit` if the lease had reached its hold limit.
    pub reason: Option<String>,
}

/// A lease that was found to have lapsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LapsedLease {
    /// The lock's namespace.
    pub namespace_id: i64,
    /// The lock's name.
    pub name: String,
    /// Its id.
    pub lease_id: Uuid,
    /// Its fencing token.
    pub fencing_token: i64,
    /// When it began.
    pub acquired_at: DateTime<Utc>,
    /// When it ended.
    pub expires_at: DateTime<Utc>,
    /// How long it could be renewed at most, milliseconds.
    pub max_hold_ms: Option<i32>,
}

impl From<LapsedLease> for NewEvent {
    fn from(lease: LapsedLease) -> Self {
        let limit = lease
            .max_hold_ms
            .map(|ms| TimeDelta::milliseconds(ms.into()));
        let is_held_out = limit.is_some_and(|limit| lease.expires_at >= lease.acquired_at + limit);
        Self {
            namespace_id: NamespaceId(lease.namespace_id),
            name: lease.name.into(),
            kind: EventKind::Expired,
            at: lease.expires_at,
            lease_id: Some(lease.lease_id),
            fencing_token: lease.fencing_token,
            token_id: None,
            holder: None,
            waited_ms: None,
            acquired_at: Some(lease.acquired_at),
            reason: is_held_out.then(|| HOLD_LIMIT.to_owned()),
        }
    }
}

/// The reason of an expiry at the hold limit.
pub const HOLD_LIMIT: &str = "hold-limit";

/// An event that was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Ascending in the order of events.
    pub event_id: i64,
    /// The lock's namespace.
    pub namespace_id: NamespaceId,
    /// What happened.
    pub kind: EventKind,
    /// When, on the database's clock.
    pub at: DateTime<Utc>,
    /// The lock's name; `None` for a gap.
    pub name: Option<String>,
    /// The lease's id.
    pub lease_id: Option<Uuid>,
    /// The lease's fencing token; `None` for a gap.
    pub fencing_token: Option<i64>,
    /// The client's label for people.
    pub holder: Option<String>,
    /// The label of the API token that took the lock, at that time.
    pub token_label: Option<String>,
    /// Of a grant: how long the request waited, milliseconds.
    pub waited_ms: Option<i32>,
    /// Of the end of a lease: how long it lasted, milliseconds.
    pub held_ms: Option<i64>,
    /// Of a break: its reason. Of a lapse: `hold-limit` if the lease had reached its hold limit.
    pub reason: Option<String>,
}

/// What is watched: a private namespace, or one of its locks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope {
    /// The namespace.
    pub namespace_id: NamespaceId,
    /// The lock's name; `None` for all locks of the namespace.
    pub name: Option<Arc<str>>,
}

/// Who holds a lock, and how many wait for it.
#[derive(Clone, Debug, Default)]
pub struct LockState {
    /// The leases that hold it, in the order of their grants; at most [`MOST_LEASES`].
    pub leases: Vec<LiveLease>,
    /// The number of those who wait for it.
    pub queue_length: i64,
}

/// The most leases that a [`LockState`] shows.
pub const MOST_LEASES: i64 = 100;

impl LockState {
    /// True if nothing has changed but the time.
    pub fn is_like(&self, other: &Self) -> bool {
        let parts = |lease: &LiveLease| (lease.fencing_token, lease.expires_at);
        self.queue_length == other.queue_length
            && self
                .leases
                .iter()
                .map(parts)
                .eq(other.leases.iter().map(parts))
    }
}

/// A lease that holds a lock.
#[derive(Clone, Debug)]
pub struct LiveLease {
    /// Its id.
    pub lease_id: Uuid,
    /// Its fencing token.
    pub fencing_token: i64,
    /// 1: exclusive, 0: shared, else the limit of a semaphore.
    pub permits: i32,
    /// The number of its permit, if it is of a semaphore.
    pub slot: Option<i32>,
    /// The client's label for people.
    pub holder: Option<String>,
    /// When it began.
    pub acquired_at: DateTime<Utc>,
    /// When it ends unless it is renewed.
    pub expires_at: DateTime<Utc>,
    /// The time until then, milliseconds; 0 in the grace after an outage.
    pub remaining_ms: i64,
}

/// By what right somebody watches. It is looked at again twice a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Access {
    /// The account, which owns the namespace.
    pub account_id: AccountId,
    /// The API token; `None` for the account's owner in a browser.
    pub token_id: Option<TokenId>,
}

/// Why there is no history, or nothing is watched.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// Locks of the public namespace have no events.
    #[error("the locks of the namespace `public` have no history and no events")]
    Public,
    /// The plan has no history.
    #[error("your plan has no history of locks")]
    NotInPlan,
    /// The node is stopping.
    #[error("the node is stopping")]
    ShuttingDown,
    /// The database query failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_numbers_of_the_database() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::from_number(kind.number()), Some(kind));
        }
        assert_eq!(EventKind::Granted.number(), 1);
        assert_eq!(EventKind::Broken.number(), 4);
        assert_eq!(EventKind::from_number(5), None);
        assert_eq!(EventKind::from_number(-1), None);
    }
}
