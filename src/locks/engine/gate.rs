//! Requests to the gate of a lock, and their outcomes. The SQL function `lock_gate` decides them
//! under the lock of the lock's row (ADR 11).

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::events::NewEvent;
use crate::id::AccountId;
use crate::locks::{Acquire, BrokenLease, Lease, LockKey, Lost, Mode, Release};

/// A request that the gate of its lock decides.
#[derive(Clone, Debug)]
pub(super) struct GateRequest {
    pub(super) key: LockKey,
    /// The account that asks; of a break and of the engine's own requests: none.
    pub(super) account_id: AccountId,
    pub(super) operation: GateOperation,
}

/// The account id of requests that are no account's.
pub(super) const NOBODY: AccountId = AccountId(0);

#[derive(Clone, Debug)]
pub(super) enum GateOperation {
    /// Grants, renews, joins the line if the request waits, or refuses.
    Acquire(Arc<Place>),
    /// Makes the claim of a waiter a whole lease, or says whether it still waits.
    Confirm(Arc<Place>),
    /// As `Confirm`, but the time is up: the waiter leaves the line if it has no claim.
    Leave(Arc<Place>),
    /// Nobody received an outcome: gives up the place and what was granted to it.
    Abandon(Abandoned),
    /// The node knows of no request that waits there: gives up the place, and a claim.
    Unattended(Abandoned),
    /// Renews a shared lease or permit that its own statement did not find or found lapsed.
    Heartbeat {
        lease_id: Uuid,
        lease_ms: Option<i32>,
    },
    /// Ends a lease.
    Release { lease_id: Option<Uuid> },
    /// Ends a lease that nobody received, unless somebody renewed it.
    Compensate { lease_id: Uuid },
    /// Ends leases by force: of all accounts or one, each lease or the one that is named.
    Break {
        account_id: Option<AccountId>,
        lease_id: Option<Uuid>,
        fencing_token: Option<i64>,
    },
    /// Hands over what is free.
    Advance,
}

/// An acquire at the gate; of one that waits, its place in the line.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) acquire: Acquire,
    /// Which of the node's waiting requests it is; 0 for one that does not wait.
    pub(super) attachment: i64,
    /// Until when it waits, on the node's clock.
    pub(super) waits_until: Instant,
}

impl Place {
    /// How long it still waits, milliseconds.
    pub(super) fn remaining_ms(&self) -> i32 {
        let remaining = self.waits_until.saturating_duration_since(Instant::now());
        i32::try_from(remaining.as_millis()).unwrap_or(i32::MAX)
    }
}

/// A place that nobody attends any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abandoned {
    pub(super) lease_id: Uuid,
    pub(super) needs_proof: bool,
    pub(super) attachment: i64,
}

impl From<&Place> for Abandoned {
    fn from(place: &Place) -> Self {
        Self {
            lease_id: place.acquire.lease_id,
            needs_proof: place.acquire.needs_proof,
            attachment: place.attachment,
        }
    }
}

impl GateRequest {
    pub(super) fn of_place(
        place: &Arc<Place>,
        operation: impl FnOnce(Arc<Place>) -> GateOperation,
    ) -> Self {
        Self {
            key: place.acquire.key.clone(),
            account_id: place.acquire.account_id,
            operation: operation(Arc::clone(place)),
        }
    }

    pub(super) fn abandon(key: LockKey, account_id: AccountId, abandoned: Abandoned) -> Self {
        Self {
            key,
            account_id,
            operation: GateOperation::Abandon(abandoned),
        }
    }

    pub(super) fn unattended(key: LockKey, account_id: AccountId, abandoned: Abandoned) -> Self {
        Self {
            key,
            account_id,
            operation: GateOperation::Unattended(abandoned),
        }
    }

    pub(super) fn release(request: Release) -> Self {
        Self {
            key: request.key,
            account_id: request.account_id,
            operation: GateOperation::Release {
                lease_id: request.lease_id,
            },
        }
    }

    pub(super) fn advance(key: LockKey) -> Self {
        Self {
            key,
            account_id: NOBODY,
            operation: GateOperation::Advance,
        }
    }

