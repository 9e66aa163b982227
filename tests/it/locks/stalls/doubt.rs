//! A node that loses its connection does not know whether what it sent will still be executed. It
//! answers, and retries, only when that is over.

use lockable::locks::Heartbeat;

use super::*;
use crate::support::node::renewed;

/// Sends a request that the network holds, and breaks the connection at the node's end. New
/// connections work.
async fn send_and_lose<T: Send + 'static>(
    nodes: &Nodes,
    request: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    nodes.network.only_old();
    nodes.network.requests(Flow::Freeze);
    let request = spawn(request);
    eventually("it was sent", async || {
        (nodes.network.held() > 0).then_some(())
    })
    .await;
    nodes.network.hang_up();
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_without_an_id_is_answered_when_it_cannot_be_executed_any_more() {
    let nodes = Nodes::start(LONG_DEADLINE).await;
    granted(nodes.other.engine.acquire(plain(ALICE, "l", 60_000)).await);
    let engine = nodes.stalled.engine.clone();
    let request = async move { engine.release(release(ALICE, "l", None)).await };
    let request = send_and_lose(&nodes, request).await;
    assert_eq!(request.await.unwrap(), Err(EngineError::Unknown));
    // The client tries again elsewhere, and then takes the lock anew.
    let again = nodes.other.engine.release(release(ALICE, "l", None)).await;
    assert_eq!(again, Ok(ReleaseOutcome::Released));
    granted(nodes.other.engine.acquire(plain(ALICE, "l", 60_000)).await);
    nodes.let_the_rest_arrive().await;
    renewed(
        nodes
            .other
            .engine
            .heartbeat(heartbeat(ALICE, "l", None))
            .await,
    );
    assert!(!nodes.is_free("l").await);
}

/// It is refused when it is retried; the first execution, when it arrives, grants nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_that_was_refused_is_not_granted_afterwards() {
    for id in [None, Some(Uuid::new_v4())] {
        let nodes = Nodes::start(LONG_DEADLINE).await;
        let holder = Uuid::new_v4();
        nodes.know("l").await;
        nodes.other.grant("l", holder, 60_000).await;
        let engine = nodes.stalled.engine.clone();
        let request = Acquire {
            lease_ms: DAY_MS,
            ..acquire(BOB, "l", id)
        };
        let request = send_and_lose(&nodes, async move { engine.acquire(request).await }).await;
        assert_eq!(request.await.unwrap(), Ok(AcquireOutcome::Held));
        nodes.other.release("l", holder).await.unwrap();
        nodes.let_the_rest_arrive().await;
        assert_eq!(nodes.remaining_s("l").await, None);
    }
}

/// It is granted when it is retried, and used, and given back; then the first execution arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_plain_acquire_that_was_granted_is_not_granted_again() {
    let nodes = Nodes::start(LONG_DEADLINE).await;
    nodes.know("l").await;
    let engine = nodes.stalled.engine.clone();
    let request = async move { engine.acquire(plain(ALICE, "l", DAY_MS)).await };
    let request = send_and_lose(&nodes, request).await;
    granted(request.await.unwrap());
    for account in [ALICE, BOB] {
        if account == BOB {
            granted(nodes.other.engine.acquire(plain(BOB, "l", 60_000)).await);
        }
        let released = nodes
            .other
            .engine
            .release(release(account, "l", None))
            .await;
        assert_eq!(released, Ok(ReleaseOutcome::Released));
    }
    nodes.let_the_rest_arrive().await;
    assert_eq!(nodes.remaining_s("l").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_that_was_answered_does_not_shorten_the_next_one() {
    let nodes = Nodes::start(LONG_DEADLINE).await;
    granted(nodes.other.engine.acquire(plain(ALICE, "l", 60_000)).await);
    let engine = nodes.stalled.engine.clone();
    let short = Heartbeat {
        lease_ms: Some(5000),
        ..heartbeat(ALICE, "l", None)
    };
    let request = send_and_lose(&nodes, async move { engine.heartbeat(short).await }).await;
    renewed(request.await.unwrap());
    renewed(
        nodes
            .other
            .engine
            .heartbeat(heartbeat(ALICE, "l", None))
            .await,
    );
    nodes.let_the_rest_arrive().await;
    let remaining = nodes.remaining_s("l").await.unwrap();
    assert!(remaining > 10.0, "{remaining} s are left of 60");
}

/// A new row that had to wait for another's insert is short; where no time is left to repeat the
/// acquire, the grant is not forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_plain_grant_that_was_too_short_to_be_answered_is_released() {
    let nodes = Nodes::start(DEADLINE).await;
    let mut insert = begin(&nodes.db).await;
    execute(
        &mut insert,
        "INSERT INTO locks (namespace_id, name, account_id, token_id, fencing_token, acquired_at,
                            expires_at, lease_id, lease_ms, needs_proof)
         VALUES (1, 'l', 1, 1, 0, clock_timestamp(), 'infinity', gen_random_uuid(), 5000, true)",
    )
    .await;
    let request = spawn({
        let engine = nodes.stalled.engine.clone();
        async move { engine.acquire(plain(ALICE, "l", DAY_MS)).await }
    });
    until_waiting(&nodes.db, "locks.insert_if_absent", 1).await;
    // Long enough to be visibly short, and shorter than lock_timeout.
    tokio::time::sleep(Duration::from_millis(400)).await;
    // No answer comes back any more, so there is no time for a repetition.
    nodes.network.answers(Flow::Freeze);
    execute(&mut insert, "ROLLBACK").await;
    assert_eq!(request.await.unwrap(), Err(EngineError::Unknown));
    nodes.network.mend();
    until(
        &nodes.db,
        "SELECT FROM locks WHERE name = 'l' AND end_reason = 1 AND lease_ms = 86400000",
    )
    .await;
    assert!(nodes.is_free("l").await);
}
