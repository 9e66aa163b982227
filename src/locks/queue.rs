//! What waits in a lane: bounded, fair between accounts, in order for each lock.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, oneshot};

use super::engine::EngineError;
use super::{Acquire, AcquireOutcome, Heartbeat, HeartbeatOutcome, LockKey, Release, ReleaseOutcome};
use crate::id::AccountId;

/// What the three kinds of question have in common.
pub(super) trait Question: Send + Sync + 'static {
    type Outcome: std::fmt::Debug + Send + 'static;

    fn key(&self) -> &LockKey;
    fn account_id(&self) -> AccountId;

    /// Whether a second execution has the effect and the answer of one.
    fn is_repeatable(&self) -> bool;
}

impl Question for Acquire {
    type Outcome = AcquireOutcome;

    fn key(&self) -> &LockKey {
        &self.key
    }

    fn account_id(&self) -> AccountId {
        self.account_id
    }

    /// By its lease id, which each has.
    fn is_repeatable(&self) -> bool {
        true
    }
}

impl Question for Heartbeat {
    type Outcome = HeartbeatOutcome;

    fn key(&self) -> &LockKey {
        &self.key
    }

    fn account_id(&self) -> AccountId {
        self.account_id
    }

    fn is_repeatable(&self) -> bool {
        true
    }
}

impl Question for Release {
    type Outcome = ReleaseOutcome;

    fn key(&self) -> &LockKey {
        &self.key
    }

    fn account_id(&self) -> AccountId {
        self.account_id
    }

    /// Without a lease id, the second would be told that nothing is held.
    fn is_repeatable(&self) -> bool {
        self.lease_id.is_some()
    }
}

/// Where an answer goes.
pub(super) type Reply<Q> = oneshot::Sender<Result<<Q as Question>::Outcome, EngineError>>;

/// A question that was accepted and will be answered.
#[derive(Debug)]
pub(super) struct Pending<Q: Question> {
    pub(super) question: Q,
    /// None: the engine asks for itself, and the answer does not matter.
    pub(super) reply: Option<Reply<Q>>,
    /// After this, what is not known is answered as unknown.
    pub(super) deadline: Instant,
    /// It was sent and the answer lost: it may have happened.
    pub(super) in_doubt: bool,
    /// Whoever asked the same of the same lock later, and is answered from this one's outcome.
    pub(super) followers: Vec<Reply<Q>>,
}

impl<Q: Question> Pending<Q> {
    pub(super) fn new(question: Q, reply: Option<Reply<Q>>, deadline: Instant) -> Self {
        Self { question, reply, deadline, in_doubt: false, followers: Vec::new() }
    }

    /// Whoever asked has gone away, and nobody shares the answer.
    fn is_abandoned(&self) -> bool {
        self.reply.as_ref().is_some_and(oneshot::Sender::is_closed)
            && self.followers.iter().all(oneshot::Sender::is_closed)
    }

    /// Answers that it cannot be known, or why it is refused.
    pub(super) fn fail(self, error: EngineError) {
        for reply in self.reply.into_iter().chain(self.followers) {
            // An error means that whoever asked has gone.
            let _ = reply.send(Err(error));
        }
    }
}

/// A pending question of any kind.
#[derive(Debug)]
pub(super) enum Item {
    Acquire(Pending<Acquire>),
    Heartbeat(Pending<Heartbeat>),
    Release(Pending<Release>),
}

impl Item {
    fn key(&self) -> &LockKey {
        match self {
            Self::Acquire(pending) => pending.question.key(),
            Self::Heartbeat(pending) => pending.question.key(),
            Self::Release(pending) => pending.question.key(),
        }
    }

    fn account_id(&self) -> AccountId {
        match self {
            Self::Acquire(pending) => pending.question.account_id(),
            Self::Heartbeat(pending) => pending.question.account_id(),
            Self::Release(pending) => pending.question.account_id(),
        }
    }

    fn is_abandoned(&self) -> bool {
        match self {
            Self::Acquire(pending) => pending.is_abandoned(),
            Self::Heartbeat(pending) => pending.is_abandoned(),
            Self::Release(pending) => pending.is_abandoned(),
        }
    }

    fn fail(self, error: EngineError) {
        match self {
            Self::Acquire(pending) => pending.fail(error),
            Self::Heartbeat(pending) => pending.fail(error),
            Self::Release(pending) => pending.fail(error),
        }
    }
}

/// What goes out together: each lock once, so that the three kinds cannot touch the same row; each kind in key order.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) acquires: Vec<Pending<Acquire>>,
    pub(super) heartbeats: Vec<Pending<Heartbeat>>,
    pub(super) releases: Vec<Pending<Release>>,
}

