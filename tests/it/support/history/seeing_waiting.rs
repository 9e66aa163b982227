//! The checker sees what is wrong with waiters, permits and shared leases in their calls alone; and
//! only that.

use super::*;
use Operation::{Acquire, Heartbeat, Release};
use Outcome::{Conflicting, Refused, Released};

const RULES: Rules = Rules {
    lease: Duration::from_millis(100),
    outage: Duration::ZERO,
    late: Duration::from_millis(50),
    compensation: Duration::from_millis(30),
};

const TWO: Mode = Mode::Semaphore { limit: 2 };

/// A call with a lease id: id, operation, mode, wait, beginning and end in milliseconds, outcome.
type Row = (u128, Operation, Mode, u64, u64, u64, Outcome);

fn call(row: &Row) -> Call {
    let (id, operation, mode, wait, began, ended, outcome) = *row;
    Call {
        request: Request {
            mode,
            wait: Duration::from_millis(wait),
            ..Request::with_id("l", Uuid::from_u128(id), operation)
        },
        began: Duration::from_millis(began),
        ended: Duration::from_millis(ended),
        outcome,
        grant: None,
    }
}

fn violations(calls: Vec<Call>) -> Vec<String> {
    let history = History::new();
    *history.calls.lock().unwrap() = calls;
    history.violations(RULES)
}

const fn held(fencing_token: i64) -> Outcome {
    Outcome::Held { fencing_token }
}

#[track_caller]
fn assert_sees(calls: Vec<Call>, expected: &str) {
    let found = violations(calls);
    assert!(
        found.iter().any(|line| line.contains(expected)),
        "{found:?}"
    );
}

#[track_caller]
fn wrong(rows: &[Row], expected: &str) {
    assert_sees(rows.iter().map(call).collect(), expected);
}

#[track_caller]
fn right(rows: &[Row]) {
    assert_eq!(
        violations(rows.iter().map(call).collect()),
        Vec::<String>::new()
    );
}

#[test]
fn permits_and_shared_leases_go_together() {
    right(&[
        (1, Acquire, TWO, 0, 0, 5, held(1)),
        (2, Acquire, TWO, 0, 10, 15, held(2)),
        (3, Acquire, TWO, 0, 20, 25, Refused),
        (1, Heartbeat, TWO, 0, 30, 35, held(1)),
        (4, Acquire, Mode::Exclusive, 0, 40, 45, Conflicting),
        (1, Release, TWO, 0, 50, 55, Released),
        (3, Acquire, TWO, 0, 56, 60, held(3)),
    ]);
    right(&[
        (1, Acquire, Mode::Shared, 0, 0, 5, held(1)),
        (2, Acquire, Mode::Shared, 0, 10, 15, held(2)),
        (3, Acquire, Mode::Exclusive, 0, 20, 25, Refused),
    ]);
}

#[test]
fn more_permits_than_there_are() {
    wrong(
        &[
            (1, Acquire, TWO, 0, 0, 5, held(1)),
            (2, Acquire, TWO, 0, 10, 15, held(2)),
            (3, Acquire, TWO, 0, 20, 25, held(3)),
        ],
        "3 permits of 2",
    );
}

#[test]
fn modes_that_exclude_each_other() {
    for other in [Mode::Exclusive, TWO, Mode::Semaphore { limit: 3 }] {
        wrong(
            &[
                (1, Acquire, Mode::Shared, 0, 0, 5, held(1)),
                (2, Acquire, other, 0, 10, 15, held(2)),
            ],
            "two leases at once",
        );
    }
    wrong(
        &[
            (1, Acquire, Mode::Shared, 0, 0, 5, held(1)),
            (2, Acquire, Mode::Exclusive, 0, 110, 115, held(2)),
            (1, Heartbeat, Mode::Shared, 0, 120, 125, held(1)),
        ],
        "acted after it",
    );
}

#[test]
fn permits_with_one_slot() {
    let with_slot = |row: Row, slot| Call {
        grant: Some(Grant {
            slot: Some(slot),
            waited: Duration::ZERO,
            expires_in: Duration::ZERO,
            expires_at: Utc::now() + Duration::from_secs(3600),
        }),
        ..call(&row)
    };
    let leases = |slots: [i32; 2]| {
        vec![
            with_slot((1, Acquire, TWO, 0, 0, 5, held(1)), slots[0]),
            with_slot((2, Acquire, TWO, 0, 10, 15, held(2)), slots[1]),
        ]
    };
    assert_eq!(violations(leases([0, 1])), Vec::<String>::new());
    assert_sees(leases([1, 1]), "one slot at once");
    assert_sees(
        vec![
            with_slot((1, Acquire, TWO, 0, 0, 5, held(1)), 0),
            with_slot((1, Heartbeat, TWO, 0, 10, 15, held(1)), 1),
        ],
        "several slots",
    );
}

