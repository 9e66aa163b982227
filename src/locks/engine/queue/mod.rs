//! The queue of a lane: bounded, fair between accounts, in order for each lock. Pure: no I/O.

mod backlog;

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use self::backlog::KeyBacklog;
use super::gate::GateRequest;
use super::request::{AnyRequest, LockRequest as _, LockedRelease, MemberHeartbeat, Pending};
use crate::id::AccountId;
use crate::locks::{Acquire, EngineError, Heartbeat, LockKey, Release};

/// A request this close to its deadline is not sent any more: it would be answered as unknown, and
/// the deadline of one request bounds the statement of its whole batch.
const TOO_CLOSE_TO_DEADLINE: Duration = Duration::from_millis(20);

/// Requests that are sent together. Each lock occurs in one kind only, so that statements of
/// different kinds cannot touch the same row; and once, but for a run of requests to its gate or of
/// heartbeats of its permits, which are in the order of their arrival. The requests of each kind
/// are in key order.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Acquires of locks that are predicted to have no row. The queue leaves this empty; the lane
    /// moves them here from `acquires`.
    pub(super) predicted_inserts: Vec<Pending<Acquire>>,
    pub(super) acquires: Vec<Pending<Acquire>>,
    pub(super) heartbeats: Vec<Pending<Heartbeat>>,
    pub(super) member_heartbeats: Vec<Pending<MemberHeartbeat>>,
    pub(super) releases: Vec<Pending<Release>>,
    pub(super) locked_releases: Vec<Pending<LockedRelease>>,
    pub(super) gate_requests: Vec<Pending<GateRequest>>,
}

impl Batch {
    /// The number of requests, followers not counted.
    pub(super) fn len(&self) -> usize {
        self.predicted_inserts.len()
            + self.acquires.len()
            + self.heartbeats.len()
            + self.member_heartbeats.len()
            + self.releases.len()
            + self.locked_releases.len()
            + self.gate_requests.len()
    }

    fn push(&mut self, request: AnyRequest) {
        match request {
            AnyRequest::Acquire(pending) => self.acquires.push(pending),
            AnyRequest::Heartbeat(pending) => self.heartbeats.push(pending),
            AnyRequest::MemberHeartbeat(pending) => self.member_heartbeats.push(pending),
            AnyRequest::Release(pending) => self.releases.push(pending),
            AnyRequest::LockedRelease(pending) => self.locked_releases.push(pending),
            AnyRequest::Gate(pending) => self.gate_requests.push(pending),
        }
    }

    fn sort(&mut self) {
        self.acquires
            .sort_unstable_by(|a, b| a.request.key.cmp(&b.request.key));
        self.heartbeats
            .sort_unstable_by(|a, b| a.request.key.cmp(&b.request.key));
        self.releases
            .sort_unstable_by(|a, b| a.request.key.cmp(&b.request.key));
        self.locked_releases
            .sort_unstable_by(|a, b| a.request.key.cmp(&b.request.key));
        // Stable: runs stay in the order of their arrival.
        self.member_heartbeats
            .sort_by(|a, b| a.request.key.cmp(&b.request.key));
        self.gate_requests
            .sort_by(|a, b| a.request.key.cmp(&b.request.key));
    }
}

/// The queue of a lane. An operation holds its mutex only while it moves requests from one
/// collection to another.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    /// Wakes the lane: a request arrived, a batch was settled, or the queue was closed.
    changed: Notify,
    capacity: usize,
}

/// At most one request of a lock is ready or in flight; the lock's other requests are in its
/// backlog, in order.
#[derive(Debug, Default)]
struct QueueState {
    ready: VecDeque<AnyRequest>,
    /// The backlog of each lock that has a request ready or in flight.
    backlogs: HashMap<LockKey, KeyBacklog>,
    /// The number of requests that wait, ready or in a backlog.
    waiting: usize,
    waiting_by_account: HashMap<AccountId, usize>,
    is_closed: bool,
}

