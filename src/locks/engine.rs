//! The lock engine's front: one question, one answer.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::TaskTracker;

use super::lane::{ALONE_AT_ONCE, Lane};
use super::queue::{Item, Pending, Question, Queue};
use super::usage::Usage;
use super::{
    Acquire, AcquireOutcome, Heartbeat, HeartbeatOutcome, LockKey, Release, ReleaseOutcome,
};

/// How an engine is set up.
#[derive(Clone, Copy, Debug)]
pub struct EngineSettings {
    /// Lanes: batches of a node that can be under way at once.
    pub lanes: usize,
    /// The most questions in a batch.
    pub largest_batch: usize,
    /// The most questions that wait in a lane.
    pub queue_capacity: usize,
    /// How long a question may take until it is answered as unknown.
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

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// More is asked than can be answered. Nothing was done.
    #[error("more is asked than can be answered")]
    Overloaded,
    /// The node is stopping. Nothing was done.
    #[error("the node is stopping")]
    ShuttingDown,
    /// The database could not be asked, or its answer was lost or came too late: it may have been
    /// done or not.
    #[error("the outcome is unknown")]
    Unknown,
    /// The account holds as many locks as its plan allows. Nothing was done.
    #[error("the plan allows {max} locks at once")]
    TooManyLocks {
        /// What the plan allows.
        max: i32,
    },
    /// The database does not accept the question. A bug of ours.
    #[error("the database refused the statement")]
    Refused,
}

/// The lock engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {
    lanes: Arc<[Arc<Queue>]>,
    tasks: TaskTracker,
    usage: Usage,
    deadline: Duration,
}

impl Engine {
    /// Starts the lanes, on the current tokio runtime. They connect when they have something to
    /// ask: four connections each (eight in a crowd), and a few more for locks whose rows are busy.
    pub fn start(database: &PgConnectOptions, settings: EngineSettings) -> Self {
        let usage = Usage::default();
        let alone = Arc::new(Semaphore::new(ALONE_AT_ONCE));
        let tasks = TaskTracker::new();
        let lanes: Arc<[Arc<Queue>]> = (0..settings.lanes.max(1))
            .map(|_| Arc::new(Queue::new(settings.queue_capacity)))
            .collect();
        for queue in lanes.iter() {
            let lane = Lane {
                queue: Arc::clone(queue),
                database: database.clone(),
                usage: usage.clone(),
                largest_batch: settings.largest_batch,
                alone: Arc::clone(&alone),
                tasks: tasks.clone(),
                runtime: Handle::current(),
            };
            tasks.spawn(lane.run());
        }
        Self {
            lanes,
            tasks,
            usage,
            deadline: settings.deadline,
        }
    }

    /// Takes a lock that is free; or renews the lease, if the one that holds it is of this id and
    /// account.
    ///
    /// # Errors
    /// Where the outcome cannot be known, or nothing was done.
    pub async fn acquire(&self, question: Acquire) -> Result<AcquireOutcome, EngineError> {
        let max = question.max_live_locks;
        if self.usage.is_at_limit(question.account_id, max) {
            // In a box: it is seldom, and another question's room.
            return Box::pin(self.acquire_at_limit(question, max)).await;
        }
        self.ask(question, Item::Acquire).await
    }

    /// An account at its limit takes nothing new, but may still be asking again for a lease that it
    /// has (P6).
    async fn acquire_at_limit(
        &self,
        question: Acquire,
        max: i32,
    ) -> Result<AcquireOutcome, EngineError> {
        if !question.needs_proof {
            return Err(EngineError::TooManyLocks { max });
        }
        let renewal = Heartbeat {
            key: question.key,
            account_id: question.account_id,
            lease_id: Some(question.lease_id),
            lease_ms: question.requested_ms,
        };
        match self.ask(renewal, Item::Heartbeat).await? {
            HeartbeatOutcome::Renewed(lease) => Ok(AcquireOutcome::Granted(lease)),
            HeartbeatOutcome::Lost(super::Lost::Unknown) => Err(EngineError::TooManyLocks { max }),
            HeartbeatOutcome::Lost(_) => Ok(AcquireOutcome::LeaseEnded),
        }
    }

    /// Makes a lease last its full length again.
    ///
    /// # Errors
    /// Where the outcome cannot be known, or nothing was done.
    pub async fn heartbeat(&self, question: Heartbeat) -> Result<HeartbeatOutcome, EngineError> {
        self.ask(question, Item::Heartbeat).await
    }

    /// Ends a lease.
    ///
    /// # Errors
    /// Where the outcome cannot be known, or nothing was done.
    pub async fn release(&self, question: Release) -> Result<ReleaseOutcome, EngineError> {
        self.ask(question, Item::Release).await
    }

    /// What is counted of accounts' locks.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Whether anything can be asked now: so that under overload a request is refused before it has
    /// cost anything.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] where every lane is full.
    pub fn check_room(&self) -> Result<(), EngineError> {
        if self.lanes.iter().any(|lane| lane.has_room()) {
            Ok(())
        } else {
            Err(EngineError::Overloaded)
        }
    }

    /// Questions that wait to be sent, in all lanes.
    pub fn depth(&self) -> usize {
        self.lanes.iter().map(|lane| lane.depth()).sum()
    }

    /// Accepts nothing more, answers what was accepted, and returns when that is done.
    pub async fn shut_down(&self) {
        for lane in self.lanes.iter() {
            lane.close();
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn ask<Q: Question>(
        &self,
        question: Q,
        into_item: impl FnOnce(Pending<Q>) -> Item,
    ) -> Result<Q::Outcome, EngineError> {
        let deadline = Instant::now() + self.deadline;
        let (reply, answer) = oneshot::channel();
        let lane = self.lane(question.key());
        lane.push(into_item(Pending::new(question, Some(reply), deadline)));
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(answer)) => answer,
            // Late, or the lane is gone with its runtime: it may have been done.
            Ok(Err(_)) | Err(_) => Err(EngineError::Unknown),
        }
    }

    fn lane(&self, key: &LockKey) -> &Queue {
        let at = if self.lanes.len() == 1 {
            0
        } else {
            let mut hasher = DefaultHasher::new();
            key.hash(&mut hasher);
            usize::try_from(hasher.finish() % self.lanes.len() as u64).unwrap_or(0)
        };
        &self.lanes[at]
    }
}
