//! A lane: the loop that sends what its queue holds to the database, delivers the outcomes, and
//! settles the batch with the queue.
//!
//! There is no timer. A request that finds the lane idle is sent at once and alone; the requests
//! that arrive while it is in flight are the next batch: one statement, one commit and one flush
//! for all of a kind in it. This is group commit (DeWitt et al., "Implementation techniques for
//! main memory database systems", 1984), carried up to the API.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use super::batch_statement::{BatchStatement, InsertIfAbsent};
use super::connection::{
    Backoff, LaneConnection, LaneConnections, Node, SendError, StatementResults,
};
use super::delivery::{
    Settlement, deliver_acquire, deliver_gate, deliver_heartbeat, deliver_locked_release,
    deliver_member_heartbeat, deliver_release,
};
use super::gate::GateRequest;
use super::prediction::InsertPredictor;
use super::queue::{Batch, Queue};
use super::request::{AnyRequest, LockRequest, LockedRelease, MemberHeartbeat, Pending};
use super::waiting::Waiting;
use crate::events::Recorder;
use crate::locks::usage::Usage;
use crate::locks::{Acquire, Heartbeat, LockKey, Release};

/// The time for which requests of a lock are isolated after one of them met a locked row.
const ISOLATED_FOR: Duration = Duration::from_secs(10);
/// The number of isolated requests in flight at once, in all lanes of a node; each has a connection
/// of its own.
pub(super) const MAX_ISOLATED: usize = 8;

/// One of an engine's lanes.
#[derive(Clone)]
pub(super) struct Lane {
    pub(super) queue: Arc<Queue>,
    pub(super) database: PgConnectOptions,
    pub(super) usage: Usage,
    pub(super) recorder: Recorder,
    pub(super) waiting: Arc<Waiting>,
    pub(super) largest_batch: usize,
    pub(super) isolation_permits: Arc<Semaphore>,
    pub(super) tasks: TaskTracker,
    pub(super) runtime: Handle,
}

/// The results of a batch, by kind of statement.
struct BatchResult {
    inserts: StatementResults<InsertIfAbsent>,
    acquires: StatementResults<Acquire>,
    heartbeats: StatementResults<Heartbeat>,
    member_heartbeats: StatementResults<MemberHeartbeat>,
    releases: StatementResults<Release>,
    locked_releases: StatementResults<LockedRelease>,
    gate_requests: StatementResults<GateRequest>,
}

impl BatchResult {
    /// True if any statement of the batch failed because the database was unreachable.
    fn is_unavailable(&self) -> bool {
        fn any<S: BatchStatement>(results: &StatementResults<S>) -> bool {
            results.iter().any(|transaction| {
                transaction
                    .result
                    .as_ref()
                    .is_err_and(SendError::is_unavailable)
            })
        }
        any(&self.inserts)
            || any(&self.acquires)
            || any(&self.heartbeats)
            || any(&self.member_heartbeats)
            || any(&self.releases)
            || any(&self.locked_releases)
            || any(&self.gate_requests)
    }

    /// The number of predicted inserts, and of those that met a row. Inserts without a result count
    /// as neither.
    fn predictions(&self) -> (usize, usize) {
        self.inserts
            .iter()
            .filter_map(|transaction| transaction.result.as_ref().ok())
            .flat_map(|executed| &executed.outcomes)
            .fold((0, 0), |(all, wrong), outcome| {
                (all + 1, wrong + usize::from(outcome.is_none()))
            })
    }
}

/// The state that a lane keeps from batch to batch.
#[derive(Default)]
struct LaneState {
    /// The locks whose rows were found locked, and when.
    contended: HashMap<LockKey, Instant>,
    predictor: InsertPredictor,
    backoff: Backoff,
}

impl Lane {
    /// Sends batches until the queue is closed and empty: as a task of the runtime, or, while the
    /// lane is crowded, on a thread of its own.
    pub(super) async fn run(self) {
        let mut connections = LaneConnections::default();
        let mut state = LaneState::default();
        connections.warm(&self.database).await;
        while let Some(batch) = self.queue.next_batch(self.largest_batch).await {
            if self.is_crowded() {
                state = self.run_on_own_thread(batch, state).await;
            } else {
                self.run_pipeline(batch, &mut connections, &mut state, || !self.is_crowded())
                    .await;
            }
        }
    }

