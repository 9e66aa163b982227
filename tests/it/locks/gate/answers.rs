//! What waiters on two nodes are answered, whatever happens to their requests meanwhile.

use lockable::locks::{Acquire, AcquireOutcome, EngineError, Lost, Mode, ReleaseOutcome};
use uuid::Uuid;

use super::nodes::{Nodes, lease_of, waiting};
use crate::support::node::{ALICE, BOB, Node, acquire, lost, release, renewed};

/// The same lease id waits on one node and is then sent to another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_keeps_its_place_and_the_first_one_is_told() {
    let nodes = Nodes::start(&[]).await;
    let (holder, id, behind) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    nodes.second.grant("l", holder, 60_000).await;
    let before = nodes.wait(&nodes.first, waiting(BOB, id), 0).await;
    let next = nodes.wait(&nodes.first, waiting(BOB, behind), 1).await;
    let engine = nodes.second.engine.clone();
    let repeated = tokio::spawn(async move { engine.acquire(waiting(BOB, id)).await });
    assert_eq!(before.await.unwrap(), Err(EngineError::Replaced));
    nodes.second.release("l", holder).await.unwrap();
    let lease = lease_of(repeated).await.unwrap();
    assert_eq!(lease.lease_id, id);
    assert!(!next.is_finished());
    // Repeated once more, it is the same lease.
    let again = nodes.first.engine.acquire(waiting(BOB, id)).await;
    assert!(matches!(again, Ok(AcquireOutcome::Granted(again))
        if again.fencing_token == lease.fencing_token));
}

/// A release that overtakes its acquire, which waits on another node or arrives later.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_that_was_released_is_told_that_its_lease_has_ended() {
    let nodes = Nodes::start(&[]).await;
    let (holder, id) = (Uuid::new_v4(), Uuid::new_v4());
    nodes.second.grant("l", holder, 60_000).await;
    let waiter = nodes.wait(&nodes.first, waiting(ALICE, id), 0).await;
    let released = nodes.second.release("l", id).await;
    assert_eq!(released, Ok(ReleaseOutcome::Lost(Lost::NeverGranted)));
    assert_eq!(waiter.await.unwrap(), Ok(AcquireOutcome::LeaseEnded));
    let late = nodes.first.engine.acquire(waiting(ALICE, id)).await;
    assert_eq!(late, Ok(AcquireOutcome::LeaseEnded));
    nodes.second.release("l", holder).await.unwrap();
    let late = nodes.second.engine.acquire(waiting(ALICE, id)).await;
    assert_eq!(late, Ok(AcquireOutcome::LeaseEnded));
}

/// A token that is revoked, or an account that is suspended, while its request waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_token_is_revoked_is_told_so_and_never_granted() {
    for change in [
        "UPDATE api_tokens SET revoked_at = clock_timestamp() WHERE token_id = 2",
        "UPDATE accounts SET suspended_at = clock_timestamp(), suspended_reason = 'abuse'
          WHERE account_id = 2",
    ] {
        let nodes = Nodes::start(&[]).await;
        let holder = Uuid::new_v4();
        nodes.second.grant("l", holder, 60_000).await;
        let chosen = nodes
            .wait(&nodes.first, waiting(BOB, Uuid::new_v4()), 0)
            .await;
        let drawn = Acquire {
            wait_ms: 60_000,
            ..acquire(BOB, "l", None)
        };
        let drawn = nodes.wait(&nodes.second, drawn, 1).await;
        let admitted = nodes
            .wait(&nodes.first, waiting(ALICE, Uuid::new_v4()), 2)
            .await;
        nodes.db.execute(change).await;
        for waiter in [chosen, drawn] {
            assert_eq!(waiter.await.unwrap(), Err(EngineError::CallerRefused));
        }
        let lease = nodes.second.release("l", holder).await;
        assert_eq!(lease, Ok(ReleaseOutcome::Released));
        assert!(lease_of(admitted).await.is_some());
        let late = nodes
            .second
            .engine
            .acquire(waiting(BOB, Uuid::new_v4()))
            .await;
        assert_eq!(late, Err(EngineError::CallerRefused));
    }
}

