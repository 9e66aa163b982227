//! A lane: sends what its queue holds to the database, as it comes together.
//!
//! There is no timer. A question that finds the lane idle goes out at once and alone; what arrives
//! while it is under way is the next batch: one statement, one commit and one flush for all of a
//! kind in it. This is group commit (DeWitt et al., "Implementation techniques for main memory
//! database systems", 1984), carried up to the API.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use super::answers::{AcquireNew, Kind, Statement, Tally};
use super::engine::EngineError;
use super::novelty::Novelty;
use super::queue::{Batch, Item, Pending, Question, Queue};
use super::usage::Usage;
use super::{Acquire, Heartbeat, LockKey, Release};
use crate::db;

/// After this, a statement's connection is given up and its outcome is unknown. The statement is
/// never cancelled: one that waits for a synchronous standby would then report success without
/// being durable.
const STATEMENT_GIVEN_UP_AFTER: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LONGEST_BACKOFF: Duration = Duration::from_millis(500);
/// A lock whose row was busy goes alone for this long: whoever keeps it busy keeps nobody else
/// waiting.
const ALONE_FOR: Duration = Duration::from_secs(10);
/// Questions that go alone at once, in all lanes of a node; each has a connection of its own.
pub(super) const ALONE_AT_ONCE: usize = 8;

/// One of an engine's lanes.
#[derive(Clone)]
pub(super) struct Lane {
    pub(super) queue: Arc<Queue>,
    pub(super) database: PgConnectOptions,
    pub(super) usage: Usage,
    pub(super) largest_batch: usize,
    pub(super) alone: Arc<Semaphore>,
    pub(super) tasks: TaskTracker,
    pub(super) runtime: Handle,
}

/// A connection that is kept, and opened again when it was lost.
#[derive(Default)]
struct Line(Option<PgConnection>);

impl Line {
    /// The connection, opened if there is none.
    async fn take(&mut self, database: &PgConnectOptions) -> sqlx::Result<PgConnection> {
        match self.0.take() {
            Some(connection) => Ok(connection),
            None => db::connect(database, db::Purpose::LockEngine).await,
        }
    }

    /// Opens it ahead of the first question. One that cannot be opened now is tried again by that
    /// question.
    async fn warm(&mut self, database: &PgConnectOptions) {
        self.0 = self.take(database).await.ok();
    }
}

type Outcomes<S> = Vec<Option<<<S as Statement>::Question as Question>::Outcome>>;

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

impl Failure {
    /// The database could not be reached, or went away.
    fn is_away(&self) -> bool {
        matches!(self, Self::NotSent | Self::InDoubt)
    }
}

/// What the database said to each part of what was sent: to all questions of a kind at once, or to
/// each by itself.
type Told<S> = Vec<(
    Vec<Pending<<S as Statement>::Question>>,
    Result<(Outcomes<S>, Duration), Failure>,
)>;

/// A batch as it is sent. Each kind has a line of its own: a batch has each lock once, so its kinds
/// cannot wait for each other.
struct Outgoing {
    acquires_new: Vec<Pending<Acquire>>,
    acquires: Vec<Pending<Acquire>>,
    heartbeats: Vec<Pending<Heartbeat>>,
    releases: Vec<Pending<Release>>,
}

/// What the database said to a batch.
struct Heard {
    acquires_new: Told<AcquireNew>,
    acquires: Told<Acquire>,
    heartbeats: Told<Heartbeat>,
    releases: Told<Release>,
}

impl Heard {
    /// To any of it: that the database could not be reached, or went away.
    fn is_away(&self) -> bool {
        fn any<Q, A>(told: &[(Q, Result<A, Failure>)]) -> bool {
            told.iter()
                .any(|(_, said)| said.as_ref().is_err_and(Failure::is_away))
        }
        any(&self.acquires_new)
            || any(&self.acquires)
            || any(&self.heartbeats)
            || any(&self.releases)
    }

    /// How many locks were taken for new, and how many of them wrongly. What the database said
    /// nothing to is neither.
    fn guesses(&self) -> (usize, usize) {
        let outcomes = self
            .acquires_new
            .iter()
            .filter_map(|(_, said)| said.as_ref().ok())
            .flat_map(|(all, _)| all);
        outcomes.fold((0, 0), |(all, wrong), outcome| {
            (all + 1, wrong + usize::from(outcome.is_none()))
        })
    }
}

/// A lane's connections.
#[derive(Default)]
struct Lines {
    acquires_new: Line,
    acquires: Line,
    heartbeats: Line,
    releases: Line,
}

