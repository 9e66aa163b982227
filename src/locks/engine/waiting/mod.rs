//! This node's waiters: who waits for which lock, and what wakes them (ADR 11).
//!
//! A waiter is a request that stands in the line of a lock. What it waits for is told in three
//! ways: by the outcome of this node's own requests to the gate, by a notice of another node, and,
//! twice a second, by the look at this node's tickets, which makes up for whatever was lost.
//!
//! * `waiter`: one waiting request, from its place in the line to its outcome;
//! * `look`: the look, and the notices that come in between;
//! * `herald`: the notices to other nodes.

mod herald;
mod look;
mod waiter;

use std::collections::BTreeSet;
use std::collections::hash_map::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use super::gate::{Claim, GateNews, GateRequest, Place};
use super::metric;
use super::queue::Queues;
use super::request::{AnyRequest, COMPENSATION_DEADLINE, Pending};
use crate::events::Recorder;
use crate::id::AccountId;
use crate::locks::{Acquire, EngineError, LockKey};

pub(super) use herald::Notices;
pub(super) use waiter::Waiter;

/// The time for which a request to advance a lock is tried: the next look asks again.
const ADVANCE_DEADLINE: Duration = Duration::from_secs(2);

/// The waiters of a node.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Drawn at each start, so that a node that was started anew is another one.
    node_id: i64,
    queues: Queues,
    state: Mutex<State>,
    /// Wakes the timer: the first timer may have changed.
    timers_changed: Notify,
    /// Wakes the look before its time.
    look_wanted: Notify,
    /// Wakes those who wait for the last waiter to leave.
    left: Notify,
    is_stopping: AtomicBool,
    notices: mpsc::UnboundedSender<Claim>,
    recorder: Recorder,
}

#[derive(Debug, Default)]
struct State {
    waiters: HashMap<i64, Entry>,
    waiters_of_account: HashMap<AccountId, i32>,
    locks: HashMap<LockKey, WaitedLock>,
    timers: BTreeSet<(Instant, LockKey)>,
    last_attachment: i64,
}

/// A waiter, as the registry knows it.
#[derive(Debug)]
struct Entry {
    place: Arc<Place>,
    signal: Arc<Signal>,
    /// When it was told that it stands in the line; `None` before that.
    joined_at: Option<Instant>,
}

/// A lock that requests of this node wait for.
#[derive(Debug, Default)]
struct WaitedLock {
    waiters: usize,
    timer: Option<Instant>,
}

/// What a waiter is told to do.
#[derive(Debug, Default)]
struct Signal {
    wanted: AtomicU8,
    wake: Notify,
}

impl Signal {
    /// Ask the gate: it may have been granted the lock, or lost its place.
    const CONFIRM: u8 = 1;
    /// The node stops: answer at once.
    const STOP: u8 = 2;
    /// Its token was revoked, or its account suspended.
    const REFUSED: u8 = 4;

    fn send(&self, what: u8) {
        self.wanted.fetch_or(what, Ordering::AcqRel);
        self.wake.notify_one();
    }

    fn take_confirm(&self) -> bool {
        self.wanted.fetch_and(!Self::CONFIRM, Ordering::AcqRel) & Self::CONFIRM != 0
    }

    fn is_stopping(&self) -> bool {
        self.wanted.load(Ordering::Acquire) & Self::STOP != 0
    }

    fn is_refused(&self) -> bool {
        self.wanted.load(Ordering::Acquire) & Self::REFUSED != 0
    }

    /// Returns once the node stops.
    async fn stopping(&self) {
        while !self.is_stopping() {
            self.wake.notified().await;
        }
    }
}

impl Waiting {
    pub(super) fn new(queues: Queues, recorder: Recorder) -> (Arc<Self>, Notices) {
        let (notices, claims) = mpsc::unbounded_channel();
        let waiting = Arc::new(Self {
            node_id: rand::random::<i64>() & i64::MAX,
            queues,
            state: Mutex::default(),
            timers_changed: Notify::new(),
            look_wanted: Notify::new(),
            left: Notify::new(),
            is_stopping: AtomicBool::new(false),
            notices,
            recorder,
        });
        (waiting, Notices(claims))
    }

