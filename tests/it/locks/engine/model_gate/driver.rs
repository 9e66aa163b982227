//! Performs operations on the engine, and keeps the models that explain all outcomes so far.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lockable::locks::{
    Acquire, AcquireOutcome, Engine, EngineError, HeartbeatOutcome, Lease, LeasesToBreak, Mode,
    ReleaseOutcome,
};
use sqlx::AssertSqlSafe;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::model::Model;
use super::{LOCKS, MAX_HOLD_MS, Op, Seen, Wait};
use crate::support::node::{acquire, heartbeat, key, release};
use crate::support::prelude::*;
use crate::support::wait::DEADLINE;

type Answer = JoinHandle<Result<AcquireOutcome, EngineError>>;

const LEASE_MS: i32 = 60_000;
const SHORT_WAIT_MS: i32 = 40;

/// A request that waits.
struct Waiter {
    answer: Answer,
    /// Selects its ticket, until it is detached.
    ticket: String,
}

pub(super) struct Driver<'a> {
    db: &'a Database,
    engine: &'a Engine,
    waiters: BTreeMap<usize, Waiter>,
    /// All models that explain what was seen: requests in flight at the same time may have been
    /// decided in any order.
    models: Vec<Model>,
    seen: Vec<(Op, Seen)>,
}

