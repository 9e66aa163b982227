//! Several locks or none; many heartbeats and releases in one request; who holds and who waits.

use lockable::id::{AccountId, NamespaceId, TokenId};
use lockable::locks::{
    AcquireAll, AcquireAllOutcome, EngineError, HeartbeatOutcome, Lease, LockName, Lost,
    ReleaseOutcome, store,
};
use uuid::Uuid;

use super::waiting::{granted, two_nodes, wait_behind, waiting};
use crate::support::node::{ALICE, BOB, Node, acquire, heartbeat, release};

fn together(names: &[&str], lease_id: Uuid) -> AcquireAll {
    AcquireAll {
        namespace_id: NamespaceId::PUBLIC,
        names: names
            .iter()
            .map(|name| LockName::new(name).unwrap())
            .collect(),
        account_id: AccountId(ALICE),
        token_id: TokenId(ALICE),
        lease_id,
        lease_ms: 60_000,
        requested_ms: None,
        max_hold_ms: None,
        holder: None,
        metadata: None,
        max_live_locks: 100,
    }
}

async fn granted_together(node: &Node, request: AcquireAll) -> Vec<Lease> {
    match node.engine.acquire_all(request).await {
        Ok(AcquireAllOutcome::Granted(leases)) => leases,
        other => panic!("not granted: {other:?}"),
    }
}

const ENDS: &str = "SELECT string_agg(expires_at::text, ',' ORDER BY name)
                      FROM locks WHERE name IN ('a', 'c')";

