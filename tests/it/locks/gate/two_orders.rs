//! Two requests at once about one lock, in both orders: the one that has the row's lock first holds
//! its commit back until the other one waits for it.

use uuid::Uuid;

use super::kit::*;

/// The row is not locked.
const UNLOCKED: Mutant = &[(
    GATE,
    "x.name = r.name\n           FOR NO KEY UPDATE;",
    "x.name = r.name;",
)];

/// Sends the first request in a transaction that commits once the second waits for it.
async fn in_this_order(
    (first, before): (&mut Session, &Ask),
    (second, after): (&mut Session, &Ask),
    db: &crate::support::database::Database,
) -> (Said, Said) {
    first.begin().await;
    let said_first = first.ask(before).await;
    let (said_second, ()) = tokio::join!(second.ask(after), async {
        until_waiting(db, 1).await;
        first.commit().await;
    });
    (said_first, said_second)
}

/// A waiter's time is up, or its client goes, while the holder releases.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_that_leaves_while_it_is_granted_is_caught() {
    // The hand-over was first: the waiter is granted. One of which the client has gone gives the
    // claim on.
    let granted = async |setting: &mut Setting| {
        let holder = setting.hold().await;
        let (leaves, behind) = (Uuid::new_v4(), Uuid::new_v4());
        let ask = Ask::waiting(leaves, 1);
        setting.join(2, &ask).await;
        setting.join(2, &Ask::waiting(behind, 2)).await;
        let Setting {
            db, first, second, ..
        } = setting;
        let release = Ask::of("release", holder);
        let leave = ask.then("leave");
        let (handed, left) = in_this_order((first, &release), (second, &leave), db).await;
        handed.claims() == [leaves]
            && left.outcome() == "granted"
            && setting.has_lock(leaves).await
            && setting.ticket(leaves).await.is_none()
    };
    assert_needed(granted, &[UNLOCKED]).await;

    let given_on = async |setting: &mut Setting| {
        let holder = setting.hold().await;
        let (leaves, behind) = (Uuid::new_v4(), Uuid::new_v4());
        let ask = Ask::waiting(leaves, 1);
        setting.join(2, &ask).await;
        setting.join(2, &Ask::waiting(behind, 2)).await;
        let Setting {
            db, first, second, ..
        } = setting;
        let release = Ask::of("release", holder);
        let abandon = ask.then("abandon");
        let (_, left) = in_this_order((first, &release), (second, &abandon), db).await;
        left.claims() == [behind]
            && setting.has_lock(behind).await
            && matches!(setting.ticket(leaves).await, Some((_, true)))
    };
    let kept_claim: Mutant = &[(
        GATE,
        "ELSIF is_claim AND r.needs_proof THEN",
        "ELSIF is_claim THEN NULL; ELSIF false THEN",
    )];
    assert_needed(given_on, &[UNLOCKED, kept_claim]).await;

    // The waiter left first: it is passed over.
    let passed = async |setting: &mut Setting| {
        let holder = setting.hold().await;
        let (leaves, behind) = (Uuid::new_v4(), Uuid::new_v4());
        let ask = Ask::waiting(leaves, 1);
        setting.join(2, &ask).await;
        setting.join(2, &Ask::waiting(behind, 2)).await;
        let Setting {
            db, first, second, ..
        } = setting;
        let release = Ask::of("release", holder);
        let leave = ask.then("leave");
        let (left, handed) = in_this_order((second, &leave), (first, &release), db).await;
        left.outcome() == "left" && handed.claims() == [behind]
    };
    let detached: Mutant = &[(
        GATE,
        "AND NOT q.is_detached AND q.waits_until > t\n",
        "AND q.waits_until > t - interval '1 min'\n",
    )];
    assert_needed(passed, &[UNLOCKED, detached]).await;
}

