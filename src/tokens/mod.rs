//! API tokens: what a program shows to act for an account.

mod caller;
pub mod store;
pub mod verifier;

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::id::{NamespaceId, TokenId};

pub use caller::Caller;
pub use store::{create, create_for, list, revoke, revoke_all, rotate};
pub use verifier::{Verifier, VerifyError};

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Take, keep and give back locks of its own namespace.
    Locks,
    /// Also manage the account's tokens, namespaces and settings, and break locks.
    Manage,
}

impl Scope {
    /// As it is stored and shown.
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

/// What makes a token.
#[derive(Clone, Debug)]
pub struct NewToken<'a> {
    /// What its owner calls it.
    pub label: &'a str,
    /// `public`, or one of the account's private namespaces.
    pub namespace: &'a str,
    /// What it may do.
    pub scope: Scope,
    /// When it stops working.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A token as its owner sees it in the list: without the secret, which is not known any more.
#[derive(Clone, Debug, Serialize)]
pub struct Token {
    /// Its row.
    pub token_id: TokenId,
    /// What its owner calls it.
    pub label: String,
    /// The namespace whose locks it takes.
    pub namespace_id: NamespaceId,
    /// That namespace's name.
    pub namespace: String,
    /// What it may do: `locks` or `manage`.
    pub scope: String,
    /// Its last four characters.
    pub hint: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it stops working.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was last seen, up to ten seconds behind.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Whether its time is over.
    pub expired: bool,
}

/// What may be wrong with managing tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A label is 1 to 100 characters without control characters.
    #[error("give the token a label of 1 to 100 characters")]
    InvalidLabel,
    /// Not `locks` or `manage`.
    #[error("a token's scope is `locks` or `manage`")]
    UnknownScope,
    /// The account has no such namespace.
    #[error("you have no namespace of this name")]
    UnknownNamespace,
    /// It would be of no use.
    #[error("choose a time in the future for the token to expire")]
    ExpiryInThePast,
    /// The plan allows no more.
    #[error("this plan allows {max} tokens: revoke one first")]
    TooMany {
        /// What it allows.
        max: i32,
    },
    /// The account has none of this id.
    #[error("you have no such token")]
    Unknown,
    /// The database could not be asked.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}
