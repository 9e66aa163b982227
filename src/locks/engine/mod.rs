//! The lock engine: one request, one outcome.
//!
//! ```text
//! Engine ─► queue ─► lane ─► connection ─► statements (sql/*.sql) ─► PostgreSQL
//! client ◄─ delivery ◄─┘
//! ```
//!
//! * `request`: a pending request, its reply and deadline, and the release that undoes it;
//! * `queue`: bounded, fair between accounts, in order for each lock;
//! * `lane`: the loop that sends batches, delivers outcomes and settles with the queue;
//! * `prediction`: which acquires are most likely of locks that have no row;
//! * `connection`: the lane's connections, and how a statement can fail;
//! * `batch_statement`: the kinds of statements, and their names in logs and metrics;
//! * [`statements`]: the statements that decide, each about many locks at once;
//! * `gate`: requests to the gate of a lock, which decides about its line and its members;
//! * `waiting`: this node's waiters, their timers, and what wakes them;
//! * `many`: many heartbeats or releases at once, each by itself;
//! * `together`: requests for several locks or none;
//! * [`metric`]: the metrics of waiting;
//! * `delivery`: outcome to reply, counters, retry;
//! * `events`: outcomes as events of private namespaces.

mod batch_statement;
mod connection;
mod delivery;
mod events;
mod gate;
mod lane;
mod many;
pub mod metric;
mod prediction;
mod queue;
mod request;
pub mod statements;
mod together;
mod waiting;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use self::gate::{GateOperation, GateOutcome, GateRequest, NOBODY, Place};
use self::lane::{Lane, MAX_ISOLATED};
use self::queue::{Queue, Queues};
use self::request::{LockRequest, MemberHeartbeat, Pending};
use self::together::Together;
use self::waiting::{Waiter, Waiting};
use super::usage::Usage;
use super::{
    Acquire, AcquireAll, AcquireAllOutcome, AcquireOutcome, BrokenLease, EngineError, Heartbeat,
    HeartbeatOutcome, LeasesToBreak, LockKey, Lost, Mode, Release, ReleaseOutcome,
};
use crate::events::Recorder;

pub use self::request::FastOutcome;

/// The time that waiters have to receive that the node stops.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// The settings of an engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineSettings {
    /// The number of lanes: batches of a node that can be in flight at once.
    pub lanes: usize,
    /// The most requests in a batch.
    pub largest_batch: usize,
    /// The most requests that wait in a lane.
    pub queue_capacity: usize,
    /// The time after which a request is answered as [`EngineError::Unknown`].
    pub deadline: Duration,
}

impl Default for EngineSettings {
    /// One lane with large batches: fewer, larger commits are worth more than two of them at once
    /// (docs/performance.md).
    fn default() -> Self {
        Self {
            lanes: 1,
            largest_batch: 2048,
            queue_capacity: 8192,
            deadline: Duration::from_secs(5),
        }
    }
}

/// The lock engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {
    queues: Queues,
    tasks: TaskTracker,
    usage: Usage,
    recorder: Recorder,
    waiting: Arc<Waiting>,
    together: Together,
    /// Ends the tasks of the waiters.
    ended: CancellationToken,
    deadline: Duration,
}

impl Engine {
    /// Starts the lanes, on the current tokio runtime. Each has five connections (ten in a crowd);
    /// all together have two for waiting, and a few more for locks whose rows are contended.
    pub fn start(database: &PgConnectOptions, settings: EngineSettings) -> Self {
        let usage = Usage::default();
        let isolation_permits = Arc::new(Semaphore::new(MAX_ISOLATED));
        let tasks = TaskTracker::new();
        let queues = (0..settings.lanes.max(1)).map(|_| Queue::new(settings.queue_capacity));
        let queues = Queues::new(queues);
        let recorder = Recorder::default();
        let (waiting, notices) = Waiting::new(queues.clone(), recorder.clone());
        let ended = CancellationToken::new();
        let while_running = || ended.clone();
        tasks.spawn(while_running().run_until_cancelled_owned(Arc::clone(&waiting).keep_time()));
        let look = Arc::clone(&waiting).look(database.clone());
        tasks.spawn(while_running().run_until_cancelled_owned(look));
        let notify = notices.send_all(database.clone());
        tasks.spawn(while_running().run_until_cancelled_owned(notify));
        for queue in queues.all() {
            let lane = Lane {
                queue: Arc::clone(queue),
                database: database.clone(),
                usage: usage.clone(),
                recorder: recorder.clone(),
                waiting: Arc::clone(&waiting),
                largest_batch: settings.largest_batch,
                isolation_permits: Arc::clone(&isolation_permits),
                tasks: tasks.clone(),
                runtime: Handle::current(),
            };
            tasks.spawn(lane.run());
        }
        Self {
            queues,
            tasks,
            usage,
            recorder: recorder.clone(),
            waiting,
            together: Together::new(database.clone(), recorder),
            ended,
            deadline: settings.deadline,
        }
    }

