//! The statements that decide about leases: columns in, rows out. Each is about many locks at once
//! and is a transaction of its own.
//!
//! [`acquire`], [`heartbeat`] and [`release`] (`sql/*.sql`) have one shape, in four named steps.
//! Each detail of it is there because its absence went wrong (ADR 3):
//!
//! 1. `observed`: reads the row of each key, by primary key whatever the statistics say (a lateral
//!    subquery that cannot be flattened into another join: its `LIMIT 1` also keeps the planner
//!    from taking a batch for millions of rows), and says whether its lease lives (the SQL function
//!    `lease_is_live` is the one definition of that).
//! 2. `verdicts`: refuses what cannot succeed, without writing: no row lock, no transaction id, no
//!    flush.
//! 3. `written_rows`: tries the rest, in key order, by an upsert, which has no plan to choose and
//!    so cannot leave its index. It decides *again*, under the row lock and on the clock of that
//!    instant, and only where the row still carries the grant that was observed: its
//!    `fencing_token` is the observed one. Every grant draws a new one, so nothing that step 1 was
//!    based on (which lease, whose, what is known to have ended) can have changed. An acquire
//!    compares the row's whole `lock_version`, which has the marks, the proof and the end of the
//!    lease as well, for it remembers that end in step 4. The clock is read in `SET`, after the
//!    wait for the row. A row that the sweeper deleted meanwhile is inserted anew, with a fencing
//!    token of its own.
//! 4. `ended_leases`, of an acquire: remembers the lease before, if it had an id of its client's
//!    choosing, since its row is now another's. `CASE WHEN … IN (SELECT …)` finds the keys that
//!    were written: it is hashed and evaluated last. As a join it was planned as one scan of the
//!    batch for each key of the batch once the statistics said so, and took most of the statement's
//!    time.
//!
//! A key without a verdict lost a race between steps 2 and 3. The caller retries it and never
//! answers `false`.
//!
//! [`insert_if_absent`] stands beside [`acquire`], for locks that most likely have no row: it
//! observes nothing, and so costs less.
//!
//! Nothing is written after `latest_at`, an instant of the database's clock at which the client has
//! been answered: a statement that arrives late, or that a node gave up on, would otherwise undo
//! what was answered since (ADR 9). It is tested under the row lock, or right before the insert; a
//! key that came too late has no verdict.
//!
//! "Expired" is said to a lease's own account only once it was decided under the row lock, and is
//! then written down, so that it stays true: a heartbeat may be in its commit while the snapshot of
//! the next statement shows the lease lapsed (P8).
//!
//! `LockedRelease` has a statement without step 1: it decides under the row lock alone.
//!
//! Statements that end leases also say which ones, for the events of private namespaces.
//!
//! Callers pass each key once, in ascending order: every node locks rows in that order. The arrays
//! are unfolded in a `SELECT`: as functions in `FROM` each would be stored whole before the first
//! row comes out.

pub(super) mod gate;
pub(super) mod members;
mod releases;
pub(super) mod together;
pub(super) mod waiting;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::events::EndedLease;
use super::request::{FastOutcome, LockRequest, Outcomes};
use crate::events::{EventKind, NewEvent};
use crate::locks::{Acquire, AcquireOutcome, Heartbeat, HeartbeatOutcome, Lease, Lost, Mode};

pub use releases::release;
pub(super) use releases::{release_noting, release_under_lock};

/// A grant that waited for another transaction on a new row was written before the wait, not after
/// it. It is retried (and so renewed) if it is short by more than this, milliseconds.
const SHORT_BY_MS: i64 = 100;

/// True if a lease that was written at `written_at` is as long as was requested.
fn is_full_length(expires_at: DateTime<Utc>, written_at: DateTime<Utc>, requested_ms: i32) -> bool {
    (expires_at - written_at).num_milliseconds() >= i64::from(requested_ms) - SHORT_BY_MS
}

/// The whole milliseconds from one instant to a later one.
fn ms_between(from: DateTime<Utc>, to: DateTime<Utc>) -> i32 {
    i32::try_from((to - from).num_milliseconds().max(0)).unwrap_or(i32::MAX)
}

/// The hold limit of a lease, if it lasts exactly to it.
fn ms_to_hold_limit(
    acquired_at: DateTime<Utc>,
    max_hold_ms: Option<i32>,
    expires_at: DateTime<Utc>,
) -> Option<i32> {
    max_hold_ms.filter(|ms| expires_at >= acquired_at + TimeDelta::milliseconds((*ms).into()))
}

