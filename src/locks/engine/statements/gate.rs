//! The statement of the gate: columns in, rows out.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::lost;
use crate::events::EventKind;
use crate::id::{AccountId, NamespaceId};
use crate::locks::engine::events::EndedLease;
use crate::locks::engine::gate::{Claim, GateNews, GateOperation, GateOutcome, GateRequest};
use crate::locks::engine::request::Outcomes;
use crate::locks::{Acquire, BrokenLease, Lease, LockKey, LockName, Mode};

struct GateRow {
    request: Option<i32>,
    outcome: String,
    namespace_id: i64,
    name: String,
    node_id: Option<i64>,
    attachment: Option<i64>,
    account_id: Option<i64>,
    lease_id: Option<Uuid>,
    fencing_token: Option<i64>,
    permits: Option<i32>,
    slot: Option<i32>,
    lease_ms: Option<i32>,
    max_hold_ms: Option<i32>,
    acquired_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    expires_in_ms: Option<i64>,
    holder: Option<String>,
    metadata: Option<serde_json::Value>,
}

impl GateRow {
    fn key(self) -> Option<LockKey> {
        Some(LockKey {
            namespace_id: NamespaceId(self.namespace_id),
            name: LockName::new(&self.name).ok()?,
        })
    }

    /// The lease as one that has ended.
    fn ended(&self) -> EndedLease {
        let limit = self
            .max_hold_ms
            .map(|ms| TimeDelta::milliseconds(ms.into()));
        let limit = limit.zip(self.acquired_at);
        EndedLease {
            lease_id: self.lease_id,
            fencing_token: self.fencing_token,
            acquired_at: self.acquired_at,
            ended_at: self.expires_at,
            is_held_out: limit.is_some_and(|(limit, at)| self.expires_at >= Some(at + limit)),
        }
    }

    fn mode(&self) -> Mode {
        Mode::from_permits(self.permits.unwrap_or(1))
    }

    fn lease(self) -> Option<Lease> {
        let mode = self.mode();
        Some(Lease {
            lease_id: self.lease_id?,
            fencing_token: self.fencing_token?,
            expires_in_ms: i32::try_from(self.expires_in_ms?).ok()?,
            lease_ms: self.lease_ms?,
            acquired_at: self.acquired_at?,
            expires_at: self.expires_at?,
            mode,
            slot: self.slot.filter(|_| matches!(mode, Mode::Semaphore { .. })),
            max_hold_ms: self.max_hold_ms,
            waited_ms: 0,
            holder: self.holder,
            metadata: self.metadata.map(Box::new),
        })
    }

    /// The outcome of a request; `None` if it was too late and is to be retried.
    fn outcome(self, request: &GateRequest) -> Option<GateOutcome> {
        let is_release = matches!(request.operation, GateOperation::Release { .. });
        Some(match self.outcome.as_str() {
            "granted" => GateOutcome::Granted(self.lease()?),
            "held" => GateOutcome::Held,
            "limit_conflict" => GateOutcome::LimitConflict(self.mode()),
            "ended" => GateOutcome::LeaseEnded,
            "waiting" => GateOutcome::Waiting,
            "left" => GateOutcome::Left,
            "gone" => GateOutcome::Gone,
            "replaced" => GateOutcome::Replaced,
            "too_many_waiters" => GateOutcome::TooManyWaiters,
            "refused" => GateOutcome::CallerRefused,
            "done" => GateOutcome::Released,
            "broken_now" | "broken_before" => GateOutcome::Broken(vec![BrokenLease {
                lease_id: self.lease_id?,
                fencing_token: self.fencing_token?,
                account_id: AccountId(self.account_id?),
            }]),
            "not_held" => GateOutcome::Broken(Vec::new()),
            "advanced" => GateOutcome::Done,
            "late" => return None,
            // Repeated after a lost answer: the first execution released it (P6).
            "released" if is_release => GateOutcome::Released,
            // Its lease has reached its hold limit.
            "hold_limit" if request.place().is_some() => GateOutcome::LeaseEnded,
            verdict => GateOutcome::Lost(lost(verdict)?),
        })
    }
}

