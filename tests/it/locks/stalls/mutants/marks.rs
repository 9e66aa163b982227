//! The marks of releases that came before their acquires.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_is_missed_is_caught() {
    // The acquire observed the lock before the mark.
    let observed_before = async |setting: Setting| {
        let Setting {
            db,
            mut session,
            mut other,
        } = setting;
        let (id, earlier) = (Uuid::new_v4(), Uuid::new_v4());
        for name in ["a", "b"] {
            other.acquire(&[of(name, earlier)], any_time()).await;
            other
                .release(&release(ALICE, name, Some(earlier)), any_time())
                .await;
        }
        let locker = locker_of(&db, "a").await;
        let batch = [of("a", Uuid::new_v4()), of("b", id)];
        tokio::join!(session.acquire(&batch, any_time()), async {
            until_waiting(&db, "locks.acquire", 1).await;
            other
                .release_under_lock(&[("b", id)], true, any_time())
                .await;
            commit(locker).await;
        });
        let setting = Setting { db, session, other };
        !setting.is_held("b").await
    };
    let undrawn = (
        Kind::ReleaseUnderLock,
        "THEN l.mark_token ELSE nextval('lock_fence') END",
        "THEN l.mark_token ELSE l.mark_token END",
    );
    let unread = (
        Kind::Acquire,
        "  WHERE lock_version(l.fencing_token, l.mark_token,",
        "  WHERE lock_version(l.fencing_token, NULL,",
    );
    assert_needed(observed_before, &[undrawn, unread]).await;

    // The acquire arrives after it, when others have used the lock.
    let arrived_after = async |mut setting: Setting| {
        let (id, between) = (Uuid::new_v4(), Uuid::new_v4());
        // The row remembers another lease, not the mark.
        let earlier = Uuid::new_v4();
        setting.grant(&of("l", earlier)).await;
        setting.release("l", earlier).await;
        setting
            .session
            .release_under_lock(&[("l", id)], true, any_time())
            .await;
        setting.grant(&of("l", between)).await;
        setting.release("l", between).await;
        setting.session.acquire(&[of("l", id)], any_time()).await;
        !setting.is_held("l").await
    };
    let forgotten = (
        Kind::ReleaseUnderLock,
        "WHERE is_clients\n",
        "WHERE NOT is_clients\n",
    );
    let unasked = (Kind::Acquire, "WHEN ended THEN 'ended'\n", "\n");
    assert_needed(arrived_after, &[forgotten, unasked]).await;

    // The same, and the row was swept since.
    let swept = async |mut setting: Setting| {
        let id = Uuid::new_v4();
        setting
            .session
            .release_under_lock(&[("l", id)], true, any_time())
            .await;
        setting.db.execute("DELETE FROM locks").await;
        setting
            .session
            .insert_if_absent(&[of("l", id)], any_time())
            .await;
        !setting.is_held("l").await
    };
    let unasked = (Kind::InsertIfAbsent, "WHERE e.ended IS NULL", "WHERE true");
    assert_needed(swept, &[unasked, forgotten]).await;

    // The mark of a stranger leaves the holder's lease as it is.
    let held = async |mut setting: Setting| {
        setting.grant(&acquire(BOB, "l", None)).await;
        let releases = [("l", Uuid::new_v4())];
        setting
            .session
            .release_under_lock(&releases, true, any_time())
            .await;
        setting.is_held("l").await
    };
    let unowned = (
        Kind::ReleaseUnderLock,
        "CASE WHEN (l.lease_id IS DISTINCT FROM excluded.lease_id\n                            \
         OR l.account_id IS DISTINCT FROM excluded.account_id\n",
        "CASE WHEN (l.lease_id IS NULL\n",
    );
    assert_needed(held, &[unowned]).await;
}

/// An acquire has observed a lease that lapsed, and waits for the row, in which a renewal is in its
/// commit. The release that follows comes first: it, and its repetition, released the lease.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_remembered_wrongly_is_caught() {
    let kept = async |setting: Setting| {
        let Setting {
            db,
            mut session,
            mut other,
        } = setting;
        let (a, id) = (Uuid::new_v4(), Uuid::new_v4());
        for (name, id) in [("a", a), ("b", id)] {
            other.acquire(&[of(name, id)], any_time()).await;
        }
        db.execute("UPDATE locks SET expires_at = clock_timestamp() + interval '300 ms'")
            .await;
        other.begin().await;
        other
            .heartbeat(&heartbeat(ALICE, "b", Some(id)), any_time())
            .await;
        let lapsed = "SELECT FROM locks WHERE name = 'b' AND expires_at < clock_timestamp()";
        until(&db, lapsed).await;
        let locker = locker_of(&db, "a").await;
        let batch = [of("a", Uuid::new_v4()), of("b", Uuid::new_v4())];
        tokio::join!(session.acquire(&batch, any_time()), async {
            until_waiting(&db, "locks.acquire", 1).await;
            other.commit().await;
            let released = other
                .release(&release(ALICE, "b", Some(id)), any_time())
                .await;
            assert!(released.are("b", "done"), "{released:?}");
            commit(locker).await;
        });
        // By this statement or by the next one.
        session
            .acquire(&[of("b", Uuid::new_v4())], any_time())
            .await;
        let again = session
            .release(&release(ALICE, "b", Some(id)), any_time())
            .await;
        again.are("b", "released")
    };
    let from_observation = (
        Kind::Acquire,
        "  WHERE lock_version(l.fencing_token, l.mark_token, l.needs_proof, l.end_reason)",
        "  WHERE 3 + 8 + 16 * greatest(l.fencing_token, l.mark_token)",
    );
    assert_needed(kept, &[from_observation]).await;
}
