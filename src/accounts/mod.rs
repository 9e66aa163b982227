//! Accounts: who may hold locks.

mod email;
pub mod links;
pub mod passwords;
pub mod sessions;
pub mod store;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::id::AccountId;
use crate::plans::{LeaseRefused, Limits};

pub use email::{Email, InvalidEmail};
pub use passwords::{PasswordHash, PasswordRefused, Passwords};
pub use store::{
    change_email, create, delete, deleting, find, find_by_email, password_hash, promote, restore,
    search, set_lease_default, set_password, set_plan, suspend, verify_email,
};

/// An account and its plan.
#[derive(Clone, Debug, Serialize)]
pub struct Account {
    /// Its row.
    pub account_id: AccountId,
    /// As its owner typed it.
    pub email: String,
    /// The code of its plan.
    pub plan: String,
    /// What its plan allows.
    pub limits: Limits,
    /// Whether it manages plans and accounts.
    pub is_admin: bool,
    /// Its own default lease, milliseconds; none: the plan's.
    pub lease_default_ms: Option<i32>,
    /// When its address was confirmed.
    pub email_verified_at: Option<DateTime<Utc>>,
    /// When it was suspended, if it is.
    pub suspended_at: Option<DateTime<Utc>>,
    /// Why it was suspended, if it is.
    pub suspended_reason: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// What makes an account.
#[derive(Debug)]
pub struct NewAccount<'a> {
    /// Its address.
    pub email: &'a Email,
    /// None: it can be signed in to only after a link by mail has set a password.
    pub password: Option<PasswordHash>,
    /// The code of its plan.
    pub plan: &'a str,
    /// Whether it manages plans and accounts.
    pub is_admin: bool,
    /// Whether the address counts as confirmed: made by an administrator.
    pub email_verified: bool,
}

/// What may be wrong with an account.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// An account has this address, perhaps in another case.
    #[error("there is an account with this e-mail address already")]
    EmailTaken,
    /// There is none of this id or address; or it is being deleted.
    #[error("there is no such account")]
    Unknown,
    /// There is no plan of this code.
    #[error("there is no plan `{0}`")]
    UnknownPlan(String),
    /// A reason is 1 to 500 characters without control characters.
    #[error("give a reason of 1 to 500 characters")]
    InvalidReason,
    /// The plan does not allow this lease.
    #[error(transparent)]
    Lease(#[from] LeaseRefused),
    /// It is what it would become: suspended already, an administrator already.
    #[error("nothing to do: the account is {0} already")]
    Already(&'static str),
    /// The database could not be asked.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Checks the reason that somebody gives for what they do to somebody else's.
///
/// # Errors
/// [`AccountError::InvalidReason`].
pub fn check_reason(reason: &str) -> Result<&str, AccountError> {
    let reason = reason.trim();
    let length = reason.chars().count();
    if (1..=500).contains(&length)
        && !reason
            .chars()
            .any(|c| c.is_control() && c != '\n' && c != '\r')
    {
        Ok(reason)
    } else {
        Err(AccountError::InvalidReason)
    }
}
