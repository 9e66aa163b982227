//! Nodes, a private namespace, and requests for its locks.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use lockable::events::{Access, Event, EventKind, Hub, NewEvent, Scope, Sight, Watch};
use lockable::id::{AccountId, NamespaceId, TokenId};
use lockable::locks::{
    Acquire, AcquireOutcome, Engine, Lease, LockKey, LockName, Mode, Release, ReleaseOutcome,
};
use lockable::tokens::Scope as TokenScope;
use uuid::Uuid;

use crate::support::app::TestAccount;
use crate::support::prelude::*;

/// A node, and an account with a private namespace `team` and a token for it, labelled `test`.
pub(super) struct World {
    pub(super) app: TestApp,
    pub(super) account: TestAccount,
    pub(super) namespace_id: NamespaceId,
    pub(super) token_id: TokenId,
}

impl World {
    pub(super) async fn start() -> World {
        let app = TestApp::start().await;
        let account = app.account("business").await;
        account.namespace("team").await;
        let (token_id, _) = account.token_with("team", TokenScope::Locks, None).await;
        let id = "SELECT namespace_id FROM namespaces WHERE name = 'team'";
        let namespace_id = NamespaceId(app.db.value::<i64>(id).await);
        World {
            app,
            account,
            namespace_id,
            token_id,
        }
    }

    pub(super) fn account_id(&self) -> AccountId {
        self.account.id
    }

    pub(super) fn key(&self, name: &str) -> LockKey {
        LockKey {
            namespace_id: self.namespace_id,
            name: LockName::new(name).unwrap(),
        }
    }

    /// An acquire of 60 s with a lease id.
    pub(super) fn request(&self, name: &str, lease_id: Uuid) -> Acquire {
        Acquire {
            key: self.key(name),
            account_id: self.account_id(),
            token_id: self.token_id,
            lease_id,
            needs_proof: true,
            lease_ms: 60_000,
            requested_ms: None,
            holder: Some("me".to_owned()),
            metadata: None,
            mode: Mode::Exclusive,
            max_hold_ms: None,
            wait_ms: 0,
            max_live_locks: i32::MAX,
            max_waiters: i32::MAX,
            max_waiters_of_lock: i32::MAX,
        }
    }

    pub(super) fn release(&self, name: &str, lease_id: Uuid) -> Release {
        Release {
            key: self.key(name),
            account_id: self.account_id(),
            lease_id: Some(lease_id),
        }
    }

    pub(super) fn access(&self) -> Access {
        Access {
            account_id: self.account_id(),
            token_id: Some(self.token_id),
        }
    }

    pub(super) fn scope(&self, name: Option<&str>) -> Scope {
        Scope {
            namespace_id: self.namespace_id,
            name: name.map(Arc::from),
        }
    }

    pub(super) async fn watch(&self, hub: &Hub, name: Option<&str>, after: Option<i64>) -> Watch {
        Watch::start(hub, self.scope(name), self.access(), after)
            .await
            .unwrap()
    }

    /// An event of a made-up lease.
    pub(super) fn event(&self, name: &str, fencing_token: i64, kind: EventKind) -> NewEvent {
        NewEvent {
            namespace_id: self.namespace_id,
            name: Arc::from(name),
            kind,
            // Instants in the order of fencing tokens and kinds.
            at: self.instant(fencing_token * 10 + kind as i64),
            lease_id: Some(Uuid::from_u128(fencing_token as u128)),
            fencing_token,
            token_id: (kind == EventKind::Granted).then_some(self.token_id),
            holder: (kind == EventKind::Granted).then(|| "me".to_owned()),
            waited_ms: (kind == EventKind::Granted).then_some(0),
            acquired_at: None,
            reason: None,
        }
    }

    fn instant(&self, n: i64) -> DateTime<Utc> {
        let today = Utc::now().date_naive().and_hms_opt(0, 0, 0).unwrap();
        today.and_utc() + chrono::TimeDelta::milliseconds(n)
    }

    /// The events as the table has them, in the order of their ids: name, kind, fencing token.
    pub(super) async fn table(&self) -> Vec<(String, i16, i64)> {
        sqlx::query_as(
            "SELECT name, kind, fencing_token FROM lock_events WHERE namespace_id = $1
              ORDER BY event_id",
        )
        .bind(self.namespace_id.0)
        .fetch_all(&self.app.db.pool)
        .await
        .unwrap()
    }

    /// Waits until the table has so many events.
    pub(super) async fn written(&self, count: usize) -> Vec<(String, i16, i64)> {
        eventually("the events are written", async || {
            let table = self.table().await;
            assert!(table.len() <= count, "{table:?}");
            (table.len() == count).then_some(table)
        })
        .await
    }
}

/// Takes a lock that must be free.
pub(super) async fn grant(engine: &Engine, request: Acquire) -> Lease {
    match engine.acquire(request).await {
        Ok(AcquireOutcome::Granted(lease)) => lease,
        other => panic!("not granted: {other:?}"),
    }
}

/// Ends a lease that must live.
pub(super) async fn end(engine: &Engine, request: Release) {
    let outcome = engine.release(request).await;
    assert_eq!(outcome, Ok(ReleaseOutcome::Released));
}

/// The next event that a watcher sees.
pub(super) async fn next_event(watch: &mut Watch) -> Arc<Event> {
    let next = async {
        loop {
            match watch.next().await {
                Some(Sight::Event(event)) => return event,
                Some(Sight::Position(_) | Sight::State(_)) => {}
                None => panic!("the watcher has ended"),
            }
        }
    };
    tokio::time::timeout(crate::support::wait::DEADLINE, next)
        .await
        .expect("no event came")
}

/// The next events: name, kind, fencing token.
pub(super) async fn next_events(
    watch: &mut Watch,
    count: usize,
) -> Vec<(String, &'static str, i64)> {
    let mut events = Vec::new();
    for _ in 0..count {
        let event = next_event(watch).await;
        events.push((
            event.name.clone().unwrap_or_default(),
            event.kind.as_str(),
            event.fencing_token.unwrap_or_default(),
        ));
    }
    events
}
