//! The tokens' queries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::caller::Caller;
use super::{
    EmailConfirmation, MAX_OVERLAP, NewToken, Scope, Token, TokenError, check_email_confirmed,
};
use crate::accounts::Account;
use crate::activity::{self, Action};
use crate::audit::{self, Act, Actor};
use crate::id::{AccountId, NamespaceId, TokenId};
use crate::namespaces;
use crate::plans::{Limits, is_slug};
use crate::secret::{Secret, Sha256Digest};

/// The account's tokens that were not revoked, newest first. Expired ones are shown until their
/// owner removes them.
///
/// # Errors
/// If the database query fails.
pub async fn list(pool: &PgPool, account_id: AccountId) -> sqlx::Result<Vec<Token>> {
    list_page(pool, account_id, None, i64::MAX).await
}

/// As [`list`], at most `limit`; with `before_id` only those older than that one, the last of the
/// page before.
///
/// # Errors
/// If the database query fails.
pub async fn list_page(
    pool: &PgPool,
    account_id: AccountId,
    before_id: Option<TokenId>,
    limit: i64,
) -> sqlx::Result<Vec<Token>> {
    sqlx::query_as!(
        Token,
        r#"/* tokens.list */
        SELECT t.token_id AS "token_id: TokenId", t.label,
               t.namespace_id AS "namespace_id: NamespaceId", n.name AS namespace, t.scope,
               t.hint, t.created_at, t.expires_at, t.last_used_at,
               coalesce(t.expires_at <= clock_timestamp(), false) AS "expired!"
          FROM api_tokens t JOIN namespaces n USING (namespace_id)
         WHERE t.account_id = $1 AND t.revoked_at IS NULL
           AND t.token_id < coalesce($2, 9223372036854775807)
         ORDER BY t.token_id DESC
         LIMIT $3"#,
        account_id.0,
        before_id.map(|id| id.0),
        limit,
    )
    .fetch_all(pool)
    .await
}

/// A token of the account that was not revoked; it may have expired.
///
/// # Errors
/// [`TokenError::Unknown`], or if the database query fails.
pub async fn find(
    pool: &PgPool,
    account_id: AccountId,
    token_id: TokenId,
) -> Result<Token, TokenError> {
    list(pool, account_id)
        .await?
        .into_iter()
        .find(|token| token.token_id == token_id)
        .ok_or(TokenError::Unknown)
}

/// Makes a token. The secret is returned this once; only its digest is stored. Of two calls at once
/// with room for one token, one succeeds.
///
/// # Errors
/// If a rule or the plan does not allow it, or the database query fails.
pub async fn create(
    pool: &PgPool,
    actor: &Actor,
    account: &Account,
    confirmation: EmailConfirmation,
    new: &NewToken<'_>,
) -> Result<(TokenId, Secret), TokenError> {
    check_email_confirmed(account, confirmation)?;
    insert_within_limits(pool, actor, account, new, false).await
}

/// As [`create`], by an administrator for any account, whose e-mail address need not be confirmed:
/// with an entry in the audit log.
///
/// # Errors
/// As [`create`].
pub async fn create_for(
    pool: &PgPool,
    actor: &Actor,
    account: &Account,
    new: &NewToken<'_>,
) -> Result<(TokenId, Secret), TokenError> {
    insert_within_limits(pool, actor, account, new, true).await
}

