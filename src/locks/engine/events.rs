//! The engine's outcomes as events. Of the public namespace there are none: one comparison is all
//! that they cost.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::events::{EventKind, HOLD_LIMIT, NewEvent};
use crate::id::NamespaceId;
use crate::locks::{Acquire, AcquireAll, Lease, LockKey};

/// The grant of a lease to a request; or its renewal, of which the event is there already.
pub(super) fn granted(request: &Acquire, lease: &Lease) -> Option<NewEvent> {
    (request.key.namespace_id != NamespaceId::PUBLIC).then(|| NewEvent {
        namespace_id: request.key.namespace_id,
        name: request.key.name.shared(),
        kind: EventKind::Granted,
        at: lease.acquired_at,
        lease_id: Some(lease.lease_id),
        fencing_token: lease.fencing_token,
        token_id: Some(request.token_id),
        holder: request.holder.clone(),
        waited_ms: Some(lease.waited_ms),
        acquired_at: None,
        reason: None,
    })
}

/// The grants of an [`AcquireAll`], in the order of its names.
pub(super) fn granted_together(request: &AcquireAll, leases: &[Lease]) -> Vec<NewEvent> {
    if request.namespace_id == NamespaceId::PUBLIC {
        return Vec::new();
    }
    let grants = request.names.iter().zip(leases);
    grants
        .map(|(name, lease)| NewEvent {
            namespace_id: request.namespace_id,
            name: name.shared(),
            kind: EventKind::Granted,
            at: lease.acquired_at,
            lease_id: Some(lease.lease_id),
            fencing_token: lease.fencing_token,
            token_id: Some(request.token_id),
            holder: request.holder.clone(),
            waited_ms: Some(0),
            acquired_at: None,
            reason: None,
        })
        .collect()
}

/// The end of a lease, as a statement says it.
#[derive(Debug)]
pub(super) struct EndedLease {
    pub(super) lease_id: Option<Uuid>,
    /// `None` if there is no event: the lease was nobody's yet, or the statement does not say.
    pub(super) fencing_token: Option<i64>,
    pub(super) acquired_at: Option<DateTime<Utc>>,
    pub(super) ended_at: Option<DateTime<Utc>>,
    /// True if it lapsed at its hold limit.
    pub(super) is_held_out: bool,
}

impl EndedLease {
    /// The event of this end.
    pub(super) fn event(self, key: &LockKey, kind: EventKind) -> Option<NewEvent> {
        if key.namespace_id == NamespaceId::PUBLIC {
            return None;
        }
        Some(NewEvent {
            namespace_id: key.namespace_id,
            name: key.name.shared(),
            kind,
            at: self.ended_at?,
            lease_id: self.lease_id,
            fencing_token: self.fencing_token?,
            token_id: None,
            holder: None,
            waited_ms: None,
            acquired_at: self.acquired_at,
            reason: self.is_held_out.then(|| HOLD_LIMIT.to_owned()),
        })
    }
}
