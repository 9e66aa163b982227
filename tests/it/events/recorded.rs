//! What is recorded, by whoever finds it, and what is not.

use lockable::audit::Actor;
use lockable::events::EventKind;
use lockable::id::NamespaceId;
use lockable::locks::{
    self, Acquire, AcquireAll, AcquireAllOutcome, AcquireOutcome, LeasesToBreak, LockName, Mode,
};
use uuid::Uuid;

use super::kit::{World, end, grant};
use crate::support::prelude::*;

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

/// Kinds and lease ids of a lock's events.
async fn of_lock(world: &World, name: &str, count: usize) -> Vec<(i16, Uuid)> {
    let of_lock =
        format!("SELECT kind, lease_id FROM lock_events WHERE name = '{name}' ORDER BY event_id");
    eventually("the events are written", async || {
        let rows: Vec<(i16, Uuid)> = sqlx::query_as(sqlx::AssertSqlSafe(of_lock.clone()))
            .fetch_all(&world.app.db.pool)
            .await
            .unwrap();
        assert!(rows.len() <= count, "{rows:?}");
        (rows.len() == count).then_some(rows)
    })
    .await
}

const GRANTED: i16 = EventKind::Granted as i16;
const RELEASED: i16 = EventKind::Released as i16;
const EXPIRED: i16 = EventKind::Expired as i16;
const BROKEN: i16 = EventKind::Broken as i16;

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_and_its_release_are_recorded_whole() {
    let world = World::start().await;
    let engine = &world.app.locks;
    let lease = grant(engine, world.request("a", id(1))).await;
    // A repetition is a renewal, and no event; nor is a heartbeat or a refusal.
    grant(engine, world.request("a", id(1))).await;
    let refused = engine.acquire(world.request("a", id(2))).await;
    assert_eq!(refused, Ok(AcquireOutcome::Held));
    end(engine, world.release("a", id(1))).await;
    end(engine, world.release("a", id(1))).await;
    world.written(2).await;
    let whole = format!(
        "SELECT count(*) FROM lock_events g JOIN lock_events r USING (namespace_id, name)
          WHERE g.kind = 1 AND r.kind = 2 AND g.event_id < r.event_id
            AND g.fencing_token = {token} AND r.fencing_token = {token}
            AND g.lease_id = r.lease_id AND g.holder = 'me' AND r.holder = 'me'
            AND g.token_label = 'test' AND r.token_label = 'test'
            AND g.waited_ms = 0 AND g.held_ms IS NULL AND r.waited_ms IS NULL
            AND r.held_ms = round(extract(epoch FROM r.at - g.at) * 1000)
            AND g.reason IS NULL AND r.reason IS NULL",
        token = lease.fencing_token
    );
    assert_eq!(world.app.db.value::<i64>(&whole).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_namespace_has_no_events() {
    let world = World::start().await;
    let engine = &world.app.locks;
    let mut public = world.request("p", id(1));
    public.key.namespace_id = NamespaceId::PUBLIC;
    grant(engine, public).await;
    let mut release = world.release("p", id(1));
    release.key.namespace_id = NamespaceId::PUBLIC;
    end(engine, release).await;
    assert_eq!(engine.recorder().waiting(), 0);
    grant(engine, world.request("a", id(1))).await;
    assert_eq!(world.written(1).await[0].0, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_nobody_received_is_not_recorded() {
    let world = World::start().await;
    let engine = &world.app.locks;
    let plain = Acquire {
        needs_proof: false,
        ..world.request("a", id(1))
    };
    // The row is locked, so that the client goes while the statement waits.
    grant(engine, world.request("a", id(2))).await;
    end(engine, world.release("a", id(2))).await;
    let mut session = world.app.db.connect().await;
    for lock in ["BEGIN", "SELECT FROM locks WHERE name = 'a' FOR UPDATE"] {
        sqlx::query(lock).execute(&mut session).await.unwrap();
    }
    let asking = tokio::spawn({
        let engine = engine.clone();
        async move { engine.acquire(plain).await }
    });
    eventually("it waits for the row", async || {
        let waits = "SELECT count(*) FROM pg_stat_activity
                      WHERE datname = current_database() AND wait_event_type = 'Lock'";
        (world.app.db.value::<i64>(waits).await > 0).then_some(())
    })
    .await;
    asking.abort();
    sqlx::query("COMMIT").execute(&mut session).await.unwrap();
    eventually("it is granted to nobody, and released", async || {
        let released = "SELECT count(*) FROM locks WHERE end_reason = 1
                           AND lease_id = '00000000-0000-0000-0000-000000000001'";
        (world.app.db.value::<i64>(released).await == 1).then_some(())
    })
    .await;
    grant(engine, world.request("b", id(3))).await;
    eventually("the later grant is written", async || {
        let table = world.table().await;
        table.iter().any(|(name, ..)| name == "b").then_some(())
    })
    .await;
    assert_eq!(
        of_lock(&world, "a", 2).await,
        [(GRANTED, id(2)), (RELEASED, id(2))]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_permits_breaks_and_several_locks_are_recorded() {
    let world = World::start().await;
    let engine = &world.app.locks;
    // A waiter: the hand-over, and how long it waited.
    grant(engine, world.request("w", id(1))).await;
    let waiting = engine.acquire(Acquire {
        wait_ms: 30_000,
        ..world.request("w", id(2))
    });
    let release = async {
        eventually("it waits", async || (engine.waiters() > 0).then_some(())).await;
        end(engine, world.release("w", id(1))).await;
    };
    let (outcome, ()) = tokio::join!(waiting, release);
    assert!(
        matches!(outcome, Ok(AcquireOutcome::Granted(_))),
        "{outcome:?}"
    );
    end(engine, world.release("w", id(2))).await;
    let expected = [
        (GRANTED, id(1)),
        (RELEASED, id(1)),
        (GRANTED, id(2)),
        (RELEASED, id(2)),
    ];
    assert_eq!(of_lock(&world, "w", 4).await, expected);
    let waited = "SELECT count(*) FROM lock_events WHERE name = 'w' AND waited_ms > 0";
    assert_eq!(world.app.db.value::<i64>(waited).await, 1);

    // Permits.
    let mode = Mode::Semaphore { limit: 2 };
    for n in [1, 2] {
        grant(
            engine,
            Acquire {
                mode,
                ..world.request("s", id(n))
            },
        )
        .await;
    }
    end(engine, world.release("s", id(1))).await;
    let (pool, actor) = (&world.app.app.db, Actor::command("test"));
    let (namespace, all) = ((world.namespace_id, "team"), LeasesToBreak::default());
    let name = LockName::new("s").unwrap();
    let broken =
        locks::store::break_leases(pool, &actor, (namespace, &name), all, "it hangs").await;
    assert_eq!(broken.unwrap().len(), 1);
    let expected = [
        (GRANTED, id(1)),
        (GRANTED, id(2)),
        (RELEASED, id(1)),
        (BROKEN, id(2)),
    ];
    assert_eq!(of_lock(&world, "s", 4).await, expected);

    // A break on the account's pages.
    let lease = grant(engine, world.request("b", id(1))).await;
    let name = LockName::new("b").unwrap();
    let token = lease.fencing_token;
    locks::break_own(
        pool,
        &actor,
        world.account_id(),
        namespace,
        &name,
        token,
        "gone away",
    )
    .await
    .unwrap();
    assert_eq!(
        of_lock(&world, "b", 2).await,
        [(GRANTED, id(1)), (BROKEN, id(1))]
    );
    let reasons = "SELECT string_agg(reason, ',' ORDER BY reason) FROM lock_events";
    assert_eq!(
        world.app.db.value::<String>(reasons).await,
        "gone away,it hangs"
    );

    // Several at once.
    let together = AcquireAll {
        namespace_id: world.namespace_id,
        names: vec![LockName::new("t1").unwrap(), LockName::new("t2").unwrap()],
        account_id: world.account_id(),
        token_id: world.token_id,
        lease_id: id(9),
        lease_ms: 60_000,
        requested_ms: None,
        max_hold_ms: None,
        holder: None,
        metadata: None,
        max_live_locks: i32::MAX,
    };
    let outcome = engine.acquire_all(together).await;
    assert!(
        matches!(outcome, Ok(AcquireAllOutcome::Granted(_))),
        "{outcome:?}"
    );
    for name in ["t1", "t2"] {
        assert_eq!(of_lock(&world, name, 1).await, [(GRANTED, id(9))]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_is_found_by_the_takeover() {
    let world = World::start().await;
    let engine = &world.app.locks;
    let short = |name, n| Acquire {
        lease_ms: 1000,
        max_hold_ms: (name == "h").then_some(1000),
        ..world.request(name, id(n))
    };
    for name in ["a", "h", "t"] {
        grant(engine, short(name, 1)).await;
    }
    for name in ["a", "h"] {
        eventually("it lapses, and is taken over", async || {
            let outcome = engine.acquire(world.request(name, id(2))).await;
            matches!(outcome, Ok(AcquireOutcome::Granted(_))).then_some(())
        })
        .await;
        let expected = [(GRANTED, id(1)), (EXPIRED, id(1)), (GRANTED, id(2))];
        assert_eq!(of_lock(&world, name, 3).await, expected);
    }
    let held = "SELECT string_agg(concat_ws(' ', name, held_ms, reason), ',' ORDER BY name)
                  FROM lock_events WHERE kind = 3";
    assert_eq!(
        world.app.db.value::<String>(held).await,
        "a 1000,h 1000 hold-limit"
    );

    // By several at once.
    let together = AcquireAll {
        namespace_id: world.namespace_id,
        names: vec![LockName::new("t").unwrap()],
        account_id: world.account_id(),
        token_id: world.token_id,
        lease_id: id(2),
        lease_ms: 60_000,
        requested_ms: None,
        max_hold_ms: None,
        holder: None,
        metadata: None,
        max_live_locks: i32::MAX,
    };
    let outcome = engine.acquire_all(together).await;
    assert!(
        matches!(outcome, Ok(AcquireAllOutcome::Granted(_))),
        "{outcome:?}"
    );
    let expected = [(GRANTED, id(1)), (EXPIRED, id(1)), (GRANTED, id(2))];
    assert_eq!(of_lock(&world, "t", 3).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_is_found_by_the_gate() {
    let world = World::start().await;
    let engine = &world.app.locks;
    let short = |name, n| Acquire {
        lease_ms: 1000,
        ..world.request(name, id(n))
    };
    let waits = |name, n| Acquire {
        wait_ms: 30_000,
        ..world.request(name, id(n))
    };
    // An exclusive lease, and a permit.
    grant(engine, short("a", 1)).await;
    let mode = Mode::Semaphore { limit: 2 };
    for n in [1, 2] {
        grant(
            engine,
            Acquire {
                mode,
                ..short("s", n)
            },
        )
        .await;
    }
    let (a, s) = tokio::join!(
        engine.acquire(waits("a", 3)),
        engine.acquire(Acquire {
            mode,
            ..waits("s", 3)
        })
    );
    for outcome in [a, s] {
        assert!(
            matches!(outcome, Ok(AcquireOutcome::Granted(_))),
            "{outcome:?}"
        );
    }
    let expected = [(GRANTED, id(1)), (EXPIRED, id(1)), (GRANTED, id(3))];
    assert_eq!(of_lock(&world, "a", 3).await, expected);
    eventually("both permits lapse", async || {
        engine.advance(world.key("s")).await.unwrap();
        let count = "SELECT count(*) FROM lock_events WHERE name = 's'";
        (world.app.db.value::<i64>(count).await == 5).then_some(())
    })
    .await;
    let mut events = of_lock(&world, "s", 5).await;
    events.sort_unstable();
    let expected = [
        (GRANTED, id(1)),
        (GRANTED, id(2)),
        (GRANTED, id(3)),
        (EXPIRED, id(1)),
        (EXPIRED, id(2)),
    ];
    assert_eq!(events, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_is_found_by_the_sweeper() {
    let world = World::start().await;
    let engine = &world.app.locks;
    grant(engine, world.request("a", id(1))).await;
    grant(engine, world.request("b", id(1))).await;
    end(engine, world.release("b", id(1))).await;
    world.written(3).await;
    // Two hours later.
    world
        .app
        .db
        .execute(
            "UPDATE locks SET acquired_at = acquired_at - interval '2 h',
                              expires_at = expires_at - interval '2 h'",
        )
        .await;
    let expected = [(GRANTED, id(1)), (EXPIRED, id(1))];
    let mut found = of_lock(&world, "a", 2).await;
    found.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(
        of_lock(&world, "b", 2).await,
        [(GRANTED, id(1)), (RELEASED, id(1))]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn several_nodes_and_watchers_find_an_expiry_once_and_within_seconds() {
    let world = World::start().await;
    let other = world.app.another_node().await;
    let engine = &world.app.locks;
    let mut watches = Vec::new();
    for hub in [&world.app.events, &other.events] {
        watches.push(world.watch(hub, None, None).await);
        watches.push(world.watch(hub, Some("a"), None).await);
    }
    let short = |mode, name| Acquire {
        lease_ms: 1000,
        mode,
        ..world.request(name, id(1))
    };
    grant(engine, short(Mode::Exclusive, "a")).await;
    grant(engine, short(Mode::Shared, "b")).await;
    // Nobody asks for the locks: the hubs find that they have lapsed.
    for name in ["a", "b"] {
        assert_eq!(
            of_lock(&world, name, 2).await,
            [(GRANTED, id(1)), (EXPIRED, id(1))]
        );
    }
    for watch in &mut watches {
        let mut seen = Vec::new();
        while seen.last() != Some(&("a".to_owned(), "expired")) {
            let event = super::kit::next_event(watch).await;
            seen.push((event.name.clone().unwrap(), event.kind.as_str()));
        }
        seen.retain(|(name, _)| name == "a");
        let expected = [("a".to_owned(), "granted"), ("a".to_owned(), "expired")];
        assert_eq!(seen, expected);
    }
    // Taken over later, its end is known already.
    grant(engine, world.request("a", id(2))).await;
    let expected = [(GRANTED, id(1)), (EXPIRED, id(1)), (GRANTED, id(2))];
    assert_eq!(of_lock(&world, "a", 3).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_written_when_the_node_stops() {
    let world = World::start().await;
    let other = world.app.another_node().await;
    for n in 0..20 {
        grant(&other.locks, world.request(&format!("l{n}"), id(n))).await;
    }
    other.kill();
    assert_eq!(world.written(20).await.len(), 20);
}
