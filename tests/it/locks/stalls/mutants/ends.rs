//! When a lease has ended, who may say so, and for how long an outage protects it.

use super::*;

/// Lets a renewal hang in its commit while the lease lapses in everybody else's snapshot, and sends
/// a statement meanwhile. Returns what that says.
async fn while_it_commits(
    setting: Setting,
    statement: &str,
    send: impl AsyncFn(&mut Session, Uuid) -> bool,
) -> bool {
    let Setting {
        db,
        mut session,
        mut other,
    } = setting;
    let id = Uuid::new_v4();
    other.acquire(&[of("l", id)], any_time()).await;
    db.execute("UPDATE locks SET expires_at = clock_timestamp() + interval '500 ms'")
        .await;
    other.begin().await;
    let renewal = heartbeat(ALICE, "l", Some(id));
    let verdicts = other.heartbeat(&renewal, any_time()).await;
    assert!(verdicts.are("l", "renewed"), "{verdicts:?}");
    let lapsed = "SELECT FROM locks WHERE name = 'l' AND expires_at < clock_timestamp()";
    until(&db, lapsed).await;
    let (is_right, ()) = tokio::join!(send(&mut session, id), async {
        // A mutant may have its answer already.
        let waiting = until_waiting(&db, statement, 1);
        tokio::time::timeout(Duration::from_millis(500), waiting)
            .await
            .ok();
        other.commit().await;
    });
    is_right
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_taken_from_a_snapshot_is_caught() {
    const CLAUSE: &str = "l.lease_ms, l.needs_proof, l.end_reason,";
    const FROM_SNAPSHOT: &str = "l.lease_ms, l.needs_proof,
        CASE WHEN l.end_reason <> 0
                  OR lease_is_live(l.expires_at, l.end_reason, l.lease_ms, c.recent_until,
                       c.open_start, c.outage_start, c.outage_end, c.grace_ms)
             THEN l.end_reason ELSE 3::smallint END AS end_reason,";
    let released = async |setting: Setting| {
        let send = async |session: &mut Session, id| {
            let request = release(ALICE, "l", Some(id));
            let verdicts = session.release(&request, any_time()).await;
            verdicts.are("l", "done")
        };
        while_it_commits(setting, "locks.release", send).await
    };
    assert_needed(released, &[(Kind::Release, CLAUSE, FROM_SNAPSHOT)]).await;

    let renewed = async |setting: Setting| {
        let send = async |session: &mut Session, id| {
            let request = heartbeat(ALICE, "l", Some(id));
            let verdicts = session.heartbeat(&request, any_time()).await;
            verdicts.are("l", "renewed")
        };
        while_it_commits(setting, "locks.heartbeat", send).await
    };
    assert_needed(renewed, &[(Kind::Heartbeat, CLAUSE, FROM_SNAPSHOT)]).await;

    let repeated = async |setting: Setting| {
        let send = async |session: &mut Session, id| {
            let verdicts = session.acquire(&[of("l", id)], any_time()).await;
            verdicts.are("l", "granted")
        };
        while_it_commits(setting, "locks.acquire", send).await
    };
    let from_snapshot = (
        Kind::Acquire,
        "WHEN is_own AND seen_end_reason = 0 THEN 'try'",
        "WHEN is_own AND seen_end_reason = 0 AND live THEN 'try'",
    );
    assert_needed(repeated, &[from_snapshot]).await;

    let refused = async |setting: Setting| {
        let send = async |session: &mut Session, _| {
            let stranger = acquire(BOB, "l", None);
            let verdicts = session.acquire(&[stranger], any_time()).await;
            !verdicts.are("l", "granted")
        };
        while_it_commits(setting, "locks.acquire", send).await
    };
    let from_snapshot = (
        Kind::Acquire,
        "ELSE NOT l.gated\n                  AND NOT lease_is_live(",
        "ELSE true OR NOT lease_is_live(",
    );
    assert_needed(refused, &[from_snapshot]).await;
}

/// The account of a lease was told that it has expired. Then an outage turns out to have begun
/// before the lease's end, which would have protected it.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_not_written_down_is_caught() {
    async fn stays_ended(
        mut setting: Setting,
        says_expired: impl AsyncFn(&mut Session, Uuid) -> bool,
    ) -> bool {
        let id = Uuid::new_v4();
        setting.grant(&of("l", id)).await;
        setting.lapse("l").await;
        let said = says_expired(&mut setting.session, id).await;
        setting
            .db
            .execute(
                "UPDATE service_clock SET outage_start = clock_timestamp() - interval '20 s',
                        outage_end = clock_timestamp(), last_ok_at = clock_timestamp()",
            )
            .await;
        let renewal = heartbeat(ALICE, "l", Some(id));
        let verdicts = setting.other.heartbeat(&renewal, any_time()).await;
        said && verdicts.are("l", "expired")
    }
    let by_release = async |setting: Setting| {
        stays_ended(setting, async |session, id| {
            let request = release(ALICE, "l", Some(id));
            let verdicts = session.release(&request, any_time()).await;
            verdicts.are("l", "expired")
        })
        .await
    };
    let unwritten = (Kind::Release, "ELSE 3 END\n  WHERE", "ELSE 0 END\n  WHERE");
    assert_needed(by_release, &[unwritten]).await;

    let by_heartbeat = async |setting: Setting| {
        stays_ended(setting, async |session, id| {
            let request = heartbeat(ALICE, "l", Some(id));
            let verdicts = session.heartbeat(&request, any_time()).await;
            !verdicts.are("l", "renewed")
        })
        .await
    };
    let unwritten = (
        Kind::Heartbeat,
        "  WHERE l.fencing_token = excluded.fencing_token AND l.end_reason = 0\n",
        "  WHERE l.fencing_token = excluded.fencing_token AND l.end_reason = 0
             AND l.expires_at > clock_timestamp()\n",
    );
    assert_needed(by_heartbeat, &[unwritten]).await;

    let by_acquire = async |setting: Setting| {
        stays_ended(setting, async |session, id| {
            let verdicts = session.acquire(&[of("l", id)], any_time()).await;
            !verdicts.are("l", "granted")
        })
        .await
    };
    let unwritten = (Kind::Acquire, "THEN 5 ELSE 3 END", "THEN 5 ELSE 0 END");
    assert_needed(by_acquire, &[unwritten]).await;

    let under_lock = async |setting: Setting| {
        stays_ended(setting, async |session, id| {
            let releases = [("l", id)];
            let written = session
                .release_under_lock(&releases, true, any_time())
                .await;
            !written.are_none()
        })
        .await
    };
    let unwritten = (
        Kind::ReleaseUnderLock,
        "THEN 5 ELSE 3 END\n",
        "THEN 5 ELSE 0 END\n",
    );
    assert_needed(under_lock, &[unwritten]).await;
}

