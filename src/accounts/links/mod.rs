//! Links in mail: stored hashed, each works once and for an hour.

mod store;

use crate::id::AccountId;

pub use store::{create, find, sweep, take, void_all};

/// What a link does once its button is pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Confirms the address that an account has.
    VerifyEmail,
    /// Sets a new password.
    ResetPassword,
    /// Makes the address that it was sent to the account's.
    ChangeEmail,
}

impl Purpose {
    fn as_str(self) -> &'static str {
        match self {
            Self::VerifyEmail => "verify-email",
            Self::ResetPassword => "reset-password",
            Self::ChangeEmail => "change-email",
        }
    }
}

/// A link that works, or did.
#[derive(Debug, Clone)]
pub struct Link {
    /// Whose it is.
    pub account_id: AccountId,
    /// Where it was sent.
    pub email: String,
    /// It was used before: only [`find`] says so, within the hour.
    pub is_used: bool,
}
