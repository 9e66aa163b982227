//! P11: no lease is renewed beyond its hold limit, whatever renews it; and the slots of permits.

use uuid::Uuid;

use super::kit::*;

/// How much longer than its hold limit a lease lasts, milliseconds; `None` if it has none.
async fn beyond_its_limit(setting: &Setting) -> Option<f64> {
    setting
        .db
        .value(
            "SELECT max(extract(epoch FROM expires_at - acquired_at) * 1000 - max_hold_ms)::float8
               FROM (SELECT expires_at, acquired_at, max_hold_ms FROM locks
                      WHERE account_id <> 0
                     UNION ALL
                     SELECT expires_at, acquired_at, max_hold_ms FROM lock_members) l",
        )
        .await
}

fn limited(id: Uuid, permits: i32) -> Ask {
    Ask {
        max_hold_ms: Some(30_000),
        ..Ask::waiting(id, 1).permits(permits)
    }
}

/// Granted at the gate, at once or by a hand-over, and renewed in every way.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_outlasts_its_hold_limit_is_caught() {
    for permits in [1, 0, 3] {
        let kept = async |setting: &mut Setting| {
            let id = Uuid::new_v4();
            let ask = limited(id, permits);
            if permits == 3 {
                assert_eq!(setting.second.outcome(&ask).await, "granted");
            } else {
                let holder = setting.hold().await;
                setting.join(2, &ask).await;
                setting.first.ask(&Ask::of("release", holder)).await;
                let confirm = ask.then("confirm");
                assert_eq!(setting.second.outcome(&confirm).await, "granted");
            }
            let heartbeat = match permits {
                1 => Statement::Heartbeat,
                _ => Statement::HeartbeatMember,
            };
            let mut is_kept = beyond_its_limit(setting).await == Some(0.0);
            let verdict = setting.second.prove(heartbeat, id).await;
            is_kept &= verdict.as_deref() == Some("renewed");
            is_kept &= beyond_its_limit(setting).await == Some(0.0);
            for ask in [ask.then("heartbeat"), ask, ask.then("confirm")] {
                let said = setting.second.ask(&ask).await;
                is_kept &= said.outcome() == "granted" && said.expires_in_ms() <= 30_000;
                is_kept &= beyond_its_limit(setting).await == Some(0.0);
            }
            is_kept
        };
        const CLIP: &str = "l.acquired_at + l.max_hold_ms * interval '1 ms'));";
        let mutants: &[Mutant] = match permits {
            1 => &[
                &[(GATE, CLIP, "'9999-12-31'));")],
                &[(
                    Text::Statement(Statement::Heartbeat),
                    "THEN least(clock_timestamp() + excluded.lease_ms * interval '1 ms',",
                    "THEN greatest(clock_timestamp() + excluded.lease_ms * interval '1 ms',",
                )],
            ],
            _ => &[
                &[(
                    GATE,
                    "x.acquired_at + x.max_hold_ms * interval '1 ms')),",
                    "'9999-12-31')),",
                )],
                &[(
                    Text::Statement(Statement::HeartbeatMember),
                    "m.acquired_at + m.max_hold_ms * interval '1 ms'),\n",
                    "'9999-12-31'),\n",
                )],
            ],
        };
        assert_needed(kept, mutants).await;
        if permits == 3 {
            let granted: Mutant = &[(
                Text::Function("gate_grant"),
                "least(new_length, w.max_hold_ms)",
                "new_length",
            )];
            assert_needed(kept, &[granted]).await;
        }
    }
}

