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
//! * `delivery`: outcome to reply, counters, retry.

mod batch_statement;
mod connection;
mod delivery;
mod lane;
mod prediction;
mod queue;
mod request;
pub mod statements;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::TaskTracker;

use self::lane::{Lane, MAX_ISOLATED};
use self::queue::Queue;
use self::request::{LockRequest, Pending};
use super::usage::Usage;
use super::{
    Acquire, AcquireOutcome, EngineError, Heartbeat, HeartbeatOutcome, LockKey, Lost, Release,
    ReleaseOutcome,
};

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
    /// The queue of each lane.
    queues: Arc<[Arc<Queue>]>,
    tasks: TaskTracker,
    usage: Usage,
    deadline: Duration,
}

impl Engine {
    /// Starts the lanes, on the current tokio runtime. Each has four connections (eight in a
    /// crowd), and all together a few more for locks whose rows are contended.
    pub fn start(database: &PgConnectOptions, settings: EngineSettings) -> Self {
        let usage = Usage::default();
        let isolation_permits = Arc::new(Semaphore::new(MAX_ISOLATED));
        let tasks = TaskTracker::new();
        let queues: Arc<[Arc<Queue>]> = (0..settings.lanes.max(1))
            .map(|_| Arc::new(Queue::new(settings.queue_capacity)))
            .collect();
        for queue in queues.iter() {
            let lane = Lane {
                queue: Arc::clone(queue),
                database: database.clone(),
                usage: usage.clone(),
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
            deadline: settings.deadline,
        }
    }

    /// Takes a lock that is free; or renews the lease that holds it, if its id and account are the
    /// request's.
    ///
    /// # Errors
    /// [`EngineError`]: its variants say whether the request may have been executed.
    pub async fn acquire(&self, request: Acquire) -> Result<AcquireOutcome, EngineError> {
        let max = request.max_live_locks;
        if self.usage.is_at_limit(request.account_id, max) {
            // In a box: it is rare, and as large as a second request.
            return Box::pin(self.acquire_at_limit(request, max)).await;
        }
        self.submit(request).await
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
        match self.submit(renewal).await? {
            HeartbeatOutcome::Renewed(lease) => Ok(AcquireOutcome::Granted(lease)),
            HeartbeatOutcome::Lost(Lost::Unknown) => Err(EngineError::TooManyLocks { max }),
            HeartbeatOutcome::Lost(_) => Ok(AcquireOutcome::LeaseEnded),
        }
    }

    /// Makes a lease last its full length again.
    ///
    /// # Errors
    /// [`EngineError`]: its variants say whether the request may have been executed.
    pub async fn heartbeat(&self, request: Heartbeat) -> Result<HeartbeatOutcome, EngineError> {
        self.submit(request).await
    }

    /// Ends a lease.
    ///
    /// # Errors
    /// [`EngineError`]: its variants say whether the request may have been executed.
    pub async fn release(&self, request: Release) -> Result<ReleaseOutcome, EngineError> {
        self.submit(request).await
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
        if self.queues.iter().any(|queue| queue.has_room()) {
            Ok(())
        } else {
            Err(EngineError::Overloaded)
        }
    }

    /// The number of requests that wait to be sent, in all lanes.
    pub fn depth(&self) -> usize {
        self.queues.iter().map(|queue| queue.depth()).sum()
    }

    /// Accepts nothing more, answers what was accepted, and returns when that is done.
    pub async fn shut_down(&self) {
        for queue in self.queues.iter() {
            queue.close();
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Queues a request and waits for its outcome, until the deadline.
    async fn submit<R: LockRequest>(&self, request: R) -> Result<R::Outcome, EngineError> {
        let deadline = Instant::now() + self.deadline;
        let (reply, outcome) = oneshot::channel();
        let queue = self.queue_for(request.key());
        queue.push(R::into_any(Pending::new(request, Some(reply), deadline)));
        match tokio::time::timeout_at(deadline.into(), outcome).await {
            Ok(Ok(outcome)) => outcome,
            // Late, or the lane is gone with its runtime: it may have been executed.
            Ok(Err(_)) | Err(_) => Err(EngineError::Unknown),
        }
    }

    /// The queue of the lane that has all requests of this lock.
    fn queue_for(&self, key: &LockKey) -> &Queue {
        let at = if self.queues.len() == 1 {
            0
        } else {
            let mut hasher = DefaultHasher::new();
            key.hash(&mut hasher);
            usize::try_from(hasher.finish() % self.queues.len() as u64).unwrap_or(0)
        };
        &self.queues[at]
    }
}
