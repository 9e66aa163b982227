//! A request on its way through a lane: with its reply, its deadline, and its followers.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use uuid::Uuid;

use super::gate::{GateOperation, GateOutcome, GateRequest, Place};
use crate::id::AccountId;
use crate::locks::{
    Acquire, AcquireOutcome, EngineError, Heartbeat, HeartbeatOutcome, LockKey, Release,
    ReleaseOutcome,
};

/// The time for which the engine tries to release a lease that nobody received. A lease of a plan's
/// usual length has lapsed by then.
pub(super) const COMPENSATION_DEADLINE: Duration = Duration::from_secs(60);

/// A request that the engine answers.
pub(super) trait LockRequest: Send + Sync + Sized + 'static {
    type Outcome: std::fmt::Debug + Send + 'static;

    fn key(&self) -> &LockKey;
    fn account_id(&self) -> AccountId;

    /// True if a second execution has the effect and the outcome of one.
    fn is_repeatable(&self) -> bool;

    /// The request among those of all kinds.
    fn into_any(pending: Pending<Self>) -> AnyRequest;

    /// The release that undoes a request which may have been executed and whose outcome nobody
    /// will receive; `None` if there is nothing to undo.
    fn compensating_release(_: &Pending<Self>) -> Option<AnyRequest> {
        None
    }
}

/// The outcome of a statement that decides by a lock's row alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FastOutcome<T> {
    /// The row decided.
    Decided(T),
    /// The row is a gate: a request to the gate decides. Nothing was done.
    Gated,
}

impl<T> FastOutcome<T> {
    /// The outcome, if the row decided.
    pub fn decided(self) -> Option<T> {
        match self {
            Self::Decided(outcome) => Some(outcome),
            Self::Gated => None,
        }
    }
}

impl LockRequest for Acquire {
    type Outcome = FastOutcome<AcquireOutcome>;

    fn key(&self) -> &LockKey {
        &self.key
    }

    fn account_id(&self) -> AccountId {
        self.account_id
    }

    /// Each acquire has a lease id, by which a second execution finds the lease of the first.
    fn is_repeatable(&self) -> bool {
        true
    }

    fn into_any(pending: Pending<Self>) -> AnyRequest {
        AnyRequest::Acquire(pending)
    }

    /// Only for a lease whose id the engine drew: a client with an id of its own can repeat the
    /// request to learn of the grant.
    fn compensating_release(pending: &Pending<Self>) -> Option<AnyRequest> {
        let acquire = &pending.request;
        (pending.is_in_doubt && !acquire.needs_proof)
            .then(|| release_of_grant(acquire, acquire.lease_id))
    }
}

impl LockRequest for Heartbeat {
    type Outcome = FastOutcome<HeartbeatOutcome>;

    fn key(&self) -> &LockKey {
        &self.key
    }

    fn account_id(&self) -> AccountId {
        self.account_id
    }

    fn is_repeatable(&self) -> bool {
        true
    }

    fn into_any(pending: Pending<Self>) -> AnyRequest {
        AnyRequest::Heartbeat(pending)
    }
}

/// A heartbeat of a shared lease or a permit: decided by the row of that lease alone.
#[derive(Debug)]
pub(super) struct MemberHeartbeat {
    pub(super) key: LockKey,
    pub(super) account_id: AccountId,
    pub(super) lease_id: Uuid,
    /// The length to renew by instead of the length granted, milliseconds.
    pub(super) lease_ms: Option<i32>,
}

impl MemberHeartbeat {
    /// The same heartbeat; `None` without a lease id, which no shared lease or permit goes without.
    pub(super) fn of(request: Heartbeat) -> Option<Self> {
        Some(Self {
            lease_id: request.lease_id?,
            key: request.key,
            account_id: request.account_id,
            lease_ms: request.lease_ms,
        })
    }
}

impl LockRequest for MemberHeartbeat {
    type Outcome = FastOutcome<HeartbeatOutcome>;

    fn key(&self) -> &LockKey {
        &self.key
    }

    fn account_id(&self) -> AccountId {
        self.account_id
    }

    fn is_repeatable(&self) -> bool {
        true
    }

    fn into_any(pending: Pending<Self>) -> AnyRequest {
        AnyRequest::MemberHeartbeat(pending)
    }
}

impl LockRequest for Release {
    type Outcome = FastOutcome<ReleaseOutcome>;

    fn key(&self) -> &LockKey {
        &self.key
    }

