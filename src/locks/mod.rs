//! Locks: taking, keeping and releasing them. Knows nothing of HTTP.
//!
//! * [`fields`]: the rules for what a client says of a lease;
//! * [`names`]: the rules for names of locks;
//! * [`engine`]: one request, one outcome; behind it lanes that send requests in batches;
//! * [`store`]: the queries that are not the engine's;
//! * [`sweeper`]: removes rows that nobody needs any more;
//! * [`usage`]: how many locks each account holds, against its plan's limit.

pub mod engine;
pub mod fields;
pub mod names;
pub mod store;
pub mod sweeper;
pub mod usage;

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::audit::InvalidReason;
use crate::id::{AccountId, NamespaceId, TokenId};

pub use engine::{Engine, EngineSettings};
pub use names::{LockName, NameError};
pub use store::{break_any, break_own};

/// Why no lease was broken.
#[derive(Debug, thiserror::Error)]
pub enum BreakError {
    /// No live lease is the one that was to be broken.
    #[error("nobody holds this lease")]
    NotHeld,
    /// The reason breaks the rule for reasons.
    #[error(transparent)]
    InvalidReason(#[from] InvalidReason),
    /// The database query failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Identifies a lock: the key of its row. Ordered as the statements order rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockKey {
    /// The lock's namespace.
    pub namespace_id: NamespaceId,
    /// The lock's name, compared byte for byte.
    pub name: LockName,
}

/// A request to hold a lock.
#[derive(Clone, Debug)]
pub struct Acquire {
    /// The lock.
    pub key: LockKey,
    /// The account that will hold it.
    pub account_id: AccountId,
    /// The API token that was sent with the request.
    pub token_id: TokenId,
    /// The id that the lease will have: the client's own, so that it can repeat the request after a
    /// lost answer (P6), or one drawn for it.
    pub lease_id: Uuid,
    /// True if only the lease id renews and releases the lease (P5). Must be true with a lease id
    /// of the client's own: an id is remembered after its lease has ended only then.
    pub needs_proof: bool,
    /// The length of the lease, milliseconds.
    pub lease_ms: i32,
    /// The same, if the request itself named it: a repetition renews by this instead of the length
    /// granted.
    pub requested_ms: Option<i32>,
    /// A label for people, at most 256 bytes.
    pub holder: Option<String>,
    /// JSON for programs, at most 4 KiB. In a box: few requests have any, and thousands may wait.
    pub metadata: Option<Box<Value>>,
    /// How many leases may hold the lock beside this one.
    pub mode: Mode,
    /// How long after its grant the lease can be renewed at most, milliseconds (P11). `None`: for
    /// ever.
    pub max_hold_ms: Option<i32>,
    /// How long the request waits for the lock, milliseconds. 0: it does not wait.
    pub wait_ms: i32,
    /// The most locks that the account may hold at once.
    pub max_live_locks: i32,
    /// The most requests of the account that may wait at once on this node.
    pub max_waiters: i32,
    /// The most requests of the account that may wait for this lock at once.
    pub max_waiters_of_lock: i32,
}

/// How many leases may hold a lock at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// One.
    #[default]
    Exclusive,
    /// Any number, and none that is exclusive.
    Shared,
    /// A semaphore: as many as its limit, 2 to 1,000.
    Semaphore {
        /// The number of permits.
        limit: i32,
    },
}

impl Mode {
    /// The mode as the database has it: 1 exclusive, 0 shared, else the limit of a semaphore.
    pub fn permits(self) -> i32 {
        match self {
            Self::Exclusive => 1,
            Self::Shared => 0,
            Self::Semaphore { limit } => limit,
        }
    }

    /// The mode of a number that [`Self::permits`] returned.
    pub fn from_permits(permits: i32) -> Self {
        match permits {
            0 => Self::Shared,
            1 => Self::Exclusive,
            limit => Self::Semaphore { limit },
        }
    }
}

