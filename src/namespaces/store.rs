//! The namespaces' queries.

use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::{Namespace, NamespaceError, check_name};
use crate::accounts::Account;
use crate::activity::{self, Action};
use crate::audit::Actor;
use crate::db::violated_constraint;
use crate::id::{AccountId, NamespaceId};
use crate::locks;

/// The public namespace and the account's own, by name.
///
/// # Errors
/// If the database query fails.
pub async fn list(pool: &PgPool, account_id: AccountId) -> sqlx::Result<Vec<Namespace>> {
    sqlx::query_as!(
        Namespace,
        r#"/* namespaces.list */
        SELECT n.namespace_id AS "namespace_id: NamespaceId", n.name, n.lease_default_ms,
               n.created_at,
               (SELECT count(*) FROM api_tokens t
                 WHERE t.namespace_id = n.namespace_id AND t.account_id = $1
                   AND t.revoked_at IS NULL
                   AND (t.expires_at IS NULL OR t.expires_at > clock_timestamp())) AS "tokens!",
               (SELECT count(*) FROM namespaces o
                 WHERE o.account_id = n.account_id AND o.namespace_id <= n.namespace_id
               ) AS "age_rank!"
          FROM namespaces n
         WHERE n.account_id = $1 OR n.account_id IS NULL
         ORDER BY n.account_id NULLS FIRST, n.name"#,
        account_id.0
    )
    .fetch_all(pool)
    .await
}

/// The account's private namespaces by name, at most `limit`; with `after` only those behind the
/// one of that name, the last of the page before.
///
/// # Errors
/// If the database query fails.
pub async fn list_page(
    pool: &PgPool,
    account_id: AccountId,
    after: Option<&str>,
    limit: i64,
) -> sqlx::Result<Vec<Namespace>> {
    sqlx::query_as!(
        Namespace,
        r#"/* namespaces.list_page */
        SELECT n.namespace_id AS "namespace_id: NamespaceId", n.name, n.lease_default_ms,
               n.created_at,
               (SELECT count(*) FROM api_tokens t
                 WHERE t.namespace_id = n.namespace_id AND t.account_id = $1
                   AND t.revoked_at IS NULL
                   AND (t.expires_at IS NULL OR t.expires_at > clock_timestamp())) AS "tokens!",
               (SELECT count(*) FROM namespaces o
                 WHERE o.account_id = n.account_id AND o.namespace_id <= n.namespace_id
               ) AS "age_rank!"
          FROM namespaces n
         WHERE n.account_id = $1 AND n.name > coalesce($2, '')
         ORDER BY n.name
         LIMIT $3"#,
        account_id.0,
        after,
        limit,
    )
    .fetch_all(pool)
    .await
}

/// The namespace of this name: `public`, or one of the account's own.
///
/// # Errors
/// [`NamespaceError::Unknown`], or if the database query fails.
pub async fn find(
    pool: &PgPool,
    account_id: AccountId,
    name: &str,
) -> Result<Namespace, NamespaceError> {
    list(pool, account_id)
        .await?
        .into_iter()
        .find(|namespace| namespace.name == name)
        .ok_or(NamespaceError::Unknown)
}

/// Makes a private namespace with this default lease; `None` for the account's. Of two calls at
/// once with room for one, one succeeds.
///
/// # Errors
/// If the name, the lease or the plan does not allow it, or the database query fails.
pub async fn create(
    pool: &PgPool,
    actor: &Actor,
    account: &Account,
    name: &str,
    lease_ms: Option<i64>,
) -> Result<Namespace, NamespaceError> {
    let max = account.limits.max_private_namespaces;
    if max == 0 {
        return Err(NamespaceError::NotInPlan);
    }
    check_name(name)?;
    let lease_ms = lease_ms
        .map(|lease_ms| account.limits.check_lease_ms(lease_ms))
        .transpose()?;
    let mut transaction = pool.begin().await?;
    lock_account(&mut transaction, account.account_id).await?;
    let existing = sqlx::query_scalar!(
        r#"/* namespaces.count */
        SELECT count(*) AS "count!" FROM namespaces WHERE account_id = $1"#,
        account.account_id.0
    )
    .fetch_one(&mut *transaction)
    .await?;
    if existing >= i64::from(max) {
        return Err(NamespaceError::TooMany { max });
    }
    let created = sqlx::query!(
        r#"/* namespaces.create */
        INSERT INTO namespaces (account_id, name, lease_default_ms) VALUES ($1, $2, $3)
        RETURNING namespace_id AS "namespace_id: NamespaceId", created_at"#,
        account.account_id.0,
        name,
        lease_ms
    )
    .fetch_one(&mut *transaction)
    .await
    .map_err(|error| match violated_constraint(&error) {
        Some("namespaces_name_unique") => NamespaceError::Taken,
        _ => error.into(),
    })?;
    let act = activity::Act {
        action: Action::CreateNamespace,
        subject: Some(&subject(name)),
        details: Some(json!({"lease_ms": lease_ms})),
    };
    activity::record(&mut transaction, account.account_id, actor, act).await?;
    transaction.commit().await?;
    Ok(Namespace {
        namespace_id: created.namespace_id,
        name: name.to_owned(),
        lease_default_ms: lease_ms,
        created_at: created.created_at,
        tokens: 0,
        age_rank: existing + 1,
    })
}

