//! Lock services with a bug put in on purpose. The checker must find every one of them, or it
//! proves nothing; the same service without the bug must pass.
//!
//! Each is the version that one would write first, in SQL of its own on a table of its own.

use std::sync::Arc;
use std::time::Duration;

use rand::random_range;
use sqlx::postgres::{PgArguments, PgPoolOptions};
use sqlx::query::QueryScalar;
use sqlx::{AssertSqlSafe, PgPool, Postgres};
use uuid::Uuid;

use super::workload::{Load, Subject, run};
use crate::support::history::{History, Operation, Outcome, Request, Rules};
use crate::support::prelude::*;

const LOAD: Load = Load {
    clients: 16,
    locks: 2,
    nodes: 2,
    lease: Duration::from_millis(150),
    pause: Duration::from_millis(4),
    heartbeats: 3,
    forgotten: 5,
    accounts: 2,
    without_id: 0,
    own_lengths: false,
    time: Duration::from_secs(1),
};
/// All clients on one lock, without a pause, so that one is overtaken between the draw of its token
/// and its row.
const HASTY: Load = Load {
    locks: 1,
    pause: Duration::ZERO,
    heartbeats: 1,
    forgotten: 0,
    ..LOAD
};
/// Most leases have no id, and each request has a length of its own.
const SHARED: Load = Load {
    without_id: 80,
    own_lengths: true,
    ..LOAD
};
const RULES: Rules = Rules {
    lease: LOAD.lease,
    outage: Duration::ZERO,
    late: Duration::ZERO,
    compensation: Duration::ZERO,
};

/// Statements with `$1` name, `$2` lease id, `$3` lease in milliseconds, `$4` how far this node's
/// clock is ahead, in milliseconds, `$5` the account whose processes share the lease. The first
/// column is the fencing token.
#[derive(Debug, Clone)]
struct Naive {
    acquire: String,
    heartbeat: String,
    release: String,
    stall: Stall,
}

/// What becomes of one in ten requests of a kind: it is answered as unknown, and executed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stall {
    None,
    /// Any request: before the answer. An acquire without an id is not executed.
    Harmless,
    /// A heartbeat or a release: after the answer.
    Late,
    /// An acquire without an id: before the answer. The grant is not released.
    Orphaned,
}

const SCHEMA: &str = "
    CREATE SEQUENCE naive_fence CACHE 1;
    CREATE TABLE naive (name text PRIMARY KEY, lease_id uuid, token bigint, expires_at timestamptz,
      account bigint);
    CREATE TABLE naive_known (lease_id uuid PRIMARY KEY);
    CREATE TABLE naive_released (lease_id uuid PRIMARY KEY);
    CREATE FUNCTION overtaken() RETURNS bigint LANGUAGE plpgsql AS $$
      BEGIN PERFORM pg_sleep(random() * 0.01); RETURN 0; END $$";

/// Takes a free lock; a lease id that was known before acquires no more. The bugs go into `TOKEN`,
/// `NEW_TOKEN` and `NOW`. It does not look at the row first: all clients wait for the row, and
/// their tokens come into the wrong order there.
const ACQUIRE: &str = "
    WITH granted AS (
      INSERT INTO naive AS n (name, lease_id, token, expires_at, account)
      SELECT $1, $2, TOKEN, NOW + $3 * interval '1 ms' + 0 * $4 * interval '1 ms', $5::bigint
       WHERE NOT EXISTS (SELECT FROM naive_known WHERE lease_id = $2)
             OR EXISTS (SELECT FROM naive WHERE name = $1 AND lease_id = $2)
      ON CONFLICT (name) DO UPDATE SET lease_id = $2, account = $5,
        expires_at = NOW + $3 * interval '1 ms',
        token = CASE WHEN n.lease_id = $2 THEN n.token ELSE NEW_TOKEN END
      WHERE CASE WHEN n.lease_id = $2 THEN n.expires_at > NOW
                 ELSE n.expires_at <= NOW
                      AND NOT EXISTS (SELECT FROM naive_known WHERE lease_id = $2) END
      RETURNING token),
    known AS (INSERT INTO naive_known SELECT $2 FROM granted ON CONFLICT DO NOTHING)
    SELECT token FROM granted";
const HEARTBEAT: &str = "
    UPDATE naive SET expires_at
             = clock_timestamp() + $3 * interval '1 ms' + 0 * $4 * interval '1 ms'
     WHERE name = $1 AND (lease_id = $2 OR account = $5::bigint)
       AND expires_at > clock_timestamp() RETURNING token";
/// Ends the lease, keeps the row, and remembers the lease id.
const RELEASE: &str = "
    WITH released AS (ENDING),
    ended AS (INSERT INTO naive_released SELECT $2 FROM released ON CONFLICT DO NOTHING)
    SELECT token FROM released UNION ALL SELECT 0 FROM naive_released WHERE lease_id = $2";
