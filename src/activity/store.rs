//! The queries of accounts' activity.

use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::{Act, Action, Author, Entry, MAX_FAILED_SIGN_INS_A_DAY, SignInFailure};
use crate::audit::Means;
use crate::id::AccountId;

/// The most entries that one statement of the sweep deletes.
const SWEEP_BATCH: i64 = 1000;

/// Writes an entry. Takes a connection, because the entry belongs to the transaction of the act.
/// Does nothing if there is no such account any more: a lease can outlive its account.
///
/// The owner does not learn which administrator acted, nor from where; the audit log has both.
///
/// # Errors
/// If the database query fails.
pub async fn record(
    connection: &mut PgConnection,
    account_id: AccountId,
    author: impl Into<Author>,
    act: Act<'_>,
) -> sqlx::Result<()> {
    let author = author.into();
    let role = author.role(account_id);
    let client_ip = author.client_ip.filter(|_| role != "administrator");
    let token_id = match author.means {
        Means::Token(token_id) => Some(token_id.0),
        Means::Browser | Means::Command => None,
    };
    // The account's row is locked first, so that the foreign key cannot fail.
    sqlx::query!(
        "/* activity.record */
        INSERT INTO account_activity (account_id, action, author, means, token_label, token_hint,
                                      client_ip, subject, details)
        SELECT a.account_id, $2, $3, $4, t.label, t.hint, $6::text::inet,
               coalesce($7, a.email), $8
          FROM accounts a
          LEFT JOIN api_tokens t ON t.token_id = $5 AND t.account_id = a.account_id
         WHERE a.account_id = $1
           FOR KEY SHARE OF a",
        account_id.0,
        act.action.as_str(),
        role,
        author.means.as_str(),
        token_id,
        client_ip.map(|ip| ip.to_canonical().to_string()),
        act.subject,
        act.details,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes an entry about a failed sign-in, in a transaction of its own. Beyond
/// [`MAX_FAILED_SIGN_INS_A_DAY`] the newest entry counts it: `more` in its details says how many
/// there were since, `last_at` when the last was.
///
/// # Errors
/// If the database query fails.
pub async fn record_failed_sign_in(
    pool: &PgPool,
    account_id: AccountId,
    author: Author,
    failure: SignInFailure,
) -> sqlx::Result<()> {
    let mut transaction = pool.begin().await?;
    // Of several failures at once, each counts those before it.
    sqlx::query!(
        "/* activity.lock_account */
        SELECT account_id FROM accounts WHERE account_id = $1 FOR NO KEY UPDATE",
        account_id.0
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let counted = sqlx::query!(
        r#"/* activity.count_failed_sign_in */
        WITH recent AS MATERIALIZED (
          SELECT count(*) AS entries, max(activity_id) AS newest FROM account_activity
           WHERE account_id = $1 AND action = 'account.sign-in-failed'
             AND at > clock_timestamp() - interval '24 h'
        )
        UPDATE account_activity a
           SET details = a.details || jsonb_build_object(
                 'more', coalesce((a.details ->> 'more')::bigint, 0) + 1,
                 'last_at', to_char(clock_timestamp() AT TIME ZONE 'UTC',
                                    'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
          FROM recent r
         WHERE a.activity_id = r.newest AND r.entries >= $2"#,
        account_id.0,
        MAX_FAILED_SIGN_INS_A_DAY,
    )
    .execute(&mut *transaction)
    .await?;
    if counted.rows_affected() == 0 {
        let act = Act {
            action: Action::FailSignIn,
            subject: None,
            details: Some(json!({"reason": failure.as_str()})),
        };
        record(&mut transaction, account_id, author, act).await?;
    }
    transaction.commit().await
}

/// The entries of an account, newest first, at most `limit`; with `before_id` only those older than
/// that one, the last of the page before.
///
/// # Errors
/// If the database query fails.
pub async fn list(
    pool: &PgPool,
    account_id: AccountId,
    before_id: Option<i64>,
    limit: i64,
) -> sqlx::Result<Vec<Entry>> {
    sqlx::query_as!(
        Entry,
        r#"/* activity.list */
        SELECT activity_id, at, action, author, means, token_label, token_hint,
               host(client_ip) AS client_ip, subject, details
          FROM account_activity
         WHERE account_id = $1 AND activity_id < coalesce($2, 9223372036854775807)
         ORDER BY activity_id DESC
         LIMIT $3"#,
        account_id.0,
        before_id,
        limit,
    )
    .fetch_all(pool)
    .await
}

/// Deletes the entries of more than 90 days ago, in small batches, and returns their number. For a
/// job.
///
/// # Errors
/// If the database query fails.
pub async fn sweep(pool: &PgPool) -> sqlx::Result<u64> {
    let mut all = 0;
    loop {
        let deleted = sqlx::query!(
            "/* activity.sweep */
            DELETE FROM account_activity WHERE activity_id = ANY (ARRAY(
              SELECT activity_id FROM account_activity
               WHERE at < clock_timestamp() - interval '90 days'
               ORDER BY at LIMIT $1 FOR UPDATE SKIP LOCKED))",
            SWEEP_BATCH,
        )
        .execute(pool)
        .await?
        .rows_affected();
        all += deleted;
        if deleted < SWEEP_BATCH.unsigned_abs() {
            return Ok(all);
        }
    }
}
