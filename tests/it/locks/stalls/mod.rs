//! Statements that a stalled node, network or commit delays: a late one undoes no later answer, and
//! no answer is guessed from an old snapshot (ADR 9).
//!
//! Each test has two nodes on one database; the first is behind a network that the test holds up.
//! [`mutants`] takes single clauses out of the statements, and shows that each one is needed.

mod clock;
mod commits;
mod compensation;
mod doubt;
mod late;
mod marks;
mod mutants;
mod statements;

use std::time::Duration;

use chrono::{DateTime, Utc};
use lockable::locks::{
    Acquire, AcquireOutcome, EngineError, EngineSettings, Lease, ReleaseOutcome,
};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::support::node::{ALICE, BOB, Node, acquire, heartbeat, release};
use crate::support::prelude::*;
use crate::support::proxy::Flow;

const HOUR_MS: i32 = 3_600_000;
const DAY_MS: i32 = 24 * HOUR_MS;
/// Long enough for a statement on a busy machine, and short enough to wait for.
const DEADLINE: Duration = Duration::from_secs(1);
/// For requests that are to be retried: longer than a statement is waited for.
const LONG_DEADLINE: Duration = Duration::from_secs(8);

/// Two nodes on one database. Only the lock engine of the first one is behind the network.
struct Nodes {
    db: Database,
    network: Proxy,
    stalled: Node,
    other: Node,
    /// The connections that the stalled node's engine had at the start.
    old_connections: Vec<i32>,
}

impl Nodes {
    async fn start(deadline: Duration) -> Nodes {
        let db = Database::create().await;
        let network = Proxy::to(&db).await;
        network.only("lockable locks");
        let settings = EngineSettings {
            deadline,
            ..EngineSettings::default()
        };
        let stalled = Node::start_with(network.options(&db), settings).await;
        // Its connections are there, and its statements prepared: each is one message from now on.
        for _ in 0..2 {
            eventually("it is warm", async || {
                stalled
                    .engine
                    .acquire(acquire(ALICE, "warm", None))
                    .await
                    .ok()?;
                stalled
                    .engine
                    .heartbeat(heartbeat(ALICE, "warm", None))
                    .await
                    .ok()?;
                stalled
                    .engine
                    .release(release(ALICE, "warm", None))
                    .await
                    .ok()
            })
            .await;
        }
        let old_connections = db
            .value(
                "SELECT array_agg(pid) FROM pg_stat_activity
                  WHERE datname = current_database() AND application_name = 'lockable locks'",
            )
            .await;
        let other = Node::start(db.options()).await;
        forget_outages(&db).await;
        Nodes {
            db,
            network,
            stalled,
            other,
            old_connections,
        }
    }

    /// Lets the stalled node see a lock, so that it does not predict that there is no row.
    async fn know(&self, name: &str) {
        granted(self.stalled.engine.acquire(plain(BOB, name, 60_000)).await);
        let released = self.stalled.engine.release(release(BOB, name, None)).await;
        assert_eq!(released, Ok(ReleaseOutcome::Released));
    }

    /// Sends a request that the network then holds until the node answers that it knows nothing.
    async fn hold<T: std::fmt::Debug + PartialEq>(
        &self,
        request: impl Future<Output = Result<T, EngineError>>,
    ) {
        self.network.requests(Flow::Freeze);
        assert_eq!(request.await, Err(EngineError::Unknown));
    }

