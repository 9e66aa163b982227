//! The statements inside the gate's functions, and those of the look, stay on their indexes
//! whatever the statistics say: with ten million locks and a million waiters, one scan is an
//! outage.
//!
//! PostgreSQL itself tells the plan of each statement that it executes inside a function
//! (`auto_explain`), as notices, which `psql` prints.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::support::cluster::program;
use crate::support::prelude::*;

/// The engine's session, as in `db::connection`.
const ENGINE: &str = "SET enable_seqscan = off; SET enable_bitmapscan = off;
  SET enable_memoize = off; SET jit = off; SET plan_cache_mode = force_generic_plan;";

/// The functions whose statements are looked at.
const FUNCTIONS: [&str; 3] = ["lock_gate", "gate_grant", "gate_withdraw"];

/// The columns of an index that a scan must have conditions on.
const INDEXES: [(&str, &[&str]); 9] = [
    ("locks_pk", &["namespace_id", "name"]),
    ("lock_tickets_pk", &["namespace_id", "name"]),
    ("lock_tickets_lease_unique", &["lease_id"]),
    ("lock_tickets_account_index", &["account_id"]),
    ("lock_members_pk", &["namespace_id", "name"]),
    ("lock_members_lease_index", &["lease_id"]),
    ("lease_ends_pk", &["account_id", "lease_id"]),
    ("nodes_pk", &[]),
    ("service_clock_pk", &[]),
];

/// A statement that was executed, with its plan.
struct Plan(String);

impl Plan {
    /// The nodes of the plan, each with its conditions.
    fn nodes(&self) -> Vec<String> {
        let mut nodes: Vec<String> = Vec::new();
        for line in self.0.lines() {
            match nodes.last_mut() {
                _ if line.contains("(cost=") => nodes.push(line.to_owned()),
                Some(node) => node.push_str(line),
                None => {}
            }
        }
        nodes
    }

    /// The scans that read more than the rows that are asked for.
    fn wrong(&self, allowed: &[(&str, &[&str])]) -> Vec<String> {
        let nodes = self.nodes();
        let of_a_table = |node: &&String| {
            let small = [
                "on nodes",
                "on service_clock",
                "on plans",
                "on pg_",
                "Function Scan",
            ];
            node.contains(" Scan") && !small.iter().any(|small| node.contains(small))
        };
        let mut wrong: Vec<String> = nodes.iter().filter(of_a_table).cloned().collect();
        wrong.retain(|node| {
            if node.contains("Seq Scan") || node.contains("Bitmap") {
                return true;
            }
            let Some((_, index)) = node.split_once(" using ") else {
                return false;
            };
            let conditions = node
                .split_once("Index Cond:")
                .map_or("", |(_, after)| after);
            let conditions = conditions.split("Filter:").next().unwrap_or_default();
            let index = index.split(' ').next().unwrap_or_default();
            let columns = match allowed.iter().find(|(name, _)| *name == index) {
                Some((_, columns)) => columns,
                // Of tokens and accounts: any condition.
                None if !node.contains("on lock") => return conditions.is_empty(),
                None => return true,
            };
            !columns.iter().all(|column| conditions.contains(column))
        });
        // The first of a line is found, not sorted out of it.
        let sorts = nodes.iter().any(|node| node.contains("Sort "));
        let reads_a_line = |node: &&String| node.contains("lock_tickets_pk");
        if sorts && nodes.iter().any(|node| node.contains("Limit ")) {
            wrong.extend(nodes.iter().filter(reads_a_line).cloned());
        }
        wrong
    }
}

/// Runs a script, and returns the plans of all that it executed.
async fn plans_of(db: &Database, settings: &str, script: &str) -> Vec<Plan> {
    let script = format!(
        "\\set ON_ERROR_STOP on
         LOAD 'auto_explain';
         {settings}
         SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on;
         SET auto_explain.log_level = notice; SET client_min_messages = notice;
         {script}"
    );
    let url = db.url();
    let output = tokio::task::spawn_blocking(move || {
        let mut psql = Command::new(program("psql"))
            .args(["-X", "-q", "-t", &url])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        psql.stdin
            .take()
            .unwrap()
            .write_all(script.as_bytes())
            .unwrap();
        psql.wait_with_output().unwrap()
    })
    .await
    .unwrap();
    let notices = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{}", tail_of(&notices));
    let plans = notices.split("NOTICE:  duration:").skip(1);
    // Without its duration; each once.
    let plans = plans.filter_map(|plan| plan.split_once("plan:"));
    let plans: BTreeSet<&str> = plans.map(|(_, plan)| plan).collect();
    plans
        .into_iter()
        .map(|plan| Plan(plan.to_owned()))
        .collect()
}