impl Driver<'_> {
    /// Runs operations in bursts of these sizes. Fails with the story if no model explains it.
    pub(super) async fn run(
        db: &Database,
        engine: &Engine,
        ops: &[Op],
        sizes: &[usize],
    ) -> Result<(), String> {
        db.execute("TRUNCATE locks, lease_ends, lock_tickets, lock_members")
            .await;
        let mut driver = Driver {
            db,
            engine,
            waiters: BTreeMap::new(),
            models: vec![Model::default()],
            seen: Vec::new(),
        };
        let mut sizes = sizes.iter().cycle();
        let mut rest = ops;
        let mut outcome = Ok(());
        while !rest.is_empty() && outcome.is_ok() {
            let burst = driver.burst(rest, *sizes.next().unwrap());
            let first = ops.len() - rest.len();
            rest = &rest[burst..];
            outcome = driver.perform(&ops[first..first + burst], first).await;
        }
        driver.leave_all().await;
        outcome.map_err(|what| format!("{what} after {:#?}", driver.seen))
    }

    /// The number of operations that go together next. Those about a request that waits go alone:
    /// its answer and theirs would cross.
    fn burst(&self, rest: &[Op], size: usize) -> usize {
        let goes_alone = |op: &Op| {
            let waits = |model: &Model| {
                let waiters = model.waiters();
                waiters
                    .iter()
                    .any(|(_, owner, lock)| op.owner() == Some(*owner) && op.lock() == Some(*lock))
            };
            !op.may_share_a_burst() || self.models.iter().any(waits)
        };
        let joins = |op: &Op| {
            matches!(
                op,
                Op::Acquire {
                    wait: Wait::Long,
                    ..
                }
            )
        };
        let mut burst = 0;
        for op in rest.iter().take(size) {
            // One that joins the line may be granted before the next one of its burst arrives.
            let clashes = rest[..burst].iter().any(|other| {
                op.owner() == other.owner()
                    && op.lock() == other.lock()
                    && (joins(op) || joins(other))
            });
            if burst > 0 && (goes_alone(op) || clashes) {
                break;
            }
            burst += 1;
            if goes_alone(op) {
                break;
            }
        }
        burst
    }

    async fn perform(&mut self, burst: &[Op], first: usize) -> Result<(), String> {
        let mut outcomes = Vec::new();
        if let [Op::HangUp { which }] = burst {
            self.hang_up(*which).await;
            outcomes.push(Seen::Done);
        } else {
            let calls = burst.iter().map(|op| self.call(op));
            for (at, (seen, waiter)) in join_all(calls).await.into_iter().enumerate() {
                outcomes.push(seen);
                if let Some(waiter) = waiter {
                    self.waiters.insert(first + at, waiter);
                }
            }
        }
        self.seen
            .extend(burst.iter().copied().zip(outcomes.iter().copied()));
        let mut models: Vec<Model> = Vec::new();
        for order in orders(burst.len()) {
            for model in &self.models {
                let mut model = model.clone();
                let is_right = order
                    .iter()
                    .all(|at| model.apply(&burst[*at], first + at, outcomes[*at]));
                if is_right && !models.contains(&model) {
                    models.push(model);
                }
            }
        }
        if models.is_empty() {
            return Err(format!("no model has {:?}", self.seen.last()));
        }
        self.models = models;
        self.settle().await
    }

    /// Waits until all that was handed over was answered, and nothing else was.
    async fn settle(&mut self) -> Result<(), String> {
        let started = Instant::now();
        let mut answered = BTreeMap::new();
        loop {
            let claims = "SELECT count(*) FROM lock_tickets WHERE claim_token IS NOT NULL";
            let is_quiet = self.db.value::<i64>(claims).await == 0;
            let finished: Vec<usize> = self
                .waiters
                .iter()
                .filter(|(_, waiter)| waiter.answer.is_finished())
                .map(|(number, _)| *number)
                .collect();
            for number in finished {
                let waiter = self.waiters.remove(&number).unwrap();
                answered.insert(number, seen(waiter.answer.await.unwrap()));
            }
            let settled: Vec<Model> = self
                .models
                .iter()
                .cloned()
                .filter_map(|mut model| model.settle(&answered).then_some(model))
                .collect();
            if is_quiet && !settled.is_empty() {
                self.models = settled;
                return Ok(());
            }
            if started.elapsed() > DEADLINE / 3 {
                let expected = self.models.iter().any(Model::expects_answers);
                return Err(format!(
                    "those who waited were answered {answered:?}, others expected: {expected}"
                ));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Lets the client of a request go away, and waits until the engine has noticed.
    async fn hang_up(&mut self, which: usize) {
        let Some(number) = self.waiters.keys().nth(which).copied() else {
            return;
        };
        let waiter = self.waiters.remove(&number).unwrap();
        waiter.answer.abort();
        let waits = format!("SELECT count(*) FROM lock_tickets WHERE {}", waiter.ticket);
        eventually("the waiter has left", async || {
            (self.db.value::<i64>(&waits).await == 0).then_some(())
        })
        .await;
        for model in &mut self.models {
            model.leave(number);
        }
    }

    /// Nobody is left for the next run.
    async fn leave_all(&mut self) {
        for (_, waiter) in std::mem::take(&mut self.waiters) {
            waiter.answer.abort();
            let _ = waiter.answer.await;
        }
        eventually("all have left", async || {
            let tickets = "SELECT count(*) FROM lock_tickets WHERE NOT is_detached";
            (self.db.value::<i64>(tickets).await == 0).then_some(())
        })
        .await;
    }

    /// Performs an operation. An acquire that waits is returned beside its outcome.
    async fn call(&self, op: &Op) -> (Seen, Option<Waiter>) {
        let id = |id: Option<u128>| id.map(Uuid::from_u128);
        let outcome = match *op {
            Op::Acquire { .. } => return self.acquire(op).await,
            Op::Heartbeat {
                account,
                lock,
                id: lease,
            } => match self
                .engine
                .heartbeat(heartbeat(account, LOCKS[lock], id(lease)))
                .await
            {
                Ok(HeartbeatOutcome::Renewed(lease)) => {
                    assert_length(&lease, None);
                    Seen::Renewed {
                        token: lease.fencing_token,
                    }
                }
                Ok(HeartbeatOutcome::Lost(_)) => Seen::Lost,
                Err(error) => panic!("{op:?}: {error}"),
            },
            Op::Release {
                account,
                lock,
                id: lease,
            } => match self
                .engine
                .release(release(account, LOCKS[lock], id(lease)))
                .await
            {
                Ok(ReleaseOutcome::Released) => Seen::Released,
                Ok(ReleaseOutcome::Lost(_)) => Seen::Lost,
                Err(error) => panic!("{op:?}: {error}"),
            },
            Op::Break { lock } => {
                let all = LeasesToBreak {
                    account_id: None,
                    lease_id: None,
                    fencing_token: None,
                };
                let broken = self.engine.break_leases(key(LOCKS[lock]), all).await;
                Seen::Broken {
                    leases: broken.unwrap().len(),
                }
            }
            Op::Lapse { lock } => {
                let name = LOCKS[lock];
                for rows in ["locks", "lock_members"] {
                    self.db
                        .execute(&format!(
                            "UPDATE {rows} SET expires_at = '2000-01-01'
                              WHERE name = '{name}' AND end_reason = 0 AND account_id <> 0"
                        ))
                        .await;
                }
                self.engine.advance(key(name)).await.unwrap();
                Seen::Done
            }
            Op::HangUp { .. } => unreachable!("goes alone"),
        };
        (outcome, None)
    }

    async fn acquire(&self, op: &Op) -> (Seen, Option<Waiter>) {
        let Op::Acquire {
            account,
            lock,
            id,
            mode,
            wait,
            has_hold_limit,
        } = *op
        else {
            unreachable!("asked with acquires only")
        };
        let max_hold_ms = has_hold_limit.then_some(MAX_HOLD_MS);
        let request = Acquire {
            mode,
            max_hold_ms,
            wait_ms: match wait {
                Wait::No => 0,
                Wait::Short => SHORT_WAIT_MS,
                Wait::Long => 60_000,
            },
            ..acquire(account, LOCKS[lock], id.map(Uuid::from_u128))
        };
        let ticket = format!(
            "lease_id = '{}' AND account_id = {account} AND name = '{}' AND NOT is_detached",
            request.lease_id, LOCKS[lock]
        );
        let attachment = format!("SELECT max(attachment) FROM lock_tickets WHERE {ticket}");
        let attached = async || {
            sqlx::query_scalar::<_, Option<i64>>(AssertSqlSafe(attachment.clone()))
                .fetch_one(&self.db.pool)
                .await
                .unwrap()
        };
        let before = attached().await;
        let engine = self.engine.clone();
        let answer = tokio::spawn(async move { engine.acquire(request).await });
        if wait == Wait::Long {
            let joined = eventually("it is answered, or waits", async || {
                if answer.is_finished() {
                    return Some(false);
                }
                let now = attached().await;
                (now.is_some() && now != before).then_some(true)
            });
            if joined.await {
                return (Seen::Waits, Some(Waiter { answer, ticket }));
            }
        }
        let outcome = answer.await.unwrap();
        if let Ok(AcquireOutcome::Granted(lease)) = &outcome {
            assert_eq!(lease.mode, mode);
            assert_length(lease, max_hold_ms);
        }
        (seen(outcome), None)
    }
}

/// A lease lasts its full length or to its hold limit.
#[track_caller]
fn assert_length(lease: &Lease, max_hold_ms: Option<i32>) {
    let limit = lease.max_hold_ms.unwrap_or(LEASE_MS);
    assert!(
        lease.lease_ms == LEASE_MS && lease.expires_in_ms <= limit.min(LEASE_MS),
        "{lease:?}"
    );
    if max_hold_ms.is_none() && lease.max_hold_ms.is_none() {
        assert_eq!(lease.expires_in_ms, LEASE_MS, "{lease:?}");
    }
}

fn seen(outcome: Result<AcquireOutcome, EngineError>) -> Seen {
    match outcome {
        Ok(AcquireOutcome::Granted(lease)) => {
            let is_permit = matches!(lease.mode, Mode::Semaphore { .. });
            assert_eq!(lease.slot.is_some(), is_permit, "{lease:?}");
            Seen::Granted {
                token: lease.fencing_token,
                slot: lease.slot,
            }
        }
        Ok(AcquireOutcome::Held) => Seen::Held,
        Ok(AcquireOutcome::LimitConflict { .. }) => Seen::Conflict,
        Ok(AcquireOutcome::LeaseEnded) => Seen::Ended,
        Err(EngineError::Replaced) => Seen::Replaced,
        Err(error) => panic!("{error}"),
    }
}

/// The orders in which so many requests can be decided.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![vec![]];
    }
    let shorter = orders(count - 1);
    let with_last = |order: &Vec<usize>| {
        let order = order.clone();
        (0..count).map(move |at| {
            let mut order = order.clone();
            order.insert(at, count - 1);
            order
        })
    };
    shorter.iter().flat_map(with_last).collect()
}
