//! Permits and shared leases whose heartbeats are in their commit while the gate looks at them.

use uuid::Uuid;

use super::kit::*;

/// Takes two permits of a semaphore of two.
async fn two_permits(setting: &mut Setting) -> [Uuid; 2] {
    let ids = [Uuid::new_v4(), Uuid::new_v4()];
    for id in ids {
        let permit = Ask::of("acquire", id).permits(2);
        assert_eq!(setting.first.outcome(&permit).await, "granted");
    }
    ids
}

/// Lets a permit lapse, for all who do not see what is in its commit.
async fn lapse(setting: &Setting, id: Uuid) {
    let lapse = "UPDATE lock_members SET expires_at = clock_timestamp() WHERE lease_id =";
    setting.db.execute(&format!("{lapse} '{id}'")).await;
}

/// Begins a transaction in which a permit that has lapsed for all others was renewed in time.
async fn renewal_in_its_commit(session: &mut Session, id: Uuid) {
    session.begin().await;
    let in_time = "UPDATE lock_members SET expires_at = clock_timestamp() + interval '1 s'
                    WHERE lease_id =";
    session.execute(&format!("{in_time} '{id}'")).await.unwrap();
    let verdict = session.prove(Statement::HeartbeatMember, id).await;
    assert_eq!(verdict.as_deref(), Some("renewed"));
}

/// The gate ends members by its snapshot, and locks none of them first.
const BY_SNAPSHOT: Mutant = &[
    (GATE, "ORDER BY x.slot FOR NO KEY UPDATE;", ";"),
    (
        GATE,
        "UPDATE lock_members x\n               SET end_reason = CASE WHEN x.expires_at >=",
        "WITH s AS MATERIALIZED (SELECT y.slot, false AS lives FROM lock_members y
             WHERE y.namespace_id = l.namespace_id AND y.name = l.name
               AND y.expires_at <= clock_timestamp())
         UPDATE lock_members x\n               SET end_reason = CASE WHEN x.expires_at >=",
    ),
    (
        GATE,
        "AND x.end_reason = 0\n               AND NOT lease_is_live(x.expires_at, x.end_reason,",
        "AND x.slot IN (SELECT s.slot FROM s)
            OR x.namespace_id = l.namespace_id AND x.name = l.name AND x.end_reason = 0
               AND NOT lease_is_live(x.expires_at, x.end_reason,",
    ),
];

/// A heartbeat hangs in its commit across the end of its permit; somebody asks for a permit.
#[tokio::test(flavor = "multi_thread")]
async fn a_permit_that_is_counted_twice_is_caught() {
    for operation in ["acquire", "advance"] {
        let kept = async |setting: &mut Setting| {
            let [renewed, _] = two_permits(setting).await;
            let (waiter, newcomer) = (Uuid::new_v4(), Uuid::new_v4());
            let waiting = Ask::waiting(waiter, 1).permits(2);
            assert_eq!(setting.second.outcome(&waiting).await, "waiting");
            lapse(setting, renewed).await;
            let Setting {
                db, first, second, ..
            } = setting;
            renewal_in_its_commit(first, renewed).await;
            let ask = match operation {
                "acquire" => Ask::of("acquire", newcomer).permits(2),
                _ => Ask::advance(),
            };
            let (said, ()) = tokio::join!(second.ask(&ask), async {
                until_waiting(db, 1).await;
                first.commit().await;
            });
            said.claims().is_empty() && setting.is_member(renewed).await
        };
        assert_needed(kept, &[BY_SNAPSHOT]).await;
    }
}

/// The gate has ended the permit and given its slot to another lease: the heartbeat that waited for
/// the row renews neither.
#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_that_renews_the_next_lease_of_its_slot_is_caught() {
    let kept = async |setting: &mut Setting| {
        let [late, _] = two_permits(setting).await;
        let next = Uuid::new_v4();
        let Setting {
            db, first, second, ..
        } = setting;
        second.begin().await;
        assert_eq!(second.outcome(&Ask::of("release", late)).await, "done");
        let short = Ask {
            lease_ms: 5000,
            ..Ask::of("acquire", next).permits(2)
        };
        assert_eq!(second.outcome(&short).await, "granted");
        let (verdict, ()) = tokio::join!(first.prove(Statement::HeartbeatMember, late), async {
            until_waiting(db, 1).await;
            second.commit().await;
        });
        let is_short: bool = db
            .value(&format!(
                "SELECT expires_at < clock_timestamp() + interval '10 s' FROM lock_members
                  WHERE lease_id = '{next}'"
            ))
            .await;
        verdict.is_none() && is_short
    };
    let blind: Mutant = &[(
        Text::Statement(Statement::HeartbeatMember),
        "WHERE m.fencing_token = excluded.fencing_token AND",
        "WHERE",
    )];
    assert_needed(kept, &[blind]).await;
}

/// A batch of heartbeats locks the permits of a semaphore in the order of their slots. A release of
/// the first slot at the gate, which finds the second one lapsed, does so too.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_with_the_heartbeats_of_members_is_caught() {
    let kept = async |setting: &mut Setting| {
        let [first_slot, second_slot] = two_permits(setting).await;
        lapse(setting, second_slot).await;
        let Setting {
            db, first, second, ..
        } = setting;
        first.begin().await;
        let verdict = first.prove(Statement::HeartbeatMember, first_slot).await;
        assert_eq!(verdict.as_deref(), Some("renewed"));
        let release = Ask::of("release", first_slot);
        let (said, has_both) =
            tokio::join!(second.try_ask(std::slice::from_ref(&release)), async {
                until_waiting(db, 1).await;
                let next = "SET LOCAL lock_timeout = '100 ms';
                        SELECT FROM lock_members WHERE slot = 1 FOR NO KEY UPDATE";
                let has_both = first.execute(next).await.is_ok();
                first
                    .execute(if has_both { "COMMIT" } else { "ROLLBACK" })
                    .await
                    .unwrap();
                has_both
            });
        has_both && said.is_ok_and(|said| said.outcome() == "done")
    };
    let mutants: &[Mutant] = &[
        &[(GATE, "ORDER BY x.slot FOR NO KEY UPDATE;", ";")],
        &[(GATE, "OR x.lease_id = ANY (r.all_lease_ids)", "")],
    ];
    assert_needed(kept, mutants).await;
}

/// A member ends where its account could have been told of it, and stays ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_permit_whose_id_serves_twice_is_caught() {
    let kept = async |setting: &mut Setting| {
        let [lapsed, released] = two_permits(setting).await;
        lapse(setting, lapsed).await;
        setting.first.ask(&Ask::of("release", released)).await;
        let mut is_kept = true;
        for (id, why) in [(lapsed, "expired"), (released, "released")] {
            let outcome = setting.first.outcome(&Ask::of("heartbeat", id)).await;
            is_kept &= outcome == why;
            let again = Ask::of("acquire", id).permits(2);
            is_kept &= setting.second.outcome(&again).await == "ended";
        }
        is_kept
    };
    let mutants: &[Mutant] = &[
        &[(
            GATE,
            "VALUES (m.account_id, m.lease_id, m.namespace_id, m.name, t, 1)",
            "SELECT 1, gen_random_uuid(), 1, 'x', t, 1",
        )],
        &[(
            GATE,
            "VALUES (m.account_id, m.lease_id, m.namespace_id, m.name, clock_timestamp(),",
            "VALUES (1, gen_random_uuid(), 1, 'x', clock_timestamp(),",
        )],
    ];
    assert_needed(kept, mutants).await;
}