impl Lines {
    async fn warm(&mut self, database: &PgConnectOptions) {
        tokio::join!(
            self.acquires.warm(database),
            self.acquires_new.warm(database),
            self.heartbeats.warm(database),
            self.releases.warm(database)
        );
    }
}

/// What a lane remembers of earlier batches.
#[derive(Default)]
struct Memory {
    /// Locks whose rows were busy, and when.
    busy: HashMap<LockKey, Instant>,
    novelty: Novelty,
    backoff: Option<Duration>,
}

impl Lane {
    /// Sends batches until the queue is closed and empty.
    pub(super) async fn run(self) {
        let mut lines = Lines::default();
        let mut memory = Memory::default();
        lines.warm(&self.database).await;
        while let Some(batch) = self.queue.next_batch(self.largest_batch).await {
            if self.is_crowded() {
                memory = self.run_aside(batch, memory).await;
            } else {
                self.work(batch, &mut lines, &mut memory, || !self.is_crowded())
                    .await;
            }
        }
    }

    /// More waits than the next batch will take.
    fn is_crowded(&self) -> bool {
        self.queue.depth() > self.largest_batch
    }

    /// Sends this batch, and others for as long as anything waits behind them, on a thread of its
    /// own.
    ///
    /// A lane is one task among those of all connections. Where thousands of them are ready, its
    /// turn comes round too seldom: the database then waits for the lane, the queue stays full, and
    /// refused clients that ask again keep it so. A thread's turn does not depend on how many tasks
    /// there are. It is not the rule because waking it costs more than waking a task.
    async fn run_aside(&self, batch: Batch, mut memory: Memory) -> Memory {
        let lane = self.clone();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a thread has a runtime").block_on(async {
                let mut lines = Lines::default();
                let mut next = Some(batch);
                while let Some(batch) = next {
                    lane.work(batch, &mut lines, &mut memory, || true).await;
                    next = match lane.queue.depth() {
                        0 => None,
                        _ => lane.queue.next_batch(lane.largest_batch).await,
                    };
                }
            });
            memory
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(memory) => memory,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is about to end, and with it everything that could be answered.
            Err(_) => Memory::default(),
        }
    }

    /// Sends a batch, and others for as long as they are ready when the one before was answered by
    /// the database, and `goes_on` says so.
    ///
    /// The next batch goes out before the answers of the last one are given: the database works on
    /// it meanwhile. A lock of the last one is not in the next, since the queue hands out what
    /// stands behind it only when its answer was given.
    async fn work(
        &self,
        first: Batch,
        lines: &mut Lines,
        memory: &mut Memory,
        goes_on: impl Fn() -> bool,
    ) {
        let mut heard = self.ask(self.prepare(first, memory), lines).await;
        loop {
            let (guessed, wrong) = heard.guesses();
            memory.novelty.learn(guessed, wrong);
            let away = heard.is_away();
            if away {
                self.give(heard, memory);
                return back_off(memory).await;
            }
            memory.backoff = None;
            let next = if goes_on() {
                self.queue.ready_batch(self.largest_batch)
            } else {
                None
            };
            let Some(next) = next else {
                return self.give(heard, memory);
            };
            let mut asking = pin!(self.ask(self.prepare(next, memory), lines));
            // Once, so that it is sent.
            let done = futures_util::poll!(asking.as_mut());
            self.give(heard, memory);
            heard = match done {
                Poll::Ready(heard) => heard,
                Poll::Pending => asking.await,
            };
        }
    }

    /// Divides a batch by what is sent.
    fn prepare(&self, batch: Batch, memory: &mut Memory) -> Outgoing {
        metrics::histogram!("lockable_batch_size").record(batch.len() as f64);
        let batch = if memory.busy.is_empty() {
            batch
        } else {
            self.set_apart(batch, &mut memory.busy)
        };
        let Batch {
            mut acquires,
            heartbeats,
            releases,
        } = batch;
        let acquires_new = memory.novelty.take_new(&mut acquires);
        Outgoing {
            acquires_new,
            acquires,
            heartbeats,
            releases,
        }
    }

    /// Asks the database.
    async fn ask(&self, batch: Outgoing, lines: &mut Lines) -> Heard {
        let (acquires_new, acquires, heartbeats, releases) = tokio::join!(
            self.execute::<AcquireNew>(&mut lines.acquires_new, batch.acquires_new),
            self.execute::<Acquire>(&mut lines.acquires, batch.acquires),
            self.execute::<Heartbeat>(&mut lines.heartbeats, batch.heartbeats),
            self.execute::<Release>(&mut lines.releases, batch.releases)
        );
        Heard {
            acquires_new,
            acquires,
            heartbeats,
            releases,
        }
    }

    /// Gives the answers; what has none goes back to the queue.
    fn give(&self, heard: Heard, memory: &mut Memory) {
        let mut left = Left::default();
        self.answer::<AcquireNew>(heard.acquires_new, &mut left);
        self.answer::<Acquire>(heard.acquires, &mut left);
        self.answer::<Heartbeat>(heard.heartbeats, &mut left);
        self.answer::<Release>(heard.releases, &mut left);
        for item in std::mem::take(&mut left.busy) {
            memory.busy.insert(item.key().clone(), Instant::now());
            match self.may_go_alone() {
                Some(permit) => self.send_alone(item, permit),
                None => left.again.push(item),
            }
        }
        self.queue.settle(left.answered, left.again);
        metrics::gauge!("lockable_lane_depth").set(self.queue.depth() as f64);
    }

    /// Takes out of a batch what would keep the rest of it waiting.
    fn set_apart(&self, mut batch: Batch, busy: &mut HashMap<LockKey, Instant>) -> Batch {
        busy.retain(|_, since| since.elapsed() < ALONE_FOR);
        batch.acquires = self.set_apart_of(batch.acquires, busy);
        batch.heartbeats = self.set_apart_of(batch.heartbeats, busy);
        batch.releases = self.set_apart_of(batch.releases, busy);
        batch
    }

    fn set_apart_of<Q: Kind>(
        &self,
        batch: Vec<Pending<Q>>,
        busy: &HashMap<LockKey, Instant>,
    ) -> Vec<Pending<Q>> {
        let mut together = Vec::with_capacity(batch.len());
        for pending in batch {
            // Where too many go alone already, it goes with the others.
            match busy
                .contains_key(pending.question.key())
                .then(|| self.may_go_alone())
                .flatten()
            {
                Some(permit) => self.send_alone(Q::into_item(pending), permit),
                None => together.push(pending),
            }
        }
        together
    }

    fn may_go_alone(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.alone).try_acquire_owned().ok()
    }

    /// Sends a question on a connection of its own, so that only those who ask for the same lock
    /// wait for it.
    fn send_alone(&self, item: Item, permit: OwnedSemaphorePermit) {
        let lane = self.clone();
        let alone = async move {
            let mut line = Line::default();
            let mut left = Left::default();
            match item {
                Item::Acquire(pending) => {
                    lane.answer::<Acquire>(
                        lane.execute::<Acquire>(&mut line, vec![pending]).await,
                        &mut left,
                    );
                }
                Item::Heartbeat(pending) => {
                    lane.answer::<Heartbeat>(
                        lane.execute::<Heartbeat>(&mut line, vec![pending]).await,
                        &mut left,
                    );
                }
                Item::Release(pending) => {
                    lane.answer::<Release>(
                        lane.execute::<Release>(&mut line, vec![pending]).await,
                        &mut left,
                    );
                }
            }
            left.again.append(&mut left.busy);
            lane.queue.settle(left.answered, left.again);
            drop(permit);
        };
        // Also where the lane is on a thread of its own, which may end before.
        self.tasks.spawn_on(alone, &self.runtime);
    }

    /// Asks the questions of one kind: all at once, or, where one of them spoils it for the others,
    /// one by one.
    async fn execute<S: Statement>(
        &self,
        line: &mut Line,
        batch: Vec<Pending<S::Question>>,
    ) -> Told<S> {
        if batch.is_empty() {
            return Vec::new();
        }
        match self.send::<S>(line, &batch).await {
            Err(Failure::Contention | Failure::Refused) if batch.len() > 1 => {
                let mut told = Vec::with_capacity(batch.len());
                let mut away = false;
                for pending in batch {
                    let one = vec![pending];
                    // Once the database has gone there is no use in asking it for each.
                    let said = if away {
                        Err(Failure::NotSent)
                    } else {
                        self.send::<S>(line, &one).await
                    };
                    away = said.as_ref().is_err_and(Failure::is_away);
                    told.push((one, said));
                }
                told
            }
            said => vec![(batch, said)],
        }
    }

    /// One statement, one commit.
    async fn send<S: Statement>(
        &self,
        line: &mut Line,
        batch: &[Pending<S::Question>],
    ) -> Result<(Outcomes<S>, Duration), Failure> {
        let mut connection = line.take(&self.database).await.map_err(|error| {
            tracing::warn!(%error, statement = S::NAME, questions = batch.len(), "no connection to the database");
            Failure::NotSent
        })?;
        let questions: Vec<&S::Question> = batch.iter().map(|pending| &pending.question).collect();
        let sent_at = Instant::now();
        let answer = tokio::time::timeout(
            STATEMENT_GIVEN_UP_AFTER,
            S::send(&mut connection, &questions),
        )
        .await;
        let took = sent_at.elapsed();
        metrics::histogram!("lockable_database_seconds", "statement" => S::NAME)
            .record(took.as_secs_f64());
        // Where the answer is lost, the connection is dropped without a word: whatever the
        // statement is doing, it is let do it.
        match answer {
            Ok(Ok(outcomes)) => {
                line.0 = Some(connection);
                Ok((outcomes, took))
            }
            Ok(Err(error)) if db::is_contention(&error) => {
                tracing::debug!(%error, statement = S::NAME, questions = batch.len(), "lost against other statements: again");
                line.0 = Some(connection);
                Err(Failure::Contention)
            }
            Ok(Err(error)) if db::is_unavailable(&error) => {
                tracing::warn!(%error, statement = S::NAME, questions = batch.len(), "the database's answer is lost");
                Err(Failure::InDoubt)
            }
            Ok(Err(error)) => {
                tracing::error!(%error, statement = S::NAME, questions = batch.len(), "the database refused a statement");
                line.0 = Some(connection);
                Err(Failure::Refused)
            }
            Err(_) => {
                tracing::warn!(
                    statement = S::NAME,
                    questions = batch.len(),
                    "the database does not answer: connection given up"
                );
                Err(Failure::InDoubt)
            }
        }
    }

    fn answer<S: Statement>(&self, told: Told<S>, left: &mut Left) {
        let mut tally = Tally::default();
        for (batch, said) in told {
            match said {
                Ok((outcomes, took)) => {
                    for (pending, outcome) in batch.into_iter().zip(outcomes) {
                        match outcome {
                            Some(outcome) => {
                                let key = pending.question.key().clone();
                                match S::Question::answer(
                                    pending,
                                    outcome,
                                    took,
                                    &self.usage,
                                    &mut tally,
                                ) {
                                    Some(item) => left.again.push(item),
                                    None => left.answered.push(key),
                                }
                            }
                            None => {
                                tally.add(S::UNANSWERED, 1);
                                again(pending, left);
                            }
                        }
                    }
                }
                Err(failure) => batch
                    .into_iter()
                    .for_each(|pending| failed(pending, &failure, left)),
            }
        }
        tally.count(S::Question::COUNTER);
    }
}

