//! The checker finds contradictions, and only those.

use super::*;

const RULES: Rules = Rules {
    lease: Duration::from_millis(100),
    outage: Duration::ZERO,
    late: Duration::from_millis(50),
    compensation: Duration::from_millis(30),
};

fn history(calls: &[(u128, Operation, u64, u64, Outcome)]) -> Vec<String> {
    let history = History::new();
    for (id, operation, began, ended, outcome) in calls {
        history.calls.lock().unwrap().push(Call {
            request: Request::with_id("l", Uuid::from_u128(*id), *operation),
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
use Operation::{Acquire, Heartbeat, Release};
use Outcome::{Lost, Refused, Released, Unknown};

#[track_caller]
fn wrong(calls: &[(u128, Operation, u64, u64, Outcome)], expected: &str) {
    let found = history(calls);
    assert!(
        found.iter().any(|line| line.contains(expected)),
        "{found:?}"
    );
}

#[track_caller]
fn right(calls: &[(u128, Operation, u64, u64, Outcome)]) {
    assert_eq!(history(calls), Vec::<String>::new());
}

#[test]
fn what_is_right() {
    right(&[
        (1, Acquire, 0, 5, held(1)),
        (2, Acquire, 3, 9, Refused),
        (1, Heartbeat, 50, 55, held(1)),
        (1, Release, 60, 70, Released),
        (2, Acquire, 62, 72, held(2)),
        (1, Release, 80, 85, Released),
        (1, Heartbeat, 86, 87, Lost),
    ]);
    // Lapsed, and taken over; an unknown acquire may have held it.
    right(&[
        (1, Acquire, 0, 5, held(1)),
        (2, Acquire, 100, 105, held(2)),
        (1, Heartbeat, 110, 111, Lost),
    ]);
    right(&[
        (1, Acquire, 0, 50, Unknown),
        (2, Acquire, 120, 125, Refused),
    ]);
    right(&[
        (1, Acquire, 0, 50, Unknown),
        (2, Acquire, 20, 30, held(1)),
        (1, Acquire, 60, 70, Refused),
    ]);
    // Answers that crossed on their way say nothing about the order.
    right(&[
        (1, Acquire, 0, 90, held(2)),
        (2, Acquire, 1, 95, held(1)),
        (2, Release, 2, 96, Released),
    ]);
}

#[test]
fn two_at_once() {
    wrong(
        &[(1, Acquire, 0, 5, held(1)), (2, Acquire, 50, 55, held(2))],
        "two leases at once",
    );
    wrong(
        &[
            (1, Acquire, 0, 5, held(1)),
            (1, Heartbeat, 90, 95, held(1)),
            (2, Acquire, 120, 125, held(2)),
        ],
        "two leases at once",
    );
}

#[test]
fn tokens_out_of_order() {
    let released = (1, Release, 10, 15, Released);
    wrong(
        &[
            (1, Acquire, 0, 5, held(2)),
            released,
            (2, Acquire, 20, 25, held(1)),
        ],
        "acted after it",
    );
    wrong(
        &[
            (1, Acquire, 0, 5, held(2)),
            released,
            (2, Acquire, 20, 25, held(2)),
        ],
        "same fencing token",
    );
    wrong(
        &[(1, Acquire, 0, 5, held(1)), (1, Acquire, 20, 25, held(2))],
        "several fencing tokens",
    );
}

#[test]
fn a_lease_that_came_back() {
    wrong(
        &[
            (1, Acquire, 0, 5, held(1)),
            (2, Acquire, 120, 125, held(2)),
            (1, Heartbeat, 126, 127, held(1)),
        ],
        "acted after it",
    );
    wrong(
        &[
            (1, Acquire, 0, 5, held(1)),
            (1, Release, 10, 15, Released),
            (1, Acquire, 20, 25, held(1)),
        ],
        "had ended, and was held again",
    );
    wrong(
        &[
            (1, Acquire, 0, 5, held(1)),
            (2, Acquire, 120, 125, held(2)),
            (1, Release, 126, 127, Released),
        ],
        "acted after it",
    );
}

#[test]
fn a_lease_that_was_taken_away() {
    wrong(
        &[(1, Acquire, 0, 5, held(1)), (1, Heartbeat, 50, 55, Lost)],
        "before its time",
    );
}

#[test]
fn a_refusal_without_reason() {
    wrong(
        &[
            (1, Acquire, 0, 5, held(1)),
            (1, Release, 6, 7, Released),
            (2, Acquire, 10, 15, Refused),
        ],
        "refused while",
    );
    wrong(
        &[(1, Acquire, 0, 5, held(1)), (2, Acquire, 106, 110, Refused)],
        "refused while",
    );
}
