//! The statements that release leases.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{LeaseRow, ProofColumns, align_to_requests, lost};
use crate::events::{EventKind, NewEvent};
use crate::locks::engine::events::EndedLease;
use crate::locks::engine::request::{FastOutcome, LockedRelease, Outcomes};
use crate::locks::{Lost, Release, ReleaseOutcome};

/// Ends each lease that lives and is the account's: by its id, or without one where it needs none.
/// The row stays. Outcomes are in the order of the requests; `None`: it lost a race, retry it.
///
/// # Errors
/// If the database is unavailable or its answer is lost: then nothing is known, and a retry with a
/// lease id is safe.
pub async fn release(
    connection: &mut PgConnection,
    requests: &[&Release],
    latest_at: DateTime<Utc>,
) -> sqlx::Result<Vec<Option<FastOutcome<ReleaseOutcome>>>> {
    let (outcomes, _) = release_noting(connection, requests, latest_at).await?;
    Ok(outcomes)
}

/// As [`release`], with the leases that were released.
pub(in crate::locks::engine) async fn release_noting(
    connection: &mut PgConnection,
    requests: &[&Release],
    latest_at: DateTime<Utc>,
) -> sqlx::Result<(Outcomes<Release>, Vec<NewEvent>)> {
    let columns = ProofColumns::of(requests, |request| request.lease_id);
    let rows = sqlx::query_file_as!(
        LeaseRow,
        "src/locks/engine/sql/release.sql",
        &columns.namespace_ids,
        &columns.names as &[&str],
        &columns.account_ids,
        &columns.lease_ids as &[Option<Uuid>],
        latest_at,
    )
    .fetch_all(connection)
    .await?;
    let mut ended = Vec::new();
    let outcomes = align_to_requests(requests, rows, LeaseRow::key, |request, row| {
        match row.verdict.as_str() {
            // "released": repeated after a lost answer, the first execution released it (P6).
            verdict @ ("done" | "released") if verdict == "done" || request.lease_id.is_some() => {
                ended.extend(row.ended().event(&request.key, EventKind::Released));
                Some(FastOutcome::Decided(ReleaseOutcome::Released))
            }
            "gated" => Some(FastOutcome::Gated),
            verdict => lost(verdict)
                .map(ReleaseOutcome::Lost)
                .map(FastOutcome::Decided),
        }
    });
    Ok((outcomes, ended))
}

/// Ends each lease by its id, or marks the id so that it is never granted: decided under the row's
/// lock alone. Outcomes are in the order of the requests; `None`: it came too late, retry it. With
/// the leases that were released, but for those that nobody had received.
pub(in crate::locks::engine) async fn release_under_lock(
    connection: &mut PgConnection,
    requests: &[&LockedRelease],
    latest_at: DateTime<Utc>,
) -> sqlx::Result<(Outcomes<LockedRelease>, Vec<NewEvent>)> {
    let namespace_ids: Vec<i64> = requests.iter().map(|r| r.key.namespace_id.0).collect();
    let names: Vec<&str> = requests.iter().map(|r| r.key.name.as_str()).collect();
    let account_ids: Vec<i64> = requests.iter().map(|r| r.account_id.0).collect();
    let lease_ids: Vec<Uuid> = requests.iter().map(|r| r.lease_id).collect();
    let are_clients: Vec<bool> = requests.iter().map(|r| r.is_clients).collect();
    let rows = sqlx::query_file!(
        "src/locks/engine/sql/release_under_lock.sql",
        &namespace_ids,
        &names as &[&str],
        &account_ids,
        &lease_ids,
        &are_clients,
        latest_at,
    )
    .fetch_all(connection)
    .await?;
    let mut ended = Vec::new();
    let outcomes = align_to_requests(
        requests,
        rows,
        |row| (row.namespace_id, row.name.as_str()),
        |request, row| {
            let is_fresh_mark = row.lease_id.is_none();
            let is_own = row.account_id == Some(request.account_id.0)
                && row.lease_id == Some(request.lease_id);
            let outcome = match row.verdict.as_str() {
                "gated" => return Some(FastOutcome::Gated),
                "released" if is_own => {
                    let lease = EndedLease {
                        lease_id: row.lease_id,
                        fencing_token: row.fencing_token.filter(|_| request.is_clients),
                        acquired_at: row.acquired_at,
                        ended_at: row.expires_at,
                        is_held_out: false,
                    };
                    ended.extend(lease.event(&request.key, EventKind::Released));
                    Some(ReleaseOutcome::Released)
                }
                // Renewed since the grant, and to be ended only if not.
                "renewed" if is_own => Some(ReleaseOutcome::Lost(Lost::Unknown)),
                verdict if is_own || is_fresh_mark => lost(verdict).map(ReleaseOutcome::Lost),
                // Another lease has the row: the memory of ended leases decides. Where that changed
                // since the snapshot there is no verdict. A drawn id is not remembered.
                _ if request.is_clients => None,
                _ => Some(ReleaseOutcome::Lost(Lost::NeverGranted)),
            };
            outcome.map(FastOutcome::Decided)
        },
    );
    Ok((outcomes, ended))
}
