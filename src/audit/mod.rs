//! The audit log: each entry has an actor, an act, the values before and after, the time, and the
//! client IP. It is written in the transaction of the act.

pub mod store;

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::id::{AccountId, TokenId};

pub use store::{list, of_the_last_hour, record};

/// The means by which an actor acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// The pages, in a browser.
    Browser,
    /// The API, with this token.
    Token(TokenId),
    /// `lockable admin`.
    Command,
}

impl Means {
    /// Its text in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Browser => "browser",
            Self::Token(_) => "token",
            Self::Command => "command",
        }
    }
}

/// The author of an act.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The actor's account; `None` for a command.
    pub account_id: Option<AccountId>,
    /// An e-mail address, or `command:<operating system user>`.
    pub name: String,
    /// The client IP of the request.
    pub client_ip: Option<IpAddr>,
    /// The id of the request, as in its answer and its log line.
    pub request_id: Option<String>,
    /// The means of the act.
    pub means: Means,
}

impl Actor {
    /// The actor of a command on this machine.
    pub fn command(os_user: &str) -> Self {
        Self {
            account_id: None,
            name: format!("command:{os_user}"),
            client_ip: None,
            request_id: None,
            means: Means::Command,
        }
    }
}

/// An act.
#[derive(Clone, Debug)]
pub struct Act<'a> {
    /// A dotted lower-case verb phrase, such as `account.suspend`.
    pub action: &'a str,
    /// The account that the act is on, if there is one.
    pub subject_account_id: Option<AccountId>,
    /// An e-mail address, `plan:<code>`, `lock:<namespace>/<name>`.
    pub subject: &'a str,
    /// The changed values before the act.
    pub before: Option<Value>,
    /// The changed values after the act.
    pub after: Option<Value>,
    /// The reason, in the actor's words.
    pub reason: Option<&'a str>,
}

/// An entry of the log.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "columns, which the migrations describe")]
pub struct Entry {
    pub audit_id: i64,
    pub at: DateTime<Utc>,
    pub actor: String,
    pub client_ip: Option<String>,
    pub request_id: Option<String>,
    pub action: String,
    pub subject: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
    pub reason: Option<String>,
}

/// A reason is 1 to 500 characters without control characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("give a reason of 1 to 500 characters")]
pub struct InvalidReason;

/// Checks the reason that an actor gives for an act, and trims it. Line breaks are allowed.
///
/// # Errors
/// [`InvalidReason`].
pub fn check_reason(reason: &str) -> Result<&str, InvalidReason> {
    let reason = reason.trim();
    let has_allowed_length = (1..=500).contains(&reason.chars().count());
    let is_forbidden = |c: char| c.is_control() && c != '\n' && c != '\r';
    if has_allowed_length && !reason.chars().any(is_forbidden) {
        Ok(reason)
    } else {
        Err(InvalidReason)
    }
}
