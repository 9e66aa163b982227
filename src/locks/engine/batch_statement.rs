//! The kinds of statements that a lane sends, and the names under which logs and metrics have them.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::gate::{GateNews, GateRequest};
use super::request::{LockRequest, LockedRelease, MemberHeartbeat, Outcomes};
use super::statements::{self, gate, members};
use crate::events::NewEvent;
use crate::locks::{Acquire, Heartbeat, Release};

/// A kind of statement: it executes requests of one kind together.
pub(super) trait BatchStatement {
    type Request: LockRequest;
    /// The effects of the statement beside the outcomes of its requests.
    type News: Default + Send;
    /// The name in logs and in the label `statement` of `lockable_database_seconds`.
    const NAME: &'static str;
    /// The counter of its requests' outcomes.
    const COUNTER: &'static str;
    /// The label `outcome` under which a request without a verdict is counted.
    const NO_VERDICT: &'static str = "lost_race";

    /// Executes the requests in one transaction, which writes nothing after `latest_at` on the
    /// database's clock, for the node `node_id`. Outcomes are in the order of the requests; a
    /// request without a verdict has `None`.
    fn send(
        connection: &mut PgConnection,
        node_id: i64,
        requests: &[&Self::Request],
        latest_at: DateTime<Utc>,
    ) -> impl Future<Output = sqlx::Result<(Outcomes<Self::Request>, Self::News)>> + Send;
}

impl BatchStatement for Acquire {
    type Request = Self;
    type News = Vec<NewEvent>;
    const NAME: &'static str = "acquire";
    const COUNTER: &'static str = "lockable_acquires_total";

    async fn send(
        connection: &mut PgConnection,
        _: i64,
        requests: &[&Self],
        latest_at: DateTime<Utc>,
    ) -> sqlx::Result<(Outcomes<Self>, Vec<NewEvent>)> {
        statements::acquire_noting(connection, requests, latest_at).await
    }
}

/// Acquires of locks that most likely have no row. Those of locks that have one get no verdict, and
/// are retried by [`Acquire`]'s statement.
pub(super) struct InsertIfAbsent;

impl BatchStatement for InsertIfAbsent {
    type Request = Acquire;
    type News = ();
    // Dashboards know these labels by their first names.
    const NAME: &'static str = "acquire_new";
    const COUNTER: &'static str = <Acquire as BatchStatement>::COUNTER;
    const NO_VERDICT: &'static str = "not_new";

    async fn send(
        connection: &mut PgConnection,
        _: i64,
        requests: &[&Acquire],
        latest_at: DateTime<Utc>,
    ) -> sqlx::Result<(Outcomes<Acquire>, ())> {
        let outcomes = statements::insert_if_absent(connection, requests, latest_at).await?;
        Ok((outcomes, ()))
    }
}

impl BatchStatement for Heartbeat {
    type Request = Self;
    type News = ();
    const NAME: &'static str = "heartbeat";
    const COUNTER: &'static str = "lockable_heartbeats_total";

    async fn send(
        connection: &mut PgConnection,
        _: i64,
        requests: &[&Self],
        latest_at: DateTime<Utc>,
    ) -> sqlx::Result<(Outcomes<Self>, ())> {
        let outcomes = statements::heartbeat(connection, requests, latest_at).await?;
        Ok((outcomes, ()))
    }
}

impl BatchStatement for Release {
    type Request = Self;
    type News = Vec<NewEvent>;
    const NAME: &'static str = "release";
    const COUNTER: &'static str = "lockable_releases_total";

    async fn send(
        connection: &mut PgConnection,
        _: i64,
        requests: &[&Self],
        latest_at: DateTime<Utc>,
    ) -> sqlx::Result<(Outcomes<Self>, Vec<NewEvent>)> {
        statements::release_noting(connection, requests, latest_at).await
    }
}

impl BatchStatement for LockedRelease {
    type Request = Self;
    type News = Vec<NewEvent>;
    const NAME: &'static str = "release_under_lock";
    const COUNTER: &'static str = <Release as BatchStatement>::COUNTER;

    async fn send(
        connection: &mut PgConnection,
        _: i64,
        requests: &[&Self],
        latest_at: DateTime<Utc>,
    ) -> sqlx::Result<(Outcomes<Self>, Vec<NewEvent>)> {
        statements::release_under_lock(connection, requests, latest_at).await
    }
}

impl BatchStatement for MemberHeartbeat {
    type Request = Self;
    type News = ();
    const NAME: &'static str = "heartbeat_member";
    const COUNTER: &'static str = <Heartbeat as BatchStatement>::COUNTER;

    async fn send(
        connection: &mut PgConnection,
        _: i64,
        requests: &[&Self],
        latest_at: DateTime<Utc>,
    ) -> sqlx::Result<(Outcomes<Self>, ())> {
        let outcomes = members::heartbeat(connection, requests, latest_at).await?;
        Ok((outcomes, ()))
    }
}

impl BatchStatement for GateRequest {
    type Request = Self;
    type News = GateNews;
    const NAME: &'static str = "gate";
    const COUNTER: &'static str = "lockable_gate_requests_total";

    async fn send(
        connection: &mut PgConnection,
        node_id: i64,
        requests: &[&Self],
        latest_at: DateTime<Utc>,
    ) -> sqlx::Result<(Outcomes<Self>, GateNews)> {
        gate::decide(connection, node_id, requests, latest_at).await
    }
}