    /// Takes a lock that is free; or renews the lease that holds it, if its id and account are the
    /// request's. A request that waits stands in the line of the lock until it is granted or its
    /// time is up; it leaves the line when the future is dropped.
    ///
    /// # Errors
    /// [`EngineError`]: its variants say whether the request may have been executed.
    pub async fn acquire(&self, request: Acquire) -> Result<AcquireOutcome, EngineError> {
        let max = request.max_live_locks;
        if self.usage.is_at_limit(request.account_id, max) {
            // In a box: it is rare, and as large as a second request.
            return Box::pin(self.acquire_at_limit(request, max)).await;
        }
        let arrived_at = Instant::now();
        // Most locks are free: the fast path is tried first, unless it is known to be of no use.
        if request.mode == Mode::Exclusive
            && (request.wait_ms == 0 || !self.is_contended(&request.key))
        {
            let mut again = request.clone();
            match self.submit(request).await {
                Ok(FastOutcome::Decided(AcquireOutcome::Held)) if again.wait_ms > 0 => {}
                Ok(FastOutcome::Decided(outcome)) => return Ok(outcome),
                Ok(FastOutcome::Gated) => {}
                // It goes on waiting. What may have been granted to a drawn id is released.
                Err(EngineError::Unknown) if again.wait_ms > 0 => {
                    if !again.needs_proof {
                        again.lease_id = Uuid::new_v4();
                    }
                }
                Err(error) => return Err(error),
            }
            return Box::pin(self.acquire_at_gate(again, arrived_at)).await;
        }
        Box::pin(self.acquire_at_gate(request, arrived_at)).await
    }

    /// An account at its limit takes nothing new, but may repeat the request for a lease that it
    /// has (P6).
    async fn acquire_at_limit(
        &self,
        request: Acquire,
        max: i32,
    ) -> Result<AcquireOutcome, EngineError> {
        if !request.needs_proof {
            return Err(EngineError::TooManyLocks { max });
        }
        let renewal = Heartbeat {
            key: request.key,
            account_id: request.account_id,
            lease_id: Some(request.lease_id),
            lease_ms: request.requested_ms,
        };
        match self.heartbeat(renewal).await? {
            HeartbeatOutcome::Renewed(lease) => Ok(AcquireOutcome::Granted(lease)),
            HeartbeatOutcome::Lost(Lost::Unknown) => Err(EngineError::TooManyLocks { max }),
            HeartbeatOutcome::Lost(_) => Ok(AcquireOutcome::LeaseEnded),
        }
    }

    /// True if requests of this node wait for the lock, or are about to.
    fn is_contended(&self, key: &LockKey) -> bool {
        self.waiting.has_waiters(key) || self.queues.for_key(key).is_busy(key)
    }