#[test]
fn tokens_of_permits_out_of_order() {
    let rows = |asked| {
        [
            (1, Acquire, TWO, 0, 0, 5, held(2)),
            (2, Acquire, TWO, 0, asked, 15, held(1)),
        ]
    };
    wrong(&rows(10), "acted after it");
    right(&rows(3));
}

#[test]
fn a_refusal_of_a_permit_that_was_free() {
    wrong(
        &[
            (1, Acquire, TWO, 0, 0, 5, held(1)),
            (2, Acquire, TWO, 0, 10, 15, Refused),
        ],
        "refused while",
    );
    wrong(
        &[
            (1, Acquire, Mode::Shared, 0, 0, 5, held(1)),
            (2, Acquire, Mode::Shared, 0, 10, 15, Refused),
        ],
        "refused while",
    );
    wrong(
        &[
            (1, Acquire, Mode::Shared, 0, 0, 5, held(1)),
            (2, Acquire, Mode::Exclusive, 0, 10, 15, Conflicting),
        ],
        "refused while",
    );
}

/// The request of a waiter is one call, and its lease begins at an instant that nobody sees.
#[test]
fn a_waiter_gets_its_turn() {
    right(&[
        (1, Acquire, Mode::Exclusive, 0, 0, 5, held(1)),
        (2, Acquire, Mode::Exclusive, 60, 10, 55, held(2)),
        (3, Acquire, Mode::Exclusive, 30, 12, 42, Refused),
        (4, Acquire, Mode::Exclusive, 0, 15, 20, Refused),
        (1, Release, Mode::Exclusive, 0, 50, 52, Released),
    ]);
    // A waiter may be before one who does not wait, whoever holds the lock.
    right(&[
        (1, Acquire, Mode::Exclusive, 30, 0, 30, Refused),
        (2, Acquire, Mode::Exclusive, 0, 10, 15, Refused),
        (3, Acquire, Mode::Exclusive, 0, 2, 7, held(1)),
    ]);
    wrong(
        &[
            (1, Acquire, Mode::Exclusive, 0, 0, 5, held(1)),
            (2, Acquire, Mode::Exclusive, 60, 10, 40, Refused),
        ],
        "before its time was up",
    );
    wrong(
        &[
            (1, Acquire, Mode::Exclusive, 0, 0, 5, held(1)),
            (2, Acquire, Mode::Exclusive, 60, 10, 40, held(2)),
        ],
        "two leases at once",
    );
}

/// What a waiter is told, in milliseconds: that it waited, how long the lease lasts, when it ends.
fn told(waited: u64, expires_in: u64, ends_at: u64) -> Vec<String> {
    let history = History::new();
    let expires_at = history.started_at + Duration::from_millis(ends_at);
    history.calls.lock().unwrap().push(Call {
        grant: Some(Grant {
            slot: None,
            waited: Duration::from_millis(waited),
            expires_in: Duration::from_millis(expires_in),
            expires_at,
        }),
        ..call(&(1, Acquire, Mode::Exclusive, 90, 10, 70, held(1)))
    });
    history.violations(RULES)
}

#[test]
fn what_a_waiter_is_told_of_time() {
    assert_eq!(told(50, 100, 160), Vec::<String>::new());
    let found = told(50, 100, 150);
    assert!(
        found[0].contains("told a deadline that is too late"),
        "{found:?}"
    );
    let found = told(90, 10, 160);
    assert!(
        found[0].contains("told that it waited too long"),
        "{found:?}"
    );
}

/// The lease of a waiter certainly lasts from its answer until its length after the end of the
/// wait, not after its arrival.
#[test]
fn a_lease_that_began_after_a_wait() {
    let waiter = |waited| {
        vec![
            Call {
                grant: Some(Grant {
                    slot: None,
                    waited: Duration::from_millis(waited),
                    expires_in: Duration::from_millis(100),
                    expires_at: Utc::now() + Duration::from_secs(3600),
                }),
                ..call(&(1, Acquire, Mode::Exclusive, 200, 0, 150, held(1)))
            },
            call(&(2, Acquire, Mode::Exclusive, 0, 180, 185, held(2))),
        ]
    };
    assert_sees(waiter(140), "two leases at once");
    assert_eq!(violations(waiter(0)), Vec::<String>::new());
}
