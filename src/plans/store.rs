//! The plans' queries.

use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::{Limits, Plan, PlanError, is_slug};
use crate::audit::{self, Act, Actor};
use crate::db::violated_constraint;
use crate::id::PlanId;

struct Row {
    plan_id: PlanId,
    code: String,
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
    accounts: i64,
}

impl From<Row> for Plan {
    fn from(row: Row) -> Self {
        Self {
            plan_id: row.plan_id,
            code: row.code,
            accounts: row.accounts,
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

/// All plans, oldest first.
///
/// # Errors
/// If the database query fails.
pub async fn list(pool: &PgPool) -> sqlx::Result<Vec<Plan>> {
    let rows = sqlx::query_as!(
        Row,
        r#"/* plans.list */
        SELECT p.plan_id AS "plan_id: PlanId", code, name, lease_min_ms, lease_default_ms,
               lease_max_ms, max_private_namespaces, max_tokens, max_live_locks, max_waiters,
               requests_per_second, history_days,
               (SELECT count(*) FROM accounts a WHERE a.plan_id = p.plan_id) AS "accounts!"
          FROM plans p ORDER BY plan_id"#
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(Plan::from).collect())
}

/// The plan of this code.
///
/// # Errors
/// [`PlanError::Unknown`], or if the database query fails.
pub async fn find(pool: &PgPool, code: &str) -> Result<Plan, PlanError> {
    if !is_slug(code) {
        return Err(PlanError::Unknown(code.to_owned()));
    }
    let row = sqlx::query_as!(
        Row,
        r#"/* plans.find */
        SELECT p.plan_id AS "plan_id: PlanId", code, name, lease_min_ms, lease_default_ms,
               lease_max_ms, max_private_namespaces, max_tokens, max_live_locks, max_waiters,
               requests_per_second, history_days,
               (SELECT count(*) FROM accounts a WHERE a.plan_id = p.plan_id) AS "accounts!"
          FROM plans p WHERE code = $1"#,
        code
    )
    .fetch_optional(pool)
    .await?;
    row.map(Plan::from)
        .ok_or_else(|| PlanError::Unknown(code.to_owned()))
}

/// Makes a plan.
///
/// # Errors
/// If a rule is broken, the code is taken, or the database query fails.
pub async fn create(
    pool: &PgPool,
    actor: &Actor,
    code: &str,
    limits: &Limits,
) -> Result<(), PlanError> {
    if !is_slug(code) {
        return Err(PlanError::InvalidCode);
    }
    limits.validate()?;
    let mut transaction = pool.begin().await?;
    sqlx::query!(
        "/* plans.create */
        INSERT INTO plans (code, name, lease_min_ms, lease_default_ms, lease_max_ms,
                           max_private_namespaces, max_tokens, max_live_locks, max_waiters,
                           requests_per_second, history_days)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        code,
        limits.name,
        limits.lease_min_ms,
        limits.lease_default_ms,
        limits.lease_max_ms,
        limits.max_private_namespaces,
        limits.max_tokens,
        limits.max_live_locks,
        limits.max_waiters,
        limits.requests_per_second,
        limits.history_days,
    )
    .execute(&mut *transaction)
    .await
    .map_err(|error| match violated_constraint(&error) {
        Some("plans_code_unique") => PlanError::Taken(code.to_owned()),
        _ => error.into(),
    })?;
    record(&mut transaction, actor, "plan.create", code, None, limits).await?;
    transaction.commit().await?;
    Ok(())
}

/// Edits a plan: `edit` changes its current limits. All nodes follow within a second. Leases run on
/// and can be renewed by the length that they were granted with; an account over a new limit keeps
/// what it has and gets no more.
///
/// # Errors
/// If a rule would be broken, there is no such plan, or the database query fails.
pub async fn update(
    pool: &PgPool,
    actor: &Actor,
    code: &str,
    edit: impl FnOnce(&mut Limits) + Send,
) -> Result<Limits, PlanError> {
    let mut transaction = pool.begin().await?;
    // The row is locked first, so that two administrators who edit different fields at once both
    // take effect.
    let row = sqlx::query_as!(
        Row,
        r#"/* plans.lock */
        SELECT plan_id AS "plan_id: PlanId", code, name, lease_min_ms, lease_default_ms,
               lease_max_ms, max_private_namespaces, max_tokens, max_live_locks, max_waiters,
               requests_per_second, history_days, 0::bigint AS "accounts!"
          FROM plans WHERE code = $1 FOR NO KEY UPDATE"#,
        code
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(|| PlanError::Unknown(code.to_owned()))?;
    let before = Plan::from(row).limits;
    let mut limits = before.clone();
    edit(&mut limits);
    limits.validate()?;
    sqlx::query!(
        "/* plans.update */
        UPDATE plans SET name = $2, lease_min_ms = $3, lease_default_ms = $4, lease_max_ms = $5,
               max_private_namespaces = $6, max_tokens = $7, max_live_locks = $8, max_waiters = $9,
               requests_per_second = $10, history_days = $11
         WHERE code = $1",
        code,
        limits.name,
        limits.lease_min_ms,
        limits.lease_default_ms,
        limits.lease_max_ms,
        limits.max_private_namespaces,
        limits.max_tokens,
        limits.max_live_locks,
        limits.max_waiters,
        limits.requests_per_second,
        limits.history_days,
    )
    .execute(&mut *transaction)
    .await?;
    record(
        &mut transaction,
        actor,
        "plan.update",
        code,
        Some(&before),
        &limits,
    )
    .await?;
    transaction.commit().await?;
    Ok(limits)
}

async fn record(
    connection: &mut PgConnection,
    actor: &Actor,
    action: &str,
    code: &str,
    before: Option<&Limits>,
    after: &Limits,
) -> sqlx::Result<()> {
    let subject = format!("plan:{code}");
    let act = Act {
        action,
        subject_account_id: None,
        subject: &subject,
        before: before.map(|limits| json!(limits)),
        after: Some(json!(after)),
        reason: None,
    };
    audit::record(connection, actor, act).await
}
