//! Compensating releases, and the repetitions of the engine.

use super::*;

/// It ends a grant that nobody knows of, and no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_compensating_release_that_ends_the_wrong_leases_is_caught() {
    let renewed = async |mut setting: Setting| {
        let request = plain(ALICE, "l", 60_000);
        setting.grant(&request).await;
        setting.renew("l", request.lease_id, None).await;
        let releases = [("l", request.lease_id)];
        setting
            .session
            .release_under_lock(&releases, false, any_time())
            .await;
        setting.is_held("l").await
    };
    let blind = (
        Kind::ReleaseUnderLock,
        "AND l.renewed_ms IS NOT NULL",
        "AND false",
    );
    let unnoted = (
        Kind::Heartbeat,
        "    renewed_ms = excluded.lease_ms\n",
        "    renewed_ms = l.renewed_ms\n",
    );
    assert_needed(renewed, &[blind, unnoted]).await;

    // The account's process had the id from a heartbeat, and uses it as its own.
    let adopted = async |mut setting: Setting| {
        let request = plain(ALICE, "l", 60_000);
        setting.grant(&request).await;
        setting.grant(&of("l", request.lease_id)).await;
        let releases = [("l", request.lease_id)];
        setting
            .session
            .release_under_lock(&releases, false, any_time())
            .await;
        setting.is_held("l").await
    };
    let by_row = (
        Kind::Acquire,
        "THEN CASE WHEN excluded.needs_proof",
        "THEN CASE WHEN l.needs_proof",
    );
    assert_needed(adopted, &[by_row]).await;

    let unknown = async |mut setting: Setting| {
        // An earlier lease of the lock was renewed, and the grant was repeated by the engine.
        let earlier = Uuid::new_v4();
        setting.grant(&of("l", earlier)).await;
        setting.renew("l", earlier, None).await;
        setting.release("l", earlier).await;
        let request = plain(ALICE, "l", 60_000);
        setting.grant(&request).await;
        setting.grant(&request).await;
        let releases = [("l", request.lease_id)];
        setting
            .session
            .release_under_lock(&releases, false, any_time())
            .await;
        !setting.is_held("l").await
    };
    let inherited = (
        Kind::Acquire,
        "                                ELSE l.renewed_ms END END\n",
        "                                ELSE l.renewed_ms END ELSE l.renewed_ms END\n",
    );
    let counted = (
        Kind::Acquire,
        "THEN CASE WHEN excluded.needs_proof",
        "THEN CASE WHEN true",
    );
    assert_needed(unknown, &[inherited, counted]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_that_shortens_is_caught() {
    let kept = async |mut setting: Setting| {
        let request = of("l", Uuid::new_v4());
        setting.grant(&request).await;
        setting.renew("l", request.lease_id, Some(HOUR_MS)).await;
        setting.grant(&request).await;
        setting.remaining_s("l").await.unwrap() > 3000.0
    };
    let shortening = (
        Kind::Acquire,
        "THEN greatest(l.expires_at,\n",
        "THEN greatest(NULL::timestamptz,\n",
    );
    assert_needed(kept, &[shortening]).await;
}
