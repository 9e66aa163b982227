//! The deletion of an account.

use std::time::Duration;

use sqlx::PgPool;

use crate::id::AccountId;
use crate::locks;

/// How long after its deletion another node may still grant something to an account: a second in
/// which it may not have heard of it, and the deadline of what it had accepted by then.
const LAST_GRANTS_WITHIN: Duration = Duration::from_secs(8);

/// Deletes an account and all that is its: first nothing of it works any more, then its leases end
/// (the locks are free at once), then its rows go. A node that dies in between leaves an account
/// that [`deleting`] lists; calling this again finishes it.
///
/// # Errors
/// Where the database cannot be asked.
pub async fn delete(pool: &PgPool, account_id: AccountId) -> sqlx::Result<()> {
    sqlx::query!(
        "/* accounts.begin_delete */
        UPDATE accounts SET deleting_since = clock_timestamp() WHERE account_id = $1 AND deleting_since IS NULL",
        account_id.0
    )
    .execute(pool)
    .await?;
    locks::store::end_leases_of_account(pool, account_id).await?;
    sqlx::query!(
        "/* accounts.delete */ DELETE FROM accounts WHERE account_id = $1 AND deleting_since IS NOT NULL",
        account_id.0
    )
    .execute(pool)
    .await?;
    // A node that has not heard of it yet may have granted one more. A node that stops before this
    // leaves it to lapse.
    let pool = pool.clone();
    tokio::spawn(async move {
        tokio::time::sleep(LAST_GRANTS_WITHIN).await;
        if let Err(error) = locks::store::end_leases_of_account(&pool, account_id).await {
            tracing::warn!(%error, %account_id, "the last leases of a deleted account were not ended: they lapse");
        }
    });
    Ok(())
}

/// Accounts whose deletion was begun more than a minute ago and not finished.
///
/// # Errors
/// Where the database cannot be asked.
pub async fn deleting(pool: &PgPool) -> sqlx::Result<Vec<AccountId>> {
    sqlx::query_scalar!(
        r#"/* accounts.deleting */
        SELECT account_id AS "account_id: AccountId" FROM accounts
         WHERE deleting_since < clock_timestamp() - interval '1 minute' LIMIT 100"#
    )
    .fetch_all(pool)
    .await
}
