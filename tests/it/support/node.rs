//! A node below HTTP: the lock engine with its own connections, and the tick of the outage record.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lockable::db::{Purpose, pool};
use lockable::id::{AccountId, NamespaceId, TokenId};
use lockable::locks::{
    Acquire, AcquireOutcome, Engine, EngineError, EngineSettings, Heartbeat, HeartbeatOutcome,
    Lease, LockKey, LockName, Lost, Mode, Release, ReleaseOutcome,
};
use lockable::outages;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::history::{Operation, Outcome, Request};

/// Two accounts. Lock rows have no foreign keys: any number is an account.
pub(crate) const ALICE: i64 = 1;
pub(crate) const BOB: i64 = 2;

/// An engine over a database. Stops ticking when dropped.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) pool: PgPool,
    ticking: JoinHandle<()>,
}

impl Node {
    /// Starts it, and ticks once, so that lapsed leases can be taken over from the beginning.
    pub(crate) async fn start(options: PgConnectOptions) -> Node {
        Node::start_with(options, EngineSettings::default()).await
    }

    /// As [`Node::start`], with settings of the test's.
    pub(crate) async fn start_with(options: PgConnectOptions, settings: EngineSettings) -> Node {
        let node = Node::new(&options, settings, outages::TICK_EVERY);
        outages::tick(&node.pool).await.unwrap();
        node
    }

    /// Starts it over a database that need not answer yet. The first tick comes after `period`.
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
                    // A test may make the database unavailable on purpose.
                    outages::tick(&pool).await.ok();
                }
            }
        });
        Node {
            engine: Engine::start(options, settings),
            pool,
            ticking,
        }
    }

    /// Takes a lock for Alice, with a lease id of hers.
    pub(crate) async fn acquire(
        &self,
        name: &str,
        lease_id: Uuid,
        lease_ms: i32,
    ) -> Result<AcquireOutcome, EngineError> {
        let request = Acquire {
            lease_ms,
            ..acquire(ALICE, name, Some(lease_id))
        };
        self.engine.acquire(request).await
    }

    /// Renews Alice's lease.
    pub(crate) async fn heartbeat(
        &self,
        name: &str,
        lease_id: Uuid,
    ) -> Result<HeartbeatOutcome, EngineError> {
        self.engine
            .heartbeat(heartbeat(ALICE, name, Some(lease_id)))
            .await
    }

    /// Ends Alice's lease.
    pub(crate) async fn release(
        &self,
        name: &str,
        lease_id: Uuid,
    ) -> Result<ReleaseOutcome, EngineError> {
        self.engine
            .release(release(ALICE, name, Some(lease_id)))
            .await
    }

    /// Takes a lock for Alice that must be free.
    #[track_caller]
    pub(crate) fn grant(
        &self,
        name: &str,
        lease_id: Uuid,
        lease_ms: i32,
    ) -> impl Future<Output = Lease> {
        let outcome = self.acquire(name, lease_id, lease_ms);
        async move {
            match outcome.await {
                Ok(AcquireOutcome::Granted(lease)) => lease,
                other => panic!("not granted: {other:?}"),
            }
        }
    }

    /// Performs one request of a history. Its outcome is in the history's words. Leases whose
    /// length the request does not name have that of `lease`.
    pub(crate) async fn perform(&self, request: &Request, lease: Duration) -> Outcome {
        let ms = |length: Duration| i32::try_from(length.as_millis()).unwrap();
        let Request {
            lock,
            account,
            lease_id,
            ..
        } = request;
        match request.operation {
            Operation::Acquire => {
                let acquire = Acquire {
                    lease_ms: ms(request.length.unwrap_or(lease)),
                    requested_ms: request.length.map(ms),
                    ..acquire(*account, lock, *lease_id)
                };
                match self.engine.acquire(acquire).await {
                    Ok(AcquireOutcome::Granted(lease)) => Outcome::Held {
                        fencing_token: lease.fencing_token,
                    },
                    Ok(AcquireOutcome::Held | AcquireOutcome::LimitConflict { .. }) => {
                        Outcome::Refused
                    }
                    Ok(AcquireOutcome::LeaseEnded) => Outcome::Lost,
                    Err(error) => unknown(error),
                }
            }
            Operation::Heartbeat => {
                let heartbeat = Heartbeat {
                    lease_ms: request.length.map(ms),
                    ..heartbeat(*account, lock, *lease_id)
                };
                match self.engine.heartbeat(heartbeat).await {
                    Ok(HeartbeatOutcome::Renewed(lease)) => Outcome::Held {
                        fencing_token: lease.fencing_token,
                    },
                    Ok(HeartbeatOutcome::Lost(_)) => Outcome::Lost,
                    Err(error) => unknown(error),
                }
            }
            Operation::Release => {
                let release = release(*account, lock, *lease_id);
                match self.engine.release(release).await {
                    Ok(ReleaseOutcome::Released) => Outcome::Released,
                    Ok(ReleaseOutcome::Lost(_)) => Outcome::Lost,
                    Err(error) => unknown(error),
                }
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.ticking.abort();
    }
}

/// The history's word for an error. Panics if the database refused a statement: that is a bug.
pub(crate) fn unknown(error: EngineError) -> Outcome {
    assert_ne!(error, EngineError::Refused);
    Outcome::Unknown
}

/// A lock of the public namespace.
pub(crate) fn key(name: &str) -> LockKey {
    LockKey {
        namespace_id: NamespaceId::PUBLIC,
        name: LockName::new(name).unwrap(),
    }
}

/// An acquire of 60 s. `None`: without a lease id of the client's, as version 1 has it by default.
pub(crate) fn acquire(account: i64, name: &str, lease_id: Option<Uuid>) -> Acquire {
    Acquire {
        key: key(name),
        account_id: AccountId(account),
        token_id: TokenId(account),
        lease_id: lease_id.unwrap_or_else(Uuid::new_v4),
        needs_proof: lease_id.is_some(),
        lease_ms: 60_000,
        requested_ms: None,
        holder: None,
        metadata: None,
        mode: Mode::Exclusive,
        max_hold_ms: None,
        wait_ms: 0,
        max_live_locks: i32::MAX,
        max_waiters: i32::MAX,
        max_waiters_of_lock: i32::MAX,
    }
}

pub(crate) fn heartbeat(account: i64, name: &str, lease_id: Option<Uuid>) -> Heartbeat {
    Heartbeat {
        key: key(name),
        account_id: AccountId(account),
        lease_id,
        lease_ms: None,
    }
}

pub(crate) fn release(account: i64, name: &str, lease_id: Option<Uuid>) -> Release {
    Release {
        key: key(name),
        account_id: AccountId(account),
        lease_id,
    }
}

/// The renewed lease. Panics if the outcome is another one.
#[track_caller]
pub(crate) fn renewed(outcome: Result<HeartbeatOutcome, EngineError>) -> Lease {
    match outcome {
        Ok(HeartbeatOutcome::Renewed(lease)) => lease,
        other => panic!("not renewed: {other:?}"),
    }
}

/// The reason for which a lease could not be renewed. Panics if the outcome is another one.
#[track_caller]
pub(crate) fn lost(outcome: Result<HeartbeatOutcome, EngineError>) -> Lost {
    match outcome {
        Ok(HeartbeatOutcome::Lost(lost)) => lost,
        other => panic!("not lost: {other:?}"),
    }
}

/// A latest instant for statements that may write whenever they arrive.
pub(crate) fn any_time() -> DateTime<Utc> {
    Utc::now() + TimeDelta::days(365)
}
