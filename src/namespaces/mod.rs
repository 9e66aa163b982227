//! Namespaces: the public one that all share, and the private ones of accounts.

pub mod store;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::id::NamespaceId;
use crate::plans::{LeaseRefused, Limits, is_slug};

pub use store::{create, delete, find, list, list_page, set_lease_default};

/// The name of the namespace that all share.
pub const PUBLIC: &str = NamespaceId::PUBLIC_NAME;

/// A namespace that an account can use.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "columns, which the migrations describe")]
pub struct Namespace {
    pub namespace_id: NamespaceId,
    /// `public`, or its owner's name for it.
    pub name: String,
    /// Its default lease, milliseconds; `None` for the account's.
    pub lease_default_ms: Option<i32>,
    pub created_at: DateTime<Utc>,
    /// The account's live tokens for it.
    pub tokens: i64,
    /// 1 for the oldest of its account's private namespaces; 0 for the public one.
    pub age_rank: i64,
}

/// Whether new locks are granted in a namespace of this [`age_rank`](Namespace::age_rank): a plan
/// includes the public namespace and the oldest private ones, as many as its limit says.
pub fn in_plan(age_rank: i64, limits: &Limits) -> bool {
    age_rank <= i64::from(limits.max_private_namespaces)
}

/// Checks the name of a private namespace.
///
/// # Errors
/// [`NamespaceError::Reserved`], [`NamespaceError::InvalidName`].
pub fn check_name(name: &str) -> Result<(), NamespaceError> {
    if name == PUBLIC {
        return Err(NamespaceError::Reserved);
    }
    if !is_slug(name) {
        return Err(NamespaceError::InvalidName);
    }
    Ok(())
}

/// An error of managing namespaces.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The name is not `[a-z0-9-]{1,63}`.
    #[error("a namespace's name is 1 to 63 of a-z, 0-9 and -")]
    InvalidName,
    /// `public` is the name of the namespace that all share.
    #[error("`public` is the namespace that all share: choose another name")]
    Reserved,
    /// The account has a namespace of this name already.
    #[error("you have a namespace of this name already")]
    Taken,
    /// The account has no namespace of this name or id.
    #[error("you have no such namespace")]
    Unknown,
    /// The plan has no private namespaces.
    #[error("private namespaces are not part of this plan")]
    NotInPlan,
    /// The account has as many as its plan allows.
    #[error("this plan allows {max} private namespaces: delete one first")]
    TooMany {
        /// The plan's limit.
        max: i32,
    },
    /// A lock in the namespace is held.
    #[error("locks are held in this namespace: release or break them first")]
    InUse,
    /// The plan does not allow this lease.
    #[error(transparent)]
    Lease(#[from] LeaseRefused),
    /// The database query failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}
