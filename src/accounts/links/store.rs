//! The links' queries.

use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgExecutor, PgPool};

use super::{Link, Purpose};
use crate::id::AccountId;
use crate::secret::Secret;

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// Makes a link and returns its secret, which belongs into the mail and nowhere else.
///
/// # Errors
/// If the database query fails.
pub async fn create(
    db: impl PgExecutor<'_>,
    account_id: AccountId,
    purpose: Purpose,
    email: &str,
) -> Result<Secret, sqlx::Error> {
    let secret = Secret::random();
    sqlx::query!(
        r#"/* links.create */
        INSERT INTO email_links (link_sha256, account_id, purpose, email, expires_at)
        VALUES ($1, $2, $3, $4, clock_timestamp() + interval '1 h')"#,
        &hash(secret.expose())[..],
        account_id.0,
        purpose.as_str(),
        email,
    )
    .execute(db)
    .await?;
    Ok(secret)
}

/// Finds a link without using it.
///
/// # Errors
/// If the database query fails.
pub async fn find(
    db: &PgPool,
    secret: &str,
    purpose: Purpose,
) -> Result<Option<Link>, sqlx::Error> {
    sqlx::query_as!(
        Link,
        r#"/* links.find */
        SELECT account_id AS "account_id: AccountId", email, used_at IS NOT NULL AS "is_used!"
          FROM email_links
         WHERE link_sha256 = $1 AND purpose = $2 AND expires_at > clock_timestamp()"#,
        &hash(secret)[..],
        purpose.as_str(),
    )
    .fetch_optional(db)
    .await
}

/// Uses a link up. Returns `None` if there is none, it was used, or its hour is over.
///
/// # Errors
/// If the database query fails.
pub async fn take(
    db: &mut PgConnection,
    secret: &str,
    purpose: Purpose,
) -> Result<Option<Link>, sqlx::Error> {
    sqlx::query_as!(
        Link,
        r#"/* links.take */
        UPDATE email_links SET used_at = clock_timestamp()
         WHERE link_sha256 = $1 AND purpose = $2 AND used_at IS NULL
           AND expires_at > clock_timestamp()
        RETURNING account_id AS "account_id: AccountId", email, true AS "is_used!""#,
        &hash(secret)[..],
        purpose.as_str(),
    )
    .fetch_optional(db)
    .await
}

/// Deletes the unused links of an account, after its password or e-mail address has changed.
///
/// # Errors
/// If the database query fails.
pub async fn void_all(db: impl PgExecutor<'_>, account_id: AccountId) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "/* links.void_all */ DELETE FROM email_links WHERE account_id = $1 AND used_at IS NULL",
        account_id.0
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes expired rows and returns their number. For a job.
///
/// # Errors
/// If the database query fails.
pub async fn sweep(db: &PgPool) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "/* links.sweep */ DELETE FROM email_links WHERE expires_at < clock_timestamp()"
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
