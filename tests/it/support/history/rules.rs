//! The rules that hold between the leases of one lock, and between a waiter and the clock.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lockable::locks::Mode;

use super::check::Lease;
use super::{Call, Operation, Outcome};

/// The clock that clients share and that of the database may be read in the same millisecond, and
/// answers have whole ones.
const GRAIN: Duration = Duration::from_millis(2);

/// True if leases of these modes may hold a lock at the same time.
fn go_together(one: Mode, other: Mode) -> bool {
    one == other && one != Mode::Exclusive
}

/// True if a lock that is in use in one mode cannot even be waited for in the other.
fn conflict(one: Mode, other: Mode) -> bool {
    let is_semaphore = |mode| matches!(mode, Mode::Semaphore { .. });
    one != other && (is_semaphore(one) || is_semaphore(other))
}

fn overlap(one: (Duration, Duration), other: (Duration, Duration)) -> bool {
    one.0 < other.1 && other.0 < one.1
}

/// P4: a grant that was requested after another was received carries a greater token; and a lease
/// with a smaller token than that of a grant which was received before is over, unless both may
/// hold the lock at once.
pub(super) fn order_of_tokens(lock: &str, leases: &[Lease], wrong: &mut Vec<String>) {
    let mut granted: Vec<(Duration, i64, &Lease)> = leases
        .iter()
        .filter_map(|lease| Some((lease.certain?.0, lease.token?, lease)))
        .collect();
    granted.sort_by_key(|(received, token, _)| (*received, *token));
    // The greatest token that was received up to each instant, of those that end this lease.
    let greatest_before = |instant: Duration, lease: &Lease, is_first: bool| {
        let known = granted.partition_point(|(received, _, _)| *received < instant);
        granted[..known]
            .iter()
            .filter(|(_, _, other)| is_first || !go_together(lease.mode, other.mode))
            .max_by_key(|(_, token, _)| *token)
            .copied()
    };
    let mut lease_by_token = BTreeMap::new();
    for (_, token, lease) in &granted {
        if let Some(other) = lease_by_token.insert(token, &lease.name) {
            wrong.push(format!(
                "{lock}: {other} and {} have the same fencing token {token}",
                lease.name
            ));
        }
        for call in &lease.acts {
            let is_first = lease.asked == Some(call.began);
            if let Some((_, greater, other)) = greatest_before(call.began, lease, is_first)
                && greater > *token
            {
                wrong.push(format!(
                    "{lock}: fencing token {greater} had been received ({}), \
                     and {token} acted after it: {call:?}",
                    other.name
                ));
            }
        }
    }
}

/// P1: at no instant are two leases certainly held that exclude each other, or more permits than
/// there are.
pub(super) fn exclusion(lock: &str, leases: &[Lease], wrong: &mut Vec<String>) {
    let mut holds: Vec<(Duration, Duration, &Lease)> = leases
        .iter()
        .filter_map(|lease| lease.certain.map(|(from, to)| (from, to, lease)))
        .filter(|(from, to, _)| from < to)
        .collect();
    holds.sort_by_key(|(from, to, _)| (*from, *to));
    let mut live: Vec<(Duration, Duration, &Lease)> = Vec::new();
    for hold in holds {
        let (from, until, lease) = hold;
        live.retain(|before| from < before.1);
        for (other_from, other_until, other) in &live {
            let rule = if !go_together(lease.mode, other.mode) {
                "two leases at once"
            } else if lease.slot.is_some() && lease.slot == other.slot {
                "one slot at once"
            } else {
                continue;
            };
            wrong.push(format!(
                "{lock}: {rule}: {} from {other_from:?} to {other_until:?}, \
                 {} from {from:?} to {until:?}",
                other.name, lease.name
            ));
        }
        live.push(hold);
        if let Mode::Semaphore { limit } = lease.mode
            && i32::try_from(live.len()).is_ok_and(|count| count > limit)
        {
            wrong.push(format!(
                "{lock}: {} permits of {limit} at {from:?}: {}",
                live.len(),
                lease.name
            ));
        }
    }
}

/// P8: while an acquire was refused, other leases were possibly held that left no room for it, or
/// another request may have waited before it.
pub(super) fn refusals(lock: &str, leases: &[Lease], wrong: &mut Vec<String>) {
    for lease in leases {
        for call in &lease.refused {
            let time = (call.began, call.ended);
            let (mode, conflicts) = (call.request.mode, call.outcome == Outcome::Conflicting);
            let others = || {
                leases.iter().filter(|other| {
                    !std::ptr::eq(*other, lease) && (other.id.is_none() || other.id != lease.id)
                })
            };
            let mut holders = others().filter(|other| {
                other
                    .possible
                    .is_some_and(|possible| overlap(possible, time))
                    && (!conflicts || conflict(mode, other.mode))
            });
            let is_full = match mode {
                Mode::Semaphore { limit } if !conflicts => {
                    holders.count() >= usize::try_from(limit).unwrap()
                }
                Mode::Shared if !conflicts => holders.any(|other| other.mode != Mode::Shared),
                _ => holders.next().is_some(),
            };
            let waits_before = others().any(|other| {
                other.waits.iter().any(|wait| overlap(*wait, time))
                    && (!conflicts || conflict(mode, other.mode))
            });
            if !is_full && !waits_before {
                wrong.push(format!(
                    "{lock}: refused while nobody can have held it: {call:?}"
                ));
            }
        }
    }
}

/// A waiter is not refused before its time is up; it is told no longer wait than it had, and no
/// later end of its lease than the database has.
pub(super) fn waits(
    lock: &str,
    calls: &[Call],
    started_at: DateTime<Utc>,
    wrong: &mut Vec<String>,
) {
    for call in calls {
        let took = call.ended - call.began + GRAIN;
        if call.outcome == Outcome::Refused && took < call.request.wait {
            wrong.push(format!("{lock}: refused before its time was up: {call:?}"));
        }
        let Some(grant) = call.grant else { continue };
        if grant.waited > took {
            wrong.push(format!("{lock}: told that it waited too long: {call:?}"));
        }
        let deadline = started_at + call.began + grant.waited + grant.expires_in;
        if call.request.operation != Operation::Release
            && deadline > grant.expires_at + TimeDelta::from_std(GRAIN).unwrap()
        {
            wrong.push(format!(
                "{lock}: told a deadline that is too late: {call:?}"
            ));
        }
    }
}
