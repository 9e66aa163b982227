//! The statement that acquires several locks or none.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use crate::events::{EventKind, NewEvent};
use crate::locks::engine::events::EndedLease;
use crate::locks::{AcquireAll, AcquireAllOutcome, Lease, LockKey, LockName, Mode};

/// Grants all locks of the request, or none; `room` is the number of locks that the account may
/// take beside those that it holds. With the lapsed leases that it found. `None`: it came too late,
/// retry it.
///
/// # Errors
/// If the database is unavailable or its answer is lost: then nothing is known, and a retry is
/// safe.
pub(in crate::locks::engine) async fn acquire_all(
    connection: &mut PgConnection,
    request: &AcquireAll,
    room: i32,
    latest_at: DateTime<Utc>,
) -> sqlx::Result<Option<(AcquireAllOutcome, Vec<NewEvent>)>> {
    let names: Vec<&str> = request.names.iter().map(LockName::as_str).collect();
    let rows = sqlx::query!(
        r#"/* together.acquire_all */
        SELECT outcome AS "outcome!", name AS "name!", fencing_token, lease_ms, max_hold_ms,
               acquired_at, expires_at, expires_in_ms, holder, metadata, lease_id
          FROM lock_acquire_all($1, $2, $3::text[], $4, $5, $6, $7, $8, $9, $10, $11, $12)"#,
        latest_at,
        request.namespace_id.0,
        &names as &[&str],
        request.account_id.0,
        request.token_id.0,
        request.lease_id,
        request.lease_ms,
        request.requested_ms as Option<i32>,
        request.max_hold_ms as Option<i32>,
        request.holder.as_deref() as Option<&str>,
        request.metadata.as_ref() as Option<&serde_json::Value>,
        room,
    )
    .fetch_all(connection)
    .await?;
    let has = |outcome: &str| rows.iter().any(|row| row.outcome == outcome);
    if has("late") {
        return Ok(None);
    }
    let lapsed = rows
        .iter()
        .filter(|row| matches!(row.outcome.as_str(), "lapsed" | "superseded"));
    let ended: Vec<NewEvent> = lapsed
        .filter_map(|row| {
            let limit = row.max_hold_ms.map(|ms| TimeDelta::milliseconds(ms.into()));
            let limit = limit.zip(row.acquired_at);
            let lease = EndedLease {
                lease_id: row.lease_id,
                fencing_token: row.fencing_token,
                acquired_at: row.acquired_at,
                ended_at: row.expires_at,
                is_held_out: limit.is_some_and(|(limit, at)| row.expires_at >= Some(at + limit)),
            };
            let key = LockKey {
                namespace_id: request.namespace_id,
                name: LockName::new(&row.name).ok()?,
            };
            lease.event(&key, EventKind::Expired)
        })
        .collect();
    if has("ended") {
        return Ok(Some((AcquireAllOutcome::LeaseEnded, ended)));
    }
    if has("held") {
        let held = rows.iter().filter(|row| row.outcome == "held");
        let names = held.filter_map(|row| LockName::new(&row.name).ok());
        return Ok(Some((AcquireAllOutcome::Held(names.collect()), ended)));
    }
    if has("limit") {
        return Ok(Some((AcquireAllOutcome::TooManyLocks, ended)));
    }
    let lease = |name: &LockName| {
        let mut grants = rows.iter().filter(|row| row.outcome == "granted");
        let row = grants.find(|row| row.name == name.as_str())?;
        Some(Lease {
            lease_id: request.lease_id,
            fencing_token: row.fencing_token?,
            expires_in_ms: i32::try_from(row.expires_in_ms?).ok()?,
            lease_ms: row.lease_ms?,
            acquired_at: row.acquired_at?,
            expires_at: row.expires_at?,
            mode: Mode::Exclusive,
            slot: None,
            max_hold_ms: row.max_hold_ms,
            waited_ms: 0,
            holder: row.holder.clone(),
            metadata: row.metadata.clone().map(Box::new),
        })
    };
    let leases: Option<Vec<Lease>> = request.names.iter().map(lease).collect();
    Ok(leases.map(|leases| (AcquireAllOutcome::Granted(leases), ended)))
}
