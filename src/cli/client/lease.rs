//! A lease that was granted to `lockable run`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::api::Parameters;
use super::clock::BootInstant;

/// The job is killed this long before the lease ends, or a tenth of the lease if that is less:
/// processes need a moment to die, on a busy machine a longer one.
const MARGIN: Duration = Duration::from_secs(1);

/// A granted lease.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) id: Uuid,
    pub(super) fencing_token: u64,
    pub(super) length: Duration,
    /// The lease is certainly held until then, unless it is renewed.
    pub(super) held_until: BootInstant,
    /// The parameters of its heartbeats.
    pub(super) parameters: Parameters,
}

/// The latest instants at which the job is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Deadlines {
    /// The job is told to end (SIGTERM).
    pub(super) end_at: BootInstant,
    /// Everything that is left of the job is killed.
    pub(super) kill_at: BootInstant,
}

impl Lease {
    /// The deadlines of a job on this lease, of which `grace` lies between SIGTERM and SIGKILL.
    pub(super) fn deadlines(&self, grace: Duration) -> Deadlines {
        let kill_at = self.held_until - MARGIN.min(self.length / 10);
        Deadlines {
            end_at: kill_at - grace,
            kill_at,
        }
    }
}
