//! Waiting in line, permits and shared leases, as one or two nodes answer them.

use std::sync::Arc;

use lockable::locks::{
    Acquire, AcquireOutcome, EngineError, HeartbeatOutcome, Lease, LeasesToBreak, Lost, Mode,
};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::support::node::{ALICE, BOB, Node, acquire, heartbeat, key, lost, release, renewed};
use crate::support::prelude::*;

pub(super) type Waiting = JoinHandle<Result<AcquireOutcome, EngineError>>;

pub(super) async fn two_nodes() -> (Database, Arc<Node>, Arc<Node>) {
    let db = Database::create().await;
    let first = Arc::new(Node::start(db.options()).await);
    let second = Arc::new(Node::start(db.options()).await);
    db.execute(
        "INSERT INTO accounts (account_id, email, email_key, plan_id) OVERRIDING SYSTEM VALUE
         SELECT n, n || '@node.example', n || '@node.example', p.plan_id
           FROM generate_series(1, 2) n, plans p WHERE p.code = 'business'
             ON CONFLICT DO NOTHING",
    )
    .await;
    db.execute(
        "INSERT INTO api_tokens (token_id, account_id, namespace_id, label, token_sha256, hint)
                OVERRIDING SYSTEM VALUE
         SELECT n, n, 1, 'node', sha256(n::text::bytea), 'node' FROM generate_series(1, 2) n
             ON CONFLICT DO NOTHING",
    )
    .await;
    (db, first, second)
}

pub(super) fn waiting(account: i64, name: &str, lease_id: Option<Uuid>, wait_ms: i32) -> Acquire {
    Acquire {
        wait_ms,
        ..acquire(account, name, lease_id)
    }
}

/// Starts to wait, and returns once the request stands in the line behind `others` others.
pub(super) async fn wait_behind(
    db: &Database,
    node: &Arc<Node>,
    request: Acquire,
    others: i64,
) -> Waiting {
    let node = Arc::clone(node);
    let task = tokio::spawn(async move { node.engine.acquire(request).await });
    in_line(db, others + 1).await;
    task
}

pub(super) async fn in_line(db: &Database, waiters: i64) {
    eventually("they stand in the line", async || {
        let count = "SELECT count(*) FROM lock_tickets
                      WHERE claim_token IS NULL AND NOT is_detached";
        (db.value::<i64>(count).await == waiters).then_some(())
    })
    .await;
}

#[track_caller]
pub(super) fn granted(outcome: Result<AcquireOutcome, EngineError>) -> Lease {
    match outcome {
        Ok(AcquireOutcome::Granted(lease)) => lease,
        other => panic!("not granted: {other:?}"),
    }
}

