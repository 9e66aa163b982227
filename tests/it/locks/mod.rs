//! The lock engine and its statements, against real PostgreSQL.

mod durability;
mod engine;
mod exclusion;
mod faults;
mod fencing;
mod kills;
mod mutants;
mod new_locks;
mod outage;
mod plans_of_statements;
mod refusals;
mod repeats;
mod workload;

use std::time::Duration;

use lockable::clock;
use lockable::db::{Purpose, pool};
use lockable::id::{AccountId, NamespaceId, TokenId};
use lockable::locks::{
    Acquire, AcquireOutcome, Engine, EngineError, EngineSettings, Heartbeat, HeartbeatOutcome,
    Lease, LockKey, LockName, Lost, Release, ReleaseOutcome,
};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::support::history::{Answer, Operation};

/// Lock rows have no foreign keys: any number is an account.
pub(crate) const ALICE: AccountId = AccountId(1);
pub(crate) const BOB: AccountId = AccountId(2);

/// What a node is below HTTP: an engine with its own connections, and the clock's tick.
#[derive(Debug)]
pub(crate) struct Node {
    engine: Engine,
    pool: PgPool,
    ticking: JoinHandle<()>,
}

impl Node {
    /// Starts it, and ticks once, so that lapsed leases can be taken over from the beginning.
    pub(crate) async fn start(options: PgConnectOptions) -> Node {
        Node::start_with(options, EngineSettings::default()).await
    }

    /// Starts it with an engine that is set up otherwise.
    pub(crate) async fn start_with(options: PgConnectOptions, settings: EngineSettings) -> Node {
        let node = Node::new(&options, settings, clock::TICK_EVERY);
        clock::tick(&node.pool).await.unwrap();
        node
    }

    /// Starts it, over a database that need not answer yet.
    pub(crate) fn start_ticking_every(options: &PgConnectOptions, period: Duration) -> Node {
        Node::new(options, EngineSettings::default(), period)
    }

    fn new(options: &PgConnectOptions, settings: EngineSettings, period: Duration) -> Node {
        let pool = pool(options.clone(), Purpose::General, 4);
        let ticking = tokio::spawn({
            let pool = pool.clone();
            async move {
                let mut interval = tokio::time::interval(period);
                interval.tick().await;
                loop {
                    interval.tick().await;
                    clock::tick(&pool).await.ok();
                }
            }
        });
        Node {
            engine: Engine::start(options, settings),
            pool,
            ticking,
        }
    }

    /// Takes a lock for Alice, with a lease id.
    pub(crate) async fn acquire(
        &self,
        name: &str,
        lease_id: Uuid,
        lease_ms: i32,
    ) -> Result<AcquireOutcome, EngineError> {
        self.engine
            .acquire(acquire(ALICE, name, lease_id, lease_ms))
            .await
    }

    pub(crate) async fn heartbeat(
        &self,
        name: &str,
        lease_id: Uuid,
    ) -> Result<HeartbeatOutcome, EngineError> {
        self.engine
            .heartbeat(heartbeat(ALICE, name, Some(lease_id)))
            .await
    }

    pub(crate) async fn release(
        &self,
        name: &str,
        lease_id: Uuid,
    ) -> Result<ReleaseOutcome, EngineError> {
        self.engine
            .release(release(ALICE, name, Some(lease_id)))
            .await
    }

    /// Takes a lock that must be free.
    #[track_caller]
    pub(crate) fn grant(
        &self,
        name: &str,
        lease_id: Uuid,
        lease_ms: i32,
    ) -> impl Future<Output = Lease> {
        let asked = self.acquire(name, lease_id, lease_ms);
        async move {
            match asked.await {
                Ok(AcquireOutcome::Granted(lease)) => lease,
                other => panic!("not granted: {other:?}"),
            }
        }
    }

    /// Asks, in the words of a history.
    pub(crate) async fn ask(
        &self,
        operation: Operation,
        name: &str,
        lease_id: Uuid,
        lease: Duration,
    ) -> Answer {
        let lease_ms = i32::try_from(lease.as_millis()).unwrap();
        match operation {
            Operation::Acquire => match self.acquire(name, lease_id, lease_ms).await {
                Ok(AcquireOutcome::Granted(lease)) => Answer::Held {
                    fencing_token: lease.fencing_token,
                },
                Ok(AcquireOutcome::Held) => Answer::Refused,
                Ok(AcquireOutcome::LeaseEnded) => Answer::Lost,
                Err(error) => unknown(error),
            },
            Operation::Heartbeat => match self.heartbeat(name, lease_id).await {
                Ok(HeartbeatOutcome::Renewed(lease)) => Answer::Held {
                    fencing_token: lease.fencing_token,
                },
                Ok(HeartbeatOutcome::Lost(_)) => Answer::Lost,
                Err(error) => unknown(error),
            },
            Operation::Release => match self.release(name, lease_id).await {
                Ok(ReleaseOutcome::Released) => Answer::Released,
                Ok(ReleaseOutcome::Lost(_)) => Answer::Lost,
                Err(error) => unknown(error),
            },
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.ticking.abort();
    }
}

/// Whatever went wrong, the database never refused a statement: that would be a bug.
fn unknown(error: EngineError) -> Answer {
    assert_ne!(error, EngineError::Refused);
    Answer::Unknown
}

pub(crate) fn key(name: &str) -> LockKey {
    LockKey {
        namespace_id: NamespaceId::PUBLIC,
        name: LockName::new(name).unwrap(),
    }
}

/// The wish for a lock, with a lease id of the client's own.
pub(crate) fn acquire(account_id: AccountId, name: &str, lease_id: Uuid, lease_ms: i32) -> Acquire {
    Acquire {
        key: key(name),
        account_id,
        token_id: TokenId(account_id.0),
        lease_id,
        needs_proof: true,
        lease_ms,
        requested_ms: None,
        holder: None,
        metadata: None,
        max_live_locks: i32::MAX,
    }
}

/// The same as version 1 asks it of old: without a lease id of the client's.
pub(crate) fn acquire_unproved(account_id: AccountId, name: &str, lease_ms: i32) -> Acquire {
    Acquire {
        needs_proof: false,
        ..acquire(account_id, name, Uuid::new_v4(), lease_ms)
    }
}

pub(crate) fn heartbeat(account_id: AccountId, name: &str, lease_id: Option<Uuid>) -> Heartbeat {
    Heartbeat {
        key: key(name),
        account_id,
        lease_id,
        lease_ms: None,
    }
}

pub(crate) fn release(account_id: AccountId, name: &str, lease_id: Option<Uuid>) -> Release {
    Release {
        key: key(name),
        account_id,
        lease_id,
    }
}

/// Panics unless the heartbeat renewed, and returns the lease.
#[track_caller]
pub(crate) fn renewed(outcome: Result<HeartbeatOutcome, EngineError>) -> Lease {
    match outcome {
        Ok(HeartbeatOutcome::Renewed(lease)) => lease,
        other => panic!("not renewed: {other:?}"),
    }
}

#[track_caller]
pub(crate) fn lost(outcome: Result<HeartbeatOutcome, EngineError>) -> Lost {
    match outcome {
        Ok(HeartbeatOutcome::Lost(lost)) => lost,
        other => panic!("not lost: {other:?}"),
    }
}
