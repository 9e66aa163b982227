//! Events are kept for as long as the plan says, and histories are read page by page.

use lockable::audit::Actor;
use lockable::events::{self, EventKind, EventsError, Purge};
use lockable::{namespaces, plans};

use super::kit::{World, next_event, next_events};
use crate::support::prelude::*;

/// Waits until readers may see all events.
async fn settled(world: &World) {
    eventually("the events are settled", async || {
        let settled = "SELECT settled_event_id() = last_event_id FROM lock_event_counter";
        world.app.db.value::<bool>(settled).await.then_some(())
    })
    .await;
}

async fn record(world: &World, tokens: impl Iterator<Item = i64>) {
    let new = tokens.map(|token| world.event("a", token, EventKind::Granted));
    events::record_now(&world.app.app.db, new.collect())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_read_page_by_page_newest_first() {
    let world = World::start().await;
    let (pool, id) = (&world.app.app.db, world.namespace_id);
    record(&world, 1..=25).await;
    let others = vec![world.event("b", 99, EventKind::Granted)];
    events::record_now(pool, others).await.unwrap();
    settled(&world).await;
    let limits = world.account.row().await.limits;
    let (mut before, mut tokens) = (None, Vec::new());
    loop {
        let page = events::history(pool, &limits, id, "a", before, 10)
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.event_id);
        assert!(page.iter().all(|event| event.name.as_deref() == Some("a")));
        tokens.extend(page.iter().filter_map(|event| event.fencing_token));
    }
    assert!(tokens.into_iter().eq((1..=25).rev()));
}

#[tokio::test(flavor = "multi_thread")]
async fn old_events_are_deleted_and_their_readers_learn_of_it() {
    let world = World::start().await;
    let (pool, id) = (&world.app.app.db, world.namespace_id);
    record(&world, 1..=1500).await;
    settled(&world).await;
    let mut purge = Purge::default();
    assert_eq!(purge.step(pool).await.unwrap(), 0);
    // A week later, for all but the last hundred.
    let age = "UPDATE lock_events SET at = at - interval '8 d' WHERE fencing_token <= 1400";
    world.app.db.execute(age).await;
    // The plan's history hides them at once.
    let limits = world.account.row().await.limits;
    let shown = events::history(pool, &limits, id, "a", None, 2000)
        .await
        .unwrap();
    assert_eq!(shown.len(), 100);
    eventually(
        "they are deleted, by this step or by the node's",
        async || {
            purge.step(pool).await.unwrap();
            (world.table().await.len() == 100).then_some(())
        },
    )
    .await;
    // A reader that has seen some of them is told so; one that has seen more is not.
    let first_id = "SELECT min(event_id) FROM lock_events";
    let first_id = world.app.db.value::<i64>(first_id).await;
    let mut late = world
        .watch(&world.app.events, None, Some(first_id - 2))
        .await;
    let gap = next_event(&mut late).await;
    assert_eq!((gap.kind, gap.event_id), (EventKind::Gap, first_id - 1));
    assert_eq!(next_event(&mut late).await.event_id, first_id);
    let mut in_time = world
        .watch(&world.app.events, None, Some(first_id - 1))
        .await;
    assert_eq!(next_event(&mut in_time).await.event_id, first_id);
    // One that comes from another database is told so, too.
    let mut foreign = world.watch(&world.app.events, None, Some(1 << 40)).await;
    assert_eq!(next_event(&mut foreign).await.kind, EventKind::Gap);
    record(&world, 9000..=9000).await;
    assert_eq!(next_events(&mut foreign, 1).await[0].2, 9000);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_history_events_are_kept_for_an_hour() {
    let world = World::start().await;
    let (pool, id) = (&world.app.app.db, world.namespace_id);
    let actor = Actor::command("test");
    plans::update(pool, &actor, "business", |limits| limits.history_days = 0)
        .await
        .unwrap();
    let limits = world.account.row().await.limits;
    let refused = events::history(pool, &limits, id, "a", None, 10).await;
    assert!(
        matches!(refused, Err(EventsError::NotInPlan)),
        "{refused:?}"
    );
    let now = chrono::Utc::now();
    let mut old = world.event("a", 1, EventKind::Granted);
    old.at = now - chrono::TimeDelta::minutes(61);
    let mut young = world.event("a", 2, EventKind::Granted);
    young.at = now - chrono::TimeDelta::minutes(59);
    events::record_now(pool, vec![old, young]).await.unwrap();
    assert_eq!(world.table().await, [("a".to_owned(), 1, 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_namespace_takes_its_events_with_it() {
    let world = World::start().await;
    let pool = &world.app.app.db;
    record(&world, 1..=1500).await;
    namespaces::delete(pool, &Actor::command("test"), world.account_id(), "team")
        .await
        .unwrap();
    let mut purge = Purge::default();
    eventually(
        "they are deleted, by this step or by the node's",
        async || {
            purge.step(pool).await.unwrap();
            world.table().await.is_empty().then_some(())
        },
    )
    .await;
    // What still waits on a node is not written any more.
    record(&world, 2000..=2000).await;
    assert!(world.table().await.is_empty());
}
