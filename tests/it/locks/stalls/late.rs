//! A request that the network held past its deadline was answered as unknown; what arrives then
//! writes nothing.

use lockable::locks::{Heartbeat, Lost};

use super::*;
use crate::support::node::{lost, renewed};

#[tokio::test(flavor = "multi_thread")]
async fn a_late_release_without_an_id_leaves_the_next_lease_alone() {
    let nodes = Nodes::start(DEADLINE).await;
    granted(nodes.other.engine.acquire(plain(ALICE, "l", 60_000)).await);
    nodes
        .hold(nodes.stalled.engine.release(release(ALICE, "l", None)))
        .await;
    let again = nodes.other.engine.release(release(ALICE, "l", None)).await;
    assert_eq!(again, Ok(ReleaseOutcome::Released));
    granted(nodes.other.engine.acquire(plain(ALICE, "l", 60_000)).await);
    nodes.let_arrive("locks.release").await;
    renewed(
        nodes
            .other
            .engine
            .heartbeat(heartbeat(ALICE, "l", None))
            .await,
    );
    assert!(!nodes.is_free("l").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_release_with_an_id_leaves_a_lease_alone_that_was_renewed() {
    let nodes = Nodes::start(DEADLINE).await;
    let id = Uuid::new_v4();
    nodes.other.grant("l", id, 60_000).await;
    nodes.hold(nodes.stalled.release("l", id)).await;
    // The client changes its mind, and is told that it still holds the lock.
    renewed(nodes.other.heartbeat("l", id).await);
    nodes.let_arrive("locks.release").await;
    renewed(nodes.other.heartbeat("l", id).await);
    assert!(!nodes.is_free("l").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_heartbeat_does_not_shorten_what_was_renewed_since() {
    for id in [None, Some(Uuid::new_v4())] {
        let nodes = Nodes::start(DEADLINE).await;
        granted(nodes.other.engine.acquire(acquire(ALICE, "l", id)).await);
        let short = Heartbeat {
            lease_ms: Some(1000),
            ..heartbeat(ALICE, "l", id)
        };
        nodes.hold(nodes.stalled.engine.heartbeat(short)).await;
        renewed(
            nodes
                .other
                .engine
                .heartbeat(heartbeat(ALICE, "l", id))
                .await,
        );
        nodes.let_arrive("locks.heartbeat").await;
        let remaining = nodes.remaining_s("l").await.unwrap();
        assert!(remaining > 10.0, "{remaining} s are left of 60");
    }
}

/// For 24 hours, of a lock that has a row and of one that has none. The compensating release goes
/// through another connection, finds nothing, and somebody has used the lock since.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_plain_acquire_takes_nothing() {
    for (has_row, statement) in [(true, "locks.acquire"), (false, "locks.insert_if_absent")] {
        let nodes = Nodes::start(DEADLINE).await;
        if has_row {
            nodes.know("l").await;
        }
        nodes.network.only_old();
        nodes
            .hold(nodes.stalled.engine.acquire(plain(ALICE, "l", DAY_MS)))
            .await;
        nodes.let_arrive(statement).await;
        // Nobody waited for the outcome: the node makes sure that there is no grant.
        nodes.until_settled("l").await;
        assert_eq!(nodes.remaining_s("l").await, None);
        assert!(nodes.is_free("l").await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_acquire_with_an_id_takes_nothing() {
    for has_row in [true, false] {
        let nodes = Nodes::start(DEADLINE).await;
        let id = Uuid::new_v4();
        if has_row {
            nodes.know("l").await;
        }
        nodes.hold(nodes.stalled.acquire("l", id, DAY_MS)).await;
        let statement = if has_row {
            "locks.acquire"
        } else {
            "locks.insert_if_absent"
        };
        nodes.let_arrive(statement).await;
        assert_eq!(lost(nodes.other.heartbeat("l", id).await), Lost::Unknown);
        assert!(nodes.is_free("l").await);
    }
}

/// The network holds the old connections, and new ones work: the compensating release overtakes
/// its acquire, and others use the lock in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_plain_acquire_that_its_compensating_release_overtook_takes_nothing() {
    let nodes = Nodes::start(DEADLINE).await;
    nodes.network.only_old();
    nodes.network.requests(Flow::Freeze);
    let request = spawn({
        let engine = nodes.stalled.engine.clone();
        async move { engine.acquire(plain(ALICE, "l", DAY_MS)).await }
    });
    // The request is on its way before the node loses its connections.
    eventually("it was sent", async || {
        (nodes.network.held() > 0).then_some(())
    })
    .await;
    nodes.network.hang_up();
    assert_eq!(request.await.unwrap(), Err(EngineError::Unknown));
    // The mark of the compensating release.
    until(
        &nodes.db,
        "SELECT FROM locks WHERE name = 'l' AND end_reason = 4",
    )
    .await;
    granted(nodes.other.engine.acquire(plain(BOB, "l", 60_000)).await);
    let released = nodes.other.engine.release(release(BOB, "l", None)).await;
    assert_eq!(released, Ok(ReleaseOutcome::Released));
    nodes.let_the_rest_arrive().await;
    assert_eq!(nodes.remaining_s("l").await, None);
    assert!(nodes.is_free("l").await);
}
