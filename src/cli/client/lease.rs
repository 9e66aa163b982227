//! A lease that was granted to `lockable run`.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::api::Parameters;

/// A granted lease.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) id: Uuid,
    pub(super) fencing_token: u64,
    pub(super) length: Duration,
    pub(super) held_until: Instant,
    /// The parameters of its heartbeats.
    pub(super) parameters: Parameters,
}