    /// Lets the network work again, and waits until PostgreSQL has executed what it held.
    async fn let_arrive(&self, statement: &str) {
        let now: DateTime<Utc> = self.db.value("SELECT clock_timestamp()").await;
        self.network.mend();
        let executed = format!(
            "SELECT EXISTS (SELECT FROM pg_stat_activity
              WHERE pid = ANY ('{{{}}}') AND query LIKE '/* {statement} */%'
                AND query_start >= '{}' AND state = 'idle')",
            self.pids(),
            now.to_rfc3339()
        );
        eventually("the statement has been executed", async || {
            self.db.value::<bool>(&executed).await.then_some(())
        })
        .await;
    }

    /// Lets the network work again after [`Proxy::hang_up`], and waits until PostgreSQL has
    /// executed what it held, and has seen the end of the connections.
    async fn let_the_rest_arrive(&self) {
        self.network.mend();
        let open = format!(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ANY ('{{{}}}'))",
            self.pids()
        );
        eventually("the connections have ended", async || {
            (!self.db.value::<bool>(&open).await).then_some(())
        })
        .await;
    }

    fn pids(&self) -> String {
        let pids: Vec<_> = self.old_connections.iter().map(i32::to_string).collect();
        pids.join(",")
    }

    /// Waits until the stalled node has done what it had to do about a lock, its compensating
    /// release included: requests of one lock are in order.
    async fn until_settled(&self, name: &str) {
        eventually("the node answers", async || {
            let request = heartbeat(BOB, name, None);
            self.stalled.engine.heartbeat(request).await.ok()
        })
        .await;
    }

    /// True if the lock is free for somebody else, who then has it.
    async fn is_free(&self, name: &str) -> bool {
        let outcome = self.other.engine.acquire(acquire(BOB, name, None)).await;
        matches!(outcome.unwrap(), AcquireOutcome::Granted(_))
    }

    /// What is left of the latest lease of a lock, if it has not ended.
    async fn remaining_s(&self, name: &str) -> Option<f64> {
        self.db
            .value(&format!(
                "SELECT (SELECT extract(epoch FROM expires_at - clock_timestamp())::float8
                           FROM locks WHERE name = '{name}' AND end_reason = 0)"
            ))
            .await
    }
}

/// The first tick of a test takes the time before it for an outage, which protects leases.
async fn forget_outages(db: &Database) {
    db.execute(
        "UPDATE service_clock SET last_ok_at = clock_timestamp(), outage_start = 'epoch',
                                  outage_end = 'epoch'",
    )
    .await;
}

fn plain(account: i64, name: &str, lease_ms: i32) -> Acquire {
    Acquire {
        lease_ms,
        ..acquire(account, name, None)
    }
}

/// The lease of an acquire. Panics if there is none.
#[track_caller]
fn granted(outcome: Result<AcquireOutcome, EngineError>) -> Lease {
    match outcome {
        Ok(AcquireOutcome::Granted(lease)) => lease,
        other => panic!("not granted: {other:?}"),
    }
}

/// Waits until a query has a row.
async fn until(db: &Database, query: &str) {
    eventually(query, async || {
        db.value::<bool>(&format!("SELECT EXISTS ({query})"))
            .await
            .then_some(())
    })
    .await;
}

/// Waits until so many statements of this name wait for a row.
async fn until_waiting(db: &Database, statement: &str, count: i64) {
    let waiting = format!(
        "SELECT FROM pg_stat_activity WHERE datname = current_database()
            AND wait_event_type = 'Lock' AND query LIKE '/* {statement} */%'
         HAVING count(*) >= {count}"
    );
    until(db, &waiting).await;
}

/// A session that is in a transaction.
async fn begin(db: &Database) -> PgConnection {
    let mut connection = db.connect().await;
    execute(&mut connection, "BEGIN").await;
    connection
}

async fn execute(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(connection)
        .await
        .unwrap();
}

/// A session that keeps the row of a lock locked, until it commits.
async fn locker_of(db: &Database, name: &str) -> PgConnection {
    let mut connection = begin(db).await;
    execute(
        &mut connection,
        &format!("SELECT FROM locks WHERE name = '{name}' FOR UPDATE"),
    )
    .await;
    connection
}

async fn commit(mut connection: PgConnection) {
    execute(&mut connection, "COMMIT").await;
    connection.close().await.unwrap();
}

/// Sends a request in a task of its own.
fn spawn<T: Send + 'static>(request: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(request)
}