    fn account_id(&self) -> AccountId {
        self.account_id
    }

    /// Without a lease id, the second execution would find that nothing is held.
    fn is_repeatable(&self) -> bool {
        self.lease_id.is_some()
    }

    fn into_any(pending: Pending<Self>) -> AnyRequest {
        AnyRequest::Release(pending)
    }
}

/// A release by lease id that is decided under the row's lock alone: it waits for a grant that is
/// still in its commit. If there is no such lease, it leaves a mark, so that an acquire of the id
/// which arrives later, or is in flight, is refused (P6).
#[derive(Debug)]
pub(super) struct LockedRelease {
    pub(super) key: LockKey,
    pub(super) account_id: AccountId,
    pub(super) lease_id: Uuid,
    /// True if the client chose the lease id. False for a compensating release: it leaves alone a
    /// lease that anybody renewed since the grant, for then somebody knows of it (P3).
    pub(super) is_clients: bool,
}

impl LockRequest for LockedRelease {
    type Outcome = FastOutcome<ReleaseOutcome>;

    fn key(&self) -> &LockKey {
        &self.key
    }

    fn account_id(&self) -> AccountId {
        self.account_id
    }

    fn is_repeatable(&self) -> bool {
        true
    }

    fn into_any(pending: Pending<Self>) -> AnyRequest {
        AnyRequest::LockedRelease(pending)
    }
}

impl LockRequest for GateRequest {
    type Outcome = GateOutcome;

    fn key(&self) -> &LockKey {
        &self.key
    }

    fn account_id(&self) -> AccountId {
        self.account_id
    }

    /// A release without a lease id would find that nothing is held. A request that joins the line
    /// could take the place of a later one with the same lease id: its waiter asks first whether it
    /// has joined.
    fn is_repeatable(&self) -> bool {
        match &self.operation {
            GateOperation::Release { lease_id } => lease_id.is_some(),
            GateOperation::Acquire(place) => place.attachment == 0,
            _ => true,
        }
    }

    fn into_any(pending: Pending<Self>) -> AnyRequest {
        AnyRequest::Gate(pending)
    }

    /// Of an acquire that does not wait, without a lease id of the client's. A waiter gives up its
    /// place itself.
    fn compensating_release(pending: &Pending<Self>) -> Option<AnyRequest> {
        let GateOperation::Acquire(place) = &pending.request.operation else {
            return None;
        };
        let is_due = pending.is_in_doubt && place.attachment == 0 && !place.acquire.needs_proof;
        is_due.then(|| pending.request.abandonment(place))
    }
}

impl GateRequest {
    /// The request that undoes the grant to a place that nobody attends.
    pub(super) fn abandonment(&self, place: &Place) -> AnyRequest {
        let request = Self::abandon(self.key.clone(), self.account_id, place.into());
        let deadline = Instant::now() + COMPENSATION_DEADLINE;
        AnyRequest::Gate(Pending::new(request, None, deadline))
    }
}

/// The compensating release of a grant that nobody received.
pub(super) fn release_of_grant(acquire: &Acquire, lease_id: Uuid) -> AnyRequest {
    let release = LockedRelease {
        key: acquire.key.clone(),
        account_id: acquire.account_id,
        lease_id,
        is_clients: false,
    };
    let deadline = Instant::now() + COMPENSATION_DEADLINE;
    AnyRequest::LockedRelease(Pending::new(release, None, deadline))
}

/// The outcomes of requests, in their order; `None` for one that has to be retried.
pub(super) type Outcomes<R> = Vec<Option<<R as LockRequest>::Outcome>>;

/// The sender of a request's outcome.
pub(super) type Reply<R> = oneshot::Sender<Result<<R as LockRequest>::Outcome, EngineError>>;

/// A request that was accepted and will be answered.
#[derive(Debug)]
pub(super) struct Pending<R: LockRequest> {
    pub(super) request: R,
    /// `None` for a release that the engine issues itself: nobody waits for its outcome.
    pub(super) reply: Option<Reply<R>>,
    /// The instant at which the request is answered as unknown. No statement writes for it later.
    pub(super) deadline: Instant,
    /// True once it was sent and its result lost: it may have been executed.
    pub(super) is_in_doubt: bool,
    /// True once it was sent as an insert-if-absent; a wrong prediction is not made twice.
    pub(super) insert_tried: bool,
    /// The replies of later requests for the same lock that this one's outcome answers as well.
    pub(super) followers: Vec<Reply<R>>,
}

