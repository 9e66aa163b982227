//! A renewal that hangs in its commit across the end of the lease: nobody is told that the lease
//! has ended before that is decided under the row's lock (P8). And the grace of an outage goes by
//! the length that was last renewed with (P10).

use lockable::locks::engine::statements;
use lockable::locks::{Heartbeat, HeartbeatOutcome, Lost};

use super::*;
use crate::support::node::{any_time, lost, renewed};

const SHORT_MS: i32 = 500;

/// A lease of Alice's that has lapsed unless the transaction that is returned commits: it renews
/// it for a minute.
async fn renewal_in_its_commit(nodes: &Nodes, id: Option<Uuid>) -> PgConnection {
    let request = Acquire {
        lease_ms: SHORT_MS,
        ..acquire(ALICE, "l", id)
    };
    // In one transaction with its renewal it would not be known to anybody.
    granted(nodes.other.engine.acquire(request).await);
    nodes
        .db
        .execute("UPDATE locks SET expires_at = clock_timestamp() + interval '2 s'")
        .await;
    let mut renewal = begin(&nodes.db).await;
    let request = Heartbeat {
        lease_ms: Some(60_000),
        ..heartbeat(ALICE, "l", id)
    };
    let outcome = statements::heartbeat(&mut renewal, &[&request], any_time()).await;
    renewed(Ok(outcome.unwrap().remove(0).unwrap().decided().unwrap()));
    until(
        &nodes.db,
        "SELECT FROM locks WHERE name = 'l' AND expires_at < clock_timestamp()",
    )
    .await;
    renewal
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_not_told_false_by_an_old_snapshot() {
    for id in [None, Some(Uuid::new_v4())] {
        let nodes = Nodes::start(DEADLINE).await;
        let renewal = renewal_in_its_commit(&nodes, id).await;
        let engine = nodes.other.engine.clone();
        let request = spawn(async move { engine.release(release(ALICE, "l", id)).await });
        until_waiting(&nodes.db, "locks.release", 1).await;
        commit(renewal).await;
        assert_eq!(request.await.unwrap(), Ok(ReleaseOutcome::Released));
        assert!(nodes.is_free("l").await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_is_not_told_false_by_an_old_snapshot() {
    for id in [None, Some(Uuid::new_v4())] {
        let nodes = Nodes::start(DEADLINE).await;
        let renewal = renewal_in_its_commit(&nodes, id).await;
        let engine = nodes.other.engine.clone();
        let request = spawn(async move { engine.heartbeat(heartbeat(ALICE, "l", id)).await });
        until_waiting(&nodes.db, "locks.heartbeat", 1).await;
        commit(renewal).await;
        renewed(request.await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_acquire_is_not_told_false_by_an_old_snapshot() {
    let nodes = Nodes::start(DEADLINE).await;
    let id = Uuid::new_v4();
    let renewal = renewal_in_its_commit(&nodes, Some(id)).await;
    let engine = nodes.other.engine.clone();
    let request = spawn(async move { engine.acquire(acquire(ALICE, "l", Some(id))).await });
    until_waiting(&nodes.db, "locks.acquire", 1).await;
    commit(renewal).await;
    granted(request.await.unwrap());
    let remaining = nodes.remaining_s("l").await.unwrap();
    assert!(remaining > 10.0, "{remaining} s are left of 60");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_does_not_get_a_lock_that_is_renewed_just_then() {
    let nodes = Nodes::start(DEADLINE).await;
    let renewal = renewal_in_its_commit(&nodes, None).await;
    let engine = nodes.other.engine.clone();
    let request = spawn(async move { engine.acquire(acquire(BOB, "l", None)).await });
    until_waiting(&nodes.db, "locks.acquire", 1).await;
    commit(renewal).await;
    assert_eq!(request.await.unwrap(), Ok(AcquireOutcome::Held));
}

/// And where the renewal fails in its commit, all agree that the lease has ended, for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_whose_renewal_fails_has_ended_for_everybody() {
    for id in [None, Some(Uuid::new_v4())] {
        let nodes = Nodes::start(DEADLINE).await;
        let mut renewal = renewal_in_its_commit(&nodes, id).await;
        let engine = nodes.other.engine.clone();
        let request = spawn(async move { engine.release(release(ALICE, "l", id)).await });
        until_waiting(&nodes.db, "locks.release", 1).await;
        execute(&mut renewal, "ROLLBACK").await;
        let expired = Ok(ReleaseOutcome::Lost(Lost::Expired));
        assert_eq!(request.await.unwrap(), expired);
        // A clock that is set back, or an outage, does not bring it back to life.
        nodes
            .db
            .execute("UPDATE locks SET expires_at = clock_timestamp() + interval '1 minute'")
            .await;
        let outcome = nodes
            .stalled
            .engine
            .heartbeat(heartbeat(ALICE, "l", id))
            .await;
        assert_eq!(lost(outcome), Lost::Expired);
        let again = nodes.other.engine.release(release(ALICE, "l", id)).await;
        assert_eq!(again, expired);
        assert!(nodes.is_free("l").await);
    }
}

/// Puts the lease of "l" into an outage that lasted ten seconds and ended so long ago.
async fn outage_that_ended(db: &Database, seconds_ago: i32) {
    db.execute(&format!(
        "UPDATE service_clock SET last_ok_at = clock_timestamp(),
                outage_start = clock_timestamp() - ({seconds_ago} + 10) * interval '1 s',
                outage_end = clock_timestamp() - {seconds_ago} * interval '1 s';
         UPDATE locks
            SET expires_at = clock_timestamp() - ({seconds_ago} + 5) * interval '1 s'"
    ))
    .await;
}

/// A lease that was granted for a second and renewed for a minute has a minute to come back.
#[tokio::test(flavor = "multi_thread")]
async fn the_grace_goes_by_the_length_that_was_renewed_with() {
    for by_acquire in [false, true] {
        let nodes = Nodes::start(DEADLINE).await;
        let id = Uuid::new_v4();
        nodes.other.grant("l", id, 1000).await;
        let longer = if by_acquire {
            let request = Acquire {
                requested_ms: Some(40_000),
                ..acquire(ALICE, "l", Some(id))
            };
            matches!(
                nodes.other.engine.acquire(request).await,
                Ok(AcquireOutcome::Granted(_))
            )
        } else {
            let request = Heartbeat {
                lease_ms: Some(40_000),
                ..heartbeat(ALICE, "l", Some(id))
            };
            matches!(
                nodes.other.engine.heartbeat(request).await,
                Ok(HeartbeatOutcome::Renewed(_))
            )
        };
        assert!(longer);
        outage_that_ended(&nodes.db, 20).await;
        assert!(!nodes.is_free("l").await);
        renewed(nodes.stalled.heartbeat("l", id).await);
        outage_that_ended(&nodes.db, 50).await;
        assert!(nodes.is_free("l").await, "but not longer");
    }
}
