//! A node that knows no gates beside nodes that do, during an upgrade: its statements
//! (`older/*.sql`) never break exclusion, on gated rows and on rows with members.

use uuid::Uuid;

use super::kit::*;

/// Members live: for an older node, somebody holds the lock.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_node_that_takes_a_lock_with_members_is_caught() {
    for permits in [0, 2] {
        let kept = async |setting: &mut Setting| {
            let (member, other) = (Uuid::new_v4(), Uuid::new_v4());
            let ask = Ask::of("acquire", member).permits(permits);
            assert_eq!(setting.first.outcome(&ask).await, "granted");
            let second = &mut setting.second;
            let mut is_kept = second
                .acquire(Statement::OlderAcquire, LOCK, other)
                .await
                .as_deref()
                == Some("held");
            // What it says of the member's own id ends or takes nothing either.
            for statement in [
                Statement::OlderHeartbeat,
                Statement::OlderRelease,
                Statement::OlderReleaseUnderLock,
            ] {
                second.prove(statement, member).await;
                second.prove(statement, other).await;
            }
            let next = Uuid::new_v4();
            let verdict = second.acquire(Statement::OlderAcquire, LOCK, next).await;
            is_kept &= verdict.as_deref() == Some("held");
            is_kept && setting.is_member(member).await && !setting.has_lock(next).await
        };
        let free: Mutant = &[(
            Text::Function("gate_grant"),
            "l.expires_at := '9999-12-31';",
            "l.expires_at := at;",
        )];
        assert_needed(kept, &[free]).await;
    }
}

/// An exclusive lease with a line behind it: an older node's release frees it, and the next request
/// to the gate hands it over; its acquire does not take it from its holder.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_nodes_release_is_found_by_the_gate() {
    let mut setting = Setting::create(&[]).await;
    let holder = setting.hold().await;
    let (waiter, other) = (Uuid::new_v4(), Uuid::new_v4());
    setting.join(2, &Ask::waiting(waiter, 1)).await;
    let older = &mut setting.first;
    let verdict = older.acquire(Statement::OlderAcquire, LOCK, other).await;
    assert_eq!(verdict.as_deref(), Some("held"));
    let verdict = older.prove(Statement::OlderHeartbeat, holder).await;
    assert_eq!(verdict.as_deref(), Some("renewed"));
    let verdict = older.prove(Statement::OlderRelease, holder).await;
    assert_eq!(verdict.as_deref(), Some("done"));
    let said = setting.second.ask(&Ask::advance()).await;
    assert_eq!(said.claims(), [waiter]);
    // The claim is a lease that it does not take, either.
    let verdict = setting
        .first
        .acquire(Statement::OlderAcquire, LOCK, other)
        .await;
    assert_eq!(verdict.as_deref(), Some("held"));
    let confirm = Ask::waiting(waiter, 1).then("confirm");
    assert_eq!(setting.second.outcome(&confirm).await, "granted");
}

/// Between an older node's release and the hand-over, an older node may take the lock: the waiter
/// waits on, and nobody is beside the new holder.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_node_that_passes_the_line_breaks_no_exclusion() {
    let mut setting = Setting::create(&[]).await;
    let holder = setting.hold().await;
    let (waiter, passing) = (Uuid::new_v4(), Uuid::new_v4());
    setting.join(2, &Ask::waiting(waiter, 1)).await;
    let older = &mut setting.first;
    older.prove(Statement::OlderRelease, holder).await;
    let verdict = older.acquire(Statement::OlderAcquire, LOCK, passing).await;
    assert_eq!(verdict.as_deref(), Some("granted"));
    let said = setting.second.ask(&Ask::advance()).await;
    assert!(said.claims().is_empty());
    assert!(setting.has_lock(passing).await);
    // The line is still there, for the gate that it is.
    let said = setting.second.ask(&Ask::of("release", passing)).await;
    assert_eq!((said.outcome(), said.claims()), ("done", vec![waiter]));
}

/// A claim that an older node ended, by a release with its id, is not taken for one that lapsed.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_an_older_node_released_is_not_granted_again() {
    let kept = async |setting: &mut Setting| {
        let holder = setting.hold().await;
        let (waiter, behind) = (Uuid::new_v4(), Uuid::new_v4());
        setting.join(2, &Ask::waiting(waiter, 1)).await;
        setting.join(2, &Ask::waiting(behind, 2)).await;
        setting.first.ask(&Ask::of("release", holder)).await;
        let older = setting.first.prove(Statement::OlderRelease, waiter).await;
        let said = setting.second.ask(&Ask::advance()).await;
        let confirm = Ask::waiting(waiter, 1).then("confirm");
        older.as_deref() == Some("done")
            && said.claims() == [behind]
            && setting.second.outcome(&confirm).await == "ended"
    };
    let withdrawn: Mutant = &[(GATE, "IF l.end_reason IN (1, 2) OR", "IF false OR")];
    assert_needed(kept, &[withdrawn]).await;
}
