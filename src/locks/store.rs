//! The queries about locks that are not the engine's.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::{BreakError, LockName};
use crate::audit::{self, Act, Actor};
use crate::id::{AccountId, NamespaceId};

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

/// The live locks that an account sees: those in its private namespaces, and those that it holds in
/// the public one. Ordered by namespace and name: at most `limit` that follow `after`.
///
/// # Errors
/// If the query fails.
pub async fn list_live(
    pool: &PgPool,
    account_id: AccountId,
    namespace: Option<&str>,
    after: Option<(&str, &str)>,
    limit: i64,
) -> sqlx::Result<Vec<LiveLock>> {
    sqlx::query_as!(
        LiveLock,
        r#"/* locks.list_live */
        SELECT n.name AS namespace, l.name, t.label AS "token_label?", l.holder, l.fencing_token,
               l.acquired_at, l.expires_at,
               greatest(0, (extract(epoch FROM l.expires_at - clock_timestamp()) * 1000)::bigint)
                 AS "remaining_ms!"
          FROM locks l
          JOIN namespaces n USING (namespace_id)
          CROSS JOIN lease_clock c
          LEFT JOIN api_tokens t ON t.token_id = l.token_id
         WHERE l.account_id = $1 AND (n.account_id = $1 OR n.account_id IS NULL)
           AND ($2::text IS NULL OR n.name = $2)
           AND ($3::text IS NULL OR (n.name COLLATE "C", l.name) > ($3, $4::text))
           AND lease_is_live(l.expires_at, l.end_reason, greatest(l.lease_ms, l.renewed_ms),
                             c.recent_until, c.open_start, c.outage_start, c.outage_end,
                             c.grace_ms)
         ORDER BY n.name COLLATE "C", l.name
         LIMIT $5"#,
        account_id.0,
        namespace,
        after.map(|(namespace, _)| namespace),
        after.map(|(_, name)| name),
        limit,
    )
    .fetch_all(pool)
    .await
}

/// The number of locks that an account holds.
///
/// # Errors
/// If the query fails.
pub async fn count_live(pool: &PgPool, account_id: AccountId) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"/* locks.count_live */
        SELECT count(*) AS "count!" FROM locks l CROSS JOIN lease_clock c
         WHERE l.account_id = $1
           AND lease_is_live(l.expires_at, l.end_reason, greatest(l.lease_ms, l.renewed_ms),
                             c.recent_until, c.open_start, c.outage_start, c.outage_end,
                             c.grace_ms)"#,
        account_id.0
    )
    .fetch_one(pool)
    .await
}

/// True if any lock of a namespace is held.
///
/// # Errors
/// If the query fails.
pub async fn any_live(
    connection: &mut PgConnection,
    namespace_id: NamespaceId,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"/* locks.any_live */
        SELECT EXISTS (SELECT FROM locks l CROSS JOIN lease_clock c
          WHERE l.namespace_id = $1
            AND lease_is_live(l.expires_at, l.end_reason, greatest(l.lease_ms, l.renewed_ms),
                              c.recent_until, c.open_start, c.outage_start, c.outage_end,
                              c.grace_ms)) AS "any!""#,
        namespace_id.0
    )
    .fetch_one(connection)
    .await
}

/// Ends a lease of the account's own, in one of its private namespaces or in the public one:
/// exactly the lease with this fencing token, never one that was granted since. Writes an entry of
/// the audit log.
///
/// # Errors
/// [`BreakError::NotHeld`] where the account does not hold that lease.
pub async fn break_own(
    pool: &PgPool,
    actor: &Actor,
    account_id: AccountId,
    (namespace_id, namespace): (NamespaceId, &str),
    name: &LockName,
    fencing_token: i64,
    reason: &str,
) -> Result<(), BreakError> {
    let lease = LeaseToBreak {
        namespace_id,
        namespace,
        name,
        fencing_token: Some(fencing_token),
        account_id: Some(account_id),
    };
    break_lease(pool, actor, lease, reason).await
}