    /// As [`Self::acquire`], decided by the gate of the lock.
    async fn acquire_at_gate(
        &self,
        mut request: Acquire,
        arrived_at: Instant,
    ) -> Result<AcquireOutcome, EngineError> {
        if request.wait_ms > 0 {
            let waiter = Waiter::new(&self.waiting, request, arrived_at)?;
            let ask = |request, deadline| self.submit_until(request, deadline);
            return waiter.wait(ask, self.deadline).await;
        }
        let deadline = arrived_at + self.deadline;
        loop {
            let needs_proof = request.needs_proof;
            let place = Arc::new(Place {
                acquire: request.clone(),
                attachment: 0,
                waits_until: arrived_at,
            });
            let asked = GateRequest::of_place(&place, GateOperation::Acquire);
            return match self.submit_until(asked, deadline).await? {
                GateOutcome::Granted(lease) => Ok(AcquireOutcome::Granted(lease)),
                GateOutcome::LimitConflict(in_force) => {
                    Ok(AcquireOutcome::LimitConflict { in_force })
                }
                GateOutcome::LeaseEnded if needs_proof => Ok(AcquireOutcome::LeaseEnded),
                // The id that the engine drew is used up, the client's request is not.
                GateOutcome::LeaseEnded => {
                    request.lease_id = Uuid::new_v4();
                    continue;
                }
                GateOutcome::Held => Ok(AcquireOutcome::Held),
                _ => Err(EngineError::Refused),
            };
        }
    }

    /// Makes a lease last its full length again, or to its hold limit.
    ///
    /// # Errors
    /// [`EngineError`]: its variants say whether the request may have been executed.
    pub async fn heartbeat(&self, request: Heartbeat) -> Result<HeartbeatOutcome, EngineError> {
        let Some(of_member) = MemberHeartbeat::of(request.clone()) else {
            // Without an id, no shared lease or permit is meant.
            let outcome = self.submit(request).await?.decided();
            return Ok(outcome.unwrap_or(HeartbeatOutcome::Lost(Lost::Unknown)));
        };
        if let FastOutcome::Decided(outcome) = self.submit(request).await? {
            return Ok(outcome);
        }
        Box::pin(self.heartbeat_member(of_member)).await
    }

    async fn heartbeat_member(
        &self,
        request: MemberHeartbeat,
    ) -> Result<HeartbeatOutcome, EngineError> {
        let at_gate = GateRequest {
            key: request.key.clone(),
            account_id: request.account_id,
            operation: GateOperation::Heartbeat {
                lease_id: request.lease_id,
                lease_ms: request.lease_ms,
            },
        };
        if let FastOutcome::Decided(outcome) = self.submit(request).await? {
            return Ok(outcome);
        }
        match self.submit(at_gate).await? {
            GateOutcome::Granted(lease) => Ok(HeartbeatOutcome::Renewed(lease)),
            GateOutcome::Lost(lost) => Ok(HeartbeatOutcome::Lost(lost)),
            _ => Err(EngineError::Refused),
        }
    }

    /// Ends a lease.
    ///
    /// # Errors
    /// [`EngineError`]: its variants say whether the request may have been executed.
    pub async fn release(&self, request: Release) -> Result<ReleaseOutcome, EngineError> {
        let at_gate = GateRequest::release(request.clone());
        // Where requests of this node wait for the lock, its gate decides anyway.
        if !self.waiting.has_waiters(&at_gate.key)
            && let FastOutcome::Decided(outcome) = self.submit(request).await?
        {
            return Ok(outcome);
        }
        Box::pin(self.release_at_gate(at_gate)).await
    }

    async fn release_at_gate(&self, request: GateRequest) -> Result<ReleaseOutcome, EngineError> {
        match self.submit(request).await? {
            GateOutcome::Released => Ok(ReleaseOutcome::Released),
            GateOutcome::Lost(lost) => Ok(ReleaseOutcome::Lost(lost)),
            _ => Err(EngineError::Refused),
        }
    }

    /// Ends leases of a lock by force, and hands the lock over. Returns those that were ended;
    /// repeated with a fencing token, also the one that was ended before.
    ///
    /// # Errors
    /// [`EngineError`]: its variants say whether the request may have been executed.
    pub async fn break_leases(
        &self,
        key: LockKey,
        leases: LeasesToBreak,
    ) -> Result<Vec<BrokenLease>, EngineError> {
        let request = GateRequest {
            key,
            account_id: NOBODY,
            operation: GateOperation::Break {
                account_id: leases.account_id,
                lease_id: leases.lease_id,
                fencing_token: leases.fencing_token,
            },
        };
        match self.submit(request).await? {
            GateOutcome::Broken(leases) => Ok(leases),
            _ => Err(EngineError::Refused),
        }
    }

