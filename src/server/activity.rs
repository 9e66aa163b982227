//! The use of connections, and the search for those that have been idle for the longest.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The unit in which idleness is measured.
pub(super) const TICK: Duration = Duration::from_millis(250);
/// How long a connection has to be idle before it is closed for another, ticks: a new one needs a
/// moment for its first request, and the end of an answer may still be on its way.
pub(super) const IDLE_TICKS: u32 = 4;
/// How many candidates one search finds.
pub(super) const BATCH: usize = 64;

/// A connection by its network and its number.
pub(super) type Key = (IpAddr, u64);

/// The use of one connection, shared with the service that answers its requests.
#[derive(Debug)]
pub(super) struct Activity {
    requests: AtomicU32,
    /// The tick at which the last request ended; at first that of the connection's start.
    used_at: AtomicU32,
    now: Arc<AtomicU32>,
}

impl Activity {
    /// The activity of a connection that begins now.
    pub(super) fn new(now: &Arc<AtomicU32>) -> Arc<Self> {
        Arc::new(Self {
            requests: AtomicU32::new(0),
            used_at: AtomicU32::new(now.load(Ordering::Relaxed)),
            now: Arc::clone(now),
        })
    }

    /// A request is being answered, until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> InUse {
        self.requests.fetch_add(1, Ordering::Relaxed);
        InUse(Arc::clone(self))
    }

    /// Since when the connection is idle; `None` if it is in use, or idle only for a moment.
    fn idle_since(&self, now: u32) -> Option<u32> {
        let used_at = self.used_at.load(Ordering::Relaxed);
        let is_idle =
            self.requests.load(Ordering::Relaxed) == 0 && now.saturating_sub(used_at) >= IDLE_TICKS;
        is_idle.then_some(used_at)
    }
}

/// See [`Activity::begin`].
#[derive(Debug)]
pub(super) struct InUse(Arc<Activity>);

impl Drop for InUse {
    fn drop(&mut self) {
        let activity = &self.0;
        let now = activity.now.load(Ordering::Relaxed);
        activity.used_at.store(now, Ordering::Relaxed);
        activity.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connections that have been idle for the longest, as the last search found them: the first to
/// be closed last.
#[derive(Default)]
pub(super) struct Candidates {
    found: Vec<Candidate>,
    /// The tick of the last search that found nothing.
    none_at: Option<u32>,
}

struct Candidate {
    idle_since: u32,
    key: Key,
    activity: Arc<Activity>,
}

impl Candidates {
    /// The next one that is still as idle as when it was found; searches anew if there is none.
    pub(super) fn next<'a>(
        &mut self,
        now: u32,
        connections: impl Iterator<Item = (Key, &'a Arc<Activity>)>,
    ) -> Option<Key> {
        if let Some(key) = self.pop(now) {
            return Some(key);
        }
        if self.none_at == Some(now) {
            return None;
        }
        self.found = connections
            .filter_map(|(key, activity)| {
                Some(Candidate {
                    idle_since: activity.idle_since(now)?,
                    key,
                    activity: Arc::clone(activity),
                })
            })
            .collect();
        // Those that came first, where many are as idle.
        let order = |candidate: &Candidate| (candidate.idle_since, candidate.key.1);
        if self.found.len() > BATCH {
            self.found.select_nth_unstable_by_key(BATCH - 1, order);
            self.found.truncate(BATCH);
        }
        self.found
            .sort_unstable_by_key(|candidate| std::cmp::Reverse(order(candidate)));
        let next = self.pop(now);
        self.none_at = next.is_none().then_some(now);
        next
    }

    fn pop(&mut self, now: u32) -> Option<Key> {
        while let Some(candidate) = self.found.pop() {
            if candidate.activity.idle_since(now) == Some(candidate.idle_since) {
                return Some(candidate.key);
            }
        }
        None
    }
}
