//! The objects of version 2's answers, as far as people are shown them. A field that is not there
//! is `None`: in the public namespace, others than the holder learn the state and nothing else.

use chrono::{DateTime, Utc};
use serde::Deserialize;

/// Whether any lease of a lock lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::cli::client) enum State {
    Held,
    Free,
}

/// A lock as somebody who may look sees it.
#[derive(Debug, Deserialize)]
pub(in crate::cli::client) struct Lock {
    pub(in crate::cli::client) name: Option<String>,
    pub(in crate::cli::client) state: State,
    pub(in crate::cli::client) mode: Option<String>,
    /// The number of permits, of a semaphore.
    pub(in crate::cli::client) limit: Option<u32>,
    pub(in crate::cli::client) leases: Option<Vec<Lease>>,
    pub(in crate::cli::client) queue: Option<Vec<Waiter>>,
    pub(in crate::cli::client) queue_length: Option<u64>,
}

impl Lock {
    pub(in crate::cli::client) fn is_held(&self) -> bool {
        self.state == State::Held
    }

    /// The leases that the caller may see.
    pub(in crate::cli::client) fn leases(&self) -> &[Lease] {
        self.leases.as_deref().unwrap_or_default()
    }
}

/// A lease that lives.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli::client) struct Lease {
    pub(in crate::cli::client) lease_id: Option<String>,
    pub(in crate::cli::client) fencing_token: Option<u64>,
    /// The number of its permit, of a semaphore.
    pub(in crate::cli::client) slot: Option<u32>,
    pub(in crate::cli::client) expires_in_ms: Option<i64>,
    pub(in crate::cli::client) max_hold_ms: Option<i64>,
    pub(in crate::cli::client) acquired_at: Option<DateTime<Utc>>,
    pub(in crate::cli::client) expires_at: Option<DateTime<Utc>>,
    pub(in crate::cli::client) holder: Option<String>,
    pub(in crate::cli::client) metadata: Option<serde_json::Value>,
}

/// A place in the line.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli::client) struct Waiter {
    pub(in crate::cli::client) position: Option<u64>,
    pub(in crate::cli::client) mode: Option<String>,
    pub(in crate::cli::client) holder: Option<String>,
    pub(in crate::cli::client) waited_ms: Option<i64>,
    /// True while no request waits with it.
    pub(in crate::cli::client) detached: bool,
}
