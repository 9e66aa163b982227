//! A release by id that overtakes its acquire: the acquire is refused whenever it arrives, and
//! however far it had come (P6).

use lockable::db::{Purpose, pool};
use lockable::locks::Lost;
use lockable::locks::engine::{FastOutcome, statements};

use super::*;
use crate::support::node::{any_time, lost};

/// The state of the lock when the acquire comes to it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Before {
    NeverTaken,
    Released,
    Lapsed,
    /// By another lease, which is released before the acquire arrives.
    Held,
    /// By another lease, which lapses before the acquire arrives.
    HeldAndLapsing,
}

impl Before {
    /// Brings a lock into this state. Returns the lease that then holds it.
    async fn make(self, node: &Node, db: &Database, name: &str) -> Option<Uuid> {
        if self == Before::NeverTaken {
            return None;
        }
        let other = Uuid::new_v4();
        node.grant(name, other, 60_000).await;
        match self {
            Before::NeverTaken | Before::Held | Before::HeldAndLapsing => return Some(other),
            Before::Released => {
                node.release(name, other).await.unwrap();
            }
            Before::Lapsed => lapse(db, name).await,
        }
        None
    }
}

async fn lapse(db: &Database, name: &str) {
    db.execute(&format!(
        "UPDATE locks SET expires_at = clock_timestamp() WHERE name = '{name}'"
    ))
    .await;
}

const ALL: [Before; 5] = [
    Before::NeverTaken,
    Before::Released,
    Before::Lapsed,
    Before::Held,
    Before::HeldAndLapsing,
];

/// The node sent it, and the network holds it.
#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_that_arrives_after_its_release_is_refused() {
    for before in ALL {
        let nodes = Nodes::start(LONG_DEADLINE).await;
        let other = before.make(&nodes.stalled, &nodes.db, "l").await;
        let id = Uuid::new_v4();
        nodes.network.requests(Flow::Freeze);
        let acquiring = spawn({
            let engine = nodes.stalled.engine.clone();
            async move { engine.acquire(acquire(ALICE, "l", Some(id))).await }
        });
        eventually("it was sent", async || {
            (nodes.network.held() > 0).then_some(())
        })
        .await;
        assert_eq!(
            nodes.other.release("l", id).await.unwrap(),
            ReleaseOutcome::Lost(Lost::NeverGranted)
        );
        match before {
            Before::HeldAndLapsing => lapse(&nodes.db, "l").await,
            _ => {
                if let Some(other) = other {
                    nodes.other.release("l", other).await.unwrap();
                }
            }
        }
        // Others use the lock in between: the mark is remembered beyond the row.
        if before != Before::NeverTaken {
            granted(nodes.other.engine.acquire(acquire(BOB, "l", None)).await);
            nodes
                .other
                .engine
                .release(release(BOB, "l", None))
                .await
                .unwrap();
        }
        nodes.network.mend();
        assert_eq!(
            acquiring.await.unwrap(),
            Ok(AcquireOutcome::LeaseEnded),
            "{before:?}"
        );
        let outcome = nodes.other.heartbeat("l", id).await;
        assert_eq!(lost(outcome), Lost::NeverGranted, "{before:?}");
        assert!(nodes.is_free("l").await, "{before:?}");
    }
}

/// The statement had observed the lock before the mark was there, and waits for the row of another
/// lock in its batch.
#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_that_observed_its_lock_before_the_mark_is_refused() {
    for before in ALL {
        let db = Database::create().await;
        let node = Node::start(db.options()).await;
        forget_outages(&db).await;
        node.grant("a", Uuid::new_v4(), 60_000).await;
        lapse(&db, "a").await;
        let other = before.make(&node, &db, "b").await;
        let id = Uuid::new_v4();
        let locker = locker_of(&db, "a").await;
        let statement = spawn({
            let options = db.options();
            async move {
                let pool = pool(options, Purpose::LockEngine, 1);
                let batch = [acquire(BOB, "a", None), acquire(ALICE, "b", Some(id))];
                let mut connection = pool.acquire().await.unwrap();
                statements::acquire(&mut connection, &[&batch[0], &batch[1]], any_time())
                    .await
                    .unwrap()
            }
        });
        until_waiting(&db, "locks.acquire", 1).await;
        assert_eq!(
            node.release("b", id).await.unwrap(),
            ReleaseOutcome::Lost(Lost::NeverGranted),
            "{before:?}"
        );
        match before {
            Before::HeldAndLapsing => lapse(&db, "b").await,
            _ => {
                if let Some(other) = other {
                    node.release("b", other).await.unwrap();
                }
            }
        }
        commit(locker).await;
        let outcome = statement.await.unwrap().remove(1);
        let expected = match before {
            Before::Held | Before::HeldAndLapsing => Some(AcquireOutcome::Held),
            _ => None,
        };
        assert_eq!(outcome, expected.map(FastOutcome::Decided), "{before:?}");
        assert_eq!(
            node.acquire("b", id, 60_000).await.unwrap(),
            AcquireOutcome::LeaseEnded,
            "{before:?}"
        );
    }
}