pub(super) async fn is_gated(db: &Database) -> bool {
    db.value("SELECT gated FROM locks").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_free_lock_is_granted_at_once_to_a_request_that_would_wait() {
    let (db, node, _) = two_nodes().await;
    let lease = granted(node.engine.acquire(waiting(ALICE, "a", None, 5000)).await);
    assert_eq!(lease.waited_ms, 0);
    assert!(!is_gated(&db).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_are_granted_in_the_order_of_their_arrival_across_nodes() {
    let (db, first, second) = two_nodes().await;
    let mut holder = Uuid::new_v4();
    let mut token = first.grant("a", holder, 60_000).await.fencing_token;
    let ids: Vec<Uuid> = (0..6).map(|_| Uuid::new_v4()).collect();
    let mut waiters = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        let node = if n % 2 == 0 { &first } else { &second };
        let request = waiting(ALICE, "a", Some(*id), 60_000);
        waiters.push(wait_behind(&db, node, request, n as i64).await);
    }
    for (waiter, id) in waiters.into_iter().zip(ids) {
        first.release("a", holder).await.unwrap();
        let lease = granted(waiter.await.unwrap());
        assert_eq!((lease.lease_id, lease.expires_in_ms), (id, 60_000));
        assert!(lease.fencing_token > token);
        (holder, token) = (id, lease.fencing_token);
        // It is a whole lease, and a newcomer does not get it.
        renewed(second.heartbeat("a", holder).await);
        let newcomer = second.engine.acquire(acquire(BOB, "a", None)).await;
        assert_eq!(newcomer, Ok(AcquireOutcome::Held));
    }
    first.release("a", holder).await.unwrap();
    assert!(!is_gated(&db).await);
    assert_eq!(
        db.value::<i64>("SELECT count(*) FROM lock_tickets").await,
        0
    );
    granted(second.engine.acquire(acquire(BOB, "a", None)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lapsed_lease_is_handed_over_when_it_ends() {
    let (db, first, second) = two_nodes().await;
    first.grant("a", Uuid::new_v4(), 1000).await;
    let waiter = wait_behind(&db, &second, waiting(BOB, "a", None, 60_000), 0).await;
    let lease = granted(waiter.await.unwrap());
    assert!((500..60_000).contains(&lease.waited_ms), "{lease:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_over_is_answered_held_and_keeps_the_place_of_a_chosen_id() {
    let (db, first, second) = two_nodes().await;
    let (holder, id) = (Uuid::new_v4(), Uuid::new_v4());
    first.grant("a", holder, 60_000).await;
    let outcome = first.engine.acquire(waiting(BOB, "a", Some(id), 200)).await;
    assert_eq!(outcome, Ok(AcquireOutcome::Held));
    let outcome = first.engine.acquire(waiting(BOB, "a", None, 200)).await;
    assert_eq!(outcome, Ok(AcquireOutcome::Held));
    let tickets = "SELECT string_agg(is_detached::text, ',') FROM lock_tickets";
    assert_eq!(db.value::<String>(tickets).await, "true");
    // Another one waits behind it; it comes back, on the other node, and is first.
    let behind = wait_behind(&db, &first, waiting(ALICE, "a", None, 60_000), 0).await;
    let back = wait_behind(&db, &second, waiting(BOB, "a", Some(id), 60_000), 1).await;
    first.release("a", holder).await.unwrap();
    assert_eq!(granted(back.await.unwrap()).lease_id, id);
    second
        .engine
        .release(release(BOB, "a", Some(id)))
        .await
        .unwrap();
    granted(behind.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_leaves_the_line() {
    let (db, first, second) = two_nodes().await;
    let holder = Uuid::new_v4();
    first.grant("a", holder, 60_000).await;
    let leaves = wait_behind(&db, &first, waiting(BOB, "a", None, 60_000), 0).await;
    let stays = wait_behind(&db, &second, waiting(ALICE, "a", None, 60_000), 1).await;
    leaves.abort();
    in_line(&db, 1).await;
    first.release("a", holder).await.unwrap();
    granted(stays.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_answers_its_waiters_and_keeps_their_places() {
    let (db, first, second) = two_nodes().await;
    let (holder, id) = (Uuid::new_v4(), Uuid::new_v4());
    second.grant("a", holder, 60_000).await;
    let moved = wait_behind(&db, &first, waiting(BOB, "a", Some(id), 60_000), 0).await;
    let behind = wait_behind(&db, &second, waiting(ALICE, "a", None, 60_000), 1).await;
    first.engine.shut_down().await;
    assert_eq!(moved.await.unwrap(), Err(EngineError::ShuttingDown));
    let late = first.engine.acquire(waiting(BOB, "a", None, 1000)).await;
    assert_eq!(late, Err(EngineError::ShuttingDown));
    let back = wait_behind(&db, &second, waiting(BOB, "a", Some(id), 60_000), 1).await;
    second.release("a", holder).await.unwrap();
    assert_eq!(granted(back.await.unwrap()).lease_id, id);
    assert!(!behind.is_finished());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_account_has_more_waiters_than_its_limits() {
    let (db, node, _) = two_nodes().await;
    node.grant("a", Uuid::new_v4(), 60_000).await;
    let limited = |max_waiters, max_waiters_of_lock| Acquire {
        max_waiters,
        max_waiters_of_lock,
        ..waiting(BOB, "a", None, 60_000)
    };
    let _waiter = wait_behind(&db, &node, limited(1, 1), 0).await;
    for (request, max) in [(limited(1, 5), 1), (limited(5, 1), 1)] {
        let outcome = node.engine.acquire(request).await;
        assert_eq!(outcome, Err(EngineError::TooManyWaiters { max }));
    }
    assert_eq!(node.engine.waiters(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_semaphore_has_as_many_leases_as_its_limit() {
    let (db, first, second) = two_nodes().await;
    let permit = |id| Acquire {
        mode: Mode::Semaphore { limit: 2 },
        ..waiting(ALICE, "s", Some(id), 60_000)
    };
    let ids: Vec<Uuid> = (0..4).map(|_| Uuid::new_v4()).collect();
    for (slot, id) in ids[..2].iter().enumerate() {
        let lease = granted(first.engine.acquire(permit(*id)).await);
        assert_eq!(lease.slot, Some(slot as i32));
        assert_eq!(lease.mode, Mode::Semaphore { limit: 2 });
    }
    let third = wait_behind(&db, &second, permit(ids[2]), 0).await;
    let at_once = Acquire {
        wait_ms: 0,
        ..permit(ids[3])
    };
    assert_eq!(
        second.engine.acquire(at_once.clone()).await,
        Ok(AcquireOutcome::Held)
    );
    assert_eq!(
        second.engine.acquire(acquire(BOB, "s", None)).await,
        Ok(AcquireOutcome::LimitConflict {
            in_force: Mode::Semaphore { limit: 2 }
        })
    );
    renewed(second.heartbeat("s", ids[0]).await);
    first.release("s", ids[0]).await.unwrap();
    assert_eq!(granted(third.await.unwrap()).slot, Some(0));
    assert_eq!(lost(first.heartbeat("s", ids[0]).await), Lost::Released);
    for id in [ids[1], ids[2]] {
        second.release("s", id).await.unwrap();
    }
    assert!(!is_gated(&db).await);
    granted(first.engine.acquire(acquire(BOB, "s", None)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_leases_go_together_and_do_not_pass_an_exclusive_waiter() {
    let (db, first, second) = two_nodes().await;
    let shared = |id| Acquire {
        mode: Mode::Shared,
        ..waiting(ALICE, "r", Some(id), 60_000)
    };
    let (a, b, c) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    for (node, id) in [(&first, a), (&second, b)] {
        let lease = granted(node.engine.acquire(shared(id)).await);
        assert_eq!((lease.mode, lease.slot), (Mode::Shared, None));
    }
    let writer = wait_behind(&db, &second, waiting(BOB, "r", None, 60_000), 0).await;
    let reader = wait_behind(&db, &first, shared(c), 1).await;
    first.release("r", a).await.unwrap();
    second.release("r", b).await.unwrap();
    let lease = granted(writer.await.unwrap());
    assert!(!reader.is_finished());
    let broken = LeasesToBreak {
        fencing_token: Some(lease.fencing_token),
        ..LeasesToBreak::default()
    };
    let leases = first.engine.break_leases(key("r"), broken).await.unwrap();
    assert_eq!(leases[0].lease_id, lease.lease_id);
    assert_eq!(granted(reader.await.unwrap()).lease_id, c);
    assert_eq!(
        lost(
            second
                .engine
                .heartbeat(heartbeat(BOB, "r", Some(lease.lease_id)))
                .await
        ),
        Lost::Unknown,
        "a drawn id is not remembered"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_renewal_outlasts_the_hold_limit() {
    let (_db, node, _) = two_nodes().await;
    let id = Uuid::new_v4();
    let request = Acquire {
        max_hold_ms: Some(1500),
        ..acquire(ALICE, "h", Some(id))
    };
    let lease = granted(node.engine.acquire(request).await);
    assert_eq!((lease.expires_in_ms, lease.lease_ms), (1500, 60_000));
    let again = renewed(node.heartbeat("h", id).await);
    // The grant reads the clock twice, for its beginning and its end: microseconds apart.
    let earlier = (lease.expires_at - again.expires_at).num_microseconds();
    assert!(
        earlier.is_some_and(|us| (0..1000).contains(&us)),
        "{earlier:?}"
    );
    assert!(again.expires_in_ms <= 1500);
    let why = eventually("the limit is reached", async || {
        match node.heartbeat("h", id).await {
            Ok(HeartbeatOutcome::Renewed(_)) => None,
            outcome => Some(lost(outcome)),
        }
    })
    .await;
    assert_eq!(why, Lost::HoldLimit);
}