/// Never hammers a database that is coming back; jitter keeps the lanes of all nodes apart.
async fn back_off(memory: &mut Memory) {
    let backoff = memory.backoff.unwrap_or(FIRST_BACKOFF);
    tokio::time::sleep(backoff.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
    memory.backoff = Some((backoff * 2).min(LONGEST_BACKOFF));
}

fn failed<Q: Kind>(mut pending: Pending<Q>, failure: &Failure, left: &mut Left) {
    match failure {
        Failure::Refused => fail(pending, EngineError::Refused, left),
        Failure::Contention if Instant::now() < pending.deadline => {
            left.busy.push(Q::into_item(pending));
        }
        Failure::Contention => fail(pending, EngineError::Unknown, left),
        Failure::NotSent => again(pending, left),
        Failure::InDoubt => {
            pending.in_doubt = true;
            if pending.question.is_repeatable() {
                again(pending, left);
            } else {
                fail(pending, EngineError::Unknown, left);
            }
        }
    }
}

/// Once more, if whoever asked still waits for it by then.
fn again<Q: Kind>(pending: Pending<Q>, left: &mut Left) {
    if Instant::now() < pending.deadline {
        left.again.push(Q::into_item(pending));
    } else {
        fail(pending, EngineError::Unknown, left);
    }
}

fn fail<Q: Kind>(pending: Pending<Q>, error: EngineError, left: &mut Left) {
    match Q::give_back(&pending) {
        Some(item) => left.again.push(item),
        None => left.answered.push(pending.question.key().clone()),
    }
    pending.fail(error);
}

/// What is left to do after a batch.
#[derive(Default)]
struct Left {
    /// Locks whose questions were answered.
    answered: Vec<LockKey>,
    /// What could not be answered yet.
    again: Vec<Item>,
    /// What could not be answered because somebody keeps the row.
    busy: Vec<Item>,
}
