//! The database: pools whose connections are set up and checked, and what the rest needs to know of
//! its failures.

pub mod backup;
pub mod changes;
pub mod embedded;
pub mod identity;
pub mod migrate;
mod source;

pub use source::{Source, SourceError};

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, PgPool};

/// How long a request waits for a free connection before it is answered 503.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// What a connection is for: its set-up differs.
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
    /// What the database's views of its sessions show.
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
                 SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_memoize = off; SET jit = off;
                 SET plan_cache_mode = force_generic_plan",
            )
            .await?;
    }
    Ok(())
}

/// True where the error says that the database could not be asked or could not finish: the answer
/// is "unknown", 503. False where it refused what we said, which is a bug of ours.
pub fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Protocol(_)
        | sqlx::Error::Configuration(_) => true,
        sqlx::Error::Database(database) => match database.code().as_deref() {
            // 08: connection; 53: out of resources; 57: intervention, shut-down, starting up; 58:
            // I/O; XX: internal.
            Some(code) if matches!(&code[..2], "08" | "53" | "57" | "58" | "XX" | "28") => true,
            // A standby that was asked to write: routed there before it was promoted.
            Some("25006") => true,
            Some(code) => is_contention_code(code),
            None => false,
        },
        _ => false,
    }
}

/// True where the statement lost against others and may simply be run again: serialization failure,
/// deadlock, `lock_timeout`.
pub fn is_contention(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|database| database.code().map(|code| is_contention_code(&code)))
        .unwrap_or(false)
}

fn is_contention_code(code: &str) -> bool {
    matches!(code, "40001" | "40P01" | "55P03")
}

/// The name of the constraint that refused a row, where one did.
pub fn violated_constraint(error: &sqlx::Error) -> Option<&str> {
    error
        .as_database_error()
        .and_then(|database| database.constraint())
}

/// Opens one connection outside a pool, set up and checked as a pool's would be, within
/// [`ACQUIRE_TIMEOUT`].
///
/// # Errors
/// Where the database cannot be reached or refuses the connection.
pub async fn connect(options: &PgConnectOptions, purpose: Purpose) -> sqlx::Result<PgConnection> {
    let mut options = options.clone().application_name(purpose.application_name());
    if purpose == Purpose::LockEngine {
        // The lane has its own measure of each statement.
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