/// The queue of each lane.
#[derive(Clone, Debug)]
pub(super) struct Queues(Arc<[Arc<Queue>]>);

impl Queues {
    pub(super) fn new(queues: impl Iterator<Item = Queue>) -> Self {
        Self(queues.map(Arc::new).collect())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.0.iter()
    }

    /// The queue of the lane that has all requests of this lock.
    pub(super) fn for_key(&self, key: &LockKey) -> &Queue {
        let at = if self.0.len() == 1 {
            0
        } else {
            let mut hasher = DefaultHasher::new();
            key.hash(&mut hasher);
            usize::try_from(hasher.finish() % self.0.len() as u64).unwrap_or(0)
        };
        &self.0[at]
    }
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            capacity,
        }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts a request, or rejects it at once: in a full queue it would wait longer than a client
    /// that retries. No account may fill more than a quarter of the queue.
    pub(super) fn push(&self, request: AnyRequest) {
        self.push_all([request]);
    }

    /// As [`Self::push`], of several requests: no batch is taken between them.
    pub(super) fn push_all(&self, requests: impl IntoIterator<Item = AnyRequest>) {
        let mut rejected = Vec::new();
        {
            let mut state = self.state();
            for request in requests {
                let of_account = state
                    .waiting_by_account
                    .get(&request.account_id())
                    .copied()
                    .unwrap_or(0);
                if state.is_closed {
                    rejected.push((request, EngineError::ShuttingDown));
                } else if state.waiting >= self.capacity || of_account >= self.capacity.div_ceil(4)
                {
                    rejected.push((request, EngineError::Overloaded));
                } else {
                    state.add(request);
                }
            }
        }
        self.changed.notify_one();
        for (request, error) in rejected {
            request.reject(error);
        }
    }

    /// True if the queue would accept a request of an account that has few requests in it.
    pub(super) fn has_room(&self) -> bool {
        self.depth() < self.capacity
    }

    /// True if a request of this lock waits or is in flight.
    pub(super) fn is_busy(&self, key: &LockKey) -> bool {
        self.state().backlogs.contains_key(key)
    }

    /// The number of requests that wait.
    pub(super) fn depth(&self) -> usize {
        self.state().waiting
    }

    /// Rejects every further request; what was accepted is still handed out.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.changed.notify_one();
    }

    /// Waits until requests are ready, and takes at most `limit` of them. `None` once the queue is
    /// closed and empty.
    pub(super) async fn next_batch(&self, limit: usize) -> Option<Batch> {
        loop {
            {
                let mut state = self.state();
                let batch = state.take_batch(limit);
                if batch.len() > 0 {
                    return Some(batch);
                }
                // A lock has a backlog, if an empty one, while a request of it is in flight: that
                // request may come back to be retried.
                if state.is_closed && state.waiting == 0 && state.backlogs.is_empty() {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    /// Takes at most `limit` requests that are ready now; `None` if none is.
    pub(super) fn ready_batch(&self, limit: usize) -> Option<Batch> {
        let batch = self.state().take_batch(limit);
        (batch.len() > 0).then_some(batch)
    }

    /// Completes a batch: makes the next request of each lock in `answered` ready, and puts the
    /// requests in `retries` at the head of the queue. Each lock is in one of them, once.
    pub(super) fn settle(&self, answered: Vec<LockKey>, retries: Vec<AnyRequest>) {
        let mut state = self.state();
        for key in answered {
            state.advance(key);
        }
        for request in retries.into_iter().rev() {
            state.count(request.account_id());
            state.ready.push_front(request);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// As [`Self::settle`], of requests that were sent in runs: a lock may be in both of them, and
    /// several times.
    pub(super) fn settle_runs(&self, answered: Vec<LockKey>, retries: Vec<AnyRequest>) {
        if answered.is_empty() && retries.is_empty() {
            return;
        }
        let mut runs: HashMap<LockKey, Vec<AnyRequest>> = HashMap::new();
        for key in answered {
            runs.entry(key).or_default();
        }
        for request in retries {
            runs.entry(request.key().clone()).or_default().push(request);
        }
        let mut state = self.state();
        for (key, retries) in runs {
            for request in &retries {
                state.count(request.account_id());
            }
            let mut retries = retries.into_iter();
            match retries.next() {
                None => state.advance(key),
                Some(first) => {
                    state.ready.push_front(first);
                    let behind = retries.collect();
                    state.backlogs.entry(key).or_default().push_front(behind);
                }
            }
        }
        drop(state);
        self.changed.notify_one();
    }
}

impl QueueState {
    /// Makes the request ready, or puts it into the backlog of its lock.
    fn add(&mut self, request: AnyRequest) {
        self.count(request.account_id());
        match self.backlogs.get_mut(request.key()) {
            Some(backlog) => backlog.push(request),
            None => {
                self.backlogs
                    .insert(request.key().clone(), KeyBacklog::default());
                self.ready.push_back(request);
            }
        }
    }

    /// Takes requests that are ready. Those that come too late or that nobody waits for any more
    /// are rejected instead, and compensated if they may have been executed.
    fn take_batch(&mut self, limit: usize) -> Batch {
        let mut batch = Batch::default();
        let too_late = Instant::now() + TOO_CLOSE_TO_DEADLINE;
        while batch.len() < limit {
            let Some(mut request) = self.ready.pop_front() else {
                break;
            };
            self.uncount(request.account_id());
            if request.is_plain_acquire()
                && let AnyRequest::Acquire(first) = &mut request
            {
                self.take_followers(first);
            }
            if is_wanted(&request, too_late) {
                if request.is_in_runs() {
                    for request in self.take_run(request, limit - batch.len(), too_late) {
                        batch.push(request);
                    }
                } else {
                    batch.push(request);
                }
                continue;
            }
            match request.queued().compensating_release() {
                Some(release) => batch.push(release),
                None => self.advance(request.key().clone()),
            }
            request.reject(EngineError::Unknown);
        }
        batch.sort();
        batch
    }

    /// The request, and those directly behind it that may be decided in its transaction, at most
    /// `limit` in all: a crowd that joins one line is one commit.
    fn take_run(&mut self, first: AnyRequest, limit: usize, too_late: Instant) -> Vec<AnyRequest> {
        let key = first.key().clone();
        let mut run = vec![first];
        while run.len() < limit
            && let Some(next) = self
                .backlogs
                .get_mut(&key)
                .and_then(|backlog| backlog.pop_to_join(&run))
        {
            self.uncount(next.account_id());
            if is_wanted(&next, too_late) {
                run.push(next);
            } else {
                run.extend(next.queued().compensating_release());
                next.reject(EngineError::Unknown);
            }
        }
        run
    }

    /// Makes the plain acquires that stand directly behind a plain acquire, which is about to be
    /// sent, its followers. With its outcome they are answered `held`: whether it is granted or
    /// not, a lease then holds the lock, and they arrived before that was decided.
    fn take_followers(&mut self, first: &mut Pending<Acquire>) {
        if self.waiting == self.ready.len() {
            return; // No lock has a backlog.
        }
        let Some(backlog) = self.backlogs.get_mut(first.request.key()) else {
            return;
        };
        for next in backlog.take_plain_acquires() {
            self.uncount(next.request.account_id);
            first
                .followers
                .extend(next.reply.into_iter().chain(next.followers));
        }
    }

    /// Makes the lock's next request ready, if there is one.
    fn advance(&mut self, key: LockKey) {
        if let Entry::Occupied(mut backlog) = self.backlogs.entry(key) {
            match backlog.get_mut().pop() {
                Some(next) => self.ready.push_back(next),
                None => drop(backlog.remove()),
            }
        }
    }

    fn count(&mut self, account_id: AccountId) {
        self.waiting += 1;
        *self.waiting_by_account.entry(account_id).or_default() += 1;
    }

    fn uncount(&mut self, account_id: AccountId) {
        self.waiting -= 1;
        if let Some(waiting) = self.waiting_by_account.get_mut(&account_id) {
            *waiting -= 1;
            if *waiting == 0 {
                self.waiting_by_account.remove(&account_id);
            }
        }
    }
}

/// True if the request is not too late, and somebody waits for its outcome.
fn is_wanted(request: &AnyRequest, too_late: Instant) -> bool {
    let queued = request.queued();
    queued.deadline() > too_late && !queued.is_abandoned()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tokio::sync::oneshot;

    use super::*;

    fn acquire(name: &str, needs_proof: bool) -> AnyRequest {
        let request = Acquire {
            needs_proof,
            ..Acquire::plain(name)
        };
        // As long as the receiver lives, somebody waits for the outcome.
        let (reply, outcome) = oneshot::channel();
        std::mem::forget(outcome);
        let deadline = Instant::now() + Duration::from_secs(60);
        AnyRequest::Acquire(Pending::new(request, Some(reply), deadline))
    }

    #[tokio::test]
    async fn plain_acquires_of_one_lock_are_one_request_and_others_wait_their_turn() {
        let queue = Queue::new(100);
        for request in [
            acquire("a", false),
            acquire("b", false),
            acquire("a", false),
            acquire("a", false),
            acquire("a", true),
            acquire("a", false),
        ] {
            queue.push(request);
        }
        let batch = queue.next_batch(10).await.unwrap();
        let sent: Vec<_> = batch
            .acquires
            .iter()
            .map(|p| (p.request.key.name.as_str(), p.followers.len()))
            .collect();
        assert_eq!(sent, [("a", 2), ("b", 0)]);
        assert_eq!(
            queue.depth(),
            2,
            "the one with an id, and the one behind it"
        );
        let answered: Vec<_> = batch
            .acquires
            .iter()
            .map(|pending| pending.request.key.clone())
            .collect();
        queue.settle(answered, Vec::new());
        let batch = queue.next_batch(10).await.unwrap();
        assert!(
            batch.acquires.len() == 1 && batch.acquires[0].request.needs_proof,
            "{batch:?}"
        );
    }

    fn advance(name: &str) -> AnyRequest {
        let request = GateRequest::advance(Acquire::plain(name).key);
        let deadline = Instant::now() + Duration::from_secs(60);
        AnyRequest::Gate(Pending::new(request, None, deadline))
    }

    #[tokio::test]
    async fn requests_to_one_gate_are_one_run_and_keep_their_order_when_retried() {
        let queue = Queue::new(100);
        for request in [
            advance("a"),
            advance("a"),
            acquire("a", true),
            advance("a"),
            advance("b"),
        ] {
            queue.push(request);
        }
        let batch = queue.next_batch(10).await.unwrap();
        let names: Vec<_> = batch
            .gate_requests
            .iter()
            .map(|pending| pending.request.key.name.as_str())
            .collect();
        // By turns of the accounts: the acquire, which is another account's, ends the run.
        assert_eq!(names, ["a", "a", "b"]);
        assert_eq!(queue.depth(), 2);
        // One of the run is answered, one comes back: nothing of the lock passes it.
        let mut sent = batch.gate_requests.into_iter();
        let answered = sent.next().unwrap().request.key;
        let retried = sent.next().map(AnyRequest::Gate).into_iter().collect();
        let other = sent.next().unwrap().request.key;
        queue.settle_runs(vec![answered, other], retried);
        for (gate_requests, acquires) in [(1, 0), (0, 1), (1, 0)] {
            let batch = queue.next_batch(10).await.unwrap();
            let sent = (batch.gate_requests.len(), batch.acquires.len());
            assert_eq!(sent, (gate_requests, acquires));
            let gates = batch.gate_requests.into_iter().map(|p| p.request.key);
            let keys = gates.chain(batch.acquires.into_iter().map(|p| p.request.key));
            queue.settle_runs(keys.collect(), Vec::new());
        }
        assert_eq!(queue.depth(), 0);
    }
}
