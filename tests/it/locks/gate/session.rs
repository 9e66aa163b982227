//! A session of a node's engine, and what it says to the gate.

use chrono::{DateTime, TimeDelta, Utc};
use lockable::db::{Purpose, pool};
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Executor as _, Postgres, Row as _};
use uuid::Uuid;

use super::mutant::{LOCK, Mutant, Statement, Text, mutated};
use crate::support::node::{ALICE, any_time};
use crate::support::prelude::*;

/// A request to the gate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) operation: &'static str,
    pub(super) name: &'static str,
    pub(super) account: i64,
    pub(super) lease_id: Option<Uuid>,
    pub(super) needs_proof: bool,
    pub(super) lease_ms: i32,
    pub(super) requested_ms: Option<i32>,
    pub(super) wait_ms: i32,
    pub(super) permits: i32,
    pub(super) max_hold_ms: Option<i32>,
    pub(super) attachment: i64,
}

impl Ask {
    /// A request of Alice's with a lease id of hers.
    pub(super) fn of(operation: &'static str, id: Uuid) -> Ask {
        Ask {
            operation,
            name: LOCK,
            account: ALICE,
            lease_id: Some(id),
            needs_proof: true,
            lease_ms: 60_000,
            requested_ms: None,
            wait_ms: 0,
            permits: 1,
            max_hold_ms: None,
            attachment: 0,
        }
    }

    /// An acquire that waits, as the node's request of this number.
    pub(super) fn waiting(id: Uuid, attachment: i64) -> Ask {
        Ask {
            wait_ms: 60_000,
            attachment,
            ..Ask::of("acquire", id)
        }
    }

    /// Another request of the same waiter.
    pub(super) fn then(self, operation: &'static str) -> Ask {
        Ask { operation, ..self }
    }

    pub(super) fn permits(self, permits: i32) -> Ask {
        Ask { permits, ..self }
    }

    pub(super) fn advance() -> Ask {
        Ask {
            account: 0,
            lease_id: None,
            ..Ask::of("advance", Uuid::nil())
        }
    }
}

/// What the gate said.
#[derive(Debug)]
pub(super) struct Said(Vec<Row>);

#[derive(Debug)]
struct Row {
    request: Option<i32>,
    outcome: String,
    lease_id: Option<Uuid>,
    fencing_token: Option<i64>,
    slot: Option<i32>,
    expires_in_ms: Option<i64>,
}

impl Said {
    fn first(&self) -> &Row {
        self.0.iter().find(|row| row.request == Some(1)).unwrap()
    }

    /// The outcome of the first request.
    pub(super) fn outcome(&self) -> &str {
        &self.first().outcome
    }

    /// The outcomes of the requests, in their order.
    pub(super) fn outcomes(&self) -> Vec<&str> {
        let mut rows: Vec<&Row> = self.0.iter().filter(|row| row.request.is_some()).collect();
        rows.sort_by_key(|row| row.request);
        rows.into_iter().map(|row| &*row.outcome).collect()
    }

    pub(super) fn fencing_token(&self) -> Option<i64> {
        self.first().fencing_token
    }

    pub(super) fn slot(&self) -> Option<i32> {
        self.first().slot
    }

    pub(super) fn expires_in_ms(&self) -> i64 {
        self.first().expires_in_ms.unwrap_or(0)
    }

    /// The leases of the claims that were granted.
    pub(super) fn claims(&self) -> Vec<Uuid> {
        let claims = self.0.iter().filter(|row| row.outcome == "claimed");
        claims.filter_map(|row| row.lease_id).collect()
    }
}

/// A session of a node's engine.
pub(super) struct Session {
    connection: PoolConnection<Postgres>,
    node_id: i64,
    mutant: Mutant,
    pub(super) latest_at: DateTime<Utc>,
}

impl Session {
    pub(super) async fn open(db: &Database, node_id: i64, mutant: Mutant) -> Session {
        let pool = pool(db.options(), Purpose::LockEngine, 1);
        Session {
            connection: pool.acquire().await.unwrap(),
            node_id,
            mutant,
            latest_at: any_time(),
        }
    }

    /// Sends the statements that follow in one transaction.
    pub(super) async fn begin(&mut self) {
        self.connection.execute("BEGIN").await.unwrap();
    }

    pub(super) async fn commit(&mut self) {
        self.connection.execute("COMMIT").await.unwrap();
    }

    /// Lets the statements that follow be late by this much.
    pub(super) fn be_late(&mut self) {
        self.latest_at = Utc::now() - TimeDelta::days(1);
    }

    /// Sends one request to the gate.
    pub(super) async fn ask(&mut self, ask: &Ask) -> Said {
        self.ask_all(std::slice::from_ref(ask)).await
    }

    pub(super) async fn outcome(&mut self, ask: &Ask) -> String {
        self.ask(ask).await.outcome().to_owned()
    }

    /// Sends requests to gates, in key order.
    pub(super) async fn ask_all(&mut self, asks: &[Ask]) -> Said {
        self.try_ask(asks).await.unwrap()
    }

