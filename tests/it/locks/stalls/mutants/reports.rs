//! What a request is told of a lease's end, when it was decided elsewhere or a moment ago.

use sqlx::Executor as _;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_release_under_the_lock_that_denies_what_it_did_is_caught() {
    // Its answer is lost, another lease takes the lock, and it is sent again.
    let told_again = async |setting: Setting| {
        let Setting {
            mut session,
            mut other,
            ..
        } = setting;
        let id = Uuid::new_v4();
        other.acquire(&[of("a", id)], any_time()).await;
        let first = session
            .release_under_lock(&[("a", id)], true, any_time())
            .await;
        assert!(first.are("a", "released"), "{first:?}");
        other.acquire(&[of("a", Uuid::new_v4())], any_time()).await;
        let again = session
            .release_under_lock(&[("a", id)], true, any_time())
            .await;
        again.are("a", "released") && !again.are("a", "never_granted")
    };
    let forgotten = (
        Kind::ReleaseUnderLock,
        "  FROM remembered",
        "  FROM remembered WHERE false",
    );
    assert_needed(told_again, &[forgotten]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_that_calls_a_lapsed_lease_released_is_caught() {
    // The sweeper deletes the row between the look and the write.
    let told = async |setting: Setting| {
        let Setting {
            db,
            mut session,
            mut other,
        } = setting;
        let id = Uuid::new_v4();
        other.acquire(&[of("a", id)], any_time()).await;
        db.execute("UPDATE locks SET expires_at = clock_timestamp() - interval '2 hours'")
            .await;
        let mut sweeper = db.connect().await;
        let mut deletion = sweeper.begin().await.unwrap();
        deletion.execute("DELETE FROM locks").await.unwrap();
        tokio::join!(
            async {
                let request = heartbeat(ALICE, "a", Some(id));
                session.heartbeat(&request, any_time()).await;
            },
            async {
                until_waiting(&db, "locks.heartbeat", 1).await;
                deletion.commit().await.unwrap();
            }
        );
        let released = other
            .release(&release(ALICE, "a", Some(id)), any_time())
            .await;
        !released.are("a", "released")
    };
    let as_released = (
        Kind::Heartbeat,
        "3, proof IS NOT NULL",
        "1, proof IS NOT NULL",
    );
    assert_needed(told, &[as_released]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_proof_that_has_come_to_be_needed_is_caught() {
    // The client repeats its plain acquire with the id that it was given, which is in its commit.
    let refused = async |kind: Kind, setting: Setting| {
        let Setting {
            db,
            mut session,
            mut other,
        } = setting;
        let plain = Acquire {
            needs_proof: false,
            ..of("a", Uuid::new_v4())
        };
        other
            .acquire(std::slice::from_ref(&plain), any_time())
            .await;
        other.begin().await;
        other.acquire(&[of("a", plain.lease_id)], any_time()).await;
        let statement = if kind == Kind::Release {
            "locks.release"
        } else {
            "locks.heartbeat"
        };
        let (verdicts, ()) = tokio::join!(
            async {
                if kind == Kind::Release {
                    let request = release(ALICE, "a", None);
                    session.release(&request, any_time()).await
                } else {
                    let request = heartbeat(ALICE, "a", None);
                    session.heartbeat(&request, any_time()).await
                }
            },
            async {
                until_waiting(&db, statement, 1).await;
                other.commit().await;
            }
        );
        verdicts.are_none()
    };
    let clause = "AND (excluded.needs_proof OR NOT l.needs_proof)";
    for kind in [Kind::Release, Kind::Heartbeat] {
        let refused = async |setting: Setting| refused(kind, setting).await;
        assert_needed(refused, &[(kind, clause, "")]).await;
    }
}
