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

use super::history::{Answer, Grant, Operation, Outcome, Request};

/// Two accounts, each with a token of the same number. Lock rows have no foreign keys: any number
/// is an account, but only one with a token may wait.
pub(crate) const ALICE: i64 = 1;
pub(crate) const BOB: i64 = 2;

/// Makes both, where they are not there yet; later accounts get other numbers.
const ACCOUNTS: &str = "
    INSERT INTO accounts (account_id, email, email_key, plan_id) OVERRIDING SYSTEM VALUE
    SELECT n, format('%s@node.example', n), format('%s@node.example', n), p.plan_id
      FROM generate_series(1, 2) n, plans p WHERE p.code = 'business'
        ON CONFLICT DO NOTHING;
    INSERT INTO api_tokens (token_id, account_id, namespace_id, label, token_sha256, hint)
           OVERRIDING SYSTEM VALUE
    SELECT n, n, 1, 'node', sha256(n::text::bytea), 'node' FROM generate_series(1, 2) n
        ON CONFLICT DO NOTHING;
    SELECT setval(pg_get_serial_sequence('accounts', 'account_id'), max(account_id)) FROM accounts;
    SELECT setval(pg_get_serial_sequence('api_tokens', 'token_id'), max(token_id))
      FROM api_tokens";

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
        make_accounts(&node.pool).await;
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
        answer(&self.engine, request, lease).await.outcome
    }
}

/// As [`Node::perform`], with all that the client is answered.
pub(crate) async fn answer(engine: &Engine, request: &Request, lease: Duration) -> Answer {
    let ms = |length: Duration| i32::try_from(length.as_millis()).unwrap();
    let (lock, account) = (&request.lock, request.account);
    match request.operation {
        Operation::Acquire => {
            let acquire = Acquire {
                lease_id: request.row_id(),
                lease_ms: ms(request.length.unwrap_or(lease)),
                requested_ms: request.length.map(ms),
                mode: request.mode,
                wait_ms: ms(request.wait),
                ..acquire(account, lock, request.lease_id)
            };
            match engine.acquire(acquire).await {
                Ok(AcquireOutcome::Granted(lease)) => held(&lease),
                Ok(AcquireOutcome::Held) => Outcome::Refused.into(),
                Ok(AcquireOutcome::LimitConflict { .. }) => Outcome::Conflicting.into(),
                Ok(AcquireOutcome::LeaseEnded) => Outcome::Lost.into(),
                Err(error) => unknown(error).into(),
            }
        }
        Operation::Heartbeat => {
            let heartbeat = Heartbeat {
                lease_ms: request.length.map(ms),
                ..heartbeat(account, lock, request.lease_id)
            };
            match engine.heartbeat(heartbeat).await {
                Ok(HeartbeatOutcome::Renewed(lease)) => held(&lease),
                Ok(HeartbeatOutcome::Lost(_)) => Outcome::Lost.into(),
                Err(error) => unknown(error).into(),
            }
        }
        Operation::Release => {
            let outcome = match engine
                .release(release(account, lock, request.lease_id))
                .await
            {
                Ok(ReleaseOutcome::Released) => Outcome::Released,
                Ok(ReleaseOutcome::Lost(_)) => Outcome::Lost,
                Err(error) => unknown(error),
            };
            outcome.into()
        }
    }
}

/// The history's words for a lease.
pub(crate) fn held(lease: &Lease) -> Answer {
    let ms = |ms: i32| Duration::from_millis(u64::try_from(ms).unwrap());
    Answer {
        outcome: Outcome::Held {
            fencing_token: lease.fencing_token,
        },
        grant: Some(Grant {
            slot: lease.slot,
            waited: ms(lease.waited_ms),
            expires_in: ms(lease.expires_in_ms),
            expires_at: lease.expires_at,
        }),
    }
}

/// The accounts of [`ALICE`] and [`BOB`], for tests that start engines in another way.
pub(crate) async fn make_accounts(pool: &PgPool) {
    sqlx::raw_sql(ACCOUNTS).execute(pool).await.unwrap();
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
