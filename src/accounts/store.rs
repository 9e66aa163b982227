//! The accounts' queries.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::sessions;
use super::{Account, AccountError, Email, NewAccount, PasswordHash, check_reason};
use crate::audit::{self, Act, Actor};
use crate::db::violated_constraint;
use crate::id::AccountId;
use crate::locks;
use crate::plans::Limits;

/// How long after its deletion another node may still grant something to an account: a second in
/// which it may not have heard of it, and the deadline of what it had accepted by then.
const LAST_GRANTS_WITHIN: Duration = Duration::from_secs(8);

struct Row {
    account_id: AccountId,
    email: String,
    plan: String,
    is_admin: bool,
    account_lease_default_ms: Option<i32>,
    email_verified_at: Option<DateTime<Utc>>,
    suspended_at: Option<DateTime<Utc>>,
    suspended_reason: Option<String>,
    created_at: DateTime<Utc>,
    name: String,
    lease_min_ms: i32,
    lease_default_ms: i32,
    lease_max_ms: i32,
    max_private_namespaces: i32,
    max_tokens: i32,
    max_live_locks: i32,
    max_waiters: i32,
    requests_per_second: i32,
}

impl From<Row> for Account {
    fn from(row: Row) -> Self {
        Self {
            account_id: row.account_id,
            email: row.email,
            plan: row.plan,
            is_admin: row.is_admin,
            lease_default_ms: row.account_lease_default_ms,
            email_verified_at: row.email_verified_at,
            suspended_at: row.suspended_at,
            suspended_reason: row.suspended_reason,
            created_at: row.created_at,
            limits: Limits {
                name: row.name,
                lease_min_ms: row.lease_min_ms,
                lease_default_ms: row.lease_default_ms,
                lease_max_ms: row.lease_max_ms,
                max_private_namespaces: row.max_private_namespaces,
                max_tokens: row.max_tokens,
                max_live_locks: row.max_live_locks,
                max_waiters: row.max_waiters,
                requests_per_second: row.requests_per_second,
            },
        }
    }
}

/// Which accounts to show: any of these conditions that is set.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// This one.
    pub account_id: Option<AccountId>,
    /// The one with this address, in whatever case.
    pub email_key: Option<String>,
    /// Whose address contains this text.
    pub text: Option<String>,
    /// On the plan of this code.
    pub plan: Option<String>,
    /// Older than this one: the last that a reader has seen.
    pub before_id: Option<AccountId>,
}

async fn select(pool: &PgPool, filter: &Filter, limit: i64) -> sqlx::Result<Vec<Account>> {
    let rows = sqlx::query_as!(
        Row,
        r#"/* accounts.select */
        SELECT a.account_id AS "account_id: AccountId", a.email, p.code AS plan, a.is_admin,
               a.lease_default_ms AS account_lease_default_ms, a.email_verified_at, a.suspended_at, a.suspended_reason,
               a.created_at, p.name, p.lease_min_ms, p.lease_default_ms, p.lease_max_ms, p.max_private_namespaces,
               p.max_tokens, p.max_live_locks, p.max_waiters, p.requests_per_second
          FROM accounts a JOIN plans p USING (plan_id)
         WHERE a.deleting_since IS NULL
           AND ($1::bigint IS NULL OR a.account_id = $1)
           AND ($2::text IS NULL OR a.email_key = $2)
           AND ($3::text IS NULL OR strpos(a.email_key, $3) > 0)
           AND ($4::text IS NULL OR p.code = $4)
           AND ($5::bigint IS NULL OR a.account_id < $5)
         ORDER BY a.account_id DESC
         LIMIT $6"#,
        filter.account_id.map(|id| id.0),
        filter.email_key,
        filter.text.as_ref().map(|text| text.to_lowercase()),
        filter.plan,
        filter.before_id.map(|id| id.0),
        limit,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(Account::from).collect())
}