fn tail_of(text: &str) -> &str {
    let from = text.len().saturating_sub(2000);
    text.get(from..).unwrap_or_default()
}

/// Without comments and blanks.
fn squeezed(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| line.split("--").next().unwrap_or_default());
    lines
        .flat_map(str::chars)
        .filter(|c| !c.is_whitespace())
        .collect()
}

/// The statements of the functions about big tables that were not executed.
async fn not_executed(db: &Database, plans: &[Plan]) -> Vec<String> {
    let executed: Vec<String> = plans.iter().map(|plan| squeezed(&plan.0)).collect();
    let mut missing = Vec::new();
    for function in FUNCTIONS {
        let source: String = db
            .value(&format!(
                "SELECT prosrc FROM pg_proc WHERE proname = '{function}'"
            ))
            .await;
        let uncommented: Vec<&str> = source
            .lines()
            .map(|line| line.split("--").next().unwrap_or_default())
            .collect();
        let uncommented = uncommented
            .join("\n")
            .replace(" LOOP", ";")
            .replace(" THEN", ";");
        for statement in uncommented.split(';') {
            let tables = [
                "lock_tickets",
                "lock_members",
                "locks",
                "lease_ends",
                "nodes",
            ];
            let is_one = tables.iter().any(|table| {
                ["FROM", "UPDATE", "INTO"]
                    .iter()
                    .any(|verb| statement.contains(&format!("{verb} {table} ")))
            });
            let statement = squeezed(statement);
            // PostgreSQL does not see where the function keeps a result.
            let (statement, _) = statement
                .rsplit_once("INTO")
                .filter(|(_, after)| ["head", "w", "a.ticket"].contains(after))
                .map_or((statement.clone(), ""), |(before, _)| {
                    (before.to_owned(), "")
                });
            let tail = statement
                .get(statement.len().saturating_sub(50)..)
                .unwrap_or(&statement);
            if is_one && !executed.iter().any(|executed| executed.contains(tail)) {
                missing.push(statement);
            }
        }
    }
    missing
}

/// A line of twenty thousand, whose first five hundred are of a dead node, and as many other rows.
const FILL: &str = "
  UPDATE service_clock SET last_ok_at = clock_timestamp() + interval '1 h', outage_start = 'epoch',
                           outage_end = 'epoch';
  INSERT INTO accounts (account_id, email, email_key, plan_id) OVERRIDING SYSTEM VALUE
  SELECT n, n || '@node.example', n || '@node.example', p.plan_id
    FROM generate_series(1, 5000) n, plans p WHERE p.code = 'business';
  INSERT INTO api_tokens (token_id, account_id, namespace_id, label, token_sha256, hint)
         OVERRIDING SYSTEM VALUE
  SELECT n, n, 1, 'node', sha256(n::text::bytea), 'node' FROM generate_series(1, 5000) n;
  INSERT INTO namespaces (account_id, name)
  SELECT n, 'private-' || n FROM generate_series(1, 5000) n;
  INSERT INTO nodes VALUES (7, clock_timestamp() + interval '1 h'),
                           (9, clock_timestamp() + interval '1 h');
  INSERT INTO locks (namespace_id, name, account_id, token_id, fencing_token, acquired_at,
                     expires_at, lease_id, lease_ms, needs_proof, gated)
  SELECT 1, CASE n WHEN 1 THEN 'line' ELSE 'name-' || n END, 1, 1, n, now(),
         now() + interval '1 h', lpad(n::text, 32, '0')::uuid, 60000, true, true
    FROM generate_series(1, 20000) n;
  INSERT INTO lease_ends SELECT 1, gen_random_uuid(), 1, now(), 1, 'name-' || n
    FROM generate_series(1, 20000) n;
  INSERT INTO lock_tickets (namespace_id, name, ticket, account_id, token_id, node_id, attachment,
                            waits_until, lease_id, lease_ms, permits, needs_proof)
  SELECT 1, CASE WHEN n % 2 = 0 THEN 'line' ELSE 'name-' || n END, nextval('lock_ticket'),
         1 + n % 2, 1, CASE WHEN n < 1000 THEN 8 ELSE 7 END, n, now() + interval '1 h',
         lpad((n - 1)::text, 32, '0')::uuid, 60000, 1, true
    FROM generate_series(1, 40000) n;
  UPDATE lock_tickets SET waits_until = now() - interval '1 min' WHERE ticket < 100;
  INSERT INTO lock_members (namespace_id, name, slot, permits, account_id, token_id, fencing_token,
                            acquired_at, expires_at, lease_id, lease_ms, needs_proof)
  SELECT 1, 'name-' || n / 10, n % 10, 10, 1, 1, n, now(), now() + interval '1 h',
         gen_random_uuid(), 60000, true FROM generate_series(1, 20000) n";

