//! Releases that overtake their acquires.

use uuid::Uuid;

use super::kit::*;

/// The mark is not left.
const UNMARKED: Mutant = &[(
    GATE,
    "IF r.operation = 'release' THEN\n              INSERT INTO lease_ends",
    "IF false THEN\n              INSERT INTO lease_ends",
)];

/// The release arrives first; the acquire would join the line, or is granted.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_overtakes_its_acquire_is_caught() {
    for permits in [1, 0] {
        let kept = async |setting: &mut Setting| {
            let holder = setting.hold().await;
            let (id, other) = (Uuid::new_v4(), Uuid::new_v4());
            setting
                .join(1, &Ask::waiting(other, 1).permits(permits))
                .await;
            let release = Ask::of("release", id);
            let mut is_kept = setting.first.outcome(&release).await == "never_granted";
            let ask = Ask::waiting(id, 1).permits(permits);
            is_kept &= setting.second.outcome(&ask).await == "ended";
            setting.first.ask(&Ask::of("release", holder)).await;
            is_kept & (setting.second.outcome(&ask).await == "ended")
        };
        assert_needed(kept, &[UNMARKED]).await;
    }
}

/// Its acquire waits: it is never granted.
#[tokio::test(flavor = "multi_thread")]
async fn a_released_waiter_that_is_granted_is_caught() {
    let kept = async |setting: &mut Setting| {
        let holder = setting.hold().await;
        let (id, behind) = (Uuid::new_v4(), Uuid::new_v4());
        let ask = Ask::waiting(id, 1);
        setting.join(2, &ask).await;
        setting.join(2, &Ask::waiting(behind, 2)).await;
        let release = Ask::of("release", id);
        let mut is_kept = setting.first.outcome(&release).await == "never_granted";
        let said = setting.first.ask(&Ask::of("release", holder)).await;
        is_kept &= said.claims() == [behind];
        is_kept && setting.second.outcome(&ask.then("confirm")).await == "ended"
    };
    let kept_ticket: Mutant = &[(
        GATE,
        "-- Its acquire waits, or has not arrived yet: it is not granted any more.\n",
        "w := NULL;\n",
    )];
    assert_needed(kept, &[UNMARKED, kept_ticket]).await;

    // It has a claim.
    let kept = async |setting: &mut Setting| {
        let holder = setting.hold().await;
        let (id, behind) = (Uuid::new_v4(), Uuid::new_v4());
        let ask = Ask::waiting(id, 1);
        setting.join(2, &ask).await;
        setting.join(2, &Ask::waiting(behind, 2)).await;
        setting.first.ask(&Ask::of("release", holder)).await;
        let said = setting.first.ask(&Ask::of("release", id)).await;
        let outcome = setting.second.outcome(&ask.then("confirm")).await;
        said.outcome() == "done" && said.claims() == [behind] && outcome == "ended"
    };
    assert_needed(kept, &[]).await;
}

/// The acquire observed a free lock, without a line, and waits for the row of another lock of its
/// batch. The release comes to the gate first.
#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_that_observed_the_lock_before_its_release_is_caught() {
    let kept = async |setting: &mut Setting| {
        let (id, earlier) = (Uuid::new_v4(), Uuid::new_v4());
        let Setting {
            db, first, second, ..
        } = setting;
        for name in ["a", LOCK] {
            let taken = first.acquire(Statement::Acquire, name, earlier).await;
            assert_eq!(taken.as_deref(), Some("granted"));
            let release = Ask {
                name,
                ..Ask::of("release", earlier)
            };
            assert_eq!(first.outcome(&release).await, "done");
        }
        let locker = locker_of(db, "a").await;
        let batch = [("a", Uuid::new_v4()), (LOCK, id)];
        let (verdicts, said) = tokio::join!(first.acquire_all(Statement::Acquire, &batch), async {
            until_waiting(db, 1).await;
            let said = second.ask(&Ask::of("release", id)).await;
            unlock(locker).await;
            said
        });
        let again = first.acquire(Statement::Acquire, LOCK, id).await;
        said.outcome() == "never_granted"
            && verdicts[1].is_none()
            && again.as_deref() == Some("ended")
    };
    let undrawn: Mutant = &[(
        GATE,
        "l.mark_token := nextval('lock_fence');\n            is_changed := true;\n            \
         a.outcome := 'never_granted';",
        "is_changed := true;\n            a.outcome := 'never_granted';",
    )];
    assert_needed(kept, &[undrawn]).await;
}

/// A lock that has no row: the release inserts one, so that an insert-if-absent that was decided
/// before finds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_at_the_gate_of_an_absent_row_leaves_one() {
    let mut setting = Setting::create(&[]).await;
    let id = Uuid::new_v4();
    let release = Ask::of("release", id);
    assert_eq!(setting.first.outcome(&release).await, "never_granted");
    let rows: i64 = setting.db.value("SELECT count(*) FROM locks").await;
    assert_eq!(rows, 1);
    let verdict = setting.second.acquire(Statement::Acquire, LOCK, id).await;
    assert_eq!(verdict.as_deref(), Some("ended"));
}
