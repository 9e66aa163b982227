//! Waiters whose token, account or plan does not admit them any more.

use uuid::Uuid;

use super::kit::*;
use crate::support::node::BOB;

const ADMITTED: Text = Text::Function("token_is_admitted");

/// Bob waits in front of Alice, and something is taken from him meanwhile.
async fn is_refused(setting: &mut Setting, change: &str) -> bool {
    let holder = setting.hold().await;
    let (refused, behind) = (Uuid::new_v4(), Uuid::new_v4());
    let ask = Ask {
        account: BOB,
        ..Ask::waiting(refused, 1)
    };
    setting.join(2, &ask).await;
    setting.join(1, &Ask::waiting(behind, 1)).await;
    setting.db.execute(change).await;
    let said = setting.first.ask(&Ask::of("release", holder)).await;
    let mut is_kept = said.claims() == [behind];
    // Nor does it get a new place.
    is_kept &= setting.second.outcome(&ask).await == "refused";
    is_kept && !setting.has_lock(refused).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_to_a_token_that_was_revoked_while_it_waited_is_caught() {
    let unlooked: Mutant = &[(GATE, "token_is_admitted(", "coalesce(true, 0 = ")];
    let cases: [(&str, &[Mutant]); 5] = [
        (
            "UPDATE api_tokens SET revoked_at = clock_timestamp() WHERE token_id = 2",
            &[unlooked, &[(ADMITTED, "t.revoked_at IS NULL", "true")]],
        ),
        (
            "UPDATE api_tokens SET expires_at = clock_timestamp() WHERE token_id = 2",
            &[&[(ADMITTED, "t.expires_at > clock_timestamp()", "true")]],
        ),
        (
            "UPDATE accounts SET suspended_at = clock_timestamp(),
                                 suspended_reason = 'abuse' WHERE account_id = 2",
            &[&[(ADMITTED, "a.suspended_at IS NULL", "true")]],
        ),
        (
            "UPDATE accounts SET deleting_since = clock_timestamp() WHERE account_id = 2",
            &[&[(ADMITTED, "a.deleting_since IS NULL", "true")]],
        ),
        ("DELETE FROM api_tokens WHERE token_id = 2", &[]),
    ];
    for (change, mutants) in cases {
        let kept = async |setting: &mut Setting| is_refused(setting, change).await;
        assert_needed(kept, mutants).await;
    }
}

/// The token's namespace is beyond what the plan has now.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_in_a_namespace_that_the_plan_lost_is_caught() {
    let kept = async |setting: &mut Setting| {
        let lost = "
          INSERT INTO namespaces (account_id, name) VALUES (2, 'one'), (2, 'two');
          UPDATE api_tokens SET namespace_id = (SELECT namespace_id FROM namespaces
                                                 WHERE name = 'two') WHERE token_id = 2;
          UPDATE plans SET max_private_namespaces = 1";
        is_refused(setting, lost).await
    };
    let forgotten: Mutant = &[(ADMITTED, "p.max_private_namespaces >=", "0 <=")];
    assert_needed(kept, &[forgotten]).await;
}

/// Revoked between the hand-over and the confirmation.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_a_token_that_was_revoked_is_not_confirmed() {
    let mut setting = Setting::create(&[]).await;
    let holder = setting.hold().await;
    let (refused, behind) = (Uuid::new_v4(), Uuid::new_v4());
    let ask = Ask {
        account: BOB,
        ..Ask::waiting(refused, 1)
    };
    setting.join(2, &ask).await;
    setting.join(1, &Ask::waiting(behind, 1)).await;
    let said = setting.first.ask(&Ask::of("release", holder)).await;
    assert_eq!(said.claims(), [refused]);
    let revoke = "UPDATE api_tokens SET revoked_at = clock_timestamp() WHERE token_id = 2";
    setting.db.execute(revoke).await;
    let said = setting.second.ask(&ask.then("confirm")).await;
    assert_eq!((said.outcome(), said.claims()), ("refused", vec![behind]));
}

/// Revoked while a batch waits for a row: what it knew before the wait does not count after it.
#[tokio::test(flavor = "multi_thread")]
async fn an_admission_that_is_remembered_over_a_wait_for_a_row_is_caught() {
    let kept = async |setting: &mut Setting| {
        let name = "z";
        let bob = |name| Ask {
            account: BOB,
            name,
            ..Ask::waiting(Uuid::new_v4(), 1)
        };
        let held = Ask {
            name,
            ..Ask::of("acquire", Uuid::new_v4())
        };
        setting.hold().await;
        assert_eq!(setting.first.outcome(&held).await, "granted");
        let locker = locker_of(&setting.db, name).await;
        let asks = [bob(LOCK), bob(name)];
        let Setting { first, db, .. } = setting;
        let (said, ()) = tokio::join!(first.ask_all(&asks), async {
            until_waiting(db, 1).await;
            let revoke = "UPDATE api_tokens SET revoked_at = clock_timestamp() WHERE token_id = 2";
            db.execute(revoke).await;
            // At least as long as an admission is remembered.
            db.execute("SELECT pg_sleep(0.1)").await;
            unlock(locker).await;
        });
        said.outcomes() == ["waiting", "refused"]
    };
    let remembered: Mutant = &[(
        GATE,
        "known_at + interval '50 ms'",
        "known_at + interval '1 h'",
    )];
    assert_needed(kept, &[remembered]).await;
}
