//! Making an account, and what its owner changes.

use serde_json::json;
use sqlx::{PgConnection, PgPool};

use crate::accounts::{Account, AccountError, Email, NewAccount, PasswordAct, PasswordHash};
use crate::activity::{self, Action};
use crate::audit::{self, Act, Actor};
use crate::db::violated_constraint;
use crate::id::AccountId;

/// Makes an account. Of two calls at once with one e-mail address, one succeeds. With an `actor`,
/// somebody else than the owner makes it, with an entry in the audit log.
///
/// # Errors
/// [`AccountError::EmailTaken`], [`AccountError::UnknownPlan`], or if the database query fails.
pub async fn create(
    pool: &PgPool,
    new: NewAccount<'_>,
    actor: Option<&Actor>,
) -> Result<AccountId, AccountError> {
    let mut transaction = pool.begin().await?;
    let account_id = sqlx::query_scalar!(
        r#"/* accounts.create */
        INSERT INTO accounts (email, email_key, password_hash, plan_id, is_admin, email_verified_at)
        SELECT $1, $2, $3, plan_id, $4, CASE WHEN $5 THEN clock_timestamp() END
          FROM plans WHERE code = $6
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

/// Brings the keys of e-mail addresses to the form that this version compares by ([`Email::key`]).
/// Only those that are not ASCII can have another. If two accounts would have the same key, the
/// first to be looked at gets it, and the log names the other.
///
/// # Errors
/// If the database query fails.
pub async fn refresh_email_keys(pool: &PgPool) -> sqlx::Result<()> {
    let accounts = sqlx::query!(
        r#"/* accounts.not_ascii */
        SELECT account_id AS "account_id: AccountId", email, email_key FROM accounts
         WHERE octet_length(email) > char_length(email) ORDER BY account_id"#
    )
    .fetch_all(pool)
    .await?;
    for account in accounts {
        // An e-mail address that is not accepted any more keeps its key.
        let Ok(email) = account.email.parse::<Email>() else {
            continue;
        };
        if email.key() == account.email_key {
            continue;
        }
        let changed = sqlx::query!(
            "/* accounts.set_email_key */
            UPDATE accounts SET email_key = $3 WHERE account_id = $1 AND email = $2",
            account.account_id.0,
            account.email,
            email.key()
        )
        .execute(pool)
        .await;
        match changed.map_err(email_taken) {
            Err(AccountError::EmailTaken) => tracing::warn!(
                account_id = account.account_id.0,
                "another account has the same e-mail address: this one cannot sign in"
            ),
            Err(AccountError::Database(error)) => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// Sets the account's own default lease; `None` for the plan's.
///
/// # Errors
/// [`AccountError::Lease`], [`AccountError::Unknown`], or if the database query fails.
pub async fn set_lease_default(
    pool: &PgPool,
    account: &Account,
    lease_ms: Option<i64>,
) -> Result<(), AccountError> {
    let lease_ms = lease_ms
        .map(|lease_ms| account.limits.check_lease_ms(lease_ms))
        .transpose()?;
    let changed = sqlx::query!(
        "/* accounts.set_lease_default */
        UPDATE accounts SET lease_default_ms = $2 WHERE account_id = $1",
        account.account_id.0,
        lease_ms
    )
    .execute(pool)
    .await?;
    known(&changed)
}

/// Sets the password. Takes a connection, because ending sessions and using up a link belong to the
/// same transaction.
///
/// # Errors
/// [`AccountError::Unknown`], or if the database query fails.
pub async fn set_password(
    connection: &mut PgConnection,
    actor: &Actor,
    account_id: AccountId,
    password: &PasswordHash,
    act: PasswordAct,
) -> Result<(), AccountError> {
    let changed = sqlx::query!(
        "/* accounts.set_password */
        UPDATE accounts SET password_hash = $2 WHERE account_id = $1 AND deleting_since IS NULL",
        account_id.0,
        password.as_str()
    )
    .execute(&mut *connection)
    .await?;
    known(&changed)?;
    let act = activity::Act {
        action: match act {
            PasswordAct::Change => Action::ChangePassword,
            PasswordAct::Reset => Action::ResetPassword,
        },
        subject: None,
        details: None,
    };
    activity::record(connection, account_id, actor, act).await?;
    Ok(())
}

/// Marks the e-mail address as confirmed, if it still is this one. Returns true if it was not
/// confirmed before.
///
/// # Errors
/// If the database query fails.
pub async fn verify_email(
    connection: &mut PgConnection,
    account_id: AccountId,
    email: &str,
) -> sqlx::Result<bool> {
    let changed = sqlx::query!(
        "/* accounts.verify_email */
        UPDATE accounts SET email_verified_at = clock_timestamp()
         WHERE account_id = $1 AND email = $2 AND email_verified_at IS NULL
           AND deleting_since IS NULL",
        account_id.0,
        email
    )
    .execute(connection)
    .await?;
    Ok(changed.rows_affected() > 0)
}

/// Changes the e-mail address. It counts as confirmed, because a link that was sent there has just
/// been used.
///
/// # Errors
/// [`AccountError::EmailTaken`], [`AccountError::Unknown`], or if the database query fails.
pub async fn change_email(
    connection: &mut PgConnection,
    actor: &Actor,
    account_id: AccountId,
    email: &Email,
) -> Result<(), AccountError> {
    let before = sqlx::query!(
        "/* accounts.change_email */
        UPDATE accounts a
           SET email = $2, email_key = $3, email_verified_at = clock_timestamp()
          FROM (SELECT account_id, email FROM accounts
                 WHERE account_id = $1 AND deleting_since IS NULL FOR UPDATE) o
         WHERE a.account_id = o.account_id
        RETURNING o.email",
        account_id.0,
        email.as_str(),
        email.key()
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(email_taken)?
    .ok_or(AccountError::Unknown)?;
    let act = activity::Act {
        action: Action::ChangeEmail,
        subject: None,
        details: Some(json!({"before": before.email, "after": email.as_str()})),
    };
    activity::record(connection, account_id, actor, act).await?;
    Ok(())
}

fn known(changed: &sqlx::postgres::PgQueryResult) -> Result<(), AccountError> {
    if changed.rows_affected() == 1 {
        Ok(())
    } else {
        Err(AccountError::Unknown)
    }
}
