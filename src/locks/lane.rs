//! A lane: sends what its queue holds to the database, as it comes together.
//!
//! There is no timer. A question that finds the lane idle goes out at once and alone; what arrives while it is under way is the next
//! batch: one statement, one commit and one flush for all of a kind in it. This is group commit (DeWitt et al., "Implementation
//! techniques for main memory database systems", 1984), carried up to the API.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{PgConnection, PgPool};

use super::engine::EngineError;
use super::queue::{Batch, Item, Pending, Question, Queue};
use super::{Acquire, AcquireOutcome, Heartbeat, HeartbeatOutcome, Release, ReleaseOutcome, statements, usage::Usage};
use crate::db;

/// After this, a statement's connection is given up and its outcome is unknown. The statement is never cancelled: one that waits
/// for a synchronous standby would then report success without being durable.
const STATEMENT_GIVEN_UP_AFTER: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LONGEST_BACKOFF: Duration = Duration::from_millis(500);

/// One of an engine's lanes.
pub(super) struct Lane {
    pub(super) queue: Arc<Queue>,
    pub(super) pool: PgPool,
    pub(super) usage: Usage,
    pub(super) largest_batch: usize,
}

/// What became of a statement as a whole.
enum Failure {
    /// No connection: nothing was sent.
    NotSent,
    /// Sent, and no answer: anything may have happened.
    InDoubt,
    /// Rolled back because of others: again.
    Contention,
    /// Rolled back because of what was asked. A bug of ours, if it was one question.
    Refused,
}

/// A kind of question, as a lane sends and answers it.
trait Statement: Question + Sized {
    const KIND: &'static str;

    fn send(
        connection: &mut PgConnection,
        questions: &[&Self],
    ) -> impl Future<Output = sqlx::Result<Vec<Option<Self::Outcome>>>> + Send;

    /// Answers; returns what the engine then has to ask for itself.
    fn answer(pending: Pending<Self>, outcome: Self::Outcome, took: Duration, usage: &Usage) -> Option<Item>;

    fn into_item(pending: Pending<Self>) -> Item;
}