/// The accounts that a filter lets through, newest first, at most `limit`.
///
/// # Errors
/// Where the database cannot be asked.
pub async fn search(pool: &PgPool, filter: &Filter, limit: i64) -> sqlx::Result<Vec<Account>> {
    select(pool, filter, limit).await
}

/// The account of this id.
///
/// # Errors
/// [`AccountError::Unknown`], or where the database cannot be asked.
pub async fn find(pool: &PgPool, account_id: AccountId) -> Result<Account, AccountError> {
    let filter = Filter {
        account_id: Some(account_id),
        ..Filter::default()
    };
    select(pool, &filter, 1)
        .await?
        .pop()
        .ok_or(AccountError::Unknown)
}

/// The account of this address, in whatever case.
///
/// # Errors
/// [`AccountError::Unknown`], or where the database cannot be asked.
pub async fn find_by_email(pool: &PgPool, email: &Email) -> Result<Account, AccountError> {
    let filter = Filter {
        email_key: Some(email.key()),
        ..Filter::default()
    };
    select(pool, &filter, 1)
        .await?
        .pop()
        .ok_or(AccountError::Unknown)
}

/// The hash to verify a password of this account against; none where it has no password yet.
///
/// # Errors
/// Where the database cannot be asked.
pub async fn password_hash(pool: &PgPool, account_id: AccountId) -> sqlx::Result<Option<String>> {
    let hash = sqlx::query_scalar!(
        "/* accounts.password_hash */ SELECT password_hash FROM accounts WHERE account_id = $1",
        account_id.0
    )
    .fetch_optional(pool)
    .await?;
    Ok(hash.flatten())
}

/// Makes an account. Of two that are made with one address at once, one succeeds. `actor` is given
/// where somebody else makes it, and is then on record.
///
/// # Errors
/// [`AccountError::EmailTaken`], [`AccountError::UnknownPlan`], or where the database cannot be
/// asked.
pub async fn create(
    pool: &PgPool,
    new: NewAccount<'_>,
    actor: Option<&Actor>,
) -> Result<AccountId, AccountError> {
    let mut transaction = pool.begin().await?;
    let account_id = sqlx::query_scalar!(
        r#"/* accounts.create */
        INSERT INTO accounts (email, email_key, password_hash, plan_id, is_admin, email_verified_at)
        SELECT $1, $2, $3, plan_id, $4, CASE WHEN $5 THEN clock_timestamp() END FROM plans WHERE code = $6
        RETURNING account_id AS "account_id: AccountId""#,
        new.email.as_str(),
        new.email.key(),
        new.password.as_ref().map(PasswordHash::as_str),
        new.is_admin,
        new.email_verified,
        new.plan,
    )
    .fetch_optional(&mut *transaction)
    .await
    .map_err(email_taken)?
    .ok_or_else(|| AccountError::UnknownPlan(new.plan.to_owned()))?;
    if let Some(actor) = actor {
        let act = Act {
            action: "account.create",
            subject_account_id: Some(account_id),
            subject: new.email.as_str(),
            before: None,
            after: Some(json!({"plan": new.plan, "is_admin": new.is_admin})),
            reason: None,
        };
        audit::record(&mut transaction, actor, act).await?;
    }
    transaction.commit().await?;
    Ok(account_id)
}

fn email_taken(error: sqlx::Error) -> AccountError {
    match violated_constraint(&error) {
        Some("accounts_email_unique") => AccountError::EmailTaken,
        _ => error.into(),
    }
}

/// What an administrator changes, as it stands; locked until the transaction ends.
struct Managed {
    email: String,
    plan: String,
    is_admin: bool,
    suspended_reason: Option<String>,
}

async fn lock(
    connection: &mut PgConnection,
    account_id: AccountId,
) -> Result<Managed, AccountError> {
    sqlx::query_as!(
        Managed,
        r#"/* accounts.lock */
        SELECT email, code AS plan, is_admin, suspended_reason
          FROM accounts JOIN plans USING (plan_id)
         WHERE account_id = $1 AND deleting_since IS NULL FOR NO KEY UPDATE OF accounts"#,
        account_id.0
    )
    .fetch_optional(connection)
    .await?
    .ok_or(AccountError::Unknown)
}