/// A row of a result. The three statements that observe first have one form of result.
struct LeaseRow {
    namespace_id: i64,
    name: String,
    verdict: String,
    lease_id: Option<Uuid>,
    fencing_token: Option<i64>,
    acquired_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    lease_ms: Option<i32>,
    max_hold_ms: Option<i32>,
    /// When the row was written, or an instant before.
    written_at: Option<DateTime<Utc>>,
    holder: Option<String>,
    metadata: Option<Value>,
}

impl LeaseRow {
    fn key(&self) -> (i64, &str) {
        (self.namespace_id, &self.name)
    }

    /// The lease as one that has ended.
    fn ended(&self) -> EndedLease {
        EndedLease {
            lease_id: self.lease_id,
            fencing_token: self.fencing_token,
            acquired_at: self.acquired_at,
            ended_at: self.expires_at,
            is_held_out: self.verdict == "held_out",
        }
    }

    /// The lease, if it now lasts for as long as was requested, or to its hold limit (P11).
    fn lease(self, requested_ms: i32) -> Option<Lease> {
        let (acquired_at, expires_at) = (self.acquired_at?, self.expires_at?);
        let written_at = self.written_at?;
        let expires_in_ms = match ms_to_hold_limit(acquired_at, self.max_hold_ms, expires_at) {
            Some(_) => ms_between(written_at, expires_at),
            None if is_full_length(expires_at, written_at, requested_ms) => requested_ms,
            None => return None,
        };
        Some(Lease {
            lease_id: self.lease_id?,
            fencing_token: self.fencing_token?,
            expires_in_ms,
            lease_ms: self.lease_ms?,
            acquired_at,
            expires_at,
            mode: Mode::Exclusive,
            slot: None,
            max_hold_ms: self.max_hold_ms,
            waited_ms: 0,
            holder: self.holder,
            metadata: self.metadata.map(Box::new),
        })
    }
}

/// Why there is no lease, by a statement's verdict; `None` if the verdict says something else.
fn lost(verdict: &str) -> Option<Lost> {
    match verdict {
        "expired" => Some(Lost::Expired),
        "released" => Some(Lost::Released),
        "broken" => Some(Lost::Broken),
        "superseded" => Some(Lost::Superseded),
        "unproved" => Some(Lost::Unproved),
        "never_granted" => Some(Lost::NeverGranted),
        "hold_limit" => Some(Lost::HoldLimit),
        "unknown" => Some(Lost::Unknown),
        _ => None,
    }
}

/// The place of a row among the requests, which are in key order.
fn place_of<R: LockRequest>(requests: &[&R], row_key: (i64, &str)) -> Option<usize> {
    let found = requests.binary_search_by(|request| {
        let key = request.key();
        (key.namespace_id.0, key.name.as_str()).cmp(&row_key)
    });
    found.ok()
}

/// Aligns the rows of a result, which come in any order, to the requests.
fn align_to_requests<R: LockRequest, Row>(
    requests: &[&R],
    rows: Vec<Row>,
    key_of: impl Fn(&Row) -> (i64, &str),
    mut outcome_of: impl FnMut(&R, Row) -> Option<R::Outcome>,
) -> Outcomes<R> {
    let mut outcomes: Outcomes<R> = requests.iter().map(|_| None).collect();
    for row in rows {
        if let Some(at) = place_of(requests, key_of(&row)) {
            // Of the rows about one lock, at most one has a verdict.
            outcomes[at] = outcome_of(requests[at], row).or(outcomes[at].take());
        }
    }
    outcomes
}

/// The columns of acquires, as the statements take them.
struct AcquireColumns<'a> {
    namespace_ids: Vec<i64>,
    names: Vec<&'a str>,
    account_ids: Vec<i64>,
    token_ids: Vec<i64>,
    lease_ids: Vec<Uuid>,
    needs_proof: Vec<bool>,
    lease_ms: Vec<i32>,
    holders: Vec<Option<&'a str>>,
    metadata: Vec<Option<&'a Value>>,
    max_hold_ms: Vec<Option<i32>>,
}

