//! The audit log's queries.

use sqlx::{PgConnection, PgPool};

use super::{Act, Actor, Entry};
use crate::id::AccountId;

/// Writes an entry. Takes a connection, because the entry belongs to the transaction of the act.
///
/// # Errors
/// If the database query fails.
pub async fn record(
    connection: &mut PgConnection,
    actor: &Actor,
    act: Act<'_>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "/* audit.record */
        INSERT INTO audit_log (actor_account_id, actor, address, request_id, action,
                               subject_account_id, subject, before, after, reason)
        VALUES ($1, $2, $3::text::inet, $4, $5, $6, $7, $8, $9, $10)",
        actor.account_id.map(|id| id.0),
        actor.name,
        actor.client_ip.map(|ip| ip.to_string()),
        actor.request_id,
        act.action,
        act.subject_account_id.map(|id| id.0),
        act.subject,
        act.before,
        act.after,
        act.reason,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The conditions on entries in a list; all that are set must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only acts on this account.
    pub subject_account_id: Option<AccountId>,
    /// Only entries in which actor, action or subject contain this text.
    pub text: Option<String>,
    /// Only entries older than this one, the last of the page before.
    pub before_id: Option<i64>,
}

/// The entries that match a filter, newest first, at most `limit`.
///
/// # Errors
/// If the database query fails.
pub async fn list(pool: &PgPool, filter: &Filter, limit: i64) -> sqlx::Result<Vec<Entry>> {
    sqlx::query_as!(
        Entry,
        r#"/* audit.list */
        SELECT audit_id, at, actor, host(address) AS client_ip, request_id, action, subject,
               before, after, reason
          FROM audit_log
         WHERE ($1::bigint IS NULL OR subject_account_id = $1)
           AND ($2::text IS NULL
                OR strpos(lower(concat_ws(' ', actor, action, subject)), lower($2)) > 0)
           AND ($3::bigint IS NULL OR audit_id < $3)
         ORDER BY audit_id DESC
         LIMIT $4"#,
        filter.subject_account_id.map(|id| id.0),
        filter.text,
        filter.before_id,
        limit,
    )
    .fetch_all(pool)
    .await
}

/// The accounts and former values of the acts of one kind on one subject within the last hour,
/// oldest first.
///
/// # Errors
/// If the database query fails.
pub async fn of_the_last_hour(
    pool: &PgPool,
    action: &str,
    subject: &str,
) -> sqlx::Result<Vec<(Option<AccountId>, Option<serde_json::Value>)>> {
    let rows = sqlx::query!(
        r#"/* audit.of_the_last_hour */
        SELECT subject_account_id, before FROM audit_log
         WHERE at > clock_timestamp() - interval '1 hour' AND action = $1 AND subject = $2
         ORDER BY at, audit_id"#,
        action,
        subject,
    )
    .fetch_all(pool)
    .await?;
    let entries = rows.into_iter();
    Ok(entries
        .map(|row| (row.subject_account_id.map(AccountId), row.before))
        .collect())
}
