//! Clients of two nodes, and all that they learn.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use lockable::locks::{
    Acquire, AcquireOutcome, EngineSettings, HeartbeatOutcome, Lease, ReleaseOutcome,
};
use rand::random_range;
use tokio::sync::watch;
use uuid::Uuid;

use crate::support::history::{History, Operation, Outcome, Request, Rules};
use crate::support::node::{ALICE, Node, acquire, heartbeat, release, unknown};
use crate::support::prelude::*;

const CONTENDED: usize = 4;
/// No lease lapses while the test runs: a lease that is gone was lost.
const LEASE: Duration = Duration::from_secs(600);
/// How often a client repeats a request whose outcome is unknown.
const TRIES: usize = 20;

/// One lease, as its client knows it from the outcomes that it received.
#[derive(Debug)]
struct KnownLease {
    name: String,
    fencing_token: i64,
    /// The latest end that an outcome had.
    expires_at: DateTime<Utc>,
    needs_proof: bool,
    end: KnownEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KnownEnd {
    Kept,
    /// A release was begun, and its outcome is not known, or not yet.
    InDoubt,
    Released,
}

/// A row of the table at the end.
#[derive(sqlx::FromRow)]
struct Row {
    name: String,
    lease_id: Uuid,
    fencing_token: i64,
    expires_at: DateTime<Utc>,
    end_reason: i16,
    live: bool,
}

/// More requests wait than a batch takes, so that the lane is on a thread of its own most of the
/// time, and goes and comes back.
const CROWDED: EngineSettings = EngineSettings {
    lanes: 1,
    largest_batch: 8,
    queue_capacity: 8192,
    deadline: Duration::from_secs(5),
};

/// Two nodes, one of them crowded, and all outcomes that their clients received.
pub(super) struct Load {
    nodes: [Node; 2],
    history: History,
    leases: Mutex<BTreeMap<Uuid, KnownLease>>,
    /// The number of outcomes that were `true`.
    received: watch::Sender<usize>,
    /// Releases that were certainly in flight when the database died: only a release without a
    /// lease id, sent and not answered, is unknown before its deadline; everything else is retried.
    pub(super) cut_off: AtomicUsize,
    /// Grants that were committed, not answered, and found by a retry.
    pub(super) found_again: AtomicUsize,
    contradictions: Mutex<Vec<String>>,
    pub(super) over: AtomicBool,
}

impl Load {
    pub(super) async fn start(db: &Database) -> Arc<Load> {
        Arc::new(Load {
            nodes: [
                Node::start(db.options()).await,
                Node::start_with(db.options(), CROWDED).await,
            ],
            history: History::new(),
            leases: Mutex::default(),
            received: watch::Sender::new(0),
            cut_off: AtomicUsize::new(0),
            found_again: AtomicUsize::new(0),
            contradictions: Mutex::default(),
            over: AtomicBool::new(false),
        })
    }

    /// The number of leases that were granted, kept or not.
    pub(super) fn granted(&self) -> usize {
        self.leases.lock().unwrap().len()
    }

    /// Waits until this many more outcomes were `true`.
    pub(super) async fn progress(&self, more: usize) {
        let mut received = self.received.subscribe();
        let target = *received.borrow_and_update() + more;
        let reached = received.wait_for(|count| *count >= target);
        let reached = tokio::time::timeout(crate::support::wait::DEADLINE, reached).await;
        reached.expect("the nodes go on answering").unwrap();
    }

    pub(super) async fn client(self: Arc<Self>, number: usize) {
        for round in 0.. {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            // Several at once, so that batches are larger than the number of clients.
            let [with_id, plain] = ["id", "plain"].map(|kind| format!("{kind}-{number}-{round}"));
            let contended = format!("contended-{}", random_range(0..CONTENDED));
            tokio::join!(
                self.take_new(&with_id, true, round % 3 == 0),
                self.take_new(&plain, false, round % 2 == 0),
                self.take_contended(&contended)
            );
        }
    }

