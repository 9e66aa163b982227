//! P1 and P3: one holder, for as long as it was promised.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lockable::locks::{AcquireOutcome, Lost, ReleaseOutcome};
use sqlx::{Connection as _, Executor as _};
use uuid::Uuid;

use crate::support::node::{ALICE, BOB, Node, acquire, heartbeat, lost, release, renewed};
use crate::support::prelude::*;

/// Short enough to wait for its end, and long enough that a busy machine answers within half of it:
/// a later outcome is unknown.
const LEASE_MS: i32 = 1000;

async fn two_nodes(db: &Database) -> [Arc<Node>; 2] {
    [
        Arc::new(Node::start(db.options()).await),
        Arc::new(Node::start(db.options()).await),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_hundreds_of_requests_to_two_nodes_at_once_gets_the_lock() {
    let db = Database::create().await;
    let nodes = two_nodes(&db).await;
    // Clients with and without lease ids, of two accounts, compete for the same locks.
    let requests: Vec<_> = (0..400)
        .map(|number| {
            let name = format!("lock-{}", number % 4);
            let account = if number % 3 == 0 { ALICE } else { BOB };
            let lease_id = (number % 5 != 0).then(Uuid::new_v4);
            let request = acquire(account, &name, lease_id);
            let node = nodes[(number / 4) % 2].clone();
            tokio::spawn(async move {
                (
                    request.key.name.clone(),
                    node.engine.acquire(request).await.unwrap(),
                )
            })
        })
        .collect();
    let mut granted = Vec::new();
    for request in requests {
        match request.await.unwrap() {
            (name, AcquireOutcome::Granted(_)) => granted.push(name.as_str().to_owned()),
            (_, outcome) => assert_eq!(outcome, AcquireOutcome::Held),
        }
    }
    granted.sort();
    assert_eq!(granted, ["lock-0", "lock-1", "lock-2", "lock-3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lapses_by_the_clock_of_the_database_and_not_before() {
    let db = Database::create().await;
    let nodes = two_nodes(&db).await;
    for round in 0..2 {
        let first = nodes[0].grant("lapses", Uuid::new_v4(), LEASE_MS).await;
        let second = eventually("somebody else gets it", async || {
            match nodes[(round + 1) % 2]
                .acquire("lapses", Uuid::new_v4(), LEASE_MS)
                .await
            {
                Ok(AcquireOutcome::Granted(lease)) => Some(lease),
                _ => None,
            }
        })
        .await;
        assert!(
            second.acquired_at >= first.expires_at,
            "{first:?} and {second:?}"
        );
        assert_eq!(
            (first.expires_at - first.acquired_at).num_milliseconds(),
            i64::from(LEASE_MS)
        );
        eventually("that lapses too", async || {
            db.value::<bool>("SELECT expires_at < clock_timestamp() FROM locks")
                .await
                .then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_keeps_a_lock_beyond_its_lease_and_a_lapsed_one_cannot_be_renewed() {
    let db = Database::create().await;
    let node = Node::start(db.options()).await;
    let (lease_id, lease_ms) = (Uuid::new_v4(), LEASE_MS);
    let first = node.grant("kept", lease_id, lease_ms).await;
    // It is renewed until three times its length has passed.
    let end = first.acquired_at + chrono::TimeDelta::milliseconds(3 * i64::from(lease_ms));
    eventually("three lengths have passed", async || {
        let lease = renewed(node.heartbeat("kept", lease_id).await);
        assert_eq!(
            (lease.fencing_token, lease.lease_ms),
            (first.fencing_token, lease_ms)
        );
        let other = node
            .acquire("kept", Uuid::new_v4(), lease_ms)
            .await
            .unwrap();
        assert_eq!(other, AcquireOutcome::Held);
        (lease.expires_at > end).then_some(())
    })
    .await;
    eventually("it lapses", async || {
        db.value::<bool>("SELECT expires_at < clock_timestamp() FROM locks")
            .await
            .then_some(())
    })
    .await;
    lost(node.heartbeat("kept", lease_id).await);
}

/// Waits until this statement of the engine waits for a row.
async fn statement_waits(db: &Database, named: &str) {
    let waits = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity
          WHERE datname = current_database() AND wait_event_type = 'Lock'
            AND query LIKE '/* {named} */%')"
    );
    eventually("the statement waits for the row", async || {
        db.value::<bool>(&waits).await.then_some(())
    })
    .await;
}

/// Holds a row until a statement has waited for it, and returns the instant of its release. The
/// statement has to read the clock after its wait.
async fn instant_of_release(db: &Database, hold: &str, waiting: &str) -> DateTime<Utc> {
    let mut holder = db.connect().await;
    let mut transaction = holder.begin().await.unwrap();
    transaction
        .execute(sqlx::AssertSqlSafe(hold.to_owned()))
        .await
        .unwrap();
    db.execute("CREATE TABLE IF NOT EXISTS row_is_held ()")
        .await;
    statement_waits(db, waiting).await;
    // Long enough that a lease counted from before the wait would be visibly short; shorter than
    // lock_timeout.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let instant = sqlx::query_scalar("SELECT clock_timestamp()")
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
    transaction.rollback().await.unwrap();
    instant
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_waited_for_a_row_lock_is_full_length() {
    let db = Database::create().await;
    let node = Node::start(db.options()).await;
    let lease_id = Uuid::new_v4();
    let length = chrono::TimeDelta::milliseconds(5000);
    let row = "SELECT FROM locks WHERE name = 'slow' FOR UPDATE";

    // A lock that was released: granted by an update.
    node.grant("slow", Uuid::new_v4(), 5000).await;
    db.execute("UPDATE locks SET end_reason = 1, expires_at = clock_timestamp()")
        .await;
    let (instant, lease) = tokio::join!(instant_of_release(&db, row, "locks.acquire"), async {
        held_row(&db).await;
        node.grant("slow", lease_id, 5000).await
    });
    assert!(
        lease.expires_at >= instant + length,
        "granted at {instant}: {lease:?}"
    );

    // A heartbeat.
    db.execute("DROP TABLE row_is_held").await;
    let (instant, lease) = tokio::join!(instant_of_release(&db, row, "locks.heartbeat"), async {
        held_row(&db).await;
        renewed(node.heartbeat("slow", lease_id).await)
    });
    assert!(
        lease.expires_at >= instant + length,
        "renewed at {instant}: {lease:?}"
    );

    // A lock without a row, while another session's insert of the row is rolled back.
    db.execute("DROP TABLE row_is_held").await;
    let insert =
        "INSERT INTO locks (namespace_id, name, account_id, token_id, fencing_token, acquired_at,
                                     expires_at, lease_id, lease_ms, needs_proof)
                  VALUES (1, 'new', 1, 1, 0, clock_timestamp(), 'infinity', gen_random_uuid(),
                          5000, true)";
    // The node has not seen the name at first, and predicts that it has no row; the second time it
    // has seen it.
    for statement in ["locks.insert_if_absent", "locks.acquire"] {
        let (instant, lease) = tokio::join!(instant_of_release(&db, insert, statement), async {
            held_row(&db).await;
            node.grant("new", Uuid::new_v4(), 5000).await
        });
        // A client counts its deadline from before it sends, and does not notice so little.
        let short = instant + length - lease.expires_at;
        assert!(
            short < chrono::TimeDelta::milliseconds(150),
            "granted at {instant}, short by {short}: {lease:?}"
        );
        db.execute("DELETE FROM locks WHERE name = 'new'; DROP TABLE row_is_held")
            .await;
    }
}

async fn held_row(db: &Database) {
    eventually("the row is held", async || {
        db.value::<bool>("SELECT to_regclass('row_is_held') IS NOT NULL")
            .await
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_lapses_while_its_release_waits_was_not_released() {
    let db = Database::create().await;
    let node = Node::start(db.options()).await;
    let lease_id = Uuid::new_v4();
    node.grant("late", lease_id, 60_000).await;
    // The first tick took the time before this test for an outage, which would protect the lease.
    db.execute("UPDATE service_clock SET outage_start = 'epoch', outage_end = 'epoch'")
        .await;
    let mut holder = db.connect().await;
    let mut transaction = holder.begin().await.unwrap();
    transaction
        .execute("UPDATE locks SET expires_at = clock_timestamp()")
        .await
        .unwrap();
    let (released, ()) = tokio::join!(node.release("late", lease_id), async {
        statement_waits(&db, "locks.release").await;
        transaction.commit().await.unwrap();
    });
    // It observed a live lease and then met an ended one: neither its outcome nor the memory of
    // ended leases may say that it ended that lease.
    assert_eq!(released.unwrap(), ReleaseOutcome::Lost(Lost::Expired));
    assert_eq!(
        node.release("late", lease_id).await.unwrap(),
        ReleaseOutcome::Lost(Lost::Expired)
    );
    assert_eq!(db.value::<i64>("SELECT count(*) FROM lease_ends").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_frees_the_lock_at_once_and_only_its_holder_can() {
    let db = Database::create().await;
    let nodes = two_nodes(&db).await;
    let lease_id = Uuid::new_v4();
    nodes[0].grant("mine", lease_id, 60_000).await;
    let by_another = nodes[1]
        .engine
        .release(release(BOB, "mine", Some(lease_id)))
        .await
        .unwrap();
    assert_eq!(
        by_another,
        lockable::locks::ReleaseOutcome::Lost(lockable::locks::Lost::NeverGranted)
    );
    let without_proof = nodes[1]
        .engine
        .release(release(ALICE, "mine", None))
        .await
        .unwrap();
    assert_eq!(
        without_proof,
        lockable::locks::ReleaseOutcome::Lost(lockable::locks::Lost::Unproved)
    );
    assert_eq!(
        nodes[1]
            .acquire("mine", Uuid::new_v4(), 1000)
            .await
            .unwrap(),
        AcquireOutcome::Held
    );
    assert_eq!(
        nodes[1].release("mine", lease_id).await.unwrap(),
        lockable::locks::ReleaseOutcome::Released
    );
    nodes[0].grant("mine", Uuid::new_v4(), 1000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_without_an_id_belongs_to_its_account_and_to_nobody_else() {
    let db = Database::create().await;
    let nodes = two_nodes(&db).await;
    let granted = nodes[0]
        .engine
        .acquire(acquire(ALICE, "v1", None))
        .await
        .unwrap();
    assert!(matches!(granted, AcquireOutcome::Granted(_)), "{granted:?}");
    // The account that holds it already is refused, too.
    assert_eq!(
        nodes[1]
            .engine
            .acquire(acquire(ALICE, "v1", None))
            .await
            .unwrap(),
        AcquireOutcome::Held
    );
    lost(nodes[1].engine.heartbeat(heartbeat(BOB, "v1", None)).await);
    renewed(
        nodes[1]
            .engine
            .heartbeat(heartbeat(ALICE, "v1", None))
            .await,
    );
    let released = nodes[1]
        .engine
        .release(release(ALICE, "v1", None))
        .await
        .unwrap();
    assert_eq!(released, lockable::locks::ReleaseOutcome::Released);
    lost(
        nodes[0]
            .engine
            .heartbeat(heartbeat(ALICE, "v1", None))
            .await,
    );
}
