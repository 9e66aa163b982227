//! The texts of the engine's statements, sent as they are, so that a mutant can leave out a clause.

use chrono::{DateTime, TimeDelta, Utc};
use lockable::db::{Purpose, pool};
use lockable::locks::{Acquire, Heartbeat, LockKey, Release};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Postgres, Row as _};
use uuid::Uuid;

use crate::support::node::ALICE;
use crate::support::prelude::*;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Acquire,
    InsertIfAbsent,
    Heartbeat,
    Release,
    ReleaseUnderLock,
}
use Kind::{InsertIfAbsent, ReleaseUnderLock};

/// A clause of a statement, and what the mutant has in its place.
pub(super) type Mutation = (Kind, &'static str, &'static str);

fn real(kind: Kind) -> &'static str {
    match kind {
        Kind::Acquire => include_str!("../../../../src/locks/engine/sql/acquire.sql"),
        InsertIfAbsent => include_str!("../../../../src/locks/engine/sql/insert_if_absent.sql"),
        Kind::Heartbeat => include_str!("../../../../src/locks/engine/sql/heartbeat.sql"),
        Kind::Release => include_str!("../../../../src/locks/engine/sql/release.sql"),
        ReleaseUnderLock => include_str!("../../../../src/locks/engine/sql/release_under_lock.sql"),
    }
}

/// A session of the engine whose statements are the real ones, but for a mutation.
pub(super) struct Session {
    connection: PoolConnection<Postgres>,
    mutation: Option<Mutation>,
}

impl Session {
    pub(super) async fn open(db: &Database, mutation: Option<Mutation>) -> Session {
        let pool = pool(db.options(), Purpose::LockEngine, 1);
        Session {
            connection: pool.acquire().await.unwrap(),
            mutation,
        }
    }

    /// The database's clock, so many milliseconds from now.
    pub(super) async fn in_ms(&mut self, ms: i64) -> DateTime<Utc> {
        let now: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()")
            .fetch_one(&mut *self.connection)
            .await
            .unwrap();
        now + TimeDelta::milliseconds(ms)
    }

    fn text(&self, kind: Kind) -> String {
        match self.mutation {
            Some((mutated, clause, instead)) if mutated == kind => {
                let text = real(kind).replace(clause, instead);
                assert!(text != real(kind), "there is no such clause: {clause}");
                text
            }
            _ => real(kind).to_owned(),
        }
    }

    async fn send(&mut self, query: Query<'_, Postgres, PgArguments>) -> Vec<PgRow> {
        query.fetch_all(&mut *self.connection).await.unwrap()
    }

    /// The verdict on each lock that has one.
    async fn verdicts(&mut self, query: Query<'_, Postgres, PgArguments>) -> Verdicts {
        let rows = self.send(query).await;
        Verdicts(rows.iter().map(|row| (row.get(1), row.get(2))).collect())
    }

    pub(super) async fn acquire(
        &mut self,
        requests: &[Acquire],
        latest_at: DateTime<Utc>,
    ) -> Verdicts {
        let query = bind_acquires(
            sqlx::query(AssertSqlSafe(self.text(Kind::Acquire))),
            requests,
        )
        .bind(requests.iter().map(|r| r.requested_ms).collect::<Vec<_>>());
        let query = bind_labels(query, requests)
            .bind(latest_at)
            .bind(vec![None::<i32>; requests.len()]);
        self.verdicts(query).await
    }

    pub(super) async fn insert_if_absent(
        &mut self,
        requests: &[Acquire],
        latest_at: DateTime<Utc>,
    ) -> Verdicts {
        let query = bind_acquires(
            sqlx::query(AssertSqlSafe(self.text(InsertIfAbsent))),
            requests,
        );
        let query = bind_labels(query, requests)
            .bind(latest_at)
            .bind(vec![None::<i32>; requests.len()]);
        let rows = self.send(query).await;
        Verdicts(
            rows.iter()
                .map(|row| (row.get(1), "granted".to_owned()))
                .collect(),
        )
    }

    pub(super) async fn heartbeat(
        &mut self,
        request: &Heartbeat,
        latest_at: DateTime<Utc>,
    ) -> Verdicts {
        let query = bind_key(
            sqlx::query(AssertSqlSafe(self.text(Kind::Heartbeat))),
            &request.key,
        )
        .bind([request.account_id.0])
        .bind([request.lease_id])
        .bind([request.lease_ms])
        .bind(latest_at);
        self.verdicts(query).await
    }

    pub(super) async fn release(
        &mut self,
        request: &Release,
        latest_at: DateTime<Utc>,
    ) -> Verdicts {
        let query = bind_key(
            sqlx::query(AssertSqlSafe(self.text(Kind::Release))),
            &request.key,
        )
        .bind([request.account_id.0])
        .bind([request.lease_id])
        .bind(latest_at);
        self.verdicts(query).await
    }

    /// Releases leases of Alice's under the lock.
    pub(super) async fn release_under_lock(
        &mut self,
        releases: &[(&str, Uuid)],
        is_clients: bool,
        latest_at: DateTime<Utc>,
    ) -> Verdicts {
        let query = sqlx::query(AssertSqlSafe(self.text(ReleaseUnderLock)))
            .bind(vec![1_i64; releases.len()])
            .bind(
                releases
                    .iter()
                    .map(|(name, _)| (*name).to_owned())
                    .collect::<Vec<_>>(),
            )
            .bind(vec![ALICE; releases.len()])
            .bind(releases.iter().map(|(_, id)| *id).collect::<Vec<_>>())
            .bind(vec![is_clients; releases.len()])
            .bind(latest_at);
        self.verdicts(query).await
    }

    /// Sends the statements that follow in one transaction.
    pub(super) async fn begin(&mut self) {
        self.send(sqlx::query("BEGIN")).await;
    }

    pub(super) async fn commit(&mut self) {
        self.send(sqlx::query("COMMIT")).await;
    }
}

/// The verdicts of a statement, by the locks' names.
#[derive(Debug)]
pub(super) struct Verdicts(Vec<(String, String)>);

impl Verdicts {
    /// True if there is no verdict on any lock.
    pub(super) fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// True if the lock has this verdict.
    pub(super) fn are(&self, name: &str, verdict: &str) -> bool {
        self.0
            .iter()
            .any(|(of, said)| (of.as_str(), said.as_str()) == (name, verdict))
    }
}

type Unsent = Query<'static, Postgres, PgArguments>;

fn bind_key(query: Unsent, key: &LockKey) -> Unsent {
    query
        .bind([key.namespace_id.0])
        .bind([key.name.as_str().to_owned()])
}

fn bind_acquires(query: Unsent, requests: &[Acquire]) -> Unsent {
    fn column<T>(requests: &[Acquire], of: impl Fn(&Acquire) -> T) -> Vec<T> {
        requests.iter().map(of).collect()
    }
    query
        .bind(column(requests, |r| r.key.namespace_id.0))
        .bind(column(requests, |r| r.key.name.as_str().to_owned()))
        .bind(column(requests, |r| r.account_id.0))
        .bind(column(requests, |r| r.token_id.0))
        .bind(column(requests, |r| r.lease_id))
        .bind(column(requests, |r| r.needs_proof))
        .bind(column(requests, |r| r.lease_ms))
}

fn bind_labels(query: Unsent, requests: &[Acquire]) -> Unsent {
    query
        .bind(vec![None::<String>; requests.len()])
        .bind(vec![None::<serde_json::Value>; requests.len()])
}