impl Lane {
    /// Sends batches until the queue is closed and empty.
    pub(super) async fn run(self) {
        let mut backoff = FIRST_BACKOFF;
        while let Some(batch) = self.queue.next_batch(self.largest_batch).await {
            metrics::histogram!("lockable_batch_size").record(batch.len() as f64);
            let Batch { acquires, heartbeats, releases } = batch;
            let (acquires, heartbeats, releases) =
                tokio::join!(self.execute(acquires), self.execute(heartbeats), self.execute(releases));
            let away = acquires.away || heartbeats.away || releases.away;
            let mut again = acquires.again;
            again.extend(heartbeats.again);
            again.extend(releases.again);
            self.queue.put_back(again);
            metrics::gauge!("lockable_lane_depth").set(self.queue.depth() as f64);
            if away {
                // Never hammer a database that is coming back; jitter keeps the lanes of all nodes apart.
                tokio::time::sleep(backoff.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
                backoff = (backoff * 2).min(LONGEST_BACKOFF);
            } else {
                backoff = FIRST_BACKOFF;
            }
        }
    }

    /// Asks the questions of one kind: all at once, or, where one of them spoils it for the others, one by one.
    async fn execute<Q: Statement>(&self, batch: Vec<Pending<Q>>) -> Leftover {
        let mut leftover = Leftover::default();
        if batch.is_empty() {
            return leftover;
        }
        let size = batch.len();
        match self.send(&batch).await {
            Ok((outcomes, took)) => self.answer(batch, outcomes, took, &mut leftover),
            Err(Failure::Contention | Failure::Refused) if size > 1 => {
                for pending in batch {
                    let one = [pending];
                    let result = self.send(&one).await;
                    let [pending] = one;
                    match result {
                        Ok((outcomes, took)) => self.answer(vec![pending], outcomes, took, &mut leftover),
                        Err(failure) => self.failed(pending, &failure, &mut leftover),
                    }
                }
            }
            Err(failure) => {
                for pending in batch {
                    self.failed(pending, &failure, &mut leftover);
                }
            }
        }
        leftover
    }

    /// One statement, one commit.
    async fn send<Q: Statement>(&self, batch: &[Pending<Q>]) -> Result<(Vec<Option<Q::Outcome>>, Duration), Failure> {
        let mut connection = self.pool.acquire().await.map_err(|error| {
            tracing::warn!(%error, kind = Q::KIND, questions = batch.len(), "no connection to the database");
            Failure::NotSent
        })?;
        let questions: Vec<&Q> = batch.iter().map(|pending| &pending.question).collect();
        let sent_at = Instant::now();
        let answer = tokio::time::timeout(STATEMENT_GIVEN_UP_AFTER, Q::send(&mut connection, &questions)).await;
        let took = sent_at.elapsed();
        metrics::histogram!("lockable_database_seconds", "statement" => Q::KIND).record(took.as_secs_f64());
        let failure = match answer {
            Ok(Ok(outcomes)) => return Ok((outcomes, took)),
            Ok(Err(error)) if db::is_contention(&error) => {
                tracing::debug!(%error, kind = Q::KIND, questions = batch.len(), "lost against other statements: again");
                return Err(Failure::Contention);
            }
            Ok(Err(error)) if db::is_unavailable(&error) => {
                tracing::warn!(%error, kind = Q::KIND, questions = batch.len(), "the database's answer is lost");
                Failure::InDoubt
            }
            Ok(Err(error)) => {
                tracing::error!(%error, kind = Q::KIND, questions = batch.len(), "the database refused a statement");
                return Err(Failure::Refused);
            }
            Err(_) => {
                tracing::warn!(
                    kind = Q::KIND,
                    questions = batch.len(),
                    "the database does not answer: connection given up"
                );
                Failure::InDoubt
            }
        };
        // Closed without a word: whatever the statement is doing, it is let do it.
        drop(connection.detach());
        Err(failure)
    }

    fn answer<Q: Statement>(
        &self,
        batch: Vec<Pending<Q>>,
        outcomes: Vec<Option<Q::Outcome>>,
        took: Duration,
        leftover: &mut Leftover,
    ) {
        for (pending, outcome) in batch.into_iter().zip(outcomes) {
            match outcome {
                Some(outcome) => leftover.again.extend(Q::answer(pending, outcome, took, &self.usage)),
                None => {
                    metrics::counter!("lockable_lost_races_total", "kind" => Q::KIND).increment(1);
                    self.again(pending, leftover);
                }
            }
        }
    }

    fn failed<Q: Statement>(&self, mut pending: Pending<Q>, failure: &Failure, leftover: &mut Leftover) {
        match failure {
            Failure::Refused => pending.fail(EngineError::Refused),
            Failure::Contention => self.again(pending, leftover),
            Failure::NotSent => {
                leftover.away = true;
                self.again(pending, leftover);
            }
            Failure::InDoubt => {
                leftover.away = true;
                pending.in_doubt = true;
                if pending.question.is_repeatable() {
                    self.again(pending, leftover);
                } else {
                    pending.fail(EngineError::Unknown);
                }
            }
        }
    }

    /// Once more, if whoever asked still waits for it by then.
    fn again<Q: Statement>(&self, pending: Pending<Q>, leftover: &mut Leftover) {
        if Instant::now() < pending.deadline {
            leftover.again.push(Q::into_item(pending));
        } else {
            pending.fail(EngineError::Unknown);
        }
    }
}

/// What could not be answered yet.
#[derive(Default)]
struct Leftover {
    again: Vec<Item>,
    /// The database could not be reached, or went away.
    away: bool,
}

/// Whether an answer comes so late that it says too little about the lease (DESIGN: half of it, on the node's monotonic clock).
fn too_late(took: Duration, lease_ms: i32) -> bool {
    took.as_millis() * 2 > lease_ms.unsigned_abs().into()
}

/// Gives the answer; or gives it back, where nobody waits for it any more.
fn reply<Q: Question>(pending: Pending<Q>, answer: Result<Q::Outcome, EngineError>) -> Result<(), Q> {
    match pending.reply.map(|reply| reply.send(answer)) {
        Some(Err(_)) => Err(pending.question),
        _ => Ok(()),
    }
}

impl Statement for Acquire {
    const KIND: &'static str = "acquire";

