//! Looks for contradictions in the calls about one lock.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::{Call, Operation, Outcome, Rules};

/// One lease, as far as its calls tell.
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

/// Every contradiction in the calls about one lock, a line each.
pub(super) fn check(lock: &str, mut calls: Vec<Call>, rules: Rules) -> Vec<String> {
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
    let held = |call: &&Call| matches!(call.outcome, Outcome::Held { .. });
    let tokens: Vec<i64> = calls
        .iter()
        .filter_map(|call| {
            if let Outcome::Held { fencing_token } = call.outcome {
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
        .filter(|call| call.outcome == Outcome::Released)
        .map(|call| call.ended)
        .min();
    let lost = calls
        .iter()
        .filter(|call| call.outcome == Outcome::Lost)
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
        call.operation != Operation::Release && (held(call) || call.outcome == Outcome::Unknown)
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
        if matches!(call.outcome, Outcome::Held { .. })
            && over.is_some_and(|over| call.began > over)
        {
            wrong.push(format!(
                "{lock}: lease {id} had ended, and was held again: {call:?}"
            ));
        }
        // P3: while it certainly lives, it can be renewed and released.
        let lives = certain.is_some_and(|(from, to)| from < call.began && call.ended < to);
        if call.outcome == Outcome::Lost && lives {
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

/// P4: a grant that was requested after another was received carries a greater token; and a lease
/// with a smaller token than that of a grant which was received before is over.
fn order_of_tokens(lock: &str, leases: &[Lease], wrong: &mut Vec<String>) {
    let mut granted: Vec<(Duration, i64, &Lease)> = leases
        .iter()
        .filter_map(|lease| Some((lease.certain?.0, lease.token?, lease)))
        .collect();
    granted.sort_by_key(|(received, token, _)| (*received, *token));
    // The greatest token that was received up to each instant.
    let greatest_before = |instant: Duration| {
        let known = granted.partition_point(|(received, _, _)| *received < instant);
        granted[..known]
            .iter()
            .max_by_key(|(_, token, _)| *token)
            .copied()
    };
    let mut lease_by_token = BTreeMap::new();
    for (_, token, lease) in &granted {
        if let Some(other) = lease_by_token.insert(token, lease.id) {
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
            let acts = match call.outcome {
                Outcome::Held { .. } => true,
                // Only the first release acts; a repetition has its outcome.
                Outcome::Released => begun_release == Some(call.began),
                _ => false,
            };
            if let (true, Some((_, greater, other))) = (acts, greatest_before(call.began))
                && greater > *token
                && other.id != lease.id
            {
                wrong.push(format!(
                    "{lock}: fencing token {greater} had been received (lease {}), \
                     and {token} acted after it: {call:?}",
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

/// P8: while an acquire was refused, another lease was possibly held.
fn refusals(lock: &str, leases: &[Lease], wrong: &mut Vec<String>) {
    for lease in leases {
        for call in lease
            .calls
            .iter()
            .filter(|call| call.outcome == Outcome::Refused)
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