    /// Hands a lock over if it is free, and clears its gate if nobody waits any more.
    ///
    /// # Errors
    /// [`EngineError`]: its variants say whether the request may have been executed.
    pub async fn advance(&self, key: LockKey) -> Result<(), EngineError> {
        self.submit(GateRequest::advance(key)).await.map(drop)
    }

    /// The number of requests that wait for a lock on this node.
    pub fn waiters(&self) -> usize {
        self.waiting.len()
    }

    /// Takes several locks, or none; repeated with the same lease id, it renews them. It does not
    /// wait, and takes no lock that others wait for.
    ///
    /// # Errors
    /// [`EngineError`]: its variants say whether the request may have been executed.
    pub async fn acquire_all(&self, request: AcquireAll) -> Result<AcquireAllOutcome, EngineError> {
        let max = request.max_live_locks;
        let room = self.usage.room(request.account_id, max);
        let deadline = Instant::now() + self.deadline;
        let asked = self.together.acquire_all(&request, room, deadline);
        // Late, it may have been executed.
        let outcome = tokio::time::timeout_at(deadline.into(), asked)
            .await
            .unwrap_or(Err(EngineError::Unknown))?;
        match outcome {
            AcquireAllOutcome::TooManyLocks => Err(EngineError::TooManyLocks { max }),
            AcquireAllOutcome::Granted(leases) => {
                for _ in &leases {
                    self.usage.note_grant(request.account_id, max);
                }
                Ok(AcquireAllOutcome::Granted(leases))
            }
            outcome => Ok(outcome),
        }
    }

    /// The recorder of what happens to the locks of private namespaces.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The counts of accounts' live locks.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Succeeds if a request would be accepted now, so that under overload a request can be
    /// rejected before it has cost anything.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] if every queue is full.
    pub fn check_room(&self) -> Result<(), EngineError> {
        if self.queues.all().any(|queue| queue.has_room()) {
            Ok(())
        } else {
            Err(EngineError::Overloaded)
        }
    }

    /// The number of requests that wait to be sent, in all lanes.
    pub fn depth(&self) -> usize {
        self.queues.all().map(|queue| queue.depth()).sum()
    }

    /// Answers all waiters, and every later one, with [`EngineError::ShuttingDown`]. To be called
    /// when the node begins to stop, so that nobody waits for its waiters.
    pub fn stop_waiting(&self) {
        self.waiting.stop();
    }

    /// Accepts nothing more, answers what was accepted, and returns when that is done.
    pub async fn shut_down(&self) {
        self.stop_waiting();
        // Each waiter gives up its place through a queue.
        let _ = tokio::time::timeout(STOP_PATIENCE, self.waiting.drained()).await;
        for queue in self.queues.all() {
            queue.close();
        }
        self.ended.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Queues a request and waits for its outcome, until the deadline.
    async fn submit<R: LockRequest>(&self, request: R) -> Result<R::Outcome, EngineError> {
        let deadline = Instant::now() + self.deadline;
        self.submit_until(request, deadline).await
    }

    async fn submit_until<R: LockRequest>(
        &self,
        request: R,
        deadline: Instant,
    ) -> Result<R::Outcome, EngineError> {
        let (reply, outcome) = oneshot::channel();
        let queue = self.queues.for_key(request.key());
        queue.push(R::into_any(Pending::new(request, Some(reply), deadline)));
        wait_until(deadline, outcome).await
    }
}

/// The outcome of a request, once it is there.
async fn wait_until<T>(
    deadline: Instant,
    outcome: oneshot::Receiver<Result<T, EngineError>>,
) -> Result<T, EngineError> {
    match tokio::time::timeout_at(deadline.into(), outcome).await {
        Ok(Ok(outcome)) => outcome,
        // Late, or the lane is gone with its runtime: it may have been executed.
        Ok(Err(_)) | Err(_) => Err(EngineError::Unknown),
    }
}
