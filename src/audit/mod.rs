//! The audit log: who did what, from what to what, when, from where. Written in the transaction
//! that does it.

pub mod store;

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::id::AccountId;

pub use store::{list, record};

/// Who acts.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The account that acts; none for a command.
    pub account_id: Option<AccountId>,
    /// An e-mail address, or `command:<operating system user>`.
    pub name: String,
    /// Where the request came from.
    pub address: Option<IpAddr>,
    /// The request, as its answer and its log line name it.
    pub request_id: Option<String>,
}

impl Actor {
    /// Somebody at the command line of the machine.
    pub fn command(os_user: &str) -> Self {
        Self {
            account_id: None,
            name: format!("command:{os_user}"),
            address: None,
            request_id: None,
        }
    }
}

/// What is done. `action` is a dotted lower-case verb phrase such as `account.suspend`.
#[derive(Clone, Debug)]
pub struct Act<'a> {
    /// What was done.
    pub action: &'a str,
    /// The account that it was done to, where there is one.
    pub subject_account_id: Option<AccountId>,
    /// An e-mail address, `plan:<code>`, `lock:<namespace>/<name>`.
    pub subject: &'a str,
    /// The values that changed, as they were.
    pub before: Option<Value>,
    /// The values that changed, as they are.
    pub after: Option<Value>,
    /// Why, in the words of whoever acted.
    pub reason: Option<&'a str>,
}

/// A line of the log.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Entry {
    /// Its number; newer lines have higher ones.
    pub audit_id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Who.
    pub actor: String,
    /// From where.
    pub address: Option<String>,
    /// In which request.
    pub request_id: Option<String>,
    /// Did what.
    pub action: String,
    /// To what.
    pub subject: String,
    /// From what.
    pub before: Option<Value>,
    /// To what value.
    pub after: Option<Value>,
    /// Why.
    pub reason: Option<String>,
}