/// The holder's lease lapses in the instant in which the waiter's time is up.
#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_when_the_waiters_time_is_up_is_caught() {
    let advanced_first = async |setting: &mut Setting| {
        setting.hold().await;
        let waiter = Uuid::new_v4();
        let ask = Ask::waiting(waiter, 1);
        setting.join(2, &ask).await;
        setting.lapse().await;
        let Setting {
            db, first, second, ..
        } = setting;
        let leave = ask.then("leave");
        let (advanced, left) = in_this_order((first, &Ask::advance()), (second, &leave), db).await;
        advanced.claims() == [waiter] && left.outcome() == "granted"
    };
    assert_needed(advanced_first, &[UNLOCKED]).await;

    let left_first = async |setting: &mut Setting| {
        setting.hold().await;
        let waiter = Uuid::new_v4();
        let ask = Ask::waiting(waiter, 1);
        setting.join(2, &ask).await;
        setting.lapse().await;
        let Setting {
            db, first, second, ..
        } = setting;
        let leave = ask.then("leave");
        let (left, advanced) = in_this_order((second, &leave), (first, &Ask::advance()), db).await;
        left.outcome() == "left" && advanced.claims().is_empty() && !setting.has_lock(waiter).await
    };
    assert_needed(left_first, &[UNLOCKED]).await;

    // Its time is up on the database's clock, and its node has not said so yet.
    let over = async |setting: &mut Setting| {
        let holder = setting.hold().await;
        let (late, behind) = (Uuid::new_v4(), Uuid::new_v4());
        setting.join(2, &Ask::waiting(late, 1)).await;
        setting.join(2, &Ask::waiting(behind, 2)).await;
        setting
            .db
            .execute(&format!(
                "UPDATE lock_tickets SET waits_until = clock_timestamp() WHERE lease_id = '{late}'"
            ))
            .await;
        let said = setting.first.ask(&Ask::of("release", holder)).await;
        said.claims() == [behind]
    };
    let untimed: Mutant = &[(GATE, "AND q.waits_until > t\n", "\n")];
    assert_needed(over, &[untimed]).await;
}

/// Two nodes' timers are over at once.
#[tokio::test(flavor = "multi_thread")]
async fn two_advances_that_grant_twice_are_caught() {
    let kept = async |setting: &mut Setting| {
        setting.hold().await;
        let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
        setting.join(1, &Ask::waiting(one, 1)).await;
        setting.join(2, &Ask::waiting(two, 1)).await;
        setting.lapse().await;
        let Setting {
            db, first, second, ..
        } = setting;
        let advance = Ask::advance();
        let (once, again) = in_this_order((first, &advance), (second, &advance), db).await;
        once.claims() == [one] && again.claims().is_empty()
    };
    assert_needed(kept, &[UNLOCKED]).await;

    // Two permits are free, for three waiters.
    let kept = async |setting: &mut Setting| {
        let ids: Vec<Uuid> = (0..5).map(|_| Uuid::new_v4()).collect();
        for id in &ids[..2] {
            let permit = Ask::of("acquire", *id).permits(2);
            assert_eq!(setting.first.outcome(&permit).await, "granted");
        }
        for (n, id) in ids[2..].iter().enumerate() {
            let ask = Ask::waiting(*id, 1 + n as i64).permits(2);
            setting.join(2, &ask).await;
        }
        setting
            .db
            .execute("UPDATE lock_members SET expires_at = clock_timestamp()")
            .await;
        let Setting {
            db, first, second, ..
        } = setting;
        let advance = Ask::advance();
        let (once, again) = in_this_order((first, &advance), (second, &advance), db).await;
        once.claims() == ids[2..4] && again.claims().is_empty()
    };
    assert_needed(kept, &[]).await;
}

/// A release, and a request that joins the line, both by statements that do not wait for the gate's
/// result: the fast release observed the lock before it had a line.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_observed_the_lock_before_its_line_is_caught() {
    for statement in [Statement::Release, Statement::ReleaseUnderLock] {
        let kept = async |setting: &mut Setting| {
            let holder = setting.hold().await;
            let waiter = Uuid::new_v4();
            let Setting {
                db, first, second, ..
            } = setting;
            second.begin().await;
            let joined = second.outcome(&Ask::waiting(waiter, 1)).await;
            let (verdict, ()) = tokio::join!(first.prove(statement, holder), async {
                until_waiting(db, 1).await;
                second.commit().await;
            });
            let again = first.prove(statement, holder).await;
            let said = first.ask(&Ask::of("release", holder)).await;
            joined == "waiting"
                && verdict.is_none()
                && again.as_deref() == Some("gated")
                && said.outcome() == "done"
                && said.claims() == [waiter]
        };
        let unchecked: Mutant = match statement {
            Statement::Release => &[(
                Text::Statement(Statement::Release),
                "l.end_reason = 0 AND NOT l.gated\n",
                "l.end_reason = 0\n",
            )],
            _ => &[(
                Text::Statement(Statement::ReleaseUnderLock),
                " AND NOT l.gated\n  RETURNING",
                "\n  RETURNING",
            )],
        };
        assert_needed(kept, &[unchecked]).await;
    }
}

/// A request arrives when the node has answered it.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_request_that_is_decided_is_caught() {
    let kept = async |setting: &mut Setting| {
        let holder = setting.hold().await;
        let waiter = Uuid::new_v4();
        setting.join(2, &Ask::waiting(waiter, 1)).await;
        setting.first.be_late();
        let said = setting.first.ask(&Ask::of("release", holder)).await;
        said.outcome() == "late" && setting.has_lock(holder).await
    };
    let timeless: Mutant = &[(
        GATE,
        "is_late := clock_timestamp() > latest_at;",
        "is_late := false;",
    )];
    assert_needed(kept, &[timeless]).await;
}
