//! The deletion of an account.

use std::time::Duration;

use sqlx::PgPool;

use crate::id::AccountId;
use crate::locks;

/// The time after the deletion of an account in which another node may still grant it a lease: a
/// second until the node knows of the deletion, and the deadline of the requests that it had
/// accepted by then.
const LAST_GRANTS_WITHIN: Duration = Duration::from_secs(8);

/// Deletes an account with everything that belongs to it: first its tokens and sessions become
/// invalid, then its leases end (the locks are free at once), then its rows are deleted. A node
/// that dies in between leaves an account that [`deleting`] lists; calling this again finishes it.
///
/// # Errors
/// If the database query fails.
pub async fn delete(pool: &PgPool, account_id: AccountId) -> sqlx::Result<()> {
    sqlx::query!(
        "/* accounts.begin_delete */
        UPDATE accounts SET deleting_since = clock_timestamp()
         WHERE account_id = $1 AND deleting_since IS NULL",
        account_id.0
    )
    .execute(pool)
    .await?;
    locks::store::end_leases_of_account(pool, account_id).await?;
    sqlx::query!(
        "/* accounts.delete */
        DELETE FROM accounts WHERE account_id = $1 AND deleting_since IS NOT NULL",
        account_id.0
    )
    .execute(pool)
    .await?;
    // A node that does not know of the deletion yet may have granted one more lease. If this node
    // stops before the time is up, that lease lapses.
    let pool = pool.clone();
    tokio::spawn(async move {
        tokio::time::sleep(LAST_GRANTS_WITHIN).await;
        if let Err(error) = locks::store::end_leases_of_account(&pool, account_id).await {
            tracing::warn!(
                %error, %account_id,
                "the last leases of a deleted account were not ended: they lapse"
            );
        }
    });
    Ok(())
}

/// Accounts whose deletion was begun more than a minute ago and not finished.
///
/// # Errors
/// If the database query fails.
pub async fn deleting(pool: &PgPool) -> sqlx::Result<Vec<AccountId>> {
    sqlx::query_scalar!(
        r#"/* accounts.deleting */
        SELECT account_id AS "account_id: AccountId" FROM accounts
         WHERE deleting_since < clock_timestamp() - interval '1 minute' LIMIT 100"#
    )
    .fetch_all(pool)
    .await
}