const TABLES: &str =
    "('locks', 'lease_ends', 'lock_tickets', 'lock_members', 'api_tokens', 'accounts',
     'namespaces')";

/// The look's statements, out of their store.
fn looks() -> Vec<String> {
    let store = include_str!("../../../src/locks/engine/statements/waiting.rs");
    let texts = store.split("r#\"").skip(1);
    let texts = texts.filter_map(|text| text.split("\"#").next());
    let looks = texts.filter(|text| text.contains("/* waiting.look"));
    looks.map(|text| text.replace("$1", "$1::bigint")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statistics_make_a_gate_leave_its_index() {
    let db = Database::create().await;
    // None of the tables is looked at behind the test's back.
    db.execute(
        "ALTER TABLE locks SET (autovacuum_enabled = off);
         ALTER TABLE lock_tickets SET (autovacuum_enabled = off);
         ALTER TABLE lock_members SET (autovacuum_enabled = off);
         ALTER TABLE lease_ends SET (autovacuum_enabled = off)",
    )
    .await;
    let believed =
        |rows: &str| format!("UPDATE pg_class SET reltuples = {rows} WHERE relname IN {TABLES}");
    let statistics = [
        ("statistics of empty tables", FILL.to_owned()),
        ("right statistics", "ANALYZE".to_owned()),
        (
            "a wrong number of names",
            "ALTER TABLE locks ALTER COLUMN name SET (n_distinct = 1);
             ALTER TABLE lock_tickets ALTER COLUMN name SET (n_distinct = 1),
               ALTER COLUMN node_id SET (n_distinct = -1);
             ALTER TABLE lock_members ALTER COLUMN name SET (n_distinct = 1),
               ALTER COLUMN lease_id SET (n_distinct = 1);
             ANALYZE"
                .to_owned(),
        ),
        ("believed to be empty", believed("0")),
        ("believed to have a hundred rows", believed("100")),
        ("believed to be huge", believed("1e9")),
    ];
    let script = include_str!("plans_of_the_gate.sql");
    let looks = looks();
    assert_eq!(looks.len(), 2);
    let mut of_looks: Vec<(&str, &[&str])> = INDEXES.to_vec();
    of_looks.push(("lock_tickets_node_index", &["node_id"]));
    let mut careless = 0;
    for (belief, change) in statistics {
        db.execute(&change).await;
        let plans = plans_of(&db, ENGINE, script).await;
        for plan in plans.iter().filter(|plan| !plan.0.contains("pg_temp.")) {
            let is_of_the_script = script.contains(first_line(&plan.0));
            let wrong = if is_of_the_script {
                Vec::new()
            } else {
                plan.wrong(&INDEXES)
            };
            assert!(wrong.is_empty(), "{belief}: {wrong:?}\n{}", plan.0);
        }
        let missing = not_executed(&db, &plans).await;
        assert!(missing.is_empty(), "not executed: {missing:#?}");
        for look in &looks {
            let prepared = format!("PREPARE look AS {look}; BEGIN; EXECUTE look(7); ROLLBACK;");
            let plans = plans_of(&db, ENGINE, &prepared).await;
            assert!(!plans.is_empty());
            for plan in plans {
                let wrong = plan.wrong(&of_looks);
                assert!(wrong.is_empty(), "{belief}: {wrong:?}\n{}", plan.0);
            }
        }
        // In an ordinary session, some of this does make them leave it.
        let ordinary = plans_of(&db, "", script).await;
        careless += ordinary
            .iter()
            .filter(|plan| !plan.wrong(&INDEXES).is_empty())
            .count();
    }
    assert!(
        careless > 0,
        "the statistics are not bad enough to prove anything"
    );
}

/// The first line of the statement that a plan is of.
fn first_line(plan: &str) -> &str {
    let text = plan
        .split_once("Query Text: ")
        .map_or(plan, |(_, text)| text);
    text.lines().next().unwrap_or_default().trim()
}
