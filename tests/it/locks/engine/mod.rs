//! The lock engine without HTTP: what it answers, in what order, and what becomes of an answer that
//! is lost on either side.

mod failures;
mod limits;
mod model;
mod storage;

use std::time::Duration;

use lockable::clock;
use lockable::db::{self, Purpose};
use lockable::id::{AccountId, NamespaceId, TokenId};
use lockable::locks::{Acquire, Engine, EngineSettings, Heartbeat, LockKey, LockName, Release};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use uuid::Uuid;

/// An engine over a database, with the tick that a ready node does.
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) pool: PgPool,
    ticking: tokio::task::JoinHandle<()>,
}

impl Node {
    pub(crate) fn start(options: &PgConnectOptions, settings: EngineSettings) -> Self {
        let pool = db::pool(options.clone(), Purpose::General, 2);
        let ticking = tokio::spawn({
            let pool = pool.clone();
            async move {
                let mut interval = tokio::time::interval(Duration::from_millis(500));
                loop {
                    interval.tick().await;
                    // The database may be away on purpose.
                    let _ = clock::tick(&pool).await;
                }
            }
        });
        Self {
            engine: Engine::start(options, settings),
            pool,
            ticking,
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.ticking.abort();
    }
}

pub(crate) fn key(name: &str) -> LockKey {
    LockKey {
        namespace_id: NamespaceId::PUBLIC,
        name: LockName::new(name).unwrap(),
    }
}

/// An acquire of 60 s, with a lease id of the client's own or without one.
pub(crate) fn acquire(account: i64, name: &str, lease_id: Option<Uuid>) -> Acquire {
    Acquire {
        key: key(name),
        account_id: AccountId(account),
        token_id: TokenId(1),
        lease_id: lease_id.unwrap_or_else(Uuid::new_v4),
        needs_proof: lease_id.is_some(),
        lease_ms: 60_000,
        requested_ms: None,
        holder: None,
        metadata: None,
        max_live_locks: i32::MAX,
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