    pub(super) async fn try_ask(&mut self, asks: &[Ask]) -> sqlx::Result<Said> {
        fn column<T>(asks: &[Ask], of: impl Fn(&Ask) -> T) -> Vec<T> {
            asks.iter().map(of).collect()
        }
        let rows: Vec<PgRow> =
            sqlx::query(include_str!("../../../../src/locks/engine/sql/gate.sql"))
                .bind(self.node_id)
                .bind(self.latest_at)
                .bind(column(asks, |ask| ask.operation))
                .bind(column(asks, |_| 1_i64))
                .bind(column(asks, |ask| ask.name))
                .bind(column(asks, |ask| ask.account))
                .bind(column(asks, |ask| ask.account))
                .bind(column(asks, |ask| ask.lease_id))
                .bind(column(asks, |ask| ask.needs_proof))
                .bind(column(asks, |ask| ask.lease_ms))
                .bind(column(asks, |ask| ask.requested_ms))
                .bind(column(asks, |ask| ask.wait_ms))
                .bind(column(asks, |ask| ask.permits))
                .bind(column(asks, |ask| ask.max_hold_ms))
                .bind(column(asks, |_| None::<String>))
                .bind(column(asks, |_| None::<serde_json::Value>))
                .bind(column(asks, |ask| ask.attachment))
                .bind(column(asks, |_| None::<i64>))
                .bind(column(asks, |_| i32::MAX))
                .fetch_all(&mut *self.connection)
                .await?;
        let rows = rows.iter().map(|row| Row {
            request: row.get("request"),
            outcome: row.get("outcome!"),
            lease_id: row.get("lease_id"),
            fencing_token: row.get("fencing_token"),
            slot: row.get("slot"),
            expires_in_ms: row.get("expires_in_ms"),
        });
        Ok(Said(rows.collect()))
    }

    fn text(&self, statement: Statement) -> String {
        mutated(statement.real(), Text::Statement(statement), self.mutant)
    }

    /// Sends an acquire of Alice's for 60 s. The verdict on the lock; `None` if it lost a race.
    pub(super) async fn acquire(
        &mut self,
        statement: Statement,
        name: &str,
        id: Uuid,
    ) -> Option<String> {
        self.acquire_all(statement, &[(name, id)]).await.pop()?
    }

    /// As [`Self::acquire`], of several locks, in key order.
    pub(super) async fn acquire_all(
        &mut self,
        statement: Statement,
        asked: &[(&str, Uuid)],
    ) -> Vec<Option<String>> {
        let n = asked.len();
        let names: Vec<&str> = asked.iter().map(|(name, _)| *name).collect();
        let text = self.text(statement);
        let query = sqlx::query(AssertSqlSafe(text))
            .bind(vec![1_i64; n])
            .bind(names)
            .bind(vec![ALICE; n])
            .bind(vec![ALICE; n])
            .bind(asked.iter().map(|(_, id)| *id).collect::<Vec<_>>())
            .bind(vec![true; n])
            .bind(vec![60_000; n])
            .bind(vec![None::<i32>; n])
            .bind(vec![None::<String>; n])
            .bind(vec![None::<serde_json::Value>; n])
            .bind(self.latest_at);
        let query = match statement {
            Statement::OlderAcquire => query,
            _ => query.bind(vec![None::<i32>; n]),
        };
        let rows = query.fetch_all(&mut *self.connection).await.unwrap();
        let verdict_on = |name: &str| {
            let verdicts = rows.iter().filter(|row| row.get::<&str, _>(1) == name);
            let mut verdicts = verdicts.map(|row| row.get::<String, _>(2));
            verdicts.find(|verdict| verdict != "lapsed")
        };
        asked.iter().map(|(name, _)| verdict_on(name)).collect()
    }

    /// Sends a heartbeat or release of Alice's. The verdict on the lock; `None` if it lost a race.
    pub(super) async fn prove(&mut self, statement: Statement, id: Uuid) -> Option<String> {
        let query = sqlx::query(AssertSqlSafe(self.text(statement)))
            .bind([1_i64])
            .bind([LOCK])
            .bind([ALICE])
            .bind([id]);
        let query = match statement {
            Statement::Heartbeat | Statement::HeartbeatMember | Statement::OlderHeartbeat => {
                query.bind([None::<i32>])
            }
            Statement::ReleaseUnderLock | Statement::OlderReleaseUnderLock => query.bind([true]),
            _ => query,
        };
        let rows = query
            .bind(self.latest_at)
            .fetch_all(&mut *self.connection)
            .await
            .unwrap();
        rows.first().map(|row| match statement {
            Statement::HeartbeatMember => row.get(3),
            _ => row.get(2),
        })
    }

    /// Sends any other statement.
    pub(super) async fn execute(&mut self, sql: &str) -> sqlx::Result<()> {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&mut *self.connection)
            .await
            .map(drop)
    }
}
