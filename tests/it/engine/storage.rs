//! What the statements leave behind in the table: updates that touch no index, no deadlocks, and a sweeper that knows what it must not touch.

use futures_util::future::join_all;
use lockable::locks::sweeper::Sweeper;
use lockable::locks::{AcquireOutcome, EngineSettings, HeartbeatOutcome};
use uuid::Uuid;

use super::{Node, acquire, heartbeat, release};
use crate::support::prelude::*;

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_releases_and_grants_of_known_locks_are_heap_only_updates() {
    let db = Database::create().await;
    {
        let node = Node::start(&db.options(), EngineSettings::default());
        for n in 0..200 {
            node.engine.acquire(acquire(1, &format!("lock {n}"), None)).await.unwrap();
        }
        for _ in 0..10 {
            let names: Vec<String> = (0..200).map(|n| format!("lock {n}")).collect();
            for answer in join_all(names.iter().map(|name| node.engine.heartbeat(heartbeat(1, name, None)))).await {
                assert!(matches!(answer, Ok(HeartbeatOutcome::Renewed(_))));
            }
            join_all(names.iter().map(|name| node.engine.release(release(1, name, None)))).await;
            for answer in join_all(names.iter().map(|name| node.engine.acquire(acquire(1, name, None)))).await {
                assert!(matches!(answer, Ok(AcquireOutcome::Granted(_))));
            }
        }
        // A session tells its counts when it ends at the latest.
        node.engine.shut_down().await;
    }
    let expected = 10 * 3 * 200;
    let updates = eventually("the updates are counted", async || {
        let updates: i64 = db.value("SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'locks'").await;
        (updates >= expected).then_some(updates)
    })
    .await;
    let heap_only: i64 = db.value("SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'locks'").await;
    assert!(heap_only * 100 >= updates * 99, "{heap_only} of {updates} updates were heap-only");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_share_half_of_their_locks_never_deadlock() {
    let db = Database::create().await;
    let nodes = [
        Node::start(&db.options(), EngineSettings::default()),
        Node::start(&db.options(), EngineSettings { lanes: 2, ..EngineSettings::default() }),
    ];
    for round in 0..30 {
        // Names in an order that is not theirs: the engine has to put them in order.
        let asked = nodes.iter().enumerate().flat_map(|(which, node)| {
            (0..100).map(move |n| {
                let n = (n * 37 + round * 11) % 100;
                let name = if n % 2 == 0 { format!("shared {n}") } else { format!("own {which} {n}") };
                async move {
                    match (n + round) % 3 {
                        0 => drop(node.engine.acquire(acquire(1, &name, None)).await.unwrap()),
                        1 => drop(node.engine.heartbeat(heartbeat(1, &name, None)).await.unwrap()),
                        _ => drop(node.engine.release(release(1, &name, None)).await.unwrap()),
                    }
                }
            })
        });
        join_all(asked).await;
    }
    for node in &nodes {
        node.engine.shut_down().await;
    }
    let commits = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    eventually("the commits are counted", async || (db.value::<i64>(commits).await > 100).then_some(())).await;
    assert_eq!(db.value::<i64>("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").await, 0);
}

/// Walks the whole of a small table.
async fn sweep(db: &Database) -> u64 {
    Sweeper::default().step(&db.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweeper_removes_what_was_idle_for_an_hour_and_nothing_else() {
    let db = Database::create().await;
    let node = Node::start(&db.options(), EngineSettings::default());
    let id = Some(Uuid::new_v4());
    for name in ["idle", "young", "held", "released"] {
        node.engine.acquire(acquire(1, name, id.filter(|_| name == "released"))).await.unwrap();
    }
    node.engine.release(release(1, "released", id)).await.unwrap();
    for name in ["idle", "young"] {
        node.engine.release(release(1, name, None)).await.unwrap();
    }
    db.execute(
        "UPDATE locks SET expires_at = clock_timestamp() - interval '59 minutes' WHERE name IN ('young', 'released')",
    )
    .await;
    db.execute("UPDATE locks SET expires_at = clock_timestamp() - interval '61 minutes' WHERE name = 'idle'").await;
    assert_eq!(sweep(&db).await, 1);
    let left: String = db.value("SELECT string_agg(name, ' ' ORDER BY name) FROM locks").await;
    assert_eq!(left, "held released young");
    // The memory of ended leases is kept for an hour at least.
    db.execute("UPDATE lease_ends SET ended_at = clock_timestamp() - interval '61 minutes'").await;
    sweep(&db).await;
    assert_eq!(db.value::<i64>("SELECT count(*) FROM lease_ends").await, 1);
    db.execute("UPDATE lease_ends SET ended_at = clock_timestamp() - interval '121 minutes'").await;
    sweep(&db).await;
    assert_eq!(db.value::<i64>("SELECT count(*) FROM lease_ends").await, 0);
    // A lock whose row is gone is free, and its fencing tokens go on.
    let AcquireOutcome::Granted(again) = node.engine.acquire(acquire(2, "idle", None)).await.unwrap() else { panic!() };
    assert!(again.fencing_token > 4, "{}", again.fencing_token);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweeper_leaves_what_an_older_transaction_may_have_looked_at() {
    let db = Database::create().await;
    let node = Node::start(&db.options(), EngineSettings::default());
    node.engine.acquire(acquire(1, "idle", None)).await.unwrap();
    node.engine.release(release(1, "idle", None)).await.unwrap();
    let mut older = db.connect().await;
    let transaction = sqlx::Connection::begin(&mut older).await.unwrap();
    // As if that transaction had begun before the lock was last touched, two hours ago.
    db.execute("UPDATE locks SET expires_at = clock_timestamp() - interval '2 hours'").await;
    assert_eq!(sweep(&db).await, 1, "begun after the lock was last touched: no reason to wait");
    transaction.rollback().await.unwrap();

    node.engine.acquire(acquire(1, "idle", None)).await.unwrap();
    node.engine.release(release(1, "idle", None)).await.unwrap();
    let transaction = sqlx::Connection::begin(&mut older).await.unwrap();
    // Touched a moment before that transaction began, or after it; with the hour set aside.
    assert_eq!(sweep(&db).await, 0);
    transaction.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweeper_leaves_leases_that_an_outage_protects() {
    let db = Database::create().await;
    let node = Node::start(&db.options(), EngineSettings::default());
    node.engine.acquire(acquire(1, "protected", None)).await.unwrap();
    db.execute("UPDATE locks SET expires_at = clock_timestamp() - interval '2 hours'").await;
    db.execute(
        "UPDATE service_clock SET outage_start = clock_timestamp() - interval '3 hours', outage_end = clock_timestamp(), last_ok_at = clock_timestamp()",
    )
    .await;
    assert_eq!(sweep(&db).await, 0);
    assert!(matches!(node.engine.heartbeat(heartbeat(1, "protected", None)).await, Ok(HeartbeatOutcome::Renewed(_))));
}