async fn insert_within_limits(
    pool: &PgPool,
    actor: &Actor,
    account: &Account,
    new: &NewToken<'_>,
    is_audited: bool,
) -> Result<(TokenId, Secret), TokenError> {
    let label = new.label.trim();
    if !(1..=100).contains(&label.chars().count()) || label.chars().any(char::is_control) {
        return Err(TokenError::InvalidLabel);
    }
    if !is_slug(new.namespace) {
        return Err(TokenError::UnknownNamespace);
    }
    let mut transaction = pool.begin().await?;
    lock_account(&mut transaction, account.account_id).await?;
    let max = account.limits.max_tokens;
    if count_live(&mut transaction, account.account_id).await? >= i64::from(max) {
        return Err(TokenError::TooMany { max });
    }
    let namespace_id = sqlx::query_scalar!(
        "/* tokens.find_namespace */
        SELECT namespace_id FROM namespaces
         WHERE name = $2 AND (account_id = $1 OR account_id IS NULL)",
        account.account_id.0,
        new.namespace
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or(TokenError::UnknownNamespace)?;
    let token = insert(
        &mut transaction,
        account.account_id,
        NamespaceId(namespace_id),
        label,
        new.scope.as_str(),
        new.expires_at,
    )
    .await?;
    let act = activity::Act {
        action: Action::CreateToken,
        subject: Some(&subject(label)),
        details: Some(
            json!({"token_id": token.0.to_string(), "hint": hint(&token.1),
                   "namespace": new.namespace, "scope": new.scope,
                   "expires_at": new.expires_at.map(instant)}),
        ),
    };
    activity::record(&mut transaction, account.account_id, actor, act).await?;
    if is_audited {
        let act = Act {
            action: "token.create",
            subject_account_id: Some(account.account_id),
            subject: &account.email,
            before: None,
            after: Some(
                json!({"token_id": token.0, "label": label, "namespace": new.namespace,
                       "scope": new.scope, "expires_at": new.expires_at}),
            ),
            reason: None,
        };
        audit::record(&mut transaction, actor, act).await?;
    }
    transaction.commit().await?;
    Ok(token)
}

/// A token as the activity names it.
fn subject(label: &str) -> String {
    format!("token:{label}")
}

/// The end of a token, by which its owner recognises it.
fn hint(token: &Secret) -> &str {
    let text = token.expose();
    &text[text.len() - 4..]
}

/// An instant as the API writes it.
fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Replaces a token by a new one of the same label, namespace, scope and expiry. The old one stays
/// valid for `overlap`, so that its users can be moved over one by one; with zero it is revoked at
/// once. Meanwhile the account may have one token more than its plan allows.
///
/// # Errors
/// [`TokenError::Unknown`], [`TokenError::InvalidOverlap`], [`TokenError::TooMany`], or if the
/// database query fails.
pub async fn rotate(
    pool: &PgPool,
    actor: &Actor,
    account: &Account,
    token_id: TokenId,
    overlap: Duration,
) -> Result<(TokenId, Secret), TokenError> {
    if overlap > MAX_OVERLAP {
        return Err(TokenError::InvalidOverlap);
    }
    let account_id = account.account_id;
    let mut transaction = pool.begin().await?;
    lock_account(&mut transaction, account_id).await?;
    let max = account.limits.max_tokens;
    if !overlap.is_zero() && count_live(&mut transaction, account_id).await? > i64::from(max) {
        return Err(TokenError::TooMany { max });
    }
    let overlap_s = overlap.as_secs_f64();
    // least() ignores NULL: an expiry that comes earlier stays.
    let old = sqlx::query!(
        r#"/* tokens.retire */
        UPDATE api_tokens t SET
               revoked_at = CASE WHEN $3::float8 = 0 THEN clock_timestamp() END,
               expires_at = CASE WHEN $3 = 0 THEN t.expires_at
                            ELSE least(t.expires_at, clock_timestamp() + make_interval(secs => $3))
                            END
          FROM (SELECT token_id, expires_at FROM api_tokens
                 WHERE token_id = $2 AND account_id = $1 AND revoked_at IS NULL
                   AND (expires_at IS NULL OR expires_at > clock_timestamp())
                   FOR UPDATE) o
         WHERE t.token_id = o.token_id
        RETURNING t.label, t.namespace_id, t.scope, o.expires_at AS "expires_at?""#,
        account_id.0,
        token_id.0,
        overlap_s
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or(TokenError::Unknown)?;
    let token = insert(
        &mut transaction,
        account_id,
        NamespaceId(old.namespace_id),
        &old.label,
        &old.scope,
        old.expires_at,
    )
    .await?;
    let overlap_ms = u64::try_from(overlap.as_millis()).unwrap_or(u64::MAX);
    let act = activity::Act {
        action: Action::RotateToken,
        subject: Some(&subject(&old.label)),
        details: Some(
            json!({"token_id": token_id.0.to_string(), "successor_id": token.0.to_string(),
                   "successor_hint": hint(&token.1), "overlap_ms": overlap_ms}),
        ),
    };
    activity::record(&mut transaction, account_id, actor, act).await?;
    transaction.commit().await?;
    Ok(token)
}

async fn insert(
    connection: &mut PgConnection,
    account_id: AccountId,
    namespace_id: NamespaceId,
    label: &str,
    scope: &str,
    expires_at: Option<DateTime<Utc>>,
) -> Result<(TokenId, Secret), TokenError> {
    let secret = Secret::random();
    let digest = secret.sha256();
    let token_id = sqlx::query_scalar!(
        r#"/* tokens.insert */
        INSERT INTO api_tokens
               (account_id, namespace_id, label, scope, token_sha256, hint, expires_at)
        SELECT $1, $2, $3, $4, $5, $6, $7 WHERE $7::timestamptz IS NULL OR $7 > clock_timestamp()
        RETURNING token_id AS "token_id: TokenId""#,
        account_id.0,
        namespace_id.0,
        label,
        scope,
        digest.as_bytes(),
        hint(&secret),
        expires_at,
    )
    .fetch_optional(connection)
    .await?
    .ok_or(TokenError::ExpiryInThePast)?;
    Ok((token_id, secret))
}

/// Locks the account's row: everything that is counted against a limit is counted under this lock.
async fn lock_account(
    connection: &mut PgConnection,
    account_id: AccountId,
) -> Result<(), TokenError> {
    sqlx::query!(
        r#"/* tokens.lock_account */
        SELECT account_id FROM accounts
         WHERE account_id = $1 AND deleting_since IS NULL FOR NO KEY UPDATE"#,
        account_id.0
    )
    .fetch_optional(connection)
    .await?
    .map(|_| ())
    .ok_or(TokenError::Unknown)
}

async fn count_live(connection: &mut PgConnection, account_id: AccountId) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"/* tokens.count_live */
        SELECT count(*) AS "count!" FROM api_tokens
         WHERE account_id = $1 AND revoked_at IS NULL
           AND (expires_at IS NULL OR expires_at > clock_timestamp())"#,
        account_id.0
    )
    .fetch_one(connection)
    .await
}

