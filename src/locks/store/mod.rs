//! The queries about locks that are not the engine's.

mod breaking;
mod listing;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::LockName;
use crate::id::{AccountId, NamespaceId};

pub use breaking::{break_any, break_leases, break_own};
pub use listing::{LocksAfter, list_of_namespace};

/// A lock that is held, as its account or its namespace's owner sees it.
#[derive(Clone, Debug, Serialize)]
pub struct LiveLock {
    /// The name of the lock's namespace.
    pub namespace: String,
    /// The lock's name.
    pub name: String,
    /// The label of the API token that took it; `None` if that token no longer exists.
    pub token_label: Option<String>,
    /// The client's label for people.
    pub holder: Option<String>,
    /// The grant's fencing token.
    pub fencing_token: i64,
    /// When it was granted, on the database's clock.
    pub acquired_at: DateTime<Utc>,
    /// When its lease ends unless it is renewed, on the database's clock.
    pub expires_at: DateTime<Utc>,
    /// The time until then, milliseconds; 0 in the grace after an outage.
    pub remaining_ms: i64,
}

/// The live leases that an account sees: those in its private namespaces, and those that it holds
/// in the public one. Ordered by namespace, name and fencing token: at most `limit` that follow
/// `after`.
///
/// # Errors
/// If the query fails.
pub async fn list_live(
    pool: &PgPool,
    account_id: AccountId,
    namespace: Option<&str>,
    after: Option<(&str, &str, i64)>,
    limit: i64,
) -> sqlx::Result<Vec<LiveLock>> {
    sqlx::query_as!(
        LiveLock,
        r#"/* locks.list_live */
        SELECT n.name AS namespace, l.name AS "name!", t.label AS "token_label?", l.holder,
               l.fencing_token AS "fencing_token!", l.acquired_at AS "acquired_at!",
               l.expires_at AS "expires_at!",
               greatest(0, (extract(epoch FROM l.expires_at - clock_timestamp()) * 1000)::bigint)
                 AS "remaining_ms!"
          FROM unended_leases l
          JOIN namespaces n USING (namespace_id)
          CROSS JOIN lease_clock c
          LEFT JOIN api_tokens t ON t.token_id = l.token_id
         WHERE l.account_id = $1 AND (n.account_id = $1 OR n.account_id IS NULL)
           AND ($2::text IS NULL OR n.name = $2)
           AND ($3::text IS NULL
                OR (n.name COLLATE "C", l.name, l.fencing_token) > ($3, $4::text, $5::bigint))
           AND lease_is_live(l.expires_at, l.end_reason, l.length_ms, c.recent_until,
                             c.open_start, c.outage_start, c.outage_end, c.grace_ms)
         ORDER BY n.name COLLATE "C", l.name, l.fencing_token
         LIMIT $6"#,
        account_id.0,
        namespace,
        after.map(|(namespace, _, _)| namespace),
        after.map(|(_, name, _)| name),
        after.map(|(_, _, fencing_token)| fencing_token),
        limit,
    )
    .fetch_all(pool)
    .await
}

/// A lock, with who holds it and who waits for it.
#[derive(Clone, Debug)]
pub struct LockView {
    /// The leases that hold it, in the order of their grants.
    pub leases: Vec<HeldLease>,
    /// The first of those who wait for it, at most [`MOST_SHOWN`], in the order of their tickets.
    pub queue: Vec<QueuedRequest>,
    /// The number of those who wait for it.
    pub queue_length: i64,
}

/// The most waiters that a [`LockView`] shows.
pub const MOST_SHOWN: i64 = 100;

/// A lease that holds a lock.
#[derive(Clone, Debug)]
pub struct HeldLease {
    /// The account that holds it.
    pub account_id: i64,
    /// Its lease id.
    pub lease_id: Uuid,
    /// The grant's fencing token.
    pub fencing_token: i64,
    /// As [`super::Mode::permits`].
    pub permits: i32,
    /// The number of its permit, if it is of a semaphore.
    pub slot: Option<i32>,
    /// The length that it was granted with, milliseconds.
    pub lease_ms: i32,
    /// Its hold limit, milliseconds.
    pub max_hold_ms: Option<i32>,
    /// When it was granted.
    pub acquired_at: DateTime<Utc>,
    /// When it ends unless it is renewed.
    pub expires_at: DateTime<Utc>,
    /// The time until then, milliseconds; 0 in the grace after an outage.
    pub remaining_ms: i64,
    /// The client's label for people.
    pub holder: Option<String>,
    /// The client's JSON for programs.
    pub metadata: Option<serde_json::Value>,
}

/// A request that waits for a lock.
#[derive(Clone, Debug)]
pub struct QueuedRequest {
    /// Its place: 1 is the next.
    pub position: i64,
    /// The account that waits.
    pub account_id: i64,
    /// As [`super::Mode::permits`].
    pub permits: i32,
    /// The client's label for people.
    pub holder: Option<String>,
    /// How long ago its ticket was drawn, milliseconds.
    pub waited_ms: i64,
    /// True while no request waits with the ticket.
    pub is_detached: bool,
}

