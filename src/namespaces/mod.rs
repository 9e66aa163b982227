//! Namespaces: the public one that all share, and the private ones of accounts.

pub mod store;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::id::NamespaceId;
use crate::plans::LeaseRefused;

pub use store::{create, delete, find, list, set_lease_default};

/// The name of the namespace that all share.
pub const PUBLIC: &str = "public";

/// A namespace that an account can use.
#[derive(Clone, Debug, Serialize)]
pub struct Namespace {
    /// Its row.
    pub namespace_id: NamespaceId,
    /// `public`, or its owner's name for it.
    pub name: String,
    /// Its default lease, milliseconds; none: the account's.
    pub lease_default_ms: Option<i32>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// The account's live tokens for it.
    pub tokens: i64,
}

/// What may be wrong with a namespace.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The name is not `[a-z0-9-]{1,63}`.
    #[error("a namespace's name is 1 to 63 of a-z, 0-9 and -")]
    InvalidName,
    /// `public` is what all share.
    #[error("`public` is the namespace that all share: choose another name")]
    Reserved,
    /// The account has one of this name.
    #[error("you have a namespace of this name already")]
    Taken,
    /// The account has none of this name or id.
    #[error("you have no such namespace")]
    Unknown,
    /// The plan has none at all.
    #[error("private namespaces are not part of this plan")]
    NotInPlan,
    /// The plan allows no more.
    #[error("this plan allows {max} private namespaces: delete one first")]
    TooMany {
        /// What it allows.
        max: i32,
    },
    /// Somebody holds a lock in it.
    #[error("locks are held in this namespace: release or break them first")]
    InUse,
    /// The plan does not allow this lease.
    #[error(transparent)]
    Lease(#[from] LeaseRefused),
    /// The database could not be asked.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}
