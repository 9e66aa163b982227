//! Heartbeats of shared leases and permits: a statement of the same shape as the locks' (ADR 3),
//! about the rows of those leases. It does not lock the gate.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{is_full_length, ms_between, ms_to_hold_limit};
use crate::locks::engine::request::{FastOutcome, MemberHeartbeat, Outcomes};
use crate::locks::{HeartbeatOutcome, Lease, Mode};

struct MemberRow {
    namespace_id: i64,
    name: String,
    lease_id: Uuid,
    verdict: String,
    fencing_token: Option<i64>,
    slot: Option<i32>,
    permits: Option<i32>,
    acquired_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    lease_ms: Option<i32>,
    max_hold_ms: Option<i32>,
    written_at: Option<DateTime<Utc>>,
    holder: Option<String>,
    metadata: Option<serde_json::Value>,
}

impl MemberRow {
    fn renewed(self, request: &MemberHeartbeat) -> Option<Lease> {
        let (acquired_at, expires_at) = (self.acquired_at?, self.expires_at?);
        let (written_at, lease_ms) = (self.written_at?, self.lease_ms?);
        let length_ms = request.lease_ms.unwrap_or(lease_ms);
        let mode = Mode::from_permits(self.permits?);
        let expires_in_ms = match ms_to_hold_limit(acquired_at, self.max_hold_ms, expires_at) {
            Some(_) => ms_between(written_at, expires_at),
            None if is_full_length(expires_at, written_at, length_ms) => length_ms,
            None => return None,
        };
        Some(Lease {
            lease_id: self.lease_id,
            fencing_token: self.fencing_token?,
            expires_in_ms,
            lease_ms,
            acquired_at,
            expires_at,
            mode,
            slot: self.slot.filter(|_| matches!(mode, Mode::Semaphore { .. })),
            max_hold_ms: self.max_hold_ms,
            waited_ms: 0,
            holder: self.holder,
            metadata: self.metadata.map(Box::new),
        })
    }
}

/// Renews each shared lease or permit that lives and is the account's. Outcomes are in the order of
/// the requests, each of another lease: `Gated` of one that is not found or has lapsed; `None`: it
/// lost a race, retry it.
///
/// # Errors
/// If the database is unavailable or its answer is lost: then nothing is known, and a retry is
/// safe.
pub(in crate::locks::engine) async fn heartbeat(
    connection: &mut PgConnection,
    requests: &[&MemberHeartbeat],
    latest_at: DateTime<Utc>,
) -> sqlx::Result<Outcomes<MemberHeartbeat>> {
    let namespace_ids: Vec<i64> = requests.iter().map(|r| r.key.namespace_id.0).collect();
    let names: Vec<&str> = requests.iter().map(|r| r.key.name.as_str()).collect();
    let account_ids: Vec<i64> = requests.iter().map(|r| r.account_id.0).collect();
    let lease_ids: Vec<Uuid> = requests.iter().map(|r| r.lease_id).collect();
    let requested_ms: Vec<Option<i32>> = requests.iter().map(|r| r.lease_ms).collect();
    let rows = sqlx::query_file_as!(
        MemberRow,
        "src/locks/engine/sql/heartbeat_member.sql",
        &namespace_ids,
        &names as &[&str],
        &account_ids,
        &lease_ids,
        &requested_ms as &[Option<i32>],
        latest_at,
    )
    .fetch_all(connection)
    .await?;
    let mut outcomes: Outcomes<MemberHeartbeat> = requests.iter().map(|_| None).collect();
    for row in rows {
        let row_key = (row.namespace_id, row.name.as_str());
        let first =
            requests.partition_point(|r| (r.key.namespace_id.0, r.key.name.as_str()) < row_key);
        let of_lock = requests[first..]
            .iter()
            .take_while(|r| (r.key.namespace_id.0, r.key.name.as_str()) == row_key);
        let Some(at) = of_lock.into_iter().position(|r| r.lease_id == row.lease_id) else {
            continue;
        };
        outcomes[first + at] = match row.verdict.as_str() {
            "renewed" => row
                .renewed(requests[first + at])
                .map(|lease| FastOutcome::Decided(HeartbeatOutcome::Renewed(lease))),
            _ => Some(FastOutcome::Gated),
        };
    }
    Ok(outcomes)
}
