//! Shared leases, permits and exclusive leases beside one another.

use uuid::Uuid;

use super::kit::*;

const FITS: Text = Text::Function("permit_fits");

/// Shared leases and permits wait for the end of an exclusive lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_lease_beside_an_exclusive_one_is_caught() {
    for permits in [0, 3] {
        let kept = async |setting: &mut Setting| {
            let holder = setting.hold().await;
            let id = Uuid::new_v4();
            let at_once = Ask::of("acquire", id).permits(permits);
            let refused = setting.second.outcome(&at_once).await;
            let waiting = Ask::waiting(id, 1).permits(permits);
            let waits = setting.second.outcome(&waiting).await;
            let expected = if permits == 0 {
                ["held", "waiting"]
            } else {
                ["limit_conflict", "limit_conflict"]
            };
            [refused.as_str(), waits.as_str()] == expected
                && setting.has_lock(holder).await
                && !setting.is_member(id).await
        };
        let beside: Mutant = &[
            (GATE, "fits := NOT row_lives AND", "fits :="),
            (
                GATE,
                "ELSIF permits_conflict(r.permits, a.permits)",
                "ELSIF false",
            ),
        ];
        assert_needed(kept, &[beside]).await;
    }
}

/// And an exclusive lease for the end of all shared ones, on the fast path too.
#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_lease_beside_a_shared_one_is_caught() {
    let kept = async |setting: &mut Setting| {
        let (reader, other, writer) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        for id in [reader, other] {
            let shared = Ask::of("acquire", id).permits(0);
            assert_eq!(setting.first.outcome(&shared).await, "granted");
        }
        let fast = setting
            .second
            .acquire(Statement::Acquire, LOCK, writer)
            .await;
        let mut is_kept = fast.as_deref() == Some("gated");
        let at_once = Ask::of("acquire", writer);
        is_kept &= setting.second.outcome(&at_once).await == "held";
        setting.second.ask(&Ask::waiting(writer, 1)).await;
        setting.first.ask(&Ask::of("release", reader)).await;
        is_kept &= !setting.has_lock(writer).await;
        let said = setting.first.ask(&Ask::of("release", other)).await;
        is_kept && said.claims() == [writer]
    };
    let mutants: &[Mutant] = &[
        &[(FITS, "live = 0", "true")],
        // The hand-over counts no members.
        &[(
            GATE,
            "NOT permit_fits(w.permits, in_force, cardinality(slots))",
            "NOT permit_fits(w.permits, in_force, 0)",
        )],
    ];
    assert_needed(kept, mutants).await;
}

/// The acquire observed a free lock; a shared lease is granted while it waits for the row. Of a
/// node that knows no gates, too.
#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_acquire_that_observed_no_member_is_caught() {
    for statement in [Statement::Acquire, Statement::OlderAcquire] {
        let kept = async |setting: &mut Setting| {
            let holder = setting.hold().await;
            let release = Ask::of("release", holder);
            assert_eq!(setting.first.outcome(&release).await, "done");
            let (reader, writer) = (Uuid::new_v4(), Uuid::new_v4());
            let Setting {
                db, first, second, ..
            } = setting;
            second.begin().await;
            let shared = Ask::of("acquire", reader).permits(0);
            assert_eq!(second.outcome(&shared).await, "granted");
            let (verdict, ()) = tokio::join!(first.acquire(statement, LOCK, writer), async {
                until_waiting(db, 1).await;
                second.commit().await;
            });
            verdict.is_none() && setting.is_member(reader).await && !setting.has_lock(writer).await
        };
        // The version, the gate and the year protect, each by itself: all are taken out.
        let mutant: Mutant = match statement {
            Statement::Acquire => &[
                (Text::Function("gate_grant"), "'9999-12-31'", "at"),
                (
                    Text::Statement(Statement::Acquire),
                    "= excluded.seen_token\n",
                    "IS NOT NULL\n",
                ),
                (
                    Text::Statement(Statement::Acquire),
                    "ELSE NOT l.gated\n",
                    "ELSE true\n",
                ),
            ],
            _ => &[
                (Text::Function("gate_grant"), "'9999-12-31'", "at"),
                (
                    Text::Statement(Statement::OlderAcquire),
                    "= excluded.seen_token\n",
                    "IS NOT NULL\n",
                ),
            ],
        };
        assert_needed(kept, &[mutant]).await;
    }
}