/// Puts an account on another plan. What it has over the new limits stays: leases run on and can be
/// renewed, private namespaces are kept and only take no new locks until the plan fits again.
///
/// # Errors
/// [`AccountError::Unknown`], [`AccountError::UnknownPlan`], or where the database cannot be asked.
pub async fn set_plan(
    pool: &PgPool,
    actor: &Actor,
    account_id: AccountId,
    plan: &str,
) -> Result<(), AccountError> {
    let mut transaction = pool.begin().await?;
    let account = lock(&mut transaction, account_id).await?;
    let changed = sqlx::query!(
        "/* accounts.set_plan */
        UPDATE accounts a SET plan_id = p.plan_id FROM plans p WHERE p.code = $2 AND a.account_id = $1",
        account_id.0,
        plan
    )
    .execute(&mut *transaction)
    .await?;
    if changed.rows_affected() == 0 {
        return Err(AccountError::UnknownPlan(plan.to_owned()));
    }
    let act = Act {
        action: "account.set-plan",
        subject_account_id: Some(account_id),
        subject: &account.email,
        before: Some(json!({"plan": account.plan})),
        after: Some(json!({"plan": plan})),
        reason: None,
    };
    audit::record(&mut transaction, actor, act).await?;
    transaction.commit().await?;
    Ok(())
}

/// Suspends an account: its tokens are refused and its sessions end within a second. Its leases
/// lapse, for nothing renews them.
///
/// # Errors
/// [`AccountError::Unknown`], [`AccountError::Already`], [`AccountError::InvalidReason`], or where
/// the database cannot be asked.
pub async fn suspend(
    pool: &PgPool,
    actor: &Actor,
    account_id: AccountId,
    reason: &str,
) -> Result<(), AccountError> {
    let reason = check_reason(reason)?;
    let mut transaction = pool.begin().await?;
    let account = lock(&mut transaction, account_id).await?;
    if account.suspended_reason.is_some() {
        return Err(AccountError::Already("suspended"));
    }
    sqlx::query!(
        "/* accounts.suspend */
        UPDATE accounts SET suspended_at = clock_timestamp(), suspended_reason = $2 WHERE account_id = $1",
        account_id.0,
        reason
    )
    .execute(&mut *transaction)
    .await?;
    sessions::end_all_but(&mut *transaction, account_id, None).await?;
    let act = Act {
        action: "account.suspend",
        subject_account_id: Some(account_id),
        subject: &account.email,
        before: Some(json!({"suspended": false})),
        after: Some(json!({"suspended": true})),
        reason: Some(reason),
    };
    audit::record(&mut transaction, actor, act).await?;
    transaction.commit().await?;
    Ok(())
}

/// Ends a suspension.
///
/// # Errors
/// [`AccountError::Unknown`], [`AccountError::Already`], or where the database cannot be asked.
pub async fn restore(
    pool: &PgPool,
    actor: &Actor,
    account_id: AccountId,
) -> Result<(), AccountError> {
    let mut transaction = pool.begin().await?;
    let account = lock(&mut transaction, account_id).await?;
    let Some(reason) = account.suspended_reason else {
        return Err(AccountError::Already("active"));
    };
    sqlx::query!(
        "/* accounts.restore */
        UPDATE accounts SET suspended_at = NULL, suspended_reason = NULL WHERE account_id = $1",
        account_id.0
    )
    .execute(&mut *transaction)
    .await?;
    let act = Act {
        action: "account.restore",
        subject_account_id: Some(account_id),
        subject: &account.email,
        before: Some(json!({"suspended": true, "suspended_reason": reason})),
        after: Some(json!({"suspended": false})),
        reason: None,
    };
    audit::record(&mut transaction, actor, act).await?;
    transaction.commit().await?;
    Ok(())
}

