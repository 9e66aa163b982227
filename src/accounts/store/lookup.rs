//! Reading accounts.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::accounts::{Account, AccountError, Email};
use crate::id::AccountId;
use crate::plans::Limits;

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
    history_days: i32,
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
                history_days: row.history_days,
            },
        }
    }
}

/// The conditions on accounts in a list; all that are set must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this account.
    pub account_id: Option<AccountId>,
    /// Only the account of this e-mail address, by its key.
    pub email_key: Option<String>,
    /// Only accounts whose e-mail address contains this text.
    pub text: Option<String>,
    /// Only accounts on the plan of this code.
    pub plan: Option<String>,
    /// Only accounts older than this one, the last of the page before.
    pub before_id: Option<AccountId>,
}

async fn select(pool: &PgPool, filter: &Filter, limit: i64) -> sqlx::Result<Vec<Account>> {
    let rows = sqlx::query_as!(
        Row,
        r#"/* accounts.select */
        SELECT a.account_id AS "account_id: AccountId", a.email, p.code AS plan, a.is_admin,
               a.lease_default_ms AS account_lease_default_ms, a.email_verified_at, a.suspended_at,
               a.suspended_reason, a.created_at, p.name, p.lease_min_ms, p.lease_default_ms,
               p.lease_max_ms, p.max_private_namespaces, p.max_tokens, p.max_live_locks,
               p.max_waiters, p.requests_per_second, p.history_days
          FROM accounts a JOIN plans p USING (plan_id)
         WHERE a.deleting_since IS NULL
           AND ($1::bigint IS NULL OR a.account_id = $1)
           AND ($2::text IS NULL OR a.email_key = $2)
           AND ($3::text IS NULL OR strpos(lower(a.email), lower($3)) > 0
                OR strpos(a.email_key, lower($3)) > 0)
           AND ($4::text IS NULL OR p.code = $4)
           AND ($5::bigint IS NULL OR a.account_id < $5)
         ORDER BY a.account_id DESC
         LIMIT $6"#,
        filter.account_id.map(|id| id.0),
        filter.email_key,
        filter.text,
        filter.plan,
        filter.before_id.map(|id| id.0),
        limit,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(Account::from).collect())
}

/// The accounts that match a filter, newest first, at most `limit`.
///
/// # Errors
/// If the database query fails.
pub async fn search(pool: &PgPool, filter: &Filter, limit: i64) -> sqlx::Result<Vec<Account>> {
    select(pool, filter, limit).await
}

/// The account of this id.
///
/// # Errors
/// [`AccountError::Unknown`], or if the database query fails.
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

/// The account of this e-mail address, in whatever case.
///
/// # Errors
/// [`AccountError::Unknown`], or if the database query fails.
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

/// The hash of the account's password; `None` if it has no password yet.
///
/// # Errors
/// If the database query fails.
pub async fn password_hash(pool: &PgPool, account_id: AccountId) -> sqlx::Result<Option<String>> {
    let hash = sqlx::query_scalar!(
        "/* accounts.password_hash */ SELECT password_hash FROM accounts WHERE account_id = $1",
        account_id.0
    )
    .fetch_optional(pool)
    .await?;
    Ok(hash.flatten())
}