#[tokio::test(flavor = "multi_thread")]
async fn several_locks_are_granted_or_none() {
    let (db, first, second) = two_nodes().await;
    let id = Uuid::new_v4();
    let leases = granted_together(&first, together(&["c", "a", "b"], id)).await;
    assert_eq!(leases.len(), 3);
    // Repeated on the other node, in another order: the same leases.
    let again = granted_together(&second, together(&["a", "b", "c"], id)).await;
    let tokens = |leases: &[Lease]| {
        let mut tokens: Vec<i64> = leases.iter().map(|lease| lease.fencing_token).collect();
        tokens.sort_unstable();
        tokens
    };
    assert_eq!(tokens(&again), tokens(&leases));
    // One of them is held: none of the others is taken, by either side.
    let other = together(&["z", "b", "0"], Uuid::new_v4());
    let held = first.engine.acquire_all(other).await;
    assert_eq!(
        held,
        Ok(AcquireAllOutcome::Held(vec![LockName::new("b").unwrap()]))
    );
    for name in ["z", "0"] {
        granted(second.engine.acquire(acquire(BOB, name, None)).await);
    }
    // One of them has ended: nothing is renewed.
    let before: String = db.value(ENDS).await;
    first.release("b", id).await.unwrap();
    let ended = second
        .engine
        .acquire_all(together(&["a", "b", "c"], id))
        .await;
    assert_eq!(ended, Ok(AcquireAllOutcome::LeaseEnded));
    let after: String = db.value(ENDS).await;
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_locks_do_not_pass_those_who_wait() {
    let (db, first, second) = two_nodes().await;
    let holder = Uuid::new_v4();
    first.grant("b", holder, 60_000).await;
    let waiter = wait_behind(&db, &second, waiting(BOB, "b", None, 60_000), 0).await;
    // The lock is free for those who wait, whatever happens in between.
    db.execute("UPDATE locks SET end_reason = 1, expires_at = clock_timestamp()")
        .await;
    let held = first
        .engine
        .acquire_all(together(&["a", "b"], Uuid::new_v4()))
        .await;
    assert_eq!(
        held,
        Ok(AcquireAllOutcome::Held(vec![LockName::new("b").unwrap()]))
    );
    granted(waiter.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_requests_for_several_locks_leave_one_winner_each_time() {
    let (db, first, second) = two_nodes().await;
    for round in 0..20 {
        let names = [
            format!("{round}-a"),
            format!("{round}-b"),
            format!("{round}-c"),
        ];
        let [a, b, c] = &names;
        let (one, other) = tokio::join!(
            first
                .engine
                .acquire_all(together(&[a, b, c], Uuid::new_v4())),
            second
                .engine
                .acquire_all(together(&[c, b, a], Uuid::new_v4()))
        );
        let wins = [one, other]
            .into_iter()
            .filter(|outcome| matches!(outcome, Ok(AcquireAllOutcome::Granted(_))))
            .count();
        assert_eq!(wins, 1);
    }
    let owners = "SELECT max(n) FROM (SELECT count(DISTINCT lease_id) AS n FROM locks
                   GROUP BY split_part(name, '-', 1)) t";
    assert_eq!(db.value::<i64>(owners).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_at_its_limit_repeats_and_takes_nothing_new() {
    let (_db, node, _) = two_nodes().await;
    let id = Uuid::new_v4();
    let limited = |names: &[&str], id| AcquireAll {
        max_live_locks: 2,
        ..together(names, id)
    };
    granted_together(&node, limited(&["a", "b"], id)).await;
    node.engine.usage().count(&node.pool).await.unwrap();
    granted_together(&node, limited(&["a", "b"], id)).await;
    assert_eq!(
        node.engine
            .acquire_all(limited(&["c"], Uuid::new_v4()))
            .await,
        Err(EngineError::TooManyLocks { max: 2 })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_heartbeats_and_releases_are_answered_in_their_order() {
    let (_db, node, _) = two_nodes().await;
    let id = Uuid::new_v4();
    granted_together(&node, together(&["a", "b"], id)).await;
    let asked = ["b", "none", "a"];
    let beats = asked.map(|name| heartbeat(ALICE, name, Some(id)));
    let outcomes = node.engine.heartbeats(beats.to_vec()).await;
    let renewed: Vec<bool> = outcomes
        .iter()
        .map(|outcome| matches!(outcome, Ok(HeartbeatOutcome::Renewed(_))))
        .collect();
    assert_eq!(renewed, [true, false, true]);
    assert_eq!(outcomes[1], Ok(HeartbeatOutcome::Lost(Lost::Unknown)));
    let releases = asked.map(|name| release(ALICE, name, Some(id)));
    let outcomes = node.engine.releases(releases.to_vec()).await;
    assert_eq!(outcomes[0], Ok(ReleaseOutcome::Released));
    assert_eq!(outcomes[1], Ok(ReleaseOutcome::Lost(Lost::NeverGranted)));
    assert_eq!(outcomes[2], Ok(ReleaseOutcome::Released));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_shows_who_holds_it_and_who_waits() {
    let (db, node, _) = two_nodes().await;
    let id = Uuid::new_v4();
    let lease = node.grant("a", id, 60_000).await;
    let _waiter = wait_behind(&db, &node, waiting(BOB, "a", None, 60_000), 0).await;
    let view = store::find(&db.pool, NamespaceId::PUBLIC, &LockName::new("a").unwrap())
        .await
        .unwrap();
    assert_eq!(view.leases[0].fencing_token, lease.fencing_token);
    assert_eq!(
        (view.leases[0].account_id, view.leases[0].lease_id),
        (ALICE, id)
    );
    assert_eq!((view.queue_length, view.queue[0].position), (1, 1));
    assert_eq!(
        (view.queue[0].account_id, view.queue[0].is_detached),
        (BOB, false)
    );
    let free = store::find(&db.pool, NamespaceId::PUBLIC, &LockName::new("x").unwrap())
        .await
        .unwrap();
    assert!(free.leases.is_empty() && free.queue_length == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_lapsed_has_ended_for_all_of_them_and_stays_so() {
    let (db, node, _) = two_nodes().await;
    let id = Uuid::new_v4();
    granted_together(&node, together(&["a", "b"], id)).await;
    // Before the outage that the clock of a new database shows, which would protect it.
    let lapse = "UPDATE locks SET expires_at = 'epoch' WHERE name = 'b'";
    db.execute(lapse).await;
    let again = || node.engine.acquire_all(together(&["a", "b"], id));
    assert_eq!(again().await, Ok(AcquireAllOutcome::LeaseEnded));
    let reason = "SELECT end_reason::integer FROM locks WHERE name = 'b'";
    assert_eq!(db.value::<i32>(reason).await, 3);
    // Somebody else has it now: it is not held for want of a moment, the id is used up.
    granted(node.engine.acquire(acquire(BOB, "b", None)).await);
    assert_eq!(again().await, Ok(AcquireAllOutcome::LeaseEnded));
}
