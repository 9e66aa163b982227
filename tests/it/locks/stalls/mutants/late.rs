//! Statements that write after their latest instant.

use super::*;

/// Runs a statement that waits for the row of a lock, until 300 ms are over. It may write 150 ms.
async fn overtaken<T>(db: &Database, name: &str, statement: impl Future<Output = T>) -> T {
    let locker = locker_of(db, name).await;
    let (outcome, ()) = tokio::join!(statement, async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        commit(locker).await;
    });
    outcome
}

const ACQUIRE_UPDATE: Mutation = (
    Kind::Acquire,
    "    AND clock_timestamp() <= $11::timestamptz\n    AND CASE",
    "    AND CASE",
);
const ACQUIRE_INSERT: Mutation = (
    Kind::Acquire,
    "   WHERE clock_timestamp() <= $11::timestamptz\n",
    "   WHERE $11::timestamptz IS NOT NULL\n",
);
const ACQUIRE_OFFSET: Mutation = (
    Kind::Acquire,
    r#"ORDER BY namespace_id, name COLLATE "C" OFFSET 0"#,
    r#"ORDER BY namespace_id, name COLLATE "C""#,
);

#[tokio::test(flavor = "multi_thread")]
async fn a_late_acquire_is_caught() {
    // On its way all the time.
    let new = async |mut setting: Setting| {
        let latest_at = setting.session.in_ms(-1).await;
        let request = of("l", Uuid::new_v4());
        setting.session.acquire(&[request], latest_at).await;
        !setting.is_held("l").await
    };
    assert_needed(new, &[ACQUIRE_INSERT]).await;
    // Late because it waited for the row.
    let waiting = async |mut setting: Setting| {
        let id = Uuid::new_v4();
        setting.grant(&of("l", id)).await;
        setting.release("l", id).await;
        let latest_at = setting.session.in_ms(150).await;
        let request = [of("l", Uuid::new_v4())];
        overtaken(
            &setting.db,
            "l",
            setting.session.acquire(&request, latest_at),
        )
        .await;
        !setting.is_held("l").await
    };
    assert_needed(waiting, &[ACQUIRE_UPDATE]).await;
    // Late because it waited for another lock's row.
    let behind = async |mut setting: Setting| {
        let id = Uuid::new_v4();
        setting.grant(&of("a", id)).await;
        setting.release("a", id).await;
        let latest_at = setting.session.in_ms(150).await;
        let batch = [of("a", Uuid::new_v4()), of("b", Uuid::new_v4())];
        overtaken(&setting.db, "a", setting.session.acquire(&batch, latest_at)).await;
        !setting.is_held("b").await
    };
    assert_needed(behind, &[ACQUIRE_INSERT, ACQUIRE_OFFSET]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_insert_is_caught() {
    let new = async |mut setting: Setting| {
        let latest_at = setting.session.in_ms(-1).await;
        let request = of("l", Uuid::new_v4());
        setting
            .session
            .insert_if_absent(&[request], latest_at)
            .await;
        !setting.is_held("l").await
    };
    let late = (
        Kind::InsertIfAbsent,
        " WHERE clock_timestamp() <= $10::timestamptz\n",
        " WHERE $10::timestamptz IS NOT NULL\n",
    );
    assert_needed(new, &[late]).await;
    let behind = async |mut setting: Setting| {
        let mut insert = begin(&setting.db).await;
        execute(
            &mut insert,
            "INSERT INTO locks (namespace_id, name, account_id, token_id, fencing_token,
                                acquired_at, expires_at, lease_id, lease_ms, needs_proof)
             VALUES (1, 'a', 1, 1, 0, now(), 'infinity', gen_random_uuid(), 5000, true)",
        )
        .await;
        let latest_at = setting.session.in_ms(150).await;
        let batch = [of("a", Uuid::new_v4()), of("b", Uuid::new_v4())];
        tokio::join!(setting.session.insert_if_absent(&batch, latest_at), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            commit(insert).await;
        });
        !setting.is_held("b").await
    };
    let offset = (Kind::InsertIfAbsent, "OFFSET 0\n", "\n");
    assert_needed(behind, &[late, offset]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_heartbeat_is_caught() {
    let kept = async |mut setting: Setting| {
        let id = Uuid::new_v4();
        setting.grant(&of("l", id)).await;
        let latest_at = setting.session.in_ms(-1).await;
        let request = Heartbeat {
            lease_ms: Some(1000),
            ..heartbeat(ALICE, "l", Some(id))
        };
        setting.session.heartbeat(&request, latest_at).await;
        setting.remaining_s("l").await.unwrap() > 10.0
    };
    let late = (
        Kind::Heartbeat,
        "clock_timestamp() <= $6::timestamptz",
        "$6 IS NOT NULL",
    );
    assert_needed(kept, &[late]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_release_is_caught() {
    let kept = async |mut setting: Setting| {
        setting.grant(&plain(ALICE, "l", 60_000)).await;
        let latest_at = setting.session.in_ms(-1).await;
        setting
            .session
            .release(&release(ALICE, "l", None), latest_at)
            .await;
        setting.is_held("l").await
    };
    let late = (
        Kind::Release,
        "clock_timestamp() <= $5::timestamptz",
        "$5 IS NOT NULL",
    );
    assert_needed(kept, &[late]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_release_under_the_lock_is_caught() {
    const INSERT: Mutation = (
        Kind::ReleaseUnderLock,
        "   WHERE clock_timestamp() <= $6::timestamptz\n  ON CONFLICT",
        "   WHERE $6 IS NOT NULL\n  ON CONFLICT",
    );
    let ends = async |mut setting: Setting| {
        let id = Uuid::new_v4();
        setting.grant(&of("l", id)).await;
        let latest_at = setting.session.in_ms(150).await;
        let releases = [("l", id)];
        let statement = setting
            .session
            .release_under_lock(&releases, true, latest_at);
        overtaken(&setting.db, "l", statement).await;
        setting.is_held("l").await
    };
    let update = (
        Kind::ReleaseUnderLock,
        "  WHERE clock_timestamp() <= $6::timestamptz AND NOT l.gated\n",
        "  WHERE NOT l.gated\n",
    );
    assert_needed(ends, &[update]).await;
    // A mark that comes too late makes the id useless to a client that was told nothing.
    let marks = async |mut setting: Setting| {
        let id = Uuid::new_v4();
        let latest_at = setting.session.in_ms(-1).await;
        setting
            .session
            .release_under_lock(&[("l", id)], true, latest_at)
            .await;
        let verdicts = setting.session.acquire(&[of("l", id)], any_time()).await;
        verdicts.are("l", "granted")
    };
    assert_needed(marks, &[INSERT]).await;
    let behind = async |mut setting: Setting| {
        let (id, other) = (Uuid::new_v4(), Uuid::new_v4());
        setting.grant(&of("a", other)).await;
        let latest_at = setting.session.in_ms(150).await;
        let releases = [("a", other), ("b", id)];
        let statement = setting
            .session
            .release_under_lock(&releases, true, latest_at);
        overtaken(&setting.db, "a", statement).await;
        let verdicts = setting.session.acquire(&[of("b", id)], any_time()).await;
        verdicts.are("b", "granted")
    };
    let offset = (Kind::ReleaseUnderLock, " OFFSET 0) i", ") i");
    assert_needed(behind, &[INSERT, offset]).await;
}
