//! Accounts: the holders of locks.

mod email;
pub mod links;
pub mod passwords;
pub mod sessions;
pub mod store;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::audit::InvalidReason;
use crate::id::AccountId;
use crate::plans::{LeaseRefused, Limits};

pub use email::{Email, InvalidEmail};
pub use passwords::{PasswordHash, PasswordRefused, Passwords};
pub use store::{
    change_email, create, delete, deleting, find, find_by_email, password_hash, promote,
    refresh_email_keys, restore, search, set_lease_default, set_password, set_plan, suspend,
    verify_email,
};

/// An account with the limits of its plan.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "columns, which the migrations describe")]
pub struct Account {
    pub account_id: AccountId,
    /// The e-mail address as its owner typed it.
    pub email: String,
    /// The code of the plan.
    pub plan: String,
    /// The limits of the plan.
    pub limits: Limits,
    pub is_admin: bool,
    /// The account's own default lease, milliseconds; `None` for the plan's.
    pub lease_default_ms: Option<i32>,
    pub email_verified_at: Option<DateTime<Utc>>,
    pub suspended_at: Option<DateTime<Utc>>,
    pub suspended_reason: Option<String>,
    pub created_at: DateTime<Utc>,
}

impl Account {
    /// Its e-mail address.
    pub fn email(&self) -> Email {
        Email::stored(&self.email)
    }
}

/// The settings of a new account.
#[derive(Debug)]
pub struct NewAccount<'a> {
    /// Its e-mail address.
    pub email: &'a Email,
    /// `None` if its owner sets a password by a link in mail before the first sign-in.
    pub password: Option<PasswordHash>,
    /// The code of its plan.
    pub plan: &'a str,
    /// True if it manages plans and accounts.
    pub is_admin: bool,
    /// True if the e-mail address counts as confirmed, because an administrator makes the account.
    pub email_verified: bool,
}

/// The way to a new password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordAct {
    /// Its owner knew the old one.
    Change,
    /// Its owner used a link in mail.
    Reset,
}

/// An error of managing accounts.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// Another account has this e-mail address, perhaps in another case.
    #[error("there is an account with this e-mail address already")]
    EmailTaken,
    /// There is no account of this id or e-mail address, or it is being deleted.
    #[error("there is no such account")]
    Unknown,
    /// There is no plan of this code.
    #[error("there is no plan `{0}`")]
    UnknownPlan(String),
    /// The reason for an act breaks the rule for reasons.
    #[error(transparent)]
    InvalidReason(#[from] InvalidReason),
    /// The plan does not allow this lease.
    #[error(transparent)]
    Lease(#[from] LeaseRefused),
    /// The account is in the wanted state already: suspended, or an administrator.
    #[error("nothing to do: the account is {0} already")]
    Already(&'static str),
    /// Administrators do not suspend themselves: nobody might be left to restore the account.
    #[error("you cannot suspend yourself: another administrator can")]
    Yourself,
    /// The database query failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}