/// A namespace as the activity names it.
fn subject(name: &str) -> String {
    format!("namespace:{name}")
}

/// Locks the account's row: everything that is counted against a limit is counted under this lock.
async fn lock_account(
    connection: &mut PgConnection,
    account_id: AccountId,
) -> Result<(), NamespaceError> {
    sqlx::query!(
        r#"/* namespaces.lock_account */
        SELECT account_id FROM accounts
         WHERE account_id = $1 AND deleting_since IS NULL FOR NO KEY UPDATE"#,
        account_id.0
    )
    .fetch_optional(connection)
    .await?
    .map(|_| ())
    .ok_or(NamespaceError::Unknown)
}

/// Sets the default lease of a private namespace; `None` for the account's.
///
/// # Errors
/// [`NamespaceError::Lease`], [`NamespaceError::Unknown`], or if the database query fails.
pub async fn set_lease_default(
    pool: &PgPool,
    actor: &Actor,
    account: &Account,
    name: &str,
    lease_ms: Option<i64>,
) -> Result<(), NamespaceError> {
    let lease_ms = lease_ms
        .map(|lease_ms| account.limits.check_lease_ms(lease_ms))
        .transpose()?;
    let mut transaction = pool.begin().await?;
    lock_account(&mut transaction, account.account_id).await?;
    let before = sqlx::query!(
        r#"/* namespaces.set_lease_default */
        UPDATE namespaces n SET lease_default_ms = $3
          FROM (SELECT namespace_id, lease_default_ms FROM namespaces
                 WHERE account_id = $1 AND name = $2 FOR NO KEY UPDATE) o
         WHERE n.namespace_id = o.namespace_id
        RETURNING o.lease_default_ms AS "lease_ms?""#,
        account.account_id.0,
        name,
        lease_ms
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or(NamespaceError::Unknown)?;
    // A repeated request changes nothing.
    if before.lease_ms != lease_ms {
        let act = activity::Act {
            action: Action::SetNamespaceLease,
            subject: Some(&subject(name)),
            details: Some(json!({"before": before.lease_ms, "after": lease_ms})),
        };
        activity::record(&mut transaction, account.account_id, actor, act).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// Deletes a private namespace without held locks, and its tokens with it.
///
/// A node that does not know of the deletion yet may grant one more lease in it. That is harmless:
/// the namespace's id is never used again, and the sweeper removes the row.
///
/// # Errors
/// [`NamespaceError::InUse`], [`NamespaceError::Unknown`], or if the database query fails.
pub async fn delete(
    pool: &PgPool,
    actor: &Actor,
    account_id: AccountId,
    name: &str,
) -> Result<(), NamespaceError> {
    let mut transaction = pool.begin().await?;
    // Making a token takes the same lock, so that it finds the namespace or does not.
    lock_account(&mut transaction, account_id).await?;
    let namespace_id = sqlx::query_scalar!(
        "/* namespaces.lock */
        SELECT namespace_id FROM namespaces WHERE account_id = $1 AND name = $2 FOR UPDATE",
        account_id.0,
        name
    )
    .fetch_optional(&mut *transaction)
    .await?
    .map(NamespaceId)
    .ok_or(NamespaceError::Unknown)?;
    if locks::store::any_live(&mut transaction, namespace_id).await? {
        return Err(NamespaceError::InUse);
    }
    let tokens = sqlx::query_scalar!(
        r#"/* namespaces.count_tokens */
        SELECT count(*) AS "count!" FROM api_tokens
         WHERE namespace_id = $1 AND revoked_at IS NULL"#,
        namespace_id.0
    )
    .fetch_one(&mut *transaction)
    .await?;
    // Before the deletion: the token by which the account acts may be one of those that it deletes.
    let act = activity::Act {
        action: Action::DeleteNamespace,
        subject: Some(&subject(name)),
        details: Some(json!({"tokens": tokens})),
    };
    activity::record(&mut transaction, account_id, actor, act).await?;
    sqlx::query!(
        "/* namespaces.delete */ DELETE FROM namespaces WHERE namespace_id = $1",
        namespace_id.0
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}
