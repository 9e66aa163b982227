//! The changes that administrators make to accounts, each with its entry in the audit log.

use serde_json::json;
use sqlx::{PgConnection, PgPool};

use crate::accounts::{AccountError, sessions};
use crate::audit::{self, Act, Actor};
use crate::id::AccountId;
use crate::plans::is_slug;

/// The values that administrators change, locked until the transaction ends.
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

/// Puts an account on another plan. If it is over the new limits, its leases run on and can be
/// renewed, and its private namespaces stay but grant no new leases until the plan covers them
/// again.
///
/// # Errors
/// [`AccountError::Unknown`], [`AccountError::UnknownPlan`], or if the database query fails.
pub async fn set_plan(
    pool: &PgPool,
    actor: &Actor,
    account_id: AccountId,
    plan: &str,
) -> Result<(), AccountError> {
    if !is_slug(plan) {
        return Err(AccountError::UnknownPlan(plan.to_owned()));
    }
    let mut transaction = pool.begin().await?;
    let account = lock(&mut transaction, account_id).await?;
    let changed = sqlx::query!(
        "/* accounts.set_plan */
        UPDATE accounts a SET plan_id = p.plan_id FROM plans p
         WHERE p.code = $2 AND a.account_id = $1",
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

/// Suspends an account: all nodes refuse its tokens and end its sessions within a second. Its
/// leases lapse, because nothing renews them.
///
/// # Errors
/// [`AccountError::Unknown`], [`AccountError::Already`], [`AccountError::InvalidReason`],
/// [`AccountError::Yourself`], or if the database query fails.
pub async fn suspend(
    pool: &PgPool,
    actor: &Actor,
    account_id: AccountId,
    reason: &str,
) -> Result<(), AccountError> {
    if actor.account_id == Some(account_id) {
        return Err(AccountError::Yourself);
    }
    let reason = audit::check_reason(reason)?;
    let mut transaction = pool.begin().await?;
    let account = lock(&mut transaction, account_id).await?;
    if account.suspended_reason.is_some() {
        return Err(AccountError::Already("suspended"));
    }
    sqlx::query!(
        "/* accounts.suspend */
        UPDATE accounts SET suspended_at = clock_timestamp(), suspended_reason = $2
         WHERE account_id = $1",
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
/// [`AccountError::Unknown`], [`AccountError::Already`], or if the database query fails.
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
/// [`AccountError::Unknown`], [`AccountError::Already`], or if the database query fails.
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
