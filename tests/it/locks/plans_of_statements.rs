//! The real statements stay on their indexes, whatever the statistics say: with ten million rows,
//! one sequential scan is an outage.

use lockable::db::{Purpose, pool};
use lockable::locks::engine::statements;
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Executor as _, Postgres};
use uuid::Uuid;

use crate::support::node::{ALICE, acquire, any_time, heartbeat, release};
use crate::support::prelude::*;

/// The number of locks in a batch.
const BATCH: usize = 200;

/// A session of the engine, and its statements, which it has prepared.
async fn session(db: &Database) -> (PoolConnection<Postgres>, Vec<Prepared>) {
    let mut connection = pool(db.options(), Purpose::LockEngine, 1)
        .acquire()
        .await
        .unwrap();
    let lease_id = Uuid::new_v4();
    statements::acquire(
        &mut connection,
        &[&acquire(ALICE, "a", Some(lease_id))],
        any_time(),
    )
    .await
    .unwrap();
    statements::insert_if_absent(
        &mut connection,
        &[&acquire(ALICE, "b", Some(lease_id))],
        any_time(),
    )
    .await
    .unwrap();
    statements::heartbeat(
        &mut connection,
        &[&heartbeat(ALICE, "a", Some(lease_id))],
        any_time(),
    )
    .await
    .unwrap();
    statements::release(
        &mut connection,
        &[&release(ALICE, "a", Some(lease_id))],
        any_time(),
    )
    .await
    .unwrap();
    // The engine alone sends this one.
    sqlx::query(include_str!(
        "../../../src/locks/engine/sql/release_under_lock.sql"
    ))
    .bind([1_i64])
    .bind(["a"])
    .bind([ALICE])
    .bind([lease_id])
    .bind([true])
    .bind(any_time())
    .execute(&mut *connection)
    .await
    .unwrap();
    sqlx::query(include_str!(
        "../../../src/locks/engine/sql/heartbeat_member.sql"
    ))
    .bind([1_i64])
    .bind(["a"])
    .bind([ALICE])
    .bind([lease_id])
    .bind([None::<i32>])
    .bind(any_time())
    .execute(&mut *connection)
    .await
    .unwrap();
    let prepared: Vec<(String, String, Vec<String>)> = sqlx::query_as(
        "SELECT name, split_part(statement, ' ', 2), parameter_types::text[]
           FROM pg_prepared_statements
          WHERE statement LIKE '/* locks.%' ORDER BY 2",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    let prepared: Vec<_> = prepared
        .into_iter()
        .map(|(name, label, types)| Prepared { name, label, types })
        .collect();
    let names: Vec<&str> = prepared
        .iter()
        .map(|prepared| prepared.label.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "locks.acquire",
            "locks.heartbeat",
            "locks.heartbeat_member",
            "locks.insert_if_absent",
            "locks.release",
            "locks.release_under_lock"
        ]
    );
    (connection, prepared)
}

struct Prepared {
    /// Its name in the session.
    name: String,
    /// The statement's name in its comment.
    label: String,
    types: Vec<String>,
}

impl Prepared {
    /// An `EXPLAIN` of the statement about a whole batch.
    fn explain(&self) -> String {
        let arguments = self.types.iter().map(|kind| {
            if !kind.ends_with("[]") {
                return format!("now()::{kind}");
            }
            let items = (0..BATCH).map(|number| match kind.as_str() {
                "bigint[]" => "1".to_owned(),
                "text[]" => format!("name-{}", number * 97),
                "uuid[]" => Uuid::from_u128(number as u128).to_string(),
                "boolean[]" => "true".to_owned(),
                "integer[]" => "60000".to_owned(),
                _ => "NULL".to_owned(),
            });
            format!("'{{{}}}'::{kind}", items.collect::<Vec<_>>().join(","))
        });
        format!(
            "EXPLAIN EXECUTE {}({})",
            self.name,
            arguments.collect::<Vec<_>>().join(", ")
        )
    }
}

/// The scans of big tables that are not by an index.
fn off_the_index(plan: &[String]) -> Vec<&String> {
    let big = [" on locks", " on lease_ends", " on lock_members"];
    plan.iter()
        .filter(|line| big.iter().any(|table| line.contains(table)))
        .filter(|line| line.contains("Seq Scan") || line.contains("Bitmap"))
        .collect()
}

/// The scans of a whole batch that are repeated for each of its locks: a join within a batch may
/// look cheap, and then takes the square of its size.
fn repeated(plan: &[String]) -> Vec<&String> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let is_scan = |line: &str| {
        line.contains("CTE Scan on verdicts") || line.contains("CTE Scan on written_rows")
    };
    let scans = plan.iter().enumerate().filter(|(_, line)| is_scan(line));
    let repeated = scans.filter(|(at, scan)| {
        let mut inside = indent(scan);
        let above = plan[..*at].iter().rev().filter(|line| {
            let outside = indent(line) < inside;
            inside = inside.min(indent(line));
            outside
        });
        // A query of its own ("CTE", "InitPlan", "SubPlan") is run once: subplans have to be
        // hashed.
        above
            .take_while(|line| line.contains("(cost="))
            .any(|line| line.contains("Nested Loop"))
    });
    let unhashed = plan.iter().filter(|line| {
        line.contains("SubPlan") && line.contains("Filter") && !line.contains("hashed SubPlan")
    });
    repeated.map(|(_, line)| line).chain(unhashed).collect()
}

