//! The checker sees what is wrong with leases without ids, with lengths of the requests' own, and
//! with late effects; and only that.

use super::*;
use Operation::{Acquire, Heartbeat, Release};
use Outcome::{Lost, Refused, Released, Unheard, Unknown};

const RULES: Rules = Rules {
    lease: Duration::from_millis(100),
    outage: Duration::ZERO,
    late: Duration::from_millis(50),
    compensation: Duration::from_millis(30),
};

/// A call of an account's process, without an id: account, operation, length, beginning and end in
/// milliseconds, outcome.
type Row = (i64, Operation, u64, u64, u64, Outcome);

fn violations(rows: &[Row]) -> Vec<String> {
    let history = History::new();
    for (account, operation, length, began, ended, outcome) in rows {
        history.calls.lock().unwrap().push(Call {
            request: Request {
                length: Some(Duration::from_millis(*length)),
                ..Request::new("l", *account, None, *operation)
            },
            began: Duration::from_millis(*began),
            ended: Duration::from_millis(*ended),
            outcome: *outcome,
            grant: None,
        });
    }
    history.violations(RULES)
}

const fn held(fencing_token: i64) -> Outcome {
    Outcome::Held { fencing_token }
}

#[track_caller]
fn wrong(rows: &[Row], expected: &str) {
    let found = violations(rows);
    assert!(
        found.iter().any(|line| line.contains(expected)),
        "{found:?}"
    );
}

#[track_caller]
fn right(rows: &[Row]) {
    assert_eq!(violations(rows), Vec::<String>::new());
}

#[test]
fn processes_of_an_account_share_its_lease() {
    right(&[
        (1, Acquire, 100, 0, 5, held(1)),
        (1, Heartbeat, 100, 50, 55, held(1)),
        (2, Heartbeat, 100, 60, 65, Lost),
        (1, Acquire, 100, 70, 75, Refused),
        (1, Release, 100, 80, 85, Released),
        (2, Acquire, 100, 82, 90, held(2)),
        (1, Heartbeat, 100, 91, 92, Lost),
    ]);
    wrong(
        &[
            (1, Acquire, 100, 0, 5, held(1)),
            (2, Acquire, 100, 50, 55, held(2)),
        ],
        "two leases at once",
    );
    wrong(
        &[
            (1, Acquire, 100, 0, 5, held(1)),
            (2, Heartbeat, 100, 50, 55, held(1)),
        ],
        "same fencing token",
    );
    wrong(
        &[
            (1, Acquire, 100, 0, 5, held(1)),
            (1, Release, 100, 10, 15, Released),
            (1, Heartbeat, 100, 20, 25, held(1)),
        ],
        "had ended, and was held again",
    );
}

/// The renewal takes long, and a release in between is told that the lease has ended.
#[test]
fn an_end_that_a_renewal_contradicts() {
    wrong(
        &[
            (1, Acquire, 100, 0, 5, held(1)),
            (1, Heartbeat, 100, 90, 150, held(1)),
            (1, Release, 100, 110, 120, Lost),
        ],
        "before its time",
    );
}

#[test]
fn a_length_of_the_requests_own() {
    right(&[
        (1, Acquire, 100, 0, 5, held(1)),
        (1, Heartbeat, 20, 10, 15, held(1)),
        (2, Acquire, 100, 35, 40, held(2)),
    ]);
    right(&[
        (1, Acquire, 100, 0, 5, held(1)),
        (1, Heartbeat, 20, 10, 15, Unknown),
        (2, Acquire, 100, 35, 40, held(2)),
    ]);
    wrong(
        &[
            (1, Acquire, 20, 0, 5, held(1)),
            (1, Heartbeat, 100, 10, 15, held(1)),
            (2, Acquire, 100, 40, 45, held(2)),
        ],
        "two leases at once",
    );
}

/// A heartbeat that was answered as unknown cannot shorten what was renewed after the answer; one
/// whose client went away may.
#[test]
fn an_effect_after_the_answer() {
    let renewed_since = |outcome| {
        [
            (1, Acquire, 100, 0, 5, held(1)),
            (1, Heartbeat, 20, 10, 15, outcome),
            (1, Heartbeat, 100, 20, 25, held(1)),
            (2, Acquire, 100, 60, 65, held(2)),
        ]
    };
    wrong(&renewed_since(Unknown), "two leases at once");
    right(&renewed_since(Unheard));
    let taken_since = |outcome| {
        [
            (1, Acquire, 100, 0, 5, held(1)),
            (1, Release, 100, 10, 15, outcome),
            (1, Release, 100, 20, 25, Released),
            (1, Acquire, 100, 30, 35, held(2)),
            (1, Heartbeat, 100, 40, 45, Lost),
        ]
    };
    wrong(&taken_since(Unknown), "before its time");
    right(&taken_since(Unheard));
}

/// A grant that the service told nobody about is nobody's for a short time only.
#[test]
fn a_grant_that_is_nobodys() {
    right(&[
        (1, Acquire, 1000, 0, 5, Unknown),
        (2, Acquire, 100, 20, 25, Refused),
    ]);
    wrong(
        &[
            (1, Acquire, 1000, 0, 5, Unknown),
            (2, Acquire, 100, 40, 45, Refused),
        ],
        "refused while",
    );
    right(&[
        (1, Acquire, 1000, 0, 5, Unheard),
        (2, Acquire, 100, 500, 505, Refused),
    ]);
}

#[test]
fn a_call_that_took_effect_and_was_told_later_that_its_lease_has_lapsed() {
    // The heartbeat shortened the lease. Its node was not answered, and asked again.
    right(&[
        (1, Acquire, 900, 0, 5, held(1)),
        (1, Heartbeat, 100, 10, 130, Lost),
        (2, Acquire, 100, 115, 120, held(2)),
    ]);
    // Sooner than its length it cannot have lapsed.
    wrong(
        &[
            (1, Acquire, 900, 0, 5, held(1)),
            (1, Heartbeat, 100, 10, 105, Lost),
        ],
        "was lost before its time",
    );
    wrong(
        &[
            (1, Acquire, 900, 0, 5, held(1)),
            (1, Heartbeat, 100, 10, 130, Lost),
            (2, Acquire, 100, 90, 95, held(2)),
        ],
        "two leases at once",
    );
    // The same of an acquire: account 2 had the lock, and account 3 was refused for it.
    right(&[
        (1, Acquire, 100, 0, 5, held(1)),
        (2, Acquire, 50, 100, 220, Refused),
        (3, Acquire, 100, 120, 125, Refused),
        (1, Acquire, 100, 160, 165, held(3)),
    ]);
    // Nobody's refusal is its own reason.
    wrong(
        &[
            (1, Acquire, 100, 0, 5, held(1)),
            (2, Acquire, 50, 110, 220, Refused),
        ],
        "refused while nobody can have held it",
    );
}
