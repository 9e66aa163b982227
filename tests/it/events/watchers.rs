//! Watchers: slow ones, many of them, none, and those that may not watch any more.

use std::time::{Duration, Instant};

use lockable::accounts;
use lockable::audit::Actor;
use lockable::events::{EventKind, EventsError, Recorder, Sight, Watch};
use lockable::id::NamespaceId;
use lockable::{events, tokens};
use uuid::Uuid;

use super::kit::{World, end, grant, next_event};
use crate::support::prelude::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_the_buffer_does_not_take_is_a_gap() {
    let world = World::start().await;
    let mut of_all = world.watch(&world.app.events, None, None).await;
    let mut of_lock = world.watch(&world.app.events, Some("other"), None).await;
    let recorder = Recorder::with_capacity(3);
    recorder.record((1..=10).map(|token| world.event("a", token, EventKind::Granted)));
    recorder.write(&world.app.app.db).await.unwrap();
    assert_eq!(recorder.waiting(), 0);
    let mut kinds = Vec::new();
    for _ in 0..4 {
        kinds.push(next_event(&mut of_all).await.kind);
    }
    kinds.sort_unstable();
    let granted = EventKind::Granted;
    assert_eq!(kinds, [EventKind::Gap, granted, granted, granted]);
    // It may have been about any lock of the namespace.
    let gap = next_event(&mut of_lock).await;
    assert_eq!((gap.kind, gap.name.as_deref()), (EventKind::Gap, None));
    assert_eq!(gap.reason.as_deref(), Some("7 events were lost here"));
    let limits = world.account.row().await.limits;
    let (pool, id) = (&world.app.app.db, world.namespace_id);
    let history = events::history(pool, &limits, id, "other", None, 10)
        .await
        .unwrap();
    assert_eq!(history, [(*gap).clone()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_up_nobody_and_misses_nothing() {
    let world = World::start().await;
    let hub = &world.app.events;
    let mut slow = world.watch(hub, None, None).await;
    let mut quick = world.watch(hub, None, None).await;
    assert!(matches!(slow.next().await, Some(Sight::Position(0))));
    // More than the updates that are kept for it: a hub has sixteen of at most 2,000 events.
    let batches = 20;
    for batch in 0..batches {
        let tokens = (1..=2000).map(|n| batch * 2000 + n);
        let new = tokens.map(|token| world.event("a", token, EventKind::Granted));
        events::record_now(&world.app.app.db, new.collect())
            .await
            .unwrap();
    }
    for token in 1..=batches * 2000 {
        assert_eq!(next_event(&mut quick).await.fencing_token, Some(token));
    }
    for token in 1..=batches * 2000 {
        assert_eq!(next_event(&mut slow).await.fencing_token, Some(token));
    }
    // Both go on live.
    let last = world.event("a", 50_000, EventKind::Granted);
    events::record_now(&world.app.app.db, vec![last])
        .await
        .unwrap();
    for watch in [&mut quick, &mut slow] {
        assert_eq!(next_event(watch).await.fencing_token, Some(50_000));
    }
}

/// How often readers asked for the newest event, once the statistics tell.
async fn askings(world: &World) -> i64 {
    let calls = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_user_functions
                  WHERE funcname = 'settled_event_id'";
    world.app.db.value::<i64>(calls).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_asks_for_all_its_watchers_together_and_for_none_not_at_all() {
    let world = World::start().await;
    let track = format!(
        "ALTER DATABASE {} SET track_functions = 'pl'",
        world.app.db.name
    );
    world.app.db.execute(&track).await;
    // Its sessions count from their beginning.
    let node = world.app.another_node().await;
    grant(&node.locks, world.request("a", Uuid::from_u128(1))).await;
    world.written(1).await;
    let writes = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_user_functions
                   WHERE funcname = 'write_lock_events'";
    eventually("the write is counted", async || {
        (world.app.db.value::<i64>(writes).await > 0).then_some(())
    })
    .await;
    assert_eq!(askings(&world).await, 0, "nobody watches");

    let began = Instant::now();
    let watchers = 30;
    let mut watches = Vec::new();
    for n in 0..watchers {
        let name = (n % 2 == 0).then_some("a");
        watches.push(world.watch(&node.events, name, None).await);
    }
    end(&node.locks, world.release("a", Uuid::from_u128(1))).await;
    for watch in &mut watches {
        // The grant before may have settled only since.
        while next_event(watch).await.kind != EventKind::Released {}
    }
    eventually("the askings are counted", async || {
        (askings(&world).await > watchers + 1).then_some(())
    })
    .await;
    // Each watcher asks once when it begins; the node twice a second, after it was answered.
    let rounds = began.elapsed().as_millis() as i64 / 490 + 1;
    let asked = askings(&world).await;
    assert!(
        asked <= watchers + rounds,
        "{asked} askings in {rounds} rounds"
    );
    drop(watches);
    assert!(node.events.is_empty());
}

/// Waits until the watcher ends.
async fn ended(mut watch: Watch) {
    let end = async { while watch.next().await.is_some() {} };
    let ended = tokio::time::timeout(Duration::from_secs(20), end).await;
    assert!(ended.is_ok(), "it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_ends_with_its_access() {
    let world = World::start().await;
    let (hub, pool) = (&world.app.events, &world.app.app.db);
    let of_token = world.watch(hub, None, None).await;
    let mut access = world.access();
    access.token_id = None;
    let of_account = Watch::start(hub, world.scope(Some("a")), access, None)
        .await
        .unwrap();
    let actor = Actor::command("test");
    tokens::revoke(pool, &actor, world.account_id(), world.token_id)
        .await
        .unwrap();
    ended(of_token).await;
    assert_eq!(hub.len(), 1, "the other goes on");
    accounts::suspend(pool, &actor, world.account_id(), "unpaid")
        .await
        .unwrap();
    ended(of_account).await;
    assert!(hub.is_empty());
    // Nobody watches another's namespace, or the public one.
    let stranger = world.app.account("business").await;
    let mut access = world.access();
    (access.account_id, access.token_id) = (stranger.id, None);
    ended(
        Watch::start(hub, world.scope(None), access, None)
            .await
            .unwrap(),
    )
    .await;
    let mut public = world.scope(None);
    public.namespace_id = NamespaceId::PUBLIC;
    let refused = Watch::start(hub, public, access, None).await;
    assert!(matches!(refused, Err(EventsError::Public)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_ends_its_watchers_and_takes_no_new_ones() {
    let world = World::start().await;
    let node = world.app.another_node().await;
    let watch = world.watch(&node.events, None, None).await;
    node.app.stopping.cancel();
    ended(watch).await;
    let refused = Watch::start(&node.events, world.scope(None), world.access(), None).await;
    assert!(
        matches!(refused, Err(EventsError::ShuttingDown)),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_a_watched_lock_is_seen_when_it_changes() {
    let world = World::start().await;
    let engine = &world.app.locks;
    let mut watch = world.watch(&world.app.events, Some("a"), None).await;
    let mut next_state = async |tokens: &[i64], queue_length| {
        let next = async {
            loop {
                if let Some(Sight::State(state)) = watch.next().await {
                    let seen: Vec<i64> = state.leases.iter().map(|l| l.fencing_token).collect();
                    if seen == tokens && state.queue_length == queue_length {
                        return state;
                    }
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), next)
            .await
            .expect("no such state")
    };
    next_state(&[], 0).await;
    let lease = grant(engine, world.request("a", Uuid::from_u128(1))).await;
    let state = next_state(&[lease.fencing_token], 0).await;
    let seen = &state.leases[0];
    assert_eq!(seen.holder.as_deref(), Some("me"));
    assert_eq!(
        (seen.lease_id, seen.permits, seen.slot),
        (Uuid::from_u128(1), 1, None)
    );
    assert!(
        (1..=60_000).contains(&seen.remaining_ms),
        "{}",
        seen.remaining_ms
    );
    let mut waits = world.request("a", Uuid::from_u128(2));
    waits.wait_ms = 60_000;
    let waiting = tokio::spawn({
        let engine = engine.clone();
        async move { engine.acquire(waits).await }
    });
    next_state(&[lease.fencing_token], 1).await;
    waiting.abort();
    end(engine, world.release("a", Uuid::from_u128(1))).await;
}
