//! Claims: granted to nodes that are dead, paused, or did not learn of them.

use uuid::Uuid;

use super::kit::*;

/// A dead node has the first ticket, a live one the second.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_to_a_dead_node_is_caught() {
    let kept = async |setting: &mut Setting| {
        let holder = setting.hold().await;
        let (dead, live) = (Uuid::new_v4(), Uuid::new_v4());
        setting.join(2, &Ask::waiting(dead, 1)).await;
        setting.join(1, &Ask::waiting(live, 1)).await;
        looked(&setting.db, 2, "interval '-3 s'").await;
        let said = setting.first.ask(&Ask::of("release", holder)).await;
        // Its place is kept for 20 s: passed over, detached, and attached again when it comes back.
        said.claims() == [live] && matches!(setting.ticket(dead).await, Some((_, true)))
    };
    let mutants: &[Mutant] = &[
        &[(GATE, "AND q.node_id + 0 = ANY (live_nodes)", "")],
        &[(
            Text::Function("node_is_live"),
            "looked_at > clock_timestamp() - interval '2.5 s'",
            "true",
        )],
        // The dead node's ticket is deleted at once.
        &[(GATE, "interval '20 s'", "interval '-2 min'")],
    ];
    assert_needed(kept, mutants).await;
}

/// The first waiter's node was granted the lock and pauses: the claim lapses. It has a second
/// waiter behind, and the other node a third.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_node_that_delays_the_others_twice_is_caught() {
    let kept = async |setting: &mut Setting| {
        let holder = setting.hold().await;
        let (paused, same, other) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        setting.join(2, &Ask::waiting(paused, 1)).await;
        setting.join(2, &Ask::waiting(same, 2)).await;
        setting.join(1, &Ask::waiting(other, 1)).await;
        let said = setting.first.ask(&Ask::of("release", holder)).await;
        let mut is_kept = said.claims() == [paused];
        // A claim is short, however long the lease will be.
        let remaining: f64 = setting
            .db
            .value(
                "SELECT extract(epoch FROM expires_at - clock_timestamp())::float8 FROM locks
                  WHERE claim_token = fencing_token",
            )
            .await;
        is_kept &= remaining <= 3.0;
        setting.lapse().await;
        let said = setting.first.ask(&Ask::advance()).await;
        is_kept &= said.claims() == [other];
        // The lease id is not used up, and the place is kept.
        let confirm = Ask::waiting(paused, 1).then("confirm");
        is_kept &= setting.second.outcome(&confirm).await == "waiting";
        looked(&setting.db, 2, "interval '1 s'").await;
        let said = setting.first.ask(&Ask::of("release", other)).await;
        is_kept &= said.claims() == [paused];
        is_kept && setting.second.outcome(&confirm).await == "granted"
    };
    const WITHDRAW: Text = Text::Function("gate_withdraw");
    let mutants: &[Mutant] = &[
        &[(
            Text::Function("gate_grant"),
            "least(w.lease_ms, 3000)",
            "w.lease_ms",
        )],
        &[(WITHDRAW, "IF is_lapsed THEN", "IF false THEN")],
        // The claim's lease counts as one that has ended.
        &[(GATE, "IF l.end_reason IN (1, 2)", "IF true")],
    ];
    assert_needed(kept, mutants).await;
}

/// The same, of a permit.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_a_permit_that_lapses_unseen_is_caught() {
    let kept = async |setting: &mut Setting| {
        let ids: Vec<Uuid> = (0..4).map(|_| Uuid::new_v4()).collect();
        for id in &ids[..2] {
            let permit = Ask::of("acquire", *id).permits(2);
            assert_eq!(setting.first.outcome(&permit).await, "granted");
        }
        let (paused, other) = (ids[2], ids[3]);
        let paused_ask = Ask::waiting(paused, 1).permits(2);
        setting.join(2, &paused_ask).await;
        setting.join(1, &Ask::waiting(other, 1).permits(2)).await;
        let said = setting.first.ask(&Ask::of("release", ids[0])).await;
        let mut is_kept = said.claims() == [paused];
        setting
            .db
            .execute(&format!(
                "UPDATE lock_members SET expires_at = clock_timestamp()
                  WHERE lease_id = '{paused}'"
            ))
            .await;
        let said = setting.first.ask(&Ask::advance()).await;
        is_kept &= said.claims() == [other];
        let outcome = setting.second.outcome(&paused_ask.then("confirm")).await;
        is_kept && outcome == "waiting"
    };
    let mutants: &[Mutant] = &[&[(
        GATE,
        "IF m.claim_token = m.fencing_token AND m.renewed_ms IS NULL THEN",
        "IF false THEN",
    )]];
    assert_needed(kept, mutants).await;
}

