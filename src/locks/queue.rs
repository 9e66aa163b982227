//! What waits in a lane: bounded, fair between accounts, in order for each lock.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use super::engine::EngineError;
use super::{
    Acquire, AcquireOutcome, Heartbeat, HeartbeatOutcome, LockKey, Release, ReleaseOutcome,
};
use crate::id::AccountId;

/// How long the engine tries to give back a lease that nobody hears of. A lease of a plan's usual
/// length has lapsed by then.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(60);

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
    /// It was sent as an acquire of a lock without a row, and is not again: the guess was wrong.
    pub(super) taken_for_new: bool,
    /// Whoever asked the same of the same lock later, and is answered from this one's outcome.
    pub(super) followers: Vec<Reply<Q>>,
}

impl<Q: Question> Pending<Q> {
    pub(super) fn new(question: Q, reply: Option<Reply<Q>>, deadline: Instant) -> Self {
        Self {
            question,
            reply,
            deadline,
            in_doubt: false,
            taken_for_new: false,
            followers: Vec::new(),
        }
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

impl Pending<Acquire> {
    /// What gives the lease back that this acquire may have been granted, where nobody can ask for
    /// it again: whoever asked sent no id of their own, and was not told.
    pub(super) fn give_back(&self) -> Option<Item> {
        (self.in_doubt && !self.question.needs_proof)
            .then(|| give_back(&self.question, self.question.lease_id))
    }
}

/// The release of a lease that nobody hears of.
pub(super) fn give_back(question: &Acquire, lease_id: Uuid) -> Item {
    let question = Release {
        key: question.key.clone(),
        account_id: question.account_id,
        lease_id: Some(lease_id),
    };
    Item::Release(Pending::new(
        question,
        None,
        Instant::now() + GIVE_BACK_WITHIN,
    ))
}

/// A pending question of any kind.
#[derive(Debug)]
pub(super) enum Item {
    Acquire(Pending<Acquire>),
    Heartbeat(Pending<Heartbeat>),
    Release(Pending<Release>),
}

impl Item {
    pub(super) fn key(&self) -> &LockKey {
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

    fn is_plain_acquire(&self) -> bool {
        matches!(self, Self::Acquire(pending) if !pending.question.needs_proof)
    }

    /// See [`Pending::give_back`].
    fn give_back(&self) -> Option<Self> {
        match self {
            Self::Acquire(pending) => pending.give_back(),
            Self::Heartbeat(_) | Self::Release(_) => None,
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

/// What goes out together: each lock once, so that the three kinds cannot touch the same row; each
/// kind in key order.
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
        self.acquires
            .sort_unstable_by(|a, b| a.question.key.cmp(&b.question.key));
        self.heartbeats
            .sort_unstable_by(|a, b| a.question.key.cmp(&b.question.key));
        self.releases
            .sort_unstable_by(|a, b| a.question.key.cmp(&b.question.key));
    }
}

/// The queue of a lane. Each operation holds its lock for as long as it takes to move a few
/// pointers.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    arrived: Notify,
    capacity: usize,
}

/// At most one question about a lock is ready or under way; the others of that lock stand behind
/// it, in order.
#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Item>,
    /// For each lock of which a question is ready or under way: those that stand behind it.
    behind: HashMap<LockKey, Behind>,
    /// Questions that wait, ready or behind.
    waiting: usize,
    waiting_of: HashMap<AccountId, usize>,
    closed: bool,
}

/// What stands behind one lock's question: each account's in the order they came, and the accounts
/// by turns. Otherwise anybody could hold up the holder of a public lock until its lease lapses, by
/// asking about it often.
#[derive(Debug, Default)]
struct Behind {
    lines: VecDeque<(AccountId, VecDeque<Item>)>,
}

impl Behind {
    fn push(&mut self, item: Item) {
        let account_id = item.account_id();
        match self.lines.iter_mut().find(|(of, _)| *of == account_id) {
            Some((_, line)) => line.push_back(item),
            None => self.lines.push_back((account_id, VecDeque::from([item]))),
        }
    }

    fn pop(&mut self) -> Option<Item> {
        let (account_id, mut line) = self.lines.pop_front()?;
        let item = line.pop_front();
        if !line.is_empty() {
            self.lines.push_back((account_id, line));
        }
        item
    }

    /// Takes out the plain acquires at the head of each line.
    fn take_plain_acquires(&mut self) -> Vec<Pending<Acquire>> {
        let mut taken = Vec::new();
        for (_, line) in &mut self.lines {
            while line.front().is_some_and(Item::is_plain_acquire) {
                if let Some(Item::Acquire(pending)) = line.pop_front() {
                    taken.push(pending);
                }
            }
        }
        self.lines.retain(|(_, line)| !line.is_empty());
        taken
    }
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::default(),
            arrived: Notify::new(),
            capacity,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts an item, or answers it at once: a full queue is no better place to wait than the
    /// client's own. No account may fill more than a quarter of it.
    pub(super) fn push(&self, item: Item) {
        let refused = {
            let mut state = self.state();
            let of_account = state
                .waiting_of
                .get(&item.account_id())
                .copied()
                .unwrap_or(0);
            if state.closed {
                Some((item, EngineError::ShuttingDown))
            } else if state.waiting >= self.capacity || of_account >= self.capacity.div_ceil(4) {
                Some((item, EngineError::Overloaded))
            } else {
                state.add(item);
                None
            }
        };
        match refused {
            Some((item, error)) => item.fail(error),
            None => self.arrived.notify_one(),
        }
    }

    /// Whether it would accept a question, of an account that has few in it.
    pub(super) fn has_room(&self) -> bool {
        self.depth() < self.capacity
    }

    /// Questions that wait.
    pub(super) fn depth(&self) -> usize {
        self.state().waiting
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
                // A question that is under way somewhere else may come back.
                if state.closed && state.waiting == 0 && state.behind.is_empty() {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// What is ready now, at most `most` of it, if anything is.
    pub(super) fn ready_batch(&self, most: usize) -> Option<Batch> {
        let batch = self.state().take_batch(most);
        (batch.len() > 0).then_some(batch)
    }

    /// Ends what [`next_batch`](Self::next_batch) began: these locks' questions were answered, and
    /// the next ones are ready; these items could not be answered yet, and are first to be tried
    /// again.
    pub(super) fn settle(&self, answered: Vec<LockKey>, again: Vec<Item>) {
        let mut state = self.state();
        for key in answered {
            state.advance(key);
        }
        for item in again.into_iter().rev() {
            state.count(item.account_id());
            state.ready.push_front(item);
        }
        drop(state);
        self.arrived.notify_one();
    }
}

impl State {
    fn add(&mut self, item: Item) {
        self.count(item.account_id());
        match self.behind.get_mut(item.key()) {
            Some(behind) => behind.push(item),
            None => {
                self.behind.insert(item.key().clone(), Behind::default());
                self.ready.push_back(item);
            }
        }
    }

    fn take_batch(&mut self, most: usize) -> Batch {
        let mut batch = Batch::default();
        while batch.len() < most {
            let Some(mut item) = self.ready.pop_front() else {
                break;
            };
            self.uncount(item.account_id());
            if let Item::Acquire(first) = &mut item
                && !first.question.needs_proof
            {
                self.take_followers(first);
            }
            if !item.is_abandoned() {
                batch.push(item);
            } else if let Some(give_back) = item.give_back() {
                batch.push(give_back);
            } else {
                self.advance(item.key().clone());
            }
        }
        batch.sort();
        batch
    }

    /// Plain acquires right behind a plain acquire that is about to be sent: whatever becomes of
    /// it, the lock is then held by somebody else, and they came before that was decided.
    fn take_followers(&mut self, first: &mut Pending<Acquire>) {
        if self.waiting == self.ready.len() {
            return; // Nothing stands behind any lock.
        }
        let Some(behind) = self.behind.get_mut(&first.question.key) else {
            return;
        };
        for next in behind.take_plain_acquires() {
            self.uncount(next.question.account_id);
            first
                .followers
                .extend(next.reply.into_iter().chain(next.followers));
        }
    }

    /// The lock's next question is ready, if there is one.
    fn advance(&mut self, key: LockKey) {
        if let Entry::Occupied(mut behind) = self.behind.entry(key) {
            match behind.get_mut().pop() {
                Some(next) => self.ready.push_back(next),
                None => drop(behind.remove()),
            }
        }
    }

    fn count(&mut self, account_id: AccountId) {
        self.waiting += 1;
        *self.waiting_of.entry(account_id).or_default() += 1;
    }

    fn uncount(&mut self, account_id: AccountId) {
        self.waiting -= 1;
        if let Some(waiting) = self.waiting_of.get_mut(&account_id) {
            *waiting -= 1;
            if *waiting == 0 {
                self.waiting_of.remove(&account_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(name: &str, needs_proof: bool) -> Item {
        let question = Acquire {
            needs_proof,
            ..Acquire::plain(name)
        };
        // As long as the receiver lives, somebody waits.
        let (reply, answer) = oneshot::channel();
        std::mem::forget(answer);
        Item::Acquire(Pending::new(
            question,
            Some(reply),
            Instant::now() + GIVE_BACK_WITHIN,
        ))
    }

    #[tokio::test]
    async fn plain_acquires_of_one_lock_are_one_question_and_others_wait_their_turn() {
        let queue = Queue::new(100);
        for item in [
            wish("a", false),
            wish("b", false),
            wish("a", false),
            wish("a", false),
            wish("a", true),
            wish("a", false),
        ] {
            queue.push(item);
        }
        let batch = queue.next_batch(10).await.unwrap();
        let sent: Vec<_> = batch
            .acquires
            .iter()
            .map(|p| (p.question.key.name.as_str(), p.followers.len()))
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
            .map(|pending| pending.question.key.clone())
            .collect();
        queue.settle(answered, Vec::new());
        let batch = queue.next_batch(10).await.unwrap();
        assert!(
            batch.acquires.len() == 1 && batch.acquires[0].question.needs_proof,
            "{batch:?}"
        );
    }
}