/// Revokes a token: all nodes refuse it within a second. Its leases run on until they lapse.
///
/// # Errors
/// [`TokenError::Unknown`], or if the database query fails.
pub async fn revoke(
    pool: &PgPool,
    actor: &Actor,
    account_id: AccountId,
    token_id: TokenId,
) -> Result<(), TokenError> {
    let mut transaction = pool.begin().await?;
    // The account before its tokens, as everywhere: in another order, transactions would wait for
    // each other.
    lock_account(&mut transaction, account_id).await?;
    let revoked = sqlx::query!(
        "/* tokens.revoke */
        UPDATE api_tokens SET revoked_at = clock_timestamp()
         WHERE token_id = $2 AND account_id = $1 AND revoked_at IS NULL
        RETURNING label, hint",
        account_id.0,
        token_id.0
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or(TokenError::Unknown)?;
    let act = activity::Act {
        action: Action::RevokeToken,
        subject: Some(&subject(&revoked.label)),
        details: Some(json!({"token_id": token_id.0.to_string(), "hint": revoked.hint})),
    };
    activity::record(&mut transaction, account_id, actor, act).await?;
    transaction.commit().await?;
    Ok(())
}

/// Revokes all tokens of an account: somebody else may have made them. Takes a connection, because
/// it belongs to the transaction of a new password.
///
/// # Errors
/// If the database query fails.
pub async fn revoke_all(
    connection: &mut PgConnection,
    actor: &Actor,
    account_id: AccountId,
) -> sqlx::Result<u64> {
    let revoked = sqlx::query!(
        "/* tokens.revoke_all */
        UPDATE api_tokens SET revoked_at = clock_timestamp()
         WHERE account_id = $1 AND revoked_at IS NULL",
        account_id.0
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    if revoked > 0 {
        let act = activity::Act {
            action: Action::RevokeAllTokens,
            subject: None,
            details: Some(json!({"tokens": revoked})),
        };
        activity::record(connection, account_id, actor, act).await?;
    }
    Ok(revoked)
}

/// Deletes the tokens that were revoked more than 90 days ago, and returns their number. For a job.
///
/// # Errors
/// If the database query fails.
pub async fn sweep(pool: &PgPool) -> sqlx::Result<u64> {
    let deleted = sqlx::query!(
        "/* tokens.sweep */
        DELETE FROM api_tokens WHERE revoked_at < clock_timestamp() - interval '90 days'"
    )
    .execute(pool)
    .await?;
    Ok(deleted.rows_affected())
}

/// The caller of a valid token: not revoked, not expired, its account neither suspended nor being
/// deleted. `None` for any other.
pub(super) async fn find_caller(
    pool: &PgPool,
    digest: &Sha256Digest,
) -> sqlx::Result<Option<Caller>> {
    let queried_at = Instant::now();
    let row = sqlx::query!(
        r#"/* tokens.find_caller */
        SELECT t.token_id, t.account_id, t.namespace_id, t.scope, n.name AS namespace,
               n.account_id IS NULL AS "is_namespace_public!",
               n.lease_default_ms AS namespace_lease_default_ms,
               a.lease_default_ms AS account_lease_default_ms, a.email, a.is_admin,
               (extract(epoch FROM t.expires_at - clock_timestamp()) * 1000)::float8
                   AS expires_in_ms,
               (SELECT count(*) FROM namespaces o
                 WHERE o.account_id = n.account_id AND o.namespace_id <= n.namespace_id
               ) AS "namespace_age_rank!",
               p.name, p.lease_min_ms, p.lease_default_ms, p.lease_max_ms,
               p.max_private_namespaces, p.max_tokens, p.max_live_locks, p.max_waiters,
               p.requests_per_second, p.history_days
          FROM api_tokens t
          JOIN accounts a USING (account_id)
          JOIN plans p USING (plan_id)
          JOIN namespaces n ON n.namespace_id = t.namespace_id
         WHERE t.token_sha256 = $1 AND t.revoked_at IS NULL
           AND (t.expires_at IS NULL OR t.expires_at > clock_timestamp())
           AND a.suspended_at IS NULL AND a.deleting_since IS NULL"#,
        digest.as_bytes()
    )
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let limits = Limits {
        name: row.name,
        lease_min_ms: row.lease_min_ms,
        lease_default_ms: row.lease_default_ms,
        lease_max_ms: row.lease_max_ms,
        max_private_namespaces: row.max_private_namespaces,
        max_tokens: row.max_tokens,
        max_live_locks: row.max_live_locks,
        max_waiters: row.max_waiters,
        requests_per_second: row.requests_per_second,
        history_days: row.history_days,
    };
    Ok(Some(Caller {
        token_id: TokenId(row.token_id),
        account_id: AccountId(row.account_id),
        email: row.email,
        is_admin: row.is_admin,
        namespace_id: NamespaceId(row.namespace_id),
        namespace: row.namespace,
        is_namespace_public: row.is_namespace_public,
        namespace_in_plan: namespaces::in_plan(row.namespace_age_rank, &limits),
        scope: if row.scope == Scope::Manage.as_str() {
            Scope::Manage
        } else {
            Scope::Locks
        },
        namespace_lease_default_ms: row.namespace_lease_default_ms,
        account_lease_default_ms: row.account_lease_default_ms,
        // Counted from before the query, so that the token is never valid for longer than in the
        // database.
        expires_at: row.expires_in_ms.and_then(|ms| {
            queried_at.checked_add(Duration::from_secs_f64((ms / 1000.0).clamp(0.0, 1e9)))
        }),
        limits: Arc::new(limits),
        is_use_noted: std::sync::atomic::AtomicBool::new(false),
    }))
}

/// Sets the time of last use of these tokens. Rows are locked in order and locked ones skipped,
/// because all nodes write the same rows.
pub(super) async fn touch(pool: &PgPool, token_ids: &[i64]) -> sqlx::Result<()> {
    sqlx::query!(
        "/* tokens.touch */
        UPDATE api_tokens t SET last_used_at = clock_timestamp()
          FROM (SELECT token_id FROM api_tokens WHERE token_id = ANY ($1)
                 ORDER BY token_id FOR NO KEY UPDATE SKIP LOCKED) o
         WHERE t.token_id = o.token_id",
        token_ids
    )
    .execute(pool)
    .await?;
    Ok(())
}