/// Shared leases are taken and given back without a pause on both nodes; an exclusive request comes
/// in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_shared_requests_does_not_starve_an_exclusive_one() {
    let nodes = Nodes::start(&[]).await;
    let readers = [&nodes.first, &nodes.second].repeat(4);
    let streams: Vec<_> = readers
        .into_iter()
        .map(|node| {
            let engine = node.engine.clone();
            tokio::spawn(async move {
                loop {
                    let id = Uuid::new_v4();
                    let shared = Acquire {
                        mode: Mode::Shared,
                        ..waiting(ALICE, id)
                    };
                    let outcome = engine.acquire(shared).await;
                    assert!(
                        matches!(outcome, Ok(AcquireOutcome::Granted(_))),
                        "{outcome:?}"
                    );
                    let released = engine.release(release(ALICE, "l", Some(id))).await;
                    assert_eq!(released, Ok(ReleaseOutcome::Released));
                }
            })
        })
        .collect();
    nodes.until("SELECT count(*) > 2 FROM lock_members").await;
    for _ in 0..5 {
        let id = Uuid::new_v4();
        let engine = nodes.second.engine.clone();
        let writer = tokio::spawn(async move { engine.acquire(waiting(BOB, id)).await });
        let lease = lease_of(writer).await.unwrap();
        let beside = "SELECT count(*) FROM lock_members WHERE end_reason = 0";
        assert_eq!(nodes.db.value::<i64>(beside).await, 0);
        assert_eq!(lease.mode, Mode::Exclusive);
        let released = nodes
            .first
            .engine
            .release(release(BOB, "l", Some(id)))
            .await;
        assert_eq!(released, Ok(ReleaseOutcome::Released));
    }
    for stream in streams {
        assert!(!stream.is_finished());
        stream.abort();
    }
}

/// The smallest slot that is free, on whatever node it was freed.
#[tokio::test(flavor = "multi_thread")]
async fn a_permit_has_the_smallest_slot_that_is_free() {
    let nodes = Nodes::start(&[]).await;
    let take = async |node: &Node, id| {
        let permit = Acquire {
            mode: Mode::Semaphore { limit: 4 },
            ..waiting(ALICE, id)
        };
        match node.engine.acquire(permit).await {
            Ok(AcquireOutcome::Granted(lease)) => lease.slot,
            other => panic!("not granted: {other:?}"),
        }
    };
    let ids: Vec<Uuid> = (0..4).map(|_| Uuid::new_v4()).collect();
    for (slot, id) in ids.iter().enumerate() {
        let node = if slot % 2 == 0 {
            &nodes.first
        } else {
            &nodes.second
        };
        assert_eq!(take(node, *id).await, Some(slot as i32));
    }
    for id in [ids[2], ids[1]] {
        nodes.second.release("l", id).await.unwrap();
    }
    for slot in [1, 2] {
        assert_eq!(take(&nodes.first, Uuid::new_v4()).await, Some(slot));
    }
}

/// P11, across nodes: by a hand-over, a heartbeat and a repeated acquire, of an exclusive lease and
/// of a permit; and the reason, once it has lapsed.
#[tokio::test(flavor = "multi_thread")]
async fn no_node_renews_a_lease_beyond_its_hold_limit() {
    for mode in [Mode::Exclusive, Mode::Shared] {
        let nodes = Nodes::start(&[]).await;
        let (holder, id) = (Uuid::new_v4(), Uuid::new_v4());
        nodes.second.grant("l", holder, 60_000).await;
        let limited = Acquire {
            mode,
            max_hold_ms: Some(20_000),
            ..waiting(ALICE, id)
        };
        let waiter = nodes.wait(&nodes.first, limited.clone(), 0).await;
        nodes.second.release("l", holder).await.unwrap();
        let lease = lease_of(waiter).await.unwrap();
        let limit = lease.acquired_at + chrono::TimeDelta::milliseconds(20_000);
        assert_eq!((lease.expires_at, lease.max_hold_ms), (limit, Some(20_000)));
        assert!(lease.expires_in_ms <= 20_000);
        let beat = renewed(nodes.second.heartbeat("l", id).await);
        assert_eq!(beat.expires_at, limit);
        let Ok(AcquireOutcome::Granted(again)) = nodes.second.engine.acquire(limited).await else {
            panic!("its own lease is not renewed");
        };
        assert_eq!(
            (again.expires_at, again.fencing_token),
            (limit, lease.fencing_token)
        );
        nodes
            .db
            .execute(
                "UPDATE locks SET acquired_at = acquired_at - interval '20 s',
                        expires_at = expires_at - interval '20 s' WHERE account_id <> 0;
                 UPDATE lock_members SET acquired_at = acquired_at - interval '20 s',
                                         expires_at = expires_at - interval '20 s'",
            )
            .await;
        assert_eq!(lost(nodes.first.heartbeat("l", id).await), Lost::HoldLimit);
        assert_eq!(
            nodes.second.release("l", id).await,
            Ok(ReleaseOutcome::Lost(Lost::HoldLimit))
        );
    }
}
