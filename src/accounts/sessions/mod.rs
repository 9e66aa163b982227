//! Browser sessions: one row each, found by the SHA-256 of its id, so that a stolen table signs
//! nobody in.
//!
//! A session ends [`IDLE`] after it was last seen, and [`ABSOLUTE`] after it began, on the
//! database's clock.

mod store;

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use crate::id::AccountId;

pub use store::{create, delete, end, end_all_but, list, load, save, sweep};

/// The length of a session after it was last seen.
pub const IDLE: chrono::TimeDelta = chrono::TimeDelta::days(7);
/// The most length of a session.
pub const ABSOLUTE: chrono::TimeDelta = chrono::TimeDelta::days(30);

/// The hash of a session's id. Not a secret: it signs nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionHash([u8; 32]);

impl SessionHash {
    /// The hash of a session's id in the form in which the cookie carries it.
    pub fn of(id: &str) -> Self {
        Self(Sha256::digest(id).into())
    }

    /// Its text in URLs.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// Parses the text of a URL.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        hex::decode_to_slice(text, &mut hash).ok()?;
        Some(Self(hash))
    }
}

/// A session in its owner's list.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "columns, which the migrations describe")]
pub struct SessionInfo {
    pub hash: SessionHash,
    pub created_at: DateTime<Utc>,
    /// The time of the last request with it, to the minute.
    pub last_seen_at: DateTime<Utc>,
    pub client_ip: Option<String>,
    pub user_agent: Option<String>,
}

/// A new session.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "columns, which the migrations describe")]
pub struct NewSession<'a> {
    pub hash: SessionHash,
    pub account_id: AccountId,
    /// The data that pages keep in it.
    pub data: &'a serde_json::Value,
    pub client_ip: Option<IpAddr>,
    /// The browser's name for itself; cut to the column's length.
    pub user_agent: Option<&'a str>,
}
