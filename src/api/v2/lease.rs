//! A lease, a lock and its queue, as the API shows them.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::id::AccountId;
use crate::locks::store::{HeldLease, LockView, QueuedRequest};
use crate::locks::{Lease, Lost, Mode};

/// RFC 3339 in UTC with milliseconds.
pub fn instant<S: Serializer>(instant: &DateTime<Utc>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&instant.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// The same of an instant that there may not be.
pub fn instant_or_null<S: Serializer>(
    at: &Option<DateTime<Utc>>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => instant(at, to),
        None => to.serialize_none(),
    }
}

/// The mode of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModeName {
    /// It holds the lock alone.
    Exclusive,
    /// It holds the lock with any number of others of its kind.
    Shared,
    /// It holds one of the permits of a semaphore.
    Semaphore,
}

impl From<Mode> for ModeName {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Exclusive => Self::Exclusive,
            Mode::Shared => Self::Shared,
            Mode::Semaphore { .. } => Self::Semaphore,
        }
    }
}

/// The number of permits, of a semaphore.
pub fn limit_of(mode: Mode) -> Option<i32> {
    match mode {
        Mode::Semaphore { limit } => Some(limit),
        Mode::Exclusive | Mode::Shared => None,
    }
}

/// A lease: the right to a lock, until it ends.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Lease, example = json!({
    "namespace": "public", "name": "nightly", "lease_id": "0194d3a5-7c1e-7b7e-9d3f-2f1f6c0a4b11",
    "fencing_token": 42, "mode": "exclusive", "limit": null, "slot": null, "lease_ms": 60000,
    "expires_in_ms": 60000, "max_hold_ms": null, "acquired_at": "2026-11-27T05:00:00.123Z",
    "expires_at": "2026-11-27T05:01:00.123Z", "waited_ms": 0, "holder": "worker-7:4711",
    "metadata": null
}))]
pub struct LeaseBody {
    /// The lock's namespace.
    pub namespace: String,
    /// The lock's name.
    pub name: String,
    /// What renews and releases it.
    pub lease_id: Uuid,
    /// Grows with every grant of the lock; of a semaphore, of each slot.
    pub fencing_token: i64,
    /// How many leases may hold the lock beside it.
    pub mode: ModeName,
    /// The number of permits, of a semaphore.
    #[schema(minimum = 2, maximum = 1000)]
    pub limit: Option<i32>,
    /// The number of its permit, from 0, unique among the live ones.
    pub slot: Option<i32>,
    /// The length that it was granted with, milliseconds.
    pub lease_ms: i32,
    /// The time for which it lasts, milliseconds. The client's deadline, on its own clock, is the
    /// instant before it sent the request, plus `waited_ms`, plus this.
    pub expires_in_ms: i64,
    /// It is never renewed beyond this long after its grant, milliseconds.
    pub max_hold_ms: Option<i32>,
    /// When it was granted, on the service's clock.
    #[serde(serialize_with = "instant")]
    pub acquired_at: DateTime<Utc>,
    /// When it ends unless it is renewed, on the service's clock.
    #[serde(serialize_with = "instant")]
    pub expires_at: DateTime<Utc>,
    /// How long this request waited for it, milliseconds.
    pub waited_ms: i32,
    /// The client's label for people.
    pub holder: Option<String>,
    /// The client's JSON for programs.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Value>,
}

impl LeaseBody {
    /// A lease that was granted or renewed.
    pub fn new(namespace: &str, name: &str, lease: Lease) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            lease_id: lease.lease_id,
            fencing_token: lease.fencing_token,
            mode: lease.mode.into(),
            limit: limit_of(lease.mode),
            slot: lease.slot,
            lease_ms: lease.lease_ms,
            expires_in_ms: lease.expires_in_ms.into(),
            max_hold_ms: lease.max_hold_ms,
            acquired_at: lease.acquired_at,
            expires_at: lease.expires_at,
            waited_ms: lease.waited_ms,
            holder: lease.holder,
            metadata: lease.metadata.map(|metadata| *metadata),
        }
    }

    fn held(namespace: &str, name: &str, lease: HeldLease) -> Self {
        let mode = Mode::from_permits(lease.permits);
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            lease_id: lease.lease_id,
            fencing_token: lease.fencing_token,
            mode: mode.into(),
            limit: limit_of(mode),
            slot: lease.slot.filter(|_| limit_of(mode).is_some()),
            lease_ms: lease.lease_ms,
            expires_in_ms: lease.remaining_ms,
            max_hold_ms: lease.max_hold_ms,
            acquired_at: lease.acquired_at,
            expires_at: lease.expires_at,
            waited_ms: 0,
            holder: lease.holder,
            metadata: lease.metadata,
        }
    }
}

/// Whether a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A lease of it lives.
    Held,
    /// No lease of it lives.
    Free,
}

/// A request that waits for a lock.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Waiter {
    /// Its place: 1 is the next.
    pub position: i64,
    /// The mode that it asks for.
    pub mode: ModeName,
    /// The client's label for people.
    pub holder: Option<String>,
    /// How long its place has been in the queue, milliseconds.
    pub waited_ms: i64,
    /// True while no request waits with it: its place is kept for 20 seconds.
    pub detached: bool,
}

impl From<QueuedRequest> for Waiter {
    fn from(request: QueuedRequest) -> Self {
        Self {
            position: request.position,
            mode: Mode::from_permits(request.permits).into(),
            holder: request.holder,
            waited_ms: request.waited_ms,
            detached: request.is_detached,
        }
    }
}

/// A lock, with the leases that hold it. In the public namespace only one's own are shown.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LockBody {
    /// The lock's namespace.
    pub namespace: String,
    /// The lock's name.
    pub name: String,
    /// Whether it is held.
    pub state: State,
    /// The mode in force.
    pub mode: Option<ModeName>,
    /// The number of permits in force, of a semaphore.
    pub limit: Option<i32>,
    /// The leases that hold it, in the order of their grants.
    pub leases: Vec<LeaseBody>,
    /// The first 100 requests that wait for it. Lists of locks do not have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<Vec<Waiter>>,
    /// The number of requests that wait for it; null in the public namespace.
    pub queue_length: Option<i64>,
}

impl LockBody {
    /// What an account may see of a lock: everything in a namespace of its own, in the public one
    /// whether it is held, and its own leases.
    pub fn new(namespace: &str, name: &str, view: LockView, public_to: Option<AccountId>) -> Self {
        let state = if view.leases.is_empty() {
            State::Free
        } else {
            State::Held
        };
        let leases = view.leases.into_iter();
        let leases: Vec<LeaseBody> = leases
            .filter(|lease| public_to.is_none_or(|account| lease.account_id == account.0))
            .map(|lease| LeaseBody::held(namespace, name, lease))
            .collect();
        let is_public = public_to.is_some();
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            state,
            mode: leases.first().map(|lease| lease.mode),
            limit: leases.first().and_then(|lease| lease.limit),
            leases,
            queue: Some(if is_public {
                Vec::new()
            } else {
                view.queue.into_iter().map(Waiter::from).collect()
            }),
            queue_length: (!is_public).then_some(view.queue_length),
        }
    }
}

/// Why a lease is lost, as the API says it.
pub fn reason(lost: Lost) -> &'static str {
    match lost {
        Lost::Expired => "expired",
        Lost::Released => "released",
        Lost::Broken => "broken",
        Lost::Superseded => "superseded",
        Lost::HoldLimit => "hold-limit",
        Lost::NeverGranted | Lost::Unknown | Lost::Unproved => "unknown",
    }
}
