//! The order of a line: newcomers, and requests that are repeated on another node.

use uuid::Uuid;

use super::kit::*;
use crate::support::node::BOB;

/// The holder's lease has lapsed, and nobody has handed the lock over yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_before_the_hand_over_is_caught() {
    let kept = async |setting: &mut Setting| {
        setting.hold().await;
        let (waiter, newcomer) = (Uuid::new_v4(), Uuid::new_v4());
        setting.join(2, &Ask::waiting(waiter, 1)).await;
        setting.lapse().await;
        let said = setting.first.ask(&Ask::of("acquire", newcomer)).await;
        said.outcome() == "held" && said.claims() == [waiter] && setting.has_lock(waiter).await
    };
    let mutants: &[Mutant] = &[
        &[(
            GATE,
            "coalesce(first_live >= w.ticket, first_live IS NULL)",
            "true",
        )],
        // The line is not read from its beginning.
        &[(
            GATE,
            "l.first_ticket := w.ticket;",
            "l.first_ticket := w.ticket + 1;",
        )],
    ];
    assert_needed(kept, mutants).await;
}

/// The newcomer observed the lock, with a lapsed lease, before it had a line; the row is locked by
/// a transaction in which the lease was renewed, a waiter joined, and the lease lapsed again.
#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_that_observed_the_lock_before_its_line_is_caught() {
    let kept = async |setting: &mut Setting| {
        setting.hold().await;
        setting.lapse().await;
        let (waiter, newcomer) = (Uuid::new_v4(), Uuid::new_v4());
        let Setting {
            db, first, second, ..
        } = setting;
        second.begin().await;
        let renew = "UPDATE locks SET expires_at = clock_timestamp() + interval '1 h'";
        second.execute(renew).await.unwrap();
        assert_eq!(second.outcome(&Ask::waiting(waiter, 1)).await, "waiting");
        let lapse = "UPDATE locks SET expires_at = clock_timestamp()";
        second.execute(lapse).await.unwrap();
        let (verdict, ()) =
            tokio::join!(first.acquire(Statement::Acquire, LOCK, newcomer), async {
                until_waiting(db, 1).await;
                second.commit().await;
            });
        verdict.is_none() && second.ask(&Ask::advance()).await.claims() == [waiter]
    };
    let mutants: &[Mutant] = &[&[(
        Text::Statement(Statement::Acquire),
        "ELSE NOT l.gated\n",
        "ELSE true\n",
    )]];
    assert_needed(kept, mutants).await;
}

/// A stream of shared leases never ends, but those that came after an exclusive waiter wait.
#[tokio::test(flavor = "multi_thread")]
async fn shared_newcomers_that_starve_an_exclusive_waiter_are_caught() {
    let kept = async |setting: &mut Setting| {
        let (reader, writer, newcomer) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        let shared = Ask::of("acquire", reader).permits(0);
        assert_eq!(setting.first.outcome(&shared).await, "granted");
        setting.join(2, &Ask::waiting(writer, 1)).await;
        let at_once = Ask::of("acquire", Uuid::new_v4()).permits(0);
        let mut is_kept = setting.first.outcome(&at_once).await == "held";
        let waiting = Ask::waiting(newcomer, 2).permits(0);
        is_kept &= setting.first.outcome(&waiting).await == "waiting";
        let said = setting.first.ask(&shared.then("release")).await;
        is_kept &= said.claims() == [writer];
        let said = setting.second.ask(&Ask::of("release", writer)).await;
        is_kept && said.claims() == [newcomer]
    };
    let mutants: &[Mutant] = &[
        &[(
            GATE,
            "coalesce(first_live >= w.ticket, first_live IS NULL)",
            "true",
        )],
        // The hand-over passes the head of the line.
        &[(
            GATE,
            "ORDER BY q.namespace_id, q.name, q.ticket LIMIT 1;\n      first_live := w.ticket;",
            "ORDER BY q.permits, q.ticket LIMIT 1;\n      first_live := w.ticket;",
        )],
    ];
    assert_needed(kept, mutants).await;
}