/// The most requests of an account that may wait for one lock of the public namespace: otherwise
/// one account could hold it for as long as it has waiters.
pub const MAX_WAITERS_OF_PUBLIC_LOCK: i32 = 10;
/// The longest wait of a request, milliseconds.
pub const MAX_WAIT_MS: i32 = 60_000;
/// The largest limit of a semaphore.
pub const MAX_PERMITS: i32 = 1000;

#[cfg(test)]
impl Acquire {
    /// An acquire as version 1 sends it without parameters.
    fn plain(name: &str) -> Self {
        Self {
            key: LockKey {
                namespace_id: NamespaceId(1),
                name: LockName::new(name).unwrap(),
            },
            account_id: AccountId(1),
            token_id: TokenId(1),
            lease_id: Uuid::new_v4(),
            needs_proof: false,
            lease_ms: 60_000,
            requested_ms: None,
            holder: None,
            metadata: None,
            mode: Mode::Exclusive,
            max_hold_ms: None,
            wait_ms: 0,
            max_live_locks: 10,
            max_waiters: 100,
            max_waiters_of_lock: 100,
        }
    }
}

/// A request to hold several locks of a namespace, or none: all with one lease id, which is the
/// client's own. It does not wait.
#[derive(Clone, Debug)]
pub struct AcquireAll {
    /// The locks' namespace.
    pub namespace_id: NamespaceId,
    /// The locks' names: at most [`MAX_TOGETHER`], none twice.
    pub names: Vec<LockName>,
    /// The account that will hold them.
    pub account_id: AccountId,
    /// The API token that was sent with the request.
    pub token_id: TokenId,
    /// The id that each of the leases will have.
    pub lease_id: Uuid,
    /// The length of the leases, milliseconds.
    pub lease_ms: i32,
    /// The same, if the request itself named it.
    pub requested_ms: Option<i32>,
    /// As in [`Acquire`].
    pub max_hold_ms: Option<i32>,
    /// As in [`Acquire`].
    pub holder: Option<String>,
    /// As in [`Acquire`].
    pub metadata: Option<Value>,
    /// The most locks that the account may hold at once.
    pub max_live_locks: i32,
}

/// The outcome of an [`AcquireAll`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcquireAllOutcome {
    /// All are held by these leases, in the order of the request's names.
    Granted(Vec<Lease>),
    /// Nothing was granted: these are held by others, or waited for.
    Held(Vec<LockName>),
    /// Nothing was granted or renewed: one of the leases of this id has ended.
    LeaseEnded,
    /// Nothing was granted: the account holds as many locks as its plan allows.
    TooManyLocks,
}

/// The most locks of an [`AcquireAll`].
pub const MAX_TOGETHER: usize = 50;

/// A request to renew a lease.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// The lock.
    pub key: LockKey,
    /// The account that holds it.
    pub account_id: AccountId,
    /// The proof of ownership; without it only a lease that needs none is renewed.
    pub lease_id: Option<Uuid>,
    /// The length to renew by instead of the length granted, milliseconds.
    pub lease_ms: Option<i32>,
}

/// A request to end a lease.
#[derive(Clone, Debug)]
pub struct Release {
    /// The lock.
    pub key: LockKey,
    /// The account that holds it.
    pub account_id: AccountId,
    /// The proof of ownership; without it only a lease that needs none is released.
    pub lease_id: Option<Uuid>,
}

/// A lease that was granted or renewed, durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The client's id, or one that the engine drew.
    pub lease_id: Uuid,
    /// Strictly increasing for one lock, in the order of grants (P4).
    pub fencing_token: i64,
    /// The time for which it now lasts, milliseconds. The client's deadline is the instant before
    /// it sent the request, plus this.
    pub expires_in_ms: i32,
    /// The length that it was granted with, milliseconds.
    pub lease_ms: i32,
    /// When it was granted, on the database's clock.
    pub acquired_at: DateTime<Utc>,
    /// When it ends, on the database's clock.
    pub expires_at: DateTime<Utc>,
    /// How many leases may hold the lock beside it.
    pub mode: Mode,
    /// The number of its permit, from 0 to the limit of the semaphore less 1, unique among the live
    /// ones. `None` unless it is of a semaphore.
    pub slot: Option<i32>,
    /// How long after its grant it can be renewed at most, milliseconds.
    pub max_hold_ms: Option<i32>,
    /// How long the request waited for the lock, milliseconds: from its arrival to the instant
    /// before the statement was sent that granted or confirmed the lease. Counts toward the
    /// client's deadline as `expires_in_ms` does.
    pub waited_ms: i32,
    /// The client's label for people, as it was granted.
    pub holder: Option<String>,
    /// The client's JSON for programs, as it was granted.
    pub metadata: Option<Box<Value>>,
}

