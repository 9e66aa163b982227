//! A watcher: the events of a namespace or a lock in their order, each once, from the table and
//! then live.

use std::collections::VecDeque;
use std::sync::Arc;

use chrono::Utc;
use tokio::sync::broadcast::error::RecvError;

use super::hub::{Registration, Update};
use super::{Access, Event, EventKind, EventsError, Hub, LockState, Scope, store};
use crate::id::NamespaceId;

/// The most events that are read from the table at once.
const PAGE: i64 = 500;

/// What a watcher sees.
#[derive(Clone, Debug)]
pub enum Sight {
    /// Nothing yet; what follows comes after the event of this id.
    Position(i64),
    /// An event.
    Event(Arc<Event>),
    /// The state of the watched lock: at first, and when it has changed.
    State(Arc<LockState>),
}

/// A watcher. It reads at its own pace: what it missed it reads from the table.
#[derive(Debug)]
pub struct Watch {
    hub: Hub,
    scope: Scope,
    registration: Registration,
    /// All events up to this one are in `ready` or were returned.
    position: i64,
    /// Events up to this one have to be read from the table.
    missed_until: i64,
    state: Option<Arc<LockState>>,
    ready: VecDeque<Sight>,
}

impl Watch {
    /// Begins to watch: with the next event, or after the event of the given id, which the watcher
    /// has seen last, here or on another node.
    ///
    /// # Errors
    /// [`EventsError::Public`], [`EventsError::ShuttingDown`], or if a query fails.
    pub async fn start(
        hub: &Hub,
        scope: Scope,
        access: Access,
        last_event_id: Option<i64>,
    ) -> Result<Self, EventsError> {
        if scope.namespace_id == NamespaceId::PUBLIC {
            return Err(EventsError::Public);
        }
        if hub.stopping().is_cancelled() {
            return Err(EventsError::ShuttingDown);
        }
        // First, so that no update is missed after the position was read.
        let registration = hub.register(scope.clone(), access);
        let found = store::position(hub.pool(), scope.namespace_id).await?;
        // A namespace that is no more has no events: its watcher is refused at once.
        let (settled, last, purged) =
            found.map_or((0, 0, 0), |found| (found.settled, found.last, found.purged));
        let gap_until = |event_id, reason| (event_id, Some(gap(&scope, event_id, reason)));
        let (position, gap) = match last_event_id {
            None => (settled, None),
            Some(id) if id > last => gap_until(
                settled,
                "the event that was seen last is not known here: the database was restored",
            ),
            Some(id) if id < purged => gap_until(
                purged,
                "older events were deleted: they were past the time for which they are kept",
            ),
            Some(id) => (id, None),
        };
        let first = match gap {
            Some(gap) => Sight::Event(Arc::new(gap)),
            None => Sight::Position(position),
        };
        Ok(Self {
            hub: hub.clone(),
            scope,
            registration,
            position,
            missed_until: settled,
            state: None,
            ready: VecDeque::from([first]),
        })
    }

    /// The next thing that the watcher sees. `None`: it has ended, because the node stops, its
    /// access has ended, or the database is unavailable; begun again with the last event, another
    /// one goes on without loss.
    pub async fn next(&mut self) -> Option<Sight> {
        loop {
            if self.hub.stopping().is_cancelled() || self.registration.refused.is_cancelled() {
                return None;
            }
            if let Some(sight) = self.ready.pop_front() {
                return Some(sight);
            }
            if self.position < self.missed_until {
                self.read_missed().await.ok()?;
                continue;
            }
            tokio::select! {
                biased;
                () = self.hub.stopping().cancelled() => return None,
                () = self.registration.refused.cancelled() => return None,
                update = self.registration.updates.recv() => match update {
                    Ok(update) => self.take(&update),
                    // The next update shows what is missing.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }

    async fn read_missed(&mut self) -> sqlx::Result<()> {
        let (pool, namespace_id) = (self.hub.pool(), self.scope.namespace_id);
        let (after, until) = (self.position, self.missed_until);
        let page = match &self.scope.name {
            Some(name) => store::of_lock(pool, namespace_id, name, after, until, PAGE).await,
            None => store::of_namespaces(pool, &[namespace_id.0], after, until, PAGE).await,
        };
        let page = page.inspect_err(|error| {
            tracing::debug!(%error, "a watcher ends: its events cannot be read");
        })?;
        self.position = match page.last() {
            Some(last) if page.len() as i64 == PAGE => last.event_id,
            _ => until,
        };
        let sights = page.into_iter().map(|event| Sight::Event(Arc::new(event)));
        self.ready.extend(sights);
        Ok(())
    }

    fn take(&mut self, update: &Update) {
        if update.until > self.position {
            let events = update.events.get(&self.scope.namespace_id);
            match events.filter(|_| update.after <= self.position) {
                Some(events) => {
                    let new = events.iter().filter(|event| {
                        event.event_id > self.position && is_within(&self.scope, event)
                    });
                    self.ready.extend(new.cloned().map(Sight::Event));
                    self.position = update.until;
                }
                // It missed the update before, or began to watch after this one was asked for.
                None => self.missed_until = self.missed_until.max(update.until),
            }
        }
        if let Some(state) = update.states.get(&self.scope)
            && !self
                .state
                .as_ref()
                .is_some_and(|known| known.is_like(state))
        {
            self.state = Some(Arc::clone(state));
            self.ready.push_back(Sight::State(Arc::clone(state)));
        }
    }
}

/// True if a watcher of the scope sees the event, which is of its namespace.
fn is_within(scope: &Scope, event: &Event) -> bool {
    match (&scope.name, &event.name) {
        (Some(scope), Some(name)) => **scope == **name,
        // A watcher of the namespace sees all, and everybody the gaps.
        (None, _) | (_, None) => true,
    }
}

fn gap(scope: &Scope, event_id: i64, reason: &str) -> Event {
    Event {
        event_id,
        namespace_id: scope.namespace_id,
        kind: EventKind::Gap,
        at: Utc::now(),
        name: None,
        lease_id: None,
        fencing_token: None,
        holder: None,
        token_label: None,
        waited_ms: None,
        held_ms: None,
        reason: Some(reason.to_owned()),
    }
}
