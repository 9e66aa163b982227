//! A database with sessions of two nodes, whose functions and statements may be mutants.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

use super::mutant::mutated;
pub(super) use super::mutant::{GATE, LOCK, Mutant, Statement, Text};
pub(super) use super::session::{Ask, Said, Session};
use crate::support::prelude::*;

/// Demands that the promise is kept by the real texts, and by no mutant.
pub(super) async fn assert_needed(kept: impl AsyncFn(&mut Setting) -> bool, mutants: &[Mutant]) {
    let mut setting = Setting::create(&[]).await;
    assert!(kept(&mut setting).await, "without a mutation");
    for mutant in mutants {
        let mut setting = Setting::create(mutant).await;
        assert!(!kept(&mut setting).await, "not caught: {mutant:?}");
    }
}

/// A database whose clock stands in no outage, and sessions of two nodes.
pub(super) struct Setting {
    pub(super) db: Database,
    pub(super) first: Session,
    pub(super) second: Session,
}

impl Setting {
    pub(super) async fn create(mutant: Mutant) -> Setting {
        let db = Database::create().await;
        add_tokens(&db).await;
        install(&db, mutant).await;
        // Nobody ticks, and nobody looks: both count as done for the time of the test.
        db.execute(
            "UPDATE service_clock SET last_ok_at = clock_timestamp() + interval '1 h',
                                      outage_start = 'epoch', outage_end = 'epoch'",
        )
        .await;
        for node in 1..=2 {
            looked(&db, node, "interval '1 h'").await;
        }
        Setting {
            first: Session::open(&db, 1, mutant).await,
            second: Session::open(&db, 2, mutant).await,
            db,
        }
    }

    /// Has the lock taken by an exclusive lease of Alice's.
    pub(super) async fn hold(&mut self) -> Uuid {
        let id = Uuid::new_v4();
        let verdict = self.first.acquire(Statement::Acquire, LOCK, id).await;
        assert_eq!(verdict.as_deref(), Some("granted"));
        id
    }

    /// Lets a request join the line.
    pub(super) async fn join(&mut self, node: i64, ask: &Ask) {
        let session = if node == 1 {
            &mut self.first
        } else {
            &mut self.second
        };
        assert_eq!(session.outcome(ask).await, "waiting");
    }

    /// Lets the exclusive lease, claims included, end now.
    pub(super) async fn lapse(&self) {
        self.db
            .execute("UPDATE locks SET expires_at = clock_timestamp() WHERE end_reason = 0")
            .await;
    }

    /// True if this lease has the lock, exclusively, and lives.
    pub(super) async fn has_lock(&self, id: Uuid) -> bool {
        self.db
            .value(&format!(
                "SELECT EXISTS (SELECT FROM locks WHERE lease_id = '{id}' AND end_reason = 0
                                   AND expires_at > clock_timestamp())"
            ))
            .await
    }

    /// True if this lease is a live shared one or permit.
    pub(super) async fn is_member(&self, id: Uuid) -> bool {
        self.db
            .value(&format!(
                "SELECT EXISTS (SELECT FROM lock_members WHERE lease_id = '{id}'
                                   AND end_reason = 0 AND expires_at > clock_timestamp())"
            ))
            .await
    }

    /// The ticket of a lease id, and whether it is detached.
    pub(super) async fn ticket(&self, id: Uuid) -> Option<(i64, bool)> {
        sqlx::query_as("SELECT ticket, is_detached FROM lock_tickets WHERE lease_id = $1")
            .bind(id)
            .fetch_optional(&self.db.pool)
            .await
            .unwrap()
    }
}

/// Makes the two accounts of the tests and their tokens, as waiters need them.
pub(super) async fn add_tokens(db: &Database) {
    db.execute(
        "INSERT INTO accounts (account_id, email, email_key, plan_id) OVERRIDING SYSTEM VALUE
         SELECT n, n || '@node.example', n || '@node.example', p.plan_id
           FROM generate_series(1, 2) n, plans p WHERE p.code = 'business';
         INSERT INTO api_tokens (token_id, account_id, namespace_id, label, token_sha256, hint)
                OVERRIDING SYSTEM VALUE
         SELECT n, n, 1, 'node', sha256(n::text::bytea), 'node' FROM generate_series(1, 2) n",
    )
    .await;
}

/// Replaces the functions of a database that a mutant changes.
pub(super) async fn install(db: &Database, mutant: Mutant) {
    let mut done: Vec<&str> = Vec::new();
    for (of, ..) in mutant {
        let Text::Function(name) = *of else { continue };
        if done.contains(&name) {
            continue;
        }
        done.push(name);
        let text: String = db
            .value(&format!("SELECT pg_get_functiondef('{name}'::regproc)"))
            .await;
        db.execute(&mutated(&text, *of, mutant)).await;
    }
}

/// Sets when a node last looked, from now.
pub(super) async fn looked(db: &Database, node: i64, from_now: &str) {
    db.execute(&format!(
        "INSERT INTO nodes VALUES ({node}, clock_timestamp() + {from_now})
         ON CONFLICT (node_id) DO UPDATE SET looked_at = excluded.looked_at"
    ))
    .await;
}

/// Waits until so many sessions of the database wait for a row; for a second only, since a mutant
/// may not wait at all.
pub(super) async fn until_waiting(db: &Database, sessions: i64) {
    let waiting = format!(
        "SELECT count(*) >= {sessions} FROM pg_stat_activity
          WHERE datname = current_database() AND wait_event_type = 'Lock'"
    );
    let wait = eventually("they wait for a row", async || {
        db.value::<bool>(&waiting).await.then_some(())
    });
    tokio::time::timeout(Duration::from_secs(1), wait)
        .await
        .ok();
}

/// A session that keeps the row of a lock locked until [`unlock`].
pub(super) async fn locker_of(db: &Database, name: &str) -> PgConnection {
    let mut connection = db.connect().await;
    connection.execute("BEGIN").await.unwrap();
    let lock = format!("SELECT FROM locks WHERE name = '{name}' FOR UPDATE");
    connection.execute(AssertSqlSafe(lock)).await.unwrap();
    connection
}

pub(super) async fn unlock(mut connection: PgConnection) {
    connection.execute("COMMIT").await.unwrap();
    connection.close().await.unwrap();
}
