//! Leases that are ended by force.

use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::tell_nodes;
use crate::activity::{self, Action};
use crate::audit::{self, Act, Actor};
use crate::events::{self, EventKind, NewEvent};
use crate::id::{AccountId, NamespaceId};
use crate::locks::{BreakError, BrokenLease, LeasesToBreak, LockName};

/// The action in the audit log.
const BREAK: &str = "lock.break";

/// Ends a lease of the account's own, in one of its private namespaces or in the public one:
/// exactly the lease with this fencing token, never one that was granted since. Writes an entry of
/// the audit log.
///
/// # Errors
/// [`BreakError::NotHeld`] where the account does not hold that lease.
pub async fn break_own(
    pool: &PgPool,
    actor: &Actor,
    account_id: AccountId,
    namespace: (NamespaceId, &str),
    name: &LockName,
    fencing_token: i64,
    reason: &str,
) -> Result<(), BreakError> {
    let leases = LeasesToBreak {
        account_id: Some(account_id),
        fencing_token: Some(fencing_token),
        lease_id: None,
    };
    let broken = break_now(pool, actor, (namespace, name), leases, reason).await?;
    if broken.is_empty() {
        return Err(BreakError::NotHeld);
    }
    Ok(())
}

/// Ends the lease of a lock in the public namespace, any account's: for administrators. Writes an
/// entry of the audit log.
///
/// # Errors
/// [`BreakError::NotHeld`] where nobody holds the lock.
pub async fn break_any(
    pool: &PgPool,
    actor: &Actor,
    name: &LockName,
    reason: &str,
) -> Result<(), BreakError> {
    let namespace = (NamespaceId::PUBLIC, NamespaceId::PUBLIC_NAME);
    let leases = LeasesToBreak::default();
    let broken = break_now(pool, actor, (namespace, name), leases, reason).await?;
    if broken.is_empty() {
        return Err(BreakError::NotHeld);
    }
    Ok(())
}

/// Ends leases of a lock, and says which. Repeated within an hour with the same fencing token or
/// lease id, it says again what it ended, and never ends a lease that was granted since. Writes an
/// entry of the audit log for each lease.
///
/// # Errors
/// [`BreakError::NotHeld`] where one lease was named that is not held and was not broken.
pub async fn break_leases(
    pool: &PgPool,
    actor: &Actor,
    (namespace, name): ((NamespaceId, &str), &LockName),
    leases: LeasesToBreak,
    reason: &str,
) -> Result<Vec<BrokenLease>, BreakError> {
    let mut broken = break_now(pool, actor, (namespace, name), leases, reason).await?;
    let is_of_one = leases.fencing_token.is_some() || leases.lease_id.is_some();
    if broken.is_empty() && is_of_one {
        broken = broken_before(pool, &subject(namespace.1, name), leases).await?;
        if broken.is_empty() {
            return Err(BreakError::NotHeld);
        }
    }
    Ok(broken)
}

fn subject(namespace: &str, name: &LockName) -> String {
    format!("lock:{namespace}/{name}")
}

async fn break_now(
    pool: &PgPool,
    actor: &Actor,
    ((namespace_id, namespace), name): ((NamespaceId, &str), &LockName),
    leases: LeasesToBreak,
    reason: &str,
) -> Result<Vec<BrokenLease>, BreakError> {
    let reason = audit::check_reason(reason)?;
    let mut transaction = pool.begin().await?;
    // Through the gate: it ends shared leases and permits as well, and hands the lock over.
    let rows = sqlx::query!(
        r#"/* locks.break */
        SELECT outcome AS "outcome!", account_id AS "account_id!",
               fencing_token AS "fencing_token!", lease_id AS "lease_id!", acquired_at,
               expires_at AS "expires_at!"
          FROM lock_gate(0, 'infinity', ARRAY['break'], ARRAY[$1::bigint], ARRAY[$2::text],
                         ARRAY[$3::bigint], '{}', ARRAY[$4::uuid], '{}', '{}', '{}', '{}', '{}',
                         '{}', '{}', '{}', '{}', ARRAY[$5::bigint], '{}')
         WHERE outcome IN ('broken_now', 'lapsed', 'superseded')"#,
        namespace_id.0,
        name.as_str(),
        leases.account_id.map(|id| id.0) as Option<i64>,
        leases.lease_id as Option<Uuid>,
        leases.fencing_token as Option<i64>,
    )
    .fetch_all(&mut *transaction)
    .await?;
    let mut broken = Vec::new();
    let mut ends = Vec::new();
    for row in rows {
        let is_broken = row.outcome == "broken_now";
        if is_broken {
            broken.push(BrokenLease {
                account_id: AccountId(row.account_id),
                lease_id: row.lease_id,
                fencing_token: row.fencing_token,
            });
        }
        ends.push(NewEvent {
            namespace_id,
            name: name.shared(),
            kind: if is_broken {
                EventKind::Broken
            } else {
                EventKind::Expired
            },
            at: row.expires_at,
            lease_id: Some(row.lease_id),
            fencing_token: row.fencing_token,
            token_id: None,
            holder: None,
            waited_ms: None,
            acquired_at: row.acquired_at,
            reason: is_broken.then(|| reason.to_owned()),
        });
    }
    if broken.is_empty() {
        return Ok(Vec::new());
    }
    let subject = subject(namespace, name);
    for lease in &broken {
        record_break(&mut transaction, actor, lease, &subject, reason).await?;
    }
    transaction.commit().await?;
    tell_nodes(pool).await;
    if let Err(error) = events::record_now(pool, ends).await {
        tracing::warn!(%error, "the event of a break could not be written");
    }
    Ok(broken)
}

/// The leases that were broken within the last hour, as the audit log has them.
async fn broken_before(
    pool: &PgPool,
    subject: &str,
    leases: LeasesToBreak,
) -> sqlx::Result<Vec<BrokenLease>> {
    let entries = audit::of_the_last_hour(pool, BREAK, subject).await?;
    let broken = entries.into_iter().filter_map(|(account_id, before)| {
        let before = before?;
        Some(BrokenLease {
            account_id: account_id?,
            lease_id: before
                .get("lease_id")
                .and_then(Value::as_str)?
                .parse()
                .ok()?,
            fencing_token: before.get("fencing_token").and_then(Value::as_i64)?,
        })
    });
    let is_meant = |lease: &BrokenLease| {
        leases.account_id.is_none_or(|id| id == lease.account_id)
            && leases.lease_id.is_none_or(|id| id == lease.lease_id)
            && leases
                .fencing_token
                .is_none_or(|token| token == lease.fencing_token)
    };
    Ok(broken.filter(is_meant).collect())
}

/// Writes the break of a lease into the audit log and into the activity of its account.
async fn record_break(
    connection: &mut PgConnection,
    actor: &Actor,
    lease: &BrokenLease,
    subject: &str,
    reason: &str,
) -> sqlx::Result<()> {
    let (fencing_token, lease_id) = (lease.fencing_token, lease.lease_id);
    let act = Act {
        action: BREAK,
        subject_account_id: Some(lease.account_id),
        subject,
        before: Some(json!({"held": true, "fencing_token": fencing_token, "lease_id": lease_id})),
        after: Some(json!({"held": false})),
        reason: Some(reason),
    };
    audit::record(connection, actor, act).await?;
    let act = activity::Act {
        action: Action::BreakLock,
        subject: Some(subject),
        details: Some(json!({"fencing_token": fencing_token, "reason": reason})),
    };
    activity::record(connection, lease.account_id, actor, act).await
}