impl Batch {
    /// Questions in it that are sent.
    pub(super) fn len(&self) -> usize {
        self.acquires.len() + self.heartbeats.len() + self.releases.len()
    }

    fn push(&mut self, item: Item) {
        match item {
            Item::Acquire(pending) => self.acquires.push(pending),
            Item::Heartbeat(pending) => self.heartbeats.push(pending),
            Item::Release(pending) => self.releases.push(pending),
        }
    }

    fn sort(&mut self) {
        self.acquires.sort_unstable_by(|a, b| a.question.key.cmp(&b.question.key));
        self.heartbeats.sort_unstable_by(|a, b| a.question.key.cmp(&b.question.key));
        self.releases.sort_unstable_by(|a, b| a.question.key.cmp(&b.question.key));
    }
}

/// The queue. Operations hold its lock for a push, or for the walk over one batch.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    arrived: Notify,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    per_account: HashMap<AccountId, usize>,
    closed: bool,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        Self { state: Mutex::default(), arrived: Notify::new(), capacity }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts an item, or answers it at once: a full queue is no better place to wait than the client's own. No account may fill
    /// more than a quarter of it.
    pub(super) fn push(&self, item: Item) {
        let account_id = item.account_id();
        let refused = {
            let mut state = self.state();
            let waiting = state.per_account.get(&account_id).copied().unwrap_or(0);
            if state.closed {
                Some((item, EngineError::ShuttingDown))
            } else if state.items.len() >= self.capacity || waiting >= self.capacity.div_ceil(4) {
                Some((item, EngineError::Overloaded))
            } else {
                state.per_account.insert(account_id, waiting + 1);
                state.items.push_back(item);
                None
            }
        };
        match refused {
            Some((item, error)) => item.fail(error),
            None => self.arrived.notify_one(),
        }
    }

    /// Questions that wait.
    pub(super) fn depth(&self) -> usize {
        self.state().items.len()
    }

    /// Accepts nothing more; what was accepted is still handed out.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.arrived.notify_one();
    }

    /// Waits for something to do, and takes at most `most` of it. None: closed and empty.
    pub(super) async fn next_batch(&self, most: usize) -> Option<Batch> {
        loop {
            {
                let mut state = self.state();
                let batch = state.take_batch(most);
                if batch.len() > 0 {
                    return Some(batch);
                }
                if state.closed && state.items.is_empty() {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Gives items their places at the head again: they were taken and could not be answered yet.
    pub(super) fn put_back(&self, items: Vec<Item>) {
        if items.is_empty() {
            return;
        }
        let mut state = self.state();
        for item in items.into_iter().rev() {
            *state.per_account.entry(item.account_id()).or_default() += 1;
            state.items.push_front(item);
        }
    }
}

impl State {
    /// The first item of each lock. A later one waits for the next batch, except a plain acquire behind a plain acquire: whatever
    /// becomes of the first, the lock is then held by somebody else, and the second is told so.
    fn take_batch(&mut self, most: usize) -> Batch {
        let mut batch = Batch::default();
        let mut taken: HashMap<LockKey, Option<usize>> = HashMap::with_capacity(most.min(self.items.len()));
        let mut blocked: HashSet<LockKey> = HashSet::new();
        let mut later = Vec::new();
        // A bound on the walk: those who queue for one lock must not make every batch as long as the queue.
        for _ in 0..most.saturating_mul(4) {
            if batch.len() >= most {
                break;
            }
            let Some(item) = self.items.pop_front() else { break };
            if item.is_abandoned() {
                self.uncount(item.account_id());
                continue;
            }
            let key = item.key();
            if blocked.contains(key) {
                later.push(item);
                continue;
            }
            match taken.get(key) {
                None => {
                    let shareable = match &item {
                        Item::Acquire(first) if !first.question.needs_proof => Some(batch.acquires.len()),
                        _ => None,
                    };
                    taken.insert(key.clone(), shareable);
                    self.uncount(item.account_id());
                    batch.push(item);
                }
                Some(first) => match (item, *first) {
                    (Item::Acquire(follower), Some(at)) if !follower.question.needs_proof => {
                        self.uncount(follower.question.account_id);
                        batch.acquires[at].followers.extend(follower.reply.into_iter().chain(follower.followers));
                    }
                    (item, _) => {
                        blocked.insert(item.key().clone());
                        later.push(item);
                    }
                },
            }
        }
        for item in later.into_iter().rev() {
            self.items.push_front(item);
        }
        batch.sort();
        batch
    }

    fn uncount(&mut self, account_id: AccountId) {
        if let Some(waiting) = self.per_account.get_mut(&account_id) {
            *waiting -= 1;
            if *waiting == 0 {
                self.per_account.remove(&account_id);
            }
        }
    }
}