impl<'a> AcquireColumns<'a> {
    fn of(requests: &[&'a Acquire]) -> Self {
        Self {
            namespace_ids: requests.iter().map(|r| r.key.namespace_id.0).collect(),
            names: requests.iter().map(|r| r.key.name.as_str()).collect(),
            account_ids: requests.iter().map(|r| r.account_id.0).collect(),
            token_ids: requests.iter().map(|r| r.token_id.0).collect(),
            lease_ids: requests.iter().map(|r| r.lease_id).collect(),
            needs_proof: requests.iter().map(|r| r.needs_proof).collect(),
            lease_ms: requests.iter().map(|r| r.lease_ms).collect(),
            holders: requests.iter().map(|r| r.holder.as_deref()).collect(),
            metadata: requests.iter().map(|r| r.metadata.as_deref()).collect(),
            max_hold_ms: requests.iter().map(|r| r.max_hold_ms).collect(),
        }
    }
}

/// The columns of heartbeats and releases.
struct ProofColumns<'a> {
    namespace_ids: Vec<i64>,
    names: Vec<&'a str>,
    account_ids: Vec<i64>,
    lease_ids: Vec<Option<Uuid>>,
}

impl<'a> ProofColumns<'a> {
    fn of<R: LockRequest>(requests: &[&'a R], proof: impl Fn(&R) -> Option<Uuid>) -> Self {
        Self {
            namespace_ids: requests.iter().map(|r| r.key().namespace_id.0).collect(),
            names: requests.iter().map(|r| r.key().name.as_str()).collect(),
            account_ids: requests.iter().map(|r| r.account_id().0).collect(),
            lease_ids: requests.iter().map(|r| proof(r)).collect(),
        }
    }
}

/// Grants each lock that is free, and renews each lease whose own id is sent again. Outcomes are in
/// the order of the requests; `None`: it lost a race, retry it.
///
/// # Errors
/// If the database is unavailable or its answer is lost: then nothing is known.
pub async fn acquire(
    connection: &mut PgConnection,
    requests: &[&Acquire],
    latest_at: DateTime<Utc>,
) -> sqlx::Result<Vec<Option<FastOutcome<AcquireOutcome>>>> {
    let (outcomes, _) = acquire_noting(connection, requests, latest_at).await?;
    Ok(outcomes)
}

/// As [`acquire`], with the lapsed leases whose locks were taken over.
pub(super) async fn acquire_noting(
    connection: &mut PgConnection,
    requests: &[&Acquire],
    latest_at: DateTime<Utc>,
) -> sqlx::Result<(Outcomes<Acquire>, Vec<NewEvent>)> {
    let columns = AcquireColumns::of(requests);
    let requested_ms: Vec<Option<i32>> = requests.iter().map(|r| r.requested_ms).collect();
    let mut rows = sqlx::query_file_as!(
        LeaseRow,
        "src/locks/engine/sql/acquire.sql",
        &columns.namespace_ids,
        &columns.names as &[&str],
        &columns.account_ids,
        &columns.token_ids,
        &columns.lease_ids,
        &columns.needs_proof,
        &columns.lease_ms,
        &requested_ms as &[Option<i32>],
        &columns.holders as &[Option<&str>],
        &columns.metadata as &[Option<&Value>],
        latest_at,
        &columns.max_hold_ms as &[Option<i32>],
    )
    .fetch_all(connection)
    .await?;
    let lapsed: Vec<LeaseRow> = rows
        .extract_if(.., |row| {
            matches!(row.verdict.as_str(), "lapsed" | "held_out")
        })
        .collect();
    metrics::counter!("lockable_expiries_total").increment(lapsed.len() as u64);
    let outcomes = align_to_requests(requests, rows, LeaseRow::key, |request, row| {
        match row.verdict.as_str() {
            "granted" => {
                // A grant is as long as was requested; a repetition renews by the length granted,
                // unless the request names a length of its own.
                let length_ms = request.requested_ms.or(row.lease_ms)?;
                let lease = row.lease(length_ms)?;
                Some(FastOutcome::Decided(AcquireOutcome::Granted(lease)))
            }
            "held" => Some(FastOutcome::Decided(AcquireOutcome::Held)),
            "ended" => Some(FastOutcome::Decided(AcquireOutcome::LeaseEnded)),
            "gated" => Some(FastOutcome::Gated),
            _ => None,
        }
    });
    let taken_over = |row: LeaseRow| {
        let at = place_of(requests, row.key())?;
        // A race may have been lost: then the lease may have been renewed.
        match &outcomes[at] {
            Some(FastOutcome::Decided(AcquireOutcome::Granted(_))) => {
                row.ended().event(&requests[at].key, EventKind::Expired)
            }
            _ => None,
        }
    };
    let ended = lapsed.into_iter().filter_map(taken_over).collect();
    Ok((outcomes, ended))
}

/// Grants each lock that has no row, at less cost than [`acquire`]: it observes nothing first, and
/// an insert that meets a row leaves it alone. Outcomes are in the order of the requests; `None`:
/// there is a row, or there was one a moment ago, and [`acquire`] decides.
///
/// It decides as [`acquire`] does where that finds no row: a lock without one is free, unless the
/// lease's id is known to have ended (P6).
///
/// # Errors
/// As [`acquire`].
pub async fn insert_if_absent(
    connection: &mut PgConnection,
    requests: &[&Acquire],
    latest_at: DateTime<Utc>,
) -> sqlx::Result<Vec<Option<FastOutcome<AcquireOutcome>>>> {
    let columns = AcquireColumns::of(requests);
    let rows = sqlx::query_file!(
        "src/locks/engine/sql/insert_if_absent.sql",
        &columns.namespace_ids,
        &columns.names as &[&str],
        &columns.account_ids,
        &columns.token_ids,
        &columns.lease_ids,
        &columns.needs_proof,
        &columns.lease_ms,
        &columns.holders as &[Option<&str>],
        &columns.metadata as &[Option<&Value>],
        latest_at,
        &columns.max_hold_ms as &[Option<i32>],
    )
    .fetch_all(connection)
    .await?;
    Ok(align_to_requests(
        requests,
        rows,
        |row| (row.namespace_id, row.name.as_str()),
        |request, row| {
            let length_ms = match request.max_hold_ms {
                Some(max_hold_ms) => request.lease_ms.min(max_hold_ms),
                None => request.lease_ms,
            };
            let lease = Lease {
                lease_id: request.lease_id,
                fencing_token: row.fencing_token,
                expires_in_ms: length_ms,
                lease_ms: request.lease_ms,
                acquired_at: row.acquired_at,
                expires_at: row.expires_at,
                mode: Mode::Exclusive,
                slot: None,
                max_hold_ms: request.max_hold_ms,
                waited_ms: 0,
                holder: request.holder.clone(),
                metadata: request.metadata.clone(),
            };
            is_full_length(row.expires_at, row.written_at, length_ms)
                .then_some(FastOutcome::Decided(AcquireOutcome::Granted(lease)))
        },
    ))
}

/// Renews each lease that lives and is the account's: by its id, or without one where it needs
/// none. Outcomes are in the order of the requests; `None`: it lost a race, retry it.
///
/// # Errors
/// If the database is unavailable or its answer is lost: then nothing is known, and a retry is
/// safe.
pub async fn heartbeat(
    connection: &mut PgConnection,
    requests: &[&Heartbeat],
    latest_at: DateTime<Utc>,
) -> sqlx::Result<Vec<Option<FastOutcome<HeartbeatOutcome>>>> {
    let columns = ProofColumns::of(requests, |request| request.lease_id);
    let requested_ms: Vec<Option<i32>> = requests.iter().map(|r| r.lease_ms).collect();
    let rows = sqlx::query_file_as!(
        LeaseRow,
        "src/locks/engine/sql/heartbeat.sql",
        &columns.namespace_ids,
        &columns.names as &[&str],
        &columns.account_ids,
        &columns.lease_ids as &[Option<Uuid>],
        &requested_ms as &[Option<i32>],
        latest_at,
    )
    .fetch_all(connection)
    .await?;
    Ok(align_to_requests(
        requests,
        rows,
        LeaseRow::key,
        |request, row| match row.verdict.as_str() {
            "renewed" => {
                let length_ms = request.lease_ms.or(row.lease_ms)?;
                let lease = row.lease(length_ms)?;
                Some(FastOutcome::Decided(HeartbeatOutcome::Renewed(lease)))
            }
            "gated" => Some(FastOutcome::Gated),
            verdict => lost(verdict)
                .map(HeartbeatOutcome::Lost)
                .map(FastOutcome::Decided),
        },
    ))
}

/// The database's clock, now.
///
/// # Errors
/// If the database is unavailable or its answer is lost.
pub(super) async fn read_clock(connection: &mut PgConnection) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar!(r#"/* locks.read_clock */ SELECT clock_timestamp() AS "now!""#)
        .fetch_one(connection)
        .await
}