const END: &str = "
    UPDATE naive SET expires_at = clock_timestamp() + 0 * $3 * $4 * interval '1 ms'
     WHERE name = $1 AND (lease_id = $2 OR account = $5::bigint)
       AND expires_at > clock_timestamp() RETURNING token";
const DELETE: &str = "
    DELETE FROM naive
     WHERE name = $1 AND lease_id = $2
       AND expires_at > clock_timestamp() + 0 * $3 * $4 * coalesce($5::bigint, 0) * interval '1 ms'
    RETURNING token";

impl Naive {
    fn right() -> Naive {
        Naive {
            acquire: acquire(
                "nextval('naive_fence')",
                "nextval('naive_fence')",
                "clock_timestamp()",
            ),
            heartbeat: HEARTBEAT.to_owned(),
            release: RELEASE.replace("ENDING", END),
            stall: Stall::None,
        }
    }
}

fn acquire(token: &str, new_token: &str, now: &str) -> String {
    ACQUIRE
        .replace("NEW_TOKEN", new_token)
        .replace("TOKEN", token)
        .replace("NOW", now)
}

struct Nodes {
    statements: Naive,
    pools: Vec<PgPool>,
}

impl Subject for Nodes {
    async fn perform(&self, node: usize, request: &Request, lease: Duration) -> Outcome {
        let length = request.length.unwrap_or(lease);
        let stalls = random_range(0..10) == 0;
        let is_plain_acquire =
            request.operation == Operation::Acquire && request.lease_id.is_none();
        let id = request.lease_id.unwrap_or_else(Uuid::new_v4);
        match self.statements.stall {
            Stall::Harmless if stalls => {
                if !is_plain_acquire {
                    self.execute(node, request, id, length).await;
                }
                Outcome::Unknown
            }
            Stall::Late if stalls && request.operation != Operation::Acquire => {
                let (statement, pool) = (self.statement(request.operation), &self.pools[node]);
                let query = query(statement, request, id, length, 0.0);
                let pool = pool.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(length / 4).await;
                    query.fetch_optional(&pool).await.ok();
                });
                Outcome::Unknown
            }
            Stall::Orphaned if stalls && is_plain_acquire => {
                self.execute(node, request, id, Duration::from_secs(60))
                    .await;
                Outcome::Unknown
            }
            _ => self.execute(node, request, id, length).await,
        }
    }
}

type Unsent = QueryScalar<'static, Postgres, i64, PgArguments>;

fn query(statement: &str, request: &Request, id: Uuid, length: Duration, ahead_ms: f64) -> Unsent {
    sqlx::query_scalar(AssertSqlSafe(statement.to_owned()))
        .bind(request.lock.clone())
        .bind(id)
        .bind(length.as_secs_f64() * 1000.0)
        .bind(ahead_ms)
        .bind(request.lease_id.is_none().then_some(request.account))
}

impl Nodes {
    fn statement(&self, operation: Operation) -> &str {
        match operation {
            Operation::Acquire => &self.statements.acquire,
            Operation::Heartbeat => &self.statements.heartbeat,
            Operation::Release => &self.statements.release,
        }
    }

    async fn execute(&self, node: usize, request: &Request, id: Uuid, length: Duration) -> Outcome {
        let operation = request.operation;
        let ahead_ms = if node == 0 {
            0.0
        } else {
            length.as_secs_f64() * 500.0
        };
        let query = query(self.statement(operation), request, id, length, ahead_ms);
        let token: sqlx::Result<Option<i64>> = query.fetch_optional(&self.pools[node]).await;
        match (operation, token) {
            (_, Err(error)) => {
                assert!(!matches!(error, sqlx::Error::Database(_)), "{error}");
                Outcome::Unknown
            }
            (Operation::Release, Ok(Some(_))) => Outcome::Released,
            (Operation::Acquire | Operation::Heartbeat, Ok(Some(fencing_token))) => {
                Outcome::Held { fencing_token }
            }
            (Operation::Acquire, Ok(None)) => self.refused_or_lost(node, id).await,
            (Operation::Heartbeat | Operation::Release, Ok(None)) => Outcome::Lost,
        }
    }

    async fn refused_or_lost(&self, node: usize, lease_id: Uuid) -> Outcome {
        let known =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM naive_known WHERE lease_id = $1)")
                .bind(lease_id);
        match known.fetch_one(&self.pools[node]).await {
            Ok(true) => Outcome::Lost,
            Ok(false) => Outcome::Refused,
            Err(_) => Outcome::Unknown,
        }
    }
}

async fn history_of(statements: Naive, load: Load) -> Arc<History> {
    let db = Database::create().await;
    db.execute(SCHEMA).await;
    let pool = || {
        PgPoolOptions::new()
            .max_connections(10)
            .connect_lazy_with(db.options())
    };
    let nodes = Nodes {
        statements,
        pools: vec![pool(), pool()],
    };
    run(Arc::new(nodes), load).await
}

