//! P6: a request can be repeated, through any node, and has its effect once.

use lockable::locks::{AcquireOutcome, Lost, ReleaseOutcome};
use uuid::Uuid;

use crate::support::node::{BOB, Node, acquire, heartbeat, lost, renewed};
use crate::support::prelude::*;

/// The fates of a lease before its requests are repeated.
const FATES: [Fate; 6] = [
    Fate {
        end: End::None,
        is_taken_over: false,
        lost: None,
    },
    Fate {
        end: End::Released,
        is_taken_over: false,
        lost: Some(Lost::Released),
    },
    Fate {
        end: End::Released,
        is_taken_over: true,
        lost: Some(Lost::Released),
    },
    Fate {
        end: End::Lapsed,
        is_taken_over: false,
        lost: Some(Lost::Expired),
    },
    Fate {
        end: End::Lapsed,
        is_taken_over: true,
        lost: Some(Lost::Superseded),
    },
    Fate {
        end: End::LapsedAndRowDeleted,
        is_taken_over: false,
        lost: Some(Lost::Unknown),
    },
];

#[derive(Debug, Clone, Copy)]
struct Fate {
    end: End,
    /// True if others held the lock since, and released it.
    is_taken_over: bool,
    /// Why a heartbeat then does not renew; `None` if it does.
    lost: Option<Lost>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    None,
    Released,
    Lapsed,
    LapsedAndRowDeleted,
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_can_be_repeated_on_another_node_after_anything() {
    let db = Database::create().await;
    let nodes = [
        Node::start(db.options()).await,
        Node::start(db.options()).await,
    ];
    for (number, fate) in FATES.into_iter().enumerate() {
        let name = format!("lock-{number}");
        let lease_id = Uuid::new_v4();
        let lease_ms = if matches!(fate.end, End::None | End::Released) {
            60_000
        } else {
            1000
        };
        let granted = nodes[0].grant(&name, lease_id, lease_ms).await;
        match fate.end {
            End::None => {}
            End::Released => {
                assert_eq!(
                    nodes[0].release(&name, lease_id).await.unwrap(),
                    ReleaseOutcome::Released
                );
            }
            End::Lapsed | End::LapsedAndRowDeleted => {
                let lapsed = format!(
                    "SELECT expires_at < clock_timestamp() FROM locks WHERE name = '{name}'"
                );
                eventually("it lapses", async || {
                    db.value::<bool>(&lapsed).await.then_some(())
                })
                .await;
            }
        }
        if fate.end == End::LapsedAndRowDeleted {
            db.execute(&format!("DELETE FROM locks WHERE name = '{name}'"))
                .await;
        }
        if fate.is_taken_over {
            for _ in 0..3 {
                let other = Uuid::new_v4();
                nodes[1].grant(&name, other, 60_000).await;
                assert_eq!(
                    nodes[0].release(&name, other).await.unwrap(),
                    ReleaseOutcome::Released
                );
            }
        }
        for node in [&nodes[1], &nodes[0]] {
            let again = node.acquire(&name, lease_id, lease_ms).await.unwrap();
            match (fate.end, again) {
                (End::None, AcquireOutcome::Granted(lease)) => {
                    assert_eq!(
                        (lease.fencing_token, lease.lease_id),
                        (granted.fencing_token, lease_id),
                        "{fate:?}"
                    );
                    assert_eq!(lease.acquired_at, granted.acquired_at, "{fate:?}");
                    assert!(
                        lease.expires_at > granted.expires_at && lease.expires_in_ms == 60_000,
                        "{lease:?}"
                    );
                }
                // Its end is no longer remembered: an hour after it at the earliest.
                (End::LapsedAndRowDeleted, AcquireOutcome::Granted(_)) => {
                    db.execute(&format!("DELETE FROM locks WHERE name = '{name}'"))
                        .await;
                }
                (End::Released | End::Lapsed, AcquireOutcome::LeaseEnded) => {}
                (_, other) => panic!("{fate:?}: {other:?}"),
            }
            let heartbeat = node.heartbeat(&name, lease_id).await;
            match fate.lost {
                None => assert_eq!(renewed(heartbeat).fencing_token, granted.fencing_token),
                Some(reason) => assert_eq!(lost(heartbeat), reason, "{fate:?}"),
            }
        }
        // The first release of the live one, and its repetition, which has the first one's outcome.
        for node in [&nodes[0], &nodes[1]] {
            let released = node.release(&name, lease_id).await.unwrap();
            let expected = match fate.lost {
                None | Some(Lost::Released) => ReleaseOutcome::Released,
                // Its acquire might still come.
                Some(Lost::Unknown) => ReleaseOutcome::Lost(Lost::NeverGranted),
                Some(other) => ReleaseOutcome::Lost(other),
            };
            assert_eq!(released, expected, "{fate:?}");
        }
        assert_eq!(
            db.value::<i64>(
                "SELECT count(*) FROM locks WHERE end_reason = 0 AND expires_at > clock_timestamp()"
            )
            .await,
            0
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_repeated_while_it_runs_has_one_effect() {
    let db = Database::create().await;
    let nodes = [
        Node::start(db.options()).await,
        Node::start(db.options()).await,
    ];
    for round in 0..40 {
        let name = format!("lock-{}", round % 5);
        let lease_id = Uuid::new_v4();
        let (one, two, three) = tokio::join!(
            nodes[0].grant(&name, lease_id, 60_000),
            nodes[1].grant(&name, lease_id, 60_000),
            nodes[1].grant(&name, lease_id, 60_000),
        );
        assert_eq!(
            (one.fencing_token, one.fencing_token),
            (two.fencing_token, three.fencing_token)
        );
        let (one, two) = tokio::join!(
            nodes[0].release(&name, lease_id),
            nodes[1].release(&name, lease_id)
        );
        assert_eq!(
            (one.unwrap(), two.unwrap()),
            (ReleaseOutcome::Released, ReleaseOutcome::Released)
        );
        assert_eq!(
            nodes[0].acquire(&name, lease_id, 60_000).await.unwrap(),
            AcquireOutcome::LeaseEnded
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_id_that_ended_serves_another_lock_all_the_same() {
    let db = Database::create().await;
    let nodes = [
        Node::start(db.options()).await,
        Node::start(db.options()).await,
    ];
    let lease_id = Uuid::new_v4();
    nodes[0].grant("one", lease_id, 60_000).await;
    nodes[0].release("one", lease_id).await.unwrap();
    nodes[1].grant("another", lease_id, 60_000).await;
    for node in &nodes {
        assert_eq!(
            node.acquire("one", lease_id, 60_000).await.unwrap(),
            AcquireOutcome::LeaseEnded
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_lease_id_is_unknown() {
    let db = Database::create().await;
    let node = Node::start(db.options()).await;
    let lease_id = Uuid::new_v4();
    let alices = node.grant("l", lease_id, 60_000).await;
    assert_eq!(
        lost(
            node.engine
                .heartbeat(heartbeat(BOB, "l", Some(lease_id)))
                .await
        ),
        Lost::Unknown
    );
    let acquired = node
        .engine
        .acquire(acquire(BOB, "l", Some(lease_id)))
        .await
        .unwrap();
    assert_eq!(
        acquired,
        AcquireOutcome::Held,
        "it says no more than that the lock is held"
    );
    assert_eq!(
        renewed(node.heartbeat("l", lease_id).await).fencing_token,
        alices.fencing_token
    );

    // The memory of what ended is each account's own as well: the same id serves another account's
    // lease.
    node.release("l", lease_id).await.unwrap();
    assert_eq!(
        lost(
            node.engine
                .heartbeat(heartbeat(BOB, "l", Some(lease_id)))
                .await
        ),
        Lost::Unknown
    );
    let acquired = node
        .engine
        .acquire(acquire(BOB, "l", Some(lease_id)))
        .await
        .unwrap();
    let AcquireOutcome::Granted(bobs) = acquired else {
        panic!("{acquired:?}")
    };
    assert!(bobs.fencing_token > alices.fencing_token);
    assert_eq!(
        lost(node.heartbeat("l", lease_id).await),
        Lost::Released,
        "Alice's own, still"
    );
    assert_eq!(
        node.release("l", lease_id).await.unwrap(),
        ReleaseOutcome::Released,
        "as the first time"
    );
    renewed(
        node.engine
            .heartbeat(heartbeat(BOB, "l", Some(lease_id)))
            .await,
    );
    assert_eq!(
        node.acquire("l", lease_id, 60_000).await.unwrap(),
        AcquireOutcome::LeaseEnded
    );
}