    pub(super) fn place(&self) -> Option<&Place> {
        match &self.operation {
            GateOperation::Acquire(place)
            | GateOperation::Confirm(place)
            | GateOperation::Leave(place) => Some(place),
            _ => None,
        }
    }

    pub(super) fn abandoned(&self) -> Option<Abandoned> {
        match &self.operation {
            GateOperation::Abandon(abandoned) | GateOperation::Unattended(abandoned) => {
                Some(*abandoned)
            }
            _ => self.place().map(Abandoned::from),
        }
    }

    pub(super) fn lease_id(&self) -> Option<Uuid> {
        match &self.operation {
            GateOperation::Heartbeat { lease_id, .. } | GateOperation::Compensate { lease_id } => {
                Some(*lease_id)
            }
            GateOperation::Release { lease_id } | GateOperation::Break { lease_id, .. } => {
                *lease_id
            }
            GateOperation::Advance => None,
            _ => self.abandoned().map(|abandoned| abandoned.lease_id),
        }
    }

    /// The account whose leases it is about; `None` for any.
    pub(super) fn account_id_of_lease(&self) -> Option<i64> {
        match &self.operation {
            GateOperation::Break { account_id, .. } => account_id.map(|id| id.0),
            _ => Some(self.account_id.0),
        }
    }

    pub(super) fn name_of_operation(&self) -> &'static str {
        match &self.operation {
            GateOperation::Acquire(_) => "acquire",
            GateOperation::Confirm(_) => "confirm",
            GateOperation::Leave(_) => "leave",
            GateOperation::Abandon(_) => "abandon",
            GateOperation::Unattended(_) => "unattended",
            GateOperation::Heartbeat { .. } => "heartbeat",
            GateOperation::Release { .. } => "release",
            GateOperation::Compensate { .. } => "compensate",
            GateOperation::Break { .. } => "break",
            GateOperation::Advance => "advance",
        }
    }
}

/// What the gate decided about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum GateOutcome {
    /// Granted, renewed, or made a whole lease.
    Granted(Lease),
    Held,
    LimitConflict(Mode),
    LeaseEnded,
    /// It stands in the line.
    Waiting,
    /// It stood in the line, and does not any more.
    Left,
    /// It has neither a place nor a lease.
    Gone,
    /// A later request has its place.
    Replaced,
    TooManyWaiters,
    CallerRefused,
    Released,
    Lost(Lost),
    /// The leases that were broken.
    Broken(Vec<BrokenLease>),
    /// Nothing was asked about a lease.
    Done,
}

impl GateOutcome {
    /// The label in metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Granted(_) => "granted",
            Self::Held => "held",
            Self::LimitConflict(_) => "limit_conflict",
            Self::LeaseEnded => "lease_ended",
            Self::Waiting => "waiting",
            Self::Left => "left",
            Self::Gone => "gone",
            Self::Replaced => "replaced",
            Self::TooManyWaiters => "too_many_waiters",
            Self::CallerRefused => "caller_refused",
            Self::Released => "released",
            Self::Lost(_) => "lost",
            Self::Broken(_) => "broken",
            Self::Done => "done",
        }
    }
}

/// What a batch of requests to gates did beside their outcomes.
#[derive(Debug, Default)]
pub(super) struct GateNews {
    /// The claims that were granted.
    pub(super) claims: Vec<Claim>,
    /// The locks with a line, and when to ask about each again, at the latest.
    pub(super) next_ends: Vec<(LockKey, Duration)>,
    /// The leases that were found to have lapsed.
    pub(super) lapsed: u64,
    /// The claims that were found to have lapsed.
    pub(super) claims_lapsed: u64,
    /// The ends of leases in private namespaces.
    pub(super) ended: Vec<NewEvent>,
}

/// A claim that was granted to a ticket.
#[derive(Debug)]
pub(super) struct Claim {
    /// The node whose request waits with this ticket.
    pub(super) node_id: i64,
    /// Which of that node's requests.
    pub(super) attachment: i64,
}