/// Lets clients work until the checker finds the bug: how soon they meet it depends on the machine.
async fn assert_caught(mutant: Naive, load: Load, expected: &[&str]) {
    let mut grants = 0;
    for _ in 0..20 {
        let history = history_of(mutant.clone(), load).await;
        grants += history.count(|call| matches!(call.outcome, Outcome::Held { .. }));
        let violations = history.violations(RULES);
        if violations
            .iter()
            .any(|line| expected.iter().any(|words| line.contains(words)))
        {
            return;
        }
    }
    panic!("not caught in {grants} grants and renewals");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_without_a_bug_passes() {
    for (load, stall) in [
        (LOAD, Stall::None),
        (SHARED, Stall::None),
        (SHARED, Stall::Harmless),
    ] {
        let mut grants = 0;
        while grants < 200 {
            let service = Naive {
                stall,
                ..Naive::right()
            };
            let history = history_of(service, load).await;
            history.assert_holds(RULES);
            grants += history.count(|call| matches!(call.outcome, Outcome::Held { .. }));
        }
    }
}

/// The version of every textbook: the token is drawn before the conflict is found, and a release
/// deletes the row. A pause after the draw makes the race, which a busy machine has as well,
/// likely; drawn in `SET`, the same pause does no harm.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_drawn_too_early_is_caught() {
    let mutant = Naive {
        acquire: acquire(
            "nextval('naive_fence') + overtaken()",
            "excluded.token",
            "clock_timestamp()",
        ),
        release: RELEASE.replace("ENDING", DELETE),
        ..Naive::right()
    };
    assert_caught(mutant, LOAD, &["acted after it"]).await;
    let slow = acquire(
        "overtaken()",
        "overtaken() + nextval('naive_fence')",
        "clock_timestamp()",
    );
    let history = history_of(
        Naive {
            acquire: slow,
            ..Naive::right()
        },
        HASTY,
    )
    .await;
    history.assert_holds(RULES);
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_on_a_nodes_clock_is_caught() {
    let draw = "nextval('naive_fence')";
    let mutant = Naive {
        acquire: acquire(draw, draw, "(clock_timestamp() + $4 * interval '1 ms')"),
        ..Naive::right()
    };
    assert_caught(mutant, LOAD, &["two leases at once", "before its time"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_without_an_owner_check_is_caught() {
    let mutant = Naive {
        release: RELEASE.replace(
            "ENDING",
            &END.replace("(lease_id = $2 OR", "($2::uuid IS NOT NULL OR"),
        ),
        ..Naive::right()
    };
    assert_caught(
        mutant,
        LOAD,
        &["two leases at once", "before its time", "acted after it"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_without_an_owner_check_is_caught() {
    let mutant = Naive {
        heartbeat: HEARTBEAT.replace("(lease_id = $2 OR", "($2::uuid IS NOT NULL OR"),
        ..Naive::right()
    };
    assert_caught(mutant, LOAD, &["several fencing tokens", "acted after it"]).await;
}

/// Without a memory of ended leases, a repetition that was delayed on its way makes a lease id
/// serve a second lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_id_that_acquires_twice_is_caught() {
    let acquire = Naive::right().acquire.replace(
        "EXISTS (SELECT FROM naive_known WHERE lease_id = $2)",
        "false",
    );
    let mutant = Naive {
        acquire,
        ..Naive::right()
    };
    assert_caught(mutant, LOAD, &["had ended, and was held again"]).await;
}

/// Without an id, every process of any account renews and releases.
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_lease_without_an_account_check_is_caught() {
    for sql in [HEARTBEAT, END] {
        assert!(sql.contains("account = $5::bigint"));
    }
    let anybody = |sql: &str| {
        sql.replace(
            "account = $5::bigint",
            "account IS NOT NULL AND $5::bigint IS NOT NULL",
        )
    };
    let mutant = Naive {
        heartbeat: anybody(HEARTBEAT),
        ..Naive::right()
    };
    assert_caught(mutant, SHARED, &["have the same fencing token"]).await;
    let mutant = Naive {
        release: RELEASE.replace("ENDING", &anybody(END)),
        ..Naive::right()
    };
    assert_caught(mutant, SHARED, &["two leases at once", "before its time"]).await;
}

/// The statement of a request that was answered as unknown is executed after the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_lands_after_its_answer_is_caught() {
    let mutant = Naive {
        stall: Stall::Late,
        ..Naive::right()
    };
    assert_caught(mutant, SHARED, &["two leases at once", "before its time"]).await;
}

/// A heartbeat renews by less than it says.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_is_short_is_caught() {
    let heartbeat = HEARTBEAT.replace("$3 * interval '1 ms'", "$3 / 4 * interval '1 ms'");
    assert_ne!(heartbeat, HEARTBEAT);
    let mutant = Naive {
        heartbeat,
        ..Naive::right()
    };
    assert_caught(mutant, SHARED, &["two leases at once", "before its time"]).await;
}

/// A grant that was answered as unknown is nobody's, and is not released.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_nobody_received_and_nobody_releases_is_caught() {
    let mutant = Naive {
        stall: Stall::Orphaned,
        ..Naive::right()
    };
    assert_caught(mutant, SHARED, &["refused while"]).await;
}
