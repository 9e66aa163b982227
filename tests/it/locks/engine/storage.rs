//! The tables under the statements: updates that touch no index, no deadlocks, and a sweeper that
//! leaves every row that is still needed.

use std::sync::Arc;

use futures_util::future::join_all;
use lockable::db::{Purpose, pool};
use lockable::locks::engine::{FastOutcome, statements};
use lockable::locks::sweeper::Sweeper;
use lockable::locks::{AcquireOutcome, EngineSettings, HeartbeatOutcome};
use uuid::Uuid;

use crate::support::node::{Node, acquire, any_time, heartbeat, release};
use crate::support::prelude::*;

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_releases_and_grants_of_known_locks_are_heap_only_updates() {
    // A cluster of its own: another test's long transaction keeps old versions from being removed
    // in its cluster.
    let cluster = Arc::new(tokio::task::block_in_place(Cluster::durable));
    let db = Database::create_in(&cluster).await;
    {
        let node = Node::start(db.options()).await;
        for n in 0..200 {
            node.engine
                .acquire(acquire(1, &format!("lock {n}"), None))
                .await
                .unwrap();
        }
        for _ in 0..10 {
            let names: Vec<String> = (0..200).map(|n| format!("lock {n}")).collect();
            // Twenty at a time: a page is never all renewed at once, and its old versions can go in
            // between.
            for names in names.chunks(20) {
                for outcome in join_all(
                    names
                        .iter()
                        .map(|name| node.engine.heartbeat(heartbeat(1, name, None))),
                )
                .await
                {
                    assert!(matches!(outcome, Ok(HeartbeatOutcome::Renewed(_))));
                }
                join_all(
                    names
                        .iter()
                        .map(|name| node.engine.release(release(1, name, None))),
                )
                .await;
                for outcome in join_all(
                    names
                        .iter()
                        .map(|name| node.engine.acquire(acquire(1, name, None))),
                )
                .await
                {
                    assert!(matches!(outcome, Ok(AcquireOutcome::Granted(_))));
                }
            }
        }
        // A session reports its counts when it ends at the latest.
        node.engine.shut_down().await;
    }
    let expected = 10 * 3 * 200;
    let updates = eventually("the updates are counted", async || {
        let updates: i64 = db
            .value("SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'locks'")
            .await;
        (updates >= expected).then_some(updates)
    })
    .await;
    let heap_only: i64 = db
        .value("SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'locks'")
        .await;
    assert!(
        heap_only * 100 >= updates * 95,
        "{heap_only} of {updates} updates were heap-only"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_share_half_of_their_locks_never_deadlock() {
    let db = Database::create().await;
    let nodes = [
        Node::start(db.options()).await,
        Node::start_with(
            db.options(),
            EngineSettings {
                lanes: 2,
                ..EngineSettings::default()
            },
        )
        .await,
    ];
    for round in 0..30 {
        // Names out of order: the engine has to sort them.
        let pending = nodes.iter().enumerate().flat_map(|(which, node)| {
            (0..100).map(move |n| {
                let n = (n * 37 + round * 11) % 100;
                let name = if n % 2 == 0 {
                    format!("shared {n}")
                } else {
                    format!("own {which} {n}")
                };
                async move {
                    match (n + round) % 3 {
                        0 => drop(node.engine.acquire(acquire(1, &name, None)).await.unwrap()),
                        1 => drop(
                            node.engine
                                .heartbeat(heartbeat(1, &name, None))
                                .await
                                .unwrap(),
                        ),
                        _ => drop(node.engine.release(release(1, &name, None)).await.unwrap()),
                    }
                }
            })
        });
        join_all(pending).await;
    }
    for node in &nodes {
        node.engine.shut_down().await;
    }
    let commits = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    eventually("the commits are counted", async || {
        (db.value::<i64>(commits).await > 100).then_some(())
    })
    .await;
    assert_eq!(
        db.value::<i64>(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )
        .await,
        0
    );
}

/// Walks the whole of a small table.
async fn sweep(db: &Database) -> u64 {
    Sweeper::default().step(&db.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweeper_removes_locks_that_were_idle_for_an_hour_and_nothing_else() {
    let db = Database::create().await;
    let node = Node::start(db.options()).await;
    let id = Some(Uuid::new_v4());
    for name in ["idle", "young", "held", "released"] {
        node.engine
            .acquire(acquire(1, name, id.filter(|_| name == "released")))
            .await
            .unwrap();
    }
    node.engine
        .release(release(1, "released", id))
        .await
        .unwrap();
    for name in ["idle", "young"] {
        node.engine.release(release(1, name, None)).await.unwrap();
    }
    db.execute(
        "UPDATE locks SET expires_at = clock_timestamp() - interval '59 minutes'
          WHERE name IN ('young', 'released')",
    )
    .await;
    db.execute(
        "UPDATE locks SET expires_at = clock_timestamp() - interval '61 minutes'
          WHERE name = 'idle'",
    )
    .await;
    assert_eq!(sweep(&db).await, 1);
    let left: String = db
        .value("SELECT string_agg(name, ' ' ORDER BY name) FROM locks")
        .await;
    assert_eq!(left, "held released young");
    // The memory of ended leases is kept for an hour at least: in the row, and once another lease
    // has taken that over, by itself.
    let outcome = node.engine.acquire(acquire(2, "released", None)).await;
    assert!(matches!(outcome, Ok(AcquireOutcome::Granted(_))));
    db.execute("UPDATE lease_ends SET ended_at = clock_timestamp() - interval '61 minutes'")
        .await;
    sweep(&db).await;
    assert_eq!(db.value::<i64>("SELECT count(*) FROM lease_ends").await, 1);
    db.execute("UPDATE lease_ends SET ended_at = clock_timestamp() - interval '121 minutes'")
        .await;
    sweep(&db).await;
    assert_eq!(db.value::<i64>("SELECT count(*) FROM lease_ends").await, 0);
    // A lock whose row is gone is free, and its fencing tokens go on.
    let AcquireOutcome::Granted(again) =
        node.engine.acquire(acquire(2, "idle", None)).await.unwrap()
    else {
        panic!()
    };
    assert!(again.fencing_token > 5, "{}", again.fencing_token);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweeper_leaves_rows_that_an_older_transaction_may_have_observed() {
    let db = Database::create().await;
    let node = Node::start(db.options()).await;
    node.engine.acquire(acquire(1, "idle", None)).await.unwrap();
    node.engine.release(release(1, "idle", None)).await.unwrap();
    let mut older = db.connect().await;
    let transaction = sqlx::Connection::begin(&mut older).await.unwrap();
    // As if that transaction had begun before the lock was last touched, two hours ago.
    db.execute("UPDATE locks SET expires_at = clock_timestamp() - interval '2 hours'")
        .await;
    assert_eq!(
        sweep(&db).await,
        1,
        "begun after the lock was last touched: no reason to wait"
    );
    transaction.rollback().await.unwrap();

    // A transaction that seems to have begun three hours ago, an hour before that.
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut older)
        .await
        .unwrap();
    db.execute(&format!(
        "CREATE VIEW public.pg_stat_activity AS
           SELECT datname, pid, xact_start - interval '3 hours' AS xact_start
             FROM pg_catalog.pg_stat_activity WHERE pid = {pid};
         ALTER DATABASE {} SET search_path = public, pg_catalog",
        db.name
    ))
    .await;
    let sweep = async || {
        let pool = pool(db.options(), Purpose::General, 1);
        Sweeper::default().step(&pool).await.unwrap()
    };
    node.engine.acquire(acquire(1, "idle", None)).await.unwrap();
    node.engine.release(release(1, "idle", None)).await.unwrap();
    db.execute("UPDATE locks SET expires_at = clock_timestamp() - interval '2 hours'")
        .await;
    let transaction = sqlx::Connection::begin(&mut older).await.unwrap();
    assert_eq!(sweep().await, 0, "it may have observed the row");
    transaction.rollback().await.unwrap();
    assert_eq!(sweep().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweeper_leaves_leases_that_an_outage_protects() {
    let db = Database::create().await;
    let node = Node::start(db.options()).await;
    node.engine
        .acquire(acquire(1, "protected", None))
        .await
        .unwrap();
    db.execute("UPDATE locks SET expires_at = clock_timestamp() - interval '2 hours'")
        .await;
    db.execute(
        "UPDATE service_clock SET outage_start = clock_timestamp() - interval '3 hours',
           outage_end = clock_timestamp(), last_ok_at = clock_timestamp()",
    )
    .await;
    assert_eq!(sweep(&db).await, 0);
    assert!(matches!(
        node.engine.heartbeat(heartbeat(1, "protected", None)).await,
        Ok(HeartbeatOutcome::Renewed(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_observed_a_row_which_the_sweeper_then_deletes_has_a_new_fencing_token() {
    let db = Database::create().await;
    let node = Node::start(db.options()).await;
    for name in ["a", "idle"] {
        node.engine.acquire(acquire(1, name, None)).await.unwrap();
        node.engine.release(release(1, name, None)).await.unwrap();
    }
    db.execute(
        "UPDATE locks SET expires_at = clock_timestamp() - interval '2 hours' WHERE name = 'idle'",
    )
    .await;
    let before: i64 = db
        .value("SELECT fencing_token FROM locks WHERE name = 'idle'")
        .await;
    // One statement about both has observed them, and waits for the first.
    let mut blocker = db.connect().await;
    let mut transaction = sqlx::Connection::begin(&mut blocker).await.unwrap();
    sqlx::query("SELECT FROM locks WHERE name = 'a' FOR UPDATE")
        .execute(&mut *transaction)
        .await
        .unwrap();
    let mut connection = db.connect().await;
    let granting = tokio::spawn(async move {
        statements::acquire(
            &mut connection,
            &[&acquire(2, "a", None), &acquire(2, "idle", None)],
            any_time(),
        )
        .await
        .unwrap()
    });
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity
                  WHERE datname = current_database() AND wait_event_type = 'Lock')";
    eventually("it waits", async || {
        db.value::<bool>(waits).await.then_some(())
    })
    .await;
    assert_eq!(sweep(&db).await, 1);
    transaction.rollback().await.unwrap();
    let outcomes = granting.await.unwrap();
    let Some(FastOutcome::Decided(AcquireOutcome::Granted(lease))) = &outcomes[1] else {
        panic!("{outcomes:?}")
    };
    assert!(
        lease.fencing_token > before,
        "{} after {before}",
        lease.fencing_token
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_a_thousand_requests_for_a_lock_does_not_hold_up_its_holder() {
    let db = Database::create().await;
    let node = Node::start(db.options()).await;
    node.engine
        .acquire(acquire(1, "public", None))
        .await
        .unwrap();
    let pending: Vec<_> = (0..1000)
        .map(|_| {
            let engine = node.engine.clone();
            tokio::spawn(async move {
                engine
                    .heartbeat(heartbeat(2, "public", Some(Uuid::new_v4())))
                    .await
            })
        })
        .collect();
    eventually("they wait", async || {
        (node.engine.depth() > 500).then_some(())
    })
    .await;
    assert!(matches!(
        node.engine.heartbeat(heartbeat(1, "public", None)).await,
        Ok(HeartbeatOutcome::Renewed(_))
    ));
    let waiting = node.engine.depth();
    assert!(
        waiting > 100,
        "the holder was answered in its turn: {waiting} of the stranger's still wait"
    );
    join_all(pending).await;
}
