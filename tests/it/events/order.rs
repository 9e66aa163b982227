//! The order of events: batches of several nodes overlap, and events come late.

use lockable::events::{self, EventKind};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::kit::{World, next_events};
use crate::support::prelude::*;

/// Writes the grant of one lease in a session of its own.
fn statement(world: &World, fencing_token: i64) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!(
        "SELECT write_lock_events(ARRAY[{}::bigint], ARRAY['a{fencing_token}'],
                ARRAY[{fencing_token}::bigint], ARRAY[1::smallint], ARRAY[clock_timestamp()],
                ARRAY[NULL::uuid], ARRAY[NULL::bigint], ARRAY[NULL::text], ARRAY[0],
                ARRAY[NULL::timestamptz], ARRAY[NULL::text])",
        world.namespace_id.0
    ))
}

/// Ids from a sequence, which other batches do not wait for, and a reader that believes the
/// greatest.
const PLAIN_SEQUENCE: &str = "
    CREATE SEQUENCE plain;
    CREATE OR REPLACE FUNCTION write_lock_events(namespace_ids bigint[], names text[],
        fencing_tokens bigint[], kinds smallint[], ats timestamptz[], lease_ids uuid[],
        token_ids bigint[], holders text[], waits integer[], acquired_ats timestamptz[],
        reasons text[])
    RETURNS integer LANGUAGE sql AS $$
      INSERT INTO lock_events (event_id, namespace_id, name, fencing_token, kind, at)
      VALUES (nextval('plain'), namespace_ids[1], names[1], fencing_tokens[1], kinds[1], ats[1]);
      SELECT 1
    $$;
    CREATE OR REPLACE FUNCTION settled_event_id() RETURNS bigint LANGUAGE sql AS $$
      SELECT coalesce(max(event_id), 0) FROM lock_events
    $$";

/// Two batches overlap: the one that begins later commits first, if it can. Returns the fencing
/// tokens that a watcher sees, up to that of a third batch.
async fn overlapping_batches(mutant: Option<&'static str>) -> Vec<i64> {
    let world = World::start().await;
    let db = &world.app.db;
    if let Some(mutant) = mutant {
        db.execute(mutant).await;
    }
    let mut watch = world.watch(&world.app.events, None, None).await;
    let mut first = db.connect().await;
    first.execute("BEGIN").await.unwrap();
    first.execute(statement(&world, 1)).await.unwrap();
    let mut second = db.connect().await;
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut second)
        .await
        .unwrap();
    let write = statement(&world, 2);
    let second = tokio::spawn(async move {
        second.execute(write).await.unwrap();
    });
    let waits = format!(
        "SELECT coalesce(bool_or(wait_event_type = 'Lock'), false) FROM pg_stat_activity
          WHERE pid = {pid}"
    );
    eventually("the second batch waits, or is written", async || {
        (second.is_finished() || db.value::<bool>(&waits).await).then_some(())
    })
    .await;
    let mut seen = Vec::new();
    if second.is_finished() {
        seen.extend(next_events(&mut watch, 1).await);
    }
    first.execute("COMMIT").await.unwrap();
    second.await.unwrap();
    let mut third: PgConnection = db.connect().await;
    third.execute(statement(&world, 3)).await.unwrap();
    third.close().await.unwrap();
    while seen
        .last()
        .is_none_or(|(_, _, fencing_token)| *fencing_token != 3)
    {
        seen.extend(next_events(&mut watch, 1).await);
    }
    seen.into_iter()
        .map(|(_, _, fencing_token)| fencing_token)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_become_visible_in_order_while_batches_overlap() {
    assert_eq!(overlapping_batches(None).await, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_sequence_would_lose_events() {
    assert_eq!(overlapping_batches(Some(PLAIN_SEQUENCE)).await, [2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_comes_late_takes_its_place_before_those_that_came_early() {
    use EventKind::{Granted, Released};
    let world = World::start().await;
    let mut watch = world.watch(&world.app.events, None, None).await;
    let event = |token, kind| world.event("a", token, kind);
    let write = async |events| events::record_now(&world.app.app.db, events).await.unwrap();
    // One node took the lock over twice, before another writes the leases in between.
    write(vec![
        event(3, Granted),
        event(5, Granted),
        event(5, Released),
    ])
    .await;
    write(vec![
        event(4, Granted),
        event(4, Released),
        event(3, Released),
    ])
    .await;
    // The grant comes after the end, and tells it the holder.
    write(vec![event(6, Released)]).await;
    write(vec![event(6, Granted)]).await;
    let seen = next_events(&mut watch, 8).await;
    let seen: Vec<_> = seen
        .iter()
        .map(|(_, kind, token)| (*token, *kind))
        .collect();
    let expected: Vec<_> = (3..=6)
        .flat_map(|token| [(token, "granted"), (token, "released")])
        .collect();
    assert_eq!(seen, expected);
    let unknown = "SELECT count(*) FROM lock_events
                    WHERE holder IS NULL OR token_label IS NULL OR kind = 2 AND held_ms <> 1";
    assert_eq!(world.app.db.value::<i64>(unknown).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_seen_keeps_its_id() {
    let world = World::start().await;
    let mut watch = world.watch(&world.app.events, None, None).await;
    let late = world.event("a", 1, EventKind::Released);
    let early = world.event("a", 2, EventKind::Granted);
    events::record_now(&world.app.app.db, vec![early])
        .await
        .unwrap();
    assert_eq!(
        next_events(&mut watch, 1).await,
        [("a".to_owned(), "granted", 2)]
    );
    events::record_now(&world.app.app.db, vec![late.clone()])
        .await
        .unwrap();
    // Written again, it stays what it is.
    events::record_now(&world.app.app.db, vec![late])
        .await
        .unwrap();
    assert_eq!(
        next_events(&mut watch, 1).await,
        [("a".to_owned(), "released", 1)]
    );
    assert_eq!(world.table().await.len(), 2);
}
