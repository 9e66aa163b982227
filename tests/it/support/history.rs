//! What concurrent clients of one lock saw, and whether the promises held.
//!
//! Clients write down each call: when it began and ended on the one monotonic clock that they
//! share, and what was answered, "unknown" for an answer that never came. [`History::violations`]
//! then looks for a contradiction. It never guesses: a lease is *certainly* held from the end of
//! the call that granted it until its length after the *beginning* of the last call that renewed
//! it, or until somebody began to release it; it is *possibly* held from the beginning of the first
//! call until its length (and the grace of an outage) after the end of the last one that might have
//! renewed it, or the end of its release.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use uuid::Uuid;

/// What a client asked for, always with a lease id of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Acquire,
    Heartbeat,
    Release,
}

/// What it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// An acquire or heartbeat that holds the lock, with this fencing token.
    Held { fencing_token: i64 },
    /// A release that freed it, now or before.
    Released,
    /// An acquire that was refused, because another lease holds the lock.
    Refused,
    /// This lease has ended, or there never was one.
    Lost,
    /// No answer, or one that says that nothing is known.
    Unknown,
}

/// One call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) lock: String,
    pub(crate) lease_id: Uuid,
    pub(crate) operation: Operation,
    /// Since the start of the history.
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
    pub(crate) answer: Answer,
}

/// The calls of all clients.
#[derive(Debug)]
pub(crate) struct History {
    started: Instant,
    calls: Mutex<Vec<Call>>,
}

/// What the checker has to know of the service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// How long every lease was asked for.
    pub(crate) lease: Duration,
    /// By how much an outage may lengthen a lease that was not renewed: the outage itself and its
    /// grace.
    pub(crate) outage: Duration,
}

impl History {
    pub(crate) fn new() -> History {
        History {
            started: Instant::now(),
            calls: Mutex::default(),
        }
    }

    /// Asks, and writes down what came of it.
    pub(crate) async fn record(
        &self,
        lock: &str,
        lease_id: Uuid,
        operation: Operation,
        ask: impl Future<Output = Answer>,
    ) -> Answer {
        let began = self.started.elapsed();
        let answer = ask.await;
        let ended = self.started.elapsed();
        let call = Call {
            lock: lock.to_owned(),
            lease_id,
            operation,
            began,
            ended,
            answer,
        };
        self.calls.lock().unwrap().push(call);
        answer
    }

    /// How many calls were answered in a way.
    pub(crate) fn count(&self, wanted: impl Fn(&Call) -> bool) -> usize {
        self.calls
            .lock()
            .unwrap()
            .iter()
            .filter(|call| wanted(call))
            .count()
    }

    /// Every contradiction, a line each.
    pub(crate) fn violations(&self, rules: Rules) -> Vec<String> {
        let mut locks: BTreeMap<String, Vec<Call>> = BTreeMap::new();
        for call in self.calls.lock().unwrap().iter() {
            locks
                .entry(call.lock.clone())
                .or_default()
                .push(call.clone());
        }
        locks
            .into_iter()
            .flat_map(|(lock, calls)| check(&lock, calls, rules))
            .collect()
    }

    /// Panics with the first contradictions, if there are any.
    #[track_caller]
    pub(crate) fn assert_holds(&self, rules: Rules) {
        let violations = self.violations(rules);
        let first = violations
            .iter()
            .take(10)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n");
        assert!(
            violations.is_empty(),
            "{} contradictions:\n{first}",
            violations.len()
        );
    }
}

/// What is known of one lease.
#[derive(Debug)]
struct Lease {
    id: Uuid,
    token: Option<i64>,
    /// It is certain that nobody else held the lock in this time.
    certain: Option<(Duration, Duration)>,
    /// It is possible that it held the lock in this time.
    possible: Option<(Duration, Duration)>,
    calls: Vec<Call>,
}