/// Why there is no lease to renew or release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It lapsed, and the lock was not granted since.
    Expired,
    /// It was released.
    Released,
    /// It was broken by somebody with the right to do so.
    Broken,
    /// It lapsed, and the lock was granted again since.
    Superseded,
    /// It has reached its hold limit (P11).
    HoldLimit,
    /// It was released before it was granted, and is never granted any more.
    NeverGranted,
    /// The account holds no such lease; or it ended more than an hour ago.
    Unknown,
    /// The account holds the lock with a lease that needs its id, and the id was not sent.
    Unproved,
}

/// The outcome of an [`Acquire`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcquireOutcome {
    /// The lock is held by this lease: granted now, or by an earlier request with the same lease id
    /// and renewed now.
    Granted(Lease),
    /// Another lease holds the lock, or a waiter is before this request; of a request that waits:
    /// for as long as it waited.
    Held,
    /// The lock is in use in another mode or with another limit.
    LimitConflict {
        /// The mode in force.
        in_force: Mode,
    },
    /// The lease of this id has ended: a lease id serves one lease of a lock (P6).
    LeaseEnded,
}

/// The outcome of a [`Heartbeat`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeartbeatOutcome {
    /// The lease lasts its full length again.
    Renewed(Lease),
    /// There is nothing to renew.
    Lost(Lost),
}

/// The outcome of a [`Release`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReleaseOutcome {
    /// The lease was ended by this request, or by an earlier one with the same lease id.
    Released,
    /// There is nothing to release.
    Lost(Lost),
}

/// A lease that was ended by force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenLease {
    /// The account that held it.
    pub account_id: AccountId,
    /// Its lease id.
    pub lease_id: Uuid,
    /// Its fencing token.
    pub fencing_token: i64,
}

/// Which leases of a lock a [`Engine::break_leases`] ends: those that match all that is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeasesToBreak {
    /// Those of this account.
    pub account_id: Option<AccountId>,
    /// The one with this lease id.
    pub lease_id: Option<Uuid>,
    /// The one with this fencing token.
    pub fencing_token: Option<i64>,
}

/// Why a request has no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// There are more requests than the engine can answer. Nothing was done.
    #[error("there are more requests than the engine can answer")]
    Overloaded,
    /// The node is stopping. Nothing was done.
    #[error("the node is stopping")]
    ShuttingDown,
    /// The database was unreachable, or its answer was lost or came too late: the request may have
    /// been executed or not.
    #[error("the outcome is unknown")]
    Unknown,
    /// The account holds as many locks as its plan allows. Nothing was done.
    #[error("the plan allows {max} locks at once")]
    TooManyLocks {
        /// The plan's limit.
        max: i32,
    },
    /// As many requests of the account wait as may: on this node, or for this lock. Nothing was
    /// done.
    #[error("{max} requests of the account may wait")]
    TooManyWaiters {
        /// The limit that was reached.
        max: i32,
    },
    /// The API token was revoked, or its account suspended, while the request waited. It was not
    /// granted.
    #[error("the caller was refused while it waited")]
    CallerRefused,
    /// Another request with the same lease id took the place of this one, and answers for both.
    #[error("a later request waits in the place of this one")]
    Replaced,
    /// The database refuses the statement. A bug of ours.
    #[error("the database refused the statement")]
    Refused,
}