    async fn send(connection: &mut PgConnection, questions: &[&Self]) -> sqlx::Result<Vec<Option<Self::Outcome>>> {
        statements::acquire(connection, questions).await
    }

    fn answer(mut pending: Pending<Self>, outcome: AcquireOutcome, took: Duration, usage: &Usage) -> Option<Item> {
        let result = match &outcome {
            AcquireOutcome::Granted(_) => "granted",
            AcquireOutcome::Held => "held",
            AcquireOutcome::LeaseEnded => "lease_ended",
        };
        metrics::counter!("lockable_acquires_total", "outcome" => result).increment(1);
        for follower in std::mem::take(&mut pending.followers) {
            metrics::counter!("lockable_acquires_total", "outcome" => "held").increment(1);
            let _ = follower.send(Ok(AcquireOutcome::Held));
        }
        let AcquireOutcome::Granted(lease) = outcome else {
            let _ = reply(pending, Ok(outcome));
            return None;
        };
        usage.granted(pending.question.account_id);
        let deadline = pending.deadline;
        // Whoever asked without an id of their own cannot ask for it again: a grant that they do not hear of is given back.
        let give_back = (!pending.question.needs_proof).then(|| Release {
            key: pending.question.key.clone(),
            account_id: pending.question.account_id,
            lease_id: Some(lease.lease_id),
        });
        let heard = if too_late(took, lease.expires_in_ms) {
            let _ = reply(pending, Err(EngineError::Unknown));
            false
        } else {
            reply(pending, Ok(AcquireOutcome::Granted(lease))).is_ok()
        };
        if heard {
            return None;
        }
        give_back.map(|question| Item::Release(Pending::new(question, None, deadline)))
    }

    fn into_item(pending: Pending<Self>) -> Item {
        Item::Acquire(pending)
    }
}

impl Statement for Heartbeat {
    const KIND: &'static str = "heartbeat";

    async fn send(connection: &mut PgConnection, questions: &[&Self]) -> sqlx::Result<Vec<Option<Self::Outcome>>> {
        statements::heartbeat(connection, questions).await
    }

    fn answer(pending: Pending<Self>, outcome: HeartbeatOutcome, took: Duration, _: &Usage) -> Option<Item> {
        let (result, answer) = match outcome {
            HeartbeatOutcome::Renewed(lease) if too_late(took, lease.expires_in_ms) => {
                ("late", Err(EngineError::Unknown))
            }
            HeartbeatOutcome::Renewed(_) => ("renewed", Ok(outcome)),
            HeartbeatOutcome::Lost(_) => ("lost", Ok(outcome)),
        };
        metrics::counter!("lockable_heartbeats_total", "outcome" => result).increment(1);
        let _ = reply(pending, answer);
        None
    }

    fn into_item(pending: Pending<Self>) -> Item {
        Item::Heartbeat(pending)
    }
}

impl Statement for Release {
    const KIND: &'static str = "release";

    async fn send(connection: &mut PgConnection, questions: &[&Self]) -> sqlx::Result<Vec<Option<Self::Outcome>>> {
        statements::release(connection, questions).await
    }

    fn answer(pending: Pending<Self>, outcome: ReleaseOutcome, _: Duration, usage: &Usage) -> Option<Item> {
        let result = match outcome {
            ReleaseOutcome::Released => "released",
            ReleaseOutcome::Lost(_) => "lost",
        };
        metrics::counter!("lockable_releases_total", "outcome" => result).increment(1);
        usage.ended(pending.question.account_id);
        let _ = reply(pending, Ok(outcome));
        None
    }

    fn into_item(pending: Pending<Self>) -> Item {
        Item::Release(pending)
    }
}
