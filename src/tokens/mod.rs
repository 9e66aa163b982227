//! API tokens: the credentials of programs that act for an account.

mod caller;
pub mod store;
pub mod verifier;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::accounts::Account;
use crate::id::{NamespaceId, TokenId};

pub use caller::Caller;
pub use store::{create, create_for, find, list, list_page, revoke, revoke_all, rotate, sweep};
pub use verifier::{Verifier, VerifyError};

/// The longest time for which a token stays valid beside its successor: seven days.
pub const MAX_OVERLAP: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The rights of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Acquire, renew and release locks of its own namespace.
    Locks,
    /// Also manage the account's tokens, namespaces and settings, and break locks.
    Manage,
}

impl Scope {
    /// Its text in the database and on pages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Locks => "locks",
            Self::Manage => "manage",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "locks" => Ok(Self::Locks),
            "manage" => Ok(Self::Manage),
            _ => Err(TokenError::UnknownScope),
        }
    }
}

/// The settings of a new token.
#[derive(Clone, Debug)]
pub struct NewToken<'a> {
    /// Its owner's name for it.
    pub label: &'a str,
    /// `public`, or one of the account's private namespaces.
    pub namespace: &'a str,
    /// The rights of the token.
    pub scope: Scope,
    /// The instant at which it expires; `None` for never.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A token in its owner's list: without the secret, of which only a digest is stored.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "columns, which the migrations describe")]
pub struct Token {
    pub token_id: TokenId,
    pub label: String,
    pub namespace_id: NamespaceId,
    pub namespace: String,
    /// `locks` or `manage`.
    pub scope: String,
    /// The last four characters of the token.
    pub hint: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    /// Up to ten seconds behind.
    pub last_used_at: Option<DateTime<Utc>>,
    /// True if `expires_at` is past.
    pub expired: bool,
}

/// Whether an account needs a confirmed e-mail address before it may create tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmailConfirmation {
    /// It does: the service sends e-mail, so that owners can confirm theirs.
    Required,
    /// It does not: nobody could confirm anything.
    NotRequired,
}

/// Checks that the account may create tokens at all: [`create`] begins with the same check. For
/// callers that want a password for what follows, and should not have it typed in vain.
///
/// # Errors
/// [`TokenError::EmailNotConfirmed`].
pub fn check_email_confirmed(
    account: &Account,
    confirmation: EmailConfirmation,
) -> Result<(), TokenError> {
    if confirmation == EmailConfirmation::Required && account.email_verified_at.is_none() {
        return Err(TokenError::EmailNotConfirmed);
    }
    Ok(())
}

/// The time for which a rotated token stays valid beside its successor, from milliseconds.
///
/// # Errors
/// [`TokenError::InvalidOverlap`].
pub fn overlap_from_ms(overlap_ms: i64) -> Result<Duration, TokenError> {
    u64::try_from(overlap_ms)
        .map(Duration::from_millis)
        .ok()
        .filter(|overlap| *overlap <= MAX_OVERLAP)
        .ok_or(TokenError::InvalidOverlap)
}

/// An error of managing tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A label is 1 to 100 characters without control characters.
    #[error("give the token a label of 1 to 100 characters")]
    InvalidLabel,
    /// Not `locks` or `manage`.
    #[error("a token's scope is `locks` or `manage`")]
    UnknownScope,
    /// The account's e-mail address is not confirmed, and has to be.
    #[error("confirm your e-mail address first: press the button in the mail that we sent you")]
    EmailNotConfirmed,
    /// The account has no such namespace.
    #[error("you have no namespace of this name")]
    UnknownNamespace,
    /// The token would have expired already.
    #[error("choose a time in the future for the token to expire")]
    ExpiryInThePast,
    /// The old token would stay valid beside its successor for longer than [`MAX_OVERLAP`].
    #[error(
        "the old token stays valid beside the new one for 0 to 604800000 ms, which is seven days"
    )]
    InvalidOverlap,
    /// The account has as many as its plan allows.
    #[error("this plan allows {max} tokens: revoke one first")]
    TooMany {
        /// The plan's limit.
        max: i32,
    },
    /// The account has no token of this id.
    #[error("you have no such token")]
    Unknown,
    /// The database query failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}