fn check(lock: &str, mut calls: Vec<Call>, rules: Rules) -> Vec<String> {
    calls.sort_by_key(|call| call.began);
    let mut wrong = Vec::new();
    let mut by_id: BTreeMap<Uuid, Vec<Call>> = BTreeMap::new();
    for call in calls {
        by_id.entry(call.lease_id).or_default().push(call);
    }
    let leases: Vec<Lease> = by_id
        .into_iter()
        .map(|(id, calls)| lease(lock, id, calls, rules, &mut wrong))
        .collect();
    order_of_tokens(lock, &leases, &mut wrong);
    exclusion(lock, &leases, &mut wrong);
    refusals(lock, &leases, &mut wrong);
    wrong
}

/// Reads one lease's calls, and checks what can be checked without looking at others.
fn lease(lock: &str, id: Uuid, calls: Vec<Call>, rules: Rules, wrong: &mut Vec<String>) -> Lease {
    let held = |call: &&Call| matches!(call.answer, Answer::Held { .. });
    let tokens: Vec<i64> = calls
        .iter()
        .filter_map(|call| {
            if let Answer::Held { fencing_token } = call.answer {
                Some(fencing_token)
            } else {
                None
            }
        })
        .collect();
    if tokens.windows(2).any(|pair| pair[0] != pair[1]) {
        wrong.push(format!(
            "{lock}: lease {id} had several fencing tokens: {tokens:?}"
        ));
    }
    let releases = || {
        calls
            .iter()
            .filter(|call| call.operation == Operation::Release)
    };
    let freed = releases()
        .filter(|call| call.answer == Answer::Released)
        .map(|call| call.ended)
        .min();
    let lost = calls
        .iter()
        .filter(|call| call.answer == Answer::Lost)
        .map(|call| call.ended)
        .min();
    let over = [freed, lost].into_iter().flatten().min();
    let certain = calls.iter().find(held).map(|first| {
        let last = calls
            .iter()
            .filter(held)
            .map(|call| call.ended.max(call.began + rules.lease))
            .max();
        let given_up = releases().map(|call| call.began).min();
        (
            first.ended,
            last.unwrap_or(first.ended)
                .min(given_up.unwrap_or(Duration::MAX)),
        )
    });
    let possible = |call: &&Call| {
        call.operation != Operation::Release && (held(call) || call.answer == Answer::Unknown)
    };
    let possible = calls.iter().find(possible).map(|first| {
        let last = calls
            .iter()
            .filter(possible)
            .map(|call| call.ended + rules.lease + rules.outage)
            .max();
        (
            first.began,
            last.unwrap_or(first.ended)
                .min(over.unwrap_or(Duration::MAX)),
        )
    });
    for call in &calls {
        if matches!(call.answer, Answer::Held { .. }) && over.is_some_and(|over| call.began > over)
        {
            wrong.push(format!(
                "{lock}: lease {id} had ended, and was held again: {call:?}"
            ));
        }
        // P3: while it certainly lives, it can be renewed and released.
        let lives = certain.is_some_and(|(from, to)| from < call.began && call.ended < to);
        if call.answer == Answer::Lost && lives {
            wrong.push(format!(
                "{lock}: lease {id} was lost before its time: {call:?}"
            ));
        }
    }
    Lease {
        id,
        token: tokens.first().copied(),
        certain,
        possible,
        calls,
    }
}