/// An outage protects a lease that has lapsed; its hold limit ends it all the same, for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_after_the_hold_limit_is_caught() {
    for permits in [1, 0] {
        let kept = async |setting: &mut Setting| {
            let id = Uuid::new_v4();
            let ask = limited(id, permits);
            assert_eq!(setting.first.outcome(&ask).await, "granted");
            setting
                .db
                .execute(
                    "UPDATE locks SET acquired_at = acquired_at - interval '30 s',
                            expires_at = least(expires_at,
                              expires_at - interval '30 s' + CASE WHEN account_id = 0
                                THEN interval '9000 years' ELSE '0' END);
                     UPDATE lock_members SET acquired_at = acquired_at - interval '30 s',
                                             expires_at = expires_at - interval '30 s';
                     UPDATE service_clock SET outage_start = clock_timestamp() - interval '10 s',
                                              outage_end = clock_timestamp()",
                )
                .await;
            let heartbeat = setting.first.outcome(&ask.then("heartbeat")).await;
            let again = setting.second.outcome(&ask).await;
            let fast = match permits {
                1 => setting.second.prove(Statement::Heartbeat, id).await,
                _ => Some("hold_limit".to_owned()),
            };
            heartbeat == "hold_limit"
                && matches!(again.as_str(), "hold_limit" | "ended")
                && fast.as_deref() == Some("hold_limit")
        };
        let endless: Mutant = match permits {
            1 => &[(
                GATE,
                "t >= l.acquired_at + l.max_hold_ms * interval '1 ms'",
                "false",
            )],
            _ => &[(
                GATE,
                "t >= m.acquired_at + m.max_hold_ms * interval '1 ms'",
                "false",
            )],
        };
        assert_needed(kept, &[endless]).await;
    }
}

/// A permit that lapses at its hold limit is told so, from the memory of ended leases.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_at_the_hold_limit_that_is_called_another_is_caught() {
    let kept = async |setting: &mut Setting| {
        let id = Uuid::new_v4();
        assert_eq!(setting.first.outcome(&limited(id, 2)).await, "granted");
        setting
            .db
            .execute(
                "UPDATE lock_members SET acquired_at = acquired_at - interval '31 s',
                                         expires_at = expires_at - interval '31 s'",
            )
            .await;
        setting.first.ask(&Ask::advance()).await;
        setting.second.outcome(&Ask::of("heartbeat", id)).await == "hold_limit"
    };
    let expired: Mutant = &[(GATE, "THEN 5 ELSE 6 END", "THEN 6 ELSE 6 END")];
    assert_needed(kept, &[expired]).await;

    // An exclusive one, when the next lease takes its row over.
    let kept = async |setting: &mut Setting| {
        let (id, next) = (Uuid::new_v4(), Uuid::new_v4());
        assert_eq!(setting.first.outcome(&limited(id, 1)).await, "granted");
        setting
            .db
            .execute(
                "UPDATE locks SET acquired_at = acquired_at - interval '31 s',
                                  expires_at = expires_at - interval '31 s'",
            )
            .await;
        let said = setting.first.ask(&Ask::of("acquire", next)).await;
        assert_eq!(said.outcome(), "granted");
        setting.second.outcome(&Ask::of("heartbeat", id)).await == "hold_limit"
    };
    let expired: Mutant = &[(
        Text::Function("gate_grant"),
        "interval '1 ms' THEN 5\n",
        "interval '1 ms' THEN 3\n",
    )];
    assert_needed(kept, &[expired]).await;
}

/// The smallest slot that is free.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_not_the_smallest_free_one_is_caught() {
    let kept = async |setting: &mut Setting| {
        let ids: Vec<Uuid> = (0..5).map(|_| Uuid::new_v4()).collect();
        for id in &ids {
            setting
                .first
                .ask(&Ask::of("acquire", *id).permits(20))
                .await;
        }
        for id in [ids[1], ids[3], ids[0]] {
            setting.first.ask(&Ask::of("release", id)).await;
        }
        let mut slots = Vec::new();
        for _ in 0..4 {
            let permit = Ask::of("acquire", Uuid::new_v4()).permits(20);
            slots.push(setting.second.ask(&permit).await.slot());
        }
        slots == [Some(0), Some(1), Some(3), Some(5)]
    };
    let next: Mutant = &[(
        Text::Function("gate_grant"),
        "coalesce(min(u.i) FILTER (WHERE u.slot <> u.i - 1), cardinality(slots) + 1) - 1",
        "coalesce(max(u.slot) + 1, 0)",
    )];
    assert_needed(kept, &[next]).await;
}
