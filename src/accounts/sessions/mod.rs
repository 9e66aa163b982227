//! Browser sessions: one row each, found by the SHA-256 of its id, so that a stolen table signs
//! nobody in.
//!
//! The database's clock decides when one ends: [`IDLE`] after it was last seen, and [`ABSOLUTE`]
//! after it began.

mod store;

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use crate::id::AccountId;

pub use store::{create, delete, end, end_all_but, list, load, save, sweep};

/// How long a session lasts after it was last seen.
pub const IDLE: chrono::TimeDelta = chrono::TimeDelta::days(7);
/// How long a session lasts at most.
pub const ABSOLUTE: chrono::TimeDelta = chrono::TimeDelta::days(30);

/// What the table knows a session by. Not a secret: it signs nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionHash([u8; 32]);

impl SessionHash {
    /// The hash of a session's id in the form in which the cookie carries it.
    pub fn of(id: &str) -> Self {
        Self(Sha256::digest(id).into())
    }

    /// As an address names it.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// From an address.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        hex::decode_to_slice(text, &mut hash).ok()?;
        Some(Self(hash))
    }
}

/// One session as its account's owner sees it.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    /// What it is ended by.
    pub hash: SessionHash,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When a page was last asked for with it, a minute exact.
    pub last_seen_at: DateTime<Utc>,
    /// From which address it began, as text.
    pub address: Option<String>,
    /// What the browser said it was when it signed in.
    pub user_agent: Option<String>,
}

/// A session that begins.
#[derive(Debug, Clone)]
pub struct NewSession<'a> {
    /// Hash of its id.
    pub hash: SessionHash,
    /// Whose it is.
    pub account_id: AccountId,
    /// What pages keep in it.
    pub data: &'a serde_json::Value,
    /// Where it began.
    pub address: Option<IpAddr>,
    /// What the browser says it is; cut to what fits.
    pub user_agent: Option<&'a str>,
}