/// Ends the lease of a lock in the public namespace, any account's: for administrators. Writes an
/// entry of the audit log.
///
/// # Errors
/// [`BreakError::NotHeld`] where nobody holds the lock.
pub async fn break_any(
    pool: &PgPool,
    actor: &Actor,
    name: &LockName,
    reason: &str,
) -> Result<(), BreakError> {
    let lease = LeaseToBreak {
        namespace_id: NamespaceId::PUBLIC,
        namespace: NamespaceId::PUBLIC_NAME,
        name,
        fencing_token: None,
        account_id: None,
    };
    break_lease(pool, actor, lease, reason).await
}

struct LeaseToBreak<'a> {
    namespace_id: NamespaceId,
    namespace: &'a str,
    name: &'a LockName,
    /// `None` for the lease that holds the lock.
    fencing_token: Option<i64>,
    /// `None` for any account.
    account_id: Option<AccountId>,
}

async fn break_lease(
    pool: &PgPool,
    actor: &Actor,
    lease: LeaseToBreak<'_>,
    reason: &str,
) -> Result<(), BreakError> {
    let reason = audit::check_reason(reason)?;
    let mut transaction = pool.begin().await?;
    // First the row's lock, then a look of its own: a lease that looks lapsed while the heartbeat
    // that renews it is in its commit would be missed.
    sqlx::query!(
        "/* locks.lock_row */
        SELECT FROM locks WHERE namespace_id = $1 AND name = $2 FOR NO KEY UPDATE",
        lease.namespace_id.0,
        lease.name.as_str(),
    )
    .execute(&mut *transaction)
    .await?;
    let broken = sqlx::query!(
        "/* locks.break */
        UPDATE locks l SET expires_at = clock_timestamp(), end_reason = 2
          FROM lease_clock c
         WHERE l.namespace_id = $1 AND l.name = $2
           AND ($3::bigint IS NULL OR l.fencing_token = $3)
           AND ($4::bigint IS NULL OR l.account_id = $4)
           AND lease_is_live(l.expires_at, l.end_reason, greatest(l.lease_ms, l.renewed_ms),
                             c.recent_until, c.open_start, c.outage_start, c.outage_end, c.grace_ms)
        RETURNING l.account_id, l.fencing_token",
        lease.namespace_id.0,
        lease.name.as_str(),
        lease.fencing_token,
        lease.account_id.map(|id| id.0),
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(broken) = broken else {
        return Err(BreakError::NotHeld);
    };
    let subject = format!("lock:{}/{}", lease.namespace, lease.name);
    let act = Act {
        action: "lock.break",
        subject_account_id: Some(AccountId(broken.account_id)),
        subject: &subject,
        before: Some(json!({"held": true, "fencing_token": broken.fencing_token})),
        after: Some(json!({"held": false})),
        reason: Some(reason),
    };
    audit::record(&mut transaction, actor, act).await?;
    transaction.commit().await?;
    Ok(())
}

/// Ends all leases of an account; those in its namespaces are among them. Each transaction ends a
/// few, in key order, so that no other waits long for a row.
pub(crate) async fn end_leases_of_account(
    pool: &PgPool,
    account_id: AccountId,
) -> sqlx::Result<()> {
    loop {
        let ended = sqlx::query!(
            "/* locks.end_leases_of_account */
            UPDATE locks l SET expires_at = clock_timestamp(), end_reason = 1
              FROM (SELECT namespace_id, name FROM locks WHERE account_id = $1 AND end_reason = 0
                     ORDER BY namespace_id, name LIMIT 500 FOR NO KEY UPDATE) k
             WHERE l.namespace_id = k.namespace_id AND l.name = k.name AND l.account_id = $1
               AND l.end_reason = 0",
            account_id.0
        )
        .execute(pool)
        .await?;
        if ended.rows_affected() == 0 {
            return Ok(());
        }
    }
}