    pub(super) fn node_id(&self) -> i64 {
        self.node_id
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of requests that wait.
    pub(super) fn len(&self) -> usize {
        self.state().waiters.len()
    }

    /// True if a request of this node waits for the lock.
    pub(super) fn has_waiters(&self, key: &LockKey) -> bool {
        self.state().locks.contains_key(key)
    }

    /// Adds a waiter, before its request to join the line is sent: the claim may be told before the
    /// outcome of that request.
    ///
    /// # Errors
    /// If the node is stopping, or as many requests of the account wait as may.
    fn add(
        &self,
        acquire: Acquire,
        waits_until: Instant,
    ) -> Result<(Arc<Place>, Arc<Signal>), EngineError> {
        let mut state = self.state();
        // Under the mutex, or a waiter could be added after `stop` has told all of them.
        if self.is_stopping.load(Ordering::Acquire) {
            return Err(EngineError::ShuttingDown);
        }
        let max = acquire.max_waiters;
        let of_account = state
            .waiters_of_account
            .entry(acquire.account_id)
            .or_default();
        if *of_account >= max {
            if *of_account == 0 {
                state.waiters_of_account.remove(&acquire.account_id);
            }
            return Err(EngineError::TooManyWaiters { max });
        }
        *of_account += 1;
        state.last_attachment += 1;
        let attachment = state.last_attachment;
        let signal = Arc::<Signal>::default();
        let place = Arc::new(Place {
            acquire,
            attachment,
            waits_until,
        });
        state
            .locks
            .entry(place.acquire.key.clone())
            .or_default()
            .waiters += 1;
        let entry = Entry {
            place: Arc::clone(&place),
            signal: Arc::clone(&signal),
            joined_at: None,
        };
        state.waiters.insert(attachment, entry);
        metrics::gauge!(metric::WAITERS).set(state.waiters.len() as f64);
        Ok((place, signal))
    }

    /// Notes that a waiter stands in the line.
    fn note_joined(&self, attachment: i64) {
        if let Some(entry) = self.state().waiters.get_mut(&attachment) {
            entry.joined_at.get_or_insert_with(Instant::now);
        }
    }

    /// Removes a waiter that has its outcome, or nobody to tell it to.
    fn remove(&self, attachment: i64) {
        let mut state = self.state();
        let Some(entry) = state.waiters.remove(&attachment) else {
            return;
        };
        let acquire = &entry.place.acquire;
        if let Some(of_account) = state.waiters_of_account.get_mut(&acquire.account_id) {
            *of_account -= 1;
            if *of_account == 0 {
                state.waiters_of_account.remove(&acquire.account_id);
            }
        }
        if let Some(lock) = state.locks.get_mut(&acquire.key) {
            lock.waiters -= 1;
            if lock.waiters == 0 {
                let timer = lock.timer;
                state.locks.remove(&acquire.key);
                if let Some(at) = timer {
                    state.timers.remove(&(at, acquire.key.clone()));
                }
            }
        }
        metrics::gauge!(metric::WAITERS).set(state.waiters.len() as f64);
        if state.waiters.is_empty() {
            self.left.notify_waiters();
        }
    }

    /// Applies what a batch of requests to gates did beside their outcomes.
    pub(super) fn apply(&self, news: GateNews) {
        self.recorder.record(news.ended);
        if !news.claims.is_empty() {
            metrics::counter!(metric::HANDOVERS).increment(news.claims.len() as u64);
        }
        if news.lapsed > 0 {
            metrics::counter!("lockable_expiries_total").increment(news.lapsed);
        }
        if news.claims_lapsed > 0 {
            metrics::counter!(metric::CLAIMS_LAPSED).increment(news.claims_lapsed);
        }
        for claim in news.claims {
            if claim.node_id != self.node_id {
                // The herald ends with the engine: then the next look of that node finds it.
                let _ = self.notices.send(claim);
            } else {
                self.tell_claimed(claim.attachment);
            }
        }
        if !news.next_ends.is_empty() {
            let now = Instant::now();
            let ends = news.next_ends.into_iter();
            self.set_timers(ends.map(|(key, within)| (key, now + within)));
        }
    }

    /// Tells a waiter to ask the gate. One that is not known has gone: the look finds its ticket.
    fn tell_claimed(&self, attachment: i64) {
        match self.state().waiters.get(&attachment) {
            Some(entry) => entry.signal.send(Signal::CONFIRM),
            None => self.look_wanted.notify_one(),
        }
    }

    /// Sets when to ask about each lock again, if requests of this node wait for it.
    fn set_timers(&self, ends: impl Iterator<Item = (LockKey, Instant)>) {
        let mut state = self.state();
        let first = state.timers.first().map(|(at, _)| *at);
        for (key, at) in ends {
            let State { locks, timers, .. } = &mut *state;
            if let Some(lock) = locks.get_mut(&key) {
                if let Some(before) = lock.timer.replace(at) {
                    timers.remove(&(before, key.clone()));
                }
                timers.insert((at, key));
            }
        }
        if state.timers.first().map(|(at, _)| *at) != first {
            self.timers_changed.notify_one();
        }
    }

    /// Asks about each lock whose timer is over. Ends with its task.
    pub(super) async fn keep_time(self: Arc<Self>) {
        loop {
            let next = self.state().timers.first().map(|(at, _)| *at);
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => self.advance_due(),
                () = self.timers_changed.notified() => {}
            }
        }
    }

    fn advance_due(&self) {
        let now = Instant::now();
        let mut due = Vec::new();
        {
            let mut state = self.state();
            while state.timers.first().is_some_and(|(at, _)| *at <= now) {
                let Some((_, key)) = state.timers.pop_first() else {
                    break;
                };
                if let Some(lock) = state.locks.get_mut(&key) {
                    lock.timer = None;
                }
                due.push(key);
            }
        }
        metrics::counter!(metric::TIMERS).increment(due.len() as u64);
        for key in due {
            self.send(GateRequest::advance(key), ADVANCE_DEADLINE);
        }
    }

    /// Gives up a place that nobody attends.
    fn abandon(&self, place: &Place) {
        let acquire = &place.acquire;
        let request = GateRequest::abandon(acquire.key.clone(), acquire.account_id, place.into());
        self.send(request, COMPENSATION_DEADLINE);
    }

    /// Sends a request whose outcome nobody waits for.
    fn send(&self, request: GateRequest, within: Duration) {
        let queue = self.queues.for_key(&request.key);
        let pending = Pending::new(request, None, Instant::now() + within);
        queue.push(AnyRequest::Gate(pending));
    }

    /// Answers all waiters, and every later one, that the node stops. Their places are kept where
    /// the client chose the lease id.
    pub(super) fn stop(&self) {
        let state = self.state();
        self.is_stopping.store(true, Ordering::Release);
        for entry in state.waiters.values() {
            entry.signal.send(Signal::STOP);
        }
    }

    /// Returns when no request waits.
    pub(super) async fn drained(&self) {
        loop {
            let left = self.left.notified();
            if self.len() == 0 {
                return;
            }
            left.await;
        }
    }
}
