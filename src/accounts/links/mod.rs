//! Links in mail: stored hashed, each works once and for an hour.

mod store;

use crate::id::AccountId;

pub use store::{create, find, sweep, take, void_all};

/// The effect of a link once its button is pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Confirms the account's e-mail address.
    VerifyEmail,
    /// Sets a new password.
    ResetPassword,
    /// Makes the e-mail address that the link was sent to the account's.
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

/// A link that is valid, or was used within the hour.
#[derive(Debug, Clone)]
pub struct Link {
    /// Its account.
    pub account_id: AccountId,
    /// The e-mail address that it was sent to.
    pub email: String,
    /// True if it was used before; only [`find`] returns such a link.
    pub is_used: bool,
}