/// P4: a grant that was asked for after another was answered carries a greater token; and what
/// carries a smaller token than a grant that was answered before is over.
fn order_of_tokens(lock: &str, leases: &[Lease], wrong: &mut Vec<String>) {
    let mut granted: Vec<(Duration, i64, &Lease)> = leases
        .iter()
        .filter_map(|lease| Some((lease.certain?.0, lease.token?, lease)))
        .collect();
    granted.sort_by_key(|(answered, token, _)| (*answered, *token));
    // The greatest token that was answered up to each instant.
    let greatest_before = |instant: Duration| {
        let known = granted.partition_point(|(answered, _, _)| *answered < instant);
        granted[..known]
            .iter()
            .max_by_key(|(_, token, _)| *token)
            .copied()
    };
    let mut seen = BTreeMap::new();
    for (_, token, lease) in &granted {
        if let Some(other) = seen.insert(token, lease.id) {
            wrong.push(format!(
                "{lock}: leases {other} and {} have the same fencing token {token}",
                lease.id
            ));
        }
        let begun_release = lease
            .calls
            .iter()
            .find(|call| call.operation == Operation::Release)
            .map(|call| call.began);
        for call in &lease.calls {
            let acts = match call.answer {
                Answer::Held { .. } => true,
                // Only the first release acts; a repetition tells what was.
                Answer::Released => begun_release == Some(call.began),
                _ => false,
            };
            if let (true, Some((_, greater, other))) = (acts, greatest_before(call.began))
                && greater > *token
                && other.id != lease.id
            {
                wrong.push(format!(
                    "{lock}: fencing token {greater} had been answered (lease {}), and {token} acted after it: {call:?}",
                    other.id
                ));
            }
        }
    }
}

/// P1: no two leases are certainly held at one instant.
fn exclusion(lock: &str, leases: &[Lease], wrong: &mut Vec<String>) {
    let mut holds: Vec<(Duration, Duration, Uuid)> = leases
        .iter()
        .filter_map(|lease| lease.certain.map(|(from, to)| (from, to, lease.id)))
        .filter(|(from, to, _)| from < to)
        .collect();
    holds.sort();
    let mut latest: Option<(Duration, Duration, Uuid)> = None;
    for hold in holds {
        if let Some(before) = latest
            && hold.0 < before.1
        {
            wrong.push(format!(
                "{lock}: two leases at once: {} {:?} and {} {:?}",
                before.2, before, hold.2, hold
            ));
        }
        if latest.is_none_or(|before| hold.1 > before.1) {
            latest = Some(hold);
        }
    }
}

/// P8: who was refused could have been told by whom.
fn refusals(lock: &str, leases: &[Lease], wrong: &mut Vec<String>) {
    for lease in leases {
        for call in lease
            .calls
            .iter()
            .filter(|call| call.answer == Answer::Refused)
        {
            let held_by_another = leases.iter().any(|other| {
                other.id != lease.id
                    && other
                        .possible
                        .is_some_and(|(from, to)| from < call.ended && call.began < to)
            });
            if !held_by_another {
                wrong.push(format!(
                    "{lock}: refused while nobody can have held it: {call:?}"
                ));
            }
        }
    }
}

/// The checker sees what is wrong, and only that.
mod seeing {
    use super::*;

    const RULES: Rules = Rules {
        lease: Duration::from_millis(100),
        outage: Duration::ZERO,
    };

    fn history(calls: &[(u128, Operation, u64, u64, Answer)]) -> Vec<String> {
        let history = History::new();
        for (id, operation, began, ended, answer) in calls {
            history.calls.lock().unwrap().push(Call {
                lock: "l".to_owned(),
                lease_id: Uuid::from_u128(*id),
                operation: *operation,
                began: Duration::from_millis(*began),
                ended: Duration::from_millis(*ended),
                answer: *answer,
            });
        }
        history.violations(RULES)
    }

    const fn held(fencing_token: i64) -> Answer {
        Answer::Held { fencing_token }
    }
    use Answer::{Lost, Refused, Released, Unknown};
    use Operation::{Acquire, Heartbeat, Release};

    #[track_caller]
    fn wrong(calls: &[(u128, Operation, u64, u64, Answer)], expected: &str) {
        let found = history(calls);
        assert!(
            found.iter().any(|line| line.contains(expected)),
            "{found:?}"
        );
    }

    #[track_caller]
    fn right(calls: &[(u128, Operation, u64, u64, Answer)]) {
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
}
