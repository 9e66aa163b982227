//! A grant that nobody received is released, unless somebody renewed it meanwhile (P3).

use lockable::locks::{Heartbeat, Lost};

use super::*;
use crate::support::node::{lost, renewed};

/// The ways in which the client of the grant never hears of it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Loss {
    /// It hangs up.
    HungUp,
    /// The node answers that it knows nothing, because the result is late.
    TimedOut,
    /// The node loses the result, and the client hangs up while the node retries.
    Retried,
}

/// Takes "l" for an hour for a client of the stalled node who never hears of it. Meanwhile
/// something happens on the other node. Returns once the compensating release was executed.
async fn grant_without_receiver(nodes: &Nodes, loss: Loss, meanwhile: impl Future<Output = ()>) {
    nodes.network.answers(if loss == Loss::Retried {
        Flow::Drop
    } else {
        Flow::Freeze
    });
    let request = spawn({
        let engine = nodes.stalled.engine.clone();
        async move { engine.acquire(plain(ALICE, "l", HOUR_MS)).await }
    });
    until(
        &nodes.db,
        "SELECT FROM locks WHERE name = 'l' AND end_reason = 0",
    )
    .await;
    meanwhile.await;
    match loss {
        Loss::HungUp => {
            request.abort();
            assert!(request.await.unwrap_err().is_cancelled());
            nodes.network.mend();
        }
        Loss::TimedOut => {
            assert_eq!(request.await.unwrap(), Err(EngineError::Unknown));
            nodes.network.mend();
        }
        Loss::Retried => {
            let locker = locker_of(&nodes.db, "l").await;
            nodes.network.cut();
            nodes.network.mend();
            until_waiting(&nodes.db, "locks.acquire", 1).await;
            request.abort();
            assert!(request.await.unwrap_err().is_cancelled());
            commit(locker).await;
        }
    }
    nodes.until_settled("l").await;
}

async fn start(loss: Loss) -> Nodes {
    Nodes::start(if loss == Loss::TimedOut {
        DEADLINE
    } else {
        LONG_DEADLINE
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ended_if_nobody_renewed_it() {
    for loss in [Loss::HungUp, Loss::TimedOut, Loss::Retried] {
        let nodes = start(loss).await;
        grant_without_receiver(&nodes, loss, async {}).await;
        assert!(nodes.is_free("l").await, "{loss:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_kept_if_another_process_of_the_account_renewed_it() {
    for loss in [Loss::HungUp, Loss::TimedOut, Loss::Retried] {
        let nodes = start(loss).await;
        let renewal = async {
            renewed(
                nodes
                    .other
                    .engine
                    .heartbeat(heartbeat(ALICE, "l", None))
                    .await,
            );
        };
        grant_without_receiver(&nodes, loss, renewal).await;
        assert!(!nodes.is_free("l").await, "{loss:?}");
        renewed(
            nodes
                .other
                .engine
                .heartbeat(heartbeat(ALICE, "l", None))
                .await,
        );
    }
}

/// The other process learned the id that was drawn for the lease, from a heartbeat's answer.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_kept_if_it_was_renewed_by_its_id() {
    for loss in [Loss::HungUp, Loss::TimedOut, Loss::Retried] {
        let nodes = start(loss).await;
        let renewal = async {
            let id: Uuid = nodes
                .db
                .value("SELECT lease_id FROM locks WHERE name = 'l'")
                .await;
            renewed(nodes.other.heartbeat("l", id).await);
        };
        grant_without_receiver(&nodes, loss, renewal).await;
        assert!(!nodes.is_free("l").await, "{loss:?}");
    }
}

/// The other process takes the lease for its own by an acquire with its id.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_kept_if_it_was_renewed_by_an_acquire_with_its_id() {
    let nodes = start(Loss::HungUp).await;
    let renewal = async {
        let id: Uuid = nodes
            .db
            .value("SELECT lease_id FROM locks WHERE name = 'l'")
            .await;
        granted(nodes.other.acquire("l", id, 60_000).await);
    };
    grant_without_receiver(&nodes, Loss::HungUp, renewal).await;
    assert!(!nodes.is_free("l").await);
}

/// The renewal is in its commit when the compensating release comes: it waits for the row.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_kept_if_its_renewal_is_in_its_commit() {
    let nodes = start(Loss::HungUp).await;
    nodes.network.answers(Flow::Freeze);
    let request = spawn({
        let engine = nodes.stalled.engine.clone();
        async move { engine.acquire(plain(ALICE, "l", HOUR_MS)).await }
    });
    until(
        &nodes.db,
        "SELECT FROM locks WHERE name = 'l' AND end_reason = 0",
    )
    .await;
    let mut renewal = begin(&nodes.db).await;
    let outcome = lockable::locks::engine::statements::heartbeat(
        &mut renewal,
        &[&heartbeat(ALICE, "l", None)],
        crate::support::node::any_time(),
    )
    .await
    .unwrap()
    .remove(0);
    renewed(Ok(outcome.unwrap().decided().unwrap()));
    request.abort();
    // The client has gone before its answer arrives.
    assert!(request.await.unwrap_err().is_cancelled());
    nodes.network.mend();
    until_waiting(&nodes.db, "locks.release_under_lock", 1).await;
    commit(renewal).await;
    nodes.until_settled("l").await;
    assert!(!nodes.is_free("l").await);
}

/// The engine's own repetition, after a lost result, is not what lengthens or shortens a lease that
/// another process has renewed for longer and was told so.
#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_of_the_engines_does_not_shorten_what_was_renewed_since() {
    for id in [None, Some(Uuid::new_v4())] {
        let nodes = Nodes::start(LONG_DEADLINE).await;
        nodes.network.answers(Flow::Drop);
        let request = spawn({
            let engine = nodes.stalled.engine.clone();
            async move { engine.acquire(acquire(ALICE, "l", id)).await }
        });
        until(
            &nodes.db,
            "SELECT FROM locks WHERE name = 'l' AND end_reason = 0",
        )
        .await;
        let long = Heartbeat {
            lease_ms: Some(HOUR_MS),
            ..heartbeat(ALICE, "l", id)
        };
        renewed(nodes.other.engine.heartbeat(long).await);
        nodes.network.cut();
        nodes.network.mend();
        granted(request.await.unwrap());
        let remaining = nodes.remaining_s("l").await.unwrap();
        assert!(remaining > 3000.0, "{remaining} s are left of 3600");
    }
}

/// It is ended by the compensating release before the heartbeat comes: then that is told so.
#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_after_it_is_lost() {
    let nodes = start(Loss::HungUp).await;
    grant_without_receiver(&nodes, Loss::HungUp, async {}).await;
    let outcome = nodes
        .other
        .engine
        .heartbeat(heartbeat(ALICE, "l", None))
        .await;
    assert_eq!(lost(outcome), Lost::Released);
}
