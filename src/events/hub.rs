//! The hub: twice a second it asks the database for all watchers of a node together, and publishes
//! the answer to them. While nobody watches it asks nothing.
//!
//! Watchers take what is published at their own pace. One that falls behind loses its place among
//! the published updates, and reads what it missed from the table itself; so nobody waits for it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::{Notify, broadcast};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::store::{self, live};
use super::{Access, Event, LockState, Recorder, Scope, metric};
use crate::id::NamespaceId;

/// How often the database is asked.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// The most events of one update.
const LARGEST_UPDATE: i64 = 2000;
/// The most updates that wait for a watcher.
const UPDATES_KEPT: usize = 16;

/// The hub of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    recorder: Recorder,
    /// Cancelled when the node begins to stop: that ends all watching.
    stopping: CancellationToken,
    watchers: Mutex<Watchers>,
    /// Wakes the hub for its first watcher.
    watched: Notify,
    updates: broadcast::Sender<Arc<Update>>,
}

#[derive(Debug, Default)]
struct Watchers {
    last_id: u64,
    by_id: HashMap<u64, Watcher>,
}

#[derive(Clone, Debug)]
struct Watcher {
    scope: Scope,
    access: Access,
    refused: CancellationToken,
}

/// What has happened since the update before.
#[derive(Debug, Default)]
pub(super) struct Update {
    /// The events are those after this one …
    pub(super) after: i64,
    /// … and up to this one, …
    pub(super) until: i64,
    /// … of these namespaces.
    pub(super) events: HashMap<NamespaceId, Vec<Arc<Event>>>,
    /// The states of the locks that are watched by themselves.
    pub(super) states: HashMap<Scope, Arc<LockState>>,
}

/// A place among the watchers; given up when it is dropped.
#[derive(Debug)]
pub(super) struct Registration {
    hub: Hub,
    id: u64,
    /// The updates from the registration on.
    pub(super) updates: broadcast::Receiver<Arc<Update>>,
    /// Cancelled when the watcher may not watch any more.
    pub(super) refused: CancellationToken,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut watchers = self.hub.watchers();
        watchers.by_id.remove(&self.id);
        metrics::gauge!(metric::WATCHERS).set(watchers.by_id.len() as f64);
    }
}