    /// True if more requests wait than the next batch will take.
    fn is_crowded(&self) -> bool {
        self.queue.depth() > self.largest_batch
    }

    /// Sends this batch, and others for as long as requests wait behind them, on a thread of its
    /// own.
    ///
    /// A lane is one task among those of all connections. Where thousands of them are ready, its
    /// turn comes round too seldom: the database then waits for the lane, the queue stays full, and
    /// rejected clients that retry keep it so. A thread's turn does not depend on the number of
    /// tasks. It is not the rule because to wake a thread costs more than to wake a task.
    async fn run_on_own_thread(&self, batch: Batch, mut state: LaneState) -> LaneState {
        let lane = self.clone();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a thread has a runtime").block_on(async {
                let mut connections = LaneConnections::default();
                let mut next = Some(batch);
                while let Some(batch) = next {
                    lane.run_pipeline(batch, &mut connections, &mut state, || true)
                        .await;
                    next = match lane.queue.depth() {
                        0 => None,
                        _ => lane.queue.next_batch(lane.largest_batch).await,
                    };
                }
            });
            state
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(state) => state,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is about to end, and with it everything that could be answered.
            Err(_) => LaneState::default(),
        }
    }

    /// Sends a batch, and then others for as long as one is ready when the last one's result
    /// arrives and `keep_going` is true.
    ///
    /// This is a pipeline of two stages. The next batch is sent before the outcomes of the last one
    /// are delivered, so that the database works while the node delivers:
    ///
    /// ```text
    /// database   | batch 1 |      | batch 2 |           | batch 3 |
    /// lane       send 1    |send 2| deliver 1 |  wait   |send 3| deliver 2 | …
    /// ```
    ///
    /// No lock is in both batches: the queue hands out a lock's next request only once its last one
    /// is settled. To send without waiting, the future of the next batch is polled once by hand,
    /// which writes its statements to their sockets; it is awaited after the delivery.
    async fn run_pipeline(
        &self,
        first: Batch,
        connections: &mut LaneConnections,
        state: &mut LaneState,
        keep_going: impl Fn() -> bool,
    ) {
        let mut result = self
            .send_batch(self.prepare(first, state), connections)
            .await;
        loop {
            let (predicted, wrong) = result.predictions();
            state.predictor.learn(predicted, wrong);
            if result.is_unavailable() {
                self.deliver(result, state);
                return state.backoff.pause().await;
            }
            state.backoff.reset();
            let next = if keep_going() {
                self.queue.ready_batch(self.largest_batch)
            } else {
                None
            };
            let Some(next) = next else {
                return self.deliver(result, state);
            };
            let mut sending = pin!(self.send_batch(self.prepare(next, state), connections));
            let progress = futures_util::poll!(sending.as_mut());
            self.deliver(result, state);
            result = match progress {
                Poll::Ready(result) => result,
                Poll::Pending => sending.await,
            };
        }
    }

    /// Prepares a batch for its statements: isolates the requests of contended locks, and moves the
    /// acquires that are predicted to be inserts to `predicted_inserts`.
    fn prepare(&self, mut batch: Batch, state: &mut LaneState) -> Batch {
        metrics::histogram!("lockable_batch_size").record(batch.len() as f64);
        if !state.contended.is_empty() {
            batch = self.isolate_contended(batch, &mut state.contended);
        }
        batch.predicted_inserts = state.predictor.take_predicted_inserts(&mut batch.acquires);
        batch
    }

    fn node(&self) -> Node<'_> {
        Node {
            id: self.waiting.node_id(),
            database: &self.database,
        }
    }

    /// Executes a batch: each kind in a transaction of its own, all at the same time, but for the
    /// two kinds of heartbeat and of release, which share a connection.
    async fn send_batch(&self, batch: Batch, connections: &mut LaneConnections) -> BatchResult {
        let node = self.node();
        let (inserts, acquires, heartbeats, releases, gate_requests) = tokio::join!(
            connections
                .insert_if_absent
                .execute::<InsertIfAbsent>(node, batch.predicted_inserts),
            connections.acquire.execute::<Acquire>(node, batch.acquires),
            async {
                let connection = &mut connections.heartbeat;
                let of_locks = connection
                    .execute::<Heartbeat>(node, batch.heartbeats)
                    .await;
                let of_members = connection
                    .execute::<MemberHeartbeat>(node, batch.member_heartbeats)
                    .await;
                (of_locks, of_members)
            },
            async {
                let connection = &mut connections.release;
                let unlocked = connection.execute::<Release>(node, batch.releases).await;
                let locked = connection
                    .execute::<LockedRelease>(node, batch.locked_releases)
                    .await;
                (unlocked, locked)
            },
            connections
                .gate
                .execute::<GateRequest>(node, batch.gate_requests)
        );
        BatchResult {
            inserts,
            acquires,
            heartbeats: heartbeats.0,
            member_heartbeats: heartbeats.1,
            releases: releases.0,
            locked_releases: releases.1,
            gate_requests,
        }
    }

    /// Delivers the outcomes of a batch, and settles it with the queue.
    fn deliver(&self, result: BatchResult, state: &mut LaneState) {
        let mut settlement = Settlement::default();
        let usage = &self.usage;
        settlement.deliver(result.inserts, usage, deliver_acquire);
        let taken_over = settlement.deliver(result.acquires, usage, deliver_acquire);
        settlement.deliver(result.heartbeats, usage, deliver_heartbeat);
        let released = settlement.deliver(result.releases, usage, deliver_release);
        let locked = settlement.deliver(result.locked_releases, usage, deliver_locked_release);
        for ended in [taken_over, released, locked] {
            settlement.note(ended);
        }
        self.recorder.record(std::mem::take(&mut settlement.events));
        for request in std::mem::take(&mut settlement.contended) {
            state
                .contended
                .insert(request.key().clone(), Instant::now());
            match self.isolation_permit() {
                Some(permit) => self.send_isolated(request, permit),
                None => settlement.retries.push(request),
            }
        }
        self.deliver_runs(result.member_heartbeats, result.gate_requests, state);
        self.queue.settle(settlement.answered, settlement.retries);
        metrics::gauge!("lockable_lane_depth").set(self.queue.depth() as f64);
    }

    /// Delivers the outcomes of the kinds whose statements take several requests of one lock.
    fn deliver_runs(
        &self,
        member_heartbeats: StatementResults<MemberHeartbeat>,
        gate_requests: StatementResults<GateRequest>,
        state: &mut LaneState,
    ) {
        let mut settlement = Settlement::default();
        settlement.deliver(member_heartbeats, &self.usage, deliver_member_heartbeat);
        for news in settlement.deliver(gate_requests, &self.usage, deliver_gate) {
            self.waiting.apply(news);
        }
        self.recorder.record(std::mem::take(&mut settlement.events));
        for request in &settlement.contended {
            state
                .contended
                .insert(request.key().clone(), Instant::now());
        }
        settlement.retries.append(&mut settlement.contended);
        self.queue
            .settle_runs(settlement.answered, settlement.retries);
    }

    /// Takes requests of contended locks out of a batch, so that they hold up nobody else.
    fn isolate_contended(
        &self,
        mut batch: Batch,
        contended: &mut HashMap<LockKey, Instant>,
    ) -> Batch {
        contended.retain(|_, since| since.elapsed() < ISOLATED_FOR);
        batch.acquires = self.isolate_contended_of_kind(batch.acquires, contended);
        batch.heartbeats = self.isolate_contended_of_kind(batch.heartbeats, contended);
        batch.releases = self.isolate_contended_of_kind(batch.releases, contended);
        batch.locked_releases = self.isolate_contended_of_kind(batch.locked_releases, contended);
        batch.gate_requests = self.isolate_contended_gates(batch.gate_requests, contended);
        batch
    }

    fn isolate_contended_of_kind<R: LockRequest>(
        &self,
        requests: Vec<Pending<R>>,
        contended: &HashMap<LockKey, Instant>,
    ) -> Vec<Pending<R>> {
        let mut together = Vec::with_capacity(requests.len());
        for pending in requests {
            let is_contended = contended.contains_key(pending.request.key());
            // A request that finds too many isolated ones goes with the batch.
            match is_contended.then(|| self.isolation_permit()).flatten() {
                Some(permit) => self.send_isolated(R::into_any(pending), permit),
                None => together.push(pending),
            }
        }
        together
    }

    /// As [`Self::isolate_contended_of_kind`]: all requests of a gate together.
    fn isolate_contended_gates(
        &self,
        requests: Vec<Pending<GateRequest>>,
        contended: &HashMap<LockKey, Instant>,
    ) -> Vec<Pending<GateRequest>> {
        let mut together = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while let Some(first) = requests.next() {
            let key = first.request.key.clone();
            let mut run = vec![first];
            while let Some(next) = requests.next_if(|next| next.request.key == key) {
                run.push(next);
            }
            let is_contended = contended.contains_key(&key);
            match is_contended.then(|| self.isolation_permit()).flatten() {
                Some(permit) => self.send_isolated_run(run, permit),
                None => together.extend(run),
            }
        }
        together
    }

    fn isolation_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.isolation_permits).try_acquire_owned().ok()
    }

    /// Sends a request on a connection of its own, so that only requests of the same lock wait for
    /// it.
    fn send_isolated(&self, request: AnyRequest, permit: OwnedSemaphorePermit) {
        let lane = self.clone();
        let isolated = async move {
            let (node, usage) = (lane.node(), &lane.usage);
            let mut connection = LaneConnection::default();
            let mut settlement = Settlement::default();
            match request {
                AnyRequest::Acquire(pending) => {
                    let results = connection.execute::<Acquire>(node, vec![pending]).await;
                    let ended = settlement.deliver(results, usage, deliver_acquire);
                    settlement.note(ended);
                }
                AnyRequest::Heartbeat(pending) => {
                    let results = connection.execute::<Heartbeat>(node, vec![pending]).await;
                    settlement.deliver(results, usage, deliver_heartbeat);
                }
                AnyRequest::Release(pending) => {
                    let results = connection.execute::<Release>(node, vec![pending]).await;
                    let ended = settlement.deliver(results, usage, deliver_release);
                    settlement.note(ended);
                }
                AnyRequest::MemberHeartbeat(pending) => {
                    let results = connection
                        .execute::<MemberHeartbeat>(node, vec![pending])
                        .await;
                    settlement.deliver(results, usage, deliver_member_heartbeat);
                }
                AnyRequest::Gate(pending) => {
                    let results = connection.execute::<GateRequest>(node, vec![pending]).await;
                    for news in settlement.deliver(results, usage, deliver_gate) {
                        lane.waiting.apply(news);
                    }
                }
                AnyRequest::LockedRelease(pending) => {
                    let results = connection
                        .execute::<LockedRelease>(node, vec![pending])
                        .await;
                    let ended = settlement.deliver(results, usage, deliver_locked_release);
                    settlement.note(ended);
                }
            }
            lane.recorder.record(std::mem::take(&mut settlement.events));
            settlement.retries.append(&mut settlement.contended);
            lane.queue.settle(settlement.answered, settlement.retries);
            drop(permit);
        };
        // On the engine's runtime: the lane may be on a thread of its own, which may end before.
        self.tasks.spawn_on(isolated, &self.runtime);
    }

    /// Sends requests to one gate on a connection of their own.
    fn send_isolated_run(&self, run: Vec<Pending<GateRequest>>, permit: OwnedSemaphorePermit) {
        let lane = self.clone();
        let isolated = async move {
            let mut connection = LaneConnection::default();
            let results = connection.execute::<GateRequest>(lane.node(), run).await;
            let mut settlement = Settlement::default();
            for news in settlement.deliver(results, &lane.usage, deliver_gate) {
                lane.waiting.apply(news);
            }
            lane.recorder.record(std::mem::take(&mut settlement.events));
            settlement.retries.append(&mut settlement.contended);
            lane.queue
                .settle_runs(settlement.answered, settlement.retries);
            drop(permit);
        };
        self.tasks.spawn_on(isolated, &self.runtime);
    }
}
