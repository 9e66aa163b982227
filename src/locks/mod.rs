//! Locks: taking, keeping and giving them back. Knows nothing of HTTP.
//!
//! * [`names`]: what a lock may be called;
//! * [`engine`]: one question, one answer; behind it lanes that send what arrives together as one
//!   statement;
//! * `queue`, `lane`, `answers`: what waits, who sends it, and what its outcome means;
//! * `novelty`: which acquires are most likely of locks that have no row;
//! * [`statements`]: the statements that decide, each about many locks at once;
//! * [`store`]: everything else that is asked of or done to the table;
//! * [`sweeper`]: removes rows that nobody needs any more;
//! * [`usage`]: how many locks each account holds, against its plan's limit.

mod answers;
pub mod engine;
mod lane;
pub mod names;
mod novelty;
mod queue;
pub mod statements;
pub mod store;
pub mod sweeper;
pub mod usage;

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::id::{AccountId, NamespaceId, TokenId};

pub use engine::{Engine, EngineError, EngineSettings};
pub use names::{LockName, NameError};

/// Which lock: every row, and every statement, goes by this key. Ordered as the statements order
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockKey {
    /// Where.
    pub namespace_id: NamespaceId,
    /// Compared byte for byte.
    pub name: LockName,
}

/// The wish to hold a lock.
#[derive(Clone, Debug)]
pub struct Acquire {
    /// Which lock.
    pub key: LockKey,
    /// For whom.
    pub account_id: AccountId,
    /// With which API token.
    pub token_id: TokenId,
    /// The id that the lease shall have: the client's own, so that it can ask again after a lost
    /// answer (P6), or one drawn for it.
    pub lease_id: Uuid,
    /// Whether only the lease id shall renew and release it (P5). Must be so with a lease id of the
    /// client's own: an id is remembered after its lease has ended only then.
    pub needs_proof: bool,
    /// How long the lease shall be, milliseconds.
    pub lease_ms: i32,
    /// The same, if the request itself said so: what a repetition renews by instead of the length
    /// granted.
    pub requested_ms: Option<i32>,
    /// A label for people, at most 256 bytes.
    pub holder: Option<String>,
    /// JSON for programs, at most 4 KiB.
    pub metadata: Option<Value>,
    /// How many locks the account may hold at once.
    pub max_live_locks: i32,
}

#[cfg(test)]
impl Acquire {
    /// As version 1 asks without parameters.
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
            max_live_locks: 10,
        }
    }
}

/// The wish to keep a lock.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// Which lock.
    pub key: LockKey,
    /// For whom.
    pub account_id: AccountId,
    /// The proof; without it only a lease that needs none is renewed.
    pub lease_id: Option<Uuid>,
    /// Renew by this instead of the length that the lease was granted with, milliseconds.
    pub lease_ms: Option<i32>,
}

/// The wish to give a lock back.
#[derive(Clone, Debug)]
pub struct Release {
    /// Which lock.
    pub key: LockKey,
    /// For whom.
    pub account_id: AccountId,
    /// The proof; without it only a lease that needs none is released.
    pub lease_id: Option<Uuid>,
}

/// A lease that was granted or renewed, durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its id: the client's, or one that we drew.
    pub lease_id: Uuid,
    /// Strictly increasing for one lock, in the order of grants (P4).
    pub fencing_token: i64,
    /// How long it now lasts, milliseconds. The client's deadline is the instant before it asked,
    /// plus this.
    pub expires_in_ms: i32,
    /// The length that it was granted with, milliseconds.
    pub lease_ms: i32,
    /// When it was granted, on the database's clock.
    pub acquired_at: DateTime<Utc>,
    /// When it ends, on the database's clock.
    pub expires_at: DateTime<Utc>,
}

/// Why a lease is not there to be renewed or released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It lapsed, and nobody has taken the lock since.
    Expired,
    /// It was released.
    Released,
    /// Somebody with the right to do so broke it.
    Broken,
    /// It lapsed, and the lock was granted again since.
    Superseded,
    /// The account holds no such lease; or it ended more than an hour ago.
    Unknown,
    /// The account holds the lock, with a lease that needs its id, which was not given.
    Unproved,
}

/// The answer to [`Acquire`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcquireOutcome {
    /// The lock is held by this lease: granted now, or by an earlier request with the same lease id
    /// and renewed now.
    Granted(Lease),
    /// Another lease holds the lock.
    Held,
    /// The lease of this id has ended: a lease id serves one lease (P6).
    LeaseEnded,
}

/// The answer to [`Heartbeat`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeartbeatOutcome {
    /// The lease lasts its full length again.
    Renewed(Lease),
    /// There is nothing to renew.
    Lost(Lost),
}

/// The answer to [`Release`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReleaseOutcome {
    /// The lease has ended by this request, or by an earlier one with the same lease id.
    Released,
    /// There is nothing to release.
    Lost(Lost),
}