/// The confirmation was executed and its result lost: repeated, it says the same, and the lease id
/// is used up only when the lease has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_that_is_not_repeatable_is_caught() {
    for permits in [1, 0, 3] {
        let kept = async |setting: &mut Setting| {
            let holder = setting.hold().await;
            let id = Uuid::new_v4();
            let ask = Ask::waiting(id, 1).permits(permits);
            if permits == 3 {
                assert_eq!(
                    setting.first.outcome(&Ask::of("release", holder)).await,
                    "done"
                );
                let outcome = setting.second.outcome(&ask).await;
                assert_eq!(outcome, "granted");
            } else {
                setting.join(2, &ask).await;
                setting.first.ask(&Ask::of("release", holder)).await;
            }
            let confirm = ask.then("confirm");
            let once = setting.second.ask(&confirm).await;
            let again = setting.second.ask(&confirm).await;
            let mut is_kept = once.outcome() == "granted" && again.outcome() == "granted";
            is_kept &= once.fencing_token() == again.fencing_token();
            is_kept &= again.expires_in_ms() > 50_000;
            // Repeated as an acquire, on another node, too.
            let acquire = setting.first.ask(&Ask { wait_ms: 0, ..ask }).await;
            is_kept &= acquire.fencing_token() == once.fencing_token();
            setting.second.ask(&ask.then("release")).await;
            is_kept && setting.second.outcome(&ask).await == "ended"
        };
        let mutants: &[Mutant] = match permits {
            1 => &[&[(
                GATE,
                "ELSIF is_own AND row_lives AND r.operation IN ('acquire', 'confirm'",
                "ELSIF is_own AND row_lives AND (is_claim OR r.operation <> 'confirm')
                   AND r.operation IN ('acquire', 'confirm'",
            )]],
            _ => &[&[(
                GATE,
                "ELSIF m.slot IS NOT NULL AND r.operation IN ('acquire', 'confirm'",
                "ELSIF m.slot IS NOT NULL AND (m.claim_token IS NOT NULL
                   OR r.operation <> 'confirm') AND r.operation IN ('acquire', 'confirm'",
            )]],
        };
        assert_needed(kept, mutants).await;
    }
}

/// A claim that is not confirmed is nobody's lease: neither a repeated acquire of the fast path nor
/// a release without an id takes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_counts_as_a_lease_is_caught() {
    let kept = async |setting: &mut Setting| {
        let holder = setting.hold().await;
        let id = Uuid::new_v4();
        setting.join(2, &Ask::waiting(id, 1)).await;
        setting.first.ask(&Ask::of("release", holder)).await;
        // Renewed by the fast path, the claim would outlast its ticket's node.
        let verdict = setting.first.acquire(Statement::Acquire, LOCK, id).await;
        verdict.as_deref() == Some("gated")
    };
    let renewed: Mutant = &[(
        Text::Statement(Statement::Acquire),
        "WHEN is_own AND seen_is_claim THEN 'gated'\n",
        "\n",
    )];
    assert_needed(kept, &[renewed]).await;

    let kept = async |setting: &mut Setting| {
        let holder = setting.hold().await;
        let id = Uuid::new_v4();
        let plain = Ask {
            needs_proof: false,
            ..Ask::waiting(id, 1)
        };
        setting.join(2, &plain).await;
        setting.first.ask(&Ask::of("release", holder)).await;
        let unnamed = Ask {
            lease_id: None,
            ..Ask::of("release", id)
        };
        let said = setting.first.ask(&unnamed).await;
        said.outcome() == "unknown" && setting.has_lock(id).await
    };
    let taken: Mutant = &[(GATE, "AND NOT (is_claim AND r.lease_id IS NULL)", "")];
    assert_needed(kept, &[taken]).await;
}

/// Without its ticket's mark, the node would never find the claim of a lost notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_its_node_cannot_find_is_caught() {
    let kept = async |setting: &mut Setting| {
        let holder = setting.hold().await;
        let id = Uuid::new_v4();
        setting.join(2, &Ask::waiting(id, 1)).await;
        let said = setting.first.ask(&Ask::of("release", holder)).await;
        let found = "SELECT count(*) = 1 FROM lock_tickets
                      WHERE node_id = 2 AND claim_token IS NOT NULL";
        said.claims() == [id] && setting.db.value::<bool>(found).await
    };
    let unmarked: Mutant = &[(
        GATE,
        "UPDATE lock_tickets q SET claim_token = g.new_token",
        "UPDATE lock_tickets q SET claim_token = NULL",
    )];
    assert_needed(kept, &[unmarked]).await;
}