/// The fast path had looked for ended leases before the mark was there.
#[tokio::test(flavor = "multi_thread")]
async fn an_insert_that_observed_no_mark_is_refused() {
    let db = Database::create().await;
    let node = Node::start(db.options()).await;
    let mut insert = begin(&db).await;
    execute(
        &mut insert,
        "INSERT INTO locks (namespace_id, name, account_id, token_id, fencing_token, acquired_at,
                            expires_at, lease_id, lease_ms, needs_proof)
         VALUES (1, 'a', 1, 1, 0, clock_timestamp(), 'infinity', gen_random_uuid(), 5000, true)",
    )
    .await;
    let id = Uuid::new_v4();
    let statement = spawn({
        let options = db.options();
        async move {
            let pool = pool(options, Purpose::LockEngine, 1);
            let batch = [acquire(BOB, "a", None), acquire(ALICE, "b", Some(id))];
            let mut connection = pool.acquire().await.unwrap();
            statements::insert_if_absent(&mut connection, &[&batch[0], &batch[1]], any_time())
                .await
                .unwrap()
        }
    });
    until_waiting(&db, "locks.insert_if_absent", 1).await;
    assert_eq!(
        node.release("b", id).await.unwrap(),
        ReleaseOutcome::Lost(Lost::NeverGranted)
    );
    commit(insert).await;
    assert_eq!(statement.await.unwrap().remove(1), None);
    assert_eq!(
        node.acquire("b", id, 60_000).await.unwrap(),
        AcquireOutcome::LeaseEnded
    );
}

/// The acquire has written its row, and hangs in its commit: the release waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_waits_for_an_acquire_that_is_in_its_commit() {
    for before in [Before::NeverTaken, Before::Released, Before::Lapsed] {
        let db = Database::create().await;
        let node = Node::start(db.options()).await;
        forget_outages(&db).await;
        before.make(&node, &db, "l").await;
        let id = Uuid::new_v4();
        let mut acquiring = begin(&db).await;
        let request = acquire(ALICE, "l", Some(id));
        let outcome = statements::acquire(&mut acquiring, &[&request], any_time()).await;
        granted(Ok(outcome.unwrap().remove(0).unwrap().decided().unwrap()));
        let releasing = spawn({
            let engine = node.engine.clone();
            async move { engine.release(release(ALICE, "l", Some(id))).await }
        });
        until_waiting(&db, "locks.release_under_lock", 1).await;
        commit(acquiring).await;
        assert_eq!(
            releasing.await.unwrap(),
            Ok(ReleaseOutcome::Released),
            "{before:?}"
        );
        assert_eq!(lost(node.heartbeat("l", id).await), Lost::Released);
        granted(node.engine.acquire(acquire(BOB, "l", None)).await);
    }
}

/// Marks of a stranger change nothing for the holder of the lock.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_takes_nothing_from_the_holder() {
    let db = Database::create().await;
    let node = Node::start(db.options()).await;
    let id = Uuid::new_v4();
    let lease = node.grant("l", id, 60_000).await;
    for account in [ALICE, BOB] {
        let outcome = node
            .engine
            .release(release(account, "l", Some(Uuid::new_v4())))
            .await;
        assert_eq!(outcome, Ok(ReleaseOutcome::Lost(Lost::NeverGranted)));
    }
    let row: (i64, DateTime<Utc>) =
        sqlx::query_as("SELECT fencing_token, expires_at FROM locks WHERE name = 'l'")
            .fetch_one(&db.pool)
            .await
            .unwrap();
    assert_eq!(row, (lease.fencing_token, lease.expires_at));
    crate::support::node::renewed(node.heartbeat("l", id).await);
    assert_eq!(
        node.release("l", id).await.unwrap(),
        ReleaseOutcome::Released
    );
}
