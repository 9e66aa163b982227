//! Connections to the database: pooled and single, each set up and checked before its first use.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, PgPool};

use super::identity;

/// How long a request waits for a free connection before it is answered 503.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// The use of a connection, which decides its set-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Pages, commands and jobs.
    General,
    /// The lock engine. Its few statements are known and all go by primary key; the planner is kept
    /// from ever believing otherwise, whatever its statistics say (a sequential scan of ten million
    /// locks was seen otherwise).
    LockEngine,
}

/// Opens a pool of at most `max_connections`, none of them before it is needed.
pub fn pool(options: PgConnectOptions, purpose: Purpose, max_connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(max_connections)
        .min_connections(0)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(move |connection, _| Box::pin(set_up(connection, purpose)))
        .connect_lazy_with(options.application_name(purpose.application_name()))
}

impl Purpose {
    /// The name in the database's views of its sessions.
    fn application_name(self) -> &'static str {
        match self {
            Self::General => "lockable",
            Self::LockEngine => "lockable locks",
        }
    }
}

async fn set_up(connection: &mut PgConnection, purpose: Purpose) -> sqlx::Result<()> {
    prepare_session(connection, purpose).await?;
    identity::check(connection).await
}

/// Sets what correctness depends on, whatever the server, database or role is configured to (ADR
/// 2).
async fn prepare_session(connection: &mut PgConnection, purpose: Purpose) -> sqlx::Result<()> {
    connection
        .execute(
            "/* db.prepare_session */
             SET default_transaction_isolation = 'read committed';
             SET default_transaction_read_only = off;
             SET statement_timeout = 0;
             SET idle_in_transaction_session_timeout = '60s';
             SET lock_timeout = '1s';
             SELECT set_config('synchronous_commit', 'on', false)
               WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')",
        )
        .await?;
    if purpose == Purpose::LockEngine {
        connection
            .execute(
                "/* db.prepare_engine_session */
                 SET enable_seqscan = off; SET enable_bitmapscan = off;
                 SET enable_memoize = off; SET jit = off;
                 SET plan_cache_mode = force_generic_plan",
            )
            .await?;
    }
    Ok(())
}

/// Opens one connection outside a pool, set up and checked as a pool's would be, within
/// [`ACQUIRE_TIMEOUT`].
///
/// # Errors
/// The database's, if it cannot be reached or refuses the connection.
pub async fn connect(options: &PgConnectOptions, purpose: Purpose) -> sqlx::Result<PgConnection> {
    let mut options = options.clone().application_name(purpose.application_name());
    if purpose == Purpose::LockEngine {
        // The lane measures each statement by itself.
        options = options.disable_statement_logging();
    }
    let open = async {
        let mut connection = PgConnection::connect_with(&options).await?;
        set_up(&mut connection, purpose).await?;
        Ok(connection)
    };
    tokio::time::timeout(ACQUIRE_TIMEOUT, open)
        .await
        .map_err(|_| sqlx::Error::PoolTimedOut)?
}