/// Makes an account an administrator.
///
/// # Errors
/// [`AccountError::Unknown`], [`AccountError::Already`], or where the database cannot be asked.
pub async fn promote(
    pool: &PgPool,
    actor: &Actor,
    account_id: AccountId,
) -> Result<(), AccountError> {
    let mut transaction = pool.begin().await?;
    let account = lock(&mut transaction, account_id).await?;
    if account.is_admin {
        return Err(AccountError::Already("an administrator"));
    }
    sqlx::query!(
        "/* accounts.promote */ UPDATE accounts SET is_admin = true WHERE account_id = $1",
        account_id.0
    )
    .execute(&mut *transaction)
    .await?;
    let act = Act {
        action: "account.promote",
        subject_account_id: Some(account_id),
        subject: &account.email,
        before: Some(json!({"is_admin": false})),
        after: Some(json!({"is_admin": true})),
        reason: None,
    };
    audit::record(&mut transaction, actor, act).await?;
    transaction.commit().await?;
    Ok(())
}

/// Sets the account's own default lease; none: the plan's.
///
/// # Errors
/// [`AccountError::Lease`], [`AccountError::Unknown`], or where the database cannot be asked.
pub async fn set_lease_default(
    pool: &PgPool,
    account: &Account,
    lease_ms: Option<i64>,
) -> Result<(), AccountError> {
    let lease_ms = lease_ms
        .map(|lease_ms| account.limits.check_lease_ms(lease_ms))
        .transpose()?;
    let changed = sqlx::query!(
        "/* accounts.set_lease_default */ UPDATE accounts SET lease_default_ms = $2 WHERE account_id = $1",
        account.account_id.0,
        lease_ms
    )
    .execute(pool)
    .await?;
    known(&changed)
}

/// Sets the password. Takes a connection: ending sessions and using up a link belong to the same
/// transaction.
///
/// # Errors
/// [`AccountError::Unknown`], or where the database cannot be asked.
pub async fn set_password(
    connection: &mut PgConnection,
    account_id: AccountId,
    password: &PasswordHash,
) -> Result<(), AccountError> {
    let changed = sqlx::query!(
        "/* accounts.set_password */ UPDATE accounts SET password_hash = $2 WHERE account_id = $1 AND deleting_since IS NULL",
        account_id.0,
        password.as_str()
    )
    .execute(connection)
    .await?;
    known(&changed)
}

/// Marks the address as confirmed, if it still is this one. Returns whether it was not confirmed
/// before.
///
/// # Errors
/// Where the database cannot be asked.
pub async fn verify_email(
    connection: &mut PgConnection,
    account_id: AccountId,
    email: &str,
) -> sqlx::Result<bool> {
    let changed = sqlx::query!(
        "/* accounts.verify_email */
        UPDATE accounts SET email_verified_at = clock_timestamp()
         WHERE account_id = $1 AND email = $2 AND email_verified_at IS NULL AND deleting_since IS NULL",
        account_id.0,
        email
    )
    .execute(connection)
    .await?;
    Ok(changed.rows_affected() > 0)
}

/// Gives an account another address, which counts as confirmed: a link that was sent there has just
/// been used.
///
/// # Errors
/// [`AccountError::EmailTaken`], [`AccountError::Unknown`], or where the database cannot be asked.
pub async fn change_email(
    connection: &mut PgConnection,
    account_id: AccountId,
    email: &Email,
) -> Result<(), AccountError> {
    let changed = sqlx::query!(
        "/* accounts.change_email */
        UPDATE accounts SET email = $2, email_key = $3, email_verified_at = clock_timestamp()
         WHERE account_id = $1 AND deleting_since IS NULL",
        account_id.0,
        email.as_str(),
        email.key()
    )
    .execute(connection)
    .await
    .map_err(email_taken)?;
    known(&changed)
}

fn known(changed: &sqlx::postgres::PgQueryResult) -> Result<(), AccountError> {
    if changed.rows_affected() == 1 {
        Ok(())
    } else {
        Err(AccountError::Unknown)
    }
}

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