impl Hub {
    /// A hub over `pool`, which ends with `stopping`. The lapsed leases that it finds go to
    /// `recorder`. [`Self::run`] does its work.
    pub fn new(pool: PgPool, recorder: Recorder, stopping: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            pool,
            recorder,
            stopping,
            watchers: Mutex::default(),
            watched: Notify::new(),
            updates: broadcast::Sender::new(UPDATES_KEPT),
        }))
    }

    fn watchers(&self) -> MutexGuard<'_, Watchers> {
        let watchers = self.0.watchers.lock();
        watchers.unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.0.pool
    }

    pub(super) fn stopping(&self) -> &CancellationToken {
        &self.0.stopping
    }

    /// The number of watchers.
    pub fn len(&self) -> usize {
        self.watchers().by_id.len()
    }

    /// True if nobody watches.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a watcher.
    pub(super) fn register(&self, scope: Scope, access: Access) -> Registration {
        let refused = CancellationToken::new();
        let updates = self.0.updates.subscribe();
        let mut watchers = self.watchers();
        watchers.last_id += 1;
        let id = watchers.last_id;
        let watcher = Watcher {
            scope,
            access,
            refused: refused.clone(),
        };
        watchers.by_id.insert(id, watcher);
        metrics::gauge!(metric::WATCHERS).set(watchers.by_id.len() as f64);
        drop(watchers);
        self.0.watched.notify_one();
        Registration {
            hub: self.clone(),
            id,
            updates,
            refused,
        }
    }

    /// Asks and publishes while anybody watches, until the node stops.
    pub async fn run(self) {
        while !self.0.stopping.is_cancelled() {
            if self.is_empty() {
                tokio::select! {
                    () = self.0.stopping.cancelled() => return,
                    () = self.0.watched.notified() => {}
                }
            } else {
                self.ask_while_watched().await;
            }
        }
    }

    async fn ask_while_watched(&self) {
        let mut interval = tokio::time::interval(ASK_EVERY);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut round = Round::default();
        loop {
            tokio::select! {
                () = self.0.stopping.cancelled() => return,
                _ = interval.tick() => {}
            }
            if self.is_empty() {
                return;
            }
            if let Err(error) = self.ask(&mut round).await {
                tracing::warn!(%error, "cannot ask for events: tried again in half a second");
            }
        }
    }

    /// Asks once, and publishes what has come.
    async fn ask(&self, round: &mut Round) -> sqlx::Result<()> {
        let watchers: Vec<Watcher> = self.watchers().by_id.values().cloned().collect();
        self.end_refused(&watchers).await?;
        let scopes: BTreeSet<&Scope> = watchers.iter().map(|watcher| &watcher.scope).collect();
        let locks: Vec<(NamespaceId, Arc<str>)> = scopes
            .iter()
            .filter_map(|scope| Some((scope.namespace_id, scope.name.clone()?)))
            .collect();
        let states = live::states(self.pool(), &locks).await?;
        let states = locks.into_iter().zip(states).map(|((id, name), state)| {
            let scope = Scope {
                namespace_id: id,
                name: Some(name),
            };
            (scope, Arc::new(state))
        });
        self.publish(round, &scopes, states.collect()).await?;
        self.find_lapsed(round, &scopes).await
    }

    async fn end_refused(&self, watchers: &[Watcher]) -> sqlx::Result<()> {
        let accesses: Vec<(NamespaceId, Access)> = watchers
            .iter()
            .map(|watcher| (watcher.scope.namespace_id, watcher.access))
            .collect();
        for place in store::refused(self.pool(), &accesses).await? {
            if let Some(watcher) = watchers.get(place) {
                watcher.refused.cancel();
            }
        }
        Ok(())
    }

    async fn publish(
        &self,
        round: &mut Round,
        scopes: &BTreeSet<&Scope>,
        states: HashMap<Scope, Arc<LockState>>,
    ) -> sqlx::Result<()> {
        let namespaces: BTreeSet<i64> = scopes.iter().map(|s| s.namespace_id.0).collect();
        let namespaces: Vec<i64> = namespaces.into_iter().collect();
        let settled = store::settled(self.pool()).await?;
        let mut after = round.until.unwrap_or(settled);
        let mut states = Some(states);
        loop {
            let new =
                store::of_namespaces(self.pool(), &namespaces, after, settled, LARGEST_UPDATE);
            let new = new.await?;
            let is_whole = (new.len() as i64) < LARGEST_UPDATE;
            let until = match new.last() {
                Some(last) if !is_whole => last.event_id,
                _ => settled.max(after),
            };
            let mut events: HashMap<NamespaceId, Vec<Arc<Event>>> = namespaces
                .iter()
                .map(|id| (NamespaceId(*id), vec![]))
                .collect();
            for event in new {
                let of_namespace = events.entry(event.namespace_id).or_default();
                of_namespace.push(Arc::new(event));
            }
            let update = Update {
                after,
                until,
                events,
                states: states.take().unwrap_or_default(),
            };
            // Nobody receives it if the last watcher has just gone.
            let _ = self.0.updates.send(Arc::new(update));
            after = until;
            round.until = Some(until);
            if is_whole {
                return Ok(());
            }
        }
    }

    /// Records the leases of watched locks that have lapsed: of the locks that are watched by
    /// themselves, and of so many of each watched namespace in turn.
    async fn find_lapsed(&self, round: &mut Round, scopes: &BTreeSet<&Scope>) -> sqlx::Result<()> {
        let stretches: Vec<live::Stretch> =
            scopes.iter().map(|scope| round.stretch(scope)).collect();
        let lapsed = live::lapsed(self.pool(), &stretches).await?;
        self.0.recorder.record(lapsed);
        let ends = live::ends(self.pool(), &stretches).await?;
        round.walked.clear();
        for (place, name) in ends {
            if let Some(stretch) = stretches.get(place) {
                round.walked.insert(stretch.namespace_id, name);
            }
        }
        Ok(())
    }
}

/// What the hub remembers from one asking to the next.
#[derive(Debug, Default)]
struct Round {
    /// All events up to this one were published; `None` before the first update.
    until: Option<i64>,
    /// How far the namespaces that are too large to be looked at whole were walked.
    walked: BTreeMap<NamespaceId, String>,
}

impl Round {
    /// The locks of a scope that are looked at next.
    fn stretch(&self, scope: &Scope) -> live::Stretch {
        let namespace_id = scope.namespace_id;
        let (from, until) = match &scope.name {
            Some(name) => (name.to_string(), name.to_string()),
            None => {
                let walked = self.walked.get(&namespace_id);
                // Greater than the name, and not greater than any after it: names have no
                // control characters.
                let from = walked.map(|name| format!("{name}\u{1}"));
                (from.unwrap_or_default(), "\u{10FFFF}".repeat(64))
            }
        };
        live::Stretch {
            namespace_id,
            from,
            until,
        }
    }
}