/// Decides requests at the gates of their locks, in their order: they are in key order, and those
/// of one lock in the order of their arrival. `node_id` is the node that asks. Outcomes are in the
/// order of the requests; `None`: it came too late, retry it.
///
/// # Errors
/// If the database is unavailable or its answer is lost: then nothing is known.
pub(in crate::locks::engine) async fn decide(
    connection: &mut PgConnection,
    node_id: i64,
    requests: &[&GateRequest],
    latest_at: DateTime<Utc>,
) -> sqlx::Result<(Outcomes<GateRequest>, GateNews)> {
    let acquires: Vec<Option<&Acquire>> = requests
        .iter()
        .map(|r| r.place().map(|place| &place.acquire))
        .collect();
    let of = |column: fn(&Acquire) -> Option<i32>| -> Vec<Option<i32>> {
        acquires
            .iter()
            .map(|acquire| acquire.and_then(column))
            .collect()
    };
    let names: Vec<&str> = requests.iter().map(|r| r.key.name.as_str()).collect();
    let namespace_ids: Vec<i64> = requests.iter().map(|r| r.key.namespace_id.0).collect();
    let operations: Vec<&str> = requests.iter().map(|r| r.name_of_operation()).collect();
    let account_ids: Vec<Option<i64>> = requests.iter().map(|r| r.account_id_of_lease()).collect();
    let token_ids: Vec<Option<i64>> = acquires
        .iter()
        .map(|acquire| acquire.map(|acquire| acquire.token_id.0))
        .collect();
    let lease_ids: Vec<Option<Uuid>> = requests.iter().map(|r| r.lease_id()).collect();
    let needs_proof: Vec<bool> = requests
        .iter()
        .map(|r| r.abandoned().is_none_or(|abandoned| abandoned.needs_proof))
        .collect();
    let requested_ms: Vec<Option<i32>> = requests
        .iter()
        .map(|r| match &r.operation {
            GateOperation::Heartbeat { lease_ms, .. } => *lease_ms,
            _ => r.place().and_then(|place| place.acquire.requested_ms),
        })
        .collect();
    let waits: Vec<i32> = requests
        .iter()
        .map(|r| match r.place() {
            Some(place) if place.attachment != 0 => place.remaining_ms(),
            _ => 0,
        })
        .collect();
    let holders: Vec<Option<&str>> = acquires
        .iter()
        .map(|acquire| acquire.and_then(|acquire| acquire.holder.as_deref()))
        .collect();
    let metadata: Vec<Option<&serde_json::Value>> = acquires
        .iter()
        .map(|acquire| acquire.and_then(|acquire| acquire.metadata.as_deref()))
        .collect();
    let attachments: Vec<i64> = requests
        .iter()
        .map(|r| r.abandoned().map_or(0, |abandoned| abandoned.attachment))
        .collect();
    let fencing_tokens: Vec<Option<i64>> = requests
        .iter()
        .map(|r| match &r.operation {
            GateOperation::Break { fencing_token, .. } => *fencing_token,
            _ => None,
        })
        .collect();
    let rows = sqlx::query_file_as!(
        GateRow,
        "src/locks/engine/sql/gate.sql",
        node_id,
        latest_at,
        &operations as &[&str],
        &namespace_ids,
        &names as &[&str],
        &account_ids as &[Option<i64>],
        &token_ids as &[Option<i64>],
        &lease_ids as &[Option<Uuid>],
        &needs_proof,
        &of(|acquire| Some(acquire.lease_ms)) as &[Option<i32>],
        &requested_ms as &[Option<i32>],
        &waits,
        &of(|acquire| Some(acquire.mode.permits())) as &[Option<i32>],
        &of(|acquire| acquire.max_hold_ms) as &[Option<i32>],
        &holders as &[Option<&str>],
        &metadata as &[Option<&serde_json::Value>],
        &attachments,
        &fencing_tokens as &[Option<i64>],
        &of(|acquire| Some(acquire.max_waiters_of_lock)) as &[Option<i32>],
    )
    .fetch_all(connection)
    .await?;
    let mut outcomes: Outcomes<GateRequest> = requests.iter().map(|_| None).collect();
    let mut news = GateNews::default();
    for row in rows {
        let at = row.request.and_then(|n| usize::try_from(n - 1).ok());
        match at {
            Some(at) => {
                news.add_end(&row, requests[at]);
                add_outcome(&mut outcomes[at], row.outcome(requests[at]));
            }
            None => news.add(row),
        }
    }
    Ok((outcomes, news))
}

/// A break has a row for each lease.
fn add_outcome(outcome: &mut Option<GateOutcome>, next: Option<GateOutcome>) {
    match (outcome, next) {
        (Some(GateOutcome::Broken(leases)), Some(GateOutcome::Broken(more))) => {
            leases.extend(more);
        }
        (outcome, next) => *outcome = next,
    }
}

impl GateNews {
    /// Adds the lease that a request ended. A lease that nobody received has no event.
    fn add_end(&mut self, row: &GateRow, request: &GateRequest) {
        let kind = match (&request.operation, row.outcome.as_str()) {
            (GateOperation::Release { .. }, "done") => EventKind::Released,
            (GateOperation::Break { .. }, "broken_now") => EventKind::Broken,
            _ => return,
        };
        self.ended.extend(row.ended().event(&request.key, kind));
    }

    fn add(&mut self, row: GateRow) {
        match row.outcome.as_str() {
            verdict @ ("lapsed" | "superseded") => {
                self.lapsed += u64::from(verdict == "lapsed");
                let ended = row.ended();
                let event = row
                    .key()
                    .and_then(|key| ended.event(&key, EventKind::Expired));
                self.ended.extend(event);
            }
            "claim_lapsed" => self.claims_lapsed += 1,
            "next_end" => {
                let ms = row.expires_in_ms.unwrap_or_default().max(0);
                let within = Duration::from_millis(ms.unsigned_abs());
                self.next_ends.extend(row.key().map(|key| (key, within)));
            }
            _ => {
                if let (Some(node_id), Some(attachment)) = (row.node_id, row.attachment) {
                    self.claims.push(Claim {
                        node_id,
                        attachment,
                    });
                }
            }
        }
    }
}