/// Who holds a lock, and who waits for it.
///
/// # Errors
/// If a query fails.
pub async fn find(
    pool: &PgPool,
    namespace_id: NamespaceId,
    name: &LockName,
) -> sqlx::Result<LockView> {
    let leases = sqlx::query_as!(
        HeldLease,
        r#"/* locks.leases_of_lock */
        SELECT l.account_id AS "account_id!", l.lease_id AS "lease_id!",
               l.fencing_token AS "fencing_token!", l.permits AS "permits!", l.slot,
               l.lease_ms AS "lease_ms!", l.max_hold_ms, l.acquired_at AS "acquired_at!",
               l.expires_at AS "expires_at!", l.holder, l.metadata,
               greatest(0, (extract(epoch FROM l.expires_at - clock_timestamp()) * 1000)::bigint)
                 AS "remaining_ms!"
          FROM unended_leases l CROSS JOIN lease_clock c
         WHERE l.namespace_id = $1 AND l.name = $2
           AND lease_is_live(l.expires_at, l.end_reason, l.length_ms, c.recent_until,
                             c.open_start, c.outage_start, c.outage_end, c.grace_ms)
         ORDER BY l.fencing_token"#,
        namespace_id.0,
        name.as_str(),
    )
    .fetch_all(pool)
    .await?;
    let queue = sqlx::query_as!(
        QueuedRequest,
        r#"/* locks.queue_of_lock */
        SELECT row_number() OVER (ORDER BY t.ticket) AS "position!", t.account_id, t.permits,
               t.holder, t.is_detached OR t.waits_until <= clock_timestamp() AS "is_detached!",
               (extract(epoch FROM clock_timestamp() - t.joined_at) * 1000)::bigint
                 AS "waited_ms!"
          FROM lock_tickets t
         WHERE t.namespace_id = $1 AND t.name = $2 AND t.claim_token IS NULL
           AND t.waits_until > clock_timestamp() - interval '20 s'
         ORDER BY t.ticket LIMIT $3"#,
        namespace_id.0,
        name.as_str(),
        MOST_SHOWN,
    )
    .fetch_all(pool)
    .await?;
    let queue_length = sqlx::query_scalar!(
        r#"/* locks.queue_length_of_lock */
        SELECT count(*) AS "count!" FROM lock_tickets t
         WHERE t.namespace_id = $1 AND t.name = $2 AND t.claim_token IS NULL
           AND t.waits_until > clock_timestamp() - interval '20 s'"#,
        namespace_id.0,
        name.as_str(),
    )
    .fetch_one(pool)
    .await?;
    Ok(LockView {
        leases,
        queue,
        queue_length,
    })
}

/// The number of leases that an account holds, and of its places in lines: both count against its
/// plan's limit.
///
/// # Errors
/// If the query fails.
pub async fn count_live(pool: &PgPool, account_id: AccountId) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"/* locks.count_live */
        SELECT (SELECT count(*) FROM unended_leases l CROSS JOIN lease_clock c
                 WHERE l.account_id = $1
                   AND lease_is_live(l.expires_at, l.end_reason, l.length_ms, c.recent_until,
                                     c.open_start, c.outage_start, c.outage_end, c.grace_ms))
             + (SELECT count(*) FROM lock_tickets t
                 WHERE t.account_id = $1 AND t.claim_token IS NULL
                   AND t.waits_until > clock_timestamp() - interval '20 s') AS "count!""#,
        account_id.0
    )
    .fetch_one(pool)
    .await
}

/// True if any lock of a namespace is held or waited for.
///
/// # Errors
/// If the query fails.
pub async fn any_live(
    connection: &mut PgConnection,
    namespace_id: NamespaceId,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"/* locks.any_live */
        SELECT EXISTS (SELECT FROM unended_leases l CROSS JOIN lease_clock c
          WHERE l.namespace_id = $1
            AND lease_is_live(l.expires_at, l.end_reason, l.length_ms, c.recent_until,
                              c.open_start, c.outage_start, c.outage_end, c.grace_ms))
            OR EXISTS (SELECT FROM lock_tickets t WHERE t.namespace_id = $1
                          AND t.waits_until > clock_timestamp() - interval '20 s') AS "any!""#,
        namespace_id.0
    )
    .fetch_one(connection)
    .await
}

/// Asks all nodes to look at what their waiters wait for. If that fails, they do so half a second
/// later.
async fn tell_nodes(pool: &PgPool) {
    let told = sqlx::query!("/* locks.tell_nodes */ SELECT pg_notify('lockable_grants', '*')")
        .fetch_one(pool)
        .await;
    if let Err(error) = told {
        tracing::debug!(%error, "a notice of grants was lost");
    }
}

/// Ends all leases of an account, and gives up its places in lines; those in its namespaces are
/// among them. Each transaction is about a few locks, in key order, so that no other waits long for
/// a row.
pub(crate) async fn end_leases_of_account(
    pool: &PgPool,
    account_id: AccountId,
) -> sqlx::Result<()> {
    loop {
        let locks = sqlx::query_scalar!(
            r#"/* locks.end_leases_of_account */
            WITH keys AS MATERIALIZED (
              SELECT namespace_id, name FROM locks WHERE account_id = $1 AND end_reason = 0
               UNION
              SELECT namespace_id, name FROM lock_members WHERE account_id = $1 AND end_reason = 0
               UNION
              SELECT namespace_id, name FROM lock_tickets WHERE account_id = $1
               LIMIT 200
            ), arrays AS (
              SELECT count(*)::integer AS length, array_agg(namespace_id) AS namespace_ids,
                     array_agg(name) AS names FROM keys
            )
            SELECT count(*) AS "count!" FROM arrays a
              CROSS JOIN LATERAL lock_gate(0, 'infinity',
                array_fill('expel'::text, ARRAY[a.length]), a.namespace_ids, a.names,
                array_fill($1::bigint, ARRAY[a.length]), '{}', '{}', '{}', '{}', '{}', '{}', '{}',
                '{}', '{}', '{}', '{}', '{}', '{}') g
             WHERE a.length > 0 AND g.outcome = 'expelled'"#,
            account_id.0
        )
        .fetch_one(pool)
        .await?;
        if locks == 0 {
            return Ok(());
        }
        tell_nodes(pool).await;
    }
}