async fn plan(connection: &mut PoolConnection<Postgres>, explain: String) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(explain))
        .fetch_all(&mut **connection)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statistics_make_a_batch_leave_its_index() {
    let db = Database::create().await;
    let fill = "
      INSERT INTO locks (namespace_id, name, account_id, token_id, fencing_token, acquired_at,
                         expires_at, lease_id, lease_ms, needs_proof)
      SELECT 1, 'name-' || n, 1, 1, n, now(), now() + interval '1 h', gen_random_uuid(), 60000, true
        FROM generate_series(1, 30000) n;
      INSERT INTO lease_ends SELECT 1, gen_random_uuid(), 1, now(), 1, 'name-' || n
        FROM generate_series(1, 30000) n;
      INSERT INTO lock_members (namespace_id, name, slot, permits, account_id, token_id,
                                fencing_token, acquired_at, expires_at, lease_id, lease_ms,
                                needs_proof)
      SELECT 1, 'name-' || n / 3, n % 3, 3, 1, 1, n, now(), now() + interval '1 h',
             gen_random_uuid(), 60000, true FROM generate_series(1, 30000) n";
    let statistics = [
        ("the tables are empty", "SELECT 1"),
        ("statistics of empty tables", fill),
        (
            "right statistics",
            "ANALYZE locks, lease_ends, lock_members, service_clock",
        ),
        (
            "a wrong number of names",
            "ALTER TABLE locks ALTER COLUMN name SET (n_distinct = 1),
               ALTER COLUMN namespace_id SET (n_distinct = 1);
             ALTER TABLE lease_ends ALTER COLUMN lease_id SET (n_distinct = 1),
               ALTER COLUMN name SET (n_distinct = 1);
             ALTER TABLE lock_members ALTER COLUMN lease_id SET (n_distinct = 1),
               ALTER COLUMN name SET (n_distinct = 1);
             ANALYZE locks, lease_ends, lock_members",
        ),
        (
            "believed to have a hundred rows",
            "UPDATE pg_class SET reltuples = 100
              WHERE relname ~ '^(locks|lease_ends|lock_members)$'",
        ),
        (
            "believed to be empty",
            "UPDATE pg_class SET reltuples = 0
              WHERE relname ~ '^(locks|lease_ends|lock_members)$'",
        ),
        (
            "believed to be huge",
            "UPDATE pg_class SET reltuples = 1e9
              WHERE relname ~ '^(locks|lease_ends|lock_members)$'",
        ),
    ];
    let mut careless = 0;
    for (belief, change) in statistics {
        db.execute(change).await;
        // With the engine's own setting, and with a new plan for each execution.
        let (mut connection, prepared) = session(&db).await;
        for mode in ["force_generic_plan", "force_custom_plan"] {
            connection
                .execute(AssertSqlSafe(format!("SET plan_cache_mode = {mode}")))
                .await
                .unwrap();
            for statement in &prepared {
                let plan = plan(&mut connection, statement.explain()).await;
                let wrong = off_the_index(&plan);
                assert!(
                    wrong.is_empty(),
                    "{} with {mode}, {belief}: {wrong:?}\n{}",
                    statement.label,
                    plan.join("\n")
                );
                let wrong = repeated(&plan);
                assert!(
                    wrong.is_empty(),
                    "{} with {mode}, {belief}: {wrong:?}\n{}",
                    statement.label,
                    plan.join("\n")
                );
                let index_scan = match statement.label.as_str() {
                    "locks.insert_if_absent" => "using lease_ends_pk on lease_ends",
                    "locks.heartbeat_member" => "using lock_members_",
                    "locks.release_under_lock" => "Conflict Arbiter Indexes: locks_pk",
                    _ => "using locks_pk on locks",
                };
                let is_indexed = plan.iter().any(|line| line.contains(index_scan));
                assert!(
                    is_indexed,
                    "{} goes by its index:\n{}",
                    statement.label,
                    plan.join("\n")
                );
            }
        }
        // The statement that one would write first, in an ordinary session: some of this does make
        // it leave the index.
        let naive = format!(
            "EXPLAIN UPDATE locks l SET holder = l.holder
               FROM unnest('{{1}}'::bigint[],
                           ARRAY(SELECT 'name-' || n FROM generate_series(1, {BATCH}) n))
                 AS i(namespace_id, name)
              WHERE l.namespace_id = i.namespace_id AND l.name = i.name"
        );
        let mut ordinary = pool(db.options(), Purpose::General, 1)
            .acquire()
            .await
            .unwrap();
        careless += usize::from(!off_the_index(&plan(&mut ordinary, naive).await).is_empty());
    }
    // And the join that one would write first, if the planner expects batches to be small.
    let mut ordinary = pool(db.options(), Purpose::General, 1)
        .acquire()
        .await
        .unwrap();
    ordinary
        .execute("SET enable_hashjoin = off; SET enable_mergejoin = off")
        .await
        .unwrap();
    let naive =
        "EXPLAIN WITH verdicts AS MATERIALIZED (SELECT * FROM unnest(ARRAY['a', 'b']) AS j(name)),
                      written_rows AS MATERIALIZED (
                        SELECT * FROM unnest(ARRAY['a', 'b']) AS w(name))
                 SELECT * FROM written_rows w JOIN verdicts j ON j.name = w.name";
    assert!(
        !repeated(&plan(&mut ordinary, naive.to_owned()).await).is_empty(),
        "a repeated scan is not seen"
    );
    assert!(
        careless > 0,
        "the statistics are not bad enough to prove anything"
    );
}