/// The acquire observed an id that had not ended, and waits for another lock of its batch; then a
/// shared lease with that id is granted and released.
#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_that_observed_the_lock_before_a_member_came_and_went_is_caught() {
    let kept = async |setting: &mut Setting| {
        let id = Uuid::new_v4();
        let Setting {
            db, first, second, ..
        } = setting;
        for name in ["a", LOCK] {
            let shared = Ask {
                name,
                ..Ask::of("acquire", Uuid::new_v4()).permits(0)
            };
            assert_eq!(first.outcome(&shared).await, "granted");
            assert_eq!(first.outcome(&shared.then("release")).await, "done");
        }
        let locker = locker_of(db, "a").await;
        let batch = [("a", Uuid::new_v4()), (LOCK, id)];
        let (verdicts, ()) = tokio::join!(first.acquire_all(Statement::Acquire, &batch), async {
            until_waiting(db, 1).await;
            let shared = Ask::of("acquire", id).permits(0);
            assert_eq!(second.outcome(&shared).await, "granted");
            assert_eq!(second.outcome(&shared.then("release")).await, "done");
            unlock(locker).await;
        });
        verdicts[1].is_none() && !setting.has_lock(id).await
    };
    let same_version: Mutant = &[
        (
            Text::Function("gate_grant"),
            "l.fencing_token := new_token;",
            "l.fencing_token := CASE WHEN w.permits = 1 THEN new_token ELSE l.fencing_token END;",
        ),
        (
            GATE,
            "l.end_reason := 1; l.expires_at := t; l.mark_token := nextval('lock_fence');",
            "l.end_reason := 1; l.expires_at := t;",
        ),
    ];
    assert_needed(kept, &[same_version]).await;
}

/// Semaphores go with their like only, and a repetition keeps its mode.
#[tokio::test(flavor = "multi_thread")]
async fn another_limit_beside_a_semaphore_is_caught() {
    let kept = async |setting: &mut Setting| {
        let id = Uuid::new_v4();
        let permit = Ask::of("acquire", id).permits(2);
        assert_eq!(setting.first.outcome(&permit).await, "granted");
        let mut is_kept = true;
        for permits in [0, 1, 3] {
            for ask in [Ask::waiting(Uuid::new_v4(), 1), Ask::of("acquire", id)] {
                let outcome = setting.second.outcome(&ask.permits(permits)).await;
                is_kept &= outcome == "limit_conflict";
            }
        }
        is_kept
    };
    let mutants: &[Mutant] = &[
        &[(
            Text::Function("permits_conflict"),
            "permits <> in_force AND",
            "permits < in_force AND",
        )],
        &[(GATE, "AND r.permits <> m.permits THEN", "AND false THEN")],
    ];
    assert_needed(kept, mutants).await;

    // In force is the first waiter's limit, where nobody holds a permit.
    let kept = async |setting: &mut Setting| {
        let holder = setting.hold().await;
        let (id, other) = (Uuid::new_v4(), Uuid::new_v4());
        setting.join(1, &Ask::waiting(id, 1)).await;
        let permit = Ask::waiting(other, 1).permits(2);
        let mut is_kept = setting.second.outcome(&permit).await == "limit_conflict";
        let repeated = Ask::waiting(id, 2).permits(0);
        is_kept &= setting.second.outcome(&repeated).await == "limit_conflict";
        setting.first.ask(&Ask::of("release", holder)).await;
        is_kept && setting.has_lock(id).await
    };
    let unseen: Mutant = &[(
        GATE,
        "IF w.ticket IS NOT NULL AND w.permits <> r.permits THEN",
        "IF false THEN",
    )];
    assert_needed(kept, &[unseen]).await;
}

/// As many from the head of the line as fit, and never more than the limit.
#[tokio::test(flavor = "multi_thread")]
async fn more_permits_than_the_limit_are_caught() {
    let kept = async |setting: &mut Setting| {
        let ids: Vec<Uuid> = (0..6).map(|_| Uuid::new_v4()).collect();
        let mut slots = Vec::new();
        for id in &ids[..3] {
            let said = setting.first.ask(&Ask::of("acquire", *id).permits(3)).await;
            slots.push(said.slot());
        }
        let mut is_kept = slots == [Some(0), Some(1), Some(2)];
        for (n, id) in ids[3..].iter().enumerate() {
            let ask = Ask::waiting(*id, 1 + n as i64).permits(3);
            is_kept &= setting.second.outcome(&ask).await == "waiting";
        }
        let release = Ask::of("release", ids[1]);
        is_kept &= setting.first.ask(&release).await.claims() == [ids[3]];
        let live = "SELECT count(*) FROM lock_members WHERE end_reason = 0";
        is_kept && setting.db.value::<i64>(live).await == 3
    };
    let mutants: &[Mutant] = &[
        &[(FITS, "live < permits", "live <= permits")],
        // The slots that the hand-over filled are not counted.
        &[(
            GATE,
            "slots := ARRAY(SELECT unnest(slots || g.new_slot) ORDER BY 1);",
            "",
        )],
    ];
    for mutant in mutants {
        let mut setting = Setting::create(mutant).await;
        // A slot that is taken raises an error: the key does not let it happen.
        let outcome = tokio::spawn(async move { kept(&mut setting).await }).await;
        assert!(!outcome.unwrap_or(false), "not caught: {mutant:?}");
    }
    assert_needed(kept, &[]).await;
}