impl<R: LockRequest> Pending<R> {
    pub(super) fn new(request: R, reply: Option<Reply<R>>, deadline: Instant) -> Self {
        Self {
            request,
            reply,
            deadline,
            is_in_doubt: false,
            insert_tried: false,
            followers: Vec::new(),
        }
    }

    /// Answers the request and its followers with an error.
    pub(super) fn reject(self, error: EngineError) {
        for reply in self.reply.into_iter().chain(self.followers) {
            // A receiver that is gone needs no answer.
            let _ = reply.send(Err(error));
        }
    }
}

impl Pending<Release> {
    /// The same request, decided under the row's lock.
    pub(super) fn under_lock(self, lease_id: Uuid) -> Pending<LockedRelease> {
        let request = LockedRelease {
            key: self.request.key,
            account_id: self.request.account_id,
            lease_id,
            is_clients: true,
        };
        Pending {
            is_in_doubt: self.is_in_doubt,
            ..Pending::new(request, self.reply, self.deadline)
        }
    }
}

/// The view of a pending request that does not depend on its kind: all that a queue needs.
pub(super) trait QueuedRequest {
    fn key(&self) -> &LockKey;
    fn account_id(&self) -> AccountId;
    fn deadline(&self) -> Instant;

    /// True if nobody waits for the outcome any more.
    fn is_abandoned(&self) -> bool;

    /// As [`LockRequest::compensating_release`].
    fn compensating_release(&self) -> Option<AnyRequest>;
}

impl<R: LockRequest> QueuedRequest for Pending<R> {
    fn key(&self) -> &LockKey {
        self.request.key()
    }

    fn account_id(&self) -> AccountId {
        self.request.account_id()
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn is_abandoned(&self) -> bool {
        self.reply.as_ref().is_some_and(oneshot::Sender::is_closed)
            && self.followers.iter().all(oneshot::Sender::is_closed)
    }

    fn compensating_release(&self) -> Option<AnyRequest> {
        R::compensating_release(self)
    }
}

/// A pending request of any kind.
#[derive(Debug)]
pub(super) enum AnyRequest {
    Acquire(Pending<Acquire>),
    Heartbeat(Pending<Heartbeat>),
    MemberHeartbeat(Pending<MemberHeartbeat>),
    Release(Pending<Release>),
    LockedRelease(Pending<LockedRelease>),
    Gate(Pending<GateRequest>),
}

impl AnyRequest {
    pub(super) fn queued(&self) -> &dyn QueuedRequest {
        match self {
            Self::Acquire(pending) => pending,
            Self::Heartbeat(pending) => pending,
            Self::MemberHeartbeat(pending) => pending,
            Self::Release(pending) => pending,
            Self::LockedRelease(pending) => pending,
            Self::Gate(pending) => pending,
        }
    }

    pub(super) fn key(&self) -> &LockKey {
        self.queued().key()
    }

    pub(super) fn account_id(&self) -> AccountId {
        self.queued().account_id()
    }

    /// True for an acquire without a lease id of the client's own that does not wait.
    pub(super) fn is_plain_acquire(&self) -> bool {
        matches!(self, Self::Acquire(pending)
            if !pending.request.needs_proof && pending.request.wait_ms == 0)
    }

    /// True if its statement takes several requests of one lock.
    pub(super) fn is_in_runs(&self) -> bool {
        matches!(self, Self::Gate(_) | Self::MemberHeartbeat(_))
    }

    /// True if this request of the same lock may be decided in the transaction of `run`, requests
    /// of one kind in the order of their arrival.
    pub(super) fn may_join(&self, run: &[Self]) -> bool {
        match (self, run.first()) {
            (Self::Gate(_), Some(Self::Gate(_))) => true,
            // An upsert cannot write one row twice.
            (Self::MemberHeartbeat(next), Some(Self::MemberHeartbeat(_))) => {
                run.iter().all(|other| {
                    !matches!(other, Self::MemberHeartbeat(other)
                        if other.request.lease_id == next.request.lease_id)
                })
            }
            _ => false,
        }
    }

    pub(super) fn reject(self, error: EngineError) {
        match self {
            Self::Acquire(pending) => pending.reject(error),
            Self::Heartbeat(pending) => pending.reject(error),
            Self::MemberHeartbeat(pending) => pending.reject(error),
            Self::Release(pending) => pending.reject(error),
            Self::LockedRelease(pending) => pending.reject(error),
            Self::Gate(pending) => pending.reject(error),
        }
    }
}