/// A lease that was granted for a second and renewed for forty lapsed in an outage, which ended
/// twenty seconds ago.
#[tokio::test(flavor = "multi_thread")]
async fn a_grace_by_the_granted_length_is_caught() {
    const CLAUSE: &str = "greatest(l.lease_ms, l.renewed_ms)";
    async fn after_an_outage(setting: &mut Setting) -> Uuid {
        let id = Uuid::new_v4();
        let request = Acquire {
            lease_ms: 1000,
            ..of("l", id)
        };
        setting.grant(&request).await;
        setting.renew("l", id, Some(40_000)).await;
        setting
            .db
            .execute(
                "UPDATE service_clock SET last_ok_at = clock_timestamp(),
                        outage_start = clock_timestamp() - interval '30 s',
                        outage_end = clock_timestamp() - interval '20 s';
                 UPDATE locks SET expires_at = clock_timestamp() - interval '25 s'",
            )
            .await;
        id
    }
    let refused = async |mut setting: Setting| {
        after_an_outage(&mut setting).await;
        let stranger = acquire(BOB, "l", None);
        let verdicts = setting.session.acquire(&[stranger], any_time()).await;
        verdicts.are("l", "held")
    };
    assert_needed(refused, &[(Kind::Acquire, CLAUSE, "l.lease_ms")]).await;
    let renewed = async |mut setting: Setting| {
        let id = after_an_outage(&mut setting).await;
        let request = heartbeat(ALICE, "l", Some(id));
        let verdicts = setting.session.heartbeat(&request, any_time()).await;
        verdicts.are("l", "renewed")
    };
    assert_needed(renewed, &[(Kind::Heartbeat, CLAUSE, "l.lease_ms")]).await;
    let released = async |mut setting: Setting| {
        let id = after_an_outage(&mut setting).await;
        let request = release(ALICE, "l", Some(id));
        let verdicts = setting.session.release(&request, any_time()).await;
        verdicts.are("l", "done")
    };
    assert_needed(released, &[(Kind::Release, CLAUSE, "l.lease_ms")]).await;
    let marked = async |mut setting: Setting| {
        after_an_outage(&mut setting).await;
        // A release with another id says that the lease has ended only if it has.
        let releases = [("l", Uuid::new_v4())];
        setting
            .session
            .release_under_lock(&releases, true, any_time())
            .await;
        setting.remaining_s("l").await.is_some()
    };
    assert_needed(marked, &[(Kind::ReleaseUnderLock, CLAUSE, "l.lease_ms")]).await;
}