/// The same lease id waits on the first node, and is then sent to the second one.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_that_loses_its_place_is_caught() {
    let kept = async |setting: &mut Setting| {
        let holder = setting.hold().await;
        let (moved, behind) = (Uuid::new_v4(), Uuid::new_v4());
        let before = Ask::waiting(moved, 1);
        setting.join(1, &before).await;
        setting.join(1, &Ask::waiting(behind, 2)).await;
        setting.join(2, &Ask::waiting(moved, 1)).await;
        let said = setting.first.ask(&Ask::of("release", holder)).await;
        let mut is_kept = said.claims() == [moved];
        // The request before has no say any more, about the claim neither.
        for operation in ["confirm", "leave", "abandon", "unattended"] {
            is_kept &= setting.first.outcome(&before.then(operation)).await == "replaced";
        }
        let confirm = Ask::waiting(moved, 1).then("confirm");
        is_kept && setting.second.outcome(&confirm).await == "granted"
    };
    let mutants: &[Mutant] = &[
        &[(
            GATE,
            "ON CONFLICT (lease_id, account_id, namespace_id, name) DO UPDATE SET\n",
            "ON CONFLICT (lease_id, account_id, namespace_id, name) DO UPDATE SET
               ticket = nextval('lock_ticket'),\n",
        )],
        &[(
            GATE,
            "AND q.node_id + 0 = me AND q.attachment = r.attachment",
            "AND q.attachment = r.attachment",
        )],
    ];
    assert_needed(kept, mutants).await;
}

/// The request before leaves while the repeated one waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_request_that_takes_the_place_along_is_caught() {
    for operation in ["leave", "abandon", "unattended", "confirm"] {
        let kept = async |setting: &mut Setting| {
            let holder = setting.hold().await;
            let moved = Uuid::new_v4();
            let before = Ask::waiting(moved, 7);
            setting.join(1, &before).await;
            setting.join(2, &Ask::waiting(moved, 7)).await;
            let outcome = setting.first.outcome(&before.then(operation)).await;
            let said = setting.first.ask(&Ask::of("release", holder)).await;
            outcome == "replaced" && said.claims() == [moved]
        };
        let mutants: &[Mutant] = &[&[(
            GATE,
            "ELSIF w.node_id <> me OR w.attachment <> r.attachment THEN",
            "ELSIF w.attachment <> r.attachment THEN",
        )]];
        assert_needed(kept, mutants).await;
        // On the same node.
        let kept = async |setting: &mut Setting| {
            let holder = setting.hold().await;
            let moved = Uuid::new_v4();
            let before = Ask::waiting(moved, 7);
            setting.join(2, &before).await;
            setting.join(2, &Ask::waiting(moved, 8)).await;
            let outcome = setting.second.outcome(&before.then(operation)).await;
            let said = setting.first.ask(&Ask::of("release", holder)).await;
            outcome == "replaced" && said.claims() == [moved]
        };
        let mutants: &[Mutant] = &[&[(
            GATE,
            "ELSIF w.node_id <> me OR w.attachment <> r.attachment THEN",
            "ELSIF w.node_id <> me THEN",
        )]];
        assert_needed(kept, mutants).await;
    }
}

/// An account's lease id says nothing about another account's.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_the_same_lease_id_has_a_place_of_its_own() {
    let mut setting = Setting::create(&[]).await;
    let holder = setting.hold().await;
    let id = Uuid::new_v4();
    setting.join(1, &Ask::waiting(id, 1)).await;
    let stranger = Ask {
        account: BOB,
        ..Ask::waiting(id, 2)
    };
    setting.join(1, &stranger).await;
    let said = setting.first.ask(&stranger.then("release")).await;
    assert_eq!(said.outcome(), "never_granted");
    let said = setting.first.ask(&Ask::of("release", holder)).await;
    assert_eq!(said.claims(), [id]);
    let confirmed = Ask::waiting(id, 1).then("confirm");
    assert_eq!(setting.first.outcome(&confirmed).await, "granted");
    assert_eq!(setting.first.outcome(&stranger).await, "ended");
}