    /// Takes a lock that no other client wants, renews it, and releases it or keeps it.
    async fn take_new(&self, name: &str, needs_proof: bool, release_it: bool) {
        let lease_id = Uuid::new_v4();
        match self
            .send(Operation::Acquire, name, lease_id, needs_proof)
            .await
        {
            Outcome::Held { .. } => {}
            Outcome::Unknown => return,
            other => {
                return self.note_contradiction(format!(
                    "{name}: no other client wants it, and its outcome was {other:?}"
                ));
            }
        }
        if random_range(0..3) == 0 {
            self.send(Operation::Heartbeat, name, lease_id, needs_proof)
                .await;
        }
        if release_it {
            let began = Instant::now();
            let outcome = self
                .send(Operation::Release, name, lease_id, needs_proof)
                .await;
            if outcome == Outcome::Unknown
                && !needs_proof
                && began.elapsed() < EngineSettings::default().deadline
            {
                self.cut_off.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Takes a lock that many clients want, and releases it; repeats until the outcome is known.
    async fn take_contended(&self, name: &str) {
        let lease_id = Uuid::new_v4();
        let (outcome, doubted) = self
            .send_until_known(Operation::Acquire, name, lease_id)
            .await;
        if matches!(outcome, Outcome::Held { .. }) {
            if random_range(0..3) == 0 {
                self.send(Operation::Heartbeat, name, lease_id, true).await;
            }
        } else if !doubted {
            return;
        }
        self.send_until_known(Operation::Release, name, lease_id)
            .await;
    }

    /// Returns the outcome, and whether it was unknown at first.
    async fn send_until_known(
        &self,
        operation: Operation,
        name: &str,
        lease_id: Uuid,
    ) -> (Outcome, bool) {
        for tried in 0..TRIES {
            let outcome = self.send(operation, name, lease_id, true).await;
            if outcome != Outcome::Unknown {
                return (outcome, tried > 0);
            }
        }
        self.note_contradiction(format!("{name}: {operation:?} was unknown {TRIES} times"));
        (Outcome::Unknown, true)
    }

    /// Sends one request to either node, and records its outcome.
    async fn send(
        &self,
        operation: Operation,
        name: &str,
        lease_id: Uuid,
        needs_proof: bool,
    ) -> Outcome {
        let engine = &self.nodes[random_range(0..self.nodes.len())].engine;
        let proof = needs_proof.then_some(lease_id);
        let response = async {
            match operation {
                Operation::Acquire => {
                    let lease_ms = i32::try_from(LEASE.as_millis()).unwrap();
                    let request = Acquire {
                        needs_proof,
                        lease_ms,
                        ..acquire(ALICE, name, Some(lease_id))
                    };
                    match engine.acquire(request).await {
                        Ok(AcquireOutcome::Granted(lease)) => {
                            // A first grant ends its length after it was made. One that ends later
                            // was renewed by a repetition: by the engine's, where only one client
                            // wants the lock.
                            let length = lease.expires_at - lease.acquired_at;
                            let repeated = length
                                > TimeDelta::from_std(LEASE).unwrap() + TimeDelta::milliseconds(10);
                            if repeated && !name.starts_with("contended") {
                                self.found_again.fetch_add(1, Ordering::Relaxed);
                            }
                            self.held(name, lease_id, needs_proof, &lease)
                        }
                        Ok(AcquireOutcome::Held | AcquireOutcome::LimitConflict { .. }) => {
                            Outcome::Refused
                        }
                        Ok(AcquireOutcome::LeaseEnded) => Outcome::Lost,
                        Err(error) => unknown(error),
                    }
                }
                Operation::Heartbeat => match engine.heartbeat(heartbeat(ALICE, name, proof)).await
                {
                    Ok(HeartbeatOutcome::Renewed(lease)) => {
                        self.held(name, lease_id, needs_proof, &lease)
                    }
                    Ok(HeartbeatOutcome::Lost(_)) => Outcome::Lost,
                    Err(error) => unknown(error),
                },
                Operation::Release => {
                    let was_held = self.ends(lease_id, KnownEnd::InDoubt);
                    match engine.release(release(ALICE, name, proof)).await {
                        Ok(ReleaseOutcome::Released) => {
                            self.ends(lease_id, KnownEnd::Released);
                            self.received.send_modify(|count| *count += 1);
                            Outcome::Released
                        }
                        Ok(ReleaseOutcome::Lost(why)) => {
                            if was_held {
                                self.note_contradiction(format!(
                                    "{name}: lease {lease_id} was held, its release lost: {why:?}"
                                ));
                            }
                            Outcome::Lost
                        }
                        Err(error) => unknown(error),
                    }
                }
            }
        };
        self.history
            .record(Request::with_id(name, lease_id, operation), response)
            .await
    }

    fn held(&self, name: &str, lease_id: Uuid, needs_proof: bool, lease: &Lease) -> Outcome {
        let Lease {
            fencing_token,
            expires_at,
            ..
        } = *lease;
        if lease.lease_id != lease_id {
            self.note_contradiction(format!(
                "{name}: lease {lease_id} was requested, {} granted",
                lease.lease_id
            ));
        }
        let known = KnownLease {
            name: name.to_owned(),
            fencing_token,
            expires_at,
            needs_proof,
            end: KnownEnd::Kept,
        };
        self.leases.lock().unwrap().insert(lease_id, known);
        self.received.send_modify(|count| *count += 1);
        Outcome::Held { fencing_token }
    }

    /// Notes how far the end of a lease is. Returns whether its client knows that it was granted.
    fn ends(&self, lease_id: Uuid, end: KnownEnd) -> bool {
        self.leases
            .lock()
            .unwrap()
            .get_mut(&lease_id)
            .map(|known| known.end = end)
            .is_some()
    }

    fn note_contradiction(&self, contradiction: String) {
        self.contradictions.lock().unwrap().push(contradiction);
    }

    /// Every contradiction between the outcomes and the database as it is now, and among the
    /// outcomes themselves.
    pub(super) async fn contradictions(&self, db: &Database) -> Vec<String> {
        let mut wrong = std::mem::take(&mut *self.contradictions.lock().unwrap());
        // No lease lapses, so that no outage lengthens one.
        wrong.extend(self.history.violations(Rules::new(LEASE, Duration::ZERO)));
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT l.name, l.lease_id, l.fencing_token, l.expires_at, l.end_reason,
                    lease_is_live(l.expires_at, l.end_reason,
                        greatest(l.lease_ms, l.renewed_ms), c.recent_until,
                                  c.open_start, c.outage_start, c.outage_end, c.grace_ms) AS live
               FROM locks l CROSS JOIN lease_clock c",
        )
        .fetch_all(&db.pool)
        .await
        .unwrap();
        let rows: HashMap<&str, &Row> = rows.iter().map(|row| (row.name.as_str(), row)).collect();
        let remembered = sqlx::query_scalar(
            "SELECT lease_id FROM lease_ends WHERE reason = 1
              UNION SELECT lease_id FROM locks WHERE end_reason = 1 AND needs_proof",
        );
        let remembered: HashSet<Uuid> = remembered
            .fetch_all(&db.pool)
            .await
            .unwrap()
            .into_iter()
            .collect();
        let mut tokens = HashMap::new();
        for (lease_id, known) in &*self.leases.lock().unwrap() {
            let row = rows
                .get(known.name.as_str())
                .filter(|row| row.lease_id == *lease_id);
            let same = row.filter(|row| row.fencing_token == known.fencing_token);
            let taken_again = rows
                .get(known.name.as_str())
                .is_some_and(|row| row.fencing_token > known.fencing_token);
            let right = match known.end {
                KnownEnd::Kept => {
                    same.is_some_and(|row| row.live && row.expires_at >= known.expires_at)
                }
                KnownEnd::InDoubt => same.is_some(),
                KnownEnd::Released => {
                    (same.is_some_and(|row| row.end_reason == 1 && !row.live)
                        || row.is_none() && taken_again)
                        && (!known.needs_proof || remembered.contains(lease_id))
                }
            };
            if !right {
                wrong.push(format!("missing: lease {lease_id}, {known:?}"));
            }
            if let Some(other) = tokens.insert(known.fencing_token, lease_id) {
                wrong.push(format!(
                    "leases {other} and {lease_id} have the fencing token {}",
                    known.fencing_token
                ));
            }
        }
        wrong
    }
}
