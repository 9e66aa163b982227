//! The kinds of statements that a lane sends, and the names under which logs and metrics have them.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::request::{LockRequest, LockedRelease, Outcomes};
use super::statements;
use crate::locks::{Acquire, Heartbeat, Release};

/// A kind of statement: it executes requests of one kind together.
pub(super) trait BatchStatement {
    type Request: LockRequest;
    /// The name in logs and in the label `statement` of `lockable_database_seconds`.
    const NAME: &'static str;
    /// The counter of its requests' outcomes.
    const COUNTER: &'static str;
    /// The label `outcome` under which a request without a verdict is counted.
    const NO_VERDICT: &'static str = "lost_race";

    /// Executes the requests in one transaction, which writes nothing after `latest_at` on the
    /// database's clock. Outcomes are in the order of the requests; a request without a verdict has
    /// `None`.
    fn send(
        connection: &mut PgConnection,
        requests: &[&Self::Request],
        latest_at: DateTime<Utc>,
    ) -> impl Future<Output = sqlx::Result<Outcomes<Self::Request>>> + Send;
}

impl BatchStatement for Acquire {
    type Request = Self;
    const NAME: &'static str = "acquire";
    const COUNTER: &'static str = "lockable_acquires_total";

    async fn send(
        connection: &mut PgConnection,
        requests: &[&Self],
        latest_at: DateTime<Utc>,
    ) -> sqlx::Result<Outcomes<Self>> {
        statements::acquire(connection, requests, latest_at).await
    }
}

/// Acquires of locks that most likely have no row. Those of locks that have one get no verdict, and
/// are retried by [`Acquire`]'s statement.
pub(super) struct InsertIfAbsent;

impl BatchStatement for InsertIfAbsent {
    type Request = Acquire;
    // Dashboards know these labels by their first names.
    const NAME: &'static str = "acquire_new";
    const COUNTER: &'static str = <Acquire as BatchStatement>::COUNTER;
    const NO_VERDICT: &'static str = "not_new";

    async fn send(
        connection: &mut PgConnection,
        requests: &[&Acquire],
        latest_at: DateTime<Utc>,
    ) -> sqlx::Result<Outcomes<Acquire>> {
        statements::insert_if_absent(connection, requests, latest_at).await
    }
}

impl BatchStatement for Heartbeat {
    type Request = Self;
    const NAME: &'static str = "heartbeat";
    const COUNTER: &'static str = "lockable_heartbeats_total";

    async fn send(
        connection: &mut PgConnection,
        requests: &[&Self],
        latest_at: DateTime<Utc>,
    ) -> sqlx::Result<Outcomes<Self>> {
        statements::heartbeat(connection, requests, latest_at).await
    }
}

impl BatchStatement for Release {
    type Request = Self;
    const NAME: &'static str = "release";
    const COUNTER: &'static str = "lockable_releases_total";

    async fn send(
        connection: &mut PgConnection,
        requests: &[&Self],
        latest_at: DateTime<Utc>,
    ) -> sqlx::Result<Outcomes<Self>> {
        statements::release(connection, requests, latest_at).await
    }
}

impl BatchStatement for LockedRelease {
    type Request = Self;
    const NAME: &'static str = "release_under_lock";
    const COUNTER: &'static str = <Release as BatchStatement>::COUNTER;

    async fn send(
        connection: &mut PgConnection,
        requests: &[&Self],
        latest_at: DateTime<Utc>,
    ) -> sqlx::Result<Outcomes<Self>> {
        statements::release_under_lock(connection, requests, latest_at).await
    }
}
