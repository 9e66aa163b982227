//! Statements beside the engine's that end, count, list or sweep leases: they know gates.

use lockable::audit::Actor;
use lockable::id::AccountId;
use lockable::locks::sweeper::Sweeper;
use lockable::locks::{self, Acquire, BreakError, LockName, Mode, store};
use uuid::Uuid;

use super::waiting::{granted, is_gated, two_nodes, wait_behind, waiting};
use crate::support::node::{ALICE, BOB, acquire};
use crate::support::prelude::*;

fn permit(account: i64, name: &str, wait_ms: i32) -> Acquire {
    Acquire {
        mode: Mode::Semaphore { limit: 2 },
        ..waiting(account, name, Some(Uuid::new_v4()), wait_ms)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_lock_is_handed_over_at_once() {
    let (db, first, second) = two_nodes().await;
    let administrator = Actor::command("root");
    let name = LockName::new("a").unwrap();
    first.grant("a", Uuid::new_v4(), 60_000).await;
    let waiter = wait_behind(&db, &second, waiting(BOB, "a", None, 60_000), 0).await;
    locks::break_any(&db.pool, &administrator, &name, "it hangs")
        .await
        .unwrap();
    let lease = granted(waiter.await.unwrap());
    assert_eq!(
        db.value::<i64>("SELECT count(*) FROM audit_log WHERE action = 'lock.break'")
            .await,
        1
    );
    // The one that was seen is broken, not the one that has the lock now.
    let own = |fencing_token| {
        let namespace = (lockable::id::NamespaceId::PUBLIC, "public");
        let (pool, actor, name) = (db.pool.clone(), administrator.clone(), name.clone());
        async move {
            let account_id = AccountId(BOB);
            locks::break_own(
                &pool,
                &actor,
                account_id,
                namespace,
                &name,
                fencing_token,
                "why",
            )
            .await
        }
    };
    let past = own(lease.fencing_token - 1).await;
    assert!(matches!(past, Err(BreakError::NotHeld)), "{past:?}");
    own(lease.fencing_token).await.unwrap();
    let again = own(lease.fencing_token).await;
    assert!(matches!(again, Err(BreakError::NotHeld)), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_permits_of_a_lock_are_broken_and_listed_and_counted() {
    let (db, first, second) = two_nodes().await;
    let administrator = Actor::command("root");
    let name = LockName::new("s").unwrap();
    for _ in 0..2 {
        granted(first.engine.acquire(permit(ALICE, "s", 0)).await);
    }
    let waiter = wait_behind(&db, &second, permit(ALICE, "s", 60_000), 0).await;
    let alice = AccountId(ALICE);
    assert_eq!(store::count_live(&db.pool, alice).await.unwrap(), 3);
    let listed = store::list_live(&db.pool, alice, None, None, 10)
        .await
        .unwrap();
    assert_eq!(listed.len(), 2);
    let after = Some(("public", "s", listed[0].fencing_token));
    let next = store::list_live(&db.pool, alice, None, after, 10)
        .await
        .unwrap();
    assert_eq!(next[0].fencing_token, listed[1].fencing_token);
    locks::break_any(&db.pool, &administrator, &name, "both hang")
        .await
        .unwrap();
    assert_eq!(granted(waiter.await.unwrap()).slot, Some(0));
    assert_eq!(store::count_live(&db.pool, alice).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_account_hands_over_what_it_held_and_waited_for() {
    let (db, first, second) = two_nodes().await;
    first.grant("a", Uuid::new_v4(), 60_000).await;
    for _ in 0..2 {
        granted(first.engine.acquire(permit(ALICE, "s", 0)).await);
    }
    let gone = wait_behind(&db, &first, waiting(ALICE, "a", None, 60_000), 0).await;
    let next = wait_behind(&db, &second, waiting(BOB, "a", None, 60_000), 1).await;
    let permitted = wait_behind(&db, &second, permit(BOB, "s", 60_000), 2).await;
    lockable::accounts::delete(&db.pool, AccountId(ALICE))
        .await
        .unwrap();
    granted(next.await.unwrap());
    granted(permitted.await.unwrap());
    let refused = gone.await.unwrap();
    assert!(refused.is_err(), "{refused:?}");
    let left = "SELECT (SELECT count(*) FROM unended_leases WHERE account_id = 1)
                     + (SELECT count(*) FROM lock_tickets WHERE account_id = 1)";
    assert_eq!(db.value::<i64>(left).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweeper_clears_a_gate_that_nobody_asks_about() {
    let (db, node, _) = two_nodes().await;
    let short = Acquire {
        lease_ms: 1000,
        ..permit(ALICE, "s", 0)
    };
    granted(node.engine.acquire(short).await);
    assert!(is_gated(&db).await);
    db.execute("UPDATE lock_members SET expires_at = clock_timestamp() - interval '2 hours'")
        .await;
    Sweeper::default().step(&db.pool).await.unwrap();
    assert!(!is_gated(&db).await);
    granted(node.engine.acquire(acquire(BOB, "s", None)).await);
    db.execute("DELETE FROM lock_members WHERE end_reason = 0")
        .await;
    Sweeper::default().step(&db.pool).await.unwrap();
    assert_eq!(
        db.value::<i64>("SELECT count(*) FROM lock_members").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweeper_reaches_an_abandoned_gate_behind_many_that_are_in_use_or_locked() {
    let (db, _, _) = two_nodes().await;
    db.execute(
        "INSERT INTO locks (namespace_id, name, account_id, token_id, fencing_token, acquired_at,
                            expires_at, lease_id, lease_ms, needs_proof, gated)
         SELECT 1, 's' || n, 0, 0, n, now(), '9999-12-31', gen_random_uuid(), 1, false, true
           FROM generate_series(1, 251) n;
         INSERT INTO lock_members (namespace_id, name, slot, permits, account_id, token_id,
                                   fencing_token, acquired_at, expires_at, lease_id, lease_ms,
                                   needs_proof)
         SELECT 1, 's' || n, 0, 2, 1, 1, n, now(),
                now() + CASE WHEN n < 250 THEN interval '1 h' ELSE interval '-1 h' END,
                gen_random_uuid(), 1, true
           FROM generate_series(1, 251) n",
    )
    .await;
    // One abandoned gate is locked elsewhere: the other one is cleared all the same.
    let mut elsewhere = db.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM locks WHERE name = 's250' FOR UPDATE")
        .execute(&mut *elsewhere)
        .await
        .unwrap();
    Sweeper::default().step(&db.pool).await.unwrap();
    let gated = "SELECT string_agg(name, ',') FROM locks WHERE gated AND name IN ('s250', 's251')";
    assert_eq!(db.value::<String>(gated).await, "s250");
    elsewhere.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_whose_time_is_long_over_neither_count_nor_stay() {
    let (db, node, _) = two_nodes().await;
    node.grant("a", Uuid::new_v4(), 60_000).await;
    db.execute(
        "INSERT INTO lock_tickets (namespace_id, name, ticket, account_id, token_id, node_id,
                                   attachment, waits_until, lease_id, lease_ms, permits,
                                   needs_proof, is_detached)
         SELECT 1, 'a', nextval('lock_ticket'), 2, 2, 99, n, now() - interval '5 min',
                gen_random_uuid(), 60000, 1, true, true FROM generate_series(1, 10) n;
         UPDATE locks SET gated = true",
    )
    .await;
    let request = Acquire {
        max_waiters_of_lock: 10,
        ..waiting(BOB, "a", None, 60_000)
    };
    let bob = AccountId(BOB);
    assert_eq!(store::count_live(&db.pool, bob).await.unwrap(), 0);
    let key = request.key.clone();
    let task = tokio::spawn(async move { node.engine.acquire(request).await });
    let live = "SELECT count(*) FROM lock_tickets WHERE waits_until > now()";
    eventually("it stands in the line", async || {
        (db.value::<i64>(live).await == 1).then_some(())
    })
    .await;
    let view = store::find(&db.pool, key.namespace_id, &key.name)
        .await
        .unwrap();
    assert_eq!((view.queue_length, view.queue.len()), (1, 1));
    Sweeper::default().step(&db.pool).await.unwrap();
    assert_eq!(
        db.value::<i64>("SELECT count(*) FROM lock_tickets").await,
        1
    );
    task.abort();
}
